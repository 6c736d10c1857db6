"""The veto against real QEMUs, without a guest in them: a migration waits for the claims, goes on or is called off."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyproxy.hypervisor.qmp import Qemu, QemuError, connected
from pyproxy.hypervisor.switchover import Ending, switch


class Process:
    """A QEMU with an empty machine."""

    def __init__(self, directory: Path, name: str, incoming: str | None = None) -> None:
        self.monitor = directory / f"{name}.qmp"
        words = ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-m", "16", "-nodefaults"]
        words += ["-display", "none", "-qmp", f"unix:{self.monitor},server=on,wait=off"]
        if incoming is not None:
            words += ["-incoming", incoming]
        self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        listening = [self.monitor, *([Path(incoming.removeprefix("unix:"))] if incoming is not None else [])]
        while not all(path.exists() for path in listening):
            assert self._process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self, what: str) -> object:
        async def run() -> object:
            async with connected(self.monitor) as qemu:
                return await qemu._ask(what)

        return asyncio.run(run())


@pytest.fixture
def pair() -> Iterator[tuple[Process, Process, str]]:
    with tempfile.TemporaryDirectory(prefix="pyproxy-qmp-") as name, ExitStack() as stack:
        directory = Path(name)
        uri = f"unix:{directory}/there.mig"
        source, there = Process(directory, "here"), Process(directory, "there", uri)
        stack.callback(source.kill)
        stack.callback(there.kill)
        yield source, there, uri


class Claims:
    """What the daemon would say; ``then`` happens before."""

    def __init__(self, arrive: bool, then: Process | None = None) -> None:
        self._arrive = arrive
        self._then = then
        self.asked = 0

    async def claims_arrive(self) -> bool:
        self.asked += 1
        if self._then is not None:
            self._then.kill()
        return self._arrive


def see_through(source: Process, claims: Claims, uri: str | None) -> Ending:
    async def run() -> Ending:
        async with connected(source.monitor) as qemu:
            return await switch(qemu, claims, uri)

    return asyncio.run(run())


def status(process: Process) -> str:
    answer = process.ask("query-status")
    assert isinstance(answer, dict)
    return str(answer["status"])


def test_it_goes_on_with_the_claims(pair: tuple[Process, Process, str]) -> None:
    source, there, uri = pair
    claims = Claims(arrive=True)
    assert see_through(source, claims, uri) is Ending.MIGRATED
    assert claims.asked == 1
    assert status(source) == "postmigrate"
    assert status(there) == "running"


def test_it_is_called_off_without(pair: tuple[Process, Process, str]) -> None:
    source, _, uri = pair
    assert see_through(source, Claims(arrive=False), uri) is Ending.CANCELLED
    assert status(source) == "running"


def test_somebody_else_begins(pair: tuple[Process, Process, str]) -> None:
    source, there, uri = pair

    async def begin() -> Ending:
        async with connected(source.monitor) as qemu:
            seeing = asyncio.create_task(switch(qemu, Claims(arrive=True), None))
            await asyncio.sleep(0.3)
            assert not seeing.done()
            await qemu.migrate(uri)
            return await seeing

    assert asyncio.run(begin()) is Ending.MIGRATED
    assert status(there) == "running"


@pytest.mark.parametrize("arrive", [True, False])
def test_the_destination_dies_at_the_switch(pair: tuple[Process, Process, str], arrive: bool) -> None:
    source, there, uri = pair
    ending = see_through(source, Claims(arrive, there), uri)
    assert ending in (Ending.FAILED, Ending.CANCELLED)
    assert status(source) == "running"


def test_nobody_listens_there(pair: tuple[Process, Process, str]) -> None:
    source, _, uri = pair
    claims = Claims(arrive=True)
    assert see_through(source, claims, f"{uri}.none") is Ending.FAILED
    assert claims.asked == 0
    assert status(source) == "running"


def test_qemu_ends_in_the_middle(pair: tuple[Process, Process, str]) -> None:
    source, _, uri = pair
    with pytest.raises(QemuError, match="has ended"):
        see_through(source, Claims(arrive=True, then=source), uri)


def test_no_monitor_and_no_qemu(tmp_path: Path) -> None:
    async def look(path: Path) -> None:
        async with connected(path) as qemu:
            assert isinstance(qemu, Qemu)

    with pytest.raises(QemuError, match="cannot be reached"):
        asyncio.run(look(tmp_path / "none"))
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "other"))
        other.listen()
        other.settimeout(60)

        async def answered_with_nonsense() -> None:
            task = asyncio.create_task(look(tmp_path / "other"))
            accepted, _ = await asyncio.to_thread(other.accept)
            accepted.sendall(b"SSH-2.0\r\n")
            with accepted:
                await task

        with pytest.raises(QemuError):
            asyncio.run(answered_with_nonsense())
