"""REPORT LUNS (SPC-4 6.33)."""

from __future__ import annotations

from tests.conformance.counterparts import counterpart_of
from tests.conformance.initiator import Initiator


@counterpart_of("ReportLuns.Simple")
def test_every_logical_unit_is_listed_once(first: Initiator) -> None:
    data = first.fetch("a0 00 00 000000 00000200 00 00", 512)
    assert int.from_bytes(data[:4]) == len(data) - 8
    luns = [data[at : at + 8] for at in range(8, len(data), 8)]
    assert bytes(8) in luns
    assert len(set(luns)) == len(luns)
