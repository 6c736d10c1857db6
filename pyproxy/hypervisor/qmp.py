"""QEMU's monitor (QMP), as far as a migration needs it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from qemu.qmp import ExecuteError, QMPClient, QMPError

ANSWER_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.02
_PAUSE: Final = "pause-before-switchover"

NOT_RUNNING: Final = frozenset({"none", "completed", "failed", "cancelled"})
"""What ``query-migrate`` says while no migration goes on."""


class QemuError(Exception):
    """QEMU cannot be asked, or refuses; the message names the monitor and says what to do."""


class Qemu:
    """A QEMU through its monitor. Made by ``connected``."""

    def __init__(self, client: QMPClient, path: Path) -> None:
        self._client = client
        self._path = path

    async def pause_before_switchover(self) -> None:
        """Have the migration wait before the guest is handed over; raises QemuError."""
        await self._ask("migrate-set-capabilities", capabilities=[{"capability": _PAUSE, "state": True}])

    async def migrate(self, uri: str) -> None:
        """Begin a migration to ``uri``; raises QemuError."""
        await self._ask("migrate", uri=uri)

    async def migration(self) -> str:
        """Return the migration's status, "none" before the first; raises QemuError."""
        answer = await self._ask("query-migrate")
        return str(answer.get("status", "none")) if isinstance(answer, dict) else "none"

    async def until(self, *wanted: str) -> str:
        """Wait for one of these statuses, however long the copying takes; raises QemuError."""
        while (status := await self.migration()) not in wanted:
            await asyncio.sleep(_LOOK_SECONDS)
        return status

    async def switch_over(self) -> None:
        """Let a migration that waits go on; raises QemuError."""
        await self._ask("migrate-continue", state="pre-switchover")

    async def cancel(self) -> None:
        """Call the migration off: the guest goes on here. Raises QemuError."""
        await self._ask("migrate_cancel")

    async def _ask(self, command: str, **arguments: Any) -> object:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._client.execute(command, arguments or None)
        except ExecuteError as error:
            raise QemuError(f"{self._path}: QEMU refuses {command}: {error}") from None
        except TimeoutError:
            raise QemuError(f"{self._path}: QEMU does not answer {command}") from None
        except QMPError as error:
            raise QemuError(f"{self._path}: QEMU has ended, or closed its monitor ({error})") from None


@contextlib.asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Qemu]:
    """Connect to the monitor's Unix socket; raises QemuError."""
    client = QMPClient("pyproxy")
    client.logger.setLevel(logging.CRITICAL)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await client.connect(str(path))
    except TimeoutError:
        raise QemuError(f"{path}: QEMU does not greet: is another program connected to this monitor?") from None
    except QMPError as error:
        raise QemuError(
            f"{path}: QEMU's monitor cannot be reached ({error}); start QEMU with -qmp unix:{path},server=on,wait=off"
        ) from None
    try:
        yield Qemu(client, path)
    finally:
        with contextlib.suppress(QMPError, OSError, EOFError):  # it may have ended
            async with asyncio.timeout(ANSWER_SECONDS):
                await client.disconnect()
