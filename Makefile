# People and CI run the same targets; `make help` lists them. Needs Python 3.11+ and make, no more:
# the first target that you run makes .venv and installs what constraints.txt pins.

PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3 python; do \
	$$python -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
BIN := .venv/bin
READY := .venv/.ready
BENCH_READY := .venv/.ready-bench
DOCS_READY := .venv/.ready-docs
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
OUT ?= trueup-demo
# Each test process has one thread; otherwise they fight for the same cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --maxprocesses 8 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup demo test proofs coverage check fix docs bench build clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

setup: $(READY)  ## make .venv and install trueup with its development tools

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11+ with venv found; install one or run make PYTHON=/path/to/python" >&2; exit 2; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo 'installing torch, then the rest, into .venv: some minutes, once' >&2
	$(PIP) install --quiet -c constraints.txt torch
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

$(BENCH_READY): $(READY)
	$(PIP) install --quiet -c constraints.txt -e '.[bench]'
	@touch $@

$(DOCS_READY): $(READY)
	$(PIP) install --quiet -c constraints.txt -e '.[docs]'
	@touch $@

demo: $(READY)  ## the whole loop on the embedded world; OUT=FOLDER for the run and the report
	$(BIN)/trueup demo --out $(OUT)

test: $(READY)  ## all tests, proofs among them; ARGS="-k shared_prefix" narrows them
	$(PYTEST) $(ARGS)

proofs: $(READY)  ## only the proofs: what makes a method `proven`
	$(PYTEST) tests/proofs $(ARGS)

coverage: $(READY)  ## branch coverage of maths, data and statistics, with its gate
	$(PYTEST) --cov --cov-report=term-missing:skip-covered --cov-fail-under=90 $(ARGS)

check: $(READY)  ## style, types, floors, copies, spelling, stale pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pylint trueup
	$(BIN)/typos
	$(BIN)/python scripts/pages.py --check

fix: $(READY)  ## mend what can be mended without thinking
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/typos --write-changes
	$(BIN)/python scripts/pages.py

docs: $(DOCS_READY)  ## write the generated pages again, then build the site into site/
	$(BIN)/python scripts/pages.py
	$(BIN)/mkdocs build --strict --quiet

bench: $(BENCH_READY)  ## every benchmark against its peer; JSON rows go to stdout
	@for script in $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py)); do \
		$(BIN)/python $$script --json || exit 1; done

build: $(READY)  ## the wheel and the source archive into dist/
	$(BIN)/hatchling build

clean:  ## remove what the other targets made, .venv too
	rm -rf .venv dist site trueup-demo .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
