// The AI SDK on the gateway; test_ai_sdk.py says what each check has to see.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, Output, streamObject } from "ai";

import { common, joke, jokePrompt, loop, told, tools } from "./ai_harness.mjs";
import { baseURL, obedient, report } from "./report.mjs";

const provider = createOpenAICompatible({
  name: "ccapi",
  baseURL,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const plain = { model: provider("sonnet"), maxRetries: 0 };

await report({
  ...common(plain, provider),

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

  async object_as_output() {
    const output = Output.object({ schema: joke });
    return (await generateText({ ...plain, output, prompt: jokePrompt })).output;
  },

  async streamed_object() {
    const result = streamObject({ ...plain, schema: joke, prompt: jokePrompt });
    let partial = 0;
    for await (const _ of result.partialObjectStream) partial += 1;
    return { object: await result.object, partial: partial > 0 };
  },

  async object_without_schema() {
    const prompt = "A joke as JSON with 'setup' and 'punchline' keys.";
    const { object } = await generateObject({ ...plain, output: "no-schema", prompt });
    return Object.keys(object).sort();
  },
});
