"""MCP servers for tests, made with the `mcp` package's server side.

As a program: ``python -m tests.support.mcp_servers stdio|http|never|bad``. ``http`` prints the port
that it listens on, and serves ``/mcp`` (streamable HTTP), ``/sse`` (server-sent events), and
``/auth`` (answers 401 to all). ``never`` says nothing and stays; ``bad`` is a server in few lines,
which lists tools that are none.

The tools: ``echo`` (its text), ``slow`` (sleeps for some seconds, then answers; says on stderr
whether it was cancelled), ``die`` (the process is gone), ``big`` (a text of so many characters),
``fail`` (an error result), ``raise`` (an error of the protocol), ``see`` (the names of the
environment variables, the process's and its group's number), ``grow`` (from now on there is one
tool more, and the list is said to have changed), ``start`` (a process in the background, whose
number is the answer).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import trio
from attrs import frozen

ROOT = Path(__file__).parents[2]


def program(kind: str = "stdio", *args: str) -> dict[str, Any]:
    """The entry of a config file that runs this module."""
    return {
        "command": sys.executable,
        "args": ["-m", "tests.support.mcp_servers", kind, *args],
        "env": {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        "cwd": str(ROOT),
    }


BAD_TOOLS: list[Any] = [
    {"name": "good", "description": "g", "inputSchema": {"type": "object"}},
    {"name": "no_schema"},
    {"name": "array", "inputSchema": {"type": "array"}},
    {"name": "choice", "inputSchema": {"anyOf": [{"type": "object"}, {"type": "string"}]}},
    {"name": "weird name!", "inputSchema": {"type": "object"}},
    {"name": "x" * 80, "inputSchema": {"type": "object"}},
    {"name": "wrong", "inputSchema": {"properties": {"a": {"type": "text"}}}},
    "no tool at all",
]


@frozen
class HttpServer:
    """A process that serves. `stderr` is the file that it writes its log to."""

    url: str
    process: subprocess.Popen[str]
    stderr: Path

    def entry(self, path: str = "/mcp", **fields: Any) -> dict[str, Any]:
        """The entry of a config file for it."""
        kind = "sse" if path == "/sse" else "http"
        return {"type": kind, "url": f"{self.url}{path}", **fields}


@contextmanager
def http_program(port: int = 0) -> Iterator[HttpServer]:
    """Run ``http`` while the block runs."""
    entry = program("http", str(port))
    with NamedTemporaryFile("w+", suffix=".log") as stderr:
        process = subprocess.Popen(
            [entry["command"], *entry["args"]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, **entry["env"]},
            cwd=ROOT,
            text=True,
        )
        with process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                assert line, "the server did not start"
                yield HttpServer(f"http://127.0.0.1:{int(line)}", process, Path(stderr.name))
            finally:
                process.kill()


# -- in the process --------------------------------------------------------------------------------

TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
NUMBER = {"type": "object", "properties": {"n": {"type": "number"}}}


def make_server() -> Any:
    from mcp.server.lowlevel import Server
    from mcp.shared.exceptions import MCPError
    from mcp_types import (
        CallToolResult,
        ListToolsResult,
        TextContent,
        Tool,
        ToolAnnotations,
    )

    read_only = ToolAnnotations(read_only_hint=True)
    tools = [
        Tool(name="echo", description="Says it.", input_schema=TEXT, annotations=read_only),
        *(
            Tool(name=name, description=f"Does {name}.", input_schema=NUMBER)
            for name in ("slow", "die", "big", "fail", "raise", "see", "grow", "start")
        ),
    ]

    def result(text: str, **fields: Any) -> CallToolResult:
        return CallToolResult(content=[TextContent(type="text", text=text)], **fields)

    async def list_tools(context: Any, params: Any) -> ListToolsResult:
        half = len(tools) // 2  # two pages
        if params is not None and params.cursor == "2":
            return ListToolsResult(tools=tools[half:])
        return ListToolsResult(tools=tools[:half], next_cursor="2")

    async def call_tool(context: Any, params: Any) -> CallToolResult:
        import anyio

        given = params.arguments or {}
        match params.name:
            case "echo":
                return result(given["text"], structured_content={"text": given["text"]})
            case "slow":
                try:
                    await anyio.sleep(given["n"])
                except BaseException:
                    print("slow was cancelled", file=sys.stderr, flush=True)
                    raise
                return result("done")
            case "die":
                os._exit(7)
            case "big":
                return result("x" * int(given["n"]))
            case "fail":
                return result("it failed", is_error=True)
            case "raise":
                raise MCPError(code=-32000, message="refused by the server")
            case "see":
                seen = {"env": sorted(os.environ), "pid": os.getpid(), "group": os.getpgid(0)}
                return result(json.dumps(seen))
            case "grow":
                tools.append(Tool(name=f"new{len(tools)}", input_schema=TEXT))
                await context.session.send_tool_list_changed()
                return result("there is one more")
            case "start":
                child = await trio.lowlevel.open_process(["sleep", "60"], stdin=subprocess.DEVNULL)
                return result(str(child.pid))
        raise MCPError(code=-32602, message="no such tool")

    return Server("tests", on_list_tools=list_tools, on_call_tool=call_tool)


async def serve_stdio() -> None:
    from mcp.server.lowlevel import NotificationOptions
    from mcp.server.stdio import stdio_server

    server = make_server()
    print("hello from the server", file=sys.stderr, flush=True)
    async with stdio_server() as (read, write):
        options = server.create_initialization_options(NotificationOptions(tools_changed=True))
        await server.run(read, write, options)


async def serve_http(port: int) -> None:
    from hypercorn.config import Config
    from hypercorn.trio import serve
    from mcp.server.sse import SseServerTransport
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Mount, Route

    server = make_server()
    streamable = server.streamable_http_app()
    events = SseServerTransport("/messages/")

    async def sse(request: Any) -> Response:
        async with events.connect_sse(request.scope, request.receive, request._send) as (r, w):
            await server.run(r, w, server.create_initialization_options())
        return Response()

    async def refuse(request: Any) -> Response:
        print(f"asked {request.method} {request.url.path}", file=sys.stderr, flush=True)
        headers = {"www-authenticate": 'Bearer resource_metadata="/.well-known/oauth"'}
        return PlainTextResponse("no", 401, headers)

    app = Starlette(
        routes=[
            *streamable.routes,
            Route("/sse", sse),
            Mount("/messages/", events.handle_post_message),
            Route("/auth", refuse, methods=["GET", "POST"]),
        ],
        lifespan=streamable.router.lifespan_context,
    )
    config = Config()
    config.loglevel = "CRITICAL"
    config.bind = [f"127.0.0.1:{port}"]
    async with trio.open_nursery() as nursery:
        binds = await nursery.start(serve, app, config)
        print(binds[0].rpartition(":")[2], flush=True)


def serve_bad() -> None:
    """Every answer by hand. It says a secret on stderr, as some do."""
    print("my token is", os.environ.get("TOKEN"), file=sys.stderr, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        match asked.get("method"):
            case "initialize":
                info = {"name": "bad", "version": "1"}
                answer: dict[str, Any] = {
                    "protocolVersion": asked["params"]["protocolVersion"],
                    "capabilities": {"tools": {}},
                    "serverInfo": info,
                }
            case "tools/list":
                answer = {"tools": BAD_TOOLS}
            case "tools/call":
                answer = {"content": [{"type": "text", "text": asked["params"]["name"]}]}
            case _:
                continue
        print("some noise", flush=True)
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": answer}), flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["stdio", *_]:
            trio.run(serve_stdio)
        case ["http", port]:
            trio.run(serve_http, int(port))
        case ["bad"]:
            serve_bad()
        case _:
            import time

            time.sleep(600)
