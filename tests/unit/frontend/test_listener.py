"""The listening socket: its path over restarts, its mode, its lock, and systemd's sockets."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import textwrap

import pytest

from pyproxy.frontend.listener import Listener, ListenError, activated


def connects(path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(os.fspath(path))
        except OSError:
            return False
        return True


def test_the_socket_is_for_owner_and_group_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        listener = Listener.bind(tmp_path / "pr.sock")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "pr.sock").stat().st_mode) == 0o660
    assert connects(tmp_path / "pr.sock")
    listener.close()
    listener.close()
    assert not (tmp_path / "pr.sock").exists()


def test_the_group_is_set(tmp_path):
    listener = Listener.bind(tmp_path / "pr.sock", group=os.getegid())
    assert (tmp_path / "pr.sock").stat().st_gid == os.getegid()
    listener.close()


def test_the_socket_of_a_killed_process_is_replaced(tmp_path):
    script = f"""
        import os, pathlib
        from pyproxy.frontend.listener import Listener
        listener = Listener.bind(pathlib.Path({os.fspath(tmp_path / "pr.sock")!r}))
        os.kill(os.getpid(), 9)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    stale = (tmp_path / "pr.sock").stat().st_ino
    listener = Listener.bind(tmp_path / "pr.sock")
    assert (tmp_path / "pr.sock").stat().st_ino != stale
    assert connects(tmp_path / "pr.sock")
    listener.close()


def test_the_path_is_never_empty_while_it_changes_hands(tmp_path):
    path = tmp_path / "pr.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    seen = []
    real = os.rename

    def watched(*arguments, **keywords):
        seen.append(path.exists())
        return real(*arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", watched)
        listener = Listener.bind(path)
    assert seen == [True]
    listener.close()


def test_two_pyproxies_do_not_share_a_path(tmp_path):
    listener = Listener.bind(tmp_path / "pr.sock")
    with pytest.raises(ListenError, match="another pyproxy listens there; stop it or choose another path"):
        Listener.bind(tmp_path / "pr.sock")
    listener.close()
    Listener.bind(tmp_path / "pr.sock").close()


def test_a_socket_that_another_program_answers_on_is_left_alone(tmp_path):
    path = tmp_path / "pr.sock"
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(os.fspath(path))
        theirs.listen()
        with pytest.raises(ListenError, match="another process answers there; stop it first"):
            Listener.bind(path)
        assert connects(path)


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_is_left_alone(tmp_path, kind):
    path = tmp_path / "pr.sock"
    if kind == "file":
        path.write_text("precious", encoding="ascii")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ListenError, match="is there already and is no socket"):
        Listener.bind(path)
    assert path.is_symlink() or path.exists()


def test_a_path_that_is_too_long_or_nowhere(tmp_path):
    with pytest.raises(ListenError, match="is longer than 103 bytes"):
        Listener.bind(tmp_path / ("x" * 104))
    with pytest.raises(ListenError, match=r"No such file or directory; make the directory writable"):
        Listener.bind(tmp_path / "missing" / "pr.sock")


def test_closing_leaves_a_path_that_became_anothers(tmp_path):
    path = tmp_path / "pr.sock"
    listener = Listener.bind(path)
    path.unlink()
    path.write_text("another's", encoding="ascii")
    listener.close()
    assert path.read_text(encoding="ascii") == "another's"


def test_systemds_sockets_are_taken_with_their_names(tmp_path):
    script = """
        import os, socket, sys
        from pyproxy.frontend.listener import Listener, activated
        os.environ["LISTEN_PID"] = str(os.getpid())
        found = activated()
        for name, each in found:
            Listener.adopt(each)
            print(name, each.getsockname(), os.get_inheritable(each.fileno()), "LISTEN_FDS" in os.environ)
    """
    sockets = []
    for name in ("a", "b"):
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(os.fspath(tmp_path / name))
        listening.listen()
        sockets.append(listening)
    # The descriptors have to be 3 and 4, as systemd passes them.
    shell = f'exec 3<&{sockets[0].fileno()} 4<&{sockets[1].fileno()}; exec "$0" -c "$1"'
    done = subprocess.run(
        ["bash", "-c", shell, sys.executable, textwrap.dedent(script)],
        env={**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "web1:web2"},
        pass_fds=[each.fileno() for each in sockets],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [
        f"web1 {tmp_path / 'a'} False False",
        f"web2 {tmp_path / 'b'} False False",
    ], done.stderr
    for each in sockets:
        each.close()


@pytest.mark.parametrize("environment", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_FDS": "1"}])
def test_sockets_for_another_process_are_not_taken(environment):
    assert activated(environment) == []
    assert environment == {}


def test_a_count_that_is_none():
    with pytest.raises(ListenError, match="LISTEN_FDS is 'many', not a number of descriptors"):
        activated({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"})


@pytest.mark.parametrize("kind", ["not-listening", "datagram"])
def test_only_a_listening_stream_socket_is_adopted(kind):
    wrong = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM)
    with wrong, pytest.raises(ListenError, match="no listening Unix stream socket; use ListenStream="):
        Listener.adopt(wrong)


def test_an_adopted_path_stays(tmp_path):
    with socket.socket(socket.AF_UNIX) as systemds:
        systemds.bind(os.fspath(tmp_path / "pr.sock"))
        systemds.listen()
        Listener.adopt(systemds.dup()).close()
        assert connects(tmp_path / "pr.sock")
