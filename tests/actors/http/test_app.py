"""The HTTP front in process: bodies, models, what operators ask, what is not there."""

from __future__ import annotations

import json

import pytest
from openai.types import Model
from starlette.applications import Starlette
from starlette.routing import Mount
from structlog.testing import capture_logs

from ccapi.schemas.settings.settings import ModelSettings, ServerSettings, Settings

from ...support.asgi import Client, Response
from ...support.chat import ASK, CHAT, HI, ask, completion
from ...support.gateway_double import GatewayDouble, app_of, open_gateway_double

# -- bodies ----------------------------------------------------------------------------------------


async def post(client: Client, *body: bytes, **headers: str) -> Response:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.request("POST", CHAT, body=body, headers=fields)


async def test_a_body_may_come_in_pieces_and_without_a_type(
    client: Client, gateway: GatewayDouble
) -> None:
    body = json.dumps(ASK).encode()
    for type_ in ({}, {"content_type": "Application/JSON; charset=utf-8"}):
        assert (await post(client, body[:10], b"", body[10:], **type_)).status == 200


async def test_what_is_no_json_object(client: Client, gateway: GatewayDouble) -> None:
    for body, code in [(b"{", "invalid_json"), (b"", "invalid_json"), (b"[]", "invalid_type")]:
        response = await post(client, body, content_type="application/json")
        assert response.status == 400
        assert (response.error["type"], response.error["code"]) == ("invalid_request_error", code)
    response = await ask(client, messages=[HI, {"role": "user", "content": 3}])
    assert response.error["param"] == "messages[1].content"
    assert gateway.asked == []
    assert gateway.made == []


@pytest.mark.parametrize("type_", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_another_media_type_is_a_415(client: Client, type_: str) -> None:
    response = await post(client, json.dumps(ASK).encode(), content_type=type_)
    assert response.status == 415
    assert response.error["code"] == "unsupported_media_type"


async def test_a_body_over_the_limit_is_a_413_read_no_further_than_it_must() -> None:
    async with open_gateway_double(Settings(server=ServerSettings(max_body_bytes=64))) as gateway:
        client = Client(app_of(gateway))
        small = json.dumps({"messages": [HI]}).encode()
        assert (await post(client, small)).status == 200
        for declared in ("65", "9" * 5000):
            response = await post(client, content_length=declared)  # nothing of it ever comes
            assert response.status == 413
            assert response.error["code"] == "request_too_large"
        assert (await post(client, small, b" " * 64, b" ")).status == 413
        assert (await post(client, b" " * 64)).error["code"] == "invalid_json"


async def test_a_client_that_leaves_while_it_sends_gets_no_answer(client: Client) -> None:
    with capture_logs() as lines:
        async with client.stream("POST", CHAT, body=[b"{"]) as streamed:
            streamed.hang_up()
            await streamed.ended.wait()
    assert streamed.failure is None
    assert [line["log_level"] for line in lines] == ["info"]


# -- models and operators --------------------------------------------------------------------------


async def test_models() -> None:
    models = ModelSettings(available=("opus", "agent/opus"), aliases={"gpt-4o": "opus"},
                           default="opus")  # fmt: skip
    async with open_gateway_double(Settings(models=models)) as gateway:
        client = Client(app_of(gateway))
        listed = (await client.request("GET", "/v1/models")).json()
        assert listed["object"] == "list"
        assert [model["id"] for model in listed["data"]] == [
            "opus",
            "agent/opus",
            "gpt-4o",
            "agent/gpt-4o",
        ]
        for model in listed["data"]:
            Model.model_validate(model, strict=True)
            assert (await client.request("GET", f"/v1/models/{model['id']}")).json() == model
        model = listed["data"][0]
        assert (model["name"], model["source"], model["resolved_model"]) == (
            "Claude Opus", "table", "opus",
        )  # fmt: skip
        assert model["context_length"] == model["context_window"] == 1_000_000
        assert model["max_output_tokens"] == model["max_completion_tokens"] == 128_000
        assert model["architecture"]["input_modalities"] == ["text", "image", "file"]
        assert {"tools", "reasoning", "response_format"} <= {*model["supported_parameters"]}
        assert "temperature" not in model["supported_parameters"]
        assert listed["data"][1]["profile"] == "agent"
        missing = await client.request("GET", "/v1/models/haiku")
        assert missing.status == 404
        assert (missing.error["type"], missing.error["code"], missing.error["param"]) == (
            "not_found_error",
            "model_not_found",
            "model",
        )


async def test_health_readiness_statistics_and_metrics(
    client: Client, gateway: GatewayDouble
) -> None:
    assert (await client.request("GET", "/health")).json() == {"status": "ok"}
    assert (await client.request("GET", "/ready")).status == 200
    stats = (await client.request("GET", "/stats")).json()
    assert stats["turns"] == {"finished": 7}
    assert stats["gateway"]["children"]["live"] == 2
    assert stats["mcp"] == []
    mcp = (await client.request("GET", "/v1/mcp")).json()
    assert mcp == {"object": "list", "data": [], "per_conversation": []}
    metrics = await client.request("GET", "/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=")
    assert metrics.body == b"ccapi_turns_total 7.0\n"
    gateway.draining = True
    gone = await client.request("GET", "/ready?else=404")
    assert (gone.status, gone.error["code"]) == (404, "draining")
    assert (await client.request("GET", "/ready?else=500")).status == 400
    unready = await client.request("GET", "/ready")
    assert (unready.status, unready.error["code"]) == (503, "draining")
    assert (await client.request("GET", "/health")).status == 200


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("/v1/embeddings", "embeddings"),
        ("/v1/audio/speech", "speech"),
        ("/v1/audio/transcriptions", "transcription"),
        ("/v1/images/generations", "images"),
        ("/v1/moderations", "moderations"),
        ("/v1/files/file_1/parts", "files"),
        ("/v1/batches/batch_1/lines", "batches"),
        ("/v1/fine_tuning/jobs", "fine-tuning"),
        ("/v1/assistants", "assistants"),
        ("/v1/threads/t/runs", "threads"),
        ("/v1/vector_stores", "vector stores"),
        ("/v1/realtime/sessions", "Realtime"),
        ("/v1/chat/completions/chatcmpl-1", "stored chat completions"),
        ("/v1/responses/resp_1/nothing", "Responses"),
        ("/v1/responses/nothing", "/v1/responses/nothing"),
    ],
)
async def test_what_is_not_offered_is_a_404_that_says_so(
    client: Client, path: str, what: str
) -> None:
    """OpenAI's SDKs ask again after a 501."""
    response = await client.request("POST", path, json={})
    assert response.status == 404
    assert (response.error["type"], response.error["code"]) == ("not_found_error", "not_offered")
    assert what in response.error["message"]
    assert path in response.error["message"]


async def test_a_name_that_only_begins_like_theirs_is_not_openais(client: Client) -> None:
    for path in ("/v1/filesystem", "/v1/embeddingsx", "/embeddings"):
        assert (await client.request("POST", path, json={})).error["code"] == "not_found"


async def test_a_response_has_its_methods(client: Client) -> None:
    wrong = await client.request("POST", "/v1/responses/resp_1", json={})
    assert (wrong.status, wrong.headers["allow"]) == (405, "GET, DELETE, HEAD")


async def test_unknown_paths_and_methods(client: Client) -> None:
    missing = await client.request("POST", "/v1/nothing", json={})
    assert missing.status == 404
    assert (missing.error["type"], missing.error["code"]) == ("not_found_error", "not_found")
    wrong = await client.request("DELETE", "/v1/conversations")
    assert wrong.status == 405
    assert wrong.error["code"] == "method_not_allowed"
    assert wrong.headers["allow"] == "GET, POST, HEAD"
    assert (await client.request("GET", CHAT)).headers["allow"] == "POST"
    assert (await client.request("HEAD", "/v1/models")).status == 200


async def test_the_app_can_be_mounted_in_another(gateway: GatewayDouble) -> None:
    client = Client(Starlette(routes=[Mount("/ai", app_of(gateway))]))
    assert (await client.request("GET", "/ai/health")).status == 200
    response = await client.request("POST", f"/ai{CHAT}", json=ASK)
    assert completion(response).model == "sonnet"
    assert (await client.request("GET", "/ai/nowhere")).error["code"] == "not_found"
    assert (await client.request("GET", "/ai/v1/images")).error["code"] == "not_offered"
