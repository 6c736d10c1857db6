"""MODE SENSE and MODE SELECT (SPC-4 6.11 to 6.14, 7.5; SBC-4 6.5)."""

from __future__ import annotations

import pytest

from pyproxy.device.emulated import EmulatedUnit
from tests.unit.emulated.initiator import GOOD, Initiator, initiators

RECOVERY = "010ac0000000000000000000"
CACHING = "0812" + "00" * 18
CACHING_WCE = "081204" + "00" * 17
CONTROL = "0a0a001000400000ffff0000"
EXCEPTIONS = "1c0a08000000000000000000"
DESCRIPTOR = "00004000" + "00000200"


def select_6(initiator: Initiator, body: str, header: str = "00000000", flags: int = 0x10) -> str:
    raw = bytes.fromhex(header + body)
    return initiator.says(f"15 {flags:02x} 0000 {len(raw):02x} 00", raw)


def select_10(initiator: Initiator, body: str, header: str = "0000000000000000") -> str:
    raw = bytes.fromhex(header + body)
    return initiator.says(f"55 10 0000000000 {len(raw):04x} 00", raw)


def test_all_pages(unit: EmulatedUnit) -> None:
    a, *_ = initiators(unit, 1)
    caching = CACHING if unit.path is None else CACHING_WCE
    pages = RECOVERY + caching + CONTROL + EXCEPTIONS
    assert len(pages) // 2 == 56
    assert a.fetch("1a 00 3f 00 ff 00").hex() == "43001008" + DESCRIPTOR + pages
    assert a.fetch("1a 08 3f ff ff 00").hex() == "3b001000" + pages
    assert a.fetch("5a 00 3f 00 000000 0fff 00").hex() == "0046001000000008" + DESCRIPTOR + pages
    long = "0000000000004000" + "00000000" + "00000200"
    assert a.fetch("5a 10 3f 00 000000 0fff 00").hex() == "004e001001000010" + long + pages
    assert a.fetch("5a 18 3f 00 000000 0fff 00").hex() == "003e001000000000" + pages


@pytest.mark.parametrize(("code", "page"), [("01", RECOVERY), ("08", CACHING), ("0a", CONTROL), ("1c", EXCEPTIONS)])
def test_one_page(abc: list[Initiator], code: str, page: str) -> None:
    assert abc[0].fetch(f"1a 08 {code} 00 ff 00").hex() == f"{len(page) // 2 + 3:02x}001000" + page
    assert abc[0].fetch(f"5a 08 {code} 00 000000 00ff 00").hex()[16:] == page


@pytest.mark.parametrize("control", [0x40, 0x80])
def test_changeable_and_default_values(abc: list[Initiator], control: int) -> None:
    a, *_ = abc
    select_6(a, "0a0a04101000" + "0000ffff0000")
    pages = {
        0x40: "010a" + "00" * 10 + "0812" + "04" + "00" * 17 + "0a0a04003840" + "00" * 6 + "1c0a" + "00" * 10,
        0x80: RECOVERY + CACHING + CONTROL + EXCEPTIONS,
    }
    assert a.fetch(f"1a 08 {control | 0x3F:02x} 00 ff 00").hex()[8:] == pages[control]


def test_saved_values_do_not_exist(abc: list[Initiator]) -> None:
    assert abc[0].says("1a 00 ff 00 ff 00", data_in=255) == "02 05/39/00"
    assert abc[0].says("5a 00 ca 00 000000 00ff 00", data_in=255) == "02 05/39/00"


@pytest.mark.parametrize("page", ["02 00", "0a 01", "3f 01", "00 00", "3e 00"])
def test_pages_that_do_not_exist(abc: list[Initiator], page: str) -> None:
    assert abc[0].says(f"1a 00 {page} ff 00", data_in=255) == "02 05/24/00"
    assert abc[0].says(f"5a 00 {page} 000000 00ff 00", data_in=255) == "02 05/24/00"


def test_allocation_length(abc: list[Initiator]) -> None:
    result = abc[0].send("1a 00 3f 00 04 00", data_in=4)
    assert (result.data.hex(), result.residual) == ("43001008", 0)
    assert abc[0].send("1a 00 3f 00 ff 00", data_in=255).residual == 255 - 68
    assert abc[0].send("1a 00 3f 00 00 00", data_in=255).residual == 255


def test_software_write_protect(abc: list[Initiator]) -> None:
    a, b, _ = abc
    assert select_6(a, "0a0a001008400000ffff0000") == GOOD
    assert b.drain() == ["06/2a/01"]
    assert a.fetch("1a 08 0a 00 ff 00")[2] == 0x90
    assert a.fetch("5a 08 0a 00 000000 00ff 00")[3] == 0x90
    assert b.read() == GOOD
    block = bytes(512)
    for cdb, data in [
        ("0a 000000 01 00", block),
        ("2a 00 00000000 00 0001 00", block),
        ("aa 00 00000000 00000001 00 00", block),
        ("8a 00 0000000000000000 00000001 00 00", block),
        ("2e 00 00000000 00 0001 00", block),
        ("41 00 00000000 00 0001 00", block),
        ("93 08 0000000000000000 00000001 00 00", block),
        ("89 00 0000000000000000 000000 01 00 00", 2 * block),
        ("42 00 00000000 00 0018 00", bytes.fromhex("0016 0010 00000000 0000000000000000 00000001 00000000")),
    ]:
        assert b.says(cdb, data) == "02 07/27/02"
    assert select_10(a, "0a0a001000400000ffff0000") == GOOD
    b.drain()
    assert b.write() == GOOD


def test_write_cache_of_a_file_can_be_disabled(unit: EmulatedUnit) -> None:
    a, *_ = initiators(unit, 1)
    assert select_6(a, CACHING) == GOOD
    assert a.write() == GOOD
    assert a.fetch("1a 08 08 00 ff 00").hex()[8:] == CACHING
    unit.reset()
    a.drain()
    assert a.fetch("1a 08 08 00 ff 00").hex()[8:] == (CACHING if unit.path is None else CACHING_WCE)


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ("", GOOD),
        (CONTROL, GOOD),
        ("8" + CONTROL[1:], GOOD),  # the reserved PS bit
        (RECOVERY + CACHING + CONTROL + EXCEPTIONS, GOOD),
        ("0a0a021000400000ffff0000", "02 05/26/00"),  # GLTSD cannot be changed
        ("0a0a001000400000ffff0001", "02 05/26/00"),
        ("0a0a", "02 05/1a/00"),
        ("0a", "02 05/1a/00"),
        (CONTROL + "08", "02 05/1a/00"),
        ("0a0900" + "00" * 9, "02 05/26/00"),
        ("020a" + "00" * 10, "02 05/26/00"),
        ("4a0a" + "00" * 10, "02 05/26/00"),
        ("3f0a" + "00" * 10, "02 05/26/00"),
    ],
)
def test_pages_sent(abc: list[Initiator], body: str, answer: str) -> None:
    a, b, _ = abc
    assert select_6(a, body) == answer
    assert select_10(a, body) == answer
    assert a.fetch("1a 08 0a 00 ff 00").hex()[8:] == CONTROL
    assert b.drain() == []


def test_all_pages_or_none(abc: list[Initiator]) -> None:
    a, *_ = abc
    assert select_6(a, CACHING_WCE + "0a0a021000400000ffff0000") == "02 05/26/00"
    assert a.fetch("1a 08 08 00 ff 00").hex()[8:] == CACHING


@pytest.mark.parametrize(
    ("descriptor", "answer"),
    [
        (DESCRIPTOR, GOOD),
        ("00000000" + "00000200", GOOD),
        ("ffffffff" + "00000200", GOOD),
        ("00000001" + "00000200", "02 05/26/00"),
        ("00000000" + "00001000", "02 05/26/00"),
        ("00000000", "02 05/26/00"),
    ],
)
def test_block_descriptor(abc: list[Initiator], descriptor: str, answer: str) -> None:
    size = len(descriptor) // 2
    assert select_6(abc[0], descriptor + CONTROL, f"000000{size:02x}") == answer
    assert select_10(abc[0], descriptor + CONTROL, f"000000000000{size:04x}") == answer


def test_long_block_descriptor(abc: list[Initiator]) -> None:
    long = "0000000000004000" + "00000000" + "00000200"
    assert select_10(abc[0], long + CONTROL, "0000000001000010") == GOOD
    assert select_10(abc[0], long[:-2] + "01" + CONTROL, "0000000001000010") == "02 05/26/00"


def test_lists_that_are_cut(abc: list[Initiator]) -> None:
    a, *_ = abc
    assert a.says("15 10 0000 03 00", bytes(3)) == "02 05/1a/00"
    assert a.says("55 10 0000000000 0007 00", bytes(7)) == "02 05/1a/00"
    assert select_6(a, "", "00000008") == "02 05/1a/00"
    assert a.says("15 10 0000 10 00", bytes(15)) == "02 05/1a/00"


def test_saving_and_vendor_formats_are_refused(abc: list[Initiator]) -> None:
    assert select_6(abc[0], CONTROL, flags=0x11) == "02 05/24/00"
    assert select_6(abc[0], CONTROL, flags=0x00) == "02 05/24/00"
    assert abc[0].says("15 00 0000 00 00") == GOOD
