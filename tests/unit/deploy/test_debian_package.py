"""The Debian package, built, installed, used and purged in a Debian that has nothing else."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy import __version__

PROJECT = Path(__file__).parents[3]
BUILD = PROJECT / "deploy" / "debian" / "build.py"
OTHERS = (
    "/var/cache",
    "/var/lib/apt",
    "/var/lib/dpkg",
    "/var/log",
    "/etc/passwd-",
    "/etc/group-",
    "/etc/shadow-",
    "/etc/gshadow-",
)
"""What every package's coming and going changes."""


@pytest.fixture(scope="module")
def package() -> Path:
    done = subprocess.run([sys.executable, str(BUILD)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


class Chroot:
    """A minimal Debian of this machine's release, from where this machine's packages come."""

    def __init__(self, root: Path) -> None:
        self.root = root
        release = dict(
            line.split("=", 1) for line in Path("/etc/os-release").read_text("utf-8").splitlines() if "=" in line
        )
        settings = [
            f"--aptopt={file}" for file in sorted(Path("/etc/apt/apt.conf.d").iterdir()) if "docker" not in file.name
        ]
        sources = [str(file) for file in (Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").iterdir())]
        made = subprocess.run(
            [
                "mmdebstrap",
                "--variant=apt",
                "--mode=root",
                "--include=python3,libiscsi7,systemd-standalone-sysusers,systemd-standalone-tmpfiles",
                *settings,
                release["VERSION_CODENAME"],
                str(root),
                *[file for file in sources if Path(file).exists()],
            ],
            capture_output=True,
            text=True,
        )
        assert made.returncode == 0, made.stderr[-3000:]
        (root / "proc").mkdir(exist_ok=True)

    def run(self, *words: str, status: int = 0) -> str:
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "HOME": "/root"}
        # A namespace of its own, so that whatever is mounted there goes with the command.
        inside = ["unshare", "--mount", "--pid", "--fork", f"--root={self.root}", "--mount-proc", "--", *words]
        done = subprocess.run(inside, capture_output=True, text=True, env=environment)
        assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout + done.stderr

    def files(self) -> set[str]:
        found = set()
        for place, directories, files in os.walk(self.root):
            here = "/" + os.path.relpath(place, self.root)
            if here.startswith(("/proc", "/dev", "/sys", *OTHERS)):
                directories.clear()
                continue
            found |= {os.path.normpath(f"{here}/{name}") for name in (*directories, *files)}
        return {name for name in found if not name.startswith(OTHERS)}


@pytest.fixture(scope="module")
def chroot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chroot]:
    root = tmp_path_factory.mktemp("debian") / "root"
    yield Chroot(root)
    shutil.rmtree(root, ignore_errors=True)


def test_install_use_and_purge(package: Path, chroot: Chroot) -> None:
    before = chroot.files()
    shutil.copy(package, chroot.root / "tmp")
    chroot.run("dpkg", "-i", f"/tmp/{package.name}")
    assert chroot.run("pyproxy", "--version") == f"pyproxy {__version__}\n"
    demo = chroot.run("pyproxy", "demo")
    assert "Taken over by procedure P1" in demo, demo
    assert "pyproxy" in (chroot.root / "etc/passwd").read_text("utf-8")
    shared = (chroot.root / "run/pyproxy-guests").stat()
    assert (shared.st_mode & 0o777, shared.st_uid) == (0o755, int(chroot.run("id", "-u", "pyproxy")))
    example = "/usr/share/doc/pyproxy/examples/pyproxy.toml"
    assert chroot.run("pyproxy", "check-config", example)
    # Its own libraries are not for other programs, nor other programs' for it.
    assert chroot.run("python3", "-c", "import msgspec", status=1).endswith("No module named 'msgspec'\n")
    chroot.run("dpkg", "--remove", "pyproxy")
    assert not (chroot.root / "usr/bin/pyproxy").exists()
    (chroot.root / "var/lib/pyproxy").mkdir(exist_ok=True)
    chroot.run("dpkg", "--purge", "pyproxy")
    (chroot.root / "tmp" / package.name).unlink()
    left = chroot.files() - before
    assert left - {"/run", "/run/pyproxy-guests"} == set()


@pytest.fixture(scope="module")
def unpacked(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is in the package."""
    root = tmp_path_factory.mktemp("unpacked")
    subprocess.run(["dpkg-deb", "--extract", str(package), str(root)], check=True)
    return root


def test_every_command_has_a_page_that_mandoc_reads(unpacked: Path, tmp_path: Path) -> None:
    pages = sorted((unpacked / "usr/share/man/man1").iterdir())
    names = {page.name.removesuffix(".1.gz") for page in pages}
    assert {"pyproxy", "pyproxy-serve", "pyproxy-migrate", "pyproxy-top", "pyproxy-pr-keys"} <= names
    for page in pages:
        plain = tmp_path / page.stem
        plain.write_bytes(gzip.decompress(page.read_bytes()))
        done = subprocess.run(["mandoc", "-T", "lint", "-W", "error", str(plain)], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, ""), page.name
    shown = subprocess.run(
        ["mandoc", "-T", "utf8", str(tmp_path / "pyproxy-migrate.1")], capture_output=True, text=True
    )
    assert "--destination-dead" in re.sub(".\b", "", shown.stdout)


def test_bash_completes_its_commands(unpacked: Path) -> None:
    completion = unpacked / "usr/share/bash-completion/completions/pyproxy"
    script = f"""
        source {completion}
        COMP_WORDS=(pyproxy mig) COMP_CWORD=1
        _pyproxy_completion pyproxy mig pyproxy
        echo "${{COMPREPLY[@]}}"
        COMPREPLY=()
        COMP_WORDS=(pyproxy migrate --dest) COMP_CWORD=2
        _pyproxy_completion pyproxy --dest migrate
        echo "${{COMPREPLY[@]}}"
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert done.stdout.split("\n")[:2] == ["migrate", "--destination-dead"], done.stderr
