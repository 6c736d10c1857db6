"""How long a certificate is valid: the one field of X.509 that Python's ssl does not tell of one's own certificate."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime
from typing import Final

_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----\s(.*?)-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18
_BEFORE_VALIDITY: Final = 4
"""serialNumber, signature, issuer, then validity (RFC 5280 4.1)."""


def ends(pem: bytes) -> list[datetime]:
    """Return when each certificate of a PEM file stops to be valid; raises ValueError."""
    return [_end(_der(found[1])) for found in _PEM.finditer(pem)]


def _der(text: bytes) -> bytes:
    try:
        return base64.b64decode(text)
    except binascii.Error as error:
        raise ValueError(f"no base64: {error}") from None


def _end(certificate: bytes) -> datetime:
    (_, body), *_ = _elements(certificate)
    (_, to_be_signed), *_ = _elements(body)
    fields = _elements(to_be_signed)
    if fields and fields[0][0] == _VERSION:
        del fields[0]
    if len(fields) < _BEFORE_VALIDITY or fields[3][0] != _SEQUENCE:
        raise ValueError("no validity")
    times = _elements(fields[3][1])
    if len(times) != 2:
        raise ValueError("no validity of two times")
    return _time(*times[1])


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    """Split DER into tags and contents; raises ValueError where a length leads outside."""
    found = []
    at = 0
    while at < len(data):
        if len(data) - at < 2:
            raise ValueError("cut short")
        tag, size = data[at], data[at + 1]
        at += 2
        if size & 0x80:
            count = size & 0x7F
            if not 0 < count <= 4 or len(data) - at < count:
                raise ValueError("a length of a wrong size")
            size = int.from_bytes(data[at : at + count])
            at += count
        if size > len(data) - at:
            raise ValueError("cut short")
        found.append((tag, data[at : at + size]))
        at += size
    if not found:
        raise ValueError("empty")
    return found


def _time(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii", "replace")
    if tag == _UTC_TIME and re.fullmatch(r"[0-9]{12}Z", text):
        # RFC 5280 4.1.2.5.1: 50 and above are of the last century.
        return datetime.strptime(("19" if text >= "50" else "20") + text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    if tag == _GENERALIZED_TIME and re.fullmatch(r"[0-9]{14}Z", text):
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    raise ValueError("no time of a certificate")
