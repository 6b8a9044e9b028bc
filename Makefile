# Every target sets up .venv first; the only requirements are Python (3.10 or newer) and git.
.DEFAULT_GOAL := help
SHELL := bash
PYTHON ?= python3
VENV ?= .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
PY := $(BIN)/python
STAMP := $(VENV)/.installed
UV := $(shell command -v uv 2>/dev/null)

.PHONY: help setup demo serve test coverage test-all test-fast lint style format tensorboard clean

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## install everything into .venv (one-off, takes a few minutes)

$(STAMP): pyproject.toml constraints.txt
ifneq ($(UV),)
	test -x $(PY) || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	$(UV) pip install --quiet --python $(PY) --constraint constraints.txt --editable '.[dev]'
else
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	@# What pip would do on one core; some files in packages are not meant to be compiled.
	$(PY) -m compileall -qq -j 0 "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || true
endif
	@touch $@

demo: setup ## train, test and predict on generated smears (no download)
	$(PY) train.py experiment=demo
	$(PY) predict.py ckpt=outputs/demo 'input=data/generated/*/slide00-0000?.png'

serve: setup ## start the server: make serve MODEL=model.onnx; without MODEL, with a demo model
	$(BIN)/bcd serve $(if $(MODEL),model=$(MODEL))

# The many programs that tests start would otherwise compile bcd again, each of them.
unexport PYTHONDONTWRITEBYTECODE

# One process per core with one thread each, so that test files do not compete for cores.
PYTEST_ALL := OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
PYTEST := $(PYTEST_ALL) -m "not exhaustive"

# Before Python 3.12, measuring coverage takes half as long again as the tests themselves.
HAS_FAST_COVERAGE := import sys; sys.exit(sys.version_info < (3, 12))

# mypy uses one core for a minute: it runs beside the tests, and what it says is printed after theirs.
# SIGINT does not reach a job in the background, so the trap ends it.
test: style ## check style and types, run the tests; from Python 3.12 on, print coverage
	@said=$$(mktemp); $(PY) -m mypy >"$$said" 2>&1 & types=$$!; \
	trap 'kill $$types 2>/dev/null; rm -f "$$said"' EXIT; \
	if $(PY) -c "$(HAS_FAST_COVERAGE)"; then more="--cov --cov-report=term"; else more=; fi; \
	echo '$(PYTEST)' $$more; \
	$(PYTEST) $$more; tests=$$?; \
	wait $$types; mypy=$$?; \
	echo "$(PY) -m mypy"; cat "$$said"; \
	if [ $$tests != 0 ]; then echo "FAILED: pytest, see above" >&2; fi; \
	if [ $$mypy != 0 ]; then echo "FAILED: mypy, see above" >&2; fi; \
	[ $$tests = 0 ] && [ $$mypy = 0 ]

test-all: setup ## run every test, also those that take long and resemble others
	$(PYTEST_ALL)

coverage: setup ## run the tests and print coverage
	$(PYTEST) --cov --cov-report=term

test-fast: setup ## run the tests that take less than about ten seconds each
	$(PYTEST_ALL) -m "not slow and not exhaustive"

lint: style ## ruff and mypy
	$(PY) -m mypy

style: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: setup ## let ruff fix style
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

tensorboard: setup ## show all runs in the browser
	$(BIN)/tensorboard --logdir outputs

clean: ## remove .venv and caches (data/, weights/ and outputs/ stay)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info
