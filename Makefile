# `make` alone explains the targets. Needs python3 (3.11 or newer), pip and make; everything else goes into $(VENV).

PYTHON ?= python3
VENV ?= .venv
# The tested versions. `make install CONSTRAINTS=` takes the newest ones that pyproject.toml allows.
CONSTRAINTS ?= .ci/constraints.txt
# More arguments for the command behind a target: `make test ARGS="-k outbox -x"`.
ARGS ?=
# Processes that share the tests, each with servers of its own; 0 runs them in one, for a debugger.
# Three for two processors: a test waits for a third of its time.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) * 3 // 2)')

# The tests of what meets LangChain's own classes, by the beginning of their files' names.
FACING := callbacks chat_history context llm_extraction media messages middleware openai scripted_model state surfaces thread tools

BIN := $(VENV)/bin
# One environment in two stages: what the demo needs is there in a minute, `make install` completes it.
DEMO := $(VENV)/.demo$(if $(OPENAI_API_KEY),-openai)
INSTALLED := $(VENV)/.installed
# LangGraph's server asks for other versions than ours, so it has an environment of its own, where the tests look for it.
LANGGRAPH := .venv-langgraph
COMMA := ,
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check $(addprefix --constraint ,$(CONSTRAINTS))

.DEFAULT_GOAL := help
.PHONY: help install langgraph demo serve test test-all test-oldest long chaos simulate bench notebooks docs check lint format typecheck constraints clean

help: ## explain the targets, and tell how long they take
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(DEMO) ## a WhatsApp customer is answered by an agent and synced, no key needed: 5 s, the first time 1 min (145 MB)
	$(BIN)/convsync demo $(ARGS)

serve: $(DEMO) ## run the reference API server until Ctrl+C: 2 s; it needs what the demo needs
	$(BIN)/convsync serve $(ARGS)

install: $(INSTALLED) ## complete .venv: the package, all its extras and the development tools: 3 min (1 GB)

# Some systems ship python3 without ensurepip: there, python3's own pip brings one into the environment.
$(VENV)/.pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV) || $(PYTHON) -m venv --without-pip $(VENV)
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m pip --python $(BIN)/python install --quiet pip
	@touch $@

# Python compiles what the demo imports, which is less than all that is installed.
$(DEMO): pyproject.toml $(CONSTRAINTS) | $(VENV)/.pip
	@echo 'Installing what the demo needs into $(VENV): about 60 packages, 145 MB.'
	$(PIP_INSTALL) --no-compile --editable '.[agents,server,cli$(if $(OPENAI_API_KEY),$(COMMA)openai)]'
	@touch $@

# `--group` needs pip 25.1.
$(INSTALLED): pyproject.toml $(CONSTRAINTS) | $(VENV)/.pip
	@echo 'Installing everything for development into $(VENV): about 200 packages, 1 GB.'
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(PIP_INSTALL) --editable '.[all]' --group dev
	@touch $(VENV)/.demo $(VENV)/.demo-openai $@

langgraph: $(LANGGRAPH)/.installed ## LangGraph's own server, for the tests that `make test-all` runs on it: 45 s (260 MB)

$(LANGGRAPH)/.installed: pyproject.toml .ci/langgraph.txt
	$(PYTHON) -m venv $(LANGGRAPH) || $(PYTHON) -m venv --without-pip $(LANGGRAPH)
	$(LANGGRAPH)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m pip --python $(LANGGRAPH)/bin/python install --quiet pip
	$(LANGGRAPH)/bin/python -m pip install --disable-pip-version-check --constraint .ci/langgraph.txt --editable '.[agents]' 'langgraph-cli[inmem]'
	@touch $@

# A worker that is done takes over what another one has not begun.
# What was compiled is kept, also where the environment says otherwise: 8,000 tests are read by each.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

test: install ## run the tests in random order, but for those that are long by nature: 7 min on two cores
	$(PYTEST) -m 'not slow' $(ARGS)

test-all: install ## run every test in random order: about 35 min on two cores; ARGS=--cov tells which branches none takes
	@$(MAKE) langgraph || echo 'LangGraph could not be installed, so the tests on its own server will be skipped.'
	$(PYTEST) $(ARGS)

# The floors of pyproject.toml, for what LangChain's own packages are; all else as tested.
OLDEST := $(VENV)-oldest
test-oldest: ## what faces LangChain, on the oldest LangChain that pyproject.toml allows: 6 min, in $(VENV)-oldest
	$(MAKE) $(OLDEST)/.pip VENV=$(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	sed -nE 's/^ +"(langchain(-core)?)>=([0-9.]+).*/\1==\3/p; s/^.*\["(langchain)>=([0-9.]+).*/\1==\2/p' pyproject.toml > $(OLDEST)/floors.txt
	grep -vE '^(langchain|langgraph|langsmith|openai|tiktoken)' .ci/constraints.txt >> $(OLDEST)/floors.txt
	$(OLDEST)/bin/python -m pip install --quiet --constraint $(OLDEST)/floors.txt --editable '.[all]' --group oldest
	$(OLDEST)/bin/python -m pytest --numprocesses $(WORKERS) --dist worksteal \
		$(wildcard $(addsuffix *.py,$(addprefix tests/unit_tests/test_,$(FACING)) $(addprefix tests/integration_tests/test_,$(FACING)))) $(ARGS)

long: install ## the longest of the tests: stores against their model, and the engine without each guard, half an hour
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest tests/integration_tests/test_stores_model.py tests/integration_tests/test_chaos.py $(ARGS)

chaos: install ## kill everything all the time and count what is lost or doubled: TURNS=1000 KILLS=80 SEED=1 STORE=both
	$(BIN)/python -m tests.chaos $(foreach o,TURNS KILLS SEED STORE DRAIN,$(if $($o),--$(shell echo $o | tr A-Z a-z) $($o))) $(ARGS)

simulate: install ## the same on one thread in virtual time, 10 ms a turn: TURNS=1000 SEED=0, or ARGS=--exhaustive for every schedule
	$(BIN)/python -m tests.simulation $(foreach o,TURNS SEED,$(if $($o),--$(shell echo $o | tr A-Z a-z) $($o))) $(ARGS)

bench: install ## what a turn costs beside what people write by hand: ONLY=a,b ROUNDS=5 TURNS=100000 CONVERSATIONS=1000000 JSON=bench.json PLOT=bench.png
	$(BIN)/python -m pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS)) --group bench
	$(BIN)/python -m tests.benchmarks $(foreach o,ONLY ROUNDS TURNS CONVERSATIONS JSON PLOT,$(if $($o),--$(shell echo $o | tr A-Z a-z) $($o))) $(ARGS)

notebooks: install ## run the notebooks and rewrite their outputs in place, which the tests compare
	$(BIN)/python -m tests.notebooks

docs: install ## renew the pages that the code writes, and build all of them in site/: 5 s; a broken link or name fails
	$(BIN)/python -m tests.site
	NO_COLOR=1 $(BIN)/zensical build --strict --clean
	$(BIN)/python .ci/llms.py site

check: lint typecheck docs ## everything that reads the code and the pages without running them

lint: install ## formatting, ruff's rules and the import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo

format: install ## format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

typecheck: install ## mypy, strict, over the package and its tests
	$(BIN)/mypy

constraints: ## renew .ci/constraints.txt from the newest versions that pyproject.toml allows
	rm -rf $(VENV)-newest
	$(MAKE) install VENV=$(VENV)-newest CONSTRAINTS=
	{ head -n 1 .ci/constraints.txt && $(VENV)-newest/bin/python -m pip freeze --exclude-editable; } > .ci/constraints.new
	mv .ci/constraints.new .ci/constraints.txt
	rm -rf $(VENV)-newest $(LANGGRAPH)
	head -n 1 .ci/langgraph.txt >.ci/langgraph.new && cp .ci/langgraph.new .ci/langgraph.txt
	$(MAKE) langgraph
	$(LANGGRAPH)/bin/python -m pip freeze --exclude-editable >>.ci/langgraph.new
	mv .ci/langgraph.new .ci/langgraph.txt

clean: ## remove the environment and every cache
	rm -rf $(VENV) $(LANGGRAPH) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage dist site .cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
