// The anthropic Node SDK on the gateway; anthropic_expected.py says what each check has to see.

import Anthropic from "@anthropic-ai/sdk";
import { betaZodTool } from "@anthropic-ai/sdk/helpers/beta/zod";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { z } from "zod";

import { baseURL, obedient, pdf, png, report, slow } from "./report.mjs";

const given = { baseURL: baseURL.replace(/\/v1$/, ""), apiKey: "unused" };
const client = new Anthropic({ ...given, maxRetries: 0 });
const model = "sonnet";
const plain = { model, max_tokens: 1000 };
const create = (body) => client.messages.create({ ...plain, ...body });
const user = (content) => [{ role: "user", content }];
const textOf = ({ content }) => content.filter(({ type }) => type === "text").map(({ text }) => text).join("");
const callsOf = ({ content }) =>
  content.filter(({ type }) => type === "tool_use").map(({ name, input }) => [name, input]);

const input_schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const weather = { name: "get_weather", description: "Get the weather in a city.", input_schema };
const time = { name: "get_time", description: "Get the time in a city.", input_schema };
const tools = [weather, time];
const results = { get_weather: "Sunny in", get_time: "Noon in" };
const runnable = (asked) =>
  Object.entries(results).map(([name, said]) =>
    betaZodTool({
      name,
      description: `${name.replace("_", " the ")} in a city.`,
      inputSchema: z.object({ city: z.string() }),
      run: ({ city }) => {
        asked.push([name, city]);
        return `${said} ${city}.`;
      },
    }),
  );

// A message without what no two answers have in common.
const lasting = ({ type, role, model, content, stop_reason, stop_sequence, usage }) => {
  const { input_tokens, output_tokens } = usage;
  return { type, role, model, content, stop_reason, stop_sequence, usage: { input_tokens, output_tokens } };
};
// The SDK's streams put the pieces of an input together in a property of their own.
const canonical = (value) => JSON.stringify(value, (_, each) =>
  each && typeof each === "object" && !Array.isArray(each)
    ? Object.fromEntries(Object.entries(each).sort().filter(([, inner]) => inner !== null))
    : each);

async function loop(prompt) {
  const messages = user(prompt);
  const steps = [];
  for (let step = 0; step < 5; step += 1) {
    const message = await create({ messages, tools });
    steps.push([message.stop_reason, callsOf(message)]);
    messages.push({ role: "assistant", content: message.content });
    if (message.stop_reason !== "tool_use") return { steps, text: textOf(message) };
    const calls = message.content.filter(({ type }) => type === "tool_use");
    messages.push({
      role: "user",
      content: calls.map(({ id, name, input }) => ({
        type: "tool_result",
        tool_use_id: id,
        content: `${results[name]} ${input.city}.`,
      })),
    });
  }
  return "no end";
}

// What became of a request that fails.
async function failure(ask) {
  try {
    await ask();
  } catch (error) {
    const { status, type, requestID, message } = error;
    return [error.constructor.name, status, type, Boolean(requestID), message];
  }
  return ["no error"];
}

await report({
  async chat() {
    const message = await create({ messages: user("Hello") });
    const { type, role, stop_reason, usage } = message;
    return [type, role, message.model, textOf(message), stop_reason, usage.input_tokens > 0 && usage.output_tokens > 0];
  },

  async turns() {
    const messages = user("My name is Ada.");
    const { content } = await create({ system: "Be brief.", messages });
    messages.push({ role: "assistant", content }, ...user("What is my name?"));
    return textOf(await create({ system: "Be brief.", messages }));
  },

  async stream() {
    const body = { ...plain, messages: user("Count to 20") };
    const stream = client.messages.stream(body);
    let pieces = 0;
    const kinds = new Set();
    stream.on("text", () => (pieces += 1));
    stream.on("streamEvent", ({ type }) => kinds.add(type));
    const streamed = await stream.finalMessage();
    const whole = await client.messages.create(body);
    return {
      text: await stream.finalText(),
      pieces: pieces > 1,
      kinds: [...kinds].filter((kind) => kind !== "ping").sort(),
      same: canonical(lasting(streamed)) === canonical(lasting(whole)),
    };
  },

  async streamed_tools() {
    const body = { ...plain, tools, messages: user("What is the weather in Paris and in London?") };
    const stream = client.messages.stream(body);
    let fragments = 0;
    stream.on("inputJson", () => (fragments += 1));
    const streamed = await stream.finalMessage();
    return { calls: callsOf(streamed), reason: streamed.stop_reason, fragments: fragments >= 2 };
  },

  tool_loop: () => loop("Get the weather in Rome, then get the time in Rome."),

  parallel_tools: () => loop("What is the weather in Paris and in London?"),

  async tool_runner() {
    const asked = [];
    const messages = user("Get the weather in Rome, then get the time in Rome.");
    const runner = client.beta.messages.toolRunner({ ...plain, messages, tools: runnable(asked) });
    return { asked, text: textOf(await runner) };
  },

  async streamed_tool_runner() {
    const asked = [];
    const messages = user("What is the weather in Paris and in London?");
    const runner = client.beta.messages.toolRunner({ ...plain, messages, tools: runnable(asked), stream: true });
    let last;
    for await (const stream of runner) {
      for await (const _ of stream);
      last = await stream.finalMessage();
    }
    return { asked, text: textOf(last) };
  },

  async tool_choice() {
    const ask = async (tool_choice, prompt) => {
      const message = await create({ model: obedient, tools, tool_choice, messages: user(prompt) });
      return callsOf(message).map(([name]) => name);
    };
    const both = "What is the weather in Paris and in London?";
    return {
      none: await ask({ type: "none" }, both),
      any: (await ask({ type: "any" }, "Hello")).length,
      named: await ask({ type: "tool", name: "get_time" }, "What is the weather in Paris?"),
      alone: await ask({ type: "auto", disable_parallel_tool_use: true }, both),
    };
  },

  async thinking() {
    const body = { model: "claude-haiku-4-5", max_tokens: 4000, thinking: { type: "enabled", budget_tokens: 2000 }, tools };
    const messages = user("Think: what is the weather in Rome?");
    const first = await create({ ...body, messages });
    const [thought, call] = first.content;
    messages.push({ role: "assistant", content: first.content });
    messages.push(...user([{ type: "tool_result", tool_use_id: call.id, content: "Sunny in Rome." }]));
    const second = await client.messages.stream({ ...body, messages }).finalMessage();
    return {
      first: first.content.map(({ type }) => type),
      signed: thought.thinking.length > 0 && thought.signature.length > 0,
      second: second.content.map(({ type }) => type),
      text: textOf(second),
    };
  },

  async adaptive_thinking() {
    const thinking = { type: "adaptive", display: "summarized" };
    const body = { model: "claude-opus-4-8", thinking, output_config: { effort: "low" } };
    const { content } = await create({ ...body, messages: user("Think: is 7 a prime?") });
    return content.map(({ type }) => type);
  },

  async image() {
    const source = { type: "base64", media_type: "image/png", data: png };
    const content = [{ type: "image", source }, { type: "text", text: "Describe this image." }];
    return textOf(await create({ messages: user(content) }));
  },

  async documents() {
    const sources = [
      { type: "base64", media_type: "application/pdf", data: pdf },
      { type: "text", media_type: "text/plain", data: "Some text" },
    ];
    const content = sources.map((source) => ({ type: "document", source, title: "A title" }));
    return textOf(await create({ messages: user([...content, { type: "text", text: "Describe them." }]) }));
  },

  async structured() {
    const joke = z.object({ setup: z.string(), punchline: z.string(), laughs: z.number().int() });
    const message = await client.messages.parse({
      ...plain,
      messages: user("Tell me a joke worth 5 laughs."),
      output_config: { format: zodOutputFormat(joke) },
    });
    return message.parsed_output;
  },

  async limits() {
    const short = await create({ messages: user("Count to 100"), max_tokens: 5 });
    const stopped = await create({ messages: user("Count to 9"), stop_sequences: [" 5"] });
    return [short, stopped].map((message) => [textOf(message), message.stop_reason, message.stop_sequence]);
  },

  async count_tokens() {
    const ask = { model, messages: user("Hello") };
    const counts = [
      await client.messages.countTokens(ask),
      await client.beta.messages.countTokens(ask),
      await client.messages.countTokens({ ...ask, system: "Be brief. ".repeat(50), tools }),
    ].map(({ input_tokens }) => input_tokens);
    return [counts[0] > 0, counts[0] === counts[1], counts[2] > counts[0]];
  },

  async models() {
    const seen = [];
    for (const models of [client.models, client.beta.models]) {
      const ids = [];
      for await (const { id } of models.list({ limit: 2 })) ids.push(id);
      seen.push(["haiku", "opus", "sonnet"].every((id) => ids.includes(id)));
    }
    const { id, type } = await client.models.retrieve("claude-opus-5-5");
    return [...seen, id, type];
  },

  async beta() {
    const betas = ["interleaved-thinking-2025-05-14", "context-management-2025-06-27"];
    const { data, response } = await client.beta.messages
      .create({ ...plain, betas, messages: user("Hello") })
      .withResponse();
    return [textOf(data), response.headers.get("x-ccapi-ignored"), Boolean(response.headers.get("request-id"))];
  },

  async bearer() {
    const other = new Anthropic({ ...given, apiKey: null, authToken: "unused", maxRetries: 0 });
    return textOf(await other.messages.create({ ...plain, messages: user("Hello") }));
  },

  async errors() {
    const cases = {
      unknown: () => create({ model: "gpt-nope", messages: user("Hi") }),
      bad: () => create({ messages: user([{ type: "audio" }]) }),
      empty: () => create({ messages: [] }),
      refused: () => create({ messages: user("Hi"), mcp_servers: [{ type: "url", url: "https://x", name: "x" }] }),
      streamed: () => client.messages.stream({ ...plain, model: "gpt-nope", messages: user("Hi") }).finalMessage(),
      counted: () => client.messages.countTokens({ model: "gpt-nope", messages: user("Hi") }),
      model: () => client.models.retrieve("gpt-nope"),
      overloaded: () => create({ messages: user("Fail once with 529: a") }),
      limited: () => create({ messages: user("Fail once with 429: a") }),
    };
    const seen = {};
    for (const [name, ask] of Object.entries(cases)) seen[name] = (await failure(ask)).slice(0, 4);
    return seen;
  },

  async place_of_an_error() {
    const message = (await failure(() => create({ messages: user([{ type: "audio" }]) })))[4];
    return message.includes("messages.0.content.0.type");
  },

  async retries() {
    const seen = [];
    const patient = new Anthropic({
      ...given,
      maxRetries: 2,
      fetch: async (url, options) => {
        const response = await fetch(url, options);
        seen.push(response.status);
        return response;
      },
    });
    for (const status of [529, 429]) {
      const messages = user(`Fail once with ${status}: b`);
      seen.push(textOf(await patient.messages.create({ ...plain, messages })));
    }
    return seen;
  },

  async batches() {
    const one = (custom_id, params) => ({ custom_id, params: { ...plain, ...params } });
    let batch = await client.messages.batches.create({
      requests: [one("good", { messages: user("Hello") }), one("bad", { model: "gpt-nope", messages: user("Hi") })],
    });
    while (batch.processing_status !== "ended") {
      await new Promise((resolve) => setTimeout(resolve, 50));
      batch = await client.messages.batches.retrieve(batch.id);
    }
    const found = {};
    for await (const { custom_id, result } of await client.messages.batches.results(batch.id)) {
      found[custom_id] = result.type === "succeeded" ? textOf(result.message) : result.error.error.type;
    }
    const listed = [];
    for await (const { id } of client.messages.batches.list()) listed.push(id);
    const { type } = await client.messages.batches.delete(batch.id);
    return [found, listed.length, type];
  },

  async abort() {
    const stream = client.messages.stream({ ...plain, messages: user(slow) });
    let pieces = 0;
    stream.on("text", () => {
      pieces += 1;
      if (pieces === 3) stream.abort();
    });
    const [name] = await failure(() => stream.done());
    return { name, early: pieces < 300, after: textOf(await create({ messages: user("Hello") })) };
  },
});
