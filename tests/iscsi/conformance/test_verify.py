"""tests/conformance/test_verify.py on tgt."""

from tests.conformance.test_verify import *  # noqa: F403
