"""A guest on one host after the other, each host with an initiator name of its own.

        host 1: GuestUnit ── IscsiDevice ── nexus 1 ──┐
                                                      ├── target ── nexus 3: an outsider that must never get through
        host 2: GuestUnit ── IscsiDevice ── nexus 2 ──┘

Each host is wired from a configuration file as the daemon does it, with a store of its own.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Protocol, Self

from pyproxy import config
from pyproxy.config import Config, GuestSection, UnitSection
from pyproxy.daemon.backing import Backing
from pyproxy.daemon.host import Host
from pyproxy.daemon.local import LocalOperations
from pyproxy.daemon.operations import RestoreRequest
from pyproxy.device.iscsi import IscsiDevice
from pyproxy.device.iscsi_settings import IscsiSettings
from pyproxy.migration.checkpoint import decode_checkpoint
from pyproxy.migration.restore import RestoreReport
from pyproxy.reservation.state import Suspicion
from pyproxy.scsi.command import Command, Result
from pyproxy.unit import GuestUnit
from tests.iscsi.commands import BLOCK, REGISTER, RESERVE, pr_out, read, write
from tests.vm.rig.takeover import Watch

GUEST = "db"


class Target(Protocol):
    """A target whose disk has a URL."""

    @property
    def url(self) -> str:
        """What IscsiSettings take."""


class GuestHost:
    """Guest ``db`` with logical unit 0 on one host; a lost nexus makes what is tracked suspect."""

    def __init__(self, directory: Path, number: int, target: Target) -> None:
        self.name = f"host-{number}"
        self._target = target
        self._file = directory / f"{self.name}.toml"
        home = directory / self.name
        home.mkdir()
        # The device is opened below; the configuration has no iSCSI units.
        self._file.write_text(
            f"""
[daemon]
host_name = "{self.name}"
state_dir = "{home / "state"}"
runtime_dir = "{home / "run"}"

[[guest]]
name = "{GUEST}"

[[guest.unit]]
lun = 0
device = "/dev/null"
""",
            encoding="utf-8",
        )
        self._host: Host | None = None
        self.device: IscsiDevice | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def host(self) -> Host:
        if self._host is None:
            self._host = Host(config.load(self._file), open_backing=self._open)
        return self._host

    @property
    def unit(self) -> GuestUnit:
        return self.host.unit(GUEST, 0)

    def close(self) -> None:
        """Log out; what was tracked stays in the state directory for the next start."""
        if self._host is not None:
            self._host.close()
            self._host = None
            self.device = None

    def pr_out(self, action: int, *, key: int = 0, sa_key: int = 0, kind: int = 0) -> Result:
        return self.unit.execute(pr_out(action, key=key, sa_key=sa_key, kind=kind))

    def write(self, data: bytes = bytes(BLOCK)) -> Result:
        return self.unit.execute(write(0, data))

    def read(self) -> Result:
        return self.unit.execute(read(0, 1))

    def claim(self, key: int, kind: int | None) -> None:
        """REGISTER and RESERVE as the guest."""
        self.settle()
        assert self.pr_out(REGISTER, sa_key=key).good
        if kind is not None:
            assert self.pr_out(RESERVE, key=key, kind=kind).good

    def settle(self) -> list[str]:
        """Let the guest see its unit attentions; which they were."""
        seen = []
        while (sense := self.read().decoded_sense) is not None and sense.is_unit_attention:
            seen.append(f"{sense.asc:02x}/{sense.ascq:02x}")
        return seen

    def checkpoint(self) -> bytes:
        return LocalOperations(self.host).checkpoint(GUEST, None)

    def restore(
        self, document: bytes, *, source: GuestHost | None = None, dead: bool = False, watch: Watch | None = None
    ) -> RestoreReport:
        """What ``pyproxy restore`` does; the source's nexus is the session that the source has."""
        watch = watch or Watch()
        found = self.host.open_unit(GUEST, 0)
        return LocalOperations(self.host).take_over(
            decode_checkpoint(document),
            watch.over(found.unit.device, "destination"),
            None if source is None else watch.over(source.unit.device, "source"),
            RestoreRequest(document=document, source_dead=dead),
            found,
        )

    def _open(self, settings: Config, guest: GuestSection, section: UnitSection) -> Backing:
        chosen = IscsiSettings(url=self._target.url, initiator=f"iqn.2026-01.org.example:{self.name}")
        device = IscsiDevice.open(
            chosen,
            host=settings.daemon.host_name,
            guest=guest.name,
            lun=section.lun,
            on_nexus_lost=lambda _: self.unit.snooper.suspect(Suspicion.NEXUS_LOST),
        )
        self.device = device
        return Backing(device, device.initiator, device.rtpi, device.close)


def reservation(device: IscsiDevice) -> tuple[int, int] | None:
    """READ RESERVATION: key and type."""
    result = device.execute(Command(bytes.fromhex("5e01 0000000000 0018 00"), data_in=24))
    assert result.good
    if result.data[4:8] == bytes(4):
        return None
    return struct.unpack_from(">Q", result.data, 8)[0], result.data[21] & 0x0F
