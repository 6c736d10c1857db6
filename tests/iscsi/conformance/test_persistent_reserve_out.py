"""tests/conformance/test_persistent_reserve_out.py on tgt."""

from tests.conformance.test_persistent_reserve_out import *  # noqa: F403
