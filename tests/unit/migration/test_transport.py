"""Two daemons speak over real sockets: mutual TLS with certificates made here, and a Unix socket."""

from __future__ import annotations

import datetime
import http.client
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyproxy.migration.messages import Abort, Ask, Execute, Progress, Reply, Request
from pyproxy.migration.peer import PeerError, PeerRefusedError
from pyproxy.migration.transport.client import Address, HttpPeer
from pyproxy.migration.transport.tls import Credentials, CredentialsError
from pyproxy.migration.transport.wire import NAME_HEADER, PATH, encode
from tests.unit.migration.transport.scene import Authority, Service, serving

ASK = Ask(migration="0" * 32, guest="web", epoch=1)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@contextmanager
def over_tls(service: Service, credentials: Credentials, *peers: str) -> Iterator[Address]:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
        with serving(bound, credentials, service, *peers):
            yield Address("127.0.0.1", port, None)


@contextmanager
def over_unix(service: Service, path: Path, *peers: str) -> Iterator[Address]:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        with serving(bound, None, service, *peers):
            yield Address("", 0, path)


@contextmanager
def peer(name: str, address: Address, own: str, credentials: Credentials | None) -> Iterator[HttpPeer]:
    made = HttpPeer(name, address, own, credentials)
    try:
        yield made
    finally:
        made.close()


def test_peers_are_who_their_certificates_name(authority: Authority) -> None:
    service = Service()
    b = authority.issue("host-b")
    with (
        over_tls(service, authority.issue("host-a"), "host-b", "host-c") as address,
        peer("host-a", address, "host-c", b) as asking,
    ):
        for _ in range(3):
            assert asking.call(ASK) == Progress(phase="armed")
    assert service.asked == [("host-b", ASK)] * 3, "what the header says does not count over TLS"


def refused_by(asking: HttpPeer) -> PeerError:
    with pytest.raises(PeerError) as caught:
        asking.call(ASK)
    return caught.value


def test_a_certificate_of_another_authority(authority: Authority, tmp_path: Path) -> None:
    foreign = Authority(tmp_path / "other").issue("host-b")
    service = Service()
    trusting = Credentials(foreign.certificate, foreign.key, authority.issue("x").ca)
    with over_tls(service, authority.issue("host-a"), "host-b") as address:
        for credentials in (foreign, trusting):
            with peer("host-a", address, "host-b", credentials) as asking:
                error = refused_by(asking)
                assert "TLS" in str(error) or "without an answer" in str(error) or "broke off" in str(error)
    assert not service.asked


@pytest.mark.parametrize("expired", ["client", "server"])
def test_an_expired_certificate(authority: Authority, expired: str) -> None:
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    good, bad = authority.issue, lambda name: authority.issue(name, not_after=past)
    service = Service()
    with (
        over_tls(service, (bad if expired == "server" else good)("host-a"), "host-b") as address,
        peer("host-a", address, "host-b", (bad if expired == "client" else good)("host-b")) as asking,
    ):
        refused_by(asking)
    assert not service.asked


@pytest.mark.parametrize("name", ["host-x", "host-b.example.org"])
def test_a_peer_that_is_not_on_the_list(authority: Authority, name: str, caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    with (
        over_tls(service, authority.issue("host-a"), "host-b") as address,
        peer("host-a", address, "host-b", authority.issue(name)) as asking,
    ):
        error = refused_by(asking)
    assert isinstance(error, PeerRefusedError)
    assert error.reason == "not-a-peer"
    assert f"names of its certificate ({name})" in caplog.text
    assert not service.asked


def test_a_name_in_the_subject_alone_does_not_count(authority: Authority) -> None:
    service = Service()
    with (
        over_tls(service, authority.issue("host-a"), "host-b") as address,
        peer("host-a", address, "host-b", authority.issue("elsewhere", common_name="host-b")) as asking,
    ):
        assert isinstance(refused_by(asking), PeerRefusedError)
    with (
        over_tls(service, authority.issue("elsewhere", common_name="host-a"), "host-b") as address,
        peer("host-a", address, "host-b", authority.issue("host-b")) as asking,
    ):
        assert not refused_by(asking).sent
    assert not service.asked


def ask_raw(connection: http.client.HTTPConnection) -> bytes:
    connection.request("POST", PATH, encode(ASK))
    return connection.getresponse().read()


def test_no_certificate_and_no_tls(authority: Authority) -> None:
    service = Service()
    with over_tls(service, authority.issue("host-a"), "host-b") as address:
        context = ssl.create_default_context(cafile=str(authority.issue("x").ca))
        for asking in (
            http.client.HTTPSConnection(address.host, address.port, context=context, timeout=60),
            http.client.HTTPConnection(address.host, address.port, timeout=60),
        ):
            with pytest.raises((OSError, http.client.HTTPException)):
                ask_raw(asking)
            asking.close()
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with socket.create_connection((address.host, address.port)) as plain, pytest.raises((ssl.SSLError, OSError)):
            old.wrap_socket(plain)
    assert not service.asked


def test_a_certificate_that_was_renewed_is_used(authority: Authority) -> None:
    service = Service()
    with over_tls(service, authority.issue("host-a"), "host-b") as address:
        mine = authority.issue("host-x")
        with peer("host-a", address, "host-b", mine) as asking:
            refused_by(asking)
            better = authority.issue("host-b")
            mine.certificate.write_bytes(better.certificate.read_bytes())
            mine.key.write_bytes(better.key.read_bytes())
            assert asking.call(ASK) == Progress(phase="armed")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda c: c.key.chmod(0o644), "open to others"),
        (lambda c: c.key.unlink(), "cannot be read"),
        (lambda c: c.certificate.write_text("nonsense"), "cannot be used"),
        (lambda c: c.ca.write_text(""), "authority"),
    ],
)
def test_credentials_that_cannot_be_used(authority: Authority, spoil: Callable[[Credentials], None], says: str) -> None:
    credentials = authority.issue("host-a")
    spoil(credentials)
    with pytest.raises(CredentialsError, match=says):
        credentials.server()


def test_a_unix_socket(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    with over_unix(service, tmp_path / "peer.sock", "host-b") as address:
        with peer("host-a", address, "host-b", None) as asking:
            assert asking.call(ASK) == Progress(phase="armed")
        with peer("host-a", address, "host-x", None) as asking:
            error = refused_by(asking)
            assert isinstance(error, PeerRefusedError)
    assert service.asked == [("host-b", ASK)]
    assert "no peer of that name" in caplog.text


def raw_request(method: str, path: str, body: bytes) -> bytes:
    lines = (f"{method} {path} HTTP/1.1", "Host: x", f"{NAME_HEADER}: host-b", f"Content-Length: {len(body)}", "", "")
    return "\r\n".join(lines).encode() + body


def test_a_unix_socket_and_another_user(tmp_path: Path) -> None:
    service = Service()
    tmp_path.chmod(0o755)
    with over_unix(service, tmp_path / "peer.sock", "host-b") as address:
        (tmp_path / "peer.sock").chmod(0o666)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            try:
                with socket.socket(socket.AF_UNIX) as plain:
                    os.chdir("/")
                    plain.connect(str(address.path))
                    plain.sendall(raw_request("POST", PATH, encode(ASK)))
                    os.write(writing, plain.recv(4096))
            except OSError as error:
                os.write(writing, str(error).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read()
        os.waitpid(child, 0)
    assert b"403" in said or b"Permission denied" in said, said
    assert not service.asked


@dataclass
class Raw:
    """Says to the server what no pyproxy would."""

    address: Address

    def says(self, body: bytes, *, method: str = "POST", path: str = PATH) -> tuple[int, bytes]:
        with socket.socket(socket.AF_UNIX) as plain:
            plain.settimeout(60)
            plain.connect(str(self.address.path))
            with suppress(OSError):
                plain.sendall(raw_request(method, path, body))
            answer = http.client.HTTPResponse(plain)
            answer.begin()
            return answer.status, answer.read()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"\xff\xfe",
        b"[" * 100_000,
        b"{}",
        b'{"message": "other"}',
        json.dumps({"message": "ask", "migration": "0" * 31, "guest": "web", "epoch": 1}).encode(),
        json.dumps({"message": "ask", "migration": "0" * 32, "guest": "web", "epoch": 0}).encode(),
        json.dumps({"message": "ask", "migration": "0" * 32, "guest": "web", "epoch": 1, "more": 1}).encode(),
        json.dumps(
            {
                "message": "execute",
                "migration": "0" * 32,
                "guest": "w",
                "epoch": 1,
                "lun": 0,
                "sequence": 0,
                "cdb": "00",
            }
        ).encode(),
    ],
)
def test_what_is_no_request(tmp_path: Path, body: bytes) -> None:
    service = Service()
    with over_unix(service, tmp_path / "peer.sock", "host-b") as address:
        status, answer = Raw(address).says(body)
    assert status == 400
    assert json.loads(answer)["reason"] == "malformed"
    assert not service.asked


def test_what_is_too_large_or_elsewhere(tmp_path: Path) -> None:
    service = Service()
    with over_unix(service, tmp_path / "peer.sock", "host-b") as address:
        raw = Raw(address)
        assert raw.says(bytes(65 << 20))[0] == 413
        assert raw.says(b"", path="/other")[0] == 404
        assert raw.says(b"", method="GET")[0] == 404
    assert not service.asked


def test_a_refusal_and_a_defect_come_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(request: Request) -> Reply:
        if isinstance(request, Abort):
            raise RuntimeError("a defect")  # noqa: TRY004
        raise PeerRefusedError("not now", "busy")

    service = Service()
    service.answer = refuse
    with (
        over_unix(service, tmp_path / "peer.sock", "host-b") as address,
        peer("host-a", address, "host-b", None) as asking,
    ):
        error = refused_by(asking)
        assert isinstance(error, PeerRefusedError)
        assert (str(error), error.reason) == ("not now", "busy")
        with pytest.raises(PeerRefusedError) as caught:
            asking.call(Abort(migration="0" * 32, guest="web", epoch=1))
        assert caught.value.reason == "internal"
    assert "a defect" in caplog.text


def test_nobody_answers(tmp_path: Path) -> None:
    with peer("host-a", Address("", 0, tmp_path / "none.sock"), "host-b", None) as asking:
        error = refused_by(asking)
    assert not error.sent
    assert "cannot be reached" in str(error)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", b"SSH-2.0-x\r\n\r\n"])
def test_a_connection_that_breaks_in_the_middle(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "peer.sock"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        bound.listen()

        def answer_once() -> None:
            accepted, _ = bound.accept()
            with accepted:
                accepted.recv(65536)
                accepted.sendall(answer)

        thread = threading.Thread(target=answer_once)
        thread.start()
        with peer("host-a", Address("", 0, path), "host-b", None) as asking:
            assert refused_by(asking).sent, "whether it was carried out is not known"
        thread.join()


def test_a_kept_connection_that_was_closed_meanwhile(tmp_path: Path) -> None:
    service = Service()
    path = tmp_path / "peer.sock"
    with peer("host-a", Address("", 0, path), "host-b", None) as asking:
        for _ in range(2):
            with over_unix(service, path, "host-b"):
                assert asking.call(ASK) == Progress(phase="armed")
            path.unlink()
    assert len(service.asked) == 2


def test_long_questions_hold_up_nobody(tmp_path: Path) -> None:
    go_on = threading.Event()

    def wait(request: Request) -> Reply:
        if isinstance(request, Ask):
            assert go_on.wait(60)
        return Progress(phase="armed")

    service = Service()
    service.answer = wait
    with (
        over_unix(service, tmp_path / "peer.sock", "host-b") as address,
        peer("host-a", address, "host-b", None) as asking,
    ):
        threads = [threading.Thread(target=asking.call, args=(ASK,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        while len(service.asked) < len(threads) and time.monotonic() < deadline:
            time.sleep(0.01)
        request = Execute(migration="0" * 32, guest="web", epoch=1, lun=0, sequence=0, cdb="00" * 6)
        assert asking.call(request) == Progress(phase="armed")
        go_on.set()
        for thread in threads:
            thread.join()
