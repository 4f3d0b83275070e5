# make train ARGS="--max-steps 20"   sets up and trains          make test        sets up and runs the tests
# make check                         format, lint, types         make check-all   and what takes longer
# make bench                         the numbers in README.md    make faults      every fault, many times, and a table
# make bench-plan                    predictions of the plan beside what real runs took: ten minutes
# make check-interop                  every family in every program it can be exported to
# make check-gguf                    the same in llama.cpp, which is built from source first: some five minutes
# make check-versions                the tests with the oldest and the newest PyTorch and Python that are supported
# make run ARGS="runs"               any other command
#
# Installation goes through pip (tools/install.py shows its progress), which honours PIP_CONSTRAINT and PIP_FIND_LINKS.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
ARGS ?=
TORCH ?=
OLDEST_PYTHON ?= python3.11
NEWEST_PYTHON ?= python3.13
PIN := $(if $(TORCH),'torch==$(TORCH).*')

.PHONY: setup train run test check check-all check-versions bench bench-plan check-interop check-gguf faults format clean

setup: $(VENV)/.run

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit("light-llm needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name one with: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	@echo 'Making the virtual environment $(VENV)'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml | $(VENV)/pyvenv.cfg
	@$(BIN)/python tools/install.py --editable . $(PIN)
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/pyvenv.cfg
	@$(BIN)/python tools/install.py --editable '.[dev]' $(PIN)
	@touch $(VENV)/.run $@

$(VENV)/.bench: pyproject.toml | $(VENV)/pyvenv.cfg
	@$(BIN)/python tools/install.py --editable '.[dev,bench]' $(PIN)
	@touch $(VENV)/.run $(VENV)/.dev $@

train: $(VENV)/.run
	$(BIN)/python train.py $(ARGS)

run: $(VENV)/.run
	$(BIN)/python -m light_llm $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist worksteal $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check-all: check
	$(BIN)/python -m pytest $(ARGS)
	$(BIN)/python tests/support/deliberate_bugs.py

check-versions:
	$(MAKE) test VENV=.venv-oldest PYTHON=$(OLDEST_PYTHON) TORCH=2.10
	$(MAKE) test VENV=.venv-newest PYTHON=$(NEWEST_PYTHON) TORCH=2.15

faults: $(VENV)/.dev
	$(BIN)/python tests/support/campaign.py $(ARGS)

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/bench.py $(ARGS)

bench-plan: $(VENV)/.dev
	$(BIN)/python benchmarks/cluster.py
	$(BIN)/python benchmarks/plan_grid.py $(ARGS)

check-interop: $(VENV)/.dev
	$(BIN)/python tests/support/check_interop.py $(ARGS)

check-gguf: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check llama-cpp-python
	$(BIN)/python tests/support/check_gguf.py $(ARGS)

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .venv-oldest .venv-newest .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
