"""The openai-agents SDK on the gateway: a loop of tools, a stream of one, and a handoff.

Run as a program of its own (the SDK has its own event loop), with the gateway's URL in
CCAPI_TEST_BASE_URL; prints one JSON object of what came of it.
"""

from __future__ import annotations

import json
import os
from typing import Any

import anyio
from agents import (
    Agent,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

MODEL = "claude-haiku-4-5"
asked: list[str] = []


@function_tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    asked.append(city)
    return f"It is sunny in {city}."


async def loop(model: OpenAIResponsesModel) -> dict[str, Any]:
    agent = Agent(name="Clerk", instructions="Be brief.", model=model, tools=[get_weather])
    result = await Runner.run(agent, "Weather in Paris and Rome?")
    return {"output": result.final_output, "turns": len(result.raw_responses)}


async def behind(model: OpenAIResponsesModel) -> dict[str, Any]:
    """The same, each request naming the response before it."""
    agent = Agent(name="Clerk", instructions="Be brief.", model=model, tools=[get_weather])
    result = await Runner.run(agent, "Weather in Oslo?", auto_previous_response_id=True)
    return {"output": result.final_output, "last": result.last_response_id}


async def streamed(model: OpenAIResponsesModel) -> dict[str, Any]:
    agent = Agent(name="Clerk", model=model, tools=[get_weather])
    result = Runner.run_streamed(agent, "Weather in Bern?")
    kinds = [
        event.data.type
        async for event in result.stream_events()
        if event.type == "raw_response_event"
    ]
    return {"output": result.final_output, "completed": kinds.count("response.completed")}


async def handoff(model: OpenAIResponsesModel) -> dict[str, Any]:
    poet = Agent(name="Poet", instructions="Rhyme.", model=model)
    front = Agent(name="Front", instructions="Hand over.", model=model, handoffs=[poet])
    result = await Runner.run(front, "A rhyme, please.")
    return {"output": result.final_output, "agent": result.last_agent.name}


async def session(model: OpenAIResponsesModel) -> dict[str, Any]:
    agent = Agent(name="Clerk", model=model)
    held = SQLiteSession("one")
    await Runner.run(agent, "My name is Ada.", session=held)
    result = await Runner.run(agent, "What is my name?", session=held)
    return {"output": result.final_output}


async def main() -> None:
    set_tracing_disabled(True)
    async with AsyncOpenAI(
        base_url=os.environ["CCAPI_TEST_BASE_URL"], api_key="unused", max_retries=0
    ) as client:
        model = OpenAIResponsesModel(model=MODEL, openai_client=client)
        found = {
            "loop": await loop(model),
            "behind": await behind(model),
            "streamed": await streamed(model),
            "handoff": await handoff(model),
            "session": await session(model),
        }
    print(json.dumps({**found, "asked": asked}))


if __name__ == "__main__":
    anyio.run(main, backend="asyncio")
