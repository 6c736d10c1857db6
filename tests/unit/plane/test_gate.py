"""The serve gate of a controller: nothing new is taken while it is shut, nothing is lost when it opens."""

from __future__ import annotations

import threading

from tests.unit.plane.scene import TEST_UNIT_READY, Scene, until

READ_KEYS = bytes.fromhex("5e 00 00 00 00 00 00 10 00 00")


def test_what_comes_while_it_is_shut_is_served_when_it_opens() -> None:
    with Scene(size=16) as scene:
        scene.good(TEST_UNIT_READY)
        scene.controller.shut_gate()
        scene.controller.shut_gate()
        taken = scene.controller.counts()["requests"]
        slot = scene.queue.submit(TEST_UNIT_READY)
        passes = scene.controller.counts()["passes"]
        scene.controller.set_features(scene.features)  # workers go round
        until(lambda: scene.controller.counts()["passes"] > passes, "the worker looks")
        assert scene.controller.counts()["requests"] == taken
        assert scene.controller.drain_gate(60)
        scene.controller.open_gate()
        assert scene.queue.wait(60)[0] == slot


def test_a_ring_that_starts_while_it_is_shut_is_held() -> None:
    with Scene(size=16) as scene:
        scene.controller.stop_queue(2)
        scene.controller.shut_gate()
        slot = scene.queue.submit(TEST_UNIT_READY)
        scene.controller.start_queue(2, **(scene.queue.start_arguments() | {"base": 0}))
        scene.controller.set_enabled(2, True)
        assert scene.controller.drain_gate(60)
        assert scene.queue.used_element() is None
        assert scene.controller.stop_queue(2) == 0
        scene.controller.start_queue(2, **(scene.queue.start_arguments() | {"base": 0}))
        scene.controller.open_gate()
        assert scene.queue.wait(60)[0] == slot


def test_draining_waits_for_what_was_taken() -> None:
    with Scene(size=16) as scene:
        go_on = threading.Event()
        original = scene.handler.execute

        def slow(*arguments: object) -> tuple[int, int, bytes, bytes, int]:
            assert go_on.wait(60)
            return original(*arguments)  # type: ignore[arg-type]

        scene.handler.execute = slow  # type: ignore[method-assign]
        scene.queue.submit(READ_KEYS, data_in=64)
        until(lambda: scene.controller.counts()["python"] == 1, "the command is taken")
        scene.controller.shut_gate()
        assert not scene.controller.drain_gate(0.05)
        go_on.set()
        assert scene.controller.drain_gate(60)
        assert scene.queue.used_element() is not None
        scene.controller.open_gate()
