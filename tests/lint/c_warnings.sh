#!/usr/bin/env bash
# Compiles every extension with warnings as errors, in a scratch directory.
# Usage: c_warnings.sh PYTHON
set -euo pipefail
scratch=$(mktemp --directory)
trap 'rm -rf "$scratch"' EXIT
CFLAGS="-Wall -Wextra -Werror" "$1" setup.py --quiet build_ext --force --build-lib "$scratch/lib" --build-temp "$scratch/temp"
