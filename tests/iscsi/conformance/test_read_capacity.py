"""tests/conformance/test_read_capacity.py on tgt."""

from tests.conformance.test_read_capacity import *  # noqa: F403
