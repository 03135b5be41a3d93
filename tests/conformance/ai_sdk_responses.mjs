// The AI SDK's default provider, which speaks the Responses API; test_ai_sdk_responses.py says what
// each check has to see.

import { createOpenAI } from "@ai-sdk/openai";
import { generateText } from "ai";

import { common, loop, told } from "./ai_harness.mjs";
import { baseURL, report } from "./report.mjs";

const provider = createOpenAI({ baseURL, apiKey: "unused" });
const plain = { model: provider("sonnet"), maxRetries: 0 };
const thinks = { providerOptions: { openai: { reasoningEffort: "low", reasoningSummary: "auto", forceReasoning: true } } };

// What the SDK sends, to see that it does name items.
let sent = [];
const watching = createOpenAI({
  baseURL,
  apiKey: "unused",
  fetch: (url, options) => {
    sent.push(JSON.parse(options.body));
    return fetch(url, options);
  },
});
const referred = () => sent.flatMap(({ input }) => input.filter((item) => item.type === "item_reference")).length;

await report({
  ...common(plain, provider),

  async turns() {
    sent = [];
    const model = watching("sonnet");
    const messages = [{ role: "user", content: "My name is Ada." }];
    messages.push(...(await generateText({ model, maxRetries: 0, messages })).response.messages);
    messages.push({ role: "user", content: "What is my name?" });
    const { text } = await generateText({ model, maxRetries: 0, messages });
    return { text, referred: referred() };
  },

  async reasoning_steps() {
    sent = [];
    const model = watching("claude-opus-4-8");
    const prompt = "Think: get the weather in Rome.";
    const { steps, text } = await generateText({ ...plain, ...thinks, ...loop, model, prompt });
    return { steps: told(steps), text, reasoned: steps[0].reasoningText?.length > 0, referred: referred() };
  },

  async unstored() {
    const options = { providerOptions: { openai: { store: false } } };
    const messages = [{ role: "user", content: "My name is Grace." }];
    messages.push(...(await generateText({ ...plain, ...options, messages })).response.messages);
    messages.push({ role: "user", content: "What is my name?" });
    return (await generateText({ ...plain, ...options, messages })).text;
  },

  async continued() {
    const first = await generateText({ ...plain, prompt: "My name is Mary." });
    const previousResponseId = first.providerMetadata.openai.responseId;
    const options = { providerOptions: { openai: { previousResponseId } } };
    return (await generateText({ ...plain, ...options, prompt: "What is my name?" })).text;
  },

  async built_in_tools() {
    const search = { web_search: provider.tools.webSearch({}) };
    return (await generateText({ ...plain, tools: search, prompt: "Hello" })).text;
  },
});
