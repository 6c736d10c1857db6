"""Fails where a function of the fast path that promises to run without the GIL calls into Python.

Usage: check_nogil.py [FILE.pyx [FUNCTION ...]]

Without arguments every function declared ``noexcept nogil`` in _fastpath/*.pyx is checked, and the loops listed in
REQUIRED must be among them. The generated C is what is read: ``cython -a`` marks the same lines yellow.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]

# The loops that run once per command, so that renaming one cannot take it out of the check unnoticed.
REQUIRED = {
    "cdb": ("parse_many", "parse_scaled", "parse_one", "_decode", "_second_look", "_decode_variable", "_parse_short"),
    "lanes": ("run_lanes", "scan_completion", "_scan_sense", "_post", "_refuse"),
    "virtqueue": ("vring_waiting", "vring_take", "vring_walk", "vring_push", "vring_publish", "vring_must_notify"),
    "virtio_scsi": ("request_parse", "request_answer", "request_settle"),
    "block_port": ("block_execute",),
    "dispatch": ("serve_queue", "_execute", "_route", "_to_blocks", "_finish", "run_port"),
    "worker": ("worker_run", "worker_pass", "_sleep"),
    "iscsi": ("submit", "start", "reap", "watch"),
    "iscsi_session": ("session_queue", "session_serve", "session_look", "session_wait", "_on_answer", "_take_answer"),
}

_DECLARATION = re.compile(
    r"^[ \t]*cdef\s[^\n=]*?\b(?P<name>\w+)\s*\((?P<arguments>[^()]*)\)\s*noexcept\s+nogil\s*:", re.MULTILINE
)
_DEFINITION = re.compile(
    r"^[ \t]*(?:static|CYTHON_INLINE|__PYX_EXTERN_C)[^;{}()]*?\b__pyx_f_\w+\([^;{}]*\)\s*\{", re.MULTILINE
)
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
# Calls into CPython or into Cython's own run time. __pyx_f_ are other cdef functions and are checked themselves.
_PYTHON_CALL = re.compile(r"\b(_?Py[A-Z_]\w*|__Pyx_\w+)\s*\(")
# Macros that only look like calls: type names in casts, and arithmetic helpers without any Python object.
_HARMLESS = re.compile(
    r"__Pyx_(?:div_\w+|mod_\w+|pow_\w+|UNARY_NEG_WOULD_OVERFLOW|FastGIL_\w+|fits_Py_ssize_t|MAYBE_UNUSED\w*)|PyObject$"
)


def declared(source: Path) -> list[str]:
    """Names of the functions with a body in ``source`` that promise not to need the GIL."""
    return [match["name"] for match in _DECLARATION.finditer(source.read_text())]


def generated_c(source: Path, directory: Path) -> str:
    """The C that Cython makes of ``source``, without comments, with the directives of the build."""
    target = directory / f"{source.stem}.c"
    directives = ("boundscheck=False", "wraparound=False", "initializedcheck=False", "cdivision=True")
    options = [part for directive in directives for part in ("-X", directive)]
    done = subprocess.run(
        [sys.executable, "-m", "cython", "-3", "-I", str(ROOT), *options, "-o", str(target), str(source)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{source}: Cython refuses it:\n{done.stderr}")
    return _COMMENT.sub(" ", target.read_text())


def bodies(code: str) -> Iterator[tuple[str, str]]:
    """Yield (C name, body) of every cdef function defined in generated C."""
    for match in _DEFINITION.finditer(code):
        depth, at = 1, match.end()
        while depth:
            at += 1
            depth += {"{": 1, "}": -1}.get(code[at - 1], 0)
        names = re.findall(r"\b(__pyx_f_\w+)\(", match.group())
        yield names[-1], code[match.end() : at - 1]


def python_calls(body: str) -> list[str]:
    """Names of what a C function body calls of Python, in order, each once."""
    calls = [name for name in _PYTHON_CALL.findall(body) if not _HARMLESS.match(name)]
    return list(dict.fromkeys(calls))


def check(source: Path, functions: Sequence[str], directory: Path) -> list[str]:
    """Check the named functions of one .pyx file; returns one sentence per fault."""
    found = dict(bodies(generated_c(source, directory)))
    faults = []
    for function in functions:
        ending = re.compile(rf"_{len(source.stem)}{source.stem}_(?:\d+\w+_)?{function}$")
        matching = [body for name, body in found.items() if ending.search(name)]
        if not matching:
            faults.append(f"{source.name}: no C function found for {function}")
        for body in matching:
            calls = python_calls(body)
            if calls:
                faults.append(f"{source.name}: {function} promises to run without the GIL and calls {', '.join(calls)}")
    return faults


def main(arguments: Sequence[str]) -> int:
    """Check what the command line names, or everything; returns the exit status."""
    if arguments:
        source = Path(arguments[0]).resolve()
        work = {source: list(arguments[1:]) or declared(source)}
        faults = []
    else:
        work = {path: declared(path) for path in sorted((ROOT / "_fastpath").glob("*.pyx"))}
        names = {path.stem: functions for path, functions in work.items()}
        faults = [
            f"{stem}.pyx: {function} must be declared noexcept nogil there"
            for stem, functions in REQUIRED.items()
            for function in functions
            if function not in names.get(stem, ())
        ]
    with tempfile.TemporaryDirectory() as scratch:
        for path, functions in work.items():
            if functions:
                faults += check(path, functions, Path(scratch))
    for fault in faults:
        sys.stderr.write(f"{fault}\n")
    if not faults:
        total = sum(len(functions) for functions in work.values())
        sys.stdout.write(f"{total} functions in {len(work)} files run without the GIL and call nothing of Python\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
