"""Two network namespaces with a bad link between them: netem delays, and loses, what each of them sends."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable
from typing import Final, Self, TypeVar

T = TypeVar("T")
_CLONE_NEWNET: Final = 0x40000000
NAMES: Final = ("pyproxy-a", "pyproxy-b")
ADDRESSES: Final = ("192.0.2.1", "192.0.2.2")


class Distance:
    """``delay_ms`` for the way there and back together, ``loss`` percent in each direction."""

    def __init__(self, *, delay_ms: int, loss: int) -> None:
        self._netem = ["delay", f"{delay_ms // 2}ms", "loss", f"{loss}%"]

    def __enter__(self) -> Self:
        subprocess.run(["modprobe", "-a", "veth", "sch_netem"], check=True)
        for name in NAMES:
            _ip("netns", "add", name)
        _ip("link", "add", "link-a", "netns", NAMES[0], "type", "veth", "peer", "name", "link-b", "netns", NAMES[1])
        for name, link, address in zip(NAMES, ("link-a", "link-b"), ADDRESSES, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", link)
            _ip("-n", name, "link", "set", link, "up")
            _ip("-n", name, "link", "set", "lo", "up")
            within = ["ip", "netns", "exec", name]
            subprocess.run([*within, "tc", "qdisc", "add", "dev", link, "root", "netem", *self._netem], check=True)
        return self

    def __exit__(self, *_: object) -> None:
        for name in NAMES:
            _ip("netns", "delete", name)


def within(namespace: str, act: Callable[[], T]) -> T:
    """Run ``act`` in a thread that is in the namespace; raises what it raises."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"setns {namespace}")
            finally:
                os.close(descriptor)
            results.append(act())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
