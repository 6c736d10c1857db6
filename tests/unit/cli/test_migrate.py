"""``pyproxy migrate``: what is asked for wrongly, and without a daemon."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pyproxy.cli.main import main


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    file = tmp_path / "pyproxy.toml"
    file.write_text(
        f'''
[daemon]
host_name = "a"
state_dir = "{tmp_path}/state"
runtime_dir = "{tmp_path}/run"

[[guest]]
name = "db"

[[guest.unit]]
lun = 0
emulated = {{ size = "1MiB" }}

[migration]

[[peer]]
name = "b"
address = "{tmp_path}/b.sock"
''',
        encoding="utf-8",
    )
    return file


def run(configuration: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["--config", str(configuration), "migrate", *words], prog_name="pyproxy")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "Name the guest"),
        (("db",), "Say what to do"),
        (("db", "--to", "b", "--cancel"), "--to and --cancel exclude each other"),
        (("db", "--source-dead", "--status"), "--status and --source-dead exclude each other"),
        (("db", "--now", "--cancel"), "--now and --cancel exclude each other"),
        (("db", "--to", "b", "--destination-dead"), "--destination-dead goes with --cancel"),
        (("db", "--from", "b", "--to", "b"), "--to and --from exclude each other"),
        (("db", "--withdraw", "--now"), "--now and --withdraw exclude each other"),
        (("db", "--now", "--qmp", "/q"), "--qmp goes with --to"),
        (("db", "--to", "b", "--uri", "tcp:b:1"), "--uri goes with --qmp"),
    ],
)
def test_wrong_use(configuration: Path, words: tuple[str, ...], told: str) -> None:
    result = run(configuration, *words)
    assert result.exit_code == 2
    assert told in result.output


@pytest.mark.parametrize(
    "words", [("--to", "b"), ("--from", "any"), ("--now",), ("--cancel",), ("--withdraw",), ("--source-dead",)]
)
def test_without_a_daemon(configuration: Path, words: tuple[str, ...]) -> None:
    result = run(configuration, "db", *words)
    assert result.exit_code == 1
    assert "no daemon runs here" in result.output
    assert "pyproxy serve" in result.output


def test_nothing_is_known(configuration: Path) -> None:
    result = run(configuration, "--status")
    assert (result.exit_code, result.output) == (0, "no migrations\n")
    result = run(configuration, "db", "--status", "--json")
    assert json.loads(result.output) == {"migrations": []}


def test_no_such_guest(configuration: Path) -> None:
    result = run(configuration, "web", "--to", "b")
    assert result.exit_code == 1
    assert "there is no guest web" in result.output
