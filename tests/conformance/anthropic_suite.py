"""The anthropic Python SDK on the gateway; `anthropic_expected` says what each check has to see."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anthropic
import anyio
from anthropic import beta_async_tool
from anthropic.types.messages import MessageBatchErroredResult, MessageBatchSucceededResult
from pydantic import BaseModel

from .report import BASE_URL, OBEDIENT, PDF, PNG, SLOW, report

GIVEN: dict[str, Any] = {"base_url": BASE_URL.removesuffix("/v1"), "api_key": "unused"}
MODEL = "sonnet"
PLAIN: dict[str, Any] = {"model": MODEL, "max_tokens": 1000}
JSON = dict[str, Any]

client = anthropic.AsyncAnthropic(**GIVEN, max_retries=0)


async def create(**fields: Any) -> anthropic.types.Message:
    made: anthropic.types.Message = await client.messages.create(**{**PLAIN, **fields})
    return made


def user(content: Any) -> list[Any]:
    return [{"role": "user", "content": content}]


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def calls_of(message: Any) -> list[Any]:
    return [[block.name, block.input] for block in message.content if block.type == "tool_use"]


def kinds_of(message: Any) -> list[str]:
    return [block.type for block in message.content]


CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[Any] = [
    {"name": "get_weather", "description": "Get the weather in a city.", "input_schema": CITY},
    {"name": "get_time", "description": "Get the time in a city.", "input_schema": CITY},
]
RESULTS = {"get_weather": "Sunny in", "get_time": "Noon in"}


def runnable(asked: list[Any]) -> list[Any]:
    @beta_async_tool
    async def get_weather(city: str) -> str:
        """Get the weather in a city."""
        asked.append(["get_weather", city])
        return f"Sunny in {city}."

    @beta_async_tool
    async def get_time(city: str) -> str:
        """Get the time in a city."""
        asked.append(["get_time", city])
        return f"Noon in {city}."

    return [get_weather, get_time]


def lasting(message: Any) -> JSON:
    """A message without what no two answers have in common."""
    kept: JSON = message.model_dump(exclude={"id", "usage"}, exclude_none=True)
    usage = {"input_tokens": message.usage.input_tokens, "output": message.usage.output_tokens}
    for block in kept["content"]:
        block.pop("parsed_output", None)
    return {**kept, "usage": usage}


async def chat() -> Any:
    message = await create(messages=user("Hello"))
    counted = message.usage.input_tokens > 0 and message.usage.output_tokens > 0
    head = [message.type, message.role, message.model]
    return [*head, text_of(message), message.stop_reason, counted]


async def turns() -> Any:
    messages = user("My name is Ada.")
    first = await create(system="Be brief.", messages=messages)
    messages += [{"role": "assistant", "content": first.content}, *user("What is my name?")]
    return text_of(await create(system="Be brief.", messages=messages))


async def stream() -> Any:
    body: Any = {**PLAIN, "messages": user("Count to 20")}
    pieces, kinds = 0, set()
    async with client.messages.stream(**body) as streaming:
        async for event in streaming:
            pieces += event.type == "text"
            kinds.add(event.type)
        streamed = await streaming.get_final_message()
    whole = await client.messages.create(**body)
    return {
        "text": text_of(streamed),
        "pieces": pieces > 1,
        # The SDK gives events of its own beside those of the API.
        "kinds": sorted(kinds - {"ping", "text"}),
        "same": lasting(streamed) == lasting(whole),
    }


async def streamed_tools() -> Any:
    body: Any = {**PLAIN, "messages": user("What is the weather in Paris and in London?")}
    fragments = 0
    async with client.messages.stream(**body, tools=TOOLS) as streaming:
        async for event in streaming:
            fragments += event.type == "input_json"
        streamed = await streaming.get_final_message()
    calls = calls_of(streamed)
    return {"calls": calls, "reason": streamed.stop_reason, "fragments": fragments >= 2}


async def tool_loop() -> Any:
    return await _loop("Get the weather in Rome, then get the time in Rome.")


async def parallel_tools() -> Any:
    return await _loop("What is the weather in Paris and in London?")


async def _loop(prompt: str) -> Any:
    messages, steps = user(prompt), []
    for _ in range(5):
        message = await create(messages=messages, tools=TOOLS)
        steps.append([message.stop_reason, calls_of(message)])
        messages.append({"role": "assistant", "content": message.content})
        if message.stop_reason != "tool_use":
            return {"steps": steps, "text": text_of(message)}
        results = [
            {
                "type": "tool_result",
                "tool_use_id": block.id,
                "content": f"{RESULTS[block.name]} {dict(block.input)['city']}.",
            }
            for block in message.content
            if block.type == "tool_use"
        ]
        messages += user(results)
    return "no end"


async def tool_runner() -> Any:
    asked: list[Any] = []
    body: Any = {**PLAIN, "messages": user("Get the weather in Rome, then get the time in Rome.")}
    runner = client.beta.messages.tool_runner(**body, tools=runnable(asked))
    return {"asked": asked, "text": text_of(await runner.until_done())}


async def streamed_tool_runner() -> Any:
    asked: list[Any] = []
    body: Any = {**PLAIN, "messages": user("What is the weather in Paris and in London?")}
    runner = client.beta.messages.tool_runner(**body, tools=runnable(asked), stream=True)
    last: Any = None
    async for streaming in runner:
        async for _ in streaming:
            pass
        last = await streaming.get_final_message()
    return {"asked": asked, "text": text_of(last)}


async def tool_choice() -> Any:
    async def ask(choice: Any, prompt: str) -> list[Any]:
        given = {"model": OBEDIENT, "tools": TOOLS, "tool_choice": choice}
        return [name for name, _ in calls_of(await create(**given, messages=user(prompt)))]

    both = "What is the weather in Paris and in London?"
    return {
        "none": await ask({"type": "none"}, both),
        "any": len(await ask({"type": "any"}, "Hello")),
        "named": await ask({"type": "tool", "name": "get_time"}, "What is the weather in Paris?"),
        "alone": await ask({"type": "auto", "disable_parallel_tool_use": True}, both),
    }


async def thinking() -> Any:
    thinks = {"type": "enabled", "budget_tokens": 2000}
    body: Any = {"model": "claude-haiku-4-5", "max_tokens": 4000, "thinking": thinks}
    messages = user("Think: what is the weather in Rome?")
    first = await create(**body, messages=messages, tools=TOOLS)
    thought: Any
    call: Any
    thought, call = first.content
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Sunny in Rome."}
    messages += [{"role": "assistant", "content": first.content}, *user([result])]
    async with client.messages.stream(**body, messages=messages, tools=TOOLS) as streaming:
        second = await streaming.get_final_message()
    return {
        "first": kinds_of(first),
        "signed": bool(thought.thinking and thought.signature),
        "second": kinds_of(second),
        "text": text_of(second),
    }


async def adaptive_thinking() -> Any:
    body: Any = {"thinking": {"type": "adaptive", "display": "summarized"}}
    asked = user("Think: is 7 a prime?")
    effort = {"effort": "low"}
    message = await create(model="claude-opus-4-8", output_config=effort, messages=asked, **body)
    return kinds_of(message)


async def image() -> Any:
    source = {"type": "base64", "media_type": "image/png", "data": PNG}
    content = [
        {"type": "image", "source": source},
        {"type": "text", "text": "Describe this image."},
    ]
    return text_of(await create(messages=user(content)))


async def documents() -> Any:
    sources = [
        {"type": "base64", "media_type": "application/pdf", "data": PDF},
        {"type": "text", "media_type": "text/plain", "data": "Some text"},
    ]
    content = [{"type": "document", "source": each, "title": "A title"} for each in sources]
    return text_of(
        await create(messages=user([*content, {"type": "text", "text": "Describe them."}]))
    )


class Joke(BaseModel):
    setup: str
    punchline: str
    laughs: int


async def structured() -> Any:
    asked: Any = {**PLAIN, "messages": user("Tell me a joke worth 5 laughs.")}
    message = await client.messages.parse(**asked, output_format=Joke)
    assert message.parsed_output is not None
    return message.parsed_output.model_dump()


async def limits() -> Any:
    short = await create(messages=user("Count to 100"), max_tokens=5)
    stopped = await create(messages=user("Count to 9"), stop_sequences=[" 5"])
    return [[text_of(each), each.stop_reason, each.stop_sequence] for each in (short, stopped)]


async def count_tokens() -> Any:
    asked: Any = {"model": MODEL, "messages": user("Hello")}
    first = (await client.messages.count_tokens(**asked)).input_tokens
    beta = (await client.beta.messages.count_tokens(**asked)).input_tokens
    longer: Any = {**asked, "system": "Be brief. " * 50, "tools": TOOLS}
    long = (await client.messages.count_tokens(**longer)).input_tokens
    return [first > 0, first == beta, long > first]


async def models() -> Any:
    listed = [
        {model.id async for model in client.models.list(limit=2)},
        {model.id async for model in client.beta.models.list(limit=2)},
    ]
    model = await client.models.retrieve("claude-opus-5-5")
    return [*(ids >= {"haiku", "opus", "sonnet"} for ids in listed), model.id, model.type]


async def beta() -> Any:
    betas = ["interleaved-thinking-2025-05-14", "context-management-2025-06-27"]
    asked: Any = {**PLAIN, "messages": user("Hello"), "betas": betas}
    raw = await client.beta.messages.with_raw_response.create(**asked)
    ignored = raw.headers.get("x-ccapi-ignored")
    return [text_of(await raw.parse()), ignored, bool(raw.headers.get("request-id"))]


async def bearer() -> Any:
    given = {**GIVEN, "api_key": None, "auth_token": "unused"}
    async with anthropic.AsyncAnthropic(**given, max_retries=0) as other:
        return text_of(await other.messages.create(**PLAIN, messages=user("Hello")))


async def failure(ask: Callable[[], Awaitable[Any]]) -> list[Any]:
    """What became of a request that fails."""
    try:
        await ask()
    except anthropic.APIStatusError as error:
        told = [error.status_code, error.type, bool(error.request_id), error.message]
        return [type(error).__name__, *told]
    return ["no error"]


async def errors() -> Any:
    unknown: Any = {**PLAIN, "model": "gpt-nope", "messages": user("Hi")}

    async def streamed() -> None:
        async with client.messages.stream(**unknown) as streaming:
            await streaming.get_final_message()

    servers = [{"type": "url", "url": "https://x", "name": "x"}]
    cases: dict[str, Callable[[], Awaitable[Any]]] = {
        "unknown": lambda: create(**unknown),
        "bad": lambda: create(messages=user([{"type": "audio"}])),
        "empty": lambda: create(messages=[]),
        "refused": lambda: create(messages=user("Hi"), extra_body={"mcp_servers": servers}),
        "streamed": streamed,
        "counted": lambda: client.messages.count_tokens(model="gpt-nope", messages=user("Hi")),
        "model": lambda: client.models.retrieve("gpt-nope"),
        "overloaded": lambda: create(messages=user("Fail once with 529: a")),
        "limited": lambda: create(messages=user("Fail once with 429: a")),
    }
    return {name: (await failure(ask))[:4] for name, ask in cases.items()}


async def place_of_an_error() -> Any:
    message = (await failure(lambda: create(messages=user([{"type": "audio"}]))))[4]
    return "messages.0.content.0.type" in message


async def retries() -> Any:
    seen: list[Any] = []

    async def note(response: Any) -> None:
        seen.append(response.status_code)

    hooks: Any = {"response": [note]}
    made = anthropic.DefaultAsyncHttpxClient(event_hooks=hooks)
    async with anthropic.AsyncAnthropic(**GIVEN, max_retries=2, http_client=made) as patient:
        for status in (529, 429):
            asked: Any = {**PLAIN, "messages": user(f"Fail once with {status}: b")}
            seen.append(text_of(await patient.messages.create(**asked)))
    return seen


async def batches() -> Any:
    def one(custom_id: str, **params: Any) -> Any:
        return {"custom_id": custom_id, "params": {**PLAIN, **params}}

    asked = [one("good", messages=user("Hello"))]
    asked.append(one("bad", model="gpt-nope", messages=user("Hi")))
    batch = await client.messages.batches.create(requests=asked)
    while batch.processing_status != "ended":
        await anyio.sleep(0.05)
        batch = await client.messages.batches.retrieve(batch.id)
    found = {}
    async for each in await client.messages.batches.results(batch.id):
        match each.result:
            case MessageBatchSucceededResult(message=message):
                found[each.custom_id] = text_of(message)
            case MessageBatchErroredResult(error=error):
                found[each.custom_id] = error.error.type
    listed = [each.id async for each in client.messages.batches.list()]
    return [found, len(listed), (await client.messages.batches.delete(batch.id)).type]


async def abort() -> Any:
    pieces = 0
    asked: Any = {**PLAIN, "messages": user(SLOW)}
    async with client.messages.stream(**asked) as streaming:
        async for _ in streaming.text_stream:
            pieces += 1
            if pieces == 3:
                break
    after = text_of(await create(messages=user("Hello")))
    return {"early": pieces < 300, "after": after}


async def without_asyncio() -> Any:
    with anthropic.Anthropic(**GIVEN, max_retries=0) as sync:
        asked: Any = {**PLAIN, "messages": user("Count to 20")}
        with sync.messages.stream(**asked) as streaming:
            return "".join(streaming.text_stream)


if __name__ == "__main__":
    report(
        [
            chat,
            turns,
            stream,
            streamed_tools,
            tool_loop,
            parallel_tools,
            tool_runner,
            streamed_tool_runner,
            tool_choice,
            thinking,
            adaptive_thinking,
            image,
            documents,
            structured,
            limits,
            count_tokens,
            models,
            beta,
            bearer,
            errors,
            place_of_an_error,
            retries,
            batches,
            abort,
            without_asyncio,
        ]
    )
