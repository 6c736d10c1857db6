"""What the tests of the pass-through engines share: opening each of them on real nodes, and CDBs."""

from __future__ import annotations

import os
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from _fastpath.sgio import DIRECTION_IN, DIRECTION_NONE, DIRECTION_OUT, Batch, Engine
from _fastpath.sgio_async import AsyncEngine
from _fastpath.sgio_bsg import BsgEngine
from _fastpath.sgio_sync import SyncEngine
from tests.vm.rig import scsi_debug as scsi_debug_module
from tests.vm.rig.nodes import SCSI_DEVICES, Nodes, settle
from tests.vm.rig.sg_direct import SgNode

ENGINES = ["sync-sg", "sync-sd", "async-sg", "bsg"]
TEST_UNIT_READY = bytes(6)
DIGITS = bytes(range(256)) * 2


@contextmanager
def engine_on(kind: str, nodes: Nodes, parallel: int = 4, **options: object) -> Iterator[Engine]:
    """The engine ``kind`` on the node it is for."""
    if kind == "async-sg":
        engine: Engine = AsyncEngine(nodes.sg, parallel * 4, **options)
    else:
        path = {"sync-sg": nodes.sg, "sync-sd": nodes.sd, "bsg": nodes.bsg}[kind]
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        try:
            engine = (BsgEngine if kind == "bsg" else SyncEngine)(fd, parallel, label=str(path))
        finally:
            os.close(fd)
    with engine:
        yield engine


@pytest.fixture(scope="module")
def debug_disk() -> Iterator[Nodes]:
    """One scsi_debug disk of 64 MiB that answers at once, for a whole module of tests."""
    (nodes,) = scsi_debug_module.load(dev_size_mb=64, delay=0)
    drain(nodes)
    yield nodes
    scsi_debug_module.unload()


@contextmanager
def slow(seconds: float) -> Iterator[None]:
    """While inside, scsi_debug takes this long for every command."""
    # Closing a disk makes udev look at it again, with reads that would all be slow.
    settle()
    ticks = int(seconds * hertz())
    scsi_debug_module.set_parameter("delay", ticks)
    try:
        yield
    finally:
        deadline = time.monotonic() + 120
        while True:
            try:
                scsi_debug_module.set_parameter("delay", 0)
                break
            except OSError:  # commands are still in flight
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def hertz() -> int:
    """Timer ticks per second of the kernel, the unit of scsi_debug's delay."""
    configuration = Path(f"/boot/config-{os.uname().release}")
    if configuration.exists():
        for line in configuration.read_text(encoding="ascii").splitlines():
            if line.startswith("CONFIG_HZ="):
                return int(line.partition("=")[2])
    return 250  # Debian's


def drain(nodes: Nodes) -> None:
    node = SgNode(nodes.sg)
    node.drain_unit_attentions()
    node.close()


def requests_issued(nodes: Nodes) -> int:
    """How many commands the kernel has sent to the device."""
    return int((SCSI_DEVICES / nodes.address / "iorequest_cnt").read_text(encoding="ascii"), 16)


def read_cdb(lba: int, blocks: int) -> bytes:
    return struct.pack(">BxIxHx", 0x28, lba, blocks)


def write_cdb(lba: int, blocks: int) -> bytes:
    return struct.pack(">BxIxHx", 0x2A, lba, blocks)


def run_one(
    engine: Engine,
    cdb: bytes,
    *,
    data_in: list[bytearray | memoryview] | None = None,
    data_out: list[bytes] | None = None,
    timeout_ms: int = 30_000,
) -> tuple[int, bytes, int, int, int, int, int]:
    """One command; (status, sense, host status, driver status, residual, duration, errno)."""
    batch = Batch(1)
    if data_out:
        batch.add(cdb, DIRECTION_OUT, data_out, timeout_ms)
    elif data_in:
        batch.add(cdb, DIRECTION_IN, data_in, timeout_ms)
    else:
        batch.add(cdb, DIRECTION_NONE, (), timeout_ms)
    engine.run(batch)
    return batch.result(0)


def pieces(data: bytes | bytearray, sizes: list[int]) -> list[memoryview]:
    """``data`` cut into the given sizes, which add up to its length."""
    assert sum(sizes) == len(data)
    view, cut, at = memoryview(data), [], 0
    for size in sizes:
        cut.append(view[at : at + size])
        at += size
    return cut


def medium_by_sg_dd(nodes: Nodes, lba: int, blocks: int, directory: Path) -> bytes:
    """What sg3-utils reads there, through its own use of the generic node."""
    copy = directory / "medium"
    subprocess.run(
        ["sg_dd", f"if={nodes.sg}", f"of={copy}", "bs=512", f"skip={lba}", f"count={blocks}", "bpt=64"],
        check=True,
        capture_output=True,
    )
    return copy.read_bytes()
