"""The Files routes, driven in process."""

from __future__ import annotations

from typing import Any

import pytest
from anthropic.types import FileMetadata

from ccapi.schemas.settings.settings import AuthSettings, FileSettings, Settings

from ...support.asgi import Client
from ...support.batches import BOUNDARY, FORM, a_form, form, upload
from ...support.gateway_double import GatewayDouble, app_of, open_gateway_double

HEAD = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="a"'.encode()


async def test_a_file_is_kept_shown_and_deleted(client: Client) -> None:
    content = bytes(range(256)) * 3000  # three pieces
    body = a_form(content, "user_data", 'a \\"b\\".bin')
    pieces = [body[at : at + 10_000] for at in range(0, len(body), 10_000)]
    response = await client.request("POST", "/v1/files", body=pieces, headers=FORM)
    file = response.json()
    assert (file["object"], file["bytes"], file["purpose"]) == ("file", len(content), "user_data")
    assert file["expires_at"] == file["created_at"] + 30 * 86400
    shown = await client.request("GET", f"/v1/files/{file['id']}")
    assert shown.json() == file
    whole = await client.request("GET", f"/v1/files/{file['id']}/content")
    assert whole.body == content
    assert whole.headers["content-length"] == str(len(content))
    assert whole.headers["x-content-type-options"] == "nosniff"
    deleted = await client.request("DELETE", f"/v1/files/{file['id']}")
    assert deleted.json() == {"id": file["id"], "object": "file", "deleted": True}
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/content")):
        response = await client.request(method, f"/v1/files/{file['id']}{path}")
        assert (response.status, response.error["code"]) == (404, "file_not_found")


async def test_the_purpose_may_come_behind_the_file(client: Client) -> None:
    body = form(
        ('name="file"; filename="x.txt"', b"hello"),
        ('name="expires_after[anchor]"', b"created_at"),
        ('name="expires_after[seconds]"', b"3600"),
        ('name="purpose"', b"user_data"),
    )
    file = (await client.request("POST", "/v1/files", body=[body], headers=FORM)).json()
    assert (file["filename"], file["expires_at"] - file["created_at"]) == ("x.txt", 3600)


async def test_files_are_listed(client: Client) -> None:
    names = [await upload(client, b"x", "batch" if n % 2 else "user_data") for n in range(3)]

    async def listed(query: str) -> tuple[list[str], bool]:
        page = (await client.request("GET", f"/v1/files?{query}")).json()
        return [each["id"] for each in page["data"]], page["has_more"]

    assert await listed("") == (names[::-1], False)
    assert await listed("limit=1&order=asc") == (names[:1], True)
    assert await listed(f"after={names[1]}") == (names[:1], False)
    assert await listed("purpose=batch") == ([names[1]], False)
    assert (await client.request("GET", "/v1/files?purpose=vision")).error["param"] == "purpose"
    unknown = await client.request("GET", "/v1/files?after=file-1")
    assert (unknown.status, unknown.error["param"]) == (404, "after")


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (a_form(b"x", "assistants"), 400, "purpose"),
        (a_form(b"x", "vision"), 400, "purpose"),
        (form(('name="file"; filename="a"', b"x")), 400, "purpose"),
        (form(('name="purpose"', b"batch")), 400, "file"),
        (a_form(b""), 400, "file"),
        (form(('name="purpose"', b"batch"), ('name="purpose"', b"batch")), 400, "purpose"),
        (form(('name="purpose"', b"b" * 2000)), 400, "purpose"),
        (
            form(*[('name="file"; filename="a"', b"x")] * 2, ('name="purpose"', b"batch")),
            400,
            "file",
        ),
        (form(('name="other"; filename="a"', b"x")), 400, "file"),
        (form(*[(f'name="f{n}"', b"x") for n in range(33)]), 400, None),
        (form(("nothing", b"x")), 400, None),
        (a_form(b"x")[:-10], 400, None),
        (HEAD + b"\r\nx: " + b"y" * 100_000 + b"\r\n\r\n", 400, None),
        (HEAD + b"\r\nx: y" * 50 + b"\r\n\r\n", 400, None),
        (b"nonsense" * 100, 400, None),
        (b"", 400, None),
        (a_form(b"x" * 2_000_000), 413, "file"),
        (a_form(b"x" * 1_000_001), 413, "file"),
    ],
)
async def test_what_is_no_upload_is_refused(body: bytes, status: int, param: str | None) -> None:
    settings = Settings(files=FileSettings(max_bytes=1_000_000))
    async with open_gateway_double(settings) as gateway:
        client = Client(app_of(gateway))
        response = await client.request("POST", "/v1/files", body=[body], headers=FORM)
        assert (response.status, response.error["param"]) == (status, param)
        held = await gateway.batches.store.statistics()
        assert held.file_bytes == 0, "nothing of it is kept"


async def test_only_a_form_is_taken(client: Client) -> None:
    for headers, status in (
        ({"content-type": "application/json"}, 415),
        ({"content-type": "multipart/form-data"}, 400),
        ({"content-type": f"multipart/form-data; boundary={'b' * 300}"}, 400),
        (FORM | {"content-encoding": "gzip"}, 415),
    ):
        response = await client.request("POST", "/v1/files", body=[a_form(b"x")], headers=headers)
        assert response.status == status


async def test_many_tiny_pieces_are_refused(client: Client) -> None:
    body = a_form(b"x" * 30_000)
    pieces = [body[at : at + 1] for at in range(len(body))]
    response = await client.request("POST", "/v1/files", body=pieces, headers=FORM)
    assert response.error["code"] == "too_many_pieces"


async def test_files_of_a_key_are_bounded_and_its_own() -> None:
    settings = Settings(
        auth=AuthSettings(api_keys=("alice", "bob")),
        files=FileSettings(max_files=2, max_key_bytes=100),
    )
    async with open_gateway_double(settings) as gateway:
        app = app_of(gateway)
        alice, bob = (Client(app, {"x-api-key": name}) for name in ("alice", "bob"))
        file_id = await upload(alice, b"x" * 60)
        assert (await bob.request("GET", f"/v1/files/{file_id}")).status == 404
        assert (await bob.request("GET", f"/v1/files/{file_id}/content")).status == 404
        assert (await bob.request("DELETE", f"/v1/files/{file_id}")).status == 404
        assert (await bob.request("GET", "/v1/files")).json()["data"] == []
        for content in (b"x" * 60, b"y"):
            response = await alice.request(
                "POST", "/v1/files", body=[a_form(content)], headers=FORM
            )
            assert response.status == (429 if len(content) > 40 else 200)
        response = await alice.request("POST", "/v1/files", body=[a_form(b"z")], headers=FORM)
        assert response.error["code"] == "too_many_files"
        await upload(bob, b"x" * 60)


async def test_an_upload_that_breaks_off_leaves_nothing(
    client: Client, gateway: GatewayDouble
) -> None:
    body = a_form(b"x" * 1_000_000)
    async with client.stream(
        "POST", "/v1/files", body=[body[:600_000], b""], headers=FORM
    ) as streamed:
        streamed.hang_up()
    assert (await gateway.batches.store.statistics()).file_bytes == 0


# -- in the dialect of the Messages API ------------------------------------------------------------

VERSIONED = {"anthropic-version": "2023-06-01"}


async def test_the_messages_dialect_has_files_of_its_own_form(client: Client) -> None:
    body = form(
        ('name="file"; filename="a.pdf"', b"%PDF-1.4"), ('name="expires_in_seconds"', b"3600")
    )
    made = await client.request("POST", "/v1/files", body=[body], headers={**FORM, **VERSIONED})
    file = made.json()
    FileMetadata.model_validate(file, strict=False)
    assert (file["type"], file["mime_type"], file["size_bytes"]) == ("file", "application/pdf", 8)
    assert "request-id" in made.headers
    shown = await client.request("GET", f"/v1/files/{file['id']}", headers=VERSIONED)
    assert shown.json() == file
    other = (await client.request("GET", f"/v1/files/{file['id']}")).json()
    assert (other["object"], other["purpose"]) == ("file", "user_data")
    assert other["expires_at"] - other["created_at"] == 3600
    deleted = await client.request("DELETE", f"/v1/files/{file['id']}", headers=VERSIONED)
    assert deleted.json() == {"id": file["id"], "type": "file_deleted"}
    gone = await client.request("GET", f"/v1/files/{file['id']}", headers=VERSIONED)
    assert (gone.status, gone.json()["type"]) == (404, "error")
    assert gone.json()["error"]["type"] == "not_found_error"


async def test_its_pages_have_a_cursor(client: Client) -> None:
    names = [await upload(client, b"x", "user_data") for _ in range(3)][::-1]

    async def page(query: str) -> dict[str, Any]:
        listed = await client.request("GET", f"/v1/files?{query}", headers=VERSIONED)
        found: dict[str, Any] = listed.json()
        return found

    first = await page("limit=2")
    assert [each["id"] for each in first["data"]] == names[:2]
    last = await page(f"limit=2&page={first['next_page']}")
    assert [each["id"] for each in last["data"]] == names[2:]
    assert (last["next_page"], last["has_more"]) == (None, False)
    behind = await page(f"after_id={names[1]}")
    assert behind["data"] == last["data"]
    named = await page(f"ids={names[2]}&ids=file-none&ids={names[0]}")
    assert [each["id"] for each in named["data"]] == [names[2], names[0]]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("page=2", "page"),
        ("ids=file-1&limit=2", "limit"),
        ("limit=0", "limit"),
        ("&".join(f"ids=file-{n}" for n in range(101)), "ids"),
    ],
)
async def test_wrong_pages_are_refused(client: Client, query: str, named: str) -> None:
    refused = await client.request("GET", f"/v1/files?{query}", headers=VERSIONED)
    assert refused.status == 400
    assert refused.json()["error"]["message"].startswith(named)


async def test_its_expiry_is_bounded(client: Client) -> None:
    body = form(('name="file"; filename="a"', b"x"), ('name="expires_in_seconds"', b"60"))
    refused = await client.request("POST", "/v1/files", body=[body], headers={**FORM, **VERSIONED})
    assert refused.status == 400
    assert "expires_in_seconds must be" in refused.json()["error"]["message"]
