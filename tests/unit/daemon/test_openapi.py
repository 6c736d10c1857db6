"""The OpenAPI document: complete, resolvable, and what a running daemon does."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pyproxy.daemon.documents import MigrationDocument
from pyproxy.frontend.api import ApiError
from pyproxy.migration.phases import Role, SourcePhase
from pyproxy.migration.record import Change, Record, UnitRecord
from tests.unit.daemon.conftest import Daemon

DOCUMENT: dict[str, Any] = json.loads((Path(__file__).parents[3] / "docs" / "openapi.json").read_text())
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [(method, path, one) for path, found in DOCUMENT["paths"].items() for method, one in found.items()]


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_it_is_an_openapi_document() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    assert set(references(DOCUMENT)) == {f"#/components/schemas/{name}" for name in SCHEMAS}
    names = [one["operationId"] for _, _, one in operations()]
    assert len(names) == len(set(names))
    for _, path, one in operations():
        in_path = {found["name"] for found in one.get("parameters", []) if found["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path))
        assert {"200", "400", "404", "409", "502"} == set(one["responses"])


def test_every_operation_is_there() -> None:
    assert {(method, path) for method, path, _ in operations()} == {
        ("get", "/v1/version"),
        ("get", "/v1/openapi.json"),
        ("get", "/v1/status"),
        ("get", "/v1/live"),
        ("post", "/v1/guests/{guest}/units/{lun}/execute"),
        ("post", "/v1/guests/{guest}/units/{lun}/adopt"),
        ("post", "/v1/guests/{guest}/checkpoint"),
        ("post", "/v1/restore"),
        ("post", "/v1/guests/{guest}/migration"),
        ("get", "/v1/migrations"),
        ("get", "/v1/pr/keys"),
        ("get", "/v1/pr/reservation"),
        ("get", "/v1/pr/status"),
        ("get", "/v1/pr/capabilities"),
    }


def conforms(value: object, schema: dict[str, Any], where: str = "") -> None:
    """Check a value against the part of JSON Schema that the document uses."""
    known = {"$ref", "type", "properties", "required", "items", "anyOf", "default", "title", "description"}
    assert set(schema) <= known | {"contentEncoding", "minLength", "maxLength", "minimum", "maximum", "pattern"}, where
    if "$ref" in schema:
        conforms(value, SCHEMAS[schema["$ref"].rsplit("/", 1)[1]], where)
    elif "anyOf" in schema:
        kinds = [one for one in schema["anyOf"] if (one.get("type") == "null") == (value is None)]
        assert kinds, where
        conforms(value, kinds[0], where)
    elif schema["type"] == "object":
        assert isinstance(value, dict), where
        if "properties" in schema:
            assert set(schema["required"]) <= set(value) == set(schema["properties"]), where
            for name, inner in value.items():
                conforms(inner, schema["properties"][name], f"{where}.{name}")
    elif schema["type"] == "array":
        assert isinstance(value, list), where
        for inner in value:
            conforms(inner, schema["items"], f"{where}[]")
    else:
        kind = {"string": str, "integer": int, "number": float, "boolean": bool, "null": type(None)}[schema["type"]]
        assert type(value) is kind, where


def ask(daemon: Daemon, name: str) -> None:
    """Run one operation of a running daemon and compare its answer with the document."""
    bodies: dict[str, Any] = {
        "execute": {"cdb": base64.b64encode(bytes.fromhex("120000002400")).decode(), "data_in": 36},
        "adopt": {},
    }
    ((method, path, one),) = [row for row in operations() if row[2]["operationId"] == name]
    parameters = [found["name"] for found in one.get("parameters", []) if found["in"] == "query"]
    query = {"target": "web/3"} if "target" in parameters else {}
    body = json.dumps(bodies[name]).encode() if name in bodies else None
    target = path.removeprefix("/v1").format(guest="web", lun=3)
    answer = json.loads(daemon.client.request(method.upper(), target, body, **query))
    conforms(answer, one["responses"]["200"]["content"]["application/json"]["schema"], name)


@pytest.mark.parametrize(
    "name", sorted(one["operationId"] for _, _, one in operations() if one["operationId"] not in ("migrate", "restore"))
)
def test_a_daemon_answers_as_the_document_says(running: Daemon, name: str) -> None:
    ask(running, name)


def test_a_migration_is_told_as_the_document_says(running: Daemon) -> None:
    """Its answer cannot be had without a peer: the document is made of what a store keeps of one."""
    unit = UnitRecord(lun=3, unit="naa.6", sentence="told")
    record = Record(
        migration="0" * 32,
        role=Role.SOURCE,
        guest="web",
        peer="b",
        epoch=1,
        phase=SourcePhase.ARMED,
        started="2026-01-02T03:04:05.000Z",
        units=(unit,),
        trail=(Change(SourcePhase.ARMED, "2026-01-02T03:04:05.000Z", "asked"),),
    )
    answer = msgspec.to_builtins(MigrationDocument.of_record(record))
    conforms(answer, {"$ref": "#/components/schemas/MigrationDocument"})
    with pytest.raises(ApiError, match="there is no peer b; the peers: none"):
        running.client.request("POST", "/guests/web/migration", b'{"action": "arm", "to": "b"}')
    with pytest.raises(ApiError, match="malformed"):
        running.client.request("POST", "/guests/web/migration", b'{"action": "fly"}')


def test_a_restore_answers_as_the_document_says(running: Daemon) -> None:
    checkpoint = running.client.request("POST", "/guests/web/checkpoint")
    body = json.dumps({"document": base64.b64encode(checkpoint).decode()}).encode()
    answer = json.loads(running.client.request("POST", "/restore", body))
    conforms(answer, {"$ref": "#/components/schemas/RestoreDocument"})
    with pytest.raises(ApiError, match="malformed") as caught:
        running.client.request("POST", "/restore", b"{}")
    assert caught.value.status == 400


def test_a_daemon_gives_its_own_document(running: Daemon) -> None:
    assert json.loads(running.client.request("GET", "/openapi.json")) == DOCUMENT
