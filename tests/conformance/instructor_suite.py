"""instructor on the gateway; test_instructor.py says what each check has to see."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import instructor
from instructor import Mode
from instructor.core import InstructorRetryException
from instructor.processing.multimodal import Image
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, field_validator

from .report import BASE_URL, OBEDIENT, PNG, report

OPTIONS: dict[str, Any] = {"base_url": BASE_URL, "api_key": "unused", "max_retries": 0}
MODEL = "sonnet"
PROMPT = "Tell me a joke worth 5 laughs."


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str
    laughs: int


class Weather(BaseModel):
    """The weather in a city."""

    city: str


class Time(BaseModel):
    """The time in a city."""

    city: str


class Report(BaseModel):
    """Weather of several cities, with who asked."""

    customer_name: str
    cities: list[Weather]


def user(content: Any) -> list[Any]:
    return [{"role": "user", "content": content}]


def client(mode: Mode = Mode.TOOLS) -> Any:
    return instructor.from_openai(OpenAI(**OPTIONS), mode=mode)


def ask(mode: Mode, model: str = MODEL) -> Any:
    given = {"model": model, "messages": user(PROMPT), "max_retries": 0}
    return client(mode).create(response_model=Joke, **given).model_dump()


async def tools() -> Any:
    return [ask(Mode.TOOLS), ask(Mode.TOOLS, OBEDIENT)]


async def strict_tools() -> Any:
    return [ask(Mode.TOOLS_STRICT), ask(Mode.TOOLS_STRICT, OBEDIENT)]


async def json_mode() -> Any:
    return ask(Mode.JSON)


async def markdown_json() -> Any:
    return ask(Mode.MD_JSON)


async def json_schema() -> Any:
    return ask(Mode.JSON_SCHEMA)


async def responses() -> Any:
    return [ask(Mode.RESPONSES_TOOLS), ask(Mode.RESPONSES_TOOLS, OBEDIENT)]


async def nested() -> Any:
    messages = user("Report on the weather.")
    made = client().create(response_model=Report, model=MODEL, messages=messages, max_retries=0)
    return [made.customer_name, len(made.cities)]


async def parallel() -> Any:
    messages = user("What is the weather in Rome, and what time is it in Rome?")
    given = {"model": MODEL, "messages": messages}
    many = client(Mode.PARALLEL_TOOLS).create(response_model=Iterable[Weather | Time], **given)
    return [[type(one).__name__, one.city] for one in many]


async def iterable() -> Any:
    messages = user("Two jokes, please.")
    jokes = client().create_iterable(response_model=Joke, model=MODEL, messages=messages)
    return len(list(jokes))


async def partial() -> Any:
    made = [
        piece.model_dump()
        for piece in client().create_partial(
            response_model=Joke, model=MODEL, messages=user(PROMPT)
        )
    ]
    return {"last": made[-1], "partial": any(piece["laughs"] is None for piece in made)}


async def validation_is_asked_again() -> Any:
    tried: list[str] = []

    class Checked(Joke):
        @field_validator("punchline")
        @classmethod
        def once_more(cls, value: str) -> str:
            tried.append(value)
            if len(tried) == 1:
                raise ValueError("write it once more")
            return value

    given = {"model": MODEL, "messages": user(PROMPT), "max_retries": 2}
    made = client().create(response_model=Checked, **given)
    return [len(tried), bool(made.punchline)]


async def system_and_turns() -> Any:
    messages = [
        {"role": "system", "content": "Be exact."},
        *user("The weather in Oslo?"),
        {"role": "assistant", "content": "It is sunny."},
        *user("And in Rome?"),
    ]
    given = {"model": MODEL, "messages": messages, "max_retries": 0}
    return client().create(response_model=Weather, **given).city


async def image() -> Any:
    content = [
        "Tell me a joke of this, worth 5 laughs.",
        Image.from_base64(f"data:image/png;base64,{PNG}"),
    ]
    given = {"model": MODEL, "messages": user(content), "max_retries": 0}
    return client().create(response_model=Joke, **given).laughs


async def usage() -> Any:
    given = {"model": MODEL, "messages": user(PROMPT)}
    joke, completion = client().create_with_completion(response_model=Joke, **given)
    counted = completion.usage.prompt_tokens > 0 and completion.usage.completion_tokens > 0
    return [joke.laughs, counted]


async def plain() -> Any:
    answer = client().create(response_model=None, model=MODEL, messages=user("Hello"))
    return answer.choices[0].message.content


async def errors() -> Any:
    try:
        given = {"model": "gpt-nope", "messages": user(PROMPT), "max_retries": 1}
        client().create(response_model=Joke, **given)
    except InstructorRetryException as error:
        causes: list[Any] = [error]
        while causes[-1] is not None:
            causes.append(causes[-1].__cause__)
        statuses = [each.status_code for each in causes if hasattr(each, "status_code")]
        return [statuses, "gpt-nope" in str(error)]
    return "no error"


async def async_client() -> Any:
    one = instructor.from_openai(AsyncOpenAI(**OPTIONS))
    given = {"model": MODEL, "messages": user(PROMPT)}
    joke = await one.create(response_model=Joke, **given)
    pieces = [piece async for piece in one.create_partial(response_model=Joke, **given)]
    return [joke.laughs, pieces[-1].laughs]


if __name__ == "__main__":
    report(
        [
            tools,
            strict_tools,
            json_mode,
            markdown_json,
            json_schema,
            responses,
            nested,
            parallel,
            iterable,
            partial,
            validation_is_asked_again,
            system_and_turns,
            image,
            usage,
            plain,
            errors,
            async_client,
        ]
    )
