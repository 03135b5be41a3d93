"""The bodies that `tests.bench.bodies` sends, and the client that sends one of them: ``PORT NAME``.

Prints the status (or the last message of a WebSocket), and the seconds until the answer began.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
from collections.abc import Callable
from time import perf_counter

MIB = 1024 * 1024
LONGEST = 20 * MIB
ASK = b'{"role":"user","content":"Hello"}'

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
CONVERSATIONS = "/v1/conversations"

STREAMED = b'"stream":true'
"""What is measured is the time before an answer begins: its own deltas are not the body's."""

Body = Callable[[], bytes]


def _with(field: bytes, value: bytes, rest: bytes = b'"messages":[%s]' % ASK) -> bytes:
    return b'{"model":"sonnet",%s,"%s":%s}' % (rest, field, value)


def _many(item: bytes, count: int) -> bytes:
    return b"[%s]" % b",".join([item] * count)


def _filled(item: bytes, size: int = LONGEST - 4096) -> bytes:
    return _many(item, size // (len(item) + 1))


def _talk(text: bytes, turns: int) -> bytes:
    pair = b'{"role":"user","content":"%s"},{"role":"assistant","content":"%s"}' % (text, text)
    return b"[%s,%s]" % (b",".join([pair] * turns), ASK)


def _tool_talk(calls: int) -> bytes:
    call = (
        b'{"role":"assistant","content":null,"tool_calls":[{"id":"c%d","type":"function",'
        b'"function":{"name":"look","arguments":"{\\"path\\": \\"src/%d.py\\", \\"n\\": %d}"}}]},'
        b'{"role":"tool","tool_call_id":"c%d","content":"%s"}'
    )
    turns = b",".join(call % (n, n, n, n, b"x = 1\\n" * 50) for n in range(calls))
    return b"[%s,%s]" % (ASK, turns)


def _picture(size: int) -> bytes:
    import base64
    import struct as s
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return s.pack("!I", len(data)) + kind + data + s.pack("!I", zlib.crc32(kind + data))

    head = s.pack("!IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + bytes(64 * 3) * 64, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"teXt", bytes(size))
    return base64.b64encode(png + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def _seen(size: int) -> bytes:
    parts = b'{"type":"text","text":"What is it?"},{"type":"image_url","image_url":{"url":"%s"}}'
    url = b"data:image/png;base64," + _picture(size)
    said = b'[{"role":"user","content":[%s]}]' % (parts % url)
    return _with(b"messages", said, STREAMED)


def _said(text: str) -> bytes:
    return _with(b"messages", b'[{"role":"user","content":"%s"}]' % text.encode(), STREAMED)


def _dense_arguments() -> bytes:
    dense = json.dumps(json.dumps({"a": [{}] * (LONGEST // 5)}, separators=(",", ":"))).encode()
    call = b'{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f","arguments":%s}}]}'
    result = b'{"role":"tool","tool_call_id":"c","content":"x"}'
    return _with(b"messages", b"[%s,%s,%s]" % (ASK, call % dense, result), b'"n":1')


CASES: dict[str, tuple[str, Body]] = {
    "chat: 400,000 {} in tools": (CHAT, lambda: _with(b"tools", _many(b"{}", 400_000))),
    "chat: 400,000 1 in stop": (CHAT, lambda: _with(b"stop", _many(b"1", 400_000))),
    "chat: 400,000 1 in modalities": (CHAT, lambda: _with(b"modalities", _many(b"1", 400_000))),
    "chat: 10,000 {} in messages": (
        CHAT, lambda: _with(b"messages", _many(b"{}", 10_000), b'"n":1'),
    ),
    "chat: 20 MB of [] in messages": (CHAT, lambda: _with(b"messages", _filled(b"[]"), b'"n":1')),
    "chat: 20 MB of {} as parts": (
        CHAT, lambda: _with(b"messages", b'[{"role":"user","content":%s}]' % _filled(b"{}")),
    ),
    "chat: 20 MB of [] in no field": (CHAT, lambda: _with(b"x", _filled(b"[]"))),
    "chat: 20 MB of [, never closed": (CHAT, lambda: b"[" * LONGEST),
    "chat: 20 MB of quotes": (CHAT, lambda: b'"' * LONGEST),
    "chat: 20 MB of \"a\"": (CHAT, lambda: _with(b"x", _filled(b'"ab"'))),
    "chat: 20 MB of numbers": (CHAT, lambda: _with(b"x", _filled(b"1"))),
    "chat: 20 MB of keys": (
        CHAT,
        lambda: b"{%s}" % b",".join(b'"%d":0' % n for n in range(LONGEST // 13)),
    ),
    "chat: 20 MB of metadata": (CHAT, lambda: _with(
        b"metadata", b"{%s}" % b",".join(b'"%d":0' % n for n in range(LONGEST // 13)))),
    "chat: a call's arguments of 4 million {}": (CHAT, _dense_arguments),
    "completions: 400,000 {} in prompt": (
        TEXT, lambda: _with(b"prompt", _many(b"{}", 400_000), b'"n":1'),
    ),
    "completions: 400,000 1 in stop": (
        TEXT, lambda: _with(b"stop", _many(b"1", 400_000), b'"prompt":"Hello"'),
    ),
    "responses: 400,000 {} in tools": (
        RESPONSES, lambda: _with(b"tools", _many(b"{}", 400_000), b'"input":"Hello"'),
    ),
    "responses: 400,000 1 in include": (
        RESPONSES, lambda: _with(b"include", _many(b"1", 400_000), b'"input":"Hello"'),
    ),
    "responses: 10,000 {} in input": (
        RESPONSES, lambda: _with(b"input", _many(b"{}", 10_000), b'"n":1'),
    ),
    "responses: 20 MB of [] in input": (
        RESPONSES, lambda: _with(b"input", _filled(b"[]"), b'"n":1'),
    ),
    "conversations: 400,000 {} in items": (
        CONVERSATIONS, lambda: b'{"items":%s}' % _many(b"{}", 400_000),
    ),
    "conversations: 400,000 pairs of metadata": (
        CONVERSATIONS,
        lambda: b'{"metadata":{%s}}' % b",".join(b'"%d":"x"' % n for n in range(400_000)),
    ),
    "socket of responses: 18 MB of {} in tools": (
        "ws:/v1/responses",
        lambda: b'{"type":"response.create","input":"Hello","tools":%s}'
        % _filled(b"{}", 18 * MIB),
    ),
    "socket of responses: 400,000 {} in tools": (
        "ws:/v1/responses",
        lambda: b'{"type":"response.create","input":"Hello","tools":%s}' % _many(b"{}", 400_000),
    ),
    "join: 400,000 {} in tools": (
        "ws:join",
        lambda: b'{"type":"turn.create","input":"Hello","tools":%s}' % _many(b"{}", 400_000),
    ),
    "join: 18 MB of [] in updated_input": (
        "ws:join",
        lambda: b'{"type":"permission.reply","request_id":"x","behavior":"allow",'
        b'"updated_input":{"a":%s}}' % _filled(b"[]", 18 * MIB),
    ),
    "legal chat: hello": (CHAT, lambda: _with(b"messages", b"[%s]" % ASK, STREAMED)),
    "legal chat: 10,000 messages": (
        CHAT, lambda: _with(b"messages", _talk(b"hello there", 4999), STREAMED),
    ),
    "legal chat: 19 MB in 10,000 messages": (
        CHAT, lambda: _with(b"messages", _talk(b"hello there, " * 146, 4999), STREAMED),
    ),
    "legal chat: 19 MB of text": (CHAT, lambda: _said("hello, " * (19 * MIB // 7))),
    "legal chat: 19 MB of text, one emoji": (
        CHAT, lambda: _said("\U0001f600" + "hello, " * (19 * MIB // 7)),
    ),
    "legal chat: 19 MB of emojis": (CHAT, lambda: _said("\U0001f600" * (19 * MIB // 4))),
    "legal chat: 19 MB of escaped emojis": (
        CHAT, lambda: _said("\\ud83d\\ude00" * (19 * MIB // 12)),
    ),
    "legal chat: 19 MB of Chinese": (CHAT, lambda: _said("\u4f60\u597d" * (19 * MIB // 6))),
    "legal chat: 19 MB in the system's": (
        CHAT,
        lambda: _with(
            b"messages",
            b'[{"role":"system","content":"%s"},%s]' % (b"hello, " * (19 * MIB // 7), ASK),
            STREAMED,
        ),
    ),
    "legal chat: a picture of 13 MB in base64": (CHAT, lambda: _seen(10 * MIB - 70_000)),
    "legal chat: 4,900 calls and their results": (
        CHAT, lambda: _with(b"messages", _tool_talk(4_900), STREAMED),
    ),
    "legal responses: 19 MB of text": (
        RESPONSES,
        lambda: b'{"model":"sonnet","stream":true,"input":"%s"}' % (b"hello, " * (19 * MIB // 7)),
    ),
    "legal socket of responses: 19 MB of text": (
        "ws:/v1/responses",
        lambda: b'{"type":"response.create","model":"sonnet","input":"%s"}'
        % (b"hello, " * (19 * MIB // 7)),
    ),
}  # fmt: skip


class Line:
    """A plain socket that gives up after a while."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=600)

    def send(self, data: bytes) -> None:
        """Sends beside the reading: an answer may come before the end of what it refuses."""

        def run() -> None:
            try:
                self._socket.sendall(data)
            except OSError:
                pass

        threading.Thread(target=run, daemon=True).start()

    def read(self, enough: Callable[[bytes], bool]) -> bytes:
        got = b""
        while not enough(got):
            try:
                more = self._socket.recv(1 << 16)
            except OSError:
                break
            if not more:
                break
            got += more
        return got


def post(port: int, path: str, body: bytes) -> tuple[str, float]:
    line = Line(port)
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    began = perf_counter()
    line.send(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    got = line.read(lambda got: b"\r\n\r\n" in got)
    return got[9:12].decode() or "closed", perf_counter() - began


def frame(message: bytes) -> bytes:
    return b"\x81\xff" + struct.pack("!Q", len(message)) + bytes(4) + message


def talk(port: int, path: str, message: bytes) -> tuple[str, float]:
    if path == "join":
        ask = b"POST /v1/conversations HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 0\r\n\r\n"
        line = Line(port)
        line.send(ask)
        made = line.read(lambda got: b'"last_used_at"' in got)
        name = json.loads(made.partition(b"\r\n\r\n")[2])["id"]
        path = f"/v1/conversations/{name}/events"
    line = Line(port)
    line.send(
        f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
        "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    line.read(lambda got: b"\r\n\r\n" in got)
    began = perf_counter()
    line.send(frame(message))
    ends = (b'"type":"error"', b'"response.created"', b'"turn.started"')
    got = line.read(lambda got: any(end in got for end in ends) or got[:1] == b"\x88")
    told = next((end.split(b'"')[-2].decode() for end in ends if end in got), "closed")
    return told, perf_counter() - began


def main(port: int, name: str, times: int = 1) -> None:
    path, make = CASES[name]
    body = make()
    print(len(body), flush=True)
    sys.stdin.readline()

    def run() -> None:
        _, _, where = path.rpartition("ws:")
        told = talk(port, where, body) if path.startswith("ws:") else post(port, path, body)
        print(json.dumps(told), flush=True)

    threads = [threading.Thread(target=run) for _ in range(times)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
