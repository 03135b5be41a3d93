"""How the CLI counts the tokens of what it holds."""

from tests.support.messages_stub import MessagesStub, count_tokens
from tests.support.raw_cli import RawCli, assistant_frame


async def categories(child: RawCli) -> dict[str, int]:
    answer = await child.control("get_context_usage")
    assert answer["subtype"] == "success"
    found = answer["response"]["categories"]
    return {each["id"]: each["tokens"] for each in found if each["kind"] == "used"}


async def test_the_api_counts_the_parts_of_the_context(child: RawCli, stub: MessagesStub) -> None:
    """Each in a request of its own; no answer is asked for. The agent that every child is spawned
    with is counted too, though no request of a plain model has it."""
    await child.turn("Where is Paris?", shouldQuery=False)
    counted = await categories(child)
    bodies = {str(body["messages"][-1]["content"]): body for body in stub.counted}
    assert counted["messages"] == count_tokens(bodies["Where is Paris?"])
    assert counted["system_prompt"] == count_tokens(bodies["You are a test."])
    assert set(counted) == {"system_prompt", "messages", "custom_agents"}
    assert stub.requests == []


async def test_a_replayed_answer_without_usage_is_counted(
    child: RawCli, stub: MessagesStub
) -> None:
    """With a usage it would be believed, and all before it taken for that."""
    answer = assistant_frame([{"type": "text", "text": "a" * 400}], id="msg_1")
    answer["message"]["usage"] = {"input_tokens": 0, "output_tokens": 0}
    await child.turn("one", shouldQuery=False)
    before = (await categories(child))["messages"]
    await child.send(answer)
    await child.turn("two", shouldQuery=False)
    assert (await categories(child))["messages"] >= before + 100


async def test_a_replayed_answer_is_believed_what_it_says_it_took(child: RawCli) -> None:
    answer = assistant_frame([{"type": "text", "text": "a" * 400}], id="msg_1")
    await child.turn("one", shouldQuery=False)
    await child.send(answer)
    await child.turn("two", shouldQuery=False)
    assert (await categories(child))["messages"] < 100
