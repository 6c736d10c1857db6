"""The persistent reservation helper's socket: PERSISTENT RESERVE of guests whose QEMU carries the other commands."""

from pyproxy.frontend.pr_helper.server import PrHelperServer

__all__ = ["PrHelperServer"]
