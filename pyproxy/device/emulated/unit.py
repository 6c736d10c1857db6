"""The embedded logical unit: a block device in memory or in a sparse file, shared by any number of I_T nexuses."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
import uuid
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from _fastpath.medium import Medium
from pyproxy.device.emulated.access import gate_flags
from pyproxy.device.emulated.modes import ModePages
from pyproxy.device.emulated.nexus import EmulatedNexus
from pyproxy.device.emulated.outcome import EmulatedUnitError, check_condition
from pyproxy.device.emulated.persistence import SavedUnit, StateFile
from pyproxy.device.emulated.reservations import Decision, Nexus, ReservationState, Rules
from pyproxy.scsi.sense import (
    BUS_DEVICE_RESET_FUNCTION,
    CAPACITY_DATA_CHANGED,
    COMMANDS_CLEARED_BY_ANOTHER_INITIATOR,
    INTERNAL_TARGET_FAILURE,
    POWER_ON,
    Sense,
)
from pyproxy.scsi.transport_id import TransportId

_STATE_SUFFIX: Final = ".state"
_MAX_RTPI: Final = 0xFFFF


class EmulatedUnit:
    """A direct access block device (SPC-4, SBC-3) with every persistent reservation feature of SPC-4 but RLR.

    ``size`` is the capacity in bytes, a multiple of ``block_size`` (512 or 4096). Without ``path`` the medium is
    memory, taken only as it is written. With ``path`` it is that file, made sparse where it does not exist and
    grown to ``size`` where it is shorter; beside it ``PATH.state`` keeps the serial number and, with APTPL, the
    persistent reservations. One process at a time may open a file.

    ``serial`` (printable ASCII) names the unit world-wide and must be the same at each opening; by default one is
    made up and kept in the state file. ``keep_preempting_caller`` departs from the standard as some targets do: a
    PREEMPT that names the caller's own key without preempting a reservation leaves the caller registered.
    ``power_on_attention`` makes each new nexus find the unit attention POWER ON OCCURRED, as on a real device.

    Raises EmulatedUnitError when the file cannot be used, ValueError for a wrong argument. Methods may be called from
    any thread.
    """

    def __init__(
        self,
        size: int,
        *,
        path: Path | None = None,
        block_size: int = 512,
        serial: str | None = None,
        vendor: str = "PYPROXY",
        product: str = "EMULATED DISK",
        revision: str = "0001",
        keep_preempting_caller: bool = False,
        power_on_attention: bool = True,
        max_registrations: int = 4096,
    ) -> None:
        if serial is not None and not (0 < len(serial) <= 128 and serial.isascii() and serial.isprintable()):
            raise ValueError(f"serial number {serial!r} must be 1 to 128 printable ASCII characters")
        if block_size not in (512, 4096) or size <= 0 or size % block_size:
            raise ValueError(f"size {size} must be a positive multiple of the block size, which is 512 or 4096")
        self.path = path
        self.block_size = block_size
        self.blocks = size // block_size
        self.vendor, self.product, self.revision = vendor, product, revision
        self.lock = threading.RLock()
        self.closed = False
        self.started = True
        self.spc2_holder: Nexus | None = None
        self.rules = Rules(
            aptpl=path is not None,
            keep_preempting_caller=keep_preempting_caller,
            max_registrations=max_registrations,
        )
        self._power_on_attention = power_on_attention
        self._nexuses: dict[Nexus, EmulatedNexus] = {}
        self._descriptor = -1
        self._state_file: StateFile | None = None
        self._on_disk: ReservationState | None = None
        if path is None:
            self.serial = serial or uuid.uuid4().hex
            self.reservations = ReservationState()
            self.medium = Medium(size, block_size)
        else:
            self._descriptor = _open_file(path, size)
            try:
                self._state_file = StateFile(path.with_name(path.name + _STATE_SUFFIX))
                saved = self._load(self._state_file, serial)
                self.serial, self.reservations = saved.serial, saved.reservations.after_power_loss()
                self._on_disk = self.reservations
                self.medium = Medium(size, block_size, self._descriptor)
            except BaseException:
                os.close(self._descriptor)
                raise
            ports = frozenset(nexus.rtpi for nexus in self.reservations.registrations)
            self.rules = replace(self.rules, target_ports=self.rules.target_ports | ports)
        self.modes = ModePages(write_cache=path is not None)

    @property
    def name(self) -> str:
        """``emulated:`` and the path, or the serial number of a unit in memory."""
        return f"emulated:{self.serial if self.path is None else self.path}"

    @staticmethod
    def _load(state_file: StateFile, serial: str | None) -> SavedUnit:
        saved = state_file.load()
        if saved is None:
            saved = SavedUnit(serial or uuid.uuid4().hex, ReservationState())
            try:
                state_file.save(saved)
            except OSError as error:
                message = f"cannot write {state_file.path}: {error.strerror}; make its directory writable"
                raise EmulatedUnitError(error.errno, message) from error
        elif serial is not None and serial != saved.serial:
            raise EmulatedUnitError(
                errno.EINVAL,
                f"{state_file.path} belongs to the unit with serial number {saved.serial!r}, not {serial!r}; give that "
                "serial number, or remove the file to start with a new one and no reservations",
            )
        return saved

    def nexus(self, initiator: TransportId, rtpi: int = 1) -> EmulatedNexus:
        """Return the unit as ``initiator`` sees it through target port ``rtpi`` (1 to 65535).

        The same arguments give the same nexus. A port becomes known, for ALL_TG_PT and REGISTER AND MOVE, with its
        first nexus; port 1 always is.
        """
        if not 1 <= rtpi <= _MAX_RTPI:
            raise ValueError(f"relative target port identifier {rtpi} must be 1 to {_MAX_RTPI}")
        identity = Nexus(initiator, rtpi)
        with self.lock:
            known = self._nexuses.get(identity)
            if known is None:
                known = self._nexuses[identity] = EmulatedNexus(self, identity)
                self.rules = replace(self.rules, target_ports=self.rules.target_ports | {rtpi})
                if self._power_on_attention:
                    known.attentions.restart(POWER_ON)
                self.refresh(known)
            return known

    # --- events ---

    def power_cycle(self) -> None:
        """Lose power and get it back: commands vanish, reservations stay only with APTPL, the medium stays."""
        with self.lock:
            self._restart()
            self.reservations = self.reservations.after_power_loss()
            for nexus in self._nexuses.values():
                nexus.attentions.restart(POWER_ON)
                self.refresh(nexus)

    def reset(self, attention: Sense = BUS_DEVICE_RESET_FUNCTION) -> None:
        """Logical unit reset: as a power cycle, but persistent reservations stay; ``attention`` tells everyone."""
        with self.lock:
            self._restart()
            for nexus in self._nexuses.values():
                nexus.attentions.establish(attention)
                self.refresh(nexus)

    def _restart(self) -> None:
        for nexus in self._nexuses.values():
            nexus.aborted_by_other = True
            self.refresh(nexus)
            nexus.gate.abort()
        self.spc2_holder = None
        self.started = True
        self.modes.reset()

    def grow(self, size: int) -> None:
        """Make the unit larger; CAPACITY DATA HAS CHANGED tells every nexus (SBC-3 4.7). The same size changes nothing.

        Raises EmulatedUnitError where it cannot be as large, ValueError for a smaller or uneven size.
        """
        if size % self.block_size:
            raise ValueError(f"size {size} must be a multiple of the block size {self.block_size}")
        with self.lock:
            if size == self.medium.size or self.closed:
                return
            if size < self.medium.size:
                raise ValueError(f"{self.name} has {self.medium.size} bytes and cannot shrink to {size}")
            try:
                if self.path is not None:
                    os.ftruncate(self._descriptor, size)
                self.medium.grow(size)
            except (OSError, MemoryError) as error:
                number = error.errno if isinstance(error, OSError) else errno.ENOMEM
                raise EmulatedUnitError(number, f"{self.name} cannot grow to {size} bytes: {error}") from error
            self.blocks = size // self.block_size
            for nexus in self._nexuses.values():
                nexus.attentions.establish(CAPACITY_DATA_CHANGED)
            self.refresh_all()

    def close(self) -> None:
        """End every command and give memory and file back; safe to repeat."""
        with self.lock:
            if self.closed:
                return
            self.closed = True
            for nexus in self._nexuses.values():
                nexus.gate.abort()
            self.medium.close()
            if self._descriptor >= 0:
                os.close(self._descriptor)

    # --- for the commands; the caller holds the lock ---

    def refresh(self, nexus: EmulatedNexus) -> None:
        """Recompute what the nexus' gate lets through."""
        nexus.gate.flags = gate_flags(
            self.reservations,
            self.spc2_holder,
            nexus.identity,
            attention=bool(nexus.attentions),
            ready=self.started,
            write_protected=self.modes.swp,
            write_through=not self.modes.wce,
            task_aborted=nexus.aborted_by_other and self.modes.tas,
        )

    def refresh_all(self) -> None:
        """Recompute every gate."""
        for nexus in self._nexuses.values():
            self.refresh(nexus)

    def hold_spc2(self, holder: Nexus | None) -> None:
        """Let ``holder`` hold the SPC-2 reservation."""
        self.spc2_holder = holder
        self.refresh_all()

    def start(self, *, running: bool) -> None:
        """Start or stop the unit."""
        self.started = running
        self.refresh_all()

    def modes_changed(self, by: EmulatedNexus, attention: Sense) -> None:
        """Tell every nexus but ``by`` that mode parameters changed."""
        for nexus in self._nexuses.values():
            if nexus is not by:
                nexus.attentions.establish(attention)
        self.refresh_all()

    def commit(self, by: EmulatedNexus, decision: Decision) -> None:
        """Carry out a decided PERSISTENT RESERVE OUT: on stable storage first, then for everyone at once.

        Raises Refused with 04/44/00, and changes nothing, when it cannot be made durable.
        """
        self._persist(decision.state)
        self.reservations = decision.state
        for identity, sense in decision.attentions:
            told = self._nexuses.get(identity)
            if told is not None:
                told.attentions.establish(sense)
        self.refresh_all()
        # Only now: what was refused its rights above cannot start again behind the abort.
        for identity in decision.aborts:
            self._abort(identity, by)
        self.refresh_all()

    def _abort(self, identity: Nexus, by: EmulatedNexus) -> None:
        victim = self._nexuses.get(identity)
        if victim is None:
            return
        victim.aborted_by_other = victim is not by
        self.refresh(victim)
        if victim.gate.abort() and victim is not by and not self.modes.tas:
            victim.attentions.establish(COMMANDS_CLEARED_BY_ANOTHER_INITIATOR)

    def _persist(self, state: ReservationState) -> None:
        if self._state_file is None:
            return
        lasting = state.after_power_loss()
        if lasting == self._on_disk:
            return
        try:
            self._state_file.save(SavedUnit(self.serial, lasting))
        except OSError as error:
            # The new content may be there all the same (only the directory could not be synchronised): put the
            # state that stands back if possible, and write again at the next command whatever it does.
            self._on_disk = None
            with suppress(OSError):
                self._state_file.save(SavedUnit(self.serial, self.reservations.after_power_loss()))
            raise check_condition(INTERNAL_TARGET_FAILURE) from error
        self._on_disk = lasting


def _open_file(path: Path, size: int) -> int:
    """Open, lock and size the file of a medium; returns its descriptor."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise EmulatedUnitError(error.errno, f"cannot open {path}: {error.strerror}") from error
    try:
        _claim(path, descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _claim(path: Path, descriptor: int, size: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise EmulatedUnitError(
            error.errno, f"{path} is in use by another process or unit; close that one or use another file"
        ) from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise EmulatedUnitError(errno.EINVAL, f"{path} is not a regular file; use the sg back end for devices")
    if found.st_size > size:
        raise EmulatedUnitError(
            errno.EINVAL,
            f"{path} is {found.st_size} bytes long, more than the unit's {size}; give its size, or another file",
        )
    if found.st_size < size:
        try:
            os.ftruncate(descriptor, size)
        except OSError as error:
            raise EmulatedUnitError(
                error.errno, f"cannot grow {path} to {size} bytes: {error.strerror}; choose a smaller size"
            ) from error
