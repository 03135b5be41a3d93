"""The world of the page's tests: a gateway, the real CLI behind it, and a model that plays along.

Knows which words of a question make the model do what. Refuses to know the browser.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ccapi.schemas.settings.settings import CacheSettings
from tests.support.live import Live, open_live_cli
from tests.support.messages_answers import Answer, ToolUse, call, say
from tests.support.messages_stub import Request

NUMBERS = " ".join(str(number) for number in range(1, 121))
"""What the model says at length; a gap or a repetition shows."""

HOSTILE = """<script>window.hacked = "script"</script>
<img src=x onerror="window.hacked = 'image'"> <iframe src="https://evil.example/"></iframe>

[press](javascript:window.hacked='link') [data](data:text/html,<script>1</script>)
![seen](https://evil.example/seen.png)

<style>body { display: none }</style>

| <b onclick="window.hacked='cell'">x</b> | y |
|---|---|
| <svg/onload=window.hacked='svg'> | z |

```html"><script>window.hacked='fence'</script>
<script>window.hacked = "code"</script>
```
"""


MATHS = r"""Euler: $e^{i\pi}_a + 1_b = 0$ and \(a_1*b_1*c_1\), that is *so*.

$$
\begin{aligned}
- x_1 &= a*b*c \\
+ y_1 &= \{d\}
\end{aligned}
$$

\[ \sum_{i}^{n} x_i * y_i * z_i \]
"""

LONG = "\n\n".join([*(f"Paragraph {number}, with `code`." for number in range(60)), "The end"])


def _attached(request: Request) -> list[dict[str, Any]]:
    found = []
    for message in request.body["messages"]:
        if isinstance(message["content"], list):
            found += [
                block for block in message["content"] if block["type"] in {"image", "document"}
            ]
    return found


def _acted(request: Request) -> bool:
    content = request.body["messages"][-1]["content"]
    return isinstance(content, list) and any(b["type"] == "tool_result" for b in content)


class Model:
    """Answers by the words it is asked."""

    def __init__(self, workspaces: Path) -> None:
        self._workspaces = workspaces

    def __call__(self, request: Request) -> Answer:
        text = request.last_user_text
        if _acted(request):
            return say(f"It says: {text}")
        if "note" in text:
            newest = max(self._workspaces.iterdir(), key=lambda folder: folder.stat().st_mtime)
            given = {"file_path": str(newest / "note.txt"), "content": "Dear diary"}
            return call(ToolUse("Write", given), text="I write it.")
        if "Count" in text:
            return say(NUMBERS, chunks=120, pause=0.02)
        if text == "Maths":
            return say(MATHS, chunks=20, pause=0.002)
        if text.startswith("Long"):
            return say(LONG, chunks=4, pause=0.002)
        if "Attack" in text:
            return say(HOSTILE, chunks=40, pause=0.002)
        if attached := _attached(request):
            kinds = [block["source"]["media_type"] for block in attached]
            return say(f"I see {len(attached)}: {', '.join(kinds)}.")
        return say(f"You said: {text}", chunks=4, pause=0.01)


@asynccontextmanager
async def open_world(tmp_path: Path) -> AsyncIterator[Live]:
    async with open_live_cli(tmp_path, cache=CacheSettings(enabled=False)) as live:
        assert live.stub is not None
        live.stub.answer = Model(tmp_path / "state" / "workspaces")
        yield live
