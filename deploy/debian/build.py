"""Builds build/pyproxy_VERSION_ARCHITECTURE.deb of the extensions that are compiled in place: ``make deb``.

The package brings the Python libraries it needs below /usr/lib/pyproxy, because Debian's are older; Python itself and
the C libraries are Debian's. Needs dpkg-dev. Usage: python deploy/debian/build.py
"""

from __future__ import annotations

import compileall
import gzip
import os
import py_compile
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

from click.shell_completion import get_completion_class
from click_man.core import write_man_pages

from pyproxy import __version__
from pyproxy.cli.main import main as pyproxy

HERE: Final = Path(__file__).parent
PROJECT: Final = HERE.parents[1]
BUILD: Final = PROJECT / "build"
ROOT: Final = BUILD / "deb"
PRIVATE: Final = ROOT / "usr/lib/pyproxy"
PROGRAM: Final = """#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "/usr/lib/pyproxy")
from pyproxy.cli.main import main

main(prog_name="pyproxy")
"""
CONTROL: Final = """Package: pyproxy
Version: {version}
Architecture: {architecture}
Maintainer: pyproxy <pyproxy@localhost>
Section: admin
Priority: optional
Installed-Size: {size}
Depends: python3 (>= {python}~), python3 (<< {next_python}~), systemd | systemd-standalone-sysusers, \
systemd | systemd-standalone-tmpfiles, {libraries}
Description: {description}
 Virtual machines' SCSI commands come in by vhost-user-scsi sockets or the protocol of qemu-pr-helper. Registrations and
 reservations of clustered guests are tracked, kept and moved with the guest between hosts.
"""
COMPLETIONS: Final = {
    "bash": "usr/share/bash-completion/completions/pyproxy",
    "zsh": "usr/share/zsh/vendor-completions/_pyproxy",
    "fish": "usr/share/fish/vendor_completions.d/pyproxy.fish",
}
FILES: Final = {
    "deploy/systemd/pyproxy.service": "lib/systemd/system/pyproxy.service",
    "deploy/systemd/pyproxy-pr@.socket": "lib/systemd/system/pyproxy-pr@.socket",
    "deploy/sysusers.d/pyproxy.conf": "usr/lib/sysusers.d/pyproxy.conf",
    "deploy/tmpfiles.d/pyproxy.conf": "usr/lib/tmpfiles.d/pyproxy.conf",
    "LICENSE": "usr/share/doc/pyproxy/copyright",
    "README.md": "usr/share/doc/pyproxy/README.md",
    "CHANGELOG.md": "usr/share/doc/pyproxy/changelog",
}
EXAMPLES: Final = ("pyproxy.toml", "udev", "systemd/network.conf", "prometheus", "grafana/pyproxy.json", "libvirt")


def build() -> Path:
    """Build the package and return its path."""
    shutil.rmtree(ROOT, ignore_errors=True)
    PRIVATE.mkdir(parents=True)
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    put_code()
    put_libraries(settings["dependencies"])
    put_files()
    put_pages()
    return pack(settings)


def put_code() -> None:
    """Put pyproxy there with its extensions, and the program."""
    for name in ("pyproxy", "_fastpath"):
        shutil.copytree(PROJECT / name, PRIVATE / name, ignore=shutil.ignore_patterns("__pycache__", "*.c", "*.pyx"))
    for extension in PRIVATE.rglob("*.so"):
        subprocess.run(["strip", "--strip-unneeded", str(extension)], check=True)
    write(ROOT / "usr/bin/pyproxy", PROGRAM, 0o755)


def put_libraries(dependencies: list[str]) -> None:
    """Put the libraries beside it."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([*install, "--target", str(PRIVATE), *dependencies], check=True)
    shutil.rmtree(PRIVATE / "bin", ignore_errors=True)
    # Unchecked: who installs the package cannot write beside the sources, and their times are those of the archive.
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    if not compileall.compile_dir(
        PRIVATE, quiet=1, stripdir=str(ROOT), prependdir="/", invalidation_mode=unchecked, workers=0
    ):
        raise SystemExit("pyproxy.deb: some sources cannot be compiled; the messages above say which")


def put_files() -> None:
    """Put the service files, the documentation and the examples there."""
    for source, target in FILES.items():
        write(ROOT / target, (PROJECT / source).read_bytes())
    documents = ROOT / "usr/share/doc/pyproxy"
    packed(documents / "changelog")
    shutil.copytree(PROJECT / "docs", documents / "docs", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for name in EXAMPLES:
        source, target = PROJECT / "deploy" / name, documents / "examples" / name
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            write(target, source.read_bytes())
    (ROOT / "etc/pyproxy").mkdir(parents=True)


def put_pages() -> None:
    """Make the manual pages and the completions from the command line itself."""
    pages = ROOT / "usr/share/man/man1"
    pages.mkdir(parents=True)
    write_man_pages("pyproxy", pyproxy, version=__version__, target_dir=str(pages))
    for page in sorted(pages.iterdir()):
        packed(page)
    for shell, target in COMPLETIONS.items():
        kind = get_completion_class(shell)
        if kind is None:
            raise SystemExit(f"pyproxy.deb: click has no completion for {shell}")
        write(ROOT / target, kind(pyproxy, {}, "pyproxy", "_PYPROXY_COMPLETE").source())


def pack(settings: dict[str, Any]) -> Path:
    """Write the control files and make the archive."""
    major, minor = sys.version_info[:2]
    architecture = output("dpkg", "--print-architecture")
    size = sum(file.stat().st_size for file in ROOT.rglob("*") if file.is_file()) // 1024
    text = CONTROL.format(
        version=__version__,
        architecture=architecture,
        size=size,
        python=f"{major}.{minor}",
        next_python=f"{major}.{minor + 1}",
        libraries=libraries(),
        description=settings["description"],
    )
    write(ROOT / "DEBIAN/control", text)
    for script in ("postinst", "prerm", "postrm"):
        write(ROOT / "DEBIAN" / script, (HERE / script).read_bytes(), 0o755)
    made = BUILD / f"pyproxy_{__version__}_{architecture}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(ROOT), str(made)], check=True)
    return made


def libraries() -> str:
    """Return which packages have the C libraries that the extensions are linked with."""
    stub = BUILD / "shlibdeps"
    write(stub / "debian/control", "Source: pyproxy\n\nPackage: pyproxy\nArchitecture: any\n")
    found = [str(file) for file in (PRIVATE / "_fastpath").glob("*.so")]
    told = output("dpkg-shlibdeps", "-O", *(f"-e{file}" for file in found), within=stub)
    shutil.rmtree(stub)
    return told.partition("=")[2]


def packed(file: Path) -> None:
    """Compress a file as Debian wants its pages."""
    file.with_name(file.name + ".gz").write_bytes(gzip.compress(file.read_bytes(), mtime=0))
    file.unlink()


def write(file: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Write a file and the directories above it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    file.chmod(mode)


def output(*words: str, within: Path = PROJECT) -> str:
    """Run a command and return what it prints."""
    return subprocess.run(words, cwd=within, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


if __name__ == "__main__":
    os.umask(0o022)
    sys.stdout.write(f"{build()}\n")
