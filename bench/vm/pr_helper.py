"""Runs in the virtual machine: requests through the helper's socket, pyproxy beside qemu-pr-helper.

    python -m bench.vm.pr_helper RESULTS_DIRECTORY [ROUNDS]

The same C client, the same boot, the same disk, in turn. READ KEYS is measured as it is served and, to show what the
path without Python is worth, with every request passing through Python. REGISTER AND IGNORE EXISTING KEY is recorded
by pyproxy before it is sent and before it is answered: what that costs is a line of its own. The store is in memory
there, so it is the cost of the work and not of a disk.
"""

from __future__ import annotations

import os
import statistics
import struct
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.floor import build_library
from bench.floor.pr_client import PrClient
from bench.report import record
from tests.unit.pr_helper.qemu import qemu_pr_helper
from tests.vm.rig.lio import create_unit
from tests.vm.rig.pr_helper_process import HelperProcess, Served

GOAL = 1 / 0.8
"""READ KEYS: at least 0.8 times the requests per second of qemu-pr-helper."""

READ_KEYS = struct.pack(">BB5xHx6x", 0x5E, 0x00, 4096)
REGISTER = struct.pack(">BBB2xIx6x", 0x5F, 0x06, 0, 24)
PARAMETERS = struct.pack(">QQ4xB3x", 0, 0x50594558, 0)
ROUNDS = 21
READS = 200
REGISTERS = 20

QEMU, PYPROXY, IN_PYTHON = "qemu-pr-helper", "pyproxy", "pyproxy, all in Python"


@dataclass
class Taken:
    """What one side needed: requests per second of each round, microseconds of each request."""

    rates: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    @property
    def details(self) -> dict[str, float]:
        lower, _, upper = statistics.quantiles(self.rates, n=4)
        points = statistics.quantiles(self.latencies, n=100)
        return {"rate p25": lower, "rate p75": upper, "us p50": points[49], "us p99": points[98]}


def main(results: Path, rounds: int) -> None:
    """Measure and write the results."""
    unit = create_unit(1)
    nexus = unit.nexuses[0]
    unit.reset()
    library = build_library("pr_client")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pr-helper-")))
        device = os.open(nexus.sd, os.O_RDWR | os.O_NONBLOCK)
        stack.callback(os.close, device)
        paths = {QEMU: stack.enter_context(qemu_pr_helper(directory))}
        for name, straight in ((PYPROXY, True), (IN_PYTHON, False)):
            home = directory / f"straight-{straight}"
            home.mkdir()
            served = Served.of(home, nexus, straight=straight)
            stack.enter_context(HelperProcess(served))
            paths[name] = served.socket
        clients = {name: stack.enter_context(PrClient(library, path, device)) for name, path in paths.items()}
        # Python's side first: it learns its own registration, and the others' then change nothing.
        for name in reversed(clients):
            clients[name].run(1, REGISTER, PARAMETERS)
            clients[name].run(20, READ_KEYS)
        reads = take_turns(clients, rounds, READS, READ_KEYS)
        write("READ KEYS", PYPROXY, reads, results, rounds, READS, GOAL)
        write("READ KEYS", IN_PYTHON, reads, results, rounds, READS)
        clients.pop(IN_PYTHON)
        registers = take_turns(clients, rounds, REGISTERS, REGISTER, PARAMETERS)
        write("REGISTER", PYPROXY, registers, results, rounds, REGISTERS)
        extra = {name: each.details["us p50"] for name, each in registers.items()}
        record(
            "pr-helper REGISTER, extra for being durable",
            extra[PYPROXY] - extra[QEMU],
            None,
            "us per request",
            details=extra,
            directory=results,
        )


def take_turns(
    clients: dict[str, PrClient], rounds: int, count: int, cdb: bytes, parameters: bytes = b""
) -> dict[str, Taken]:
    """Let each client send ``count`` requests a round, so that whatever the machine does meanwhile happens to all."""
    taken = {name: Taken() for name in clients}
    names = list(clients)
    for turn in range(rounds):
        for name in names if turn % 2 else reversed(names):
            seconds, latencies = clients[name].run(count, cdb, parameters)
            taken[name].rates.append(count / seconds)
            taken[name].latencies += latencies
    return taken


def write(
    operation: str,
    side: str,
    taken: dict[str, Taken],
    results: Path,
    rounds: int,
    count: int,
    goal: float | None = None,
) -> None:
    """Record one side's median rate beside qemu-pr-helper's."""
    ours, theirs = taken[side], taken[QEMU]
    pairs = [mine / other for mine, other in zip(ours.rates, theirs.rates, strict=True)]
    lower, middle, upper = statistics.quantiles(pairs, n=4)
    measurement = record(
        f"pr-helper {operation}, {side}",
        ours.rate,
        theirs.rate,
        "requests per second",
        goal,
        better="higher",
        details={
            "rounds": rounds,
            "requests per round": count,
            **ours.details,
            **{f"{QEMU} {name}": value for name, value in theirs.details.items()},
            "times qemu-pr-helper, paired": {"p25": lower, "median": middle, "p75": upper},
        },
        directory=results,
    )
    figures = f"{ours.rate:.0f}/s, {QEMU} {theirs.rate:.0f}/s, x{middle:.2f} ({lower:.2f}-{upper:.2f})"
    print(f"{measurement.name}: {figures}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS)
