"""``pyproxy serve``: takes the locks, opens the host, answers on the control socket until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from aiohttp import web

from pyproxy.config import Config
from pyproxy.daemon.backing import OpenBacking, open_backing
from pyproxy.daemon.control import ControlApi
from pyproxy.daemon.host import Host
from pyproxy.daemon.lock import DirectoryError, ensure_private

log = logging.getLogger(__name__)

_ANSWER_GRACE_SECONDS: Final = 1.0
"""For answers to be written once the commands have ended; a request that was not sent whole by then is dropped."""
_TIMEOUT_GRACE_SECONDS: Final = 5
"""For the kernel to give up a command whose time has passed."""


def serve(
    config: Config, ready: Callable[[], None] = lambda: None, *, open_backing: OpenBacking = open_backing
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way and return.

    ``ready`` is called when the socket answers; ``open_backing`` opens the devices. Raises StateLockedError,
    DirectoryError, StoreError, OSError.
    """
    ensure_private(config.daemon.runtime_dir, "runtime directory")
    with contextlib.closing(Host(config, open_backing=open_backing)) as host:
        host.open_all()
        listener = _listen(config.daemon.control_socket)
        try:
            asyncio.run(_serve(host, listener, ready))
        finally:
            with contextlib.suppress(FileNotFoundError):
                config.daemon.control_socket.unlink()


def _listen(path: Path) -> socket.socket:
    if path.parent.stat().st_mode & 0o007:
        raise DirectoryError(
            0, f"the directory of the control socket is open to others; type: chmod o= {path.parent}", str(path.parent)
        )
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o117)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"the control socket cannot be made: {error.strerror}", str(path)) from error
    finally:
        os.umask(before)
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket nobody answers on; raises when somebody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(0, "another daemon answers on this control socket; stop it or choose another", str(path))


async def _serve(host: Host, listener: socket.socket, ready: Callable[[], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    api = ControlApi(host)
    runner = web.AppRunner(
        api.application(), handle_signals=False, access_log=None, shutdown_timeout=_ANSWER_GRACE_SECONDS
    )
    await runner.setup()
    site = web.SockSite(runner, listener)
    await site.start()
    ready()
    await stop.wait()
    log.info("stopping: no new requests, waiting for the commands under way")
    await site.stop()
    longest = max(unit.timeout for _, unit in host.config.units())
    if not await api.drain(longest + _TIMEOUT_GRACE_SECONDS):
        log.error(
            "some commands did not end within %d seconds after their time; they are abandoned", _TIMEOUT_GRACE_SECONDS
        )
    await runner.cleanup()
    await asyncio.to_thread(api.close)
