# Every target sets up .venv by itself. On a fresh machine: make demo
# Another interpreter: make PYTHON=python3.12 demo. A lighter torch: see "Set up" in CONTRIBUTING.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := runs/demo

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test test-slow test-oldest test-newest lint results clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

install: $(INSTALLED) ## set up .venv (the others do it by themselves)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "anystep needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "setting up $(VENV) (once; torch is the largest part)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(INSTALLED) ## train plain and TKS on digits-dvs, print the accuracy at every T, write page and picture
	$(BIN)/anystep compare recipes/digits_demo.yaml --methods ce,tks --seeds 1 --out $(DEMO)
	$(BIN)/anystep report $(DEMO) --out $(DEMO)/report.html
	@printf 'table    %s\npage     %s\npicture  %s\n' $(DEMO)/comparison.json $(DEMO)/report.html $(DEMO)/report.png

# A process a core, one thread each: the tensors of the tests are small, and threads that wait for a
# busy core cost more than they bring. A process that is done takes tests from one that is not.
PYTEST = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -q -n auto --dist worksteal

test: $(INSTALLED) ## the suite: no download, a few minutes on two cores
	$(PYTEST) -m "not slow"

test-slow: $(INSTALLED) ## the long tests
	$(PYTEST) -m slow

# Without constraints.txt, in .venv-oldest and .venv-newest: what pyproject.toml asks for by name, in
# the lowest and in the newest releases that it allows. uv, because pip cannot take the lowest.
test-oldest test-newest: BIN = .venv-$(@:test-%=%)/bin
test-oldest: RELEASES = lowest-direct
test-newest: RELEASES = highest

test-oldest: ## the suite on the oldest releases of all packages (some GB)
test-newest: ## the suite on the newest releases of all packages (some GB)
test-oldest test-newest:
	@test -x $(BIN)/uv || { $(PYTHON) -m venv $(BIN:/bin=) && \
	  $(BIN)/pip install --quiet --disable-pip-version-check uv; }
	$(BIN)/uv pip install --python $(BIN)/python --upgrade --compile-bytecode \
	  --resolution $(RELEASES) -e '.[dev]'
	$(PYTEST) -m "not slow"

lint: $(INSTALLED) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

results: $(INSTALLED) ## train the seeds that the README quotes and write results/
	$(BIN)/python -m studies.measure

clean: ## remove caches and builds; runs/ and .venv stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find anystep benchmarks studies tests -name __pycache__ -prune -exec rm -rf {} +
