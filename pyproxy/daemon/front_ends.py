"""The ways by which guests' commands come in, opened and stopped together."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from pyproxy.daemon.controllers import Controllers
from pyproxy.daemon.gates import Gates
from pyproxy.daemon.host import Host, OpenUnit
from pyproxy.daemon.pr_sockets import Activated, PrSockets
from pyproxy.device.passed import PassedNode
from pyproxy.frontend.pr_helper.service import OpenNode


class FrontEnds:
    """The helper sockets and the controllers of the guests of ``host``."""

    def __init__(self, host: Host, activated: Activated = (), *, open_node: OpenNode = PassedNode.open) -> None:
        self.gates = Gates()
        self.pr_helper = PrSockets(host, self.gates, activated, open_node=open_node)
        self.vhost_user = Controllers(host, self.gates)

    def open(self) -> None:
        """Open what the host's configuration has and is not open; what cannot be opened is logged."""
        self.pr_helper.open()
        self.vhost_user.open()

    def let_go(self, found: OpenUnit) -> None:
        """Let go of a unit whose device was detached, and tell its guest; waits for the commands it has."""
        self.pr_helper.forget_units(found.unit.guest)
        self.vhost_user.detach(found)

    def stop(self, seconds: float) -> bool:
        """Take nothing new, let what runs be answered within ``seconds``; False when something still runs."""
        self.gates.give_up()
        with ThreadPoolExecutor(2, "front-ends-stop") as threads:
            return all(threads.map(lambda one: one.stop(seconds), (self.pr_helper, self.vhost_user)))
