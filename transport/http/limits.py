"""What one HTTP connection may take of time and memory, and the same in hypercorn's words.

Knows: limits. Refuses to know: who keeps them.
"""

from __future__ import annotations

from logging import getLogger
from math import inf
from typing import cast

from attrs import frozen
from hypercorn.config import Config


@frozen(kw_only=True)
class HttpLimits:
    """How long, how much and how many. Times in seconds, sizes in bytes.

    `stall_seconds`: a client that takes no byte of a response, or sends none of an announced
    request body, for so long is treated as gone. `min_body_bytes_per_second`: the least rate of a
    request body, on average and beyond the first `stall_seconds`. `head_timeout_seconds`: a TLS
    handshake, and a request head from its first byte, must be complete within this.
    `keep_alive_seconds`: how long a connection may wait for its next request. `max_header_bytes`:
    of a request head. `max_streams`: requests at once on one HTTP/2 connection.
    """

    stall_seconds: float = 30.0
    min_body_bytes_per_second: float = 8192.0
    head_timeout_seconds: float = 10.0
    keep_alive_seconds: float = 75.0
    max_header_bytes: int = 65536
    max_streams: int = 100


def hypercorn_config(limits: HttpLimits) -> Config:
    """What hypercorn's protocols are to know. It reads no file, keeps no access log, and names no
    server; its few log lines go to the logger of the front door."""
    config = Config()
    config.accesslog = None
    config.errorlog = getLogger("ccapi.front_door")
    config.include_server_header = False
    config.h11_max_incomplete_size = limits.max_header_bytes
    config.h2_max_header_list_size = limits.max_header_bytes
    config.h2_max_concurrent_streams = limits.max_streams
    # hypercorn ends an HTTP/2 connection of so many requests with all that is running on it.
    config.keep_alive_max_requests = cast(int, inf)
    return config
