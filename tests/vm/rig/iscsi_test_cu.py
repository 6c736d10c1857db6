"""Runs libiscsi's conformance tool and reads its verdicts."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence

RESERVATION_SUITES = (
    "PrinReadKeys",
    "PrinServiceactionRange",
    "PrinReportCapabilities",
    "ProutRegister",
    "ProutReserve",
    "ProutClear",
    "ProutPreempt",
    "Reserve6",
)
BLOCK_SUITES = (
    "CompareAndWrite",
    "GetLBAStatus",
    "Inquiry",
    "Mandatory",
    "ModeSense6",
    "OrWrite",
    "Prefetch10",
    "Prefetch16",
    "Read6",
    "Read10",
    "Read12",
    "Read16",
    "ReadCapacity10",
    "ReadCapacity16",
    "ReportSupportedOpcodes",
    "TestUnitReady",
    "Unmap",
    "Verify10",
    "Verify12",
    "Verify16",
    "Write10",
    "Write12",
    "Write16",
    "WriteAtomic16",
    "WriteSame10",
    "WriteSame16",
    "WriteVerify10",
    "WriteVerify12",
    "WriteVerify16",
)
INITIATORS = (
    "iqn.2007-10.com.github:sahlberg:libiscsi:iscsi-test",
    "iqn.2007-10.com.github:sahlberg:libiscsi:iscsi-test-2",
)
"""The two names the tool logs in with unless told otherwise."""

TIMING_DEPENDENT = {"Reserve6": ("Logout", "ITNexusLoss")}
"""Over iSCSI these ask whether the old session's reservation is gone; LIO ends sessions in a thread of their own."""

_VERDICT = re.compile(r"^(passed|FAILED)", re.MULTILINE)
_TEST = re.compile(r"^  Test: (\S+) \.\.\.(.*?)(?=^  Test: |^Run Summary:|\Z)", re.MULTILINE | re.DOTALL)


def run_suite(suite: str, device: str, *second: str, timeout: float = 240.0) -> tuple[dict[str, str], str]:
    """Run one suite against an SG node or an iSCSI URL, and a ``second`` nexus where one is given.

    Returns test -> passed, failed or skipped, and the tool's output. A test counts as skipped as soon as the tool skips
    a part of it.
    """
    return _run(["iscsi-test-cu", "--dataloss", f"--test=ALL.{suite}", device, *second], timeout)


def _run(words: Sequence[str], timeout: float) -> tuple[dict[str, str], str]:
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, check=False)
    output = done.stdout.decode("utf-8", errors="replace")
    verdicts = {}
    for match in _TEST.finditer(output):
        name, text = match.groups()
        verdict = _VERDICT.search(text)
        if verdict is None or verdict[1] == "FAILED":
            verdicts[name] = "failed"
        else:
            verdicts[name] = "skipped" if "[SKIPPED]" in text[: verdict.start()] else "passed"
    return verdicts, output
