"""A gateway whose conversations are in PostgreSQL: they outlive it."""

from __future__ import annotations

from pathlib import Path

import httpx

from ..support.live import open_live, settings_for


async def test_a_conversation_outlives_its_gateway(tmp_path: Path, postgres_url: str) -> None:
    settings = settings_for(tmp_path, {"HOME": str(tmp_path)}, storage={"url": postgres_url})
    name = ""
    for count in (2, 4):
        async with open_live(settings, demo=True) as live, httpx.AsyncClient(timeout=30) as client:
            assert (await client.get(f"{live.url}/ready")).status_code == 200
            body: dict[str, object] = {"messages": [{"role": "user", "content": "Hello"}]}
            if name:
                body |= {"conversation_id": name}
            answered = await client.post(f"{live.base_url}/chat/completions", json=body)
            assert answered.status_code == 200, answered.text
            name = answered.json()["conversation_id"]
            shown = await client.get(f"{live.base_url}/conversations/{name}/items")
            assert len(shown.json()["data"]) == count
    assert not (tmp_path / "state" / "ccapi.db").exists()
