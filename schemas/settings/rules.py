"""What a setting may hold: one small rule per kind of value, and how its error is worded.

Knows kinds of values (ports, origins, host names, key lists). Refuses to know which settings there
are (`settings`) and where a value came from (`ccapi.transport.settings_loader`).

A rule looks at one value and answers with what is wrong ("must be ..."), or None. It never quotes
the value: only who knows whether it is a secret may do that.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import frozen

MASK = "********"
"""What stands for a secret wherever settings are shown; refused as a secret's value, so that
masked output fed back in does not become a key that everyone knows."""

LARGEST = 1e12

MIN_SECRET = 16
"""Characters of a secret that no one may guess."""


@frozen
class Problem:
    """One reason why settings are refused. `key` is `section.key`, empty for a whole file;
    `source` says where the value stood, empty for settings made in code."""

    key: str
    reason: str
    source: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.source, self.key, self.reason) if part)


class SettingsError(ValueError):
    """Settings are refused; `problems` has every reason found, `str()` one line for each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


Rule = Callable[[Any], str | None]


def is_loopback(host: str) -> bool:
    """Whether `host` can only be reached from this machine; unknown names count as exposed."""
    if host.lower() == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def whole(low: int, high: int | None = None) -> Rule:
    bounds = f"from {low} to {high}" if high is not None else f"of at least {low}"

    def rule(value: object) -> str | None:
        fits = type(value) is int and low <= value and (high is None or value <= high)
        return None if fits else f"must be a whole number {bounds}"

    return rule


def _number(value: object) -> bool:
    # The bound keeps out infinity and integers that no clock can add; NaN fails any comparison.
    return type(value) in {int, float} and -LARGEST <= value <= LARGEST  # type: ignore[operator]


def positive(value: Any) -> str | None:
    return None if _number(value) and value > 0 else "must be a number greater than 0"


def not_negative(value: Any) -> str | None:
    return None if _number(value) and value >= 0 else "must be a number, 0 or greater"


def boolean(value: object) -> str | None:
    return None if type(value) is bool else "must be true or false"


def one_of(*choices: str) -> Rule:
    return lambda value: None if value in choices else f"must be one of {', '.join(choices)}"


def _printable(value: object) -> bool:
    return isinstance(value, str) and bool(value) and value.isprintable()


def is_permission_rule(value: object) -> bool:
    """``Tool`` or ``Tool(pattern)``. A comma outside of the pattern would begin another rule."""
    if not isinstance(value, str):
        return False
    name, opening, pattern = value.partition("(")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.*-]*", name):
        return False
    return not opening or (len(pattern) > 1 and pattern.endswith(")") and value.isprintable())


def is_visible_ascii(value: object) -> bool:
    return isinstance(value, str) and bool(value) and all("!" <= char <= "~" for char in value)


def each(fits: Callable[[Any], bool], reason: str) -> Rule:
    """A tuple without duplicates whose every item fits."""

    def rule(value: object) -> str | None:
        if not isinstance(value, tuple) or not all(map(fits, value)):
            return reason
        return None if len(set(value)) == len(value) else "must not hold anything twice"

    return rule


def optional_origin(value: Any) -> str | None:
    fits = value == "" or is_origin(value)
    return None if fits else "must be an origin such as http://10.0.0.5:8080, or empty"


def optional_secret(value: Any) -> str | None:
    if value == MASK:
        return "holds the mask that stands for a secret, not the secret"
    fits = value == "" or (is_visible_ascii(value) and len(value) >= MIN_SECRET)
    return None if fits else f"must be at least {MIN_SECRET} visible ASCII characters, or empty"


DATABASES = ("postgresql://", "postgres://")


def optional_database(value: Any) -> str | None:
    if value == MASK:
        return "holds the mask that stands for a secret, not the secret"
    fits = value == "" or (is_visible_ascii(value) and value.startswith(DATABASES))
    return None if fits else "must be a URL such as postgresql://user@host:5432/name, or empty"


def host(value: Any) -> str | None:
    return None if is_host(value) else "must be a host name or address"


def is_host(value: Any) -> bool:
    """A bare host name or address: no scheme, no port, no brackets."""
    if not is_visible_ascii(value):
        return False
    try:
        ip_address(value)
    except ValueError:
        return not set(value) & set(":/[]@?#*,\\")
    return True


def is_host_and_port(value: Any) -> bool:
    """A host name or address, with or without a port; ``.domain`` for all names in it."""
    if not isinstance(value, str):
        return False
    name, colon, port = value.rpartition(":")
    if not colon or (":" in name and not name.endswith("]")):
        name, port = value, "1"
    return port.isdecimal() and 0 < int(port) < 65536 and is_host(name.strip("[]").lstrip("."))


def is_origin(value: Any) -> bool:
    """`*` or exactly `scheme://host[:port]`, as a browser sends it."""
    if value == "*":
        return True
    if not is_visible_ascii(value):
        return False
    try:
        parts = urlsplit(value)
        name, port = parts.hostname or "", parts.port
    except ValueError:
        return False
    # What is parsed is put together again: behind brackets, for one, parsers pass over words.
    place = f"[{name}]" if ":" in name else name
    place += "" if port is None else f":{port}"
    return bool(parts.scheme and name) and port != 0 and value == f"{parts.scheme}://{place}"


def command(value: Any) -> str | None:
    """A program: its name or its path, spaces in it allowed, without arguments."""
    sound = _printable(value) and value == value.strip()
    return None if sound else "must be the name or the path of a program"


def path(value: object) -> str | None:
    return None if isinstance(value, Path) and "\0" not in str(value) else "must be a path"


def optional_path(value: object) -> str | None:
    return None if value is None else path(value)


def is_absolute_path(value: Any) -> bool:
    """An absolute path as it would be typed: printable, without ``..``."""
    return _printable(value) and value.startswith("/") and ".." not in value.split("/")


def model(value: Any) -> str | None:
    return None if is_visible_ascii(value) else "must be a model id"


def environment(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return "must map names to strings"
    for name, text in value.items():
        if not is_visible_ascii(name) or "=" in name:
            return "has a name that no environment variable can have"
        if not isinstance(text, str) or "\0" in text:
            return f"{name} must be a string without NUL"
        if text == MASK:
            return f"{name} holds the mask that stands for a secret, not the secret"
    return None


def api_keys(value: Any) -> str | None:
    if not isinstance(value, tuple) or not all(map(is_visible_ascii, value)):
        return "every key must be visible ASCII and not empty"
    if MASK in value:
        return "holds the mask that stands for a key, not the key"
    if any(key.startswith(HASHED) and not _HASH.fullmatch(key) for key in value):
        return f"what begins with {HASHED} must go on with 64 hexadecimal digits in lower case"
    hashes = {hash_key(key) for key in value}
    return None if len(hashes) == len(value) else "must not hold a key twice"


HASHED = "sha256:"
_HASH = re.compile(r"sha256:[0-9a-f]{64}")


def hash_key(key: str) -> str:
    """A key as the settings may hold it in its place: ``sha256:`` and its digest in hexadecimal."""
    if _HASH.fullmatch(key):
        return key
    return HASHED + hashlib.sha256(key.encode()).hexdigest()


def model_map(value: Any) -> str | None:
    sound = isinstance(value, Mapping) and all(
        is_visible_ascii(name) for pair in value.items() for name in pair
    )
    return None if sound else "must map model ids to model ids"
