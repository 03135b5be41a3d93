// The AI SDK's default provider, which speaks the Responses API; test_ai_sdk_responses.py says what
// each check has to see.

import { createOpenAI } from "@ai-sdk/openai";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

import { baseURL, png, report, slow } from "./report.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;

const provider = createOpenAI({ baseURL, apiKey: "unused" });
const plain = { model: provider("sonnet"), maxRetries: 0 };
const thinker = { model: provider("claude-opus-4-8"), maxRetries: 0 };
const thinks = { providerOptions: { openai: { reasoningEffort: "low", reasoningSummary: "auto", forceReasoning: true } } };

const city = z.object({ city: z.string() });
const tools = {
  get_weather: tool({
    description: "Get the weather in a city.",
    inputSchema: city,
    execute: async ({ city }) => `Sunny in ${city}.`,
  }),
  get_time: tool({
    description: "Get the time in a city.",
    inputSchema: city,
    execute: async ({ city }) => `Noon in ${city}.`,
  }),
};
const agent = { ...plain, tools, stopWhen: stepCountIs(5) };
const twoSteps = "Get the weather in Rome, then get the time in Rome.";
const told = (steps) =>
  steps.map((step) => [step.finishReason, step.toolCalls.map((call) => [call.toolName, call.input])]);

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
  async generate() {
    const { text, finishReason, usage } = await generateText({ ...plain, prompt: "Hello" });
    return { text, finishReason, counted: usage.inputTokens > 0 && usage.outputTokens > 0 };
  },

  async stream() {
    const result = streamText({ ...plain, system: "Be brief.", prompt: "Count to 20" });
    const pieces = [];
    for await (const piece of result.textStream) pieces.push(piece);
    return { text: pieces.join(""), streamed: pieces.length > 1, finishReason: await result.finishReason };
  },

  async turns() {
    sent = [];
    const model = watching("sonnet");
    const messages = [{ role: "user", content: "My name is Ada." }];
    messages.push(...(await generateText({ model, maxRetries: 0, messages })).response.messages);
    messages.push({ role: "user", content: "What is my name?" });
    const { text } = await generateText({ model, maxRetries: 0, messages });
    return { text, referred: referred() };
  },

  async steps() {
    const { steps, text } = await generateText({ ...agent, prompt: twoSteps });
    return { steps: told(steps), text };
  },

  async streamed_steps() {
    const result = streamText({ ...agent, prompt: twoSteps });
    for await (const part of result.fullStream) if (part.type === "error") throw part.error;
    return { steps: told(await result.steps), text: await result.text };
  },

  async reasoning_steps() {
    sent = [];
    const model = watching("claude-opus-4-8");
    const prompt = "Think: get the weather in Rome.";
    const { steps, text } = await generateText({ ...thinker, ...thinks, model, tools, stopWhen: stepCountIs(5), prompt });
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

  async image() {
    const content = [
      { type: "text", text: "Describe this image." },
      { type: "image", image: `data:image/png;base64,${png}` },
    ];
    return (await generateText({ ...plain, messages: [{ role: "user", content }] })).text;
  },

  async object() {
    const schema = z.object({ setup: z.string(), punchline: z.string(), laughs: z.number().int() });
    return (await generateObject({ ...plain, schema, prompt: "Tell me a joke worth 5 laughs." })).object;
  },

  async built_in_tools() {
    const search = { web_search: provider.tools.webSearch({}) };
    return (await generateText({ ...plain, tools: search, prompt: "Hello" })).text;
  },

  async errors() {
    try {
      await generateText({ ...plain, model: provider("gpt-nope"), prompt: "Hi" });
    } catch (error) {
      return { name: error.name, statusCode: error.statusCode, code: error.data?.error?.code };
    }
    return "no error";
  },

  async abort() {
    const controller = new AbortController();
    let pieces = 0;
    let aborted = false;
    const result = streamText({ ...plain, abortSignal: controller.signal, prompt: slow });
    for await (const part of result.fullStream) {
      if (part.type === "text-delta") pieces += 1;
      if (pieces === 3) controller.abort();
      aborted ||= part.type === "abort";
    }
    return { early: pieces < 300, aborted };
  },
});
