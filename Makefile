# `make` alone explains the targets. Needs python3 (3.11 or newer), pip and make; everything else goes into $(VENV).

PYTHON ?= python3
VENV ?= .venv
# The tested versions. `make install CONSTRAINTS=` takes the newest ones that pyproject.toml allows.
CONSTRAINTS ?= .ci/constraints.txt
# More arguments for the command behind a target: `make test ARGS="-k outbox -x"`.
ARGS ?=

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo serve test long chaos bench notebooks check lint format typecheck constraints clean

help: ## explain the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## create .venv with the package, all its extras and the development tools

# Some systems ship python3 without ensurepip: there, python3's own pip brings one into the environment.
# `--group` needs pip 25.1.
$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV) || $(PYTHON) -m venv --without-pip $(VENV)
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m pip --python $(BIN)/python install --quiet pip
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS)) --editable '.[all]' --group dev
	@touch $@

demo: install ## a WhatsApp customer is answered by an agent and synced to the API server, in seconds, no key needed
	$(BIN)/convsync demo $(ARGS)

serve: install ## run the reference API server
	$(BIN)/convsync serve $(ARGS)

test: install ## run the tests in random order, with branch coverage
	$(BIN)/python -m pytest --cov $(ARGS)

long: install ## the longest of the tests: stores against their model, and the engine without each guard, half an hour
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest tests/integration_tests/test_stores_model.py tests/integration_tests/test_chaos.py $(ARGS)

chaos: install ## kill everything all the time and count what is lost or doubled: TURNS=1000 KILLS=80 SEED=1 STORE=both
	$(BIN)/python -m tests.chaos $(foreach o,TURNS KILLS SEED STORE DRAIN,$(if $($o),--$(shell echo $o | tr A-Z a-z) $($o))) $(ARGS)

bench: install ## what a turn costs beside what people write by hand: ONLY=a,b ROUNDS=5 TURNS=100000 JSON=bench.json PLOT=bench.png
	$(BIN)/python -m pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS)) --group bench
	$(BIN)/python -m tests.benchmarks $(foreach o,ONLY ROUNDS TURNS JSON PLOT,$(if $($o),--$(shell echo $o | tr A-Z a-z) $($o))) $(ARGS)

notebooks: install ## run the notebooks and rewrite their outputs in place, which the tests compare
	$(BIN)/python -m tests.notebooks

check: lint typecheck ## everything that reads the code without running it

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
	rm -rf $(VENV)-newest

clean: ## remove the environment and every cache
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
