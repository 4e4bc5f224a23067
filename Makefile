# Each target sets up what it needs, the first time, with nothing but Python 3.11+.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Modules are compiled once, also where the environment says otherwise: each test worker loads all.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast check lint workflows types soak mutants audit sbom adapters benchmarks pictures wheel bundle docs lock clean

demo: $(READY)  ## Watch the whole product work, without an account.
	@$(BIN)/replicate-mcp demo

# Every test worker loads all tests: their modules are compiled before, once.
COMPILED := tests/__pycache__/.compiled
HALF := tests/backends tests/batches tests/cli tests/semaphores tests/tasks

$(COMPILED): $(READY)
	@$(BIN)/python -m pytest --collect-only -qq $(HALF) >/dev/null 2>&1 & \
	  $(BIN)/python -m pytest --collect-only -qq $(HALF:%=--ignore=%) >/dev/null 2>&1; wait
	@mkdir -p $(@D)
	@touch $@

test: $(COMPILED)  ## The whole test suite, in parallel.
	@$(BIN)/python -m pytest -n auto --dist worksteal -m "not (soak or alternative)" -q

# Those of the core, which start no server.
FAST := tests/tasks tests/semaphores tests/batches tests/replicate_api tests/backends tests/test_*.py

test-fast: $(READY)  ## The core's tests, without servers, browsers and processes.
	@$(BIN)/python -m pytest -n auto --dist worksteal -m "not (soak or alternative or server)" -q $(FAST)

check: lint workflows types audit

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@PYTHONPATH=src $(BIN)/lint-imports --no-cache

# Where the workflows are; a test names others.
WORKFLOWS ?= .github

workflows: $(READY)
	@$(BIN)/actionlint -shellcheck= -pyflakes= $(WORKFLOWS)/workflows/*.yml
	@$(BIN)/zizmor --quiet --offline --no-progress --strict-collection --pedantic $(WORKFLOWS)

types: $(READY)
	@$(BIN)/mypy

audit: $(READY)  ## The lock files against published advisories, where their services answer.
	@$(BIN)/python tools/audit.py

sbom: $(READY)  ## dist/sbom.cdx.json: the Python packages that the Docker image installs.
	@$(BIN)/python tools/sbom.py

soak: $(READY)  ## Long runs: faults at random moments, many processes.
	@$(BIN)/python -m pytest --thorough -n auto --dist worksteal -m "(soak or alternative or property) and not (timed or alone)" -q
	@$(BIN)/python -m pytest --thorough -n 4 --dist worksteal -m "soak and timed" -q
	@$(BIN)/python -m pytest --thorough -m "soak and alone" -q

mutants: $(READY)  ## Small faults in the core that no test notices; ONLY="batches/reconciliation" for a part.
	@$(BIN)/python -m tools.mutants $(ONLY)

adapters: $(READY)  ## The MCP adapters of other frameworks, each in an environment of its own.
	@$(BIN)/python tests/adapters/run.py

benchmarks: $(READY)
	@for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

pictures: $(READY)  ## The README's, of real runs, in half an hour; needs npm and a Chromium.
	@$(BIN)/python pictures/make.py

wheel: $(READY)  ## dist/replicate_mcp-VERSION-py3-none-any.whl and .tar.gz: what PyPI would get.
	@$(BIN)/python -m hatchling build -d dist

bundle: $(READY)  ## dist/replicate-mcp-VERSION.mcpb, for Claude Desktop; needs npm.
	@npm ci --prefix bundle --silent --no-audit --no-fund
	@$(BIN)/python bundle/build.py

docs: $(READY)  ## The documentation, into site/.
	@$(BIN)/zensical build --strict --clean
	@echo "Its search and links need a server: $(BIN)/python -m http.server --bind 127.0.0.1 -d site 8001"
	@echo "Then open http://127.0.0.1:8001"

LOCKED := uv pip compile -q --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-annotate --no-header

lock: $(READY)  ## Choose the newest versions that fit, and write them down with their hashes.
	@$(BIN)/pip install -q uv
	@$(BIN)/$(LOCKED) pyproject.toml --extra simulator --extra preview --extra redis --extra http \
	  --group dev --group docs -o requirements.lock
	@$(BIN)/$(LOCKED) pyproject.toml --extra preview --extra redis --extra http -c requirements.lock \
	  -o deploy/image.lock
	@$(BIN)/$(LOCKED) --group build -c requirements.lock -o deploy/image-build.lock
	@for file in tests/adapters/*/requirements.in; do \
	  $(BIN)/$(LOCKED) $$file -o $${file%.in}.txt || exit 1; done

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "replicate-mcp needs Python 3.11 or newer: make PYTHON=/path/to/python3 ...")'
	@echo "Setting up $(VENV), once ..." >&2
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

clean:
	rm -rf $(VENV) .adapters .pytest_cache .mypy_cache .ruff_cache .hypothesis
