"""pydantic-ai on the gateway; test_pydantic_ai.py says what each check has to see."""

from __future__ import annotations

import base64
from typing import Any

from pydantic import BaseModel
from pydantic_ai import (
    Agent,
    BinaryContent,
    ModelHTTPError,
    ModelRetry,
    NativeOutput,
    PromptedOutput,
    RunContext,
    ToolOutput,
)
from pydantic_ai.messages import ThinkingPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from .report import BASE_URL, OBEDIENT, PNG, report

PROVIDER = OpenAIProvider(base_url=BASE_URL, api_key="unused")
MODEL = OpenAIChatModel("sonnet", provider=PROVIDER)
FORCED = OpenAIChatModel(OBEDIENT, provider=PROVIDER)
RESPONSES = OpenAIResponsesModel("sonnet", provider=PROVIDER)
PROMPT = "Tell me a joke worth 5 laughs."
TWO_STEPS = "Get the weather in Rome, then get the time in Rome."


class Joke(BaseModel):
    setup: str
    punchline: str
    laughs: int


class Answer(BaseModel):
    city: str
    customer_name: str


def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return f"Sunny in {city}."


def get_time(city: str) -> str:
    """Get the time in a city."""
    return f"Noon in {city}."


TOOLS = [get_weather, get_time]


def steps(result: Any) -> list[Any]:
    """The calls and results of each of the run's messages that has some."""
    found = []
    for message in result.all_messages():
        calls = [p for p in message.parts if isinstance(p, ToolCallPart)]
        results = [p for p in message.parts if isinstance(p, ToolReturnPart)]
        said = [[p.tool_name, p.args_as_dict()] for p in calls] + [p.content for p in results]
        if said:
            found.append(said)
    return found


def tell(result: Any) -> Any:
    return {"steps": steps(result), "text": result.output}


async def plain() -> Any:
    result = await Agent(MODEL).run("Hello")
    usage = result.usage
    return [result.output, usage.input_tokens > 0 and usage.output_tokens > 0]


async def stream() -> Any:
    async with Agent(MODEL, instructions="Be brief.").run_stream("Count to 20") as result:
        pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
        return ["".join(pieces), len(pieces) > 1, result.usage.output_tokens > 0]


async def system_and_turns() -> Any:
    agent = Agent(MODEL, system_prompt="Be brief.")
    first = await agent.run("My name is Ada.")
    return (await agent.run("What is my name?", message_history=first.all_messages())).output


async def tool_loop() -> Any:
    return tell(await Agent(MODEL, tools=TOOLS).run(TWO_STEPS))


async def parallel_tools() -> Any:
    prompt = "What is the weather in Paris and in London?"
    return tell(await Agent(MODEL, tools=TOOLS).run(prompt))


async def streamed_tool_loop() -> Any:
    async with Agent(MODEL, tools=TOOLS).run_stream(TWO_STEPS) as result:
        text = await result.get_output()
        return {"steps": steps(result), "text": text}


async def tool_output() -> Any:
    made = [await Agent(model, output_type=Joke).run(PROMPT) for model in (MODEL, FORCED)]
    return [each.output.model_dump() for each in made]


async def output_of_several_types() -> Any:
    outputs: Any = [ToolOutput(Joke, name="joke"), ToolOutput(Answer, name="answer")]
    made = [await Agent(m, output_type=outputs).run("A joke, please.") for m in (MODEL, FORCED)]
    return [type(each.output).__name__ for each in made]


async def native_output() -> Any:
    return (await Agent(MODEL, output_type=NativeOutput(Joke)).run(PROMPT)).output.model_dump()


async def prompted_output() -> Any:
    return (await Agent(MODEL, output_type=PromptedOutput(Joke)).run(PROMPT)).output.model_dump()


async def output_after_tools() -> Any:
    agent: Any = Agent(MODEL, output_type=Answer, tools=TOOLS)
    result = await agent.run("What is the weather in Rome?")
    return [steps(result)[0], result.output.city]


async def streamed_output() -> Any:
    async with Agent(MODEL, output_type=Joke).run_stream(PROMPT) as result:
        partial = [piece async for piece in result.stream_output(debounce_by=None)]
        return [partial[-1].model_dump(), len(partial) > 1]


async def output_is_asked_again() -> Any:
    tried = []

    async def check(_: RunContext[None], joke: Joke) -> Joke:
        tried.append(joke)
        if len(tried) == 1:
            raise ModelRetry("Write it once more.")
        return joke

    agent = Agent(MODEL, output_type=Joke)
    agent.output_validator(check)
    return [(await agent.run(PROMPT)).output.laughs > 0, len(tried)]


async def image() -> Any:
    picture = BinaryContent(base64.b64decode(PNG), media_type="image/png")
    return (await Agent(MODEL).run(["Describe this image.", picture])).output


async def thinking() -> Any:
    settings: Any = {"openai_reasoning_effort": "low"}
    result = await Agent(MODEL, model_settings=settings).run("Think: is 7 a prime?")
    parts = [part for message in result.new_messages() for part in message.parts]
    return any(isinstance(part, ThinkingPart) and bool(part.content) for part in parts)


async def errors() -> Any:
    try:
        await Agent(OpenAIChatModel("gpt-nope", provider=PROVIDER)).run("Hi")
    except ModelHTTPError as error:
        body: Any = error.body
        return [error.status_code, body.get("code"), "gpt-nope" in body.get("message", "")]
    return "no error"


async def responses() -> Any:
    return tell(await Agent(RESPONSES, tools=TOOLS).run(TWO_STEPS))


async def responses_turns() -> Any:
    settings: Any = {"openai_previous_response_id": "auto"}
    agent = Agent(RESPONSES, model_settings=settings)
    first = await agent.run("My name is Ada.")
    return (await agent.run("What is my name?", message_history=first.all_messages())).output


async def responses_output() -> Any:
    return (await Agent(RESPONSES, output_type=Joke).run(PROMPT)).output.model_dump()


if __name__ == "__main__":
    report(
        [
            plain,
            stream,
            system_and_turns,
            tool_loop,
            parallel_tools,
            streamed_tool_loop,
            tool_output,
            output_of_several_types,
            native_output,
            prompted_output,
            output_after_tools,
            streamed_output,
            output_is_asked_again,
            image,
            thinking,
            errors,
            responses,
            responses_turns,
            responses_output,
        ]
    )
