"""Finding who carries out a command: the running daemon, or this process under the same lock."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pyproxy import config
from pyproxy.daemon.host import Host
from pyproxy.daemon.local import LocalOperations
from pyproxy.daemon.operations import Operations
from pyproxy.daemon.remote import RemoteOperations
from pyproxy.frontend.api import DaemonUnreachableError, connect


@contextlib.contextmanager
def operations(config_file: Path | None) -> Iterator[Operations]:
    """Yield the operations of the configured host; raises what ``daemon.failures.sentence`` knows."""
    settings = config.load(config_file)
    try:
        client = connect(settings.daemon.control_socket)
    except DaemonUnreachableError:
        with contextlib.closing(Host(settings)) as host:
            yield LocalOperations(host)
    else:
        yield RemoteOperations(client)
