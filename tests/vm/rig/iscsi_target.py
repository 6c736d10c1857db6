"""LIO's iSCSI target on the guest's loopback: the same target core, reached by initiators that choose their names."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.vm.rig.lio import TARGET, create_backstore

TARGET_NAME = "iqn.2003-01.org.linux-iscsi.test:iscsi"
PORTAL = "127.0.0.1:3260"


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="ascii") as stream:
        stream.write(text)


@dataclass(eq=False)
class IscsiTarget:
    """One target with one portal and logical unit 0, open to ``initiators`` only."""

    backstore: Path
    initiators: list[str]

    @property
    def url(self) -> str:
        """What libiscsi's tools take to reach logical unit 0."""
        return f"iscsi://{PORTAL}/{TARGET_NAME}/0"

    @property
    def group(self) -> Path:
        """The target portal group in configfs."""
        return TARGET / "iscsi" / TARGET_NAME / "tpgt_1"

    def remove(self) -> None:
        """Take everything down again."""
        _write(self.group / "enable", "0")
        for initiator in self.initiators:
            acl = self.group / "acls" / initiator
            (acl / "lun_0" / "disk").unlink()
            (acl / "lun_0").rmdir()
            acl.rmdir()
        (self.group / "lun" / "lun_0" / "disk").unlink()
        (self.group / "lun" / "lun_0").rmdir()
        (self.group / "np" / PORTAL).rmdir()
        self.group.rmdir()
        self.group.parent.rmdir()
        self.backstore.rmdir()
        self.backstore.parent.rmdir()


def create_target(initiators: Sequence[str], size_mib: int = 16) -> IscsiTarget:
    """A new target with a RAM disk of ``size_mib`` MiB.

    The initiators are listed by name: LIO drops the registrations of those it only admits on the fly at logout.
    """
    subprocess.run(["modprobe", "iscsi_target_mod"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    target = IscsiTarget(create_backstore(size_mib), list(initiators))
    group = TARGET / "iscsi" / TARGET_NAME / "tpgt_1"
    group.mkdir(parents=True)
    (group / "np" / PORTAL).mkdir(parents=True)
    _write(group / "attrib" / "authentication", "0")
    lun = group / "lun" / "lun_0"
    lun.mkdir()
    (lun / "disk").symlink_to(target.backstore)
    for initiator in target.initiators:
        mapped = group / "acls" / initiator / "lun_0"
        mapped.mkdir(parents=True)
        (mapped / "disk").symlink_to(lun)
    _write(group / "enable", "1")
    return target
