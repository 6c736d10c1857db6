"""libiscsi's conformance suites through the whole stack, on the SG node of a disk that is pyproxy's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.effort import THOROUGH
from tests.vm.disk_host import TARGET_KEY
from tests.vm.rig.iscsi_nexuses import log_in, log_out
from tests.vm.rig.iscsi_test_cu import BLOCK_SUITES, RESERVATION_SUITES, run_suite
from tests.vm.rig.nodes import nodes_of

THE_TOOLS_OWN = {
    # Sends WRITE SAME with UNMAP and a block of FFh, and wants to read zeroes: SBC-3 5.50 lets a unit whose unmapped
    # blocks read as zeroes (LBPRZ) unmap only where zeroes were sent; it has to write anything else.
    "WriteSame10": {"UnmapUntilEnd"},
    # Reads 65,536 blocks at once, which the machine's own /dev/sg refuses (120 KiB, as the tool itself notes).
    "WriteSame16": {"Unmap"},
}
"""What fails for reasons of the tool's."""


@pytest.mark.parametrize("suite", [*RESERVATION_SUITES, *BLOCK_SUITES])
def test_the_emulated_unit_fails_none(disks, suite):
    verdicts, output = run_suite(suite, *(str(disk.sg) for disk in disks.shared))
    print(output)
    assert verdicts
    assert {name for name, verdict in verdicts.items() if verdict == "failed"} == THE_TOOLS_OWN.get(suite, set())


@pytest.fixture(scope="module")
def direct(disks):
    """The unit of tgt by two sessions of this machine's own kernel, as it is reached without pyproxy."""
    subprocess.run(["modprobe", "-a", "virtio_net", "qemu_fw_cfg"], check=True)
    (card,) = [path.name for path in Path("/sys/class/net").iterdir() if (path / "device").exists()]
    for words in (["link", "set", card, "up"], ["address", "add", "10.0.2.15/24", "dev", card]):
        subprocess.run(["ip", *words], check=True)
    portal, name = Path("/sys/firmware/qemu_fw_cfg/by_name", TARGET_KEY, "raw").read_text(encoding="ascii").split()
    initiators = [f"iqn.2026-01.org.example:direct-{number}" for number in range(2)]
    yield [nodes_of(f"{log_in(name, portal, initiator)}:0:0:1") for initiator in initiators]
    log_out(name)


TWINS = {
    *("OrWrite", "Read12", "Read16", "Verify12", "Verify16", "Write12", "Write16", "WriteAtomic16", "WriteSame16"),
    *("WriteVerify12", "WriteVerify16"),
}
"""Suites that differ from another only in the size of the CDB, or take a minute: for ``make test-slow``."""


@pytest.mark.parametrize(
    "suite", [*RESERVATION_SUITES, *(suite for suite in BLOCK_SUITES if THOROUGH or suite not in TWINS)]
)
def test_over_tgt_the_verdicts_are_those_without_pyproxy(disks, direct, suite):
    verdicts = []
    for pair in (disks.remote, direct):
        paths = [str(one.sg) for one in pair]
        for path in paths:
            ready(path)
        verdict, output = run_suite(suite, *paths)
        print(output)
        verdicts.append(verdict)
    through, without = verdicts
    assert through
    assert through == without


def ready(path):
    """Take what the run before has left this nexus to hear, such as MODE PARAMETERS CHANGED."""
    for _ in range(16):
        if subprocess.run(["sg_turs", path], capture_output=True, check=False).returncode == 0:
            return
    raise AssertionError(f"{path} is not ready")
