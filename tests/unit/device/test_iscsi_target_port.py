"""Which target port an iSCSI nexus ends at, by VPD page 83h."""

from __future__ import annotations

import pytest

from pyproxy.device.iscsi import relative_target_port

NAA = "01 03 00 08 30 00 00 01 00 00 00 01"
PORT = "51 94 00 04 00 00 00 07"  # iSCSI, PIV, target port, relative target port identifier 7
GROUP = "51 95 00 04 00 00 00 01"


def page(*designators: str) -> bytes:
    body = b"".join(bytes.fromhex(one) for one in designators)
    return bytes([0, 0x83]) + len(body).to_bytes(2) + body


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (page(NAA, PORT, GROUP), 7),
        (page(NAA, GROUP), None),
        (page(NAA, "51 84 00 04 00 00 00 07"), None),  # of the logical unit, which is none
        (page("51 94 00 04 00 00 00 00"), None),
        (page("51 94 00 04 00 00 ff ff"), 0xFFFF),
        (page("51 94 00 02 00 07"), None),
        (b"", None),
        (bytes([0, 0x83, 0]), None),
    ],
)
def test_relative_target_port(data: bytes, expected: int | None) -> None:
    assert relative_target_port(data) == expected
