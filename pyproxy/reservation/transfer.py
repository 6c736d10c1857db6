"""The data buffers of a command: gather what a guest sends, put an answer where a guest wants it."""

from __future__ import annotations

from dataclasses import replace

from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.constants import Status
from pyproxy.scsi.sense import Sense


def gather(command: Command, limit: int) -> bytes:
    """Return at most ``limit`` bytes of what the command sends, copied so that a guest cannot change them later."""
    source = command.data_out
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(memoryview(source).cast("B")[:limit])
    collected = bytearray()
    for buffer in source:
        if len(collected) >= limit:
            break
        collected += memoryview(buffer).cast("B")[: limit - len(collected)]
    return bytes(collected)


def data_in_size(command: Command) -> int:
    """How many bytes the command accepts."""
    if isinstance(command.data_in, int):
        return command.data_in
    return sum(memoryview(buffer).nbytes for buffer in command.data_in)


def received(command: Command, result: Result) -> bytes:
    """Return the bytes a finished command brought, wherever they were put."""
    if isinstance(command.data_in, int):
        return result.data
    size = max(data_in_size(command) - result.residual, 0)
    collected = bytearray()
    for buffer in command.data_in:
        collected += memoryview(buffer).cast("B")[: size - len(collected)]
        if len(collected) >= size:
            break
    return bytes(collected)


def answer(command: Command, data: bytes, result: Result | None = None) -> Result:
    """Give ``data`` to the guest as the answer to ``command``: in its buffers, or in the result.

    ``result`` is what the device said about it (default: GOOD). What does not fit is cut off; residual is what
    stays unfilled.
    """
    size = data_in_size(command)
    data = data[:size]
    result = replace(result or Result(Status.GOOD), residual=size - len(data))
    if isinstance(command.data_in, int):
        return replace(result, data=data)
    position = 0
    for buffer in command.data_in:
        view = memoryview(buffer).cast("B")
        part = data[position : position + view.nbytes]
        view[: len(part)] = part
        position += len(part)
    return replace(result, data=b"")


def check_condition(sense: Sense, *, descriptor: bool = False, command: Command | None = None) -> Result:
    """Return CHECK CONDITION with ``sense``; nothing of the data of ``command`` was transferred."""
    residual = data_in_size(command) if command is not None else 0
    return Result(Status.CHECK_CONDITION, sense.encode(descriptor), residual=residual)
