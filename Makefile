# `make setup` once, then `make nightly` and `make test`. `make` alone lists the targets.
#
# make itself ends with 2 whenever a command fails: the night's own code stands in the last line that
# `make nightly` prints, and `python ci/nightly.py` exits with it.

PYTHON ?= python3
# where everything goes that is written: builds, runs, MLflow, the embedded Airflow
export FP8BENCH_HOME ?= $(CURDIR)/.fp8bench
# CANDIDATE, BASELINE, SUITE and REPO reach ci/nightly.py through the environment, never through a shell's eyes
export CANDIDATE BASELINE SUITE REPO

BIN := .venv/bin
READY := .venv/.ready
WORKERS ?= auto

.PHONY: help setup nightly up down status units doctor prune tell ui test lint style types suite lock clean
.DEFAULT_GOAL := help

help:
	@echo "make setup     environment in .venv, from requirements.lock"
	@echo "make nightly   a whole night through an embedded Airflow; CANDIDATE= BASELINE= SUITE= REPO= choose"
	@echo "make up        every night from now on, on its schedule; make status, make down"
	@echo "make doctor    what nights need here, and what to do; make prune removes old ones, make tell logs late ones"
	@echo "make units     a systemd unit of this user, so that it is up after a reboot too"
	@echo "make ui        Airflow and MLflow in the browser, until Ctrl-C"
	@echo "make test      lint, types, layering contracts, all tests"
	@echo "make lint      the first three of these"
	@echo "make lock      requirements.lock from pyproject.toml"
	@echo "make clean     remove .venv and caches; what was measured ($(FP8BENCH_HOME)) stays"

setup: $(READY)

$(READY): requirements.lock pyproject.toml ci/setup ci/pip-settings.sh
	PYTHON="$(PYTHON)" ci/setup
	@touch $@

nightly: $(READY)
	@$(BIN)/python ci/nightly.py

up down status: $(READY)
	@$(BIN)/python ci/service.py $@

doctor prune tell: $(READY)
	@$(BIN)/fp8bench $@

units: $(READY)
	@PYTHON="$(CURDIR)/$(BIN)/python" ci/units

ui: $(READY)
	@$(BIN)/python ci/nightly.py --ui

lint: style types

style: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports

# A file is one worker's, start to end: its tests share builds, nights, an Airflow.
suite: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder

# Types and layering beside the suite, which leaves a quarter of two cores idle.
test: style
	@$(MAKE) --no-print-directory --jobs 2 types suite

lock: $(READY)
	ci/lock

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
