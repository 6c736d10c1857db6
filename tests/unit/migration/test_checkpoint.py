"""The checkpoint document: read back equal, and each damage refused with an error of its own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.migration.checkpoint import (
    CheckpointError,
    CheckpointFailure,
    checkpoint_schema,
    decode_checkpoint,
    describe,
    encode_checkpoint,
)

DOCS = Path(__file__).parents[3] / "docs"


def fields() -> dict[str, Any]:
    return {
        "format": "pyproxy-checkpoint",
        "version": 1,
        "created_at": "2026-01-02T03:04:05Z",
        "guest": "web1",
        "lun": 0,
        "epoch": 3,
        "unit": {
            "name": "naa.600140500000000000000000000000aa",
            "designators": [
                {
                    "association": 0,
                    "type": 3,
                    "code_set": 1,
                    "protocol": None,
                    "value": "600140500000000000000000000000aa",
                }
            ],
        },
        "nexus": {
            "key": "0x1122334455667788",
            "type": 5,
            "aptpl": True,
            "all_tg_pt": False,
            "transport_id": "naa.5001405000000001",
            "rtpi": 1,
        },
        "shown": {
            "generation": 7,
            "keys": ["0x1122334455667788", "0x00000000000000aa"],
            "reservation": "000000070000001011223344556677880000000000050000",
        },
        "attentions": ["70000600000000" + "0a00000000" + "2a0900000000"],
        "descriptor_sense": False,
    }


def sealed(document: dict[str, Any]) -> bytes:
    """Put a digest on a document the way its documentation describes it."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    digest = "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()
    return json.dumps(document | {"digest": digest}).encode()


def changed(path: str, value: object) -> bytes:
    document = fields()
    *parents, last = path.split(".")
    inner: Any = document
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    return sealed(document)


def failure(data: bytes) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        decode_checkpoint(data, "web1.json")
    assert str(caught.value).startswith("web1.json: ")
    return caught.value


def test_read_back_equal() -> None:
    checkpoint = decode_checkpoint(sealed(fields()))
    assert decode_checkpoint(encode_checkpoint(checkpoint)) == checkpoint
    assert msgspec.to_builtins(checkpoint) == fields()
    assert checkpoint.key == 0x1122334455667788
    assert checkpoint.held == 5
    assert checkpoint.keys == (0x1122334455667788, 0xAA)
    assert checkpoint.reservation.key == 0x1122334455667788
    assert [one.code for one in checkpoint.pending] == [(6, 0x2A, 0x09)]
    assert checkpoint.identity.name == "naa.600140500000000000000000000000aa"
    assert checkpoint.nexus_name is not None
    assert str(checkpoint.nexus_name.transport_id) == "sas:5001405000000001"


@given(st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable()) | st.just('a"b\\c\x7fd'))
def test_the_digest_is_over_what_is_documented_whatever_the_name(name: str) -> None:
    data = changed("guest", name)
    assert decode_checkpoint(encode_checkpoint(decode_checkpoint(data))).guest == name


def test_description_for_people() -> None:
    shown = describe(decode_checkpoint(sealed(fields())))
    assert shown["guest"] == "web1"
    assert shown["registered"] == "key 0x1122334455667788"
    assert shown["holds"] == "Write Exclusive Registrants Only"
    assert shown["reservation on the unit"] == "Write Exclusive Registrants Only, key 0x1122334455667788"
    assert shown["survives power loss (APTPL)"] == "yes"
    assert "2A/09" in shown["unit attentions to deliver"]
    assert shown["source nexus"] == "naa.5001405000000001, target port 1"


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"", CheckpointFailure.NOT_JSON, "not JSON"),
        (b"\x7fELF\0\0", CheckpointFailure.NOT_JSON, "not JSON"),
        (b"hello", CheckpointFailure.NOT_JSON, "not JSON"),
        (b'{"format": "pyproxy-checkpoint"', CheckpointFailure.TRUNCATED, "ends after 31 bytes"),
        (b"[]", CheckpointFailure.NOT_A_CHECKPOINT, "not a checkpoint"),
        (b'{"format": "other"}', CheckpointFailure.NOT_A_CHECKPOINT, "not a checkpoint"),
        (b"[" * 500_000, CheckpointFailure.NOT_JSON, "not JSON"),
        (b" " * ((1 << 20) + 1), CheckpointFailure.TOO_LARGE, "1048577 bytes"),
        (changed("version", 2), CheckpointFailure.NEWER_VERSION, "version 2 was written by a newer pyproxy"),
        (changed("version", 0), CheckpointFailure.INVALID, "version"),
        (json.dumps(fields()).encode(), CheckpointFailure.INVALID, "'digest' is missing"),
        (changed("surplus", 1), CheckpointFailure.INVALID, "surplus"),
        (changed("nexus.surplus", 1), CheckpointFailure.INVALID, "surplus"),
        (changed("nexus.key", "0x11"), CheckpointFailure.INVALID, "nexus.key"),
        (changed("nexus.key", 0x1122334455667788), CheckpointFailure.INVALID, "nexus.key"),
        (changed("nexus.type", 2), CheckpointFailure.INVALID, "nexus.type"),
        (changed("nexus.rtpi", 65536), CheckpointFailure.INVALID, "nexus.rtpi"),
        (changed("lun", -1), CheckpointFailure.INVALID, "lun"),
        (changed("lun", 1 << 70), CheckpointFailure.INVALID, "lun"),
        (changed("epoch", -1), CheckpointFailure.INVALID, "epoch"),
        (changed("shown.generation", 1 << 32), CheckpointFailure.INVALID, "shown.generation"),
        (changed("created_at", "yesterday"), CheckpointFailure.INVALID, "created_at"),
        (changed("guest", ""), CheckpointFailure.INVALID, "guest"),
        (changed("guest", None), CheckpointFailure.INVALID, "guest"),
        (changed("attentions", ["00"]), CheckpointFailure.INCONSISTENT, "not sense data"),
        (changed("attentions", ["7"]), CheckpointFailure.INVALID, "attentions"),
        (changed("shown.reservation", "00"), CheckpointFailure.INCONSISTENT, "READ RESERVATION"),
        (changed("shown.reservation", "0000000700000000"), CheckpointFailure.INCONSISTENT, "does not show"),
        (changed("shown.reservation", "0000000800000000"), CheckpointFailure.INCONSISTENT, "PRGENERATION"),
        (changed("shown.keys", ["0x00000000000000aa"]), CheckpointFailure.INCONSISTENT, "not among"),
        (changed("nexus.type", 3), CheckpointFailure.INCONSISTENT, "does not show"),
        (changed("nexus.key", "0x0000000000000000"), CheckpointFailure.INCONSISTENT, "has no key"),
        (changed("nexus.transport_id", "???"), CheckpointFailure.INCONSISTENT, "transport_id"),
        (changed("unit.designators", []), CheckpointFailure.INCONSISTENT, "world-wide unique"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_each_damage_has_an_error_of_its_own(data: bytes, reason: CheckpointFailure, words: str) -> None:
    error = failure(data)
    assert error.reason is reason, error
    assert words in str(error)


def test_every_missing_field_is_named() -> None:
    for name in [name for name in fields() if name not in ("format", "version")]:
        document = fields()
        del document[name]
        assert f"`{name}`" in str(failure(sealed(document)))


def test_an_edited_file_is_refused() -> None:
    data = sealed(fields()).replace(b'"lun": 0', b'"lun": 1')
    assert failure(data).reason is CheckpointFailure.WRONG_DIGEST


def test_every_truncation_is_refused() -> None:
    data = sealed(fields())
    for length in range(1, len(data)):
        assert failure(data[:length]).reason is CheckpointFailure.TRUNCATED


@given(st.data())
def test_a_flipped_byte_is_never_accepted_as_another_checkpoint(data: st.DataObject) -> None:
    document = bytearray(sealed(fields()))
    index = data.draw(st.integers(0, len(document) - 1))
    document[index] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(CheckpointError):
        assert decode_checkpoint(bytes(document)) == decode_checkpoint(sealed(fields()))


@given(st.binary(max_size=200))
def test_no_other_exception_escapes(data: bytes) -> None:
    with pytest.raises(CheckpointError):
        decode_checkpoint(data)


FIRST_READERS = """
import sys, threading
from pathlib import Path
from pyproxy.migration.checkpoint import decode_checkpoint
data = Path(sys.argv[1]).read_bytes()
sys.setswitchinterval(1e-6)
together = threading.Barrier(16)
def read():
    together.wait()
    decode_checkpoint(data)
threads = [threading.Thread(target=read) for _ in range(16)]
[one.start() for one in threads]
[one.join() for one in threads]
"""


def test_many_threads_may_be_the_first_to_read_one() -> None:
    """msgspec prepares a type when it first meets it, which two threads must not do at the same time."""
    for _ in range(5):
        words = [sys.executable, "-c", FIRST_READERS, str(DOCS / "checkpoint.example.json")]
        ended = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
        assert (ended.returncode, ended.stderr) == (0, "")


def test_the_schema_in_the_documentation_is_current() -> None:
    assert (DOCS / "checkpoint.schema.json").read_bytes() == checkpoint_schema()


def test_the_example_in_the_documentation_can_be_read() -> None:
    data = (DOCS / "checkpoint.example.json").read_bytes()
    checkpoint = decode_checkpoint(data)
    assert encode_checkpoint(checkpoint) == data
    assert checkpoint.held == 5


def test_every_field_is_explained() -> None:
    text = (DOCS / "checkpoint.md").read_text()
    for name in ("digest", *fields(), *fields()["nexus"], *fields()["shown"], *fields()["unit"]):
        assert f"`{name}`" in text, name
