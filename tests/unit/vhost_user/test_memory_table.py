"""Which regions may be shared."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyproxy.frontend.vhost_user.memory_table import MemoryTable
from pyproxy.frontend.vhost_user.message import MemoryRegion

PAGE = 0x1000


def region(guest: int, size: int = PAGE, user: int | None = None, offset: int = 0) -> MemoryRegion:
    return MemoryRegion(guest, size, guest + (1 << 40) if user is None else user, offset)


def test_regions_that_touch_do_not_overlap():
    table = MemoryTable.of((region(0), region(2 * PAGE), region(PAGE)))
    assert len(table) == 3


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (region(0x8000, 0), "no bytes"),
        (region((1 << 64) - PAGE, 2 * PAGE, 0), "guest address 0xfffffffffffff000 wraps around"),
        (region(0x8000, 2 * PAGE, (1 << 64) - PAGE), "user address 0xfffffffffffff000 wraps around"),
        (region(0x8000, 2 * PAGE, offset=(1 << 64) - PAGE), "file offset 0xfffffffffffff000 wraps around"),
        (region(PAGE - 1, 2), "overlap at guest address 0xfff"),
        (region(0, 1 << 30), "overlap at guest address 0x0"),
        (region(0x8000, PAGE, 1 << 40), "overlap at user address 0x10000000000"),
    ],
)
def test_refused(wrong, why):
    table = MemoryTable.of((region(0),))
    with pytest.raises(ValueError, match=why):
        table.adding(wrong)


def test_the_end_of_the_address_space_is_part_of_it():
    assert len(MemoryTable.of((region((1 << 64) - PAGE, PAGE, (1 << 64) - PAGE),))) == 1


def test_512_slots():
    table = MemoryTable.of(tuple(region(PAGE * number) for number in range(512)))
    with pytest.raises(ValueError, match="more than 512 memory regions"):
        table.adding(region(PAGE * 512))


def test_removing_matches_the_place_alone():
    table = MemoryTable.of((region(0), region(PAGE, offset=PAGE)))
    assert table.removing(region(PAGE, offset=0)).regions == (region(0),)
    for wrong in (region(PAGE, 2 * PAGE), region(PAGE, user=7), region(3 * PAGE)):
        with pytest.raises(ValueError, match="no memory region"):
            table.removing(wrong)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 64), st.integers(0, 8)), max_size=12))
def test_any_regions(places):
    """Whatever is accepted covers each page once."""
    table = MemoryTable()
    covered: set[int] = set()
    for start, pages in places:
        wanted = set(range(start, start + pages))
        try:
            table = table.adding(region(start * PAGE, pages * PAGE))
        except ValueError:
            assert not wanted or wanted & covered
        else:
            assert wanted
            assert not wanted & covered
            covered |= wanted
