"""The openai SDK retries what fails, unless a header says not to: what an agent did is not done
twice, nor are the results of the client's tools told twice."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest
import trio

from ccapi.schemas.settings.settings import CacheSettings, ConversationSettings
from tests.contract.test_usage import OF_SUBAGENT, OWN, PLAIN, added
from tests.contract.test_usage import model as delegating
from tests.support.messages_stub import Answer, Failure, Hang, Request, ToolUse, call, say

from .served import JSON, MODEL, Served, Whole, function, open_served, user

AGENT = f"agent/{MODEL}"
LOOK = ToolUse("Bash", {"command": "ls", "description": "List"})


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with open_served(
        tmp_path_factory.mktemp("served"),
        claude={"timeout_seconds": 20.0},
        conversation=ConversationSettings(max_history_messages=10_000),
        cache=CacheSettings(enabled=False),
    ) as served:
        yield served


class Client:
    """The SDK as it comes, with its two retries, and how often it has asked."""

    def __init__(self, served: Served) -> None:
        self.asked = 0
        http = httpx2.Client(event_hooks={"request": [self._count]}, trust_env=False)
        self.sdk = openai.OpenAI(
            base_url=served.live.base_url, api_key="unused", http_client=http, max_retries=2
        )

    def _count(self, request: httpx2.Request) -> None:
        self.asked += 1


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    client = Client(served)
    with client.sdk:
        yield client


def chat(client: Client, **fields: Any) -> Any:
    return client.sdk.chat.completions.create(
        model=AGENT, messages=[{"role": "user", "content": "Do it."}], **fields
    )


def choices(client: Client) -> object:
    return chat(client, n=2)


def streamed(client: Client) -> object:
    return [*chat(client, stream=True)]


def completion(client: Client) -> object:
    return client.sdk.completions.create(model=AGENT, prompt="Do it.")


def response(client: Client) -> object:
    return client.sdk.responses.create(model=AGENT, input="Do it.")


WAYS = (chat, choices, streamed, completion, response)


def then(failure: Answer) -> Callable[[Request], Answer]:
    """A model that uses a tool, and fails when it receives what came of that."""

    def answer(request: Request) -> Answer:
        told = request.body["messages"][-1]["content"]
        acted = any(block["type"] == "tool_result" for block in told if isinstance(block, dict))
        return failure if acted else call(LOOK)

    return answer


@pytest.mark.parametrize(
    ("way", "status"), [*((way, 529) for way in WAYS), (chat, 429), (chat, 500)]
)
def test_what_an_agent_did_is_not_done_again(
    served: Served, client: Client, way: Callable[[Client], object], status: int
) -> None:
    served.stub.answer = then(Failure(status, retry_after=1))
    with pytest.raises(openai.APIError) as caught:
        way(client)
    assert client.asked == 1
    if isinstance(caught.value, openai.APIStatusError):
        headers = caught.value.response.headers
        assert headers["x-should-retry"] == "false"
        assert "retry-after" not in headers
        assert "retry-after-ms" not in headers
    else:
        assert way is streamed


def test_what_an_agent_has_not_begun_is_asked_again(served: Served, client: Client) -> None:
    """The other way round: the SDK does retry."""
    served.answers(Failure(529))
    served.stub.answer = lambda _: say("Yes.")
    chat(client)
    assert client.asked == 2


@pytest.mark.parametrize("way", [chat, streamed, response])
def test_an_agent_that_dies_at_work_is_not_sent_again(
    served: Served, client: Client, way: Callable[[Client], object]
) -> None:
    served.stub.answer = then(Hang())
    known = set(served.live.gateway._directory.all())

    def kill() -> None:
        served.wait(lambda: len(served.requests) >= 2)
        (entry,) = (e for e in served.live.gateway._directory.all() if e not in known)
        os.kill(served.adopted(entry.conversation_id)[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(openai.APIError):
        way(client)
    killer.join()
    assert client.asked == 1


def test_results_are_not_sent_again(served: Served, client: Client) -> None:
    tools: JSON = function("look")
    served.answers(call(ToolUse("look", {})))
    first = served.ask(user("Look."), tools=[tools])
    asked = {"role": "assistant", "content": None, "tool_calls": first.calls}
    told = {"role": "tool", "tool_call_id": first.calls[0]["id"], "content": "sunny"}
    served.stub.answer = lambda _: Failure(529)
    with pytest.raises(openai.APIStatusError) as caught:
        client.sdk.chat.completions.create(
            model=MODEL,
            messages=[user("Look."), asked, told],  # type: ignore[list-item]
            tools=[tools],  # type: ignore[list-item]
        )
    assert client.asked == 1
    assert caught.value.response.headers["x-should-retry"] == "false"


# -- limits of tokens ------------------------------------------------------------------------------


def test_an_agents_answer_that_stays_too_long_ends_by_its_length(served: Served) -> None:
    served.stub.answer = lambda _: say("On and on.", stop_reason="max_tokens")
    answer = served.ask(user("Talk."), model=AGENT)
    assert answer.finish_reason == "length"
    assert answer.text is not None
    assert answer.text.startswith("On and on.")
    served.begin()
    again = served.ask(user("And?"), model=AGENT, conversation_id=answer.conversation_id)
    assert "On and on." in str(served.last.body["messages"])
    assert again.finish_reason == "stop"


def test_an_agents_response_that_stays_too_long_is_incomplete(
    served: Served, client: Client
) -> None:
    served.stub.answer = lambda _: say("On and on.", stop_reason="max_tokens")
    response = client.sdk.responses.create(model=AGENT, input="Talk.")
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


def test_an_agents_call_of_the_clients_that_is_cut_off_ends_by_its_length(served: Served) -> None:
    served.answers(call(ToolUse("look", {"place": "here"}), stop_reason="max_tokens"))
    answer = served.ask(user("Look."), model=AGENT, tools=[function("look")])
    assert answer.finish_reason == "length"


# -- what it costs ---------------------------------------------------------------------------------


def test_the_usage_of_an_agent_has_all_that_its_subagents_took(served: Served) -> None:
    served.stub.answer = delegating
    first = served.ask(user("delegate"), model=AGENT)
    assert usage(first) == added(OWN, OF_SUBAGENT)
    more: JSON = {"conversation_id": first.conversation_id}
    assert usage(served.ask(user("plain"), model=AGENT, **more)) == PLAIN
    # The total of the CLI's session goes on where a child ended in peace, and where it was killed.
    gateway, entry = served.live.gateway, served.live.gateway.loaded(first.conversation_id).entry
    trio.from_thread.run(gateway.hibernate, entry, trio_token=served._token)
    served.wait_phase(first.conversation_id, "asleep")
    assert usage(served.ask(user("delegate"), model=AGENT, **more)) == added(OWN, OF_SUBAGENT)
    served.kill_child(first.conversation_id)
    assert usage(served.ask(user("plain"), model=AGENT, **more)) == PLAIN
    assert usage(served.ask(user("delegate"), model=AGENT, **more)) == added(OWN, OF_SUBAGENT)


def usage(answer: Whole) -> tuple[int, int]:
    figures = answer.body["usage"]
    return figures["prompt_tokens"], figures["completion_tokens"]
