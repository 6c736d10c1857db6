"""The systemd units say what the daemon does."""

from __future__ import annotations

import shlex
from pathlib import Path

from click.testing import CliRunner

from pyproxy import config
from pyproxy.cli.main import main

DEPLOY = Path(__file__).parents[3] / "deploy"


def settings(unit: str = "pyproxy.service") -> dict[str, dict[str, list[str]]]:
    """Section -> key -> values; systemd lets keys repeat."""
    found: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    for line in (DEPLOY / unit).read_text(encoding="ascii").splitlines():
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
    assert service["RestrictAddressFamilies"] == ["AF_UNIX"]


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
