"""Whether this host can take a guest: looked at before anything is changed."""

from __future__ import annotations

from dataclasses import dataclass

from pyproxy.migration.guest import MigratingUnit, MigrationHost
from pyproxy.migration.messages import PathFacts, Prepare
from pyproxy.migration.record import UnitRecord
from pyproxy.reservation.snapshot import SnapshotError, drive, read_snapshot


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was found: sentences that forbid it, or this host's paths and the LUNs whose nexus both hosts share."""

    problems: tuple[str, ...] = ()
    paths: tuple[PathFacts, ...] = ()
    same_nexus: tuple[int, ...] = ()
    records: tuple[UnitRecord, ...] = ()


def examine(host: MigrationHost, request: Prepare) -> Prepared:
    """Compare the source's units with this host's, and see that each path is free for the guest."""
    guest = request.guest
    try:
        units = {unit.lun: unit for unit in host.units(guest)}
    except Exception as error:  # whatever keeps the guest's units from being used here is the answer
        return Prepared((f"{host.name}: {error}",))
    problems = [
        f"{host.name}: guest {guest} has a LUN {lun} here which it has not at the source"
        for lun in sorted(set(units) - {facts.lun for facts in request.units})
    ]
    if host.running(guest):
        problems.append(f"{host.name}: guest {guest} runs here already")
    paths: list[PathFacts] = []
    same: list[int] = []
    records: list[UnitRecord] = []
    for there in request.units:
        unit = units.get(there.lun)
        if unit is None:
            problems.append(f"{host.name}: guest {guest} has no LUN {there.lun} here; add it to the configuration")
            continue
        facts = unit.facts
        one = _one_nexus(facts, there, one_kernel=request.boot_id == host.boot_id)
        problem = _problem(unit, facts, there) or unit.blocker() or ("" if one else _not_free(unit))
        if problem:
            problems.append(f"{host.name}: guest {guest} LUN {there.lun}: {problem}")
        paths.append(facts)
        same += [there.lun] if one else []
        records.append(UnitRecord(lun=there.lun, unit=facts.unit.name, other=there, same_nexus=one))
    return Prepared(tuple(problems), tuple(paths), tuple(same), tuple(records))


def _problem(unit: MigratingUnit, here: PathFacts, there: PathFacts) -> str | None:
    if here.unit.identity.matches(there.unit.identity):
        return None
    names = here.unit.name, there.unit.name
    return f"{unit.port.name} leads to {names[0]}, the source has {names[1]}: correct the configuration of one"


def _one_nexus(here: PathFacts, there: PathFacts, *, one_kernel: bool) -> bool:
    """Whether both hosts come to the unit by one I_T nexus: then nothing is to be done on the wire."""
    if one_kernel and here.address is not None and here.address == there.address:
        return True
    named = (here.initiator, here.rtpi)
    return None not in named and named == (there.initiator, there.rtpi)


def _not_free(unit: MigratingUnit) -> str:
    """Say what is registered on this host's nexus already; empty where nothing is, or where the unit does not tell."""
    with unit.lock:
        try:
            snapshot = drive(read_snapshot(), unit.port.execute)
        except (SnapshotError, OSError) as error:
            return f"its reservations cannot be read: {error}"
        unit.heard(*snapshot.unit_attentions)
    nexus = unit.nexus
    found = [one for one in snapshot.full or () if nexus is not None and nexus.names(one)]
    if not found:
        return ""
    keys = ", ".join(f"{one.key:#018x}" for one in found)
    return f"this host's nexus is registered already ({keys}): unregister it, or give the guest a path of its own"
