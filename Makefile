# What a contributor needs; .ci/run calls the same targets. Everything of Python's lives in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made-from-requirements

.PHONY: demo test lint servers soak faults bench lock clean

$(STAMP): pyproject.toml requirements/dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

## demo: the main job on this machine, with a dummy model server
demo: $(STAMP)
	$(BIN)/model-agent demo

## servers: the real model servers and object stores that tests talk to, each in a place of its own outside the checkout
servers: $(STAMP)
	tests/servers/install.sh
	tests/servers/objectstores.sh

## test: everything but what takes minutes
test: $(STAMP) servers
	$(BIN)/python -m pytest -m "not soak"

## lint: formatter, linter, types, floors
lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

## faults: every fault of the catalogue with the tests that prove it, and what came of each
faults: $(STAMP) servers
	$(BIN)/python -m tests.faults.table

## soak: what takes minutes
soak: $(STAMP) servers
	$(BIN)/python -m pytest -m soak

## bench: how fast bytes come, beside the native tools; takes a quarter of an hour
bench: $(STAMP)
	tests/bench/peers.sh
	$(BIN)/python -m tests.bench.download --json bench-download.json
	$(BIN)/python -m tests.bench.resume

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

## lock: pin what requirements/dev.in and the package ask for, as a fresh environment resolves it today
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements/dev.in ".[s3,gcs]"
	(echo "# Made by make lock from dev.in and pyproject.toml."; \
	  build/lock/bin/python -m pip freeze | grep -v '^model-agent') > requirements/dev.txt
	rm -rf build
