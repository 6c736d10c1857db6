"""What is generated into docs/ is what the code says."""

from __future__ import annotations

import runpy
from pathlib import Path

import click
import msgspec
import pytest

from pyproxy import config
from pyproxy.cli.main import main

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("name", ["configuration.md", "api.md", "migration.md", "openapi.json"])
def test_what_is_generated_is_current(name: str) -> None:
    generate = runpy.run_path(str(DOCS / "generate.py"))
    before, after = generate["current"](DOCS / name, generate["GENERATED"][DOCS / name])
    assert before == after, "run: python docs/generate.py"


def test_every_configuration_key_says_what_it_is_for_and_what_is_allowed() -> None:
    for table in (config.DaemonSection, config.GuestSection, config.UnitSection, config.EmulatedSection):
        for field in msgspec.structs.fields(table):
            assert config.field_description(field), field.name
            assert config.field_allowed(field), field.name
            assert config.field_default(field), field.name


def _commands(command: click.Command, name: str) -> list[tuple[str, click.Command]]:
    children = command.commands.items() if isinstance(command, click.Group) else ()
    return [(name, command), *(found for key, child in children for found in _commands(child, f"{name} {key}"))]


@pytest.mark.parametrize(
    ("name", "command"), _commands(main, "pyproxy"), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_command_and_option_is_documented(name: str, command: click.Command) -> None:
    text = (DOCS / "cli.md").read_text()
    assert f"## `{name}`\n" in text, "run: python docs/generate.py"
    section = " ".join(text.split(f"## `{name}`\n")[1].split("\n## ")[0].split())
    assert " ".join((command.help or "").split("\n\n")[0].split()) in section
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert all(option in section for option in parameter.opts)
            assert " ".join((parameter.help or "").split()) in section


def test_the_example_configuration_is_valid() -> None:
    checked = config.load(DOCS.parent / "deploy" / "pyproxy.toml", {})
    assert [guest.name for guest in checked.guest] == ["db"]
