"""``--forbid-skips``: what cannot run for want of a part must not pass in silence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

CASES = {
    "mark": "import pytest\n@pytest.mark.skip(reason='no part')\ndef test(): pass\n",
    "call": "import pytest\ndef test(): pytest.skip('no part')\n",
    "fixture": "import pytest\n@pytest.fixture\ndef part(): pytest.skip('no part')\ndef test(part): pass\n",
    "module": "import pytest\npytest.skip('no part', allow_module_level=True)\n",
    "import": "import pytest\npytest.importorskip('no_part')\ndef test(): pass\n",
}


def run(tmp_path: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "test_one.py").write_text(text)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        tmp_path,
    ]
    return subprocess.run(
        [*command, "-c", "/dev/null", *options, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("text", CASES.values(), ids=CASES.keys())
def test_a_skip_is_a_failure(tmp_path: Path, text: str) -> None:
    done = run(tmp_path, text, "--forbid-skips")
    assert done.returncode in (1, 2), done.stdout
    assert "no part" in done.stdout or "no_part" in done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1]


def test_without_the_option_skips_stay_skips(tmp_path: Path) -> None:
    done = run(tmp_path, CASES["call"])
    assert done.returncode == 0
    assert "1 skipped" in done.stdout


def test_expected_failures_stay(tmp_path: Path) -> None:
    done = run(tmp_path, "import pytest\n@pytest.mark.xfail\ndef test(): raise ValueError\n", "--forbid-skips")
    assert done.returncode == 0, done.stdout
    assert "1 xfailed" in done.stdout
