// What the suites of the AI SDK share: tools, prompts, and what comes of a run. Knows the SDK;
// refuses to know its providers, so the checks that both can do are here, made for a model.

import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

import { png, slow } from "./report.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;

const city = z.object({ city: z.string() });
export const tools = {
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
export const joke = z.object({ setup: z.string(), punchline: z.string(), laughs: z.number().int() });
export const jokePrompt = "Tell me a joke worth 5 laughs.";
export const loop = { tools, stopWhen: stepCountIs(5) };

export const told = (steps) =>
  steps.map((step) => [
    step.finishReason,
    step.toolCalls.map((call) => [call.toolName, call.input]),
    step.toolResults.map((result) => result.output),
  ]);

const counted = (usage) => usage.inputTokens > 0 && usage.outputTokens > 0;

// The checks that every provider has to pass. `plain` has the model, `provider` makes another.
export function common(plain, provider) {
  const agent = { ...plain, ...loop };
  const twoSteps = "Get the weather in Rome, then get the time in Rome.";
  return {
    async generate() {
      const { text, finishReason, usage } = await generateText({ ...plain, prompt: "Hello" });
      return { text, finishReason, counted: counted(usage) };
    },

    async stream() {
      const result = streamText({ ...plain, system: "Be brief.", prompt: "Count to 20" });
      const pieces = [];
      for await (const piece of result.textStream) pieces.push(piece);
      return {
        text: pieces.join(""),
        streamed: pieces.length > 1,
        finishReason: await result.finishReason,
        counted: counted(await result.usage),
      };
    },

    async steps() {
      const { steps, text } = await generateText({ ...agent, prompt: twoSteps });
      return { steps: told(steps), text };
    },

    async streamed_steps() {
      const result = streamText({ ...agent, prompt: twoSteps });
      const kinds = new Set();
      for await (const part of result.fullStream) {
        if (part.type === "error") throw part.error;
        kinds.add(part.type);
      }
      const wanted = ["tool-input-start", "tool-input-delta", "tool-call", "tool-result", "text-delta", "finish"];
      return {
        missing: wanted.filter((kind) => !kinds.has(kind)),
        steps: told(await result.steps),
        text: await result.text,
      };
    },

    async image() {
      const look = async (image) => {
        const content = [{ type: "text", text: "Describe this image." }, { type: "image", image }];
        return (await generateText({ ...plain, messages: [{ role: "user", content }] })).text;
      };
      return [await look(`data:image/png;base64,${png}`), await look(Buffer.from(png, "base64"))];
    },

    async object() {
      return (await generateObject({ ...plain, schema: joke, prompt: jokePrompt })).object;
    },

    async errors() {
      try {
        await generateText({ ...plain, model: provider("gpt-nope"), prompt: "Hi" });
      } catch (error) {
        const { name, statusCode, message, data } = error;
        return { name, statusCode, message, code: data?.error?.code };
      }
      return "no error";
    },

    async abort() {
      const controller = new AbortController();
      const { signal: abortSignal } = controller;
      let pieces = 0;
      let aborted = false;
      const result = streamText({ ...plain, abortSignal, prompt: slow });
      for await (const part of result.fullStream) {
        if (part.type === "text-delta") pieces += 1;
        if (pieces === 3) controller.abort();
        aborted ||= part.type === "abort";
      }
      const { text } = await generateText({ ...plain, prompt: "Hello" });
      return { early: pieces < 300, aborted, after: text.length > 0 };
    },
  };
}
