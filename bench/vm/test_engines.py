"""Boots once and measures every engine on every node beside its C loop; the table at the end shows the ratios."""

from bench.vm.inside import CASES, OPERATIONS
from bench.vm.run import measure


def test_pass_through_engines() -> None:
    # On scsi_debug and on LIO.
    assert len(measure()) == 2 * len(CASES) * len(OPERATIONS)
