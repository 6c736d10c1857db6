"""What an iSCSI unit may be configured with, and what is derived from it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.device.iscsi_settings import (
    ChapSecrets,
    IscsiError,
    IscsiSettings,
    IscsiUrl,
    derive_isid,
    normal_name,
    parse_isid,
    problem_of,
    read_secret,
    read_secrets,
)

URL = "iscsi://192.0.2.1/iqn.2026-01.org.example:disk/0"
NAME = "iqn.2026-01.org.example:host"


@pytest.mark.parametrize(
    ("text", "portal", "target", "lun"),
    [
        (URL, "192.0.2.1:3260", "iqn.2026-01.org.example:disk", 0),
        ("iscsi://san.example:860/IQN.2026-01.org.Example:Disk/16383", "san.example:860", NAME[:24] + "disk", 16383),
        ("iscsi://[2001:db8::1]/eui.0123456789abcdef/7", "[2001:db8::1]:3260", "eui.0123456789abcdef", 7),
        ("iscsi://[fe80::1%eth0]:3261/naa.52004567BA64678D/7", "[fe80::1%eth0]:3261", "naa.52004567ba64678d", 7),
    ],
)
def test_url(text: str, portal: str, target: str, lun: int) -> None:
    url = IscsiUrl.parse(text)
    assert url == (portal, target, lun)
    assert IscsiUrl.parse(str(url)) == url


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("iscsi://192.0.2.1/iqn.2026-01.org.example:disk", "not of the form"),
        ("http://192.0.2.1/iqn.2026-01.org.example:disk/0", "not of the form"),
        ("iscsi://user%secret@192.0.2.1/iqn.2026-01.org.example:disk/0", "chap_secret_file"),
        ("iscsi://192.0.2.1:0/iqn.2026-01.org.example:disk/0", "port 0"),
        ("iscsi://192.0.2.1:65536/iqn.2026-01.org.example:disk/0", "port 65536"),
        ("iscsi://192.0.2.1/iqn.2026-01.org.example:disk/16384", "LUN 16384"),
        ("iscsi://192.0.2.1/disk/0", "no iSCSI name"),
        ("iscsi://192.0.2.1/iqn.2026-01.org.example:disk/0?header_digest=crc32c", "not of the form"),
        ("iscsi://2001:db8::1/iqn.2026-01.org.example:disk/0", "not of the form"),
        ("", "not of the form"),
    ],
)
def test_url_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as raised:
        IscsiUrl.parse(text)
    assert "secret@" not in str(raised.value)


@given(st.text())
def test_any_text_is_a_url_or_refused(text: str) -> None:
    try:
        url = IscsiUrl.parse(text)
    except ValueError:
        return
    assert IscsiUrl.parse(str(url)) == url


@pytest.mark.parametrize(
    "name", ["iqn.2026-01", "iqn.26-01.example", "a" * 300, "iqn.2026-01.org example", "", "naa.12"]
)
def test_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="no iSCSI name"):
        normal_name(name)


def test_name_too_long() -> None:
    with pytest.raises(ValueError, match="bytes long"):
        normal_name("iqn.2026-01.org.example:" + "x" * 200)


def test_isid_is_the_same_each_time_and_another_for_everything_else() -> None:
    # The first 5 bytes of SHA-256 of "host-a/db/0".
    assert derive_isid("host-a", "db", 0).hex()[:2] == "80"
    assert derive_isid("host-a", "db", 0) == derive_isid("host-a", "db", 0)
    others = {derive_isid(host, guest, lun) for host in "ab" for guest in "cd" for lun in range(50)}
    assert len(others) == 200


@pytest.mark.parametrize("text", ["00023d000001", "3fffffffffff", "400000000000", "80ABCDEF0123"])
def test_isid(text: str) -> None:
    assert parse_isid(text).hex() == text.lower()


@pytest.mark.parametrize("text", ["", "00023d00000", "00023d0000012", "00023d00000g", "410000000000", "c00000000000"])
def test_isid_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ISID"):
        parse_isid(text)


def settings(**changes: Any) -> IscsiSettings:
    files = {name: Path(value) for name, value in changes.items() if name.endswith("_file")}
    return IscsiSettings(**{"url": URL, "initiator": NAME, **changes, **files})


def test_nothing_wrong() -> None:
    assert problem_of(settings()) is None
    assert problem_of(settings(chap_user="u", chap_secret_file="/s", isid="00023d000001")) is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"url": "x"}, "not of the form"),
        ({"initiator": "x"}, "no iSCSI name"),
        ({"isid": "x"}, "ISID"),
        ({"chap_user": "u"}, "need each other"),
        ({"chap_secret_file": "/s"}, "need each other"),
        ({"chap_target_user": "t", "chap_target_secret_file": "/t"}, "needs chap_user"),
        ({"chap_user": "u", "chap_secret_file": "/s", "chap_target_user": "t"}, "need each other"),
        ({"chap_user": "u" * 256, "chap_secret_file": "/s"}, "1 to 255 bytes"),
        ({"chap_user": "", "chap_secret_file": "/s"}, "1 to 255 bytes"),
        ({"depth": 0}, "depth 0"),
        ({"depth": 129}, "depth 129"),
        ({"connect_seconds": 0}, "at least 1"),
        ({"abort_seconds": 0}, "at least 1"),
        ({"reconnect_seconds": -1}, "at least 0"),
        ({"nop_interval": -1}, "at least 0"),
        ({"nop_timeout": 0}, "at least 1"),
    ],
)
def test_problems(changes: dict[str, object], says: str) -> None:
    problem = problem_of(settings(**changes))
    assert problem is not None
    assert says in problem


# --- secrets ---


def secret_file(directory: Path, content: bytes, mode: int = 0o600, name: str = "secret") -> Path:
    path = directory / name
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("content", [b"twelve bytes", b"twelve bytes\n"])
@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_secret(tmp_path: Path, content: bytes, mode: int) -> None:
    assert read_secret(secret_file(tmp_path, content, mode)) == b"twelve bytes"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o777])
def test_secret_that_others_may_reach(tmp_path: Path, mode: int) -> None:
    path = secret_file(tmp_path, b"a secret", mode)
    with pytest.raises(IscsiError, match=rf"mode {mode:04o}.*chmod 600") as raised:
        read_secret(path)
    assert "a secret" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines\n", b"nul\0byte", b"x" * 256])
def test_secret_that_is_none(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(IscsiError, match="one line of 1 to 255 bytes"):
        read_secret(secret_file(tmp_path, content))


def test_longest_secret(tmp_path: Path) -> None:
    assert len(read_secret(secret_file(tmp_path, b"x" * 255 + b"\n"))) == 255


def test_secret_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(IscsiError, match="No such file"):
        read_secret(tmp_path / "none")


def test_secret_in_a_directory_or_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for path in (tmp_path, pipe):
        with pytest.raises(IscsiError, match="regular file"):
            read_secret(path)


def test_secrets_of_both_directions(tmp_path: Path) -> None:
    one = secret_file(tmp_path, b"initiator's", name="one")
    two = secret_file(tmp_path, b"target's", name="two")
    chap = {"chap_user": "u", "chap_secret_file": str(one), "chap_target_user": "t"}
    found = read_secrets(settings(**chap, chap_target_secret_file=str(two)))
    assert found == ChapSecrets(b"u", b"initiator's", b"t", b"target's")
    assert "initiator's" not in repr(found)
    assert "target's" not in repr(found)
    with pytest.raises(IscsiError, match="need different ones"):
        read_secrets(settings(**chap, chap_target_secret_file=str(one)))


def test_no_secrets() -> None:
    assert read_secrets(settings()) == ChapSecrets()
