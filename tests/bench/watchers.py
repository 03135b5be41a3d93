"""Watchers of conversations, as plain as sockets can be: ``PORT PATHS SOCKETS SECONDS``, with
commas between the paths, and so many sockets for each.

Prints a line when all have joined, and at the end how many text deltas came to all of them, and
in how many seconds from the first byte to the last.
"""

from __future__ import annotations

import selectors
import socket
import sys
from time import perf_counter

DELTA = b'"text.delta"'


def join(port: int, path: str) -> socket.socket:
    one = socket.create_connection(("127.0.0.1", port))
    one.sendall(
        f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
        "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    head = b""
    while b"conversation.joined" not in head:
        more = one.recv(65536)
        assert more, head
        head += more
    one.setblocking(False)
    return one


def main(port: str, paths: str, sockets: str, seconds: str) -> None:
    """Counts until there was nothing for `seconds`, once something came."""
    selector = selectors.DefaultSelector()
    for path in paths.split(","):
        for _ in range(int(sockets)):
            one = join(int(port), path)
            selector.register(one, selectors.EVENT_READ, bytearray())
    print("joined", flush=True)
    count, first, last = 0, 0.0, 0.0
    while ready := selector.select(float(seconds)):
        for key, _ in ready:
            assert isinstance(key.fileobj, socket.socket)
            data = key.fileobj.recv(1 << 18)
            if not data:
                selector.unregister(key.fileobj)
                continue
            tail: bytearray = key.data
            got = (bytes(tail) + data).count(DELTA)
            tail[:] = data[-len(DELTA) + 1 :]
            if got:
                count += got
                last = perf_counter()
                first = first or last
    print(count, last - first, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
