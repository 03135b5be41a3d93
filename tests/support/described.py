"""Answers held against the gateway's own OpenAPI document.

Knows: which operation a request is of, and what the document says of its answer: status, headers,
kind of content, fields, and each event of a stream. Refuses to know: how the answer came about.

The document allows fields that it does not name; here they are errors, so that what the gateway
writes is described.
"""

from __future__ import annotations

import copy
import json
import re
from typing import Any

from attrs import define, field
from jsonschema import Draft202012Validator

JSON = dict[str, Any]

PLAIN_HEADERS = {
    "content-type", "content-length", "date", "server", "transfer-encoding", "connection",
    "cache-control", "x-accel-buffering", "allow", "content-security-policy",
    "x-content-type-options", "referrer-policy", "cross-origin-opener-policy", "vary",
}  # fmt: skip


@define
class Described:
    """`document` as it is served. `seen` collects the operations and statuses that were checked."""

    document: JSON
    seen: set[tuple[str, str, int]] = field(factory=set)
    events: set[str] = field(factory=set)
    _components: JSON = field(init=False)

    @_components.default
    def _strict(self) -> JSON:
        components = copy.deepcopy(self.document["components"])
        _close(components["schemas"])
        return {"schemas": components["schemas"]}

    def operation(self, method: str, path: str) -> tuple[str, JSON]:
        """The path as the document has it, and what it says of the method there."""
        path = path.partition("?")[0]
        exact = self.document["paths"].get(path)
        if exact is not None:
            return path, exact[method.lower()]
        for shown, item in self.document["paths"].items():
            if re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(shown)), path):
                return shown, item[method.lower()]
        raise AssertionError(f"{path} is not described")

    def check(
        self, method: str, path: str, status: int, headers: dict[str, str], body: bytes
    ) -> None:
        """AssertionError for what the document does not say."""
        shown, operation = self.operation(method, path)
        place = f"{method} {path}: {status}"
        assert str(status) in operation["responses"], f"{place} is not described"
        answer = operation["responses"][str(status)]
        if "$ref" in answer:
            name = answer["$ref"].rpartition("/")[2]
            answer = self.document["components"]["responses"][name]
        self._check_headers(place, answer, status, headers)
        self.seen.add((method, shown, status))
        if not body:
            return
        kind = headers["content-type"].partition(";")[0]
        assert kind in answer["content"], f"{place} in {kind} is not described"
        content = answer["content"][kind]
        if kind == "application/json":
            self._check_value(place, content["schema"], json.loads(body))
        elif kind == "text/event-stream":
            self._check_events(place, content, body)

    def _check_headers(
        self, place: str, answer: JSON, status: int, headers: dict[str, str]
    ) -> None:
        assert "x-request-id" in headers, place
        if status >= 400:  # a turn that failed has headers of its turn, too
            described = set(self.document["components"]["headers"])
        else:
            described = set(answer["headers"])
        assert not set(headers) - described - PLAIN_HEADERS, place
        for name in set(headers) & set(self.document["components"]["headers"]):
            schema = self.document["components"]["headers"][name]["schema"]
            value: Any = headers[name]
            if schema.get("type") == "integer":
                value = int(value)
            self._check_value(f"{place} {name}", schema, value)

    def _check_events(self, place: str, content: JSON, body: bytes) -> None:
        *blocks, rest = body.decode().split("\n\n")
        assert rest == "", place
        events = [block for block in blocks if not block.startswith(":")]
        shown = content["schema"]["properties"]["data"]
        end, shown = (
            (shown["anyOf"][0]["const"], shown["anyOf"][1]) if "anyOf" in shown else ("", shown)
        )
        data = [line[6:] for each in events for line in each.split("\n") if line[:6] == "data: "]
        assert len(data) == len(events), place
        if end and '"error"' not in data[-1]:
            assert data.pop() == end, place
        for number, each in enumerate(map(json.loads, data)):
            self._check_value(f"{place}, event {number}", shown["contentSchema"], each)
            self.events.add(each.get("type", each.get("object", "error")))

    def _check_value(self, place: str, schema: JSON, value: Any) -> None:
        validator = Draft202012Validator({**_closed(schema), "components": self._components})
        errors = [
            f"{error.json_path}: {error.message[:600]}" for error in validator.iter_errors(value)
        ]
        assert not errors, "\n".join([place, *errors, json.dumps(value)[:2000]])


def _closed(schema: JSON) -> JSON:
    closed = copy.deepcopy(schema)
    _close(closed)
    return closed


def _close(node: Any) -> None:
    """Take no fields that are not named."""
    if isinstance(node, dict):
        if node.get("type") == "object" and "properties" in node:
            node.setdefault("additionalProperties", False)
        for inner in node.values():
            _close(inner)
    elif isinstance(node, list):
        for inner in node:
            _close(inner)
