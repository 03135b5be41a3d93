// LangChain JS on the gateway; test_langchain_js.py says what each check has to see.

import { AIMessageChunk, HumanMessage, SystemMessage, ToolMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { ChatOpenAI } from "@langchain/openai";
import { z } from "zod";

import { baseURL, obedient, png, report, slow } from "./report.mjs";

const chat = (fields) =>
  new ChatOpenAI({ model: "sonnet", apiKey: "unused", maxRetries: 0, configuration: { baseURL }, ...fields });
const model = chat();
const responses = chat({ useResponsesApi: true });

const city = z.object({ city: z.string() });
const tools = [
  tool(async ({ city }) => `Sunny in ${city}.`, {
    name: "get_weather",
    description: "Get the weather in a city.",
    schema: city,
  }),
  tool(async ({ city }) => `Noon in ${city}.`, {
    name: "get_time",
    description: "Get the time in a city.",
    schema: city,
  }),
];
const joke = z.object({ setup: z.string(), punchline: z.string(), laughs: z.number().int() });
const jokePrompt = "Tell me a joke worth 5 laughs.";
const twoSteps = "Get the weather in Rome, then get the time in Rome.";

const counted = (message) => message.usage_metadata.input_tokens > 0 && message.usage_metadata.output_tokens > 0;
const called = (message) => message.tool_calls.map((call) => [call.name, call.args]);

async function gather(stream) {
  let whole;
  let pieces = 0;
  for await (const chunk of stream) {
    if (chunk.text) pieces += 1;
    whole = whole === undefined ? chunk : whole.concat(chunk);
  }
  return { whole, streamed: pieces > 1 };
}

async function run(agent, prompt) {
  const messages = [new HumanMessage(prompt)];
  const steps = [];
  for (let turn = 0; turn < 5; turn += 1) {
    const answer = await agent.invoke(messages);
    messages.push(answer);
    steps.push(called(answer));
    if (answer.tool_calls.length === 0) return { steps, text: answer.text };
    for (const call of answer.tool_calls) {
      const result = await tools.find((each) => each.name === call.name).invoke(call);
      if (!(result instanceof ToolMessage)) throw new Error("no result");
      messages.push(result);
    }
  }
  return "no end";
}

await report({
  async invoke() {
    const answer = await model.invoke("Hello");
    return { text: answer.text, finish: answer.response_metadata.finish_reason, counted: counted(answer) };
  },

  async stream() {
    const { whole, streamed } = await gather(await model.stream("Count to 20"));
    return { text: whole.text, streamed, counted: counted(whole), chunks: whole instanceof AIMessageChunk };
  },

  async system_and_turns() {
    const messages = [new SystemMessage("Be brief."), new HumanMessage("My name is Ada.")];
    messages.push(await model.invoke(messages), new HumanMessage("What is my name?"));
    return (await model.invoke(messages)).text;
  },

  async tool_loop() {
    return await run(model.bindTools(tools), twoSteps);
  },

  async parallel_tools() {
    return await run(model.bindTools(tools), "What is the weather in Paris and in London?");
  },

  async streamed_tools() {
    const stream = await model.bindTools(tools).stream("What is the weather in Paris and in London?");
    return called((await gather(stream)).whole);
  },

  async tool_choice() {
    const found = {};
    for (const name of ["sonnet", obedient]) {
      const ask = async (tool_choice, prompt) =>
        called(await chat({ model: name }).bindTools(tools, { tool_choice }).invoke(prompt)).map(([tool]) => tool);
      found[name] = {
        none: await ask("none", "What is the weather in Paris?"),
        required: (await ask("required", "Hello")).length,
        named: await ask("get_time", "What is the weather in Paris?"),
      };
    }
    return found;
  },

  async structured() {
    const found = {};
    for (const method of ["jsonSchema", "functionCalling", "jsonMode"]) {
      const asked = method === "jsonMode" ? `As JSON, with "setup" and "punchline" keys. ${jokePrompt}` : jokePrompt;
      found[method] = await model.withStructuredOutput(joke.partial({ laughs: true }), { method }).invoke(asked);
    }
    return found;
  },

  async structured_with_raw() {
    const { raw, parsed } = await model.withStructuredOutput(joke, { includeRaw: true }).invoke(jokePrompt);
    return { parsed, counted: counted(raw) };
  },

  async image() {
    const look = async (block) => {
      const content = [{ type: "text", text: "Describe this image." }, block];
      return (await model.invoke([new HumanMessage({ content })])).text;
    };
    return [
      await look({ type: "image_url", image_url: { url: `data:image/png;base64,${png}` } }),
      await look({ type: "image", source_type: "base64", mime_type: "image/png", data: png }),
    ];
  },

  async batch() {
    const answers = await model.batch(["Say one", "Say two", "Say three"]);
    return answers.map((answer) => answer.text);
  },

  async errors() {
    try {
      await chat({ model: "gpt-nope" }).invoke("Hi");
    } catch (error) {
      return { status: error.status, code: error.code, mapped: error.lc_error_code, named: error.message.includes("gpt-nope") };
    }
    return "no error";
  },

  async abort() {
    const controller = new AbortController();
    let pieces = 0;
    try {
      for await (const _ of await model.stream(slow, { signal: controller.signal })) {
        pieces += 1;
        if (pieces === 3) controller.abort();
      }
    } catch (error) {
      return { early: pieces < 300, aborted: /abort/i.test(`${error.name} ${error.message}`) };
    }
    return { early: pieces < 300, aborted: controller.signal.aborted };
  },

  async responses() {
    const answer = await responses.invoke("Hello");
    const { whole, streamed } = await gather(await responses.stream("Count to 20"));
    return { text: answer.text, counted: counted(answer), streamed: whole.text, pieces: streamed };
  },

  async responses_tool_loop() {
    return await run(responses.bindTools(tools), twoSteps);
  },
});
