"""What the machine finds on its controllers, asked by sg3-utils."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.vm.disk_host import LARGE_MIB, REMOTE_MIB, SHARED_MIB

MIB = 1 << 20


def told(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def test_every_unit_is_where_it_was_put(disks):
    one, two = disks.shared
    assert [disk.address[2:] for disk in (one, disks.large, disks.remote[0])] == [(0, 0), (0, 1), (1, 2)]
    assert [disk.address[2:] for disk in (two, disks.remote[1])] == [(0, 0), (0, 1)]
    assert one.address[0] != two.address[0]


def test_capacities(disks):
    for disk, size, block in (
        (disks.shared[0], SHARED_MIB * MIB, 512),
        (disks.large, LARGE_MIB * MIB, 4096),
        (disks.remote[0], REMOTE_MIB * MIB, 512),
    ):
        read = told("sg_readcap", "--16", disk.sg)
        assert f"Number of logical blocks={size // block}" in read
        assert f"Logical block length={block} bytes" in read
        assert int((disk.blocks_path / "size").read_text()) * 512 == size


def test_report_luns_is_the_controllers(disks):
    luns = re.findall(r"^ +([0-9a-f]{16})$", told("sg_luns", disks.shared[0].sg), re.MULTILINE)
    assert luns == ["0000000000000000", "0001000000000000"]
    luns = re.findall(r"^ +([0-9a-f]{16})$", told("sg_luns", disks.remote[0].sg), re.MULTILINE)
    assert luns == ["0002000000000000"]


def test_report_luns_with_and_without_well_known_units(disks):
    """SELECT REPORT (SPC-4 6.33): 1 is well known logical units alone, 2 is all."""
    for disk, own in (
        (disks.shared[0], ["0000000000000000", "0001000000000000"]),
        (disks.remote[0], ["0002000000000000"]),
    ):
        found = {
            select: re.findall(r"^ +([0-9a-f]{16})$", told("sg_luns", f"--select={select}", disk.sg), re.MULTILINE)
            for select in (0, 1, 2)
        }
        assert found == {0: own, 1: ["c101000000000000"], 2: ["c101000000000000", *own]}


def vpd_page(disk, number: int) -> bytes:
    done = subprocess.run(["sg_vpd", f"--page=0x{number:02x}", "--raw", disk.sg], capture_output=True, check=False)
    assert done.returncode == 0, f"page {number:02X}h of {disk.sg}: {done.stderr!r}"
    return done.stdout


def test_every_vpd_page_can_be_read(disks):
    for disk in (disks.shared[0], disks.large, disks.remote[0]):
        pages = vpd_page(disk, 0)[4:]
        assert {0x00, 0x80, 0x83} <= set(pages)
        for number in pages:
            page = vpd_page(disk, number)
            assert page[1] == number
            assert len(page) == 4 + int.from_bytes(page[2:4])


def test_identities(disks):
    assert "PYPROXY" in told("sg_inq", disks.shared[0].sg).upper()
    assert "IET" in told("sg_inq", disks.remote[0].sg)
    for pair in (disks.shared, disks.remote):
        first, second = (told("sg_vpd", "--page=di", "--quiet", disk.sg) for disk in pair)
        # The unit's own designators, which come first, are the same by either controller.
        assert first.splitlines()[0] == second.splitlines()[0]
    assert "Block limits VPD page" in told("sg_vpd", "--page=bl", disks.large.sg)


@pytest.mark.parametrize("what", ["--device", "--target", "--bus", "--host"])
def test_resets_leave_the_disk_usable(disks, what):
    """Linux' driver knows a reset of the unit alone; the others end with an error of its own and change nothing."""
    for disk in (disks.shared[0], disks.remote[0]):
        done = subprocess.run(["sg_reset", "--no-esc", what, str(disk.sg)], capture_output=True, check=False)
        assert (done.returncode == 0) is (what == "--device")
        subprocess.run(["sg_turs", "--number=3", str(disk.sg)], capture_output=True, check=False)
        told("sg_turs", disk.sg)
