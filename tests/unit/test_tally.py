"""What is counted beside the data plane."""

from __future__ import annotations

import threading

import pytest

from pyproxy.tally import BOUNDS, Durations, Tally, Waits


def test_a_tally_loses_nothing_between_threads() -> None:
    tally = Tally()
    threads = [threading.Thread(target=lambda: [tally.add("a", "b") for _ in range(5000)]) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    tally.add("c", count=3)
    assert tally.read() == {("a", "b"): 20000, ("c",): 3}


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.0, 0), (1e-4, 0), (1.1e-4, 1), (1.6384, 7), (1.7, 8), (26.2144, 9), (27.0, 10)]
)
def test_durations_are_in_the_bucket_whose_bound_they_do_not_exceed(seconds: float, bucket: int) -> None:
    durations = Durations()
    durations.add(seconds)
    found = durations.read()
    assert (found.counts.index(1), found.total, found.seconds) == (bucket, 1, seconds)
    assert [repr(bound) for bound in BOUNDS][:8] == [
        "0.0001", "0.0004", "0.0016", "0.0064", "0.0256", "0.1024", "0.4096", "1.6384",
    ]  # fmt: skip


def test_waiting_lasts_until_an_answer_comes() -> None:
    now = [0.0]
    waits = Waits(lambda: now[0])

    def passes(seconds: float) -> str:
        now[0] += seconds
        return "answer"

    def inside() -> str:
        passes(3.0)
        assert waits.longest == 3.0
        return passes(1.0)

    assert waits.longest == 0.0
    assert waits.run(inside) == "answer"
    assert waits.longest == 0.0

    def gives_up() -> str:
        passes(10.0)
        raise TimeoutError

    with pytest.raises(TimeoutError):
        waits.run(gives_up)
    passes(5.0)
    assert waits.longest == 15.0
    assert waits.run(lambda: passes(10.0), lambda _: False) == "answer"
    assert waits.longest == 25.0, "the transport's answer is none"
    waits.run(lambda: passes(1.0))
    assert waits.longest == 0.0
