"""The rule of migrations holds in whatever order things happen; ``make test-slow`` takes 100,000 steps."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from tests.migration.model import Moving

TestMoving = Moving.TestCase
TestMoving.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
