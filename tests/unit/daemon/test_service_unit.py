"""The systemd units say what the daemon does."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from pyproxy import config
from pyproxy.cli.main import main

DEPLOY = Path(__file__).parents[3] / "deploy"


def settings(unit: str = "pyproxy.service") -> dict[str, dict[str, list[str]]]:
    """Section -> key -> values; systemd lets keys repeat."""
    found: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd" / unit).read_text(encoding="ascii").splitlines():
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return found


def test_its_commands_exist() -> None:
    service = settings()["Service"]
    for key in ("ExecStart", "ExecStartPre"):
        ((program, *arguments),) = [shlex.split(value) for value in service[key]]
        assert Path(program).name == "pyproxy"
        assert CliRunner().invoke(main, [*arguments, "--help"]).exit_code == 0
    assert service["ExecReload"] == ["/bin/kill -HUP $MAINPID"]


def test_it_waits_to_be_told_and_gives_what_is_needed() -> None:
    service = settings()["Service"]
    assert service["Type"] == ["notify"]
    assert int(service["WatchdogSec"][0]) > 0
    # The defaults of runtime_dir (/run/pyproxy) and state_dir (/var/lib/pyproxy), closed to others.
    assert (service["RuntimeDirectory"], service["RuntimeDirectoryMode"]) == (["pyproxy"], ["0700"])
    assert (service["StateDirectory"], service["StateDirectoryMode"]) == (["pyproxy"], ["0700"])
    assert service["DeviceAllow"] == ["char-sg rw", "block-sd rw", "char-bsg rw"]
    assert service["CapabilityBoundingSet"] == ["CAP_SYS_RAWIO"]
    assert int(service["TimeoutStopSec"][0]) > 60 + 5 + 1


def test_it_is_hardened() -> None:
    service = settings()["Service"]
    for key in (
        "NoNewPrivileges",
        "ProtectHome",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "PrivateNetwork",
        "RestrictNamespaces",
        "MemoryDenyWriteExecute",
    ):
        assert service[key] == ["yes"], key
    assert service["ProtectSystem"] == ["strict"]
    assert service["RestrictAddressFamilies"] == ["AF_UNIX AF_NETLINK"]


@pytest.mark.parametrize("more", [(), ("network.conf",)])
def test_systemd_rates_it_below_3(tmp_path: Path, more: tuple[str, ...]) -> None:
    """With the drop-in that lets it into the network, too."""
    unit = tmp_path / "pyproxy.service"
    unit.write_bytes(b"\n".join((DEPLOY / "systemd" / name).read_bytes() for name in ("pyproxy.service", *more)))
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=29", str(unit)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-200:] + done.stderr


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    """Nothing is told but that what they start is not installed here."""
    for name in ("pyproxy.service", "pyproxy-pr@.socket"):
        shutil.copy(DEPLOY / "systemd" / name, tmp_path)
    (tmp_path / "pyproxy-pr@.socket").rename(tmp_path / "pyproxy-pr@db.socket")
    units = [str(tmp_path / "pyproxy.service"), str(tmp_path / "pyproxy-pr@db.socket")]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
    told = [line for line in done.stderr.splitlines() if str(tmp_path) in line or line.startswith("pyproxy")]
    assert [line for line in told if "/usr/bin/pyproxy is not executable" not in line] == []


def test_its_user_and_directories(tmp_path: Path) -> None:
    """What the units name is what sysusers and tmpfiles make, in a root of their own."""
    (tmp_path / "etc").mkdir()
    root = f"--root={tmp_path}"
    subprocess.run(["systemd-sysusers", root, str(DEPLOY / "sysusers.d" / "pyproxy.conf")], check=True)
    made = subprocess.run(
        ["systemd-tmpfiles", "--create", root, str(DEPLOY / "tmpfiles.d" / "pyproxy.conf")],
        capture_output=True,
        text=True,
    )
    assert (made.returncode, made.stderr) == (0, "")
    service = settings()["Service"]
    users = (tmp_path / "etc" / "passwd").read_text(encoding="ascii")
    groups = (tmp_path / "etc" / "group").read_text(encoding="ascii")
    assert service["User"][0] in users
    for group in (service["Group"][0], *service["SupplementaryGroups"][0].split()):
        assert f"{group}:" in groups
    shared = tmp_path / service["ReadWritePaths"][0].lstrip("-/")
    assert shared.stat().st_mode & 0o777 == 0o755


def test_udev_understands_the_rules() -> None:
    rules = (DEPLOY / "udev" / "60-pyproxy.rules").read_text(encoding="ascii")
    assert 'GROUP="disk"' in rules
    told = subprocess.run(["udevadm", "--version"], capture_output=True, text=True, check=True)
    assert int(told.stdout) > 0


def test_a_helper_socket_is_named_after_its_guest() -> None:
    made = settings("pyproxy-pr@.socket")["Socket"]
    assert made["FileDescriptorName"] == ["%i"]
    assert made["Service"] == ["pyproxy.service"]
    # What pyproxy gives its own sockets (docs/pr-helper.md), and the path and group of the example configuration.
    assert made["SocketMode"] == ["0660"]
    (guest,) = config.load(DEPLOY / "pyproxy.toml", {}).guest
    assert guest.pr_helper is not None
    assert made["ListenStream"] == [str(guest.pr_helper.socket).replace(guest.name, "%i")]
    assert made["SocketGroup"] == [guest.pr_helper.group]
