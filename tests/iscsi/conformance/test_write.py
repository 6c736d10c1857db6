"""tests/conformance/test_write.py on tgt."""

from tests.conformance.test_write import *  # noqa: F403
