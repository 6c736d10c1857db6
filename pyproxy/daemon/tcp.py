"""A TCP socket that listens where the configuration says."""

from __future__ import annotations

import socket

from pyproxy.config import Endpoint


def bind_tcp(endpoint: Endpoint, what: str) -> socket.socket:
    """Return a socket bound to the address and port; raises OSError, which begins with ``what`` cannot be done."""
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
    except OSError as error:
        raise OSError(error.errno, f"{what}: {error.strerror}", f"{endpoint.host}:{endpoint.port}") from None
    return bound
