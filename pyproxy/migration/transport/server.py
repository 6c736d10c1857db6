"""Answers other daemons: who asks is proven before a byte of a request is read."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import struct
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from pyproxy.migration.messages import LARGEST_MESSAGE
from pyproxy.migration.peer import PeerRefusedError, Service
from pyproxy.migration.transport.tls import Credentials, names_of
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
"""Requests that are worked on at one time; the others wait."""
BODY_SECONDS: Final = 30.0
"""For a request to be there whole."""
KEEP_SECONDS: Final = 60.0
"""For a connection without a request."""
BACKLOG: Final = 64
_GRACE_SECONDS: Final = 1.0
_WATCH_SECONDS: Final = 10.0
_BAD: Final = 400
_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404
_SLOW: Final = 408
_TOO_LARGE: Final = 413
_FAILED: Final = 500


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
        self._runner: web.ServerRunner | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to answer; raises CredentialsError."""
        credentials = self._listening.credentials
        context = None if credentials is None else credentials.server()
        server = web.Server(
            self._handle, access_log=None, keepalive_timeout=KEEP_SECONDS, auto_decompress=False, logger=log
        )
        self._runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=_GRACE_SECONDS)
        await self._runner.setup()
        site = web.SockSite(self._runner, self._listening.socket, ssl_context=context, backlog=BACKLOG)
        await site.start()
        if credentials is not None and context is not None:
            self._watcher = asyncio.create_task(_watch(credentials, context))

    async def stop(self) -> None:
        """Take nothing new and let what is under way be answered for a moment."""
        if self._watcher is not None:
            self._watcher.cancel()
        if self._runner is not None:
            await self._runner.cleanup()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        where = request.remote or str(self._listening.socket.getsockname())
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
                body = await _body(request)
            decoded = decode_request(body)
        except TimeoutError:
            return _refuse(_SLOW, PeerRefusedError("the request did not come whole in time", "slow"), close=True)
        except PeerRefusedError as refused:
            log.warning("a request of peer %s at %s is refused: %s", peer, where, refused)
            return _refuse(_TOO_LARGE if refused.reason == "too-large" else _BAD, refused, close=True)
        try:
            reply = await asyncio.get_running_loop().run_in_executor(self._threads, self._service.serve, peer, decoded)
        except PeerRefusedError as refused:
            log.warning("a request of peer %s at %s is refused: %s", peer, where, refused)
            return _refuse(REFUSED, refused)
        except Exception:
            log.exception("a request of peer %s at %s failed inside pyproxy", peer, where)
            return _refuse(_FAILED, PeerRefusedError("it failed inside pyproxy; see the log there", "internal"))
        return web.Response(body=encode(reply), content_type=CONTENT_TYPE)

    def _who(self, request: web.BaseRequest) -> str:
        """Return the proven name of who asks; raises PeerRefusedError."""
        transport = request.transport
        if transport is None:
            raise PeerRefusedError("the connection is gone", "gone")
        if self._listening.credentials is not None:
            tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
            names = names_of(None if tls is None else tls.getpeercert())
            found = sorted(self._peers[name] for name in names & self._peers.keys())
            if len(found) != 1:
                shown = ", ".join(sorted(names)) or "none"
                raise PeerRefusedError(f"no peer here has one of the names of its certificate ({shown})", "not-a-peer")
            return found[0]
        uid = _uid(transport.get_extra_info("socket"))
        if uid not in (0, os.geteuid()):
            raise PeerRefusedError(f"user {uid} may not ask here", "not-allowed")
        name = self._peers.get(request.headers.get(NAME_HEADER, "").lower())
        if name is None:
            raise PeerRefusedError("no peer of that name is configured here", "not-a-peer")
        return name


async def _body(request: web.BaseRequest) -> bytes:
    """Read a body of bounded size; raises PeerRefusedError."""
    parts: list[bytes] = []
    size = 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size > LARGEST_MESSAGE:
            raise PeerRefusedError(f"the request is larger than {LARGEST_MESSAGE} bytes", "too-large")
        parts.append(chunk)
    return b"".join(parts)


def _refuse(status: int, refused: PeerRefusedError, *, close: bool = False) -> web.Response:
    body = encode(Refusal(refused.reason, str(refused)[: 1 << 15]))
    response = web.Response(status=status, body=body, content_type=CONTENT_TYPE)
    if close:
        response.force_close()
    return response


def _uid(connected: Any) -> int:
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


async def _watch(credentials: Credentials, context: ssl.SSLContext) -> None:
    """Load a certificate that was renewed: new connections have it."""
    stamp = credentials.stamp()
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        now = credentials.stamp()
        if now == stamp:
            continue
        stamp = now
        try:
            context.load_verify_locations(credentials.ca)
            context.load_cert_chain(credentials.certificate, credentials.key)
        except (OSError, ssl.SSLError) as error:
            log.error("the renewed certificate %s cannot be used: %s", credentials.certificate, error)  # noqa: TRY400
        else:
            log.info("the certificate %s was renewed", credentials.certificate)
