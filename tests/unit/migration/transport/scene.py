"""A transport server in a thread of its own, real certificates, and a service that answers what it is told to."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import trustme

from pyproxy.migration.messages import Abort, Ask, Progress, Reply, Request
from pyproxy.migration.transport.client import Address, HttpPeer
from pyproxy.migration.transport.server import Listening, TransportServer
from pyproxy.migration.transport.tls import Credentials

ASK = Ask(migration="0" * 32, guest="db", epoch=1)
ABORT = Abort(migration="0" * 32, guest="db", epoch=1)
TIMEOUT = 60


class Service:
    """Remembers who asked what; ``answer`` may be replaced."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Request]] = []
        self.answer: Callable[[Request], Reply] = lambda _: Progress(phase="armed")

    def serve(self, peer: str, request: Request) -> Reply:
        self.asked.append((peer, request))
        return self.answer(request)


class Authority:
    """A certificate authority that writes credentials below a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.ca = trustme.CA()
        self._issued = 0

    def issue(
        self,
        *names: str,
        common_name: str | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> Credentials:
        self._issued += 1
        home = self._directory / f"{self._issued}"
        home.mkdir(parents=True)
        paths = Credentials(home / "certificate.pem", home / "key.pem", home / "ca.pem")
        issued = self.ca.issue_cert(*names, common_name=common_name, not_before=not_before, not_after=not_after)
        paths.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        paths.key.touch(0o600)
        paths.key.write_bytes(issued.private_key_pem.bytes())
        paths.ca.write_bytes(self.ca.cert_pem.bytes())
        return paths


@contextmanager
def serving(bound: socket.socket, credentials: Credentials | None, service: Service, *peers: str) -> Iterator[None]:
    """Serve in a thread with an event loop of its own."""
    ready = threading.Event()
    failures: list[BaseException] = []
    ends: list[Callable[[], None]] = []

    async def run() -> None:
        over = asyncio.Event()
        server = TransportServer(Listening(bound, credentials), service, peers)
        await server.start()
        loop = asyncio.get_running_loop()
        ends.append(lambda: loop.call_soon_threadsafe(over.set))
        ready.set()
        await over.wait()
        await server.stop()

    def body() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=body)
    thread.start()
    assert ready.wait(TIMEOUT)
    try:
        yield
    finally:
        for end in ends:
            end()
        thread.join(TIMEOUT)
        bound.close()
        assert not thread.is_alive()
        assert not failures, failures


def bound_tcp() -> socket.socket:
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    return bound


def peer_at(port: int, credentials: Credentials, name: str = "host-a") -> HttpPeer:
    """The client of ``host-b`` that asks ``name`` at ``port``."""
    return HttpPeer(name, Address("127.0.0.1", port, None), "host-b", credentials)


def eventually(true: Callable[[], bool]) -> bool:
    """Wait for what the server does once the client knows already."""
    deadline = time.monotonic() + TIMEOUT
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
