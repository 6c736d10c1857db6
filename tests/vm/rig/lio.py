"""LIO: one backstore reached through several I_T nexuses, each with its own device nodes.

            initiator port 1      initiator port 2      initiator port 3
                   |                     |                     |
             target port 1         target port 2         target port 3
                   \\_____________________|_____________________/
                                  logical unit 0

This module makes the ports of tcm_loop, which is local and fast. Its one flaw is LIO's: PREEMPT AND ABORT waits for the
very work queue it runs in, for ever; tests of that command use the ports of ``iscsi_nexuses``.

What configfs shows of persistent reservations is the target's own view and the tests' judge.
"""

from __future__ import annotations

import itertools
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from pyproxy.scsi.transport_id import FcTransportId, IscsiTransportId, SasTransportId, TransportId
from tests.vm.rig.nodes import SCSI_DEVICES, Nodes, nodes_of, settle, wait_for
from tests.vm.rig.sg_direct import SgNode

TARGET = Path("/sys/kernel/config/target")
PREFIXES = {"sas": "naa.600140500000", "fc": "fc.210000000000", "iscsi": "iqn.2003-01.org.linux-iscsi.test:"}
"""How tcm_loop tells a port's protocol: by the prefix of its name."""

WIPING_KEY = 0x57495045
_unit_numbers = itertools.count(1)


def _write(path: Path, text: str) -> None:
    # configfs takes one write per attribute.
    with path.open("w", encoding="ascii") as stream:
        stream.write(text)


@dataclass(eq=False)
class LioNexus:
    """One I_T nexus: the initiator port's name, the target port's, and the nodes of the logical unit behind it.

    ``direct`` sends commands through this nexus past everything under test.
    """

    number: int
    initiator: str
    target: str
    nodes: Nodes
    direct: SgNode
    backstore: Path
    transport_id: TransportId

    @property
    def sg(self) -> Path:
        return self.nodes.sg

    @property
    def sd(self) -> Path:
        return self.nodes.sd

    @property
    def bsg(self) -> Path:
        return self.nodes.bsg

    @property
    def relative_target_port(self) -> int:
        """The target port's relative identifier, from its designator in VPD page 83h (SPC-4 7.8.6.7)."""
        page = self.direct.drained(lambda: self.direct.execute(bytes([0x12, 1, 0x83, 0x10, 0, 0]), data_in=4096)).data
        offset = 4
        while offset + 4 <= len(page):
            if page[offset + 1] & 0x3F == 0x14:
                return int.from_bytes(page[offset + 6 : offset + 8], "big")
            offset += 4 + page[offset + 3]
        raise LookupError(f"{self.sg} names no relative target port")


class LoopNexus(LioNexus):
    """A nexus of tcm_loop, whose path can be lost and whose logical unit can be unplugged."""

    @property
    def portal_group(self) -> Path:
        return TARGET / "loopback" / self.target / "tpgt_1"

    def offline(self) -> None:
        """Lose the path: commands end with host status 0Eh (DID_TRANSPORT_DISRUPTED) from now on."""
        _write(self.portal_group / "transport_status", "offline")

    def online(self) -> None:
        """Restore the path; the nexus then reports 29/07 once."""
        _write(self.portal_group / "transport_status", "online")

    def unplug(self) -> None:
        """Take the logical unit away from this nexus; its nodes vanish."""
        self.direct.close()
        for link in (self.portal_group / "lun" / "lun_0").iterdir():
            if link.is_symlink():
                link.unlink()
        wait_for(lambda: not (SCSI_DEVICES / self.nodes.address).exists(), f"{self.nodes.address} to vanish")
        settle()

    def plug(self) -> None:
        """Undo ``unplug``: the logical unit comes back, with nodes of possibly other names."""
        (self.portal_group / "lun" / "lun_0" / "disk").symlink_to(self.backstore)
        self._found_again()

    def detach(self) -> None:
        """Have the kernel let go of the device; what is registered stays at the target. Its nodes vanish."""
        self.direct.close()
        _write(SCSI_DEVICES / self.nodes.address / "delete", "1")
        wait_for(lambda: not (SCSI_DEVICES / self.nodes.address).exists(), f"{self.nodes.address} to vanish")
        settle()

    def attach(self) -> None:
        """Undo ``detach``: the kernel finds the device again, with nodes of possibly other names."""
        host, channel, target, _ = self.nodes.address.split(":")
        # Not with the LUN: tcm_loop gives the kernel no limit that would let one through.
        _write(Path("/sys/class/scsi_host", f"host{host}", "scan"), f"{channel} {target} -")
        self._found_again()

    def _found_again(self) -> None:
        self.nodes = nodes_of(self.nodes.address)
        settle()
        self.direct = SgNode(self.nodes.sg)


@dataclass(eq=False)
class LioUnit:
    """A RAM disk of LIO with its nexuses."""

    backstore: Path
    nexuses: list[LioNexus] = field(default_factory=list)

    @property
    def holder(self) -> str | None:
        """The initiator port LIO says holds the persistent reservation, None when nobody does (``pr/res_holder``)."""
        return self.reserved_by()[0]

    @property
    def spc2_holder(self) -> str | None:
        """The initiator port that holds a RESERVE(6) or (10), None when nobody does (``pr/res_holder``)."""
        return self.reserved_by()[1]

    def reserved_by(self) -> tuple[str | None, str | None]:
        """``holder`` and ``spc2_holder``, of which at most one is not None, by one read."""
        text = self._shows("res_holder")
        match = re.match(r"SPC-([23]) Reservation:.* Initiator: *([^\s,]+)", text)
        if match is None:
            return None, None
        return (match[2], None) if match[1] == "3" else (None, match[2])

    @property
    def reservation_type(self) -> str | None:
        """LIO's words for the type held, None without a reservation (``pr/res_pr_type``)."""
        text = self._shows("res_pr_type")
        return None if text.startswith("No SPC-3") else text.removeprefix("SPC-3 Reservation Type: ")

    @property
    def registered(self) -> dict[str, int]:
        """Initiator port name -> key of everyone registered (``pr/res_pr_registered_i_pts``)."""
        text = self._shows("res_pr_registered_i_pts")
        return {name: int(key, 16) for name, key in re.findall(r"Node: (\S+?)[, ].*?Key: (0x[0-9A-Fa-f]+)", text)}

    @property
    def generation(self) -> int:
        """PRGENERATION (``pr/res_pr_generation``)."""
        return int(self._shows("res_pr_generation"), 0)

    def _shows(self, attribute: str) -> str:
        # Read by the ten thousand on an emulated processor: without pathlib's and the text layer's cost.
        descriptor = os.open(f"{self.backstore}/pr/{attribute}", os.O_RDONLY)
        try:
            return os.read(descriptor, 65536).decode("ascii").strip()
        finally:
            os.close(descriptor)

    def recover(self) -> None:
        """Bring every path up."""

    def reset(self) -> None:
        """Bring every path up, end every reservation and registration, and report what attentions are queued."""
        self.recover()
        for nexus in self.nexuses:
            nexus.direct.drain_unit_attentions()
            nexus.direct.execute(bytes([0x17, 0, 0, 0, 0, 0]))
        first = self.nexuses[0].direct
        first.drained(lambda: first.persistent_reserve_out(6, sa_key=WIPING_KEY))
        first.drained(lambda: first.persistent_reserve_out(3, key=WIPING_KEY))
        for nexus in self.nexuses:
            nexus.direct.drain_unit_attentions()
        assert not self.registered, f"LIO still lists {self.registered}"

    def remove(self) -> None:
        """Take everything down again."""
        self.backstore.rmdir()
        self.backstore.parent.rmdir()
        settle()


class LoopUnit(LioUnit):
    """A unit behind ports of tcm_loop."""

    @property
    def paths(self) -> list[LoopNexus]:
        """The nexuses, as what they are."""
        return [nexus for nexus in self.nexuses if isinstance(nexus, LoopNexus)]

    def recover(self) -> None:
        """Bring every path up."""
        for nexus in self.paths:
            if (nexus.portal_group / "transport_status").read_text(encoding="ascii").strip() != "online":
                nexus.online()

    def remove(self) -> None:
        """Take everything down again."""
        for nexus in self.paths:
            nexus.direct.close()
            group = nexus.portal_group
            for link in (group / "lun" / "lun_0").iterdir():
                if link.is_symlink():
                    link.unlink()
            (group / "lun" / "lun_0").rmdir()
            _write(group / "nexus", "NULL")
            group.rmdir()
            group.parent.rmdir()
        super().remove()


def create_backstore(size_mib: int) -> Path:
    """A new RAM disk of LIO that nothing leads to yet."""
    number = next(_unit_numbers)
    backstore = TARGET / "core" / f"rd_mcp_{number}" / "disk"
    backstore.mkdir(parents=True)
    _write(backstore / "control", f"rd_pages={size_mib * 256}")
    _write(backstore / "enable", "1")
    # LIO makes the NAA designator of the serial number's hexadecimal digits.
    _write(backstore / "wwn" / "vpd_unit_serial", f"{number:025x}")
    return backstore


def _transport_id(initiator: str) -> TransportId:
    """The initiator port's TransportID, as this kernel reports it in READ FULL STATUS where it does."""
    if initiator.startswith("naa."):
        return SasTransportId(bytes.fromhex(initiator.removeprefix("naa.")))
    if initiator.startswith("fc."):
        return FcTransportId(bytes.fromhex(initiator.removeprefix("fc.")))
    return IscsiTransportId(initiator, None)


def create_unit(count: int, protocol: str = "sas", size_mib: int = 16) -> LoopUnit:
    """A new logical unit of ``size_mib`` MiB behind ``count`` nexuses of the given protocol (sas, fc, iscsi)."""
    backstore = create_backstore(size_mib)
    unit_number = int(backstore.parent.name.removeprefix("rd_mcp_"))
    unit = LoopUnit(backstore)
    for number in range(1, count + 1):
        # LIO formats a TransportID only from names of the protocol's exact length (SPC-4 7.6.4).
        target, initiator = (f"{PREFIXES[protocol]}{side}{unit_number % 256:02x}{number:01x}" for side in ("a", "b"))
        group = TARGET / "loopback" / target / "tpgt_1"
        group.mkdir(parents=True)
        _write(group / "nexus", initiator)
        lun = group / "lun" / "lun_0"
        lun.mkdir()
        (lun / "disk").symlink_to(backstore)
        host = (group / "address").read_text(encoding="ascii").strip().split(":")[0]
        nodes = nodes_of(f"{host}:0:1:0")
        unit.nexuses.append(
            LoopNexus(number, initiator, target, nodes, SgNode(nodes.sg), backstore, _transport_id(initiator))
        )
    settle()
    return unit
