// The AI SDK's provider for the Messages API; test_ai_sdk_anthropic.py says what each check has to
// see.

import { createAnthropic } from "@ai-sdk/anthropic";
import { generateText, Output, streamObject, streamText } from "ai";

import { common, joke, jokePrompt, loop, told, tools } from "./ai_harness.mjs";
import { baseURL, obedient, pdf, report } from "./report.mjs";

const provider = createAnthropic({ baseURL, apiKey: "unused" });
const plain = { model: provider("sonnet"), maxRetries: 0 };
const thinks = (thinking, model) => ({ model: provider(model), providerOptions: { anthropic: { thinking } } });
const adaptive = thinks({ type: "adaptive" }, "claude-opus-4-8");

await report({
  ...common(plain, provider),

  async turns() {
    const messages = [{ role: "user", content: "My name is Ada." }];
    messages.push(...(await generateText({ ...plain, system: "Be brief.", messages })).response.messages);
    messages.push({ role: "user", content: "What is my name?" });
    return (await generateText({ ...plain, system: "Be brief.", messages })).text;
  },

  async parallel_tools() {
    const prompt = "What is the weather in Paris and in London?";
    const { steps, text } = await generateText({ ...plain, ...loop, prompt });
    return { steps: told(steps), text };
  },

  async tool_choice() {
    const ask = async (toolChoice, prompt) => {
      const { toolCalls } = await generateText({ ...plain, model: provider(obedient), tools, toolChoice, prompt });
      return toolCalls.map((call) => call.toolName);
    };
    return {
      none: await ask("none", "What is the weather in Paris?"),
      required: (await ask("required", "Hello")).length,
      named: await ask({ type: "tool", toolName: "get_time" }, "What is the weather in Paris?"),
    };
  },

  async reasoning_steps() {
    const prompt = "Think: get the weather in Rome.";
    const { steps, text } = await generateText({ ...plain, ...adaptive, ...loop, prompt });
    return { steps: told(steps), text, reasoned: steps.map(({ reasoningText }) => Boolean(reasoningText)) };
  },

  async streamed_reasoning() {
    const budget = thinks({ type: "enabled", budgetTokens: 2000 }, "claude-haiku-4-5");
    const result = streamText({ ...plain, ...budget, prompt: "Think: is 7 a prime?" });
    const kinds = new Set();
    for await (const part of result.fullStream) {
      if (part.type === "error") throw part.error;
      kinds.add(part.type);
    }
    const [{ providerMetadata }] = await result.reasoning;
    return {
      streamed: ["reasoning-start", "reasoning-delta", "reasoning-end", "text-delta"].every((kind) => kinds.has(kind)),
      signed: Boolean(providerMetadata.anthropic.signature),
    };
  },

  async document() {
    const file = { type: "file", mediaType: "application/pdf", data: Buffer.from(pdf, "base64") };
    const content = [file, { type: "text", text: "Describe it." }];
    return (await generateText({ ...plain, messages: [{ role: "user", content }] })).text;
  },

  async object_as_output() {
    const output = Output.object({ schema: joke });
    return (await generateText({ ...plain, output, prompt: jokePrompt })).output;
  },

  async object_by_schema() {
    const model = provider("claude-opus-4-8");
    const options = { providerOptions: { anthropic: { structuredOutputMode: "outputFormat" } } };
    const output = Output.object({ schema: joke });
    return (await generateText({ ...plain, ...options, model, output, prompt: jokePrompt })).output;
  },

  async streamed_object() {
    const result = streamObject({ ...plain, schema: joke, prompt: jokePrompt });
    let partial = 0;
    for await (const _ of result.partialObjectStream) partial += 1;
    return { object: await result.object, partial: partial > 0 };
  },
});
