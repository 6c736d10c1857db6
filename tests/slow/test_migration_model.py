"""100,000 steps of the model of migrations."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.migration.model import Moving


def test_a_hundred_thousand_steps() -> None:
    run_state_machine_as_test(
        Moving,
        settings=settings(
            max_examples=1_000, stateful_step_count=100, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
