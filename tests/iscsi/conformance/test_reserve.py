"""tests/conformance/test_reserve.py on tgt, without what is done to the emulated unit itself."""

from tests.conformance import test_reserve
from tests.conformance.test_reserve import *  # noqa: F403

_OF_THE_EMULATED_UNIT = ("losing_the_nexus", "logical_unit_reset", "reset_of_the_unit", "power_cycle")
for _name in _OF_THE_EMULATED_UNIT:
    assert hasattr(test_reserve, f"test_{_name}_ends_it")
    del globals()[f"test_{_name}_ends_it"]
