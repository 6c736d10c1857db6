"""Makes what the inner guest boots, on the host, before the virtual machine starts.

This directory is left out when the whole suite is collected (``collect_ignore`` of tests/vm); ``make test-slow`` names
it.
"""

from __future__ import annotations

import pytest

from tests.vm.boot import VmError
from tests.vm.conftest import INSIDE_GUEST
from tests.vm.inner import image


def pytest_collection_finish(session: pytest.Session) -> None:
    if INSIDE_GUEST or session.config.option.collectonly or not session.items:
        return
    try:
        image.make()
    except (image.ImageError, VmError) as error:
        raise pytest.UsageError(str(error)) from error
