"""What the machine finds on its controllers, asked by sg3-utils."""

from __future__ import annotations

import re
import subprocess

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


def test_identities(disks):
    assert "PYPROXY" in told("sg_inq", disks.shared[0].sg).upper()
    assert "IET" in told("sg_inq", disks.remote[0].sg)
    for pair in (disks.shared, disks.remote):
        first, second = (told("sg_vpd", "--page=di", "--quiet", disk.sg) for disk in pair)
        # The unit's own designators, which come first, are the same by either controller.
        assert first.splitlines()[0] == second.splitlines()[0]
    assert "Block limits VPD page" in told("sg_vpd", "--page=bl", disks.large.sg)


def test_resets_leave_the_disk_usable(disks):
    for disk in (disks.shared[0], disks.remote[0]):
        # The driver knows no other reset.
        told("sg_reset", "--device", disk.sg)
        subprocess.run(["sg_turs", "--number=3", str(disk.sg)], capture_output=True, check=False)
        told("sg_turs", disk.sg)
