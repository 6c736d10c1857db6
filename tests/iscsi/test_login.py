"""Logging in: CHAP right and wrong, wrong portal, target and LUN, and that every refusal says what to do."""

from __future__ import annotations

import errno
import logging
import socket
import threading
import time
from pathlib import Path

import pytest

from _fastpath.iscsi import has_data_digest
from pyproxy.device.base import TransportError
from pyproxy.device.iscsi_settings import IscsiError
from tests.iscsi.commands import TEST_UNIT_READY
from tests.iscsi.conftest import Open
from tests.rig.ports import free_port
from tests.rig.tgt import TgtTarget

SECRET, WRONG, TARGETS = "correct-horse-1", "battery-staple-2", "other-direction-3"


@pytest.fixture
def secrets(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for name, secret in (("right", SECRET), ("wrong", WRONG), ("target", TARGETS)):
        path = tmp_path / f"{name}.secret"
        path.touch(mode=0o600)
        path.write_text(f"{secret}\n", encoding="ascii")
        found[name] = path
    return found


def test_chap(target: TgtTarget, open_device: Open, secrets: dict[str, Path]) -> None:
    target.require_chap("db", SECRET)
    device = open_device(chap_user="db", chap_secret_file=secrets["right"])
    assert device.execute(TEST_UNIT_READY).good


@pytest.mark.parametrize(("user", "file"), [("db", "wrong"), ("nobody", "right"), (None, None)])
def test_chap_refused(
    target: TgtTarget, open_device: Open, secrets: dict[str, Path], user: str | None, file: str | None
) -> None:
    target.require_chap("db", SECRET)
    with pytest.raises(IscsiError) as raised:
        open_device(chap_user=user, chap_secret_file=secrets[file] if file else None)
    assert raised.value.errno == errno.EACCES
    assert "Authentication failure" in str(raised.value)
    assert "check chap_user and chap_secret_file" in str(raised.value)


def test_chap_of_both_sides(target: TgtTarget, open_device: Open, secrets: dict[str, Path]) -> None:
    target.require_chap("db", SECRET, outgoing=("array", TARGETS))
    chap = {"chap_user": "db", "chap_secret_file": secrets["right"], "chap_target_user": "array"}
    assert open_device(**chap, chap_target_secret_file=secrets["target"]).execute(TEST_UNIT_READY).good
    with pytest.raises(IscsiError, match="Invalid CHAP_R"):
        open_device(**chap, chap_target_secret_file=secrets["wrong"])


def test_target_that_does_not_prove_itself(target: TgtTarget, open_device: Open, secrets: dict[str, Path]) -> None:
    target.require_chap("db", SECRET)
    with pytest.raises(IscsiError, match="refused the login"):
        open_device(
            chap_user="db",
            chap_secret_file=secrets["right"],
            chap_target_user="array",
            chap_target_secret_file=secrets["target"],
        )


def test_secret_is_said_nowhere(
    target: TgtTarget, open_device: Open, secrets: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    target.require_chap("db", SECRET)
    with pytest.raises(IscsiError) as raised:
        open_device(chap_user="db", chap_secret_file=secrets["wrong"])
    for text in (str(raised.value), repr(raised.value), caplog.text, Path("/proc/self/cmdline").read_text("latin-1")):
        assert SECRET not in text
        assert WRONG not in text


def test_nobody_listens_at_the_portal(open_device: Open) -> None:
    with pytest.raises(IscsiError) as raised:
        open_device(portal=f"127.0.0.1:{free_port()}")
    assert raised.value.errno == errno.EHOSTUNREACH
    assert "Connection refused" in str(raised.value)
    assert "the URL names its portal" in str(raised.value)


def test_portal_that_does_not_resolve(open_device: Open) -> None:
    with pytest.raises(IscsiError, match="no connection to the portal"):
        open_device(portal="no-such-host.invalid:3260")


def test_portal_that_accepts_and_says_nothing(open_device: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        began = time.monotonic()
        with pytest.raises(IscsiError, match="not done in time") as raised:
            open_device(portal=f"127.0.0.1:{mute.getsockname()[1]}", connect_seconds=1)
        assert raised.value.errno == errno.ETIMEDOUT
        assert 0.9 <= time.monotonic() - began < 30


def test_portal_that_hangs_up(open_device: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)

        def hang_up() -> None:
            accepted, _ = server.accept()
            accepted.recv(48)
            accepted.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(IscsiError, match=r"refused the login|no connection"):
            open_device(portal=f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()


def test_unknown_target(target: TgtTarget, open_device: Open) -> None:
    with pytest.raises(IscsiError) as raised:
        open_device(url=f"iscsi://{target.portal}/iqn.2026-01.org.example:nothing/1")
    assert raised.value.errno == errno.EACCES
    assert "Target not found" in str(raised.value)
    assert "check the target's name in the URL" in str(raised.value)


def test_unknown_lun(target: TgtTarget, open_device: Open) -> None:
    with pytest.raises(IscsiError) as raised:
        open_device(lun=9)
    assert raised.value.errno == errno.ENODEV
    assert "has no logical unit 9 for initiator iqn.2026-01.org.example:host-a" in str(raised.value)
    assert target.sessions() == [], "no session is left behind"


def test_data_digest_that_the_library_lacks(open_device: Open) -> None:
    if has_data_digest():
        assert open_device(data_digest=True, header_digest=True).execute(TEST_UNIT_READY).good
    else:
        with pytest.raises(TransportError, match=r"newer than 1\.19"):
            open_device(data_digest=True)


def test_redirected_login(target: TgtTarget, open_device: Open) -> None:
    """A portal that says "target moved temporarily" (status 0101h, RFC 7143 11.13.5) is followed."""
    with Redirecting(target.portal) as portal:
        device = open_device(portal=portal)
        assert device.execute(TEST_UNIT_READY).good
        assert target.sessions() == ["iqn.2026-01.org.example:host-a"]


def test_redirections_in_a_circle_end(open_device: Open) -> None:
    with Redirecting(None) as portal, pytest.raises(IscsiError, match="refused the login"):
        open_device(portal=portal)


class Redirecting:
    """A portal that sends every initiator to ``portal``, or to itself for None."""

    def __init__(self, portal: str | None) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._own = f"127.0.0.1:{self._server.getsockname()[1]}"
        self._to = portal or self._own
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> str:
        self._thread.start()
        return self._own

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                initiator, _ = self._server.accept()
            except OSError:
                return
            with initiator:
                request = initiator.recv(65536)
                text = f"TargetAddress={self._to},1\0".encode()
                header = bytearray(48)
                header[0:2] = b"\x23\x00"
                header[5:8] = len(text).to_bytes(3)
                header[8:14], header[16:20] = request[8:14], request[16:20]
                header[36:38] = b"\x01\x01"
                initiator.sendall(bytes(header) + text.ljust(-(-len(text) // 4) * 4, b"\0"))
                initiator.recv(1)
