"""How much is tried: ``make test`` is done within the hour, ``make test-slow`` (PYPROXY_THOROUGH=1) takes its time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

KERNEL_OPTION: Final = "pyproxy.thorough"
"""How the virtual machine is told."""


def _thorough() -> bool:
    if os.environ.get("PYPROXY_THOROUGH") == "1":
        return True
    inside = os.environ.get("PYPROXY_VM_GUEST") == "1"
    return inside and KERNEL_OPTION in Path("/proc/cmdline").read_text(encoding="ascii").split()


THOROUGH: Final = _thorough()
