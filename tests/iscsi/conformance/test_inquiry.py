"""tests/conformance/test_inquiry.py on tgt."""

from tests.conformance.test_inquiry import *  # noqa: F403
