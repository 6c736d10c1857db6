"""What every codec must pass: one case (literal bytes, value) drives encoder and decoder."""

from __future__ import annotations

from typing import Any

import pytest

from pyproxy.scsi.errors import DecodeError


def hex_bytes(text: str) -> bytes:
    """Bytes from hexadecimal; `` x8`` behind a byte repeats it, for runs of reserved zeros."""
    out = b""
    for word in text.split():
        if word.startswith("x"):
            out += out[-1:] * (int(word[1:]) - 1)
        else:
            out += bytes.fromhex(word)
    return out


def check_both_ways(value: Any, wire: bytes) -> None:
    """Encoder gives exactly these bytes, decoder exactly this value, from any bytes-like object."""
    assert value.encode().hex(" ") == wire.hex(" ")
    for data in (wire, bytearray(wire), memoryview(wire)):
        decoded = type(value).decode(data)
        assert decoded == value
        assert hash(decoded) == hash(value)
    assert getattr(value, "complete", True)


def check_truncated(value: Any, wire: bytes) -> None:
    """Every shorter prefix is refused or says that it is not complete; none passes for the whole."""
    for size in range(len(wire)):
        try:
            decoded = type(value).decode(wire[:size])
        except DecodeError:
            continue
        assert decoded.complete is False, f"{size} of {len(wire)} bytes pass for a complete {type(value).__name__}"


def check_trailing(value: Any, wire: bytes) -> None:
    """Bytes behind the announced length (an allocation length that was too large) change nothing."""
    for trailing in (b"\x00", b"\xff" * 3, b"\xa5" * 64):
        assert type(value).decode(wire + trailing) == value


def check_parameter_data(value: Any, wire: bytes) -> None:
    check_both_ways(value, wire)
    check_truncated(value, wire)
    check_trailing(value, wire)


def refused(codec: Any, data: bytes | bytearray) -> DecodeError:
    """Decode what must be refused and hand back the error."""
    with pytest.raises(DecodeError) as caught:
        codec(data)
    return caught.value


def code_of(error: DecodeError) -> tuple[int, int, int] | None:
    """Sense key, ASC, ASCQ that a device server would answer."""
    return None if error.sense is None else (error.sense.key, error.sense.asc, error.sense.ascq)
