# What a contributor needs; .ci/run calls the same targets. Everything of Python's lives in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made-from-requirements

.PHONY: demo test lint servers judge soak faults bench bench-eyes bench-all lock image release-check release-names sbom audit licences clean

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
	tests/servers/system.sh
	tests/servers/install.sh
	tests/servers/objectstores.sh
	tests/servers/promtool.sh

## test: everything but what takes minutes, file by file on so many processes
TEST_PROCESSES ?= 3
test: $(STAMP) servers
	$(BIN)/python -m pytest -m "not soak" --numprocesses $(TEST_PROCESSES) --dist loadfile

## lint: formatter, linter, types, floors
lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

## faults: every fault of the catalogue with the tests that prove it, and what came of each
faults: $(STAMP) servers
	$(BIN)/python -m tests.faults.table

## judge: Kubernetes' own code for CRDs and quantities, where there is Go; its tests are skipped without it
judge:
	@if command -v go >/dev/null; then tests/manifests/apiextensions/build.sh; \
	  else echo "no judge of CRDs and quantities: it needs Go"; fi

## soak: what takes minutes
soak: $(STAMP) servers judge
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements/fuzz.txt
	$(BIN)/python -m pytest -m soak
	$(BIN)/python -m tests.fuzz.run --seconds 60

## bench: how fast bytes come, beside the native tools; takes a quarter of an hour
bench: $(STAMP)
	tests/bench/peers.sh
	$(BIN)/python -m tests.bench.download --json bench-download.json
	$(BIN)/python -m tests.bench.resume --json bench-resume.json
	$(BIN)/python -m tests.bench.gcs

## bench-eyes: what looking costs: /status, /metrics, /events and the page with 10,000 models; two minutes
bench-eyes: $(STAMP)
	$(BIN)/python -m tests.bench.eyes

## bench-all: every figure there is: bytes, the agent (swap, start, idle, boot, plan), eyes, controller, proxy, pulls, store
bench-all: bench bench-eyes
	$(BIN)/python -m tests.bench.sidecar
	$(BIN)/python -m tests.bench.controller
	$(BIN)/python -m tests.bench.store
	$(BIN)/python -m tests.bench.pull_cache
	@if command -v nginx && command -v wrk; then $(BIN)/python -m tests.bench.proxy; \
	  else echo "no figures of the proxy: they need nginx and wrk"; fi

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

## lock: pin what requirements/dev.in and the package ask for, as a fresh environment resolves it today
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements/dev.in ".[s3,gcs]"
	(echo "# Made by make lock from dev.in and pyproject.toml."; \
	  build/lock/bin/python -m pip freeze | grep -v '^model-agent') > requirements/dev.txt
	rm -rf build
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	build/lock/bin/uv pip compile $(LOCK_FLAGS) requirements/build.in --output-file requirements/build.txt
	build/lock/bin/uv pip compile $(LOCK_FLAGS) --extra s3 --extra gcs pyproject.toml --output-file requirements/runtime.txt
	rm -rf build
LOCK_FLAGS := --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

# The version is the last tag's, as hatch-vcs has it for the wheel; CHANGES is the newest of README's Changes.
VERSION = $(shell git describe --tags --match 'v*' 2>/dev/null | sed -E 's/^v//; s/-([0-9]+)-g/.post\1+g/' | grep . \
  || echo "0.0.post$$(git rev-list --count HEAD)+g$$(git rev-parse --short HEAD)")
TAG = $(shell git describe --tags --exact-match --match 'v*' 2>/dev/null)
CHANGES = $(shell sed -n '/^## Changes/,$$ s/^### //p' README.md | head -1)
PYTHON_IMAGE ?= docker.io/library/python:3.13-slim-trixie
PYTHON_DIGEST ?= $(shell docker buildx imagetools inspect $(PYTHON_IMAGE) --format '{{.Manifest.Digest}}' 2>/dev/null)
IMAGE ?= model-agent:$(subst +,-,$(VERSION))
PLATFORMS ?= linux/amd64,linux/arm64

## image: for both platforms, on the base that PYTHON_DIGEST pins (looked up and said where it is not given)
image:
	@test -n "$(PYTHON_DIGEST)" || { echo "no digest of $(PYTHON_IMAGE): give PYTHON_DIGEST=sha256:…" >&2; exit 1; }
	docker buildx build --platform $(PLATFORMS) --file docker/Dockerfile --tag $(IMAGE) \
	  --build-arg PYTHON_IMAGE=$(PYTHON_IMAGE) --build-arg PYTHON_DIGEST=$(PYTHON_DIGEST) \
	  --build-arg VERSION=$(VERSION) --build-arg REVISION=$(shell git rev-parse HEAD) \
	  --build-arg CREATED=$(shell git show -s --format=%cI HEAD) --sbom=true --provenance=true $(BUILD_FLAGS) .

# The tools and the runtime as the image has it, each in a place of its own.
build/release: requirements/runtime.txt requirements/build.txt pyproject.toml
	rm -rf $@ && $(PYTHON) -m venv $@/runtime && $(PYTHON) -m venv $@/tools
	$@/runtime/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement requirements/runtime.txt
	$@/tools/bin/python -m pip install --quiet --disable-pip-version-check pip-audit cyclonedx-bom pip-licenses build twine

## sbom: the runtime's bill of materials, CycloneDX, in dist/
sbom: build/release
	mkdir -p dist
	build/release/tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  --output-file dist/model-agent-$(VERSION).cdx.json build/release/runtime/bin/python

## audit: known weaknesses of what the image holds
audit: build/release
	build/release/tools/bin/pip-audit --strict --require-hashes --disable-pip --requirement requirements/runtime.txt

LICENCES := Apache|BSD|MIT|ISC|PSF|Python Software|MPL|CC0|Unlicense|Zlib

## licences: of what the image holds, in dist/; fails on one that is not on the list
licences: build/release
	mkdir -p dist
	build/release/tools/bin/pip-licenses --python build/release/runtime/bin/python --from mixed \
	  --format markdown --with-urls --ignore-packages pip setuptools > dist/licences.md
	@! tail -n +3 dist/licences.md | awk -F'|' '$$4 !~ /$(LICENCES)/' | grep . || { echo "not on the list" >&2; exit 1; }

## release-check: what must hold before a tag: clean tree, version and changes agree, wheel and image are sound
release-check: release-names $(STAMP) build/release audit licences sbom
	rm -f dist/*.whl dist/*.tar.gz && SETUPTOOLS_SCM_PRETEND_VERSION=$(VERSION) build/release/tools/bin/python -m build --quiet --outdir dist .
	build/release/tools/bin/twine check --strict dist/*.whl dist/*.tar.gz
	$(BIN)/python -m pytest -q tests/image tests/manifests tests/test_entrypoint.py

# First, since the rest takes minutes.
release-names:
	@test -z "$$(git status --porcelain)" || { echo "the tree is not clean" >&2; exit 1; }
	@test "$(or $(TAG),v$(CHANGES))" = "v$(CHANGES)" \
	  || { echo "the tag $(TAG) is not the newest of README's Changes, $(CHANGES)" >&2; exit 1; }
	@test -n "$(TAG)" || echo "HEAD has no tag: this is checked as what v$(CHANGES) could be"
