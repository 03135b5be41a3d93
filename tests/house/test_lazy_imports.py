"""What a gateway does not use is not imported."""

from __future__ import annotations

import subprocess
import sys


def test_a_gateway_without_mcp_and_postgresql_imports_none_of_them() -> None:
    program = """
import sys, tempfile, trio
from pathlib import Path
from ccapi.actors import open_gateway
from ccapi.schemas.settings.settings import Settings, StorageSettings
import ccapi.actors.commands.serve
async def main():
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(storage=StorageSettings(path=Path(folder)))
        async with open_gateway(settings, demo=True, environ={"PATH": "/usr/bin:/bin"}) as gateway:
            assert gateway.mcp.names == ()
            await gateway.query("hello", model="haiku")
trio.run(main)
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(ran.stdout.split())
    assert "trio" in loaded
    assert not {"mcp", "mcp_types", "psycopg", "pydantic", "opentelemetry", "uvicorn"} & loaded
