"""Records what LIO does in ``tests/vm/reference``: ``python -m tests.vm.record_reference`` (as root).

``iscsi-test-cu-lio.json`` has the verdicts of libiscsi's conformance suites, which the tests compare with.
``lio-differences.json`` has how often each entry of ``guest/lio_differences.py`` was met, for the reader.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.vm.boot import GUEST_SHARED, PROJECT, run
from tests.vm.guest.lio_differences import DIFFERENCES as LISTED
from tests.vm.rig.differential import runner
from tests.vm.rig.iscsi_target import create_target
from tests.vm.rig.iscsi_test_cu import BLOCK_SUITES, INITIATORS, RESERVATION_SUITES, TIMING_DEPENDENT, run_suite
from tests.vm.rig.lio import create_unit

DIRECTORY = Path(__file__).with_name("reference")
REFERENCE = DIRECTORY / "iscsi-test-cu-lio.json"
DIFFERENCES = DIRECTORY / "lio-differences.json"


def settled(suite: str, verdicts: dict[str, str]) -> dict[str, str]:
    """The verdicts with those that depend on timing given as "either"."""
    return {
        name: "either" if name in TIMING_DEPENDENT.get(suite, ()) else verdict for name, verdict in verdicts.items()
    }


def record_inside() -> None:
    """Run every suite and leave the verdicts in the shared directory."""
    unit = create_unit(2)
    found: dict[str, dict[str, dict[str, str]]] = {"sg": {}, "iscsi": {}}
    for suite in [*RESERVATION_SUITES, *BLOCK_SUITES]:
        unit.reset()
        found["sg"][suite], output = run_suite(suite, str(unit.nexuses[0].sg))
        print(output)
    target = create_target(INITIATORS)
    for suite in RESERVATION_SUITES:
        verdicts, output = run_suite(suite, target.url)
        found["iscsi"][suite] = settled(suite, verdicts)
        print(output)
    target.remove()
    kernel = f"LIO, kernel {os.uname().release}"
    _leave(REFERENCE, {"target": kernel, **found})
    loop, iscsi = runner.loop_runner(LISTED), runner.iscsi_runner(LISTED)
    _leave(DIFFERENCES, {"target": kernel, **runner.summary(loop, iscsi)})


def _leave(destination: Path, document: dict[str, Any]) -> None:
    Path(GUEST_SHARED, destination.name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    """Boot, record, and put the record in its place."""
    if os.environ.get("PYPROXY_VM_GUEST") == "1":
        record_inside()
        return 0
    command = ["env", f"--chdir={PROJECT}", f"PYTHONPATH={PROJECT}", sys.executable, "-m", "tests.vm.record_reference"]
    with tempfile.TemporaryDirectory(prefix="pyproxy-record-") as shared:
        status = run(command, timeout=1800, shared=Path(shared))
        sys.stdout.write(Path(shared, "console.log").read_text(encoding="utf-8", errors="replace"))
        if status == 0:
            DIRECTORY.mkdir(exist_ok=True)
            for destination in (REFERENCE, DIFFERENCES):
                destination.write_bytes(Path(shared, destination.name).read_bytes())
    return status


if __name__ == "__main__":
    sys.exit(main())
