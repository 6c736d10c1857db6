"""The daemon's log: one JSON object a line for programs, lines for people on a terminal."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest

from pyproxy.daemon import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave the root logger as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    yield
    logging.captureWarnings(False)
    root.handlers, root.level = handlers, level


def test_json_lines_into_a_pipe() -> None:
    stream = io.StringIO()
    logs.configure("info", "auto", stream)
    logging.getLogger("pyproxy.x").warning("guest %s: \x1b[31m\n%s", "web", "\udcff\u00e9")
    logging.getLogger("pyproxy.x").debug("not this")
    (line,) = stream.getvalue().splitlines()
    assert line.isascii()
    document = json.loads(line)
    assert list(document) == ["time", "level", "logger", "message"]
    assert document["message"] == "guest web: \x1b[31m\n\udcff\u00e9"
    assert (document["level"], document["logger"]) == ("warning", "pyproxy.x")
    assert document["time"].endswith("Z")
    assert len(document["time"]) == len("2026-01-01T00:00:00.000Z")


def test_a_traceback_stays_in_its_line() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    try:
        int("why")
    except ValueError:
        logging.getLogger("pyproxy").exception("failed")
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["exception"].endswith("base 10: 'why'")


@pytest.mark.parametrize(("style", "stream"), [("auto", Terminal()), ("human", io.StringIO())])
def test_lines_for_people(style: logs.Format, stream: io.StringIO) -> None:
    logs.configure("debug", style, stream)
    logging.getLogger("pyproxy").debug("ready")
    assert stream.getvalue().startswith("pyproxy: ")
    assert stream.getvalue().endswith(" DEBUG: ready\n")


def test_json_on_a_terminal_where_it_is_asked_for() -> None:
    stream = Terminal()
    logs.configure("info", "json", stream)
    logging.getLogger("pyproxy").info("ready")
    assert json.loads(stream.getvalue())["message"] == "ready"


def test_configured_again_it_logs_once_and_from_the_new_level() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.configure("info", "json", first)
    logs.configure("error", "json", second)
    logging.getLogger("pyproxy").info("no")
    logging.getLogger("pyproxy").error("yes")
    assert first.getvalue() == ""
    assert [json.loads(line)["message"] for line in second.getvalue().splitlines()] == ["yes"]


def test_another_format_on_the_same_stream_takes_the_place_of_the_first() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    logs.configure("debug", "human", stream)
    logging.getLogger("pyproxy").debug("once")
    assert stream.getvalue().endswith(" DEBUG: once\n")
    assert stream.getvalue().count("once") == 1


def test_warnings_of_libraries_are_records_too() -> None:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert json.loads(stream.getvalue())["logger"] == "py.warnings"
