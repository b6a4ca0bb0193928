# Every target works on a machine that has only Python >= 3.10, its venv module and make.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := marketing_env agents experiments

# Small networks and small matrices: one thread per process beats many that wait for each other.
demo test pytest: export OMP_NUM_THREADS = 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint style types pytest format figures clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Touched last, so that an interrupted install is taken up again by the next make.
.venv/.installed: pyproject.toml constraints.txt
	@echo 'Installing the pinned environment into .venv: a few minutes, once.'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[all,dev]'
	@# pip would compile on one core. Some packages hold templates that are no Python.
	@$(BIN)/python -m compileall -qq -j 0 .venv/lib || true
	@touch $@

# Spark is large, and only its tests need it.
.venv/.spark: .venv/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[spark]'
	@touch $@

demo: .venv/.installed  ## simulate, learn, allocate and compare with the exact optimum, in minutes
	$(BIN)/python -u -m experiments.demo

test: style  ## lint and run every test
	@$(MAKE) --no-print-directory --jobs 2 types pytest

lint: style types  ## ruff and mypy, changing nothing

style: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.installed
	$(BIN)/mypy $(SOURCES)

pytest: .venv/.spark
	$(BIN)/python -m pytest -n 2 --dist loadfile -q

format: .venv/.installed  ## apply ruff's fixes and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

figures: .venv/.installed  ## redraw the figures from results/
	$(BIN)/python -m experiments.plot

clean:  ## remove the environment and every cache; results/ stays
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find $(SOURCES) tests -name __pycache__ -type d -prune -exec rm -rf {} +
