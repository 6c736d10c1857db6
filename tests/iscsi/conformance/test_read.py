"""tests/conformance/test_read.py on tgt."""

from tests.conformance.test_read import *  # noqa: F403
