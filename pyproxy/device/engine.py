"""A logical unit whose commands an engine of the fast path executes: batches, results, errors in words."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Self, TypeVar

from _fastpath.lanes import LaneRunner
from _fastpath.sgio import DIRECTION_IN, DIRECTION_NONE, DIRECTION_OUT, MAX_TRANSFER, Batch, Engine
from pyproxy.device.base import LaneOutcome, TransportError, results_of
from pyproxy.scsi.command import Command, Result

T = TypeVar("T")

_SMALLEST_BATCH = 8
_LARGEST_KEPT_BATCH = 1024
_OVERRUN: Final = 64
"""Bytes of memory behind what a command receives. The kernel's own target (LIO) writes up to 32 bytes past the
ALLOCATION LENGTH of READ FULL STATUS, and through its local ports those are the caller's memory."""


class EngineDevice:
    """A device called ``name`` over ``engine``; ``remedies`` says what to do about an errno of a command.

    Any number of threads may execute commands at once.
    """

    def __init__(self, name: str, engine: Engine, remedies: Mapping[int, str]) -> None:
        self._name = name
        self._engine = engine
        self._remedies = remedies
        self._own = threading.local()

    @property
    def name(self) -> str:
        """How an operator knows it."""
        return self._name

    @property
    def engine(self) -> Engine:
        """The engine that executes batches of C commands on this device."""
        return self._engine

    def execute(self, command: Command) -> Result:
        """Run one command to its end. Raises TransportError; ValueError for a command no device could be sent."""
        (outcome,), _ = self._run((command,), self._engine.run)
        if isinstance(outcome, TransportError):
            raise outcome
        return outcome

    def execute_batch(self, commands: Sequence[Command]) -> list[Result]:
        """Run commands submitted together; the device may reorder them. Raises as ``execute``.

        The TransportError of a batch carries every command's outcome.
        """
        if not commands:
            return []
        outcomes, _ = self._run(commands, self._engine.run)
        return results_of(outcomes)

    def execute_lanes(self, commands: Sequence[Command]) -> LaneOutcome:
        """Run commands submitted together but for PERSISTENT RESERVE IN and OUT. Raises as ``LaneDevice`` says."""
        if not commands:
            return LaneOutcome([], [])
        answered, (left, events) = self._run(commands, self._lanes(len(commands)).run)
        outcomes: list[Result | TransportError | None] = [*answered]
        for index in left:
            outcomes[index] = None
        return LaneOutcome(outcomes, events)

    def close(self) -> None:
        """Wait for commands that are running, then release the device; safe to repeat."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self, commands: Sequence[Command], run: Callable[[Batch], T]) -> tuple[list[Result | TransportError], T]:
        """Have ``run`` execute the commands as one batch; each one's outcome, and what ``run`` returned."""
        batch = self._batch(len(commands))
        try:
            received = [_add(batch, command) for command in commands]
            try:
                ran = run(batch)
            except ValueError as error:
                raise TransportError(errno.EBADF, str(error)) from error
            return [
                self._outcome(batch, index, received[index], command) for index, command in enumerate(commands)
            ], ran
        finally:
            batch.clear()

    def _batch(self, size: int) -> Batch:
        """Give this thread a batch of its own, kept unless it is huge."""
        kept: Batch | None = getattr(self._own, "batch", None)
        if kept is None or kept.capacity < size:
            kept = Batch(max(_SMALLEST_BATCH, size))
            if size <= _LARGEST_KEPT_BATCH:
                self._own.batch = kept
        return kept

    def _lanes(self, size: int) -> LaneRunner:
        """Give this thread a lane runner of its own, with room for an event of every command of a batch."""
        if size > _LARGEST_KEPT_BATCH:
            return LaneRunner(self._engine, size)
        kept: LaneRunner | None = getattr(self._own, "lanes", None)
        if kept is None:
            kept = self._own.lanes = LaneRunner(self._engine, _LARGEST_KEPT_BATCH)
        return kept

    def _outcome(
        self, batch: Batch, index: int, received: memoryview | None, command: Command
    ) -> Result | TransportError:
        status, sense, host_status, driver_status, residual, duration_ms, error = batch.result(index)
        if error != 0:
            return self._transport_error(error, command, fate_unknown=batch.fate_unknown(index))
        if self._lost(host_status):
            return self._transport_error(errno.ENODEV, command, fate_unknown=True)
        data = b"" if received is None else bytes(received[: len(received) - max(0, residual)])
        return Result(status, sense, data, host_status, driver_status, residual, duration_ms)

    def _lost(self, host_status: int) -> bool:
        """Whether a host status says that the device went while it may have been executing the command."""
        del host_status
        return False

    def _transport_error(self, error: int, command: Command, *, fate_unknown: bool) -> TransportError:
        fate = "; the device may have executed it" if fate_unknown else ""
        remedy = self._remedies.get(error)
        return TransportError(
            error,
            f"{self._name}: command {command.cdb[0]:02X}h was not answered: {os.strerror(error)}{fate}"
            + (f"; {remedy}" if remedy else ""),
            fate_unknown=fate_unknown,
        )


def _add(batch: Batch, command: Command) -> memoryview | None:
    """Append the command; the buffer that receives its data where it asked for a count of bytes."""
    if command.data_out:
        if command.data_in:
            raise ValueError(
                f"command {command.cdb[0]:02X}h has data in both directions, which pass-through cannot carry"
            )
        batch.add(command.cdb, DIRECTION_OUT, command.data_out, command.timeout_ms)
        return None
    if isinstance(command.data_in, int):
        if not 0 <= command.data_in <= MAX_TRANSFER:
            raise ValueError(f"{command.data_in} bytes of data is not between 0 and {MAX_TRANSFER}")
        if command.data_in == 0:
            batch.add(command.cdb, DIRECTION_NONE, (), command.timeout_ms)
            return None
        received = memoryview(bytearray(command.data_in + _OVERRUN))[: command.data_in]
        batch.add(command.cdb, DIRECTION_IN, received, command.timeout_ms)
        return received
    batch.add(command.cdb, DIRECTION_IN, command.data_in, command.timeout_ms)
    return None
