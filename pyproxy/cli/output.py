"""How results are shown: rich tables for people, indented JSON for programs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 160


def print_json(document: object) -> None:
    """Print a document as indented JSON on standard output."""
    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print a table; ``empty`` is the sentence in place of one without rows. None shows as a dash."""
    headed = any(columns)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=headed)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    if not table.row_count:
        click.echo(empty)
        return
    if title:
        click.secho(title, bold=True)
    console().print(table)


def console() -> Console:
    """Return the console of standard output; into a pipe it is wide and without colour."""
    width = None if "COLUMNS" in os.environ else _PIPE_WIDTH
    found = Console(highlight=False, soft_wrap=False)
    return found if found.is_terminal else Console(highlight=False, width=width)


def _cell(value: object) -> Text:
    if value is None or value == "":
        return Text("-", style="dim")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    return Text(str(value))


def size_text(size: int) -> str:
    """Return a number of bytes as people write it: "1.0 GiB"."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            break
        amount /= 1024
    return f"{size} B" if unit == "B" else f"{amount:.1f} {unit}"
