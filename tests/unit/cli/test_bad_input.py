"""Bad input and devices that vanish: one clear line on standard error, the right exit status, the device untouched.

Two hosts use one emulated unit in a file, one after the other; guest ``web`` holds a reservation through host-a.
"""

from __future__ import annotations

import contextlib
import errno
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pyproxy import config
from pyproxy.cli.main import main
from pyproxy.daemon.host import Host
from pyproxy.device.base import TransportError
from pyproxy.device.emulated import EmulatedNexus
from pyproxy.scsi.command import Command
from pyproxy.scsi.command import Result as Answer

KEY = 0x1122334455667788
PORTS = {"host-a": "sas:500140500000000a", "host-b": "sas:500140500000000b"}
GONE = "the device is gone; attach it again"
CONFIG = """
[daemon]
host_name = "{name}"
runtime_dir = "{directory}/{name}/run"
state_dir = "{directory}/{name}/state"
[[guest]]
name = "web"
[[guest.unit]]
lun = 0
initiator = "{port}"
emulated = {{ size = "1MiB", path = "{directory}/{unit}" }}
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="pyproxy")


def line_of(told: Result) -> str:
    """The one line of a command that failed as it should, with exit status 1."""
    assert isinstance(told.exception, SystemExit), f"ended with {told.exception!r}"
    assert (told.exit_code, told.stdout) == (1, "")
    (line,) = told.stderr.splitlines()
    return line


def persistent_reserve_out(action: int, *, key: int = 0, sa_key: int = 0, kind: int = 0) -> Command:
    # APTPL, as each run of a command opens the unit anew, which to the unit is a power cycle.
    body = struct.pack(">QQ4xB3x", key, sa_key, action == 6)
    return Command(struct.pack(">BBB2xIx", 0x5F, action, kind, len(body)), data_out=body)


class Scene:
    """Both hosts' configurations and the unit, which holds the guest's reservation."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.host_a, self.host_b = self.configure("host-a"), self.configure("host-b")
        self.checkpoint = directory / "web.json"
        with contextlib.closing(Host(config.load(self.host_a))) as host:
            unit = host.unit("web", 0)
            assert unit.execute(Command(bytes(6))).decoded_sense.code == (0x6, 0x29, 0x01)
            assert unit.execute(persistent_reserve_out(6, sa_key=KEY)).good
            assert unit.execute(persistent_reserve_out(1, key=KEY, kind=1)).good
        assert self.shown() == ({"host-a": KEY}, "host-a")

    def configure(self, name: str, unit: str = "unit.img") -> Path:
        file = self.directory / f"{name}.toml"
        file.write_text(CONFIG.format(name=name, directory=self.directory, port=PORTS[name], unit=unit))
        return file

    def take_checkpoint(self) -> None:
        assert run("--config", self.host_a, "checkpoint", "web", "-o", self.checkpoint).exit_code == 0

    def restore(self) -> Result:
        return run("--config", self.host_b, "restore", self.checkpoint, "--source-dead")

    def device(self) -> tuple[bytes, bytes]:
        """Medium and reservations as they are on disk."""
        return (self.directory / "unit.img").read_bytes(), (self.directory / "unit.img.state").read_bytes()

    def shown(self) -> tuple[dict[str, int], str]:
        """Host -> registered key, and the host that holds the reservation."""
        unit = json.loads(self.device()[1])["unit"]
        hosts = {port: name for name, port in PORTS.items()}
        registered = {hosts[one["initiator"]]: int(one["key"], 16) for one in unit["registrations"]}
        return registered, hosts[unit["reservation"]["holder"]["initiator"]]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


# --- configuration ---

MALFORMED = {
    "not TOML": ("[[guest", "is not valid TOML: "),
    "unknown key": (
        CONFIG.replace("lun = 0", "lun = 0\nluns = 1"),
        "guest[0].unit[0].luns: is not a known key: did yo",
    ),
    "wrong value": (CONFIG.replace("lun = 0", "lun = -1"), "guest[0].unit[0].lun: -1 is not allowed, expected"),
    "no unit": (CONFIG.partition("[[guest.unit]]")[0], "guest[0].unit: is required"),
}


@pytest.mark.parametrize("text_and_words", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize(
    "arguments",
    [["serve"], ["status"], ["checkpoint", "web"], ["restore", "web.json", "--source-dead"], ["pr", "keys", "web/0"]],
    ids=lambda arguments: arguments[0],
)
def test_malformed_configuration_opens_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, arguments: list[str], text_and_words: tuple[str, str]
) -> None:
    scene.take_checkpoint()
    monkeypatch.chdir(scene.directory)
    text, words = text_and_words
    port = PORTS["host-b"]
    scene.host_b.write_text(text.format(name="host-b", directory=scene.directory, port=port, unit="unit.img"))
    before = scene.device()
    line = line_of(run("--config", scene.host_b, *arguments))
    assert line.startswith(f"pyproxy: {scene.host_b}: ")
    assert words in line
    assert scene.device() == before
    assert not (scene.directory / "host-b").exists()


def test_a_real_process_leaves_no_traceback(scene: Scene) -> None:
    scene.host_b.write_bytes(b"\xff\xfe")
    words = [sys.executable, "-m", "pyproxy", "--config", str(scene.host_b), "status"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"pyproxy: {scene.host_b}: is not UTF-8 text (byte 0)\n"


# --- checkpoints ---

BAD_CHECKPOINTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "wrong digest": (lambda data: data.replace(b'"type": 1', b'"type": 3', 1), "the digest does not match"),
    "newer version": (lambda data: data.replace(b'"version": 1', b'"version": 7'), "version 7 was written by a newer"),
    "truncated": (lambda data: data[:-100], "inside the document; copy it again"),
    "one byte short": (lambda data: data.rstrip()[:-1], "inside the document; copy it again"),
    "bytes": (lambda data: b"\x00\xff" * 512, "this is not JSON"),
    "too large": (lambda data: data + b" " * (1 << 20), "more than a checkpoint can have"),
}


@pytest.mark.parametrize(("damage", "words"), BAD_CHECKPOINTS.values(), ids=BAD_CHECKPOINTS)
def test_a_bad_checkpoint_sends_nothing_to_the_device(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes], words: str
) -> None:
    scene.take_checkpoint()
    scene.checkpoint.write_bytes(damage(scene.checkpoint.read_bytes()))
    monkeypatch.setattr(EmulatedNexus, "execute", None)
    line = line_of(scene.restore())
    assert line.startswith(f"pyproxy: {scene.checkpoint}: ")
    assert words in line
    assert scene.shown() == ({"host-a": KEY}, "host-a")
    assert not (scene.directory / "host-b").exists()


def test_a_checkpoint_of_another_unit_changes_neither(scene: Scene) -> None:
    scene.take_checkpoint()
    scene.host_b = scene.configure("host-b", unit="other.img")
    assert run("--config", scene.host_b, "status").exit_code == 0
    files = [scene.directory / f"{name}.img{more}" for name in ("unit", "other") for more in ("", ".state")]
    before = [file.read_bytes() for file in files]
    line = line_of(scene.restore())
    assert "REFUSED" in line
    assert "the checkpoint is of naa." in line
    assert "give a path to the right unit" in line
    assert [file.read_bytes() for file in files] == before


# --- devices that vanish ---


class Vanishing:
    """Makes the unit vanish with a command, counted from 1 among those that ``counts`` picks, until it is back.

    ``executed`` is whether the command reached it before.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, counts: Callable[[Command], bool], at: int, *, executed: bool = False
    ) -> None:
        self.gone = False
        left = at
        execute = EmulatedNexus.execute

        def stub(nexus: EmulatedNexus, command: Command) -> Answer:
            nonlocal left
            fate_unknown = False
            if not self.gone and counts(command):
                left -= 1
                self.gone = left == 0
                if self.gone and executed:
                    execute(nexus, command)
                    fate_unknown = True
            if self.gone:
                raise TransportError(errno.ENODEV, f"{nexus.name}: {GONE}", fate_unknown=fate_unknown)
            return execute(nexus, command)

        self._back = lambda: monkeypatch.setattr(EmulatedNexus, "execute", execute)
        monkeypatch.setattr(EmulatedNexus, "execute", stub)

    def back(self) -> None:
        self._back()


def any_command(_: Command) -> bool:
    return True


def is_persistent_reserve_out(command: Command) -> bool:
    return command.cdb[0] == 0x5F


def test_vanishing_at_any_command_of_a_checkpoint(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    before = scene.device()
    for at in range(1, 100):
        vanishing = Vanishing(monkeypatch, any_command, at)
        told = run("--config", scene.host_a, "checkpoint", "web", "-o", scene.checkpoint)
        vanishing.back()
        if not vanishing.gone:
            break
        line = line_of(told)
        assert line.startswith("pyproxy: ")
        assert line.endswith(GONE) or GONE in line
        assert not scene.checkpoint.exists()
        assert scene.device() == before
    assert at > 4
    assert told.exit_code == 0
    assert scene.checkpoint.exists()


@pytest.mark.parametrize("what", ["keys", "reservation", "status", "capabilities"])
def test_vanishing_while_reservations_are_read(scene: Scene, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    vanishing = Vanishing(monkeypatch, lambda command: command.cdb[0] == 0x5E, 1)
    line = line_of(run("--config", scene.host_a, "pr", what, "web/0"))
    assert vanishing.gone
    assert GONE in line


def test_vanishing_before_the_first_change_of_a_restore_changes_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.take_checkpoint()
    before = scene.device()
    for at in range(1, 100):
        sent: list[int] = []

        def any_but_changes(command: Command, sent: list[int] = sent) -> bool:
            sent.append(command.cdb[0])
            return 0x5F not in sent

        vanishing = Vanishing(monkeypatch, any_but_changes, at)
        told = scene.restore()
        vanishing.back()
        if not vanishing.gone:
            break
        line = line_of(told)
        assert GONE in line
        assert scene.device() == before
    assert at > 6
    assert told.exit_code == 0, told.output
    assert scene.shown() == ({"host-b": KEY}, "host-b")


@pytest.mark.parametrize("executed", [False, True], ids=["not-sent", "executed"])
def test_vanishing_between_the_changes_of_a_restore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executed: bool
) -> None:
    for at in range(1, 20):
        scene = Scene(tmp_path / str(at))
        scene.take_checkpoint()
        before = scene.device()
        vanishing = Vanishing(monkeypatch, is_persistent_reserve_out, at, executed=executed)
        told = scene.restore()
        vanishing.back()
        if not vanishing.gone:
            break
        line = line_of(told)
        assert "NOT FINISHED" in line
        assert GONE in line
        assert (scene.device() == before) == (at == 1 and not executed)
        # The reservation lapses at no point, and the same command finishes once the device is back.
        assert scene.shown()[1] in PORTS
        again = scene.restore()
        assert again.exit_code == 0, again.output
        assert scene.shown() == ({"host-b": KEY}, "host-b")
    assert at > 2
    assert told.exit_code == 0, told.output
