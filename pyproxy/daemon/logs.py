"""The daemon's log on standard error: lines for people on a terminal, one JSON object for each record elsewhere."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final, Literal, TextIO, TypeAlias

Format: TypeAlias = Literal["auto", "json", "human"]
Level: TypeAlias = Literal["debug", "info", "warning", "error"]

_MILLISECONDS: Final = "milliseconds"


class JsonFormatter(logging.Formatter):
    """One line for each record: ``time`` (UTC), ``level``, ``logger``, ``message``, ``exception`` where there is one.

    ASCII only: whatever a name from a device or a guest holds, it neither ends the line nor confuses a terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the JSON document of a record."""
        document = {
            "time": _time(record).replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document)


class HumanFormatter(logging.Formatter):
    """``pyproxy: 12:00:00.000 WARNING: message``, with the traceback below where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        clock = datetime.fromtimestamp(record.created).astimezone().time().isoformat(_MILLISECONDS)
        line = f"pyproxy: {clock} {record.levelname}: {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure(level: Level, style: Format, stream: TextIO | None = None) -> None:
    """Log to ``stream`` (standard error) from ``level`` on; replaces what an earlier call configured.

    ``style`` "auto" is "human" on a terminal, else "json".
    """
    stream = sys.stderr if stream is None else stream
    human = style == "human" or (style == "auto" and stream.isatty())
    formatter = HumanFormatter() if human else JsonFormatter()
    root = logging.getLogger()
    root.setLevel(level.upper())
    for handler in root.handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is stream:
            # Not replaced: a record of another thread must find a handler at any time.
            handler.setFormatter(formatter)
            return
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], force=True)
    logging.captureWarnings(True)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec=_MILLISECONDS)
