"""What others than pyproxy say of a unit's reservations: LIO's configfs and sg_persist, which must agree."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.vm.rig.lio import LioNexus, LioUnit

TYPE_WORDS = {
    1: ("Write Exclusive Access", "Write Exclusive"),
    3: ("Exclusive Access", "Exclusive Access"),
    5: ("Write Exclusive Access, Registrants Only", "Write Exclusive, registrants only"),
    6: ("Exclusive Access, Registrants Only", "Exclusive Access, registrants only"),
    7: ("Write Exclusive Access, All Registrants", "Write Exclusive, all registrants"),
    8: ("Exclusive Access, All Registrants", "Exclusive Access, all registrants"),
}
"""Type -> what LIO's configfs and sg_persist call it."""


def configfs_shows(
    unit: LioUnit, registered: dict[LioNexus, int], holder: LioNexus | None = None, type_: int | None = None
) -> None:
    """LIO itself: exactly these are registered, with these keys, and this one (nominally) holds."""
    assert unit.registered == {nexus.initiator: key for nexus, key in registered.items()}
    assert unit.holder == (None if holder is None else holder.initiator)
    assert unit.reservation_type == (None if type_ is None else TYPE_WORDS[type_][0])


def sg_persist_shows(
    node: Path, registered: dict[LioNexus, int], holder: LioNexus | None = None, type_: int | None = None
) -> None:
    """sg_persist's keys, reservation and full status: the same, with the standard's view of who holds."""
    keys = re.findall(r"^ +0x([0-9a-f]+)$", _sg_persist(node, "--read-keys"), re.MULTILINE)
    assert sorted(int(key, 16) for key in keys) == sorted(registered.values())
    reservation = _sg_persist(node, "--read-reservation")
    if type_ is None:
        assert "there is NO reservation held" in reservation
    else:
        assert holder is not None
        key = 0 if type_ in (7, 8) else registered[holder]
        assert re.search(rf"Key=0x{key:x}\s", reservation), reservation
        assert f"type: {TYPE_WORDS[type_][1]}" in reservation
    found = {}
    for part in _sg_persist(node, "--read-full-status").split("Key=0x")[1:]:
        found[_initiator(part)] = int(part.split()[0], 16), "<< Reservation holder >>" in part
    expected = {nexus.initiator: (key, type_ in (7, 8) or nexus is holder) for nexus, key in registered.items()}
    assert found == expected


def all_show(
    unit: LioUnit, registered: dict[LioNexus, int], holder: LioNexus | None = None, type_: int | None = None
) -> None:
    """Every witness; sg_persist looks through the last nexus, after reporting what attentions it has pending."""
    configfs_shows(unit, registered, holder, type_)
    unit.nexuses[-1].direct.drain_unit_attentions()
    sg_persist_shows(unit.nexuses[-1].sg, registered, holder, type_)


def _sg_persist(node: Path, what: str) -> str:
    words = ["sg_persist", "--no-inquiry", "--in", what, str(node)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def _initiator(part: str) -> str:
    """The initiator port's name in one descriptor of sg_persist's full status."""
    sas = re.search(r"SAS address: 0x([0-9a-f]+)", part)
    if sas is not None:
        return f"naa.{sas[1]}"
    iscsi = re.search(r"iSCSI [^:]*: (iqn\.[^\s,]+)", part)
    assert iscsi is not None, f"no initiator port in {part!r}"
    return iscsi[1]
