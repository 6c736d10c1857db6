"""Requests and answers that are wrong, endless, slow or cut, over a Unix socket."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import msgspec
import pytest

from pyproxy.migration.messages import LARGEST_MESSAGE, Ask, Progress, Reply, Request
from pyproxy.migration.peer import PeerError, PeerRefusedError
from pyproxy.migration.transport import accepting, client, server
from pyproxy.migration.transport.client import Address, HttpPeer
from pyproxy.migration.transport.wire import encode
from tests.unit.migration.transport.scene import ABORT, ASK, TIMEOUT, Service, serving


@pytest.fixture
def service() -> Service:
    return Service()


def bound_unix(path: Path) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(path))
    return bound


@pytest.fixture
def path(tmp_path: Path, service: Service) -> Iterator[Path]:
    path = tmp_path / "peer.sock"
    with serving(bound_unix(path), None, service, "host-b"):
        yield path


def peer_at(path: Path, own: str = "host-b") -> HttpPeer:
    return HttpPeer("host-a", Address("", 0, path), own, None)


def head(length: int | str = 0, more: str = "") -> bytes:
    return (
        f"POST /migration/v1 HTTP/1.1\r\nHost: x\r\nPyproxy-Peer: host-b\r\nContent-Length: {length}\r\n{more}\r\n"
    ).encode()


def raw(path: Path, *data: bytes) -> tuple[int, dict[str, str]]:
    """Send bytes and return status and body of the answer."""
    with socket.socket(socket.AF_UNIX) as connected:
        connected.settimeout(TIMEOUT)
        connected.connect(str(path))
        try:
            for one in data:
                connected.sendall(one)
        except (BrokenPipeError, ConnectionResetError):
            pass
        response = client.http.client.HTTPResponse(connected)
        response.begin()
        body = response.read()
        return response.status, json.loads(body) if body.startswith(b"{") else {}


def request(**fields: object) -> bytes:
    return json.dumps({**json.loads(encode(ASK)), **fields}).encode()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "malformed"),
        (b"\xff\xfe", "malformed"),
        (b"[" * 1_000_000, "malformed"),
        (b'{"message":' * 100_000, "malformed"),
        (request(message="format-unit"), "malformed"),
        (request(more=1), "malformed"),
        (request(epoch=0), "malformed"),
        (request(migration="../../x"), "malformed"),
        (request(version=2, message="of the future", more=1), "version"),
    ],
)
def test_what_is_no_request(path: Path, service: Service, body: bytes, reason: str) -> None:
    status, answer = raw(path, head(len(body)), body)
    assert (status, answer["reason"]) == (400, reason)
    assert service.asked == []


def test_a_body_that_says_it_is_too_large(path: Path) -> None:
    assert raw(path, head(LARGEST_MESSAGE + 1))[0] == 413


def test_an_endless_body(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LARGEST_MESSAGE", 1 << 20)
    chunk = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    start = head().replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    assert raw(path, start, *[chunk] * 40)[0] == 413


def test_too_much_at_one_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "BODIES_BYTES", 1000)
    assert raw(path, head(2000), bytes(2000))[1]["reason"] == "busy"
    assert isinstance(call(path), Progress)


def test_heads_that_are_too_large_or_no_http(path: Path, service: Service) -> None:
    assert raw(path, head(0, f"X: {'y' * 20_000}\r\n"))[0] == 400
    assert raw(path, b"\x16\x03\x01\x02\x00\x01\r\n\r\n")[0] == 400
    assert raw(path, head(0).replace(b"/migration/v1", b"/migration/v2"))[0] == 404
    assert service.asked == []


def test_who_sends_slowly(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "BODY_SECONDS", 0.1)
    assert raw(path, head(100), b"x")[0] == 408


@pytest.mark.parametrize("sent", [b"", b"POST /migr"])
def test_who_asks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(accepting, "FIRST_REQUEST_SECONDS", 0.1)
    path = tmp_path / "s"
    with serving(bound_unix(path), None, Service(), "host-b"), socket.socket(socket.AF_UNIX) as connected:
        connected.settimeout(TIMEOUT)
        connected.connect(str(path))
        connected.sendall(sent)
        with suppress(ConnectionResetError):
            assert connected.recv(1) == b""


def test_a_peer_has_a_bounded_number_of_connections(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "CONNECTIONS_OF_A_PEER", 2)
    with closing(peer_at(path)) as first, closing(peer_at(path)) as second, closing(peer_at(path)) as third:
        first.call(ASK)
        second.call(ASK)
        with pytest.raises(PeerError, match=r"closed the connection|broke off"):
            third.call(ASK)
        first.call(ASK)


def call(path: Path, request: Request = ASK) -> Reply:
    with closing(peer_at(path)) as peer:
        return peer.call(request)


def test_a_refusal_and_a_defect_of_the_service(path: Path, service: Service) -> None:
    def refuse(_: Request) -> Reply:
        raise PeerRefusedError("not now", "late")

    def fail(_: Request) -> Reply:
        raise ZeroDivisionError("secret")

    service.answer = refuse
    with pytest.raises(PeerRefusedError, match=r"^not now$") as caught:
        call(path)
    assert caught.value.reason == "late"
    service.answer = fail
    with pytest.raises(PeerRefusedError, match="see the log") as caught:
        call(path)
    assert "secret" not in str(caught.value)


def test_a_name_that_is_not_configured(path: Path) -> None:
    with closing(peer_at(path, "host-d")) as peer, pytest.raises(PeerRefusedError, match="no peer of that name"):
        peer.call(ASK)


def test_another_user_is_refused_on_both_sides(path: Path, service: Service, tmp_path: Path) -> None:
    """Needs root, as the tests in the virtual machine do; a user alone has nobody to be instead."""
    if os.geteuid() != 0:
        return
    for one in (path, *path.parents):
        if one == Path("/tmp"):
            break
        one.chmod(one.stat().st_mode | (0o666 if one == path else 0o055))
    program = "import os,socket,sys;os.setuid(65534);s=socket.socket(1);s.connect(sys.argv[1]);"
    asks = program + "s.sendall(bytes.fromhex(sys.argv[2]));sys.stdout.buffer.write(s.recv(65536))"
    words = [sys.executable, "-c", asks, str(path), (head(2) + b"{}").hex()]
    told = subprocess.run(words, capture_output=True, timeout=TIMEOUT, check=True).stdout
    assert b"403 Forbidden" in told
    assert b"user 65534 may not ask here" in told
    assert service.asked == []


@pytest.mark.parametrize("turns", range(6))
def test_a_connection_that_comes_while_the_server_stops_is_closed(tmp_path: Path, turns: int) -> None:
    async def run() -> bytes:
        bound = bound_unix(tmp_path / "s")
        stopping = server.TransportServer(server.Listening(bound, None), Service(), ["host-b"])
        await stopping.start()
        with socket.socket(socket.AF_UNIX) as connected:
            connected.settimeout(TIMEOUT)
            connected.connect(str(tmp_path / "s"))
            for _ in range(turns):
                await asyncio.sleep(0)
            await stopping.stop()
            with suppress(ConnectionResetError):
                return await asyncio.to_thread(connected.recv, 1)
        return b""

    assert asyncio.run(run()) == b""


def test_a_slow_service_holds_up_nobody_else(path: Path, service: Service) -> None:
    """As many peers wait as there are threads for waiting, and a command is still answered."""
    go_on, waiting = threading.Event(), threading.Semaphore(0)

    def answer(request: Request) -> Reply:
        if isinstance(request, Ask):
            waiting.release()
            assert go_on.wait(TIMEOUT)
        return Progress(phase="armed")

    service.answer = answer
    with ThreadPoolExecutor(40) as pool, closing(peer_at(path)) as peer:
        asks = [pool.submit(peer.call, msgspec.structs.replace(ASK, wait_ms=20_000)) for _ in range(40)]
        for _ in range(server.THREADS):
            assert waiting.acquire(timeout=TIMEOUT)
        assert peer.call(ABORT) == Progress(phase="armed")
        go_on.set()
        assert [ask.result(TIMEOUT) for ask in asks] == [Progress(phase="armed")] * 40


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="is pyproxy running there") as caught:
        call(tmp_path / "none")
    assert not caught.value.sent


ANSWERS = {
    "nothing": b"",
    "cut in the head": b"HTTP/1.1 200 O",
    "cut in the body": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
    "no length": b"HTTP/1.1 200 OK\r\n\r\n{}",
    "too large": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
    "no reply": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "no refusal": b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\noops",
    "no HTTP": b"SSH-2.0-OpenSSH\r\n",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_an_answer_that_is_none_leaves_the_fate_open(tmp_path: Path, answer: bytes) -> None:
    with bound_unix(tmp_path / "s") as bound, ThreadPoolExecutor(1) as pool:
        bound.listen()
        asked = pool.submit(call, tmp_path / "s")
        connected, _ = bound.accept()
        with connected:
            while not connected.recv(1 << 16).endswith(b"}"):
                pass
            connected.sendall(answer)
        with pytest.raises(PeerError) as caught:
            asked.result(TIMEOUT)
    assert caught.value.sent
    assert not isinstance(caught.value, PeerRefusedError)


def test_a_trickle_does_not_put_off_the_end_of_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.5)
    with bound_unix(tmp_path / "s") as bound, ThreadPoolExecutor(1) as pool:
        bound.listen()
        asked = pool.submit(call, tmp_path / "s")
        connected, _ = bound.accept()
        with connected:
            connected.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not asked.done():
                try:
                    connected.sendall(b"x")
                except (BrokenPipeError, ConnectionResetError):
                    break
                threading.Event().wait(0.05)
            with pytest.raises(PeerError, match=r"in time|broke off") as caught:
                asked.result(TIMEOUT)
    assert caught.value.sent


def test_a_connection_that_was_closed_meanwhile_is_made_again(tmp_path: Path, service: Service) -> None:
    path = tmp_path / "s"
    with closing(peer_at(path)) as peer:
        for _ in range(3):
            with serving(bound_unix(path), None, service, "host-b"):
                assert peer.call(ASK) == Progress(phase="armed")
            path.unlink()
    assert len(service.asked) == 3
