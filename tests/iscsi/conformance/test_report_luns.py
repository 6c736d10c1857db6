"""tests/conformance/test_report_luns.py on tgt."""

from tests.conformance.test_report_luns import *  # noqa: F403
