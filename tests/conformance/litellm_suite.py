"""LiteLLM on the gateway; test_litellm.py says what each check has to see."""

from __future__ import annotations

import json
from typing import Any

import litellm
from litellm import Router, acompletion, aresponses, completion
from pydantic import BaseModel

from .report import BASE_URL, OBEDIENT, PNG, report

MODEL = "openai/sonnet"
GIVEN: dict[str, Any] = {"api_base": BASE_URL, "api_key": "unused", "num_retries": 0}

MESSAGES = "anthropic/sonnet"
GIVEN_MESSAGES = {**GIVEN, "api_base": BASE_URL.removesuffix("/v1")}


def function(name: str, description: str) -> dict[str, Any]:
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    about = {"name": name, "description": description, "parameters": city}
    return {"type": "function", "function": about}


TOOLS = [
    function("get_weather", "Get the weather in a city."),
    function("get_time", "Get the time in a city."),
]
RESULTS = {"get_weather": "Sunny in {city}.", "get_time": "Noon in {city}."}


class Joke(BaseModel):
    setup: str
    punchline: str
    laughs: int


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def called(message: Any) -> list[Any]:
    calls = message.tool_calls or []
    return [[call.function.name, json.loads(call.function.arguments)] for call in calls]


def is_counted(usage: Any) -> bool:
    return bool(usage.prompt_tokens > 0 and usage.completion_tokens > 0)


async def plain() -> Any:
    answer = completion(MODEL, [user("Hello")], **GIVEN)
    choice = answer.choices[0]
    return [choice.message.content, choice.finish_reason, is_counted(answer.usage)]


async def stream() -> Any:
    messages = [user("Count to 20")]
    usage = {"include_usage": True}
    chunks = list(completion(MODEL, messages, stream=True, stream_options=usage, **GIVEN))
    whole = litellm.stream_chunk_builder(chunks, messages=messages)
    choice = whole.choices[0]
    told = [choice.message.content, choice.finish_reason, is_counted(whole.usage)]
    return [*told, sum(bool(c.choices and c.choices[0].delta.content) for c in chunks) > 1]


async def system_and_turns() -> Any:
    messages: list[Any] = [{"role": "system", "content": "Be brief."}, user("My name is Ada.")]
    messages.append(completion(MODEL, messages, **GIVEN).choices[0].message)
    messages.append(user("What is my name?"))
    return completion(MODEL, messages, **GIVEN).choices[0].message.content


async def tool_loop() -> Any:
    return await _loop("Get the weather in Rome, then get the time in Rome.")


async def parallel_tools() -> Any:
    return await _loop("What is the weather in Paris and in London?")


async def _loop(prompt: str, model: str = MODEL, given: dict[str, Any] = GIVEN) -> Any:
    messages: list[Any] = [user(prompt)]
    steps = []
    for _ in range(5):
        answer = await acompletion(model, messages, tools=TOOLS, **given)
        message = answer.choices[0].message
        messages.append(message)
        steps.append([answer.choices[0].finish_reason, called(message)])
        if not message.tool_calls:
            return {"steps": steps, "text": message.content}
        for call in message.tool_calls:
            arguments = json.loads(call.function.arguments)
            result = RESULTS[call.function.name].format(**arguments)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return "no end"


async def streamed_tools() -> Any:
    messages = [user("What is the weather in Paris and in London?")]
    stream = await acompletion(MODEL, messages, tools=TOOLS, stream=True, **GIVEN)
    chunks = [chunk async for chunk in stream]
    choice = litellm.stream_chunk_builder(chunks, messages=messages).choices[0]
    return [choice.finish_reason, called(choice.message)]


async def tool_choice() -> Any:
    found = {}
    for model in ("sonnet", OBEDIENT):

        async def ask(choice: Any, prompt: str, model: str = model) -> Any:
            given = {**GIVEN, "tools": TOOLS, "tool_choice": choice}
            answer = await acompletion(f"openai/{model}", [user(prompt)], **given)
            return [name for name, _ in called(answer.choices[0].message)]

        named = {"type": "function", "function": {"name": "get_time"}}
        found[model] = {
            "none": await ask("none", "What is the weather in Paris?"),
            "required": len(await ask("required", "Hello")),
            "named": await ask(named, "What is the weather in Paris?"),
        }
    return found


async def structured() -> Any:
    prompt = [user("Tell me a joke worth 5 laughs.")]
    answer = completion(MODEL, prompt, response_format=Joke, **GIVEN)
    return Joke.model_validate_json(answer.choices[0].message.content).model_dump()


async def image() -> Any:
    url = {"url": f"data:image/png;base64,{PNG}"}
    content = [
        {"type": "text", "text": "Describe this image."},
        {"type": "image_url", "image_url": url},
    ]
    return completion(MODEL, [user(content)], **GIVEN).choices[0].message.content


async def limits() -> Any:
    short = completion(MODEL, [user("Count to 20")], max_tokens=5, **GIVEN)
    return short.choices[0].finish_reason


async def reasoning() -> Any:
    given = {**GIVEN, "reasoning_effort": "low", "allowed_openai_params": ["reasoning_effort"]}
    answer = completion(MODEL, [user("Think: is 7 a prime?")], **given)
    return bool(answer.choices[0].message.reasoning_content)


async def errors() -> Any:
    found = {}
    cases: dict[str, dict[str, Any]] = {
        "unknown": {"model": "openai/gpt-nope"},
        "bad": {"model": MODEL, "max_tokens": -1},
    }
    for name, given in cases.items():
        try:
            await acompletion(messages=[user("Hi")], **given, **GIVEN)
            found[name] = ["no error"]
        except (litellm.NotFoundError, litellm.BadRequestError) as error:
            found[name] = [type(error).__name__, error.status_code]
    return found


async def fallbacks() -> Any:
    def deployment(name: str, model: str) -> dict[str, Any]:
        return {"model_name": name, "litellm_params": {"model": model, **GIVEN}}

    models = [deployment("gone", "openai/gpt-nope"), deployment("here", MODEL)]
    router = Router(model_list=models, fallbacks=[{"gone": ["here"]}], num_retries=0)
    answer = await router.acompletion("gone", [user("Hello")])
    return answer.choices[0].message.content


async def async_stream() -> Any:
    stream = await acompletion(MODEL, [user("Count to 20")], stream=True, **GIVEN)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def messages_api() -> Any:
    """What others do through chat completions, by the route of the Messages API."""
    answer = completion(MESSAGES, [user("Hello")], **GIVEN_MESSAGES)
    choice = answer.choices[0]
    asked: list[Any] = [{"role": "system", "content": "Be brief."}, user("My name is Ada.")]
    asked.append(completion(MESSAGES, asked, **GIVEN_MESSAGES).choices[0].message)
    asked.append(user("What is my name?"))
    second = completion(MESSAGES, asked, **GIVEN_MESSAGES).choices[0].message.content
    return [choice.message.content, choice.finish_reason, is_counted(answer.usage), second]


async def messages_stream() -> Any:
    asked = [user("Count to 20")]
    chunks = list(completion(MESSAGES, asked, stream=True, **GIVEN_MESSAGES))
    whole = litellm.stream_chunk_builder(chunks, messages=asked)
    choice = whole.choices[0]
    return [choice.message.content, choice.finish_reason, len(chunks) > 2]


async def messages_tools() -> Any:
    prompt = "Get the weather in Rome, then get the time in Rome."
    return await _loop(prompt, MESSAGES, GIVEN_MESSAGES)


async def messages_thinking() -> Any:
    given = {**GIVEN_MESSAGES, "thinking": {"type": "enabled", "budget_tokens": 2000}}
    asked = [user("Think: what is the weather in Rome?")]
    model = "anthropic/claude-haiku-4-5"
    first = await acompletion(model, asked, tools=TOOLS, max_tokens=4000, **given)
    message = first.choices[0].message
    [call] = message.tool_calls
    asked += [message, {"role": "tool", "tool_call_id": call.id, "content": "Sunny in Rome."}]
    second = await acompletion(model, asked, tools=TOOLS, max_tokens=4000, **given)
    signed = [bool(block["signature"]) for block in message.thinking_blocks]
    return [bool(message.reasoning_content), signed, second.choices[0].message.content]


async def messages_structured() -> Any:
    prompt = [user("Tell me a joke worth 5 laughs.")]
    answer = completion(MESSAGES, prompt, response_format=Joke, **GIVEN_MESSAGES)
    return Joke.model_validate_json(answer.choices[0].message.content).model_dump()


async def messages_image() -> Any:
    url = {"url": f"data:image/png;base64,{PNG}"}
    content = [
        {"type": "text", "text": "Describe this image."},
        {"type": "image_url", "image_url": url},
    ]
    return completion(MESSAGES, [user(content)], **GIVEN_MESSAGES).choices[0].message.content


async def messages_errors() -> Any:
    found = {}
    cases: dict[str, dict[str, Any]] = {
        "unknown": {"model": "anthropic/gpt-nope"},
        "bad": {"model": MESSAGES, "max_tokens": -1},
    }
    for name, given in cases.items():
        try:
            await acompletion(messages=[user("Hi")], **given, **GIVEN_MESSAGES)
            found[name] = ["no error"]
        except (litellm.NotFoundError, litellm.BadRequestError) as error:
            found[name] = [type(error).__name__, error.status_code]
    return found


async def messages_as_they_are() -> Any:
    """LiteLLM's own face of the Messages API, which passes them through."""
    message = await litellm.anthropic_messages(
        model=MESSAGES, max_tokens=100, messages=[user("Hello")], **GIVEN_MESSAGES
    )
    return [message["content"][0]["text"], message["stop_reason"]]


async def responses() -> Any:
    first = await aresponses(model=MODEL, input="My name is Ada.", **GIVEN)
    then = {"input": "What is my name?", "previous_response_id": first.id}
    second = await aresponses(model=MODEL, **then, **GIVEN)
    return [second.output_text, second.usage.input_tokens > 0]


if __name__ == "__main__":
    report(
        [
            plain,
            stream,
            system_and_turns,
            tool_loop,
            parallel_tools,
            streamed_tools,
            tool_choice,
            structured,
            image,
            limits,
            reasoning,
            errors,
            fallbacks,
            async_stream,
            responses,
            messages_api,
            messages_stream,
            messages_tools,
            messages_thinking,
            messages_structured,
            messages_image,
            messages_errors,
            messages_as_they_are,
        ]
    )
