"""A sysfs tree with one SCSI disk, as the kernel lays it out."""

from __future__ import annotations

import os
import stat
from pathlib import Path

SG, SD, SD1, BSG, NULL, DM = (21, 3), (8, 32), (8, 33), (251, 3), (1, 3), (253, 0)


def make_tree(root: Path, address: str = "2:0:1:7", *, state: str = "running", nodes: bool = True) -> Path:
    """Build the tree; returns the device's directory."""
    host, channel, target, _ = address.split(":")
    device = root / "devices" / "pci0" / f"host{host}" / f"target{host}:{channel}:{target}" / address
    _link(device / "subsystem", root / "bus" / "scsi")
    for name, text in {"type": "0", "vendor": "ACME    ", "model": "DISK", "rev": "1.0", "state": state}.items():
        (device / name).write_text(text + "\n")
    _link(root / "class" / "scsi_device" / address / "device", device)
    if nodes:
        _node(root, device, "scsi_generic", "sg3", "char", SG)
        disk = _node(root, device, "block", "sdc", "block", SD)
        partition = disk / "sdc1"
        partition.mkdir()
        (partition / "partition").write_text("1\n")
        _link(partition / "subsystem", root / "class" / "block")
        _link(root / "dev" / "block" / _number(SD1), partition)
        _node(root, device, "bsg", address, "char", BSG)
    null = root / "devices" / "virtual" / "mem" / "null"
    _link(null / "subsystem", root / "class" / "mem")
    _link(root / "dev" / "char" / _number(NULL), null)
    mapped = root / "devices" / "virtual" / "block" / "dm-0"
    _link(mapped / "subsystem", root / "class" / "block")
    _link(mapped / "slaves" / "sdc", device)
    _link(mapped / "slaves" / "sdd", device)
    _link(root / "dev" / "block" / _number(DM), mapped)
    return device


def node_status(number: tuple[int, int], kind: int = stat.S_IFCHR) -> os.stat_result:
    """What stat says of a device node with this number."""
    return os.stat_result((kind | 0o600, 1, 1, 1, 0, 0, 0, 0, 0, 0), {"st_rdev": os.makedev(*number)})


def _node(root: Path, device: Path, subsystem: str, name: str, kind: str, number: tuple[int, int]) -> Path:
    entry = device / subsystem / name
    _link(entry / "subsystem", root / "class" / subsystem)
    _link(entry / "device", device)
    _link(root / "dev" / kind / _number(number), entry)
    return entry


def _number(number: tuple[int, int]) -> str:
    return f"{number[0]}:{number[1]}"


def _link(link: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
