"""Carries out a session's actions on the data plane, and keeps account of descriptors while it does."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable

from pyproxy.frontend.vhost_user.actions import (
    Action,
    AddRegion,
    DropInflight,
    MakeInflight,
    RemoveRegion,
    SetCall,
    SetEnabled,
    SetFeatures,
    SetInflight,
    SetLog,
    SetMemory,
    SetUsedLog,
    StartRing,
    StopRing,
)
from pyproxy.frontend.vhost_user.data_plane import DataPlane, DirtyLog, GuestMemory
from pyproxy.frontend.vhost_user.message import MemoryRegion
from pyproxy.frontend.vhost_user.ring_events import RingListener, RingWatch

log = logging.getLogger(__name__)


class PerformError(Exception):
    """An action failed, after the first ``performed`` ones had taken effect."""

    def __init__(self, sentence: str, performed: int) -> None:
        super().__init__(sentence)
        self.performed = performed


class _HalfDoneError(Exception):
    """An action failed and has taken effect."""


class Performer:
    """One front end's hold on the data plane. ``listener`` hears when its request rings start and stop."""

    def __init__(self, plane: DataPlane, listener: RingListener | None = None) -> None:
        self._plane = plane
        self._rings = RingWatch(listener)
        self._memory: GuestMemory | None = None

    def perform(self, actions: Iterable[Action]) -> object:
        """Carry out actions in order; returns the last one's value. Raises PerformError where one fails.

        Descriptors that the actions own are closed in any case.
        """
        actions = tuple(actions)
        value: object = None
        performed = 0
        try:
            for action in actions:
                value = self._perform(action)
                performed += 1
                if isinstance(action, StartRing):
                    self._rings.started(action.index)
                elif isinstance(action, StopRing):
                    self._rings.stopped(action.index)
        except _HalfDoneError as error:
            raise PerformError(str(error), performed + 1) from error
        except Exception as error:
            if not isinstance(error, OSError | ValueError | MemoryError):
                log.exception("the data plane failed inside pyproxy")
            raise PerformError(str(error) or type(error).__name__, performed) from error
        finally:
            for action in actions:
                close_all(action.owned)
        return value

    def undo(self, actions: Iterable[Action]) -> list[Exception]:
        """Carry out all actions, whatever becomes of each; returns what failed."""
        failures: list[Exception] = []
        for action in actions:
            try:
                self._perform(action)
            except Exception as error:
                failures.append(error)
        return failures

    def left(self) -> None:
        """Tell that the front end has closed its connection, after ``undo``."""
        self._rings.left()

    def _perform(self, action: Action) -> object:
        controller = self._plane.controller
        match action:
            case SetFeatures():
                controller.set_features(action.features)
            case SetMemory() | AddRegion() | RemoveRegion():
                self._use(self._changed(action))
            case SetLog():
                controller.set_log(self._map_log(action))
            case MakeInflight():
                return controller.get_inflight(action.queues, action.queue_size)
            case SetInflight():
                area = action.area
                controller.set_inflight(action.descriptor, area.offset, area.size, area.queues, area.queue_size)
            case DropInflight():
                controller.drop_inflight()
            case StartRing():
                self._start(action)
            case StopRing():
                return controller.stop_queue(action.index)
            case SetEnabled():
                controller.set_enabled(action.index, action.enabled)
            case SetCall():
                controller.set_call(action.index, action.descriptor)
            case SetUsedLog():
                controller.set_used_log(action.index, action.address)
        return None

    def _changed(self, action: SetMemory | AddRegion | RemoveRegion) -> GuestMemory | None:
        if isinstance(action, SetMemory):
            if not action.regions:
                return None
            return self._plane.map_memory(
                [_region(region, fd) for region, fd in zip(action.regions, action.descriptors, strict=True)]
            )
        region = action.region
        if isinstance(action, AddRegion):
            added = _region(region, action.descriptor)
            return self._plane.map_memory([added]) if self._memory is None else self._memory.with_region(added)
        if self._memory is None:
            raise ValueError("there is no memory to remove a region from")
        return self._memory.without_region(region.guest_address, region.size, region.user_address)

    def _use(self, memory: GuestMemory | None) -> None:
        self._memory = memory
        try:
            self._plane.controller.set_memory(memory)
        except ValueError as error:
            # The memory is another one all the same, and a ring has lost its own.
            raise _HalfDoneError(str(error)) from error

    def _map_log(self, action: SetLog) -> DirtyLog | None:
        area = action.area
        return None if area is None else self._plane.map_log(action.descriptor, area.offset, area.size)

    def _start(self, action: StartRing) -> None:
        # The session keeps the error descriptor over stops; a front end sends it once.
        error = os.dup(action.error) if action.error >= 0 else -1
        try:
            self._plane.controller.start_queue(
                action.index,
                size=action.size,
                descriptor_address=action.descriptor_address,
                available_address=action.available_address,
                used_address=action.used_address,
                used_log_address=action.used_log_address,
                base=action.base,
                kick=action.kick,
                call=action.call,
                error=error,
            )
        except BaseException:
            close_all((error,))
            raise


def close_all(descriptors: Iterable[int]) -> None:
    """Close descriptors; -1 is none."""
    for descriptor in descriptors:
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _region(region: MemoryRegion, descriptor: int) -> tuple[int, int, int, int, int]:
    return region.guest_address, region.size, region.user_address, descriptor, region.offset
