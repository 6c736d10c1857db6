# What is run daily is one word; each target sets up what it needs by itself.
# Needs: git, make, python3 (3.11 or newer) with venv, a C compiler.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
STAMPS := $(VENV)/stamps
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
PYTEST_ARGS ?=

SOURCES := $(wildcard _fastpath/*.pyx _fastpath/*.pxd _fastpath/*.h)
# The iSCSI back end was left out for want of libiscsi's headers, which are here now.
LEFT_OUT := $(if $(wildcard /usr/include/iscsi/iscsi.h),$(if $(wildcard _fastpath/iscsi.*.so),,left-out))

.PHONY: help demo test test-slow bench bench-compare lint build deb clean left-out

help:
	@echo "make demo       see a reservation move between two hosts (no privileges)"
	@echo "make test       every test that is not slow, on a real kernel too (installs Debian packages as root or with sudo)"
	@echo "make test-slow  the tests that take minutes: 300 kills, daemons killed while a guest moves, QEMU inside the machine"
	@echo "make bench      measure, beside the floors"
	@echo "make bench-compare  measure what guards against regressions and compare it with BASE=bench/baselines/..."
	@echo "make lint       style, types, layering, C warnings"
	@echo "make deb        build/pyproxy_*.deb, for the Debian this is run on (needs dpkg-dev)"
	@echo "make build      the virtual environment and the extensions"
	@echo "make clean      remove what the other targets made"

demo: $(STAMPS)/built
	@$(BIN)/pyproxy demo

build: $(STAMPS)/built

test: $(STAMPS)/dev
	@tests/parts/install.sh test
	@$(MAKE) --no-print-directory $(STAMPS)/built
	$(BIN)/pytest --forbid-skips $(PYTEST_ARGS)

# What takes minutes each; `make test` leaves these directories out.
test-slow: $(STAMPS)/dev
	@tests/parts/install.sh test
	@$(MAKE) --no-print-directory $(STAMPS)/built
	PYPROXY_THOROUGH=1 $(BIN)/pytest --forbid-skips tests/slow tests/vm/guest/slow tests/vm/disk/test_conformance.py \
		tests/vm/guest/test_pr_helper_load.py $(PYTEST_ARGS)

bench: $(STAMPS)/dev $(STAMPS)/built
	@tests/parts/install.sh bench
	$(PY) -m bench

deb: $(STAMPS)/dev $(STAMPS)/built
	@$(PY) deploy/debian/build.py

# Compares with a stored run, by default the newest baseline; fails where a ratio has become worse.
BASE ?= bench/baselines/guard.json
bench-compare: $(STAMPS)/dev $(STAMPS)/built
	@tests/parts/install.sh bench
	$(PY) -m bench.compare $(BASE)

lint: $(STAMPS)/dev $(STAMPS)/built
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint _fastpath/*.pyx _fastpath/*.pxd
	$(PY) tests/lint/check_nogil.py
	tests/lint/c_warnings.sh $(PY)
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks .import_linter_cache
	rm -f _fastpath/*.so _fastpath/*.c _fastpath/*.html
	find pyproxy _fastpath tests bench docs -name __pycache__ -type d -prune -exec rm -rf {} +

# The virtual environment, with what pyproxy needs to be built.
$(STAMPS)/venv: pyproject.toml tests/parts/prerequisites.sh
	@tests/parts/prerequisites.sh $(PYTHON)
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PIP) $$($(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")')
	@mkdir -p $(STAMPS)
	@touch $@

# The editable install; it compiles every extension and fails when one does not compile.
$(STAMPS)/installed: $(STAMPS)/venv
	@$(PIP) --no-build-isolation --editable .
	@touch $@

$(STAMPS)/dev: $(STAMPS)/venv
	@$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@ $(STAMPS)/installed

$(STAMPS)/built: setup.py $(SOURCES) $(LEFT_OUT) | $(STAMPS)/installed
	@$(PY) setup.py --quiet build_ext --inplace
	@touch $@
