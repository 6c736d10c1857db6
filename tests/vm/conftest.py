"""Tests below ``tests/vm/guest`` and ``tests/vm/disk`` run in a virtual machine and are reported as ordinary tests.

On the host they are collected as usual; the first of a directory boots a machine once, with all of it that were
selected, and each item's protocol then hands out what the pytest inside reported for it. Inside the guest this file
does nothing. In ``guest`` pyproxy runs in the machine, on the kernel's targets; in ``disk`` the machine is pyproxy's
guest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.vm.disk_host import DiskHost
from tests.vm.host_session import GuestSession

HERE = Path(__file__).parent
OUTSIDE: dict[str, Callable[[], AbstractContextManager[Sequence[str]]] | None] = {"guest": None, "disk": DiskHost}
"""Directory -> what stands outside of its machine."""
AHEAD = "guest"
"""Its tests take longest and keep one processor busy: its machine runs beside the tests before, if they are many."""
MANY = 500

INSIDE_GUEST = os.environ.get("PYPROXY_VM_GUEST") == "1"

# An hour on a slow machine is too much for `make test`; `make test-slow` names the directory.
collect_ignore = ["guest/slow"]

_sessions = pytest.StashKey[dict[str, GuestSession]]()


def _machine_of(item: pytest.Item) -> str | None:
    """The directory whose machine the item runs in, None for one that runs here."""
    if INSIDE_GUEST:
        return None
    return next((name for name in OUTSIDE if item.path.is_relative_to(HERE / name)), None)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "vm_timeout(seconds): how long a test in the virtual machine may take before it counts as hung (default 300)",
    )


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    machine = _machine_of(item)
    if machine is None:
        return None
    session = _session_of(item.session, machine)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in session.reports(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    # The item was not set up here, but what the previous host item left standing for a neighbour has to go.
    item.session._setupstate.teardown_exact(nextitem)
    if item is session.last:
        session.stop()
    return True


def _session_of(session: pytest.Session, machine: str) -> GuestSession:
    """Return the machine, booted with all the tests that run in it."""
    sessions = session.stash.setdefault(_sessions, {})
    if machine not in sessions:
        selected = [each for each in session.items if _machine_of(each) == machine]
        outside = OUTSIDE[machine]
        sessions[machine] = GuestSession(session.config, selected, None if outside is None else outside())
        sessions[machine].start()
    return sessions[machine]


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    if INSIDE_GUEST or session.config.option.collectonly:
        return
    machines = [_machine_of(item) for item in session.items]
    if AHEAD in machines and machines.index(AHEAD) >= MANY:
        _session_of(session, AHEAD)


def pytest_sessionfinish(session: pytest.Session) -> None:
    for guest in session.stash.get(_sessions, {}).values():
        guest.stop()
