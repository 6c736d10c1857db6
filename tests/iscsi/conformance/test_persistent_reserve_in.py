"""tests/conformance/test_persistent_reserve_in.py on tgt."""

from tests.conformance.test_persistent_reserve_in import *  # noqa: F403
