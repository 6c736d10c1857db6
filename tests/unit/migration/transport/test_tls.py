"""Who may ask and who is believed, with real sockets, real certificates and a foreign TLS client."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pyproxy.migration.messages import Progress
from pyproxy.migration.peer import PeerError, PeerRefusedError
from pyproxy.migration.transport import validity
from pyproxy.migration.transport.tls import Credentials, CredentialsError
from tests.unit.migration.transport.scene import (
    ASK,
    TIMEOUT,
    Authority,
    Service,
    bound_tcp,
    eventually,
    peer_at,
    serving,
)

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def port(authority: Authority, service: Service) -> Iterator[int]:
    bound = bound_tcp()
    number = bound.getsockname()[1]
    with serving(bound, authority.issue("host-a"), service, "host-b", "host-c"):
        yield number


def refused(port: int, credentials: Credentials, name: str = "host-a") -> PeerError:
    with closing(peer_at(port, credentials, name)) as peer, pytest.raises(PeerError) as caught:
        peer.call(ASK)
    return caught.value


def test_a_peer_is_who_its_certificate_names(port: int, authority: Authority, service: Service) -> None:
    with closing(peer_at(port, authority.issue("HOST-B", "other.example"))) as peer:
        assert [peer.call(ASK) for _ in range(3)] == [Progress(phase="armed")] * 3
    assert service.asked == [("host-b", ASK)] * 3


def test_a_certificate_of_another_authority(port: int, authority: Authority, tmp_path: Path, service: Service) -> None:
    """The other side is refused by each of us alone."""
    foreign = Authority(tmp_path / "foreign").issue("host-b")
    assert not (error := refused(port, foreign)).sent  # we do not believe it
    assert "certificate verify failed" in str(error).lower()
    foreign.ca.write_bytes(authority.ca.cert_pem.bytes())
    assert "TLS" in str(refused(port, foreign)) or "closed" in str(refused(port, foreign))  # it does not believe us
    assert service.asked == []


@pytest.mark.parametrize(
    ("before", "after"), [(NOW - 9 * DAY, NOW - DAY), (NOW + DAY, NOW + 9 * DAY)], ids=["expired", "not-yet-valid"]
)
def test_a_client_certificate_of_another_time(
    port: int,
    authority: Authority,
    service: Service,
    caplog: pytest.LogCaptureFixture,
    before: datetime,
    after: datetime,
) -> None:
    refused(port, authority.issue("host-b", not_before=before, not_after=after))
    assert service.asked == []
    assert eventually(lambda: any("its certificate is not accepted: certificate" in text for text in caplog.messages))


@pytest.mark.parametrize(
    ("before", "after"), [(NOW - 9 * DAY, NOW - DAY), (NOW + DAY, NOW + 9 * DAY)], ids=["expired", "not-yet-valid"]
)
def test_a_server_certificate_of_another_time(authority: Authority, before: datetime, after: datetime) -> None:
    bound = bound_tcp()
    port = bound.getsockname()[1]
    with serving(bound, authority.issue("host-a", not_before=before, not_after=after), Service(), "host-b"):
        assert not refused(port, authority.issue("host-b")).sent


def test_names_that_are_no_peers(
    port: int, authority: Authority, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    for names, common_name in (
        (("host-d",), None),
        (("other.example",), "host-b"),
        (("*.example",), "host-b"),
        (("host-b", "host-c"), None),
    ):
        error = refused(port, authority.issue(*names, common_name=common_name))
        assert isinstance(error, PeerRefusedError)
        assert error.reason == "not-a-peer"
        assert eventually(lambda name=names[0]: any("127.0.0.1" in text and name in text for text in caplog.messages))
        caplog.clear()
    assert service.asked == []


@pytest.mark.parametrize(
    ("names", "asked"), [(("host-b",), "host-a"), (("*.example",), "host-a.example"), (("127.0.0.1",), "127.0.0.1")]
)
def test_a_server_that_is_not_who_was_asked_for(authority: Authority, names: tuple[str, ...], asked: str) -> None:
    """Neither another name, nor a wildcard, nor an address proves a host."""
    bound = bound_tcp()
    port = bound.getsockname()[1]
    service = Service()
    with serving(bound, authority.issue(*names), service, "host-b"):
        assert not refused(port, authority.issue("host-b"), asked).sent
    assert service.asked == []


def test_no_client_certificate(
    port: int, authority: Authority, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    context = ssl.create_default_context(cafile=os.fspath(authority.issue("x").ca))
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="host-a") as tls:
                tls.sendall(b"POST /migration/v1 HTTP/1.1\r\n\r\n")
                assert tls.recv(1) == b""
        except (ssl.SSLError, ConnectionError):
            pass
    assert service.asked == []
    assert eventually(lambda: any("peer did not return a certificate" in text for text in caplog.messages))


def test_tls_1_1_is_refused_and_1_2_is_taken(port: int, authority: Authority) -> None:
    """A foreign client: openssl."""
    mine = authority.issue("host-b")
    words = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-cert", mine.certificate, "-key", mine.key]
    words += ["-CAfile", mine.ca, "-verify_return_error", "-servername", "host-a"]
    for version, status in ((["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"], False), (["-tls1_2"], True)):
        done = subprocess.run([*words, *version], input=b"", capture_output=True, timeout=TIMEOUT, check=False)
        assert (done.returncode == 0) is status, done


def test_plain_http_on_the_tls_port(port: int, service: Service, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as plain:
        plain.sendall(b"POST /migration/v1 HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        while True:
            try:
                if not plain.recv(4096):
                    break
            except ConnectionError:
                break
    assert service.asked == []
    assert eventually(lambda: any("is refused: TLS: http request" in text for text in caplog.messages))


def test_a_withdrawn_authority_is_trusted_no_longer(
    authority: Authority, tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyproxy.migration.transport.server._WATCH_SECONDS", 0.01)
    old, new = authority.issue("host-b"), Authority(tmp_path / "new")
    bound = bound_tcp()
    port, mine = bound.getsockname()[1], authority.issue("host-a")
    with serving(bound, mine, service, "host-b"), closing(peer_at(port, old)) as kept:
        kept.call(ASK)
        renewed = new.issue("host-a")
        for path, other in ((mine.ca, renewed.ca), (mine.key, renewed.key), (mine.certificate, renewed.certificate)):
            path.write_bytes(other.read_bytes())
        with closing(peer_at(port, new.issue("host-b"))) as peer:
            deadline = datetime.now(UTC) + timedelta(seconds=TIMEOUT)
            while True:
                try:
                    peer.call(ASK)
                    break
                except PeerError:
                    assert datetime.now(UTC) < deadline
        old.ca.write_bytes(new.ca.cert_pem.bytes())
        with pytest.raises(PeerError):
            kept.call(ASK)


def test_the_end_of_a_certificate_is_told_once_a_day(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    end = (NOW + 10 * DAY).replace(microsecond=0)
    mine = authority.issue("host-a", not_after=end)
    assert validity.ends(mine.certificate.read_bytes())[0] == end
    for hours, told in ((-240, 0), (0, 1), (1, 1), (25, 2), (250, 3)):
        mine.tell_end((NOW + timedelta(hours=hours)).timestamp())
        assert len(caplog.messages) == told
    assert "renew it now" in caplog.messages[-1]


def test_a_key_that_is_open_to_others(authority: Authority) -> None:
    mine = authority.issue("host-a")
    mine.key.chmod(0o644)
    with pytest.raises(CredentialsError, match="chmod o="):
        mine.server()


def test_a_certificate_that_is_cut_is_never_read_past_its_end(authority: Authority) -> None:
    whole = ssl.PEM_cert_to_DER_cert(authority.ca.cert_pem.bytes().decode())
    for size in range(len(whole)):
        with pytest.raises(ValueError, match=r"."):
            validity.ends(ssl.DER_cert_to_PEM_cert(whole[:size] or b"\0").encode())
