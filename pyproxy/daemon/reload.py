"""What of a changed configuration a running daemon can take over, and what it must say it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from pyproxy.config import Config, EmulatedSection, GuestSection, UnitSection, cross_checks

DAEMON_KEYS: Final = ("log_format", "log_level", "poll_seconds")
"""Keys of [daemon] that take effect at once."""
UNIT_KEYS: Final = ("adopt", "timeout")
"""Keys of a [[guest.unit]] that take effect for what comes next."""

_WHOLE_TABLES: Final = ("migration", "metrics", "peer")

_RESTART: Final = "takes effect when the daemon is started again"


@dataclass(frozen=True, slots=True)
class Reload:
    """The configuration to go on with, and sentences: what ``applied`` changes, what was ``kept`` as it was and why."""

    config: Config
    applied: tuple[str, ...]
    kept: tuple[str, ...]


def plan(running: Config, wanted: Config) -> Reload:
    """Compare the configuration that is running with the one that was read again.

    Nothing a guest uses is changed or taken away: its registrations hang on it. What is added is checked against what
    stays.
    """
    if running.source != wanted.source:
        # Its file was removed: what would be read now is another host's worth of guests.
        sentence = f"nothing is changed: the configuration would be {wanted.source} now, no longer {running.source}"
        return Reload(running, (), (sentence,))
    applied: list[str] = []
    kept: list[str] = []
    changed = _changed(running.daemon, wanted.daemon)
    live = {name: value for name, value in changed.items() if name in DAEMON_KEYS}
    applied += [f"daemon.{name} is {value}" for name, value in live.items()]
    kept += [f"daemon.{name} {_RESTART}" for name in changed if name not in DAEMON_KEYS]
    config = replace(running, daemon=replace(running.daemon, **live))
    kept += [f"{name} {_RESTART}" for name in _changed(running, wanted) if name in _WHOLE_TABLES]
    for guest in running.guest:
        new = wanted.find_guest(guest.name)
        if new is None:
            kept.append(f"guest {guest.name} is served on, it may be in use; without it {_RESTART}")
        else:
            config = _replaced(config, _kept_guest(guest, new, applied, kept))
    for name, candidate in _additions(config, wanted):
        problem = next(cross_checks(candidate(config)), None)
        if problem is not None:
            kept.append(f"{name} is not added: {problem.message}")
            continue
        config = candidate(config)
        applied.append(f"{name} is added")
    return Reload(config, tuple(applied), tuple(kept))


def _kept_guest(guest: GuestSection, new: GuestSection, applied: list[str], kept: list[str]) -> GuestSection:
    """Return ``guest`` with what may change in its units; units are neither added nor removed here."""
    kept += [f"guest {guest.name}: {name} {_RESTART}" for name in _changed(guest, new) if name != "unit"]
    units = []
    for unit in guest.unit:
        where = f"guest {guest.name} LUN {unit.lun}"
        found = next((one for one in new.unit if one.lun == unit.lun), None)
        if found is None:
            kept.append(f"{where} is served on, it may be in use; without it {_RESTART}")
            units.append(unit)
            continue
        changed = _changed(unit, found)
        live = {name: value for name, value in changed.items() if name in UNIT_KEYS}
        applied += [f"{where}: {name} is {_shown(value)}" for name, value in live.items()]
        if _only_grows(unit.emulated, found.emulated):
            live["emulated"] = changed.pop("emulated")
            applied.append(f"{where}: emulated.size is {live['emulated'].size} bytes")
        kept += [f"{where}: {name} {_RESTART}" for name in changed if name not in UNIT_KEYS]
        units.append(replace(unit, **live))
    return replace(guest, unit=tuple(units))


def _only_grows(before: EmulatedSection | None, after: EmulatedSection | None) -> bool:
    """Whether an emulated unit is to become larger and nothing else: its guest is told, and can go on."""
    return (
        before is not None
        and after is not None
        and after.size > before.size
        and after.size % after.block_size == 0
        and replace(after, size=before.size) == before
    )


class _Addition:
    """Adds a guest, or a unit to a guest, to a configuration."""

    def __init__(self, guest: GuestSection, unit: UnitSection | None = None) -> None:
        self._guest = guest
        self._unit = unit

    def __call__(self, config: Config) -> Config:
        if self._unit is None:
            return replace(config, guest=(*config.guest, self._guest))
        owner = config.find_guest(self._guest.name)
        assert owner is not None
        return _replaced(config, replace(owner, unit=(*owner.unit, self._unit)))


def _additions(config: Config, wanted: Config) -> Iterator[tuple[str, _Addition]]:
    for guest in wanted.guest:
        owner = config.find_guest(guest.name)
        if owner is None:
            yield f"guest {guest.name}", _Addition(guest)
            continue
        known = {unit.lun for unit in owner.unit}
        for unit in guest.unit:
            if unit.lun not in known:
                yield f"guest {guest.name} LUN {unit.lun}", _Addition(guest, unit)


def _replaced(config: Config, guest: GuestSection) -> Config:
    return replace(config, guest=tuple(guest if one.name == guest.name else one for one in config.guest))


def _changed(before: msgspec.Struct, after: msgspec.Struct) -> dict[str, Any]:
    names = before.__struct_fields__
    return {name: getattr(after, name) for name in names if getattr(before, name) != getattr(after, name)}


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
