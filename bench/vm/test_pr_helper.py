"""Boots once and measures the helper's socket beside qemu-pr-helper; the table at the end shows the ratios."""

from bench.floor import build_library
from bench.vm.pr_helper import ROUNDS
from bench.vm.run import measure_inside
from tests.vm.boot import GUEST_SHARED


def test_pr_helper() -> None:
    build_library("pr_client")
    # READ KEYS straight and all in Python, REGISTER, and what being durable costs.
    assert len(measure_inside("bench.vm.pr_helper", f"{GUEST_SHARED}/results", str(ROUNDS))) == 4
