"""Uploaded files."""

import hashlib
import http.client
import json

import httpx

from replicate_mcp.simulator import Simulator


async def test_file_is_kept_until_deleted(client: httpx.AsyncClient) -> None:
    content = bytes(range(256)) * 100
    upload = {"content": ("cat.png", content, "image/png")}
    response = await client.post("/v1/files", files=upload, data={"metadata": '{"a": 1}'})
    assert response.status_code == 201
    file = response.json()
    assert (file["size"], file["content_type"], file["metadata"]) == (25600, "image/png", {"a": 1})
    assert file["checksums"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert (await client.get(file["urls"]["get"])).json() == file
    assert (await client.get("/v1/files")).json()["results"] == [file]
    assert (await client.delete(f"/v1/files/{file['id']}")).status_code == 204
    assert (await client.get(f"/v1/files/{file['id']}")).status_code == 404


async def test_file_is_visible_only_to_its_account(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    upload = {"content": ("cat.png", b"cat", "image/png")}
    file = (await client.post("/v1/files", files=upload)).json()
    other_account = {"authorization": "Bearer r8_other"}
    assert (await client.get(f"/v1/files/{file['id']}", headers=other_account)).status_code == 404


def test_too_large_file_is_rejected_before_upload(simulator: Simulator) -> None:
    connection = http.client.HTTPConnection(simulator.url.removeprefix("http://"), timeout=5)
    connection.putrequest("POST", "/v1/files")
    connection.putheader("authorization", "Bearer r8_acme")
    connection.putheader("content-length", str(200 * 1024 * 1024))
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413
    assert json.loads(response.read())["detail"] == "Files must be less than 100MB in size"
    connection.close()
