"""A logical unit of LIO behind iSCSI: each nexus is a session of the kernel's initiator with a name of its own."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pyproxy.scsi.transport_id import IscsiTransportId
from tests.vm.rig.iscsi_target import PORTAL, TARGET_NAME, IscsiTarget, create_target
from tests.vm.rig.lio import LioNexus, LioUnit
from tests.vm.rig.nodes import nodes_of, settle, wait_for
from tests.vm.rig.sg_direct import SgNode

SESSIONS = Path("/sys/class/iscsi_session")
INITIATOR = "iqn.2003-01.org.linux-iscsi.test:host-"


@dataclass(eq=False)
class IscsiUnit(LioUnit):
    """A unit behind one iSCSI target port."""

    target: IscsiTarget | None = None

    def remove(self) -> None:
        """Log out and take everything down again."""
        for nexus in self.nexuses:
            nexus.direct.close()
        log_out(TARGET_NAME)
        assert self.target is not None
        self.target.remove()


def create_iscsi_unit(count: int, size_mib: int = 16) -> IscsiUnit:
    """A new logical unit of ``size_mib`` MiB behind ``count`` iSCSI sessions; one such unit at a time."""
    names = [f"{INITIATOR}{number}" for number in range(1, count + 1)]
    target = create_target(names, size_mib)
    unit = IscsiUnit(target.backstore, target=target)
    for number, name in enumerate(names, start=1):
        nodes = nodes_of(f"{log_in(TARGET_NAME, PORTAL, name)}:0:0:0")
        transport_id = IscsiTransportId(name, _isid(target, name))
        unit.nexuses.append(
            LioNexus(number, name, TARGET_NAME, nodes, SgNode(nodes.sg), target.backstore, transport_id)
        )
    settle()
    return unit


def log_in(target: str, portal: str, initiator: str) -> int:
    """Log in with an initiator name of its own, whose last part names the interface; the SCSI host's number."""
    _start_initiator()
    interface = initiator.rpartition(":")[2]
    _iscsiadm("iface", "-I", interface, "-o", "new")
    _iscsiadm("iface", "-I", interface, "-o", "update", "-n", "iface.initiatorname", "-v", initiator)
    _iscsiadm("node", "-T", target, "-p", portal, "-I", interface, "-o", "new")
    _iscsiadm("node", "-T", target, "-p", portal, "-I", interface, "--login")
    return _host_of(initiator)


def log_out(target: str) -> None:
    """End every session with a target, and forget it."""
    _iscsiadm("node", "-T", target, "--logout")
    _iscsiadm("node", "-T", target, "-o", "delete")
    settle()


def _start_initiator() -> None:
    subprocess.run(["modprobe", "iscsi_tcp"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    if subprocess.run(["pgrep", "-x", "iscsid"], capture_output=True, check=False).returncode:
        Path("/run/lock/iscsi").mkdir(parents=True, exist_ok=True)
        subprocess.run(["iscsid"], check=True)
        wait_for(lambda: Path("/run/iscsid.pid").exists(), "iscsid to start")


def _iscsiadm(mode: str, *words: str) -> None:
    done = subprocess.run(["iscsiadm", "-m", mode, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"iscsiadm -m {mode} {' '.join(words)} failed: {done.stderr.strip() or done.stdout.strip()}")


def _host_of(initiator: str) -> int:
    """The SCSI host number of the initiator name's session."""
    for session in SESSIONS.glob("session*"):
        if (session / "initiatorname").read_text(encoding="ascii").strip() == initiator:
            match = re.search(r"/host(\d+)/", str(session.resolve()))
            assert match is not None
            return int(match[1])
    raise LookupError(f"no session of {initiator}")


def _isid(target: IscsiTarget, initiator: str) -> bytes:
    """The session identifier, as the target knows it."""
    info = (target.group / "acls" / initiator / "info").read_text(encoding="ascii")
    match = re.search(r"ISID: 0x([0-9a-fA-F ]+)", info)
    if match is None:
        raise LookupError(f"LIO tells no ISID of {initiator}: {info!r}")
    return bytes.fromhex(match[1])[:6]
