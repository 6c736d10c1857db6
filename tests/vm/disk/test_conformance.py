"""libiscsi's conformance suites through the whole stack, on the SG node of a disk that is pyproxy's."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.vm.disk_host import TARGET_KEY
from tests.vm.record_reference import REFERENCE
from tests.vm.rig.iscsi_nexuses import log_in, log_out
from tests.vm.rig.iscsi_test_cu import BLOCK_SUITES, RESERVATION_SUITES, run_suite
from tests.vm.rig.nodes import nodes_of


@pytest.fixture(scope="module")
def record():
    return json.loads(REFERENCE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("suite", [*RESERVATION_SUITES, *BLOCK_SUITES])
def test_the_emulated_unit_fails_nothing_that_lio_passes(disks, record, suite):
    verdicts, output = run_suite(suite, *(str(disk.sg) for disk in disks.shared))
    print(output)
    failed = {name for name, verdict in verdicts.items() if verdict == "failed"}
    passed_by_lio = {name for name, verdict in record["sg"][suite].items() if verdict == "passed"}
    assert not failed & passed_by_lio


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


@pytest.mark.parametrize("suite", [*RESERVATION_SUITES, *BLOCK_SUITES])
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
