"""The C client of the persistent reservation helper protocol, for whoever has to be quicker than Python."""

from __future__ import annotations

import ctypes
import os
import socket
from pathlib import Path
from typing import Self


class PrClient:
    """A connection to a helper; ``library`` is ``build_library("pr_client")``, ``device`` the descriptor to pass.

    Threads may each use one of their own at the same time: sending and receiving is done without the GIL.
    """

    def __init__(self, library: ctypes.CDLL, path: Path, device: int) -> None:
        library.pr_client.restype = ctypes.c_int64
        self._library = library
        self._device = device
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(os.fspath(path))
        assert self.socket.recv(4) == bytes(4)
        self.socket.sendall(bytes(4))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def run(self, count: int, cdb: bytes, parameters: bytes = b"") -> tuple[float, list[float]]:
        """Send the same request ``count`` times; seconds in all and each one's microseconds.

        OSError where one was not answered with GOOD.
        """
        latencies = (ctypes.c_int64 * count)()
        took = self._library.pr_client(
            self.socket.fileno(), self._device, count, cdb, parameters, len(parameters), latencies
        )
        if took < 0:
            raise OSError(-took, f"a request failed: {os.strerror(-took)}")
        return took / 1e9, [each / 1e3 for each in latencies]
