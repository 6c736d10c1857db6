"""``pyproxy serve``: takes the locks, opens the host, answers on the control socket until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from aiohttp import web

from pyproxy.config import Config, ConfigError
from pyproxy.daemon import logs, reload
from pyproxy.daemon.backing import OpenBacking
from pyproxy.daemon.capacities import Capacities
from pyproxy.daemon.control import ControlApi
from pyproxy.daemon.front_ends import FrontEnds
from pyproxy.daemon.host import Host
from pyproxy.daemon.lock import DirectoryError, ensure_private
from pyproxy.daemon.metrics.collector import DaemonCollector
from pyproxy.daemon.metrics.exporter import Exporter
from pyproxy.daemon.migrations import Migrations
from pyproxy.daemon.notify import ServiceManager
from pyproxy.daemon.poller import Poller
from pyproxy.daemon.sources import Sources
from pyproxy.daemon.watcher import Watcher
from pyproxy.device.passed import PassedNode
from pyproxy.frontend.listener import activated
from pyproxy.frontend.pr_helper.service import OpenNode

log = logging.getLogger(__name__)

_ANSWER_GRACE_SECONDS: Final = 1.0
"""For answers to be written once the commands have ended; a request that was not sent whole by then is dropped."""
_TIMEOUT_GRACE_SECONDS: Final = 5
"""For the kernel to give up a command whose time has passed."""


def serve(
    config: Config,
    ready: Callable[[], None] = lambda: None,
    *,
    open_backing: OpenBacking | None = None,
    open_node: OpenNode = PassedNode.open,
    load: Callable[[], Config] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way and return.

    ``ready`` is called when the sockets answer; ``open_backing`` opens the devices, ``open_node`` tells what a passed
    descriptor is; ``load`` reads the configuration again after SIGHUP. Raises StateLockedError, DirectoryError,
    StoreError, OSError.
    """
    # Until it is handled: a reload that comes too early must not end the daemon.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ensure_private(config.daemon.runtime_dir, "runtime directory")
    host = Host(config, open_backing=open_backing)
    front_ends = FrontEnds(host, activated(), open_node=open_node)
    capacities = Capacities(front_ends.vhost_user.capacity_changed)
    poller = Poller(host, config.daemon.poll_seconds, capacities.look)
    watcher = Watcher(host, front_ends, capacities)
    host.not_served = front_ends.gates.why
    migrations = Migrations(host, front_ends.gates)
    try:
        migrations.resume()
        host.open_all()
        migrations.start()
        listener = _listen(config.daemon.control_socket)
        poller.start()
        front_ends.open()
        watcher.start()
        try:
            sources = Sources(host, front_ends, migrations, watcher, capacities, time.time())
            daemon = _Daemon(host, poller, front_ends, migrations, capacities, sources, load)
            asyncio.run(daemon.serve(listener, ready))
        finally:
            with contextlib.suppress(FileNotFoundError):
                config.daemon.control_socket.unlink()
    finally:
        migrations.close()
        front_ends.stop(_ANSWER_GRACE_SECONDS)
        stuck = poller.stop() | watcher.stop()
        for guest, lun in stuck:
            log.error("guest %s LUN %d: its device did not answer a read in time and is left as it is", guest, lun)
        host.close(leave=stuck)


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


class _Daemon:
    """The event loop's part: signals, the control API, and what the service manager is told."""

    def __init__(
        self,
        host: Host,
        poller: Poller,
        front_ends: FrontEnds,
        migrations: Migrations,
        capacities: Capacities,
        sources: Sources,
        load: Callable[[], Config] | None,
    ) -> None:
        self._host = host
        self._migrations = migrations
        self._poller = poller
        self._front_ends = front_ends
        self._capacities = capacities
        self._load = load
        self._sources = sources
        self._manager = ServiceManager.from_environment()
        self._hung_up = asyncio.Event()

    async def serve(self, listener: socket.socket, ready: Callable[[], None]) -> None:
        """Answer on ``listener`` until SIGTERM or SIGINT, then drain."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up.set)
        api = ControlApi(self._host, self._front_ends, self._migrations, self._sources.live)
        await self._migrations.listen()
        exporter = self._exporter()
        if exporter is not None:
            await exporter.start()
        runner = web.AppRunner(
            api.application(), handle_signals=False, access_log=None, shutdown_timeout=_ANSWER_GRACE_SECONDS
        )
        await runner.setup()
        site = web.SockSite(runner, listener)
        await site.start()
        ready()
        self._manager.ready(self._status())
        background = [asyncio.create_task(self._keep_alive()), asyncio.create_task(self._reload_again_and_again())]
        await stop.wait()
        self._manager.stopping()
        log.info("stopping: no new requests, waiting for the commands under way")
        await site.stop()
        if exporter is not None:
            await exporter.stop()
        await self._migrations.unlisten()
        await asyncio.to_thread(self._migrations.close)
        seconds = max(unit.timeout for _, unit in self._host.config.units()) + _TIMEOUT_GRACE_SECONDS
        if not all(await asyncio.gather(api.drain(seconds), asyncio.to_thread(self._front_ends.stop, seconds))):
            log.error(
                "some commands did not end within %d seconds after their time; they are abandoned",
                _TIMEOUT_GRACE_SECONDS,
            )
        await runner.cleanup()
        await asyncio.to_thread(api.close)
        for task in background:
            task.cancel()

    def _exporter(self) -> Exporter | None:
        section = self._host.config.metrics
        if section is None:
            return None
        return Exporter(section, DaemonCollector(self._sources, detail=section.detail), self._sources.live)

    def _status(self) -> str:
        return f"serving {', '.join(guest.name for guest in self._host.config.guest)}"

    async def _keep_alive(self) -> None:
        """Tell the service manager, while the event loop turns, that it does; also while stopping."""
        seconds = self._manager.watchdog_seconds
        while seconds is not None:
            self._manager.alive()
            await asyncio.sleep(seconds / 2)

    async def _reload_again_and_again(self) -> None:
        while True:
            await self._hung_up.wait()
            self._hung_up.clear()
            self._manager.reloading()
            await asyncio.to_thread(self._reload)
            self._manager.ready(self._status())

    def _reload(self) -> None:
        """Read the configuration again and apply what can be; what cannot is told and stays as it was."""
        if self._load is None:
            log.warning("SIGHUP: this daemon has no configuration to read again")
            return
        try:
            planned = reload.plan(self._host.config, self._load())
        except ConfigError as error:
            log.error("SIGHUP: nothing is changed, the configuration has mistakes: %s", error)  # noqa: TRY400
            return
        daemon = planned.config.daemon
        logs.configure(daemon.log_level, daemon.log_format)
        self._poller.seconds = daemon.poll_seconds
        for sentence in planned.applied:
            log.info("SIGHUP: %s", sentence)
        for sentence in planned.kept:
            log.warning("SIGHUP: %s", sentence)
        try:
            grown = self._host.reload(planned.config)
        except Exception:
            log.exception("SIGHUP: what was added could not be opened")
            return
        self._front_ends.open()
        for found in grown:
            self._capacities.look(found)
        log.info("SIGHUP: %d changes applied, %d kept for a restart", len(planned.applied), len(planned.kept))
