"""Answers other daemons: who asks is proven before a byte of a request is read."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from pyproxy.connected import Peer, PeerPolicy, peer_of
from pyproxy.migration.messages import LARGEST_MESSAGE, Ask, Reply, Request
from pyproxy.migration.peer import PeerRefusedError, Service
from pyproxy.migration.transport.accepting import Acceptor, shown
from pyproxy.migration.transport.tls import Credentials, CredentialsError, names_of
from pyproxy.migration.transport.wire import (
    CONTENT_TYPE,
    NAME_HEADER,
    PATH,
    REFUSED,
    Refusal,
    decode_request,
    encode,
)

log = logging.getLogger(__name__)

THREADS: Final = 32
"""Requests that are worked on at one time; the others wait. Those that wait on purpose (``Ask``) have as many more."""
BODY_SECONDS: Final = 30.0
"""For a request to be there whole."""
KEEP_SECONDS: Final = 60.0
"""For a connection without a request."""
ANSWER_SECONDS: Final = 60.0
"""For a peer to take an answer."""
BODIES_BYTES: Final = 4 * LARGEST_MESSAGE
"""Of requests that are being received, all together."""
_GRACE_SECONDS: Final = 1.0
_WATCH_SECONDS: Final = 10.0
_BAD: Final = 400
_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404
_SLOW: Final = 408
_TOO_LARGE: Final = 413
_FAILED: Final = 500
_BUSY: Final = 503
_STATUSES: Final = {"too-large": _TOO_LARGE, "busy": _BUSY}


@dataclass(frozen=True, slots=True)
class Listening:
    """Where to listen: a bound socket, and the credentials of TLS; without those it is a Unix socket."""

    socket: socket.socket
    credentials: Credentials | None


class TransportServer:
    """Serves ``service`` to the ``peers`` of those names. Runs in the event loop that ``start`` is called in."""

    def __init__(self, listening: Listening, service: Service, peers: Collection[str]) -> None:
        self._listening = listening
        self._service = service
        self._peers = {name.lower(): name for name in peers}
        self._threads = ThreadPoolExecutor(THREADS, "peer-request")
        self._asking = ThreadPoolExecutor(THREADS, "peer-ask")
        self._receiving = 0
        self._context: ssl.SSLContext | None = None
        self._server: web.Server | None = None
        self._acceptor: Acceptor | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to answer; raises CredentialsError, OSError."""
        credentials = self._listening.credentials
        self._context = None if credentials is None else credentials.server()
        self._server = web.Server(
            self._handle, access_log=None, keepalive_timeout=KEEP_SECONDS, auto_decompress=False, logger=log
        )
        self._acceptor = Acceptor(self._listening.socket, self._server, lambda: self._context, self._named)
        self._acceptor.start()
        if credentials is not None:
            credentials.tell_end(time.time())
            self._watcher = asyncio.create_task(self._watch(credentials))

    async def stop(self) -> None:
        """Take nothing new and let what is under way be answered for a moment."""
        if self._watcher is not None:
            self._watcher.cancel()
        if self._acceptor is not None:
            await self._acceptor.stop()
        if self._server is not None:
            await self._server.shutdown(_GRACE_SECONDS)
        for pool in (self._threads, self._asking):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        assert self._acceptor is not None
        self._acceptor.asked(request.protocol)
        response = await self._answer(request)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            log.warning("%s does not take its answer", shown(request.transport and _address(request.transport)))
            if request.transport is not None:
                request.transport.abort()
        return response

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        where = shown(None if request.transport is None else _address(request.transport))
        try:
            peer = self._who(request)
        except PeerRefusedError as refused:
            log.warning("a request from %s is refused: %s", where, refused)
            return _refuse(_FORBIDDEN, refused, close=True)
        if request.method != "POST" or request.path != PATH:
            log.warning("peer %s at %s asks for %s %.80s, which is not here", peer, where, request.method, request.path)
            return _refuse(
                _NOT_FOUND, PeerRefusedError("there is nothing here: use the same pyproxy on both", "not-found")
            )
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await self._body(request)
            decoded = decode_request(body)
        except TimeoutError:
            log.warning("a request of peer %s at %s did not come whole in %d seconds", peer, where, BODY_SECONDS)
            return _refuse(_SLOW, PeerRefusedError("the request did not come whole in time", "slow"), close=True)
        except PeerRefusedError as refused:
            log.warning("a request of peer %s at %s is refused: %s", peer, where, refused)
            return _refuse(_STATUSES.get(refused.reason, _BAD), refused, close=True)
        except (ConnectionError, web.RequestPayloadError) as error:
            log.warning("a request of peer %s at %s broke off: %s", peer, where, error)
            return _refuse(_BAD, PeerRefusedError("the request is cut or is no HTTP", "malformed"), close=True)
        try:
            reply = await self._serve(peer, decoded)
        except PeerRefusedError as refused:
            log.warning("a request of peer %s at %s is refused: %s", peer, where, refused)
            return _refuse(REFUSED, refused)
        except Exception:
            log.exception("a request of peer %s at %s failed inside pyproxy", peer, where)
            return _refuse(_FAILED, PeerRefusedError("it failed inside pyproxy; see the log there", "internal"))
        return web.Response(body=encode(reply), content_type=CONTENT_TYPE)

    def _serve(self, peer: str, request: Request) -> asyncio.Future[Reply]:
        pool = self._asking if isinstance(request, Ask) else self._threads
        return asyncio.get_running_loop().run_in_executor(pool, self._service.serve, peer, request)

    def _who(self, request: web.BaseRequest) -> str:
        """Return the proven name of who asks; raises PeerRefusedError."""
        transport = request.transport
        if transport is None:
            raise PeerRefusedError("the connection is gone", "gone")
        if self._listening.credentials is not None:
            names = _names(transport)
            found = self._found(names)
            if len(found) > 1:
                raise PeerRefusedError(
                    f"its certificate names more than one peer ({', '.join(found)}); give each host its own",
                    "not-a-peer",
                )
            if not found:
                told = ", ".join(sorted(names)) or "none"
                raise PeerRefusedError(
                    f"no peer here has one of the DNS names of its certificate ({told}); see the [[peer]] tables here",
                    "not-a-peer",
                )
            return found[0]
        local = _local(transport)
        if not PeerPolicy.own().allows(local):
            raise PeerRefusedError(f"user {local.uid} may not ask here: run both daemons as one user", "not-allowed")
        name = self._peers.get(request.headers.get(NAME_HEADER, "").lower())
        if name is None:
            raise PeerRefusedError(
                "no peer of that name is configured here; see the [[peer]] tables here", "not-a-peer"
            )
        return name

    def _named(self, transport: asyncio.BaseTransport) -> str | None:
        """Return the peer that a connection is counted for, None for somebody else."""
        if self._listening.credentials is None:
            local = _local(transport)
            return f"of user {local.uid}" if PeerPolicy.own().allows(local) else None
        found = self._found(_names(transport))
        return found[0] if len(found) == 1 else None

    def _found(self, names: frozenset[str]) -> list[str]:
        return sorted(self._peers[name] for name in names & self._peers.keys())

    async def _body(self, request: web.BaseRequest) -> bytes:
        """Read a body of bounded size; raises PeerRefusedError."""
        too_large = PeerRefusedError(f"the request is larger than {LARGEST_MESSAGE} bytes", "too-large")
        if (request.content_length or 0) > LARGEST_MESSAGE:
            raise too_large
        body = bytearray()
        try:
            async for chunk in request.content.iter_any():
                if len(body) + len(chunk) > LARGEST_MESSAGE:
                    raise too_large
                if self._receiving + len(chunk) > BODIES_BYTES:
                    raise PeerRefusedError("too much is being received at this moment; ask again", "busy")
                self._receiving += len(chunk)
                body += chunk
        finally:
            self._receiving -= len(body)
        return bytes(body)

    async def _watch(self, credentials: Credentials) -> None:
        """Take certificates that were renewed; what was proven by the old ones is proven again by connecting again."""
        stamp = credentials.stamp()
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            credentials.tell_end(time.time())
            now = credentials.stamp()
            if now == stamp:
                continue
            stamp = now
            try:
                # A context of its own: loading into the old one would leave a withdrawn authority trusted.
                self._context = credentials.server()
            except CredentialsError as error:
                log.error("what was renewed is not used, the old goes on: %s", error)  # noqa: TRY400
                continue
            log.info("the certificate %s was renewed", credentials.certificate)
            if self._acceptor is not None:
                self._acceptor.drop_all()


def _refuse(status: int, refused: PeerRefusedError, *, close: bool = False) -> web.Response:
    body = encode(Refusal(refused.reason, str(refused)[: 1 << 15]))
    response = web.Response(status=status, body=body, content_type=CONTENT_TYPE)
    if close:
        response.force_close()
    return response


def _address(transport: asyncio.BaseTransport) -> Any:
    return transport.get_extra_info("peername")


def _names(transport: asyncio.BaseTransport) -> frozenset[str]:
    tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    return names_of(None if tls is None else tls.getpeercert())


def _local(transport: asyncio.BaseTransport) -> Peer:
    """Return who connected to the Unix socket."""
    return peer_of(transport.get_extra_info("socket"))
