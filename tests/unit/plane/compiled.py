"""Compiles the test extensions beside this file, against the declarations the data plane was built from."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path
from types import ModuleType

from _fastpath import worker

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
DIRECTIVES = ("boundscheck=False", "wraparound=False", "initializedcheck=False", "cdivision=True")


@cache
def compiled(name: str) -> ModuleType:
    """The module made of ``NAME.pyx``; compiled once per content."""
    inputs = [HERE / f"{name}.pyx", *sorted((ROOT / "_fastpath").glob("*.pxd")), Path(worker.__file__)]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()[:16]
    target = ROOT / ".cache" / "tests" / f"{name}-{digest}" / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        build(name, target)
    spec = importlib.util.spec_from_file_location(name, target)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(name: str, target: Path, *flags: str) -> None:
    """Make ``target`` of a test extension here; the directory must exist."""
    generated = target.with_name(f"{name}.c")
    unfinished = target.with_suffix(".tmp")
    options = [part for directive in DIRECTIVES for part in ("-X", directive)]
    source = str(HERE / f"{name}.pyx")
    _run([sys.executable, "-m", "cython", "-3", "-I", str(ROOT), *options, "-o", str(generated), source])
    compiler = (sysconfig.get_config_var("CC") or "cc").split()
    include = [f"-I{sysconfig.get_path('include')}", f"-I{ROOT / '_fastpath'}"]
    common = ["-shared", "-fPIC", "-O1", "-pthread", "-fno-strict-aliasing", *flags]
    _run([*compiler, *common, *include, "-o", str(unfinished), str(generated)])
    unfinished.rename(target)


def _run(arguments: list[str]) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
