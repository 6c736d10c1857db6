"""tests/conformance/test_pre_fetch.py on tgt."""

from tests.conformance.test_pre_fetch import *  # noqa: F403
