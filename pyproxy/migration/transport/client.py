"""Asks another daemon, and waits for its answer."""

from __future__ import annotations

import http.client
import io
import logging
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pyproxy.connected import PeerPolicy, peer_of
from pyproxy.migration.messages import LARGEST_MESSAGE, Ask, Execute, Reply, Request
from pyproxy.migration.peer import PeerError, PeerRefusedError
from pyproxy.migration.transport.tls import Credentials, CredentialsError, names_of
from pyproxy.migration.transport.wire import (
    CONTENT_TYPE,
    NAME_HEADER,
    PATH,
    decode_refusal,
    decode_reply,
    encode,
)

log = logging.getLogger(__name__)

CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 30.0
"""From the request's first byte to the answer's last, beside what the other side may take on purpose."""
_CHUNK: Final = 1 << 18
_IDLE_CONNECTIONS: Final = 64
_OK: Final = 200


@dataclass(frozen=True, slots=True)
class Address:
    """Where a daemon listens: ``path`` of a Unix socket, or None and ``host`` and ``port``."""

    host: str
    port: int
    path: Path | None

    def __str__(self) -> str:
        """Return it as operators write it."""
        if self.path is not None:
            return str(self.path)
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class HttpPeer:
    """Another daemon (``peer.Peer``). Connections are kept and used again, each for one request at a time.

    ``own_name`` is this host's; ``credentials`` are needed for anything but a Unix socket.
    """

    def __init__(self, name: str, address: Address, own_name: str, credentials: Credentials | None) -> None:
        self._name = name
        self._address = address
        self._own_name = own_name
        self._credentials = credentials
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._context: tuple[tuple[object, ...], ssl.SSLContext] | None = None

    @property
    def name(self) -> str:
        """See peer.Peer."""
        return self._name

    @property
    def where(self) -> str:
        """How messages name it."""
        return f"peer {self._name} ({self._address})"

    def call(self, request: Request) -> Reply:
        """See peer.Peer."""
        body = encode(request)
        seconds = ANSWER_SECONDS + _waits(request)
        kept = self._take()
        if kept is not None:
            try:
                return self._exchange(kept, body, seconds)
            except _StaleError:
                pass  # closed while nobody used it, most likely; if not, a request may be sent again (messages.py)
        fresh = self._connect()
        try:
            return self._exchange(fresh, body, seconds)
        except _StaleError as stale:
            raise PeerError(f"{self.where}: {stale}") from None

    def close(self) -> None:
        """Close what is kept open."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self) -> _Connection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _connect(self) -> _Connection:
        try:
            connection = _Connection(self._address, self._name, self._tls())
            connection.connect()
        except CredentialsError as error:
            raise PeerError(f"{self.where}: {error}", sent=False) from None
        except ssl.SSLError as error:
            raise PeerError(f"{self.where}: TLS: {_why(error)}; {_TLS_ADVICE}", sent=False) from None
        except OSError as error:
            raise PeerError(
                f"{self.where} cannot be reached: {error.strerror or error}; is pyproxy running there, and is the "
                "address right?",
                sent=False,
            ) from None
        return connection

    def _tls(self) -> ssl.SSLContext | None:
        if self._address.path is not None:
            return None
        if self._credentials is None:
            raise CredentialsError("no certificate is configured in [migration]")
        with self._lock:
            stamp = self._credentials.stamp()
            if self._context is None or self._context[0] != stamp:
                for connection in self._idle:  # they were proven by the old certificates
                    connection.close()
                self._idle.clear()
                self._context = (stamp, self._credentials.client())
            return self._context[1]

    def _exchange(self, connection: _Connection, body: bytes, seconds: float) -> Reply:
        """Send and receive; the connection is kept where it can be used again. Raises PeerError, _StaleError."""
        keep = False
        try:
            status, answer, keep = connection.exchange(body, self._own_name, seconds)
        except _StaleError:
            raise
        except ssl.SSLError as error:
            # With TLS 1.3 a server's refusal of our certificate arrives only now.
            raise PeerError(f"{self.where}: TLS: {_why(error)}; {_TLS_ADVICE}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            what = "did not answer in time" if isinstance(error, TimeoutError) else f"broke off: {error}"
            raise PeerError(f"{self.where} {what}") from None
        finally:
            self._give_back(connection, keep=keep)
        if status == _OK:
            try:
                return decode_reply(answer)
            except ValueError as error:
                raise PeerError(f"{self.where}: {error}") from None
        refusal = decode_refusal(answer)
        if refusal is None:
            raise PeerError(f"{self.where} answered with HTTP status {status}: is that pyproxy?")
        raise PeerRefusedError(refusal.message, refusal.reason)

    def _give_back(self, connection: _Connection, *, keep: bool) -> None:
        if keep:
            with self._lock:
                if len(self._idle) < _IDLE_CONNECTIONS:
                    self._idle.append(connection)
                    return
        connection.close()


class _StaleError(Exception):
    """A connection was closed before a byte of an answer came."""


class _Connection(http.client.HTTPConnection):
    """One connection, over TLS or a Unix socket."""

    def __init__(self, address: Address, name: str, context: ssl.SSLContext | None) -> None:
        super().__init__(address.host or "localhost", address.port or 80, timeout=CONNECT_SECONDS)
        self._address = address
        self._name = name
        self._context = context

    def connect(self) -> None:
        """Open it; raises OSError."""
        path = self._address.path
        if path is not None:
            plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                plain.settimeout(CONNECT_SECONDS)
                plain.connect(str(path))
                _check_server(plain)
            except BaseException:
                plain.close()
                raise
            self.sock = plain
            return
        assert self._context is not None
        super().connect()
        plain = self.sock
        try:
            self.sock = self._context.wrap_socket(plain, server_hostname=self._name)
            _check_name(self.sock, self._name)
        except BaseException:
            self.sock.close()  # the wrapped one, where there is one already
            plain.close()
            raise

    def exchange(self, body: bytes, own_name: str, seconds: float) -> tuple[int, bytes, bool]:
        """Return status and body of the answer, and whether the connection stays. Raises OSError and HTTPException."""
        until = time.monotonic() + seconds
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: {self._name}\r\nContent-Type: {CONTENT_TYPE}\r\n"
            f"Content-Length: {len(body)}\r\n{NAME_HEADER}: {own_name}\r\n\r\n"
        )
        refused_early = _send(self.sock, head.encode("ascii") + body, until)
        response = http.client.HTTPResponse(_Answer(self.sock, until), method="POST")  # type: ignore[arg-type]
        try:
            response.begin()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
            raise _StaleError(f"closed the connection without an answer ({refused_early or error})") from None
        length = response.length
        if length is None or length > LARGEST_MESSAGE:
            raise ValueError("its answer is not of a size that pyproxy sends")
        answer = response.read(length)
        if len(answer) != length:
            raise ValueError("its answer is cut")
        return response.status, answer, refused_early is None and not response.will_close


class _Answer:
    """What HTTPResponse reads from: the connection, until a moment that no trickle of bytes puts off."""

    def __init__(self, connected: socket.socket, until: float) -> None:
        self._reader = io.BufferedReader(_Reader(connected, until))

    def makefile(self, _mode: str) -> io.BufferedIOBase:
        return self._reader


class _Reader(io.RawIOBase):
    def __init__(self, connected: socket.socket, until: float) -> None:
        self._socket = connected
        self._until = until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(_left(self._until))
        return self._socket.recv_into(buffer)


def _send(connected: socket.socket, data: bytes, until: float) -> OSError | None:
    """Send everything; returns why not where the other side has closed, whose reason may be there to be read."""
    view = memoryview(data)
    try:
        for at in range(0, len(view), _CHUNK):
            connected.settimeout(_left(until))
            connected.sendall(view[at : at + _CHUNK])
    except (BrokenPipeError, ConnectionResetError) as error:
        return error
    return None


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _check_server(connected: socket.socket) -> None:
    """Make sure that root or this process's own user listens; raises OSError."""
    peer = peer_of(connected)
    if not PeerPolicy.own().allows(peer):
        raise PermissionError(0, f"user {peer.uid} listens there, neither root nor the user of this process")


def _check_name(connected: ssl.SSLSocket, name: str) -> None:
    """Make sure that the name stands in the certificate as it is: no wildcard and no address proves a host."""
    names = names_of(connected.getpeercert())
    if name.lower() not in names:
        told = ", ".join(sorted(names)) or "none"
        raise ssl.SSLError(0, f"the DNS names of its certificate are {told}, {name} is not among them")


def _why(error: ssl.SSLError) -> str:
    """Say what OpenSSL, or we, found wrong."""
    reason = getattr(error, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else str(error.args[-1])


def _waits(request: Request) -> float:
    """How long the other side may take on purpose, in seconds."""
    if isinstance(request, Ask):
        return request.wait_ms / 1000
    return request.timeout_ms / 1000 if isinstance(request, Execute) else 0.0


_TLS_ADVICE: Final = "see that both certificates are of one authority, valid today, and name the host"
