"""The guest's clock runs as fast as the host's, however loaded the host was while the guest booted."""

import os
import time
from pathlib import Path

SHARED = Path(os.environ.get("PYPROXY_VM_REPORTS", "/run/pyproxy"))


def host_time() -> float:
    """The host's clock, by which it stamps a new file in the shared directory."""
    file = SHARED / "clock"
    file.unlink(missing_ok=True)
    file.touch()
    return file.stat().st_mtime


def test_ten_seconds_are_ten_seconds():
    mine, hosts = time.monotonic(), host_time()
    while time.monotonic() - mine < 10:
        time.sleep(0.5)
    passed, on_the_host = time.monotonic() - mine, host_time() - hosts
    # The two clocks are read one after the other, at worst with a slow machine's seconds between.
    assert 0.5 < passed / on_the_host < 2
