#!/usr/bin/env bash
# Checks what the virtual environment and the build need, before anything is made: PYTHON 3.11 or newer with venv,
# its headers and a C compiler. What is missing is installed as root or through sudo, or the command to type is printed.
# Usage: prerequisites.sh PYTHON
set -euo pipefail
python=$1

fail() {
    printf 'pyproxy: %s\n' "$1" >&2
    exit 1
}

command -v "$python" >/dev/null || fail "there is no $python here: install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old, 3.11 or newer is needed: make PYTHON=/path/to/python3"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python has no venv; type: sudo apt-get update && sudo apt-get install --yes python3-venv"
PYTHON=$python "$(dirname "${BASH_SOURCE[0]}")/install.sh" build
