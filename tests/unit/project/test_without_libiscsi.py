"""An installation without libiscsi: what is left out, and what it says to those who ask for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

_ASK = """
import sys
sys.modules["_fastpath.iscsi"] = None  # what importing an extension that was not built comes to
from pyproxy.device.iscsi import IscsiDevice
from pyproxy.device.iscsi_settings import IscsiError, IscsiSettings
settings = IscsiSettings(
    url="iscsi://127.0.0.1/iqn.2026-01.org.example:disk/0", initiator="iqn.2026-01.org.example:host"
)
try:
    IscsiDevice.open(settings, host="h", guest="g", lun=0)
except IscsiError as error:
    print(error)
"""

_LIST = """
import setuptools, Cython.Build, runpy, subprocess
made = []
setuptools.setup = lambda **words: None
Cython.Build.cythonize = lambda extensions, **words: made.extend(one.name for one in extensions)
if {hide}:
    real = subprocess.run
    # A compiler that is told to look nowhere finds no header.
    subprocess.run = lambda command, **words: real([command[0], "-nostdinc", *command[1:]], **words)
runpy.run_path("setup.py")
print("\\n".join(sorted(made)))
"""


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)


def test_asking_for_it_names_the_package() -> None:
    assert "libiscsi-dev" in _run(_ASK).stdout
    assert "install pyproxy again" in _run(_ASK).stdout


def test_everything_else_is_built_without_the_headers() -> None:
    everything = {f"_fastpath.{path.stem}" for path in (ROOT / "_fastpath").glob("*.pyx")}
    with_headers, without = _run(_LIST.format(hide=False)), _run(_LIST.format(hide=True))
    assert set(with_headers.stdout.split()) == everything
    assert everything - set(without.stdout.split()) == {
        "_fastpath.iscsi",
        "_fastpath.iscsi_login",
        "_fastpath.iscsi_session",
    }
    assert "without the iSCSI back end (Debian: libiscsi-dev)" in without.stderr
    assert "libiscsi-dev" not in with_headers.stderr


def test_what_uses_the_fast_path_does_not_need_it() -> None:
    code = 'import sys; sys.modules["_fastpath.iscsi"] = None; import pyproxy.device.iscsi, pyproxy.daemon.host'
    assert _run(code).returncode == 0
