"""Many questions, a few at a time, each answer as it comes.

python examples/batch.py [--demo] [question ...]
"""

import sys

import trio

from ccapi.actors import GatewayError, open_gateway

QUESTIONS = ["Count to 20.", "What is an actor?", "Repeat: structured concurrency", "Count to 5."]


async def main() -> None:
    questions = [word for word in sys.argv[1:] if word != "--demo"] or QUESTIONS
    async with (
        open_gateway(demo="--demo" in sys.argv) as gateway,
        gateway.batch(questions, limit=2, system="Answer in one sentence.") as answers,
    ):
        async for index, reply in answers:
            print(f"--- {questions[index]}")
            # One that failed does not stop the others.
            print(f"failed: {reply}" if isinstance(reply, GatewayError) else reply.text)


if __name__ == "__main__":
    trio.run(main)
