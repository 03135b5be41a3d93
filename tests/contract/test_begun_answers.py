"""How the CLI is made to send messages that end with the assistant's."""

import json
from uuid import uuid4

from tests.support.messages_stub import MessagesStub
from tests.support.raw_cli import RawCli

BEGUN = [
    {"role": "user", "content": [{"type": "text", "text": "A poem"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Roses are"}]},
]


async def test_messages_of_the_extra_body_stand_in_place_of_the_clis_own(
    child: RawCli, stub: MessagesStub
) -> None:
    """For as long as the setting holds; a rewind takes what the CLI itself received."""
    environment = {"CLAUDE_CODE_EXTRA_BODY": json.dumps({"messages": BEGUN})}
    await child.control("apply_flag_settings", settings={"env": environment})
    uuid = str(uuid4())
    await child.turn("in their place", uuid=uuid)
    assert stub.requests[0].body["messages"] == BEGUN
    environment = {"CLAUDE_CODE_EXTRA_BODY": ""}
    await child.control("apply_flag_settings", settings={"env": environment})
    answer = await child.control("rewind_conversation", target_message_uuid=uuid)
    assert answer["response"]["rewound"] is True
    await child.turn("next")
    assert stub.requests[1].conversation == [("user", ["next"])]
