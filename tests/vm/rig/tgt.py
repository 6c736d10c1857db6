"""tgt, a target without READ FULL STATUS, and the kernel's initiator logged in under a name for each nexus."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.vm.rig.iscsi_nexuses import log_in, log_out
from tests.vm.rig.nodes import Nodes, nodes_of, settle, wait_for
from tests.vm.rig.sg_direct import SgNode

TARGET_NAME = "iqn.2003-01.org.linux-iscsi.test:tgt"
PORTAL = "127.0.0.1:3261"
INITIATOR = "iqn.2003-01.org.linux-iscsi.test:tgt-host-"
SIZE = 1 << 20
WIPING_KEY = 0x57495045


@dataclass(eq=False)
class TgtNexus:
    """One session with its nodes; ``direct`` sends commands past everything under test."""

    number: int
    nodes: Nodes
    direct: SgNode

    @property
    def sg(self) -> Path:
        return self.nodes.sg


@dataclass(eq=False)
class TgtUnit:
    """A unit of a tgtd of its own."""

    daemon: subprocess.Popen[bytes]
    nexuses: list[TgtNexus] = field(default_factory=list)

    def reset(self) -> None:
        """End every registration and report what attentions are queued."""
        first = self.nexuses[0].direct
        first.drained(lambda: first.persistent_reserve_out(6, sa_key=WIPING_KEY))
        first.drained(lambda: first.persistent_reserve_out(3, key=WIPING_KEY))
        for nexus in self.nexuses:
            nexus.direct.drain_unit_attentions()
        assert first.keys() == []

    def remove(self) -> None:
        """Log out and end the daemon."""
        for nexus in self.nexuses:
            nexus.direct.close()
        if self.nexuses:
            log_out(TARGET_NAME)
        self.daemon.kill()
        self.daemon.wait()


def create_tgt_unit(count: int, directory: Path) -> TgtUnit:
    """A new unit behind ``count`` nexuses, on a file in ``directory``; one at a time."""
    image = directory / "tgt.img"
    image.write_bytes(bytes(SIZE))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    Path("/run/tgtd").mkdir(exist_ok=True)
    with (directory / "tgtd.log").open("wb") as log:
        unit = TgtUnit(subprocess.Popen(["tgtd", "-f", "--iscsi", f"portal={PORTAL}"], stdout=log, stderr=log))
    try:
        wait_for(lambda: _tgtadm("show", "target", check=False), "tgtd to answer")
        _tgtadm("new", "target", "--tid", "1", "--targetname", TARGET_NAME)
        _tgtadm("new", "logicalunit", "--tid", "1", "--lun", "1", "--backing-store", str(image))
        _tgtadm("bind", "target", "--tid", "1", "--initiator-address", "ALL")
        for number in range(1, count + 1):
            nodes = nodes_of(f"{log_in(TARGET_NAME, PORTAL, f'{INITIATOR}{number}')}:0:0:1")
            unit.nexuses.append(TgtNexus(number, nodes, SgNode(nodes.sg)))
        settle()
        unit.reset()
    except BaseException:
        unit.remove()
        raise
    return unit


def _tgtadm(operation: str, mode: str, *words: str, check: bool = True) -> bool:
    command = ["tgtadm", "--lld", "iscsi", "--op", operation, "--mode", mode, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise OSError(f"{' '.join(command)} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.returncode == 0
