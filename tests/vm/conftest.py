"""Tests below ``tests/vm/guest`` run in the virtual machine and are reported here as ordinary tests.

On the host they are collected as usual; the first of them boots the machine once, with all that were selected, and
each item's protocol then hands out what the pytest inside reported for it. Inside the guest this file does nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.vm.host_session import GuestSession

GUEST_TESTS = Path(__file__).parent / "guest"
INSIDE_GUEST = os.environ.get("PYPROXY_VM_GUEST") == "1"

# An hour on a slow machine is too much for `make test`; `make test-slow` names the directory.
collect_ignore = ["guest/slow"]

_session = pytest.StashKey[GuestSession]()


def _runs_in_guest(item: pytest.Item) -> bool:
    return not INSIDE_GUEST and item.path.is_relative_to(GUEST_TESTS)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "vm_timeout(seconds): how long a test in the virtual machine may take before it counts as hung (default 300)",
    )


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if not _runs_in_guest(item):
        return None
    session = item.session.stash.get(_session, None)
    if session is None:
        selected = [each for each in item.session.items if _runs_in_guest(each)]
        session = item.session.stash[_session] = GuestSession(item.config, selected)
        session.start()
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in session.reports(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    # The item was not set up here, but what the previous host item left standing for a neighbour has to go.
    item.session._setupstate.teardown_exact(nextitem)
    return True


def pytest_sessionfinish(session: pytest.Session) -> None:
    guest = session.stash.get(_session, None)
    if guest is not None:
        guest.stop()
