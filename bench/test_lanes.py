"""What sorting into lanes adds to an engine: parse, sort, submit, scan, without the GIL.

The engine issues SG_IO on /dev/null, which the kernel refuses at once: the cheapest command an engine can run.
"""

from __future__ import annotations

import os

from _fastpath.lanes import LaneRunner
from _fastpath.sgio import Batch
from _fastpath.sgio_sync import SyncEngine
from bench.conftest import Bench

READ_10 = bytes.fromhex("28 00 00 00 10 00 00 00 00 00")
COMMANDS = 32


def test_lane_runner(bench: Bench) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    try:
        with SyncEngine(null, 1) as engine:
            runner = LaneRunner(engine)
            batch = Batch(COMMANDS)
            for _ in range(COMMANDS):
                batch.add(READ_10)
            calls = 20 if bench.quick else 500

            def lanes() -> None:
                for _ in range(calls):
                    runner.run(batch)

            def bare() -> None:
                for _ in range(calls):
                    engine.run(batch)

            bench.compare(
                "lanes around a refused SG_IO, floor: the engine alone",
                lanes,
                bare,
                operations=calls * COMMANDS,
                unit="ns per command",
                rounds=31,
            )
    finally:
        os.close(null)
