"""``/openapi.json``: every route is in it, and what it says of itself is sound."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_origin

import attrs
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from ccapi.actors.http.middleware import EXPOSED
from ccapi.actors.http.openapi import (
    DETAILS,
    ERRORS_OF,
    HEADERS,
    OPERATIONS,
    SOCKETS,
    make_document,
)
from ccapi.actors.websocket.app import ROUTES
from ccapi.schemas import errors
from ccapi.schemas.convert import structure
from ccapi.schemas.describe import Describer
from ccapi.schemas.errors import GatewayError, InvalidRequest
from ccapi.schemas.openai.chat import ChatRequest
from ccapi.schemas.settings.settings import AuthSettings, Settings

from ...support.asgi import Client
from ...support.gateway_double import GatewayDouble, app_of, open_gateway_double, saying

JSON = dict[str, Any]
PATH = "/openapi.json"


def routes_of(gateway: GatewayDouble) -> set[tuple[str, str]]:
    """Each method of each path that the app has."""
    front: Any = app_of(gateway)
    return {
        (method, re.sub(r":\w+}", "}", route.path))
        for route in front._app.routes
        for method in route.app._handlers
    }


async def test_every_route_is_described(gateway: GatewayDouble) -> None:
    """A new one is described in `OPERATIONS` (actors/http/openapi.py)."""
    assert set(OPERATIONS) == routes_of(gateway)


def test_every_websocket_is_described() -> None:
    shown = {re.sub(r"\{\w+\}", "conv_1", path) for path in SOCKETS}
    for path in shown:
        assert [each for each in ROUTES if each.pattern.fullmatch(path)], path
    for each in ROUTES:
        assert [path for path in shown if each.pattern.fullmatch(path)], each


@pytest.mark.parametrize("keyed", [False, True])
def test_the_document_is_valid(keyed: bool) -> None:
    document = make_document(keyed=keyed)
    validate(document)
    text = json.dumps(document)
    for name in set(re.findall(r'"#/components/(\w+/[\w-]+)"', text)):
        kind, _, of = name.partition("/")
        assert of in document["components"][kind], name
    for name in document["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text, f"{name} is used nowhere"


async def test_it_is_made_once_and_not_before(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bool] = []

    def make(*, keyed: bool) -> JSON:
        made.append(keyed)
        return {"openapi": "3.1.1"}

    monkeypatch.setattr("ccapi.actors.http.openapi.make_document", make)
    assert (await client.request("GET", "/health")).status == 200
    assert not made
    for _ in range(2):
        response = await client.request("GET", PATH)
        assert (response.status, response.json()) == (200, {"openapi": "3.1.1"})
        assert response.headers["content-type"] == "application/json"
    assert made == [False]


async def test_it_asks_for_a_key_where_keys_are_set() -> None:
    auth = AuthSettings(api_keys=("one-long-enough-key",))
    async with open_gateway_double(Settings(auth=auth)) as gateway:
        client = Client(app_of(gateway))
        assert (await client.request("GET", PATH)).status == 401
        key = {"x-api-key": "one-long-enough-key"}
        response = await client.request("GET", PATH, headers=key)
    paths = response.json()["paths"]
    assert "one-long" not in response.body.decode()
    for (method, path), operation in OPERATIONS.items():
        shown = paths[path][method.lower()]
        assert ("security" in shown) == operation.keyed
        assert ("401" in shown["responses"]) == operation.keyed


def test_headers_that_pages_may_read_are_described() -> None:
    assert set(EXPOSED) <= set(HEADERS)


def test_every_error_has_a_description() -> None:
    statuses = {
        each.status
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, GatewayError)
    }
    described = set(ERRORS_OF)
    # 501 answers to WebSockets of an app that serves none, 405 to methods that no path has.
    assert statuses - described == {501, 405}


# -- what is read ----------------------------------------------------------------------------------


VALUES: tuple[Any, ...] = ("a", 1, 1.5, True, None, [], {}, ["a"], [1], [None])


def test_a_description_is_of_a_field_that_there_is() -> None:
    for cls in DETAILS:
        Describer(DETAILS).ref(cls)
    with pytest.raises(AssertionError, match="has no"):
        Describer({ChatRequest: {"nonsense": {}}}).ref(ChatRequest)


def test_a_class_is_described_as_the_converter_takes_it() -> None:
    """A value of each JSON kind in each field of each class: what the types alone refuse is
    refused by both, and nothing else is."""
    describer = Describer({})
    classes = [cls for cls in DETAILS if attrs.has(cls)]
    for cls in classes:
        describer.ref(cls)
    for cls in classes:
        schema = {**describer.ref(cls), "components": {"schemas": describer.schemas}}
        validator = Draft202012Validator(schema)
        fields = attrs.fields(attrs.resolve_types(cls))
        sound = {f.name: _sound(f.type) for f in fields if f.default is attrs.NOTHING}
        assert validator.is_valid(sound), cls
        assert not sound or not validator.is_valid({})
        for each in fields:
            for value in VALUES:
                given = {**sound, each.name: value}
                assert validator.is_valid(given) == _is_taken(given, cls), (cls, each.name, value)


def _sound(kind: Any) -> Any:
    if get_origin(kind) is Mapping:
        return {}
    return {str: "a", int: 1}.get(kind, [])


def _is_taken(value: JSON, cls: type) -> bool:
    try:
        structure(value, cls)
    except InvalidRequest:
        return False
    return True


# -- what is refused -------------------------------------------------------------------------------

KINDS: tuple[Any, ...] = ("a", "", " ", 1, 0, -1, 1.5, True, None, [], {}, [None], [1], {"a": 1})
DEEPEST = 3
MANY = 1000
"""Items that are too many for a test."""


def _wrong(schema: JSON, components: JSON) -> Iterator[Any]:
    """Values that break the schema in one place: of another kind, and just outside of each bound
    that it has."""
    keywords: list[JSON] = [schema, *schema.get("anyOf", ())]
    tried: list[Any] = [*KINDS]
    for each in keywords:
        tried += [each[name] - 1 for name in ("minimum",) if name in each]
        tried += [each[name] + 1 for name in ("maximum",) if name in each]
        if "maxLength" in each:
            tried.append("a" * (each["maxLength"] + 1))
        if each.get("maxItems", MANY) < MANY:
            tried.append(["a"] * (each["maxItems"] + 1))
        if "maxProperties" in each:
            tried.append({str(number): "a" for number in range(each["maxProperties"] + 1)})
        if "propertyNames" in each:
            tried.append({"a" * 1000: "a"})
        if isinstance(each.get("additionalProperties"), dict):
            tried.append({"a": "a" * 10_000})
    validator = Draft202012Validator({**schema, "components": components})
    yield from (value for value in tried if not validator.is_valid(value))


def _variants(schema: JSON, components: JSON, sound: Any, depth: int = 0) -> Iterator[Any]:
    """What breaks the schema, at its top or in one field beneath it; `sound` does not."""
    yield from _wrong(schema, components)
    if depth == DEEPEST:
        return
    for each in (schema, *schema.get("anyOf", ())):
        while "$ref" in each:
            each = components["schemas"][each["$ref"].rpartition("/")[2]]
        if each.get("type") in ("array", ["array", "null"]) and isinstance(each["items"], dict):
            inner = sound[0] if isinstance(sound, list) and sound else {}
            yield from ([bad] for bad in _variants(each["items"], components, inner, depth + 1))
        if "properties" in each and isinstance(sound, dict):
            for name in each.get("required", ()):
                yield {key: value for key, value in sound.items() if key != name} or {"b": 1}
            for name, field in each["properties"].items():
                given = sound.get(name, {})
                for bad in _variants(field, components, given, depth + 1):
                    yield {**sound, name: bad}


BODIES = [place for place, operation in OPERATIONS.items() if operation.examples]


@pytest.mark.parametrize(("method", "path"), BODIES, ids=map(" ".join, BODIES))
async def test_a_body_that_the_document_forbids_is_refused(
    client: Client, gateway: GatewayDouble, method: str, path: str
) -> None:
    document = make_document(keyed=False)
    components = document["components"]
    [sound, *_] = OPERATIONS[method, path].examples.values()
    content = document["paths"][path][method.lower()]["requestBody"]["content"]
    schema = content["application/json"]["schema"]
    root = {**schema, "components": components}
    assert Draft202012Validator(root).is_valid(sound)
    validator = Draft202012Validator(root)
    place = path.replace("{conversation_id}", gateway.conversation().conversation_id)
    tried = 0
    for body in _variants(schema, components, sound):
        if validator.is_valid(body):  # it was one way of several to be sound
            continue
        tried += 1
        response = await client.request(
            method, place, body=[json.dumps(body).encode()], headers=TYPE
        )
        assert response.status in (400, 413), json.dumps(body)[:1000]
        if "code" in (error := response.json()["error"]):
            assert error["code"] != "invalid_json"
    assert tried > 20


TYPE = {"content-type": "application/json"}
QUERIES = [place for place, each in OPERATIONS.items() if each.parameters]


@pytest.mark.parametrize(("method", "path"), QUERIES, ids=map(" ".join, QUERIES))
async def test_a_parameter_that_the_document_forbids_is_refused(
    client: Client, gateway: GatewayDouble, method: str, path: str
) -> None:
    made = gateway.conversation().conversation_id
    asked = {"model": "sonnet", "input": "Hello"}
    gateway.script = saying("Hello")
    response_id = (await client.request("POST", "/v1/responses", json=asked)).json()["id"]
    place = path.replace("{conversation_id}", made).replace("{response_id}", response_id)
    operation = OPERATIONS[method, path]
    body = next(iter(operation.examples.values()), None)
    for parameter in operation.parameters:
        name, schema = parameter["name"], parameter["schema"]
        texts = ["", "nonsense", "0", "-1", "1.5", "101", "1000000000", "é", "a" * 256, "null"]
        if parameter["in"] == "header":
            wrong = [{"headers": {name: text}} for text in texts if _is_wrong(schema, text)]
            queries = [""] * len(wrong)
        else:
            wrong = [{}] * len(texts)
            queries = [f"?{name}={text}" for text in texts if _is_wrong(schema, text)]
            queries.append(f"?{name}=1&{name}=1")
        for query, more in zip(queries, wrong, strict=False):
            response = await client.request(method, f"{place}{query}", json=body, **more)
            assert response.status == 400, (query, more)
            error = response.json()["error"]
            assert error.get("param", name) == name
            assert name in error["message"].lower()


def _is_wrong(schema: JSON, text: str) -> bool:
    value: Any = text
    if schema["type"] == "integer" and re.fullmatch(r"-?\d+", text):
        value = int(text)
    return not Draft202012Validator(schema).is_valid(value)
