"""The commands: exit statuses, one sentence on standard error, JSON, help."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from pyproxy import __version__
from pyproxy.cli.main import main
from pyproxy.cli.output import size_text

CONFIG = """
[daemon]
host_name = "h"
runtime_dir = "{0}/run"
state_dir = "{0}/state"
[[guest]]
name = "web"
[[guest.unit]]
lun = 0
emulated = {{ size = "1MiB", path = "{0}/unit.img" }}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "pyproxy.toml"
    file.write_text(CONFIG.format(tmp_path))
    return file


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="pyproxy")


def commands(command: click.Command = main, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path]
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            found += commands(child, (*path, name))
    return found


@pytest.mark.parametrize("path", commands(), ids=lambda path: " ".join(path) or "pyproxy")
def test_every_command_has_help_with_an_example(path: tuple[str, ...]) -> None:
    told = run(*path, "--help")
    assert told.exit_code == 0
    assert "pyproxy " in told.output.split("Options:")[-1] or path == ("pr",)
    assert "Usage: pyproxy" in told.output


def test_version() -> None:
    assert run("--version").output == f"pyproxy {__version__}\n"


def test_help_is_quick() -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pyproxy", "--help"], capture_output=True, text=True, check=True
    )
    assert time.monotonic() - began < 5
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "click" in imported
    assert imported.isdisjoint({"aiohttp", "rich.console", "sqlite3", "msgspec", "_fastpath.cdb"})


WRONG_USE = [
    ["--nonsense"],
    ["nonsense"],
    ["status", "extra"],
    ["pr"],
    ["pr", "keys"],
    ["checkpoint"],
    ["checkpoint", "web", "--lun", "x"],
    ["checkpoint", "web", "--lun", "16384"],
    ["restore"],
    ["restore", "x.json", "--source", "/dev/sg1", "--source-dead"],
    ["inspect"],
    ["adopt", "web"],
    ["adopt", "web", "0", "--key", "0"],
    ["adopt", "web", "0", "--key", "key"],
    ["adopt", "web", "0", "--key", "0x10000000000000000"],
]


@pytest.mark.parametrize("arguments", WRONG_USE, ids=" ".join)
def test_wrong_use_is_exit_status_2(arguments: list[str]) -> None:
    told = run(*arguments)
    assert told.exit_code == 2
    assert "Usage:" in told.stderr


def test_expected_failures_are_one_sentence_and_exit_status_1(config: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("[[guest]]\n")
    text = tmp_path / "text.json"
    text.write_text("hello")
    cases: list[tuple[list[object], str]] = [
        (["--config", tmp_path / "none.toml", "status"], "none.toml: cannot be read: No such file or directory"),
        (["--config", broken, "serve"], "broken.toml: guest[0].name: is required"),
        (["check-config", broken], "broken.toml: guest[0].name: is required"),
        (["--config", config, "checkpoint", "db"], "there is no guest db"),
        (["--config", config, "checkpoint", "web", "--lun", 1], "guest web has no LUN 1"),
        (
            ["--config", config, "checkpoint", "web", "-o", tmp_path / "no" / "x.json"],
            "no/x.json: the checkpoint cannot be",
        ),
        (["--config", config, "pr", "keys", "web"], '"web" is neither the path of a device node nor GUEST/LUN'),
        (["--config", config, "pr", "keys", "web/1"], "guest web has no LUN 1"),
        (["--config", config, "pr", "keys", "/dev/null"], "/dev/null"),
        (["--config", config, "pr", "capabilities", tmp_path / "absent"], "absent"),
        (["inspect", tmp_path / "absent.json"], "absent.json: No such file or directory"),
        (["inspect", text], "text.json"),
        (["--config", config, "restore", text], "text.json"),
    ]
    for arguments, words in cases:
        told = run(*arguments)
        assert told.exit_code == 1, (arguments, told.output)
        assert words in told.stderr, (arguments, told.stderr)
        assert "Traceback" not in told.output
        assert told.stdout == ""
        assert all(line.startswith("pyproxy: ") or ".toml: " in line for line in told.stderr.splitlines())


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    def broken(_: object) -> None:
        raise KeyError("defect")

    monkeypatch.setattr("pyproxy.daemon.local.LocalOperations.status", broken)
    told = run("--config", config, "status")
    assert isinstance(told.exception, KeyError)


def test_check_config(config: Path) -> None:
    assert run("check-config", config).output == f"{config}: valid, 1 guest, 1 logical unit\n"
    assert run("--config", config, "check-config").exit_code == 0


def test_status_of_units(config: Path) -> None:
    told = json.loads(run("--config", config, "status", "--json").output)
    assert (told["daemon"], told["host"], told["version"]) == (False, "h", __version__)
    assert told["guests"][0]["units"][0]["registered"] is False
    for_people = run("--config", config, "status").output
    assert "no daemon runs" in for_people
    assert "web" in for_people


def test_adopting_without_a_daemon(config: Path) -> None:
    done = run("--config", config, "adopt", "web", 0)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("guest web LUN 0: not registered: READ FULL STATUS does not list its TransportID")
    wrong = run("--config", config, "adopt", "web", 0, "--key", "0xC0FFEE")
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert wrong.stderr == (
        "pyproxy: guest web LUN 0: no nexus is registered with key 0x0000000000c0ffee; pyproxy pr keys shows those "
        "that are\n"
    )


def test_devices_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyproxy.device.discover.list_devices", list)
    assert "no SCSI devices" in run("devices").output
    assert json.loads(run("devices", "--json").output) == []


def test_devices_are_listed_with_what_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyproxy.device.discover import ListedDevice
    from pyproxy.scsi.constants import PrType
    from pyproxy.scsi.pr_in import ReportCapabilities

    able = ReportCapabilities(ptpl_a=True, tmv=True, types=frozenset({PrType.WRITE_EXCLUSIVE, PrType.EXCLUSIVE_ACCESS}))
    found = [
        ListedDevice("0:0:0:0", 0, "LIO-ORG", "disk", "4.0", ("/dev/sg0",), "naa.6001", True, 1 << 30, 512, able),
        ListedDevice("0:0:1:0", 0, "ACME", "disk", "1", ("/dev/sg1",), error="does not answer"),
    ]
    monkeypatch.setattr("pyproxy.device.discover.list_devices", lambda: found)
    told = json.loads(run("devices", "--json").output)
    assert [device["address"] for device in told] == ["0:0:0:0", "0:0:1:0"]
    assert told[0]["capabilities"]["types"] == [1, 3]
    assert told[1]["error"] == "does not answer"
    for_people = run("devices").output
    assert "types 1, 3; kept through power loss" in for_people
    assert "1.0 GiB" in for_people
    assert "does not answer" in for_people


def test_checkpoint_inspect_and_restore_of_a_guest(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "web.json"
    assert run("--config", config, "checkpoint", "web", "-o", file).exit_code == 0
    assert run("--config", config, "checkpoint", "web").stdout.startswith('{\n  "format": "pyproxy-checkpoint"')
    told = run("inspect", file)
    assert told.exit_code == 0
    assert "valid checkpoint" in told.output
    assert json.loads(run("inspect", file, "--json").output) == json.loads(file.read_text())
    done = run("--config", config, "restore", file, "--json")
    assert (done.exit_code, json.loads(done.stdout)["decision"]) == (0, "not_registered")
    again = run("--config", config, "restore", file)
    assert again.exit_code == 0
    assert "already done" in again.stdout


DAMAGE: list[tuple[str, Any, str]] = [
    ("truncated", lambda text: text[: len(text) // 2], "ends"),
    ("wrong digest", lambda text: text.replace('"lun": 0', '"lun": 1'), "digest"),
    ("newer version", lambda text: text.replace('"version": 1', '"version": 2'), "newer"),
    ("another document", lambda text: '{"format": "other"}', "not a checkpoint"),
    ("empty", lambda text: "", ""),
]


@pytest.mark.parametrize(("damage", "words"), [row[1:] for row in DAMAGE], ids=[row[0] for row in DAMAGE])
def test_a_damaged_checkpoint_is_refused(config: Path, tmp_path: Path, damage: Any, words: str) -> None:
    file = tmp_path / "web.json"
    run("--config", config, "checkpoint", "web", "-o", file)
    file.write_text(damage(file.read_text()))
    for arguments in (["inspect", file], ["--config", config, "restore", file, "--source-dead"]):
        told = run(*arguments)
        assert told.exit_code == 1
        assert words in told.stderr
        assert told.stderr.startswith(f"pyproxy: {file}: ")
        assert len(told.stderr.splitlines()) == 1


def test_a_refused_restore_tells_why_and_is_exit_status_1(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "web.json"
    run("--config", config, "checkpoint", "web", "-o", file)
    other = tmp_path / "other"
    other.mkdir()
    (other / "pyproxy.toml").write_text(CONFIG.format(other))
    told = run("--config", other / "pyproxy.toml", "restore", file, "--source-dead", "--json")
    assert told.exit_code == 1
    assert json.loads(told.stdout)["decision"] == "wrong_unit"
    assert told.stderr.startswith("pyproxy: guest web on ")


def test_the_old_checkpoint_stays_when_a_new_one_cannot_be_written(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "out" / "web.json"
    file.parent.mkdir()
    run("--config", config, "status")
    file.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    told = run("--config", config, "checkpoint", "web", "-o", file)
    assert told.exit_code == 1
    assert told.stderr == f"pyproxy: {file}: the checkpoint cannot be written: No space left on device\n"
    assert file.read_text() == "old"
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 30, "1.0 GiB"), (5 << 50, "5120.0 TiB")]
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert size_text(size) == text
