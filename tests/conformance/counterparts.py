"""Which of our tests stands for which test of libiscsi's iscsi-test-cu, entered where the test is written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TypeVar

import pytest

Test = TypeVar("Test", bound=Callable[..., None])

IN_MEMORY_AND_FILE = pytest.mark.parametrize("disk", ["memory", "file"], indirect=True)
"""For ``pytestmark`` of the modules about the medium, which is another one in a file."""

COUNTERPARTS: dict[str, list[str]] = defaultdict(list)
"""``Suite.Test`` of iscsi-test-cu -> our tests, complete once every module of this package is imported."""


def counterpart_of(*names: str) -> Callable[[Test], Test]:
    """Enter a test as the counterpart, or one of several, of the named tests of iscsi-test-cu."""

    def enter(test: Test) -> Test:
        for name in names:
            COUNTERPARTS[name].append(f"{test.__module__}.{test.__name__}")
        return test

    return enter


def for_lengths(suite: str, name: str, *lengths: int) -> Callable[[Test], Test]:
    """Run a test with each length of a command's CDB, ``length``, as the counterpart of ``SUITE<length>.NAME``."""

    def enter(test: Test) -> Test:
        counterpart_of(*(f"{suite}{length}.{name}" for length in lengths))(test)
        parametrized: Test = pytest.mark.parametrize("length", lengths)(test)
        return parametrized

    return enter
