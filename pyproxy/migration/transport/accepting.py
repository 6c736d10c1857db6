"""Lets connections in: a bounded number, each for a bounded time until it has proven who it is and asked something."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS: Final = 10.0
FIRST_REQUEST_SECONDS: Final = 15.0
"""For the first request of a connection to begin, with its whole head."""
HANDSHAKES: Final = 64
"""At one time; a new one then takes the place of the oldest."""
CONNECTIONS_OF_A_PEER: Final = 256
_EXHAUSTED_SECONDS: Final = 1.0
_BACKLOG: Final = 64
_UNKNOWN: Final = ""

WhoIs = Callable[[asyncio.BaseTransport], str | None]


class Acceptor:
    """Accepts on a bound socket and hands each connection that passed the handshake to ``server``.

    ``context`` returns the TLS context of a new connection, None for none. ``who_is`` names the peer of a connection,
    None for somebody who is none: those share one number of connections.
    """

    def __init__(
        self, bound: socket.socket, server: web.Server, context: Callable[[], ssl.SSLContext | None], who_is: WhoIs
    ) -> None:
        self._socket = bound
        self._server = server
        self._context = context
        self._who_is = who_is
        self._handshakes: dict[asyncio.Task[None], tuple[socket.socket, str]] = {}
        self._connections: dict[RequestHandler, tuple[str, asyncio.Transport]] = {}
        self._asked: set[RequestHandler] = set()
        self._later: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to accept, in the running event loop; raises OSError."""
        self._socket.setblocking(False)
        self._socket.listen(_BACKLOG)
        self._listen()

    async def stop(self) -> None:
        """Accept nothing more; connections that passed are the server's."""
        asyncio.get_running_loop().remove_reader(self._socket)
        if self._later is not None:
            self._later.cancel()
        self._socket.close()
        handshakes = dict(self._handshakes)
        for task in handshakes:
            task.cancel()
        await asyncio.gather(*handshakes, return_exceptions=True)
        for task, (connected, _) in handshakes.items():
            _close_cancelled(task, connected)

    def asked(self, connection: RequestHandler) -> None:
        """Hear that a connection has sent the head of a request."""
        self._asked.add(connection)

    def drop_all(self) -> None:
        """Close every connection: what they proved is not asked for any more. Their peers connect again."""
        self._forget_closed()
        for _, transport in self._connections.values():
            transport.close()

    def _listen(self) -> None:
        # Not sock_accept: a connection that it has accepted while it is being cancelled is lost, and stays open.
        asyncio.get_running_loop().add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        try:
            connected, address = self._socket.accept()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            log.warning("a connection of a peer cannot be accepted: %s; trying again", error.strerror or error)
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket)
            self._later = loop.call_later(_EXHAUSTED_SECONDS, self._listen)
            return
        connected.setblocking(False)
        where = shown(address)
        if len(self._handshakes) >= HANDSHAKES:
            oldest, (waiting, whose) = next(iter(self._handshakes.items()))
            log.warning(
                "the connection from %s is closed: %d others are waiting to prove who they are; if this goes on, "
                "let peers alone reach this port",
                whose,
                HANDSHAKES,
            )
            del self._handshakes[oldest]
            oldest.cancel()
            oldest.add_done_callback(lambda done: _close_cancelled(done, waiting))
        task = asyncio.create_task(self._let_in(connected, where))
        self._handshakes[task] = connected, where
        task.add_done_callback(lambda done: self._handshakes.pop(done, None))

    async def _let_in(self, connected: socket.socket, where: str) -> None:
        """Do the handshake and count the connection; whoever fails is logged, for it was answered nothing."""
        loop = asyncio.get_running_loop()
        context = self._context()
        seconds = None if context is None else HANDSHAKE_SECONDS
        try:
            transport, connection = await loop.connect_accepted_socket(
                self._server, connected, ssl=context, ssl_handshake_timeout=seconds
            )
        except (OSError, ssl.SSLError) as error:
            connected.close()
            log.warning("a connection from %s is refused: %s", where, _why(error))
            return
        except BaseException:
            connected.close()
            raise
        assert isinstance(transport, asyncio.Transport)
        peer = self._who_is(transport)
        self._forget_closed()
        if sum(name == (peer or _UNKNOWN) for name, _ in self._connections.values()) >= CONNECTIONS_OF_A_PEER:
            log.warning(
                "a connection from %s is refused: %s has %d already; is more than one pyproxy there?",
                where,
                f"peer {peer}" if peer else "who is no peer",
                CONNECTIONS_OF_A_PEER,
            )
            transport.abort()
            return
        self._connections[connection] = (peer or _UNKNOWN, transport)
        loop.call_later(FIRST_REQUEST_SECONDS, self._close_silent, connection, where)

    def _close_silent(self, connection: RequestHandler, where: str) -> None:
        if connection in self._asked or connection not in self._connections:
            return
        _, transport = self._connections[connection]
        if not transport.is_closing():
            log.warning(
                "the connection from %s is closed: it asked nothing within %d seconds", where, FIRST_REQUEST_SECONDS
            )
            transport.abort()

    def _forget_closed(self) -> None:
        open_now = set(self._server.connections)
        self._connections = {one: who for one, who in self._connections.items() if one in open_now}
        self._asked &= open_now


def _close_cancelled(handshake: asyncio.Task[None], connected: socket.socket) -> None:
    """Close what a cancelled handshake may have left open: one that never began to run has closed nothing."""
    if handshake.cancelled():
        connected.close()


def shown(address: object) -> str:
    """Return an address as ``accept`` gives it, for messages; a Unix socket's is empty."""
    if isinstance(address, tuple):
        host, port, *_ = address
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return "a process of this host"


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        with contextlib.suppress(AttributeError):
            return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
    if isinstance(error, ConnectionAbortedError | TimeoutError):
        return f"no TLS handshake within {HANDSHAKE_SECONDS:.0f} seconds"
    return f"it broke off: {getattr(error, 'strerror', None) or error or 'closed'}"
