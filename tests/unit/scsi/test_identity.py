"""Which logical unit it is: designators compared (SPC-4 7.8.6)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.scsi.errors import DecodeError
from pyproxy.scsi.identity import LogicalUnitIdentity
from pyproxy.scsi.vpd import Designator, DeviceIdentification

from .checks import hex_bytes, refused
from .test_vpd import designators

NAA_6 = Designator(0, 3, 1, bytes.fromhex("6001405aabbccddeeff0011223344556"))
NAA_6_OTHER = Designator(0, 3, 1, bytes.fromhex("6001405aabbccddeeff0011223344557"))
NAA_5 = Designator(0, 3, 1, bytes.fromhex("5001405000000001"))
NAA_5_OTHER = Designator(0, 3, 1, bytes.fromhex("5001405000000002"))
NAA_3 = Designator(0, 3, 1, bytes.fromhex("3333333000001f40"))
NAA_2 = Designator(0, 3, 1, bytes.fromhex("2001405000000001"))
EUI = Designator(0, 2, 1, bytes.fromhex("0011223344556677"))
UUID = Designator(0, 10, 1, bytes.fromhex("1000") + bytes(range(16)))
NAME = Designator(0, 8, 3, b"iqn.2026-01.org.x:disk\0\0")
T10 = Designator(0, 1, 2, b"LIO-ORG block 0/a")
VENDOR = Designator(0, 0, 1, b"\x01%")
PORT = Designator(1, 3, 1, bytes.fromhex("5001405000000001"))
RTPI = Designator(1, 4, 1, b"\0\0\0\1")


def identity(*designators: Designator) -> LogicalUnitIdentity:
    return LogicalUnitIdentity(designators)


@pytest.mark.parametrize(
    ("unit", "name", "unique"),
    [
        (identity(T10, EUI, NAA_5, NAA_6, PORT), "naa.6001405aabbccddeeff0011223344556", True),
        (identity(T10, EUI, NAA_2, NAA_5), "naa.5001405000000001", True),
        (identity(EUI, NAA_2), "naa.2001405000000001", True),
        (identity(T10, NAME, EUI), "eui.0011223344556677", True),
        (identity(NAME, UUID), "uuid.000102030405060708090a0b0c0d0e0f", True),
        (identity(T10, NAME), "scsi.iqn.2026-01.org.x:disk", True),
        (identity(NAA_3, T10), "t10.LIO-ORG%20block%200%2Fa", True),
        (identity(NAA_3), "naa.3333333000001f40", False),
        (identity(VENDOR), "vendor.%01%25", False),
        (identity(Designator(0, 7, 1, bytes(15) + b"\1")), "md5.00000000000000000000000000000001", False),
        (identity(Designator(0, 1, 2, b"LIO-ORG ")), "t10.LIO-ORG", False),
        (identity(Designator(0, 2, 1, bytes(11) + b"\1")), "eui.000000000000000000000001", True),
        (identity(Designator(0, 2, 1, bytes(15) + b"\1")), "eui.00000000000000000000000000000001", True),
        (identity(Designator(0, 1, 2, b"LIO-ORG x")), "t10.LIO-ORG%20x", True),
        (identity(Designator(0, 1, 2, b"VENDOR8.")), "t10.VENDOR8.", False),
        (identity(Designator(0, 3, 1, b"\x51" + bytes(7))), "naa.5100000000000000", True),
        (identity(Designator(0, 3, 1, b"\x50\x01" + bytes(6))), "naa.5001000000000000", True),
        (identity(VENDOR, NAA_3), "naa.3333333000001f40", False),
        (identity(PORT, RTPI), "unidentified", False),
        (identity(), "unidentified", False),
    ],
)
def test_name(unit: LogicalUnitIdentity, name: str, unique: bool) -> None:
    assert unit.name == name
    assert unit.unique is unique


@pytest.mark.parametrize(
    "blank",
    [
        Designator(0, 3, 1, b""),
        Designator(0, 3, 1, bytes.fromhex("60") + bytes(15)),
        Designator(0, 3, 1, bytes.fromhex("6001405aabbccddeeff00112233445")),
        Designator(0, 3, 1, bytes(8)),
        Designator(0, 2, 1, bytes(8)),
        Designator(0, 2, 1, b"1234567"),
        Designator(0, 8, 3, bytes(8)),
        Designator(0, 1, 2, b" " * 24),
        Designator(0, 0, 1, b"\0\0"),
        Designator(0, 10, 1, bytes.fromhex("1000") + bytes(16)),
        Designator(0, 15, 1, b"unknown"),
    ],
)
def test_blank_and_malformed_designators_do_not_name_a_unit(blank: Designator) -> None:
    assert identity(blank).name == "unidentified"
    assert not identity(blank, NAA_3).unique
    assert not identity(blank).matches(identity(blank))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (identity(NAA_6), identity(NAA_6), True),
        (identity(NAA_6, T10), identity(NAA_6), True),
        (identity(NAA_6, PORT), identity(NAA_6, RTPI), True),
        (identity(NAA_6, NAA_5), identity(NAA_6, NAA_2), True),
        (identity(NAME), identity(Designator(0, 8, 3, b"IQN.2026-01.ORG.X:DISK")), True),
        (identity(T10), identity(Designator(0, 1, 2, b"LIO-ORG block 0/a   \0")), True),
        (identity(NAA_6), identity(NAA_6_OTHER), False),
        (identity(NAA_6), identity(EUI), False),
        # a clone that kept one name
        (identity(NAA_6, T10), identity(NAA_6_OTHER, T10), False),
        (identity(NAA_6, NAA_5), identity(NAA_6, NAA_5_OTHER), False),
        # several of one kind: one in common is enough
        (identity(NAA_6, NAA_6_OTHER), identity(NAA_6_OTHER), True),
        # not world-wide unique, or not the logical unit's
        (identity(NAA_3), identity(NAA_3), False),
        (identity(VENDOR), identity(VENDOR), False),
        (identity(PORT), identity(PORT), False),
        (identity(PORT), identity(NAA_5), False),
        (identity(), identity(), False),
    ],
)
def test_same_unit(one: LogicalUnitIdentity, other: LogicalUnitIdentity, same: bool) -> None:
    assert one.matches(other) is same
    assert other.matches(one) is same


def test_read_from_the_page() -> None:
    page = hex_bytes("00 83 00 14 01 03 00 10 60 01 40 5A AB BC CD DE EF F0 01 12 23 34 45 56")
    assert LogicalUnitIdentity.from_vpd83(page) == identity(NAA_6)
    assert LogicalUnitIdentity.from_vpd83(page + bytes(8)).name == "naa.6001405aabbccddeeff0011223344556"


def test_half_a_page_names_nothing() -> None:
    page = DeviceIdentification((T10, NAA_6)).encode()
    for size in range(len(page)):
        refused(LogicalUnitIdentity.from_vpd83, page[:size])


@given(st.lists(designators, max_size=6), st.randoms(use_true_random=False))
def test_order_of_the_designators_does_not_matter(listed: list[Designator], random: object) -> None:
    shuffled = list(listed)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert identity(*listed).name == identity(*shuffled).name
    assert identity(*listed).matches(identity(*shuffled)) is identity(*listed).unique
    assert identity(*listed).name.isascii()


@given(st.binary(max_size=80))
def test_random_pages_are_read_or_refused(body: bytes) -> None:
    try:
        unit = LogicalUnitIdentity.from_vpd83(bytes([0, 0x83]) + len(body).to_bytes(2) + body)
    except DecodeError:
        return
    assert unit.name
