"""tests/conformance/test_write_and_verify.py on tgt."""

from tests.conformance.test_write_and_verify import *  # noqa: F403
