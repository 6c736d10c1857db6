"""The same conversations with qemu-pr-helper and with pyproxy, on descriptors that are no SCSI device."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from tests.unit.pr_helper.differences import Comparison
from tests.unit.pr_helper.exchange import CLOSED, Client, Generator
from tests.unit.pr_helper.qemu import qemu_pr_helper
from tests.unit.pr_helper.scene import scene


@pytest.fixture
def descriptors(tmp_path) -> Iterator[dict[str, int]]:
    (tmp_path / "regular").touch()
    reading, writing = os.pipe()
    left, right = socket.socketpair()
    opened = {
        "rw": os.open("/dev/null", os.O_RDWR),
        "read-only": os.open("/dev/null", os.O_RDONLY),
        "write-only": os.open("/dev/null", os.O_WRONLY),
        "regular": os.open(tmp_path / "regular", os.O_RDWR),
        "regular-read-only": os.open(tmp_path / "regular", os.O_RDONLY),
        "directory": os.open(tmp_path, os.O_RDONLY),
        "path": os.open("/dev/null", os.O_PATH),
        "terminal": os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY),
        "pipe": reading,
        "socket": left.fileno(),
    }
    yield opened
    for name, descriptor in opened.items():
        if name != "socket":
            os.close(descriptor)
    os.close(writing)
    left.close()
    right.close()


def test_the_same_conversations_get_the_same_answers(tmp_path, descriptors):
    strange = tuple(name for name in descriptors if name != "rw")
    generator = Generator(20, strange)
    comparison = Comparison()
    with qemu_pr_helper(tmp_path) as theirs, scene(tmp_path) as ours:
        while comparison.requests < 1500:
            steps = generator.conversation(12)
            answers = []
            for path in (theirs, ours.path):
                with Client(path) as client:
                    assert client.greeting == bytes(4)
                    answers.append(client.hold(steps, descriptors))
            comparison.compare(steps, *answers, f"after {comparison.requests} requests")
    assert set(comparison.differences) <= {"write-only-descriptor"}


@pytest.mark.parametrize("features", [bytes([0, 0, 0, 1]), bytes([0x80, 0, 0, 0])])
def test_an_unknown_feature_closes(tmp_path, features):
    with qemu_pr_helper(tmp_path) as theirs, scene(tmp_path) as ours:
        for path in (theirs, ours.path):
            with Client(path, features) as client:
                assert client.answer() == CLOSED
