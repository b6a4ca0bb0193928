# Every target works on a machine that has only Python >= 3.10, its venv module and make.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := marketing_env agents experiments

# Small networks and small matrices: one thread per process beats many that wait for each other.
demo test: export OMP_NUM_THREADS = 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint format figures clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Touched last, so that an interrupted install is taken up again by the next make.
.venv/.installed: pyproject.toml constraints.txt
	@echo 'Installing the pinned environment into .venv: a few minutes, once.'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	@touch $@

# Spark is large, and only its tests need it.
.venv/.spark: .venv/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[spark]'
	@touch $@

demo: .venv/.installed  ## simulate, learn, allocate and compare with the exact optimum, in minutes
	$(BIN)/python -u -m experiments.demo

test: lint .venv/.spark  ## lint, then run every test
	$(BIN)/python -m pytest -n 2 --dist loadfile -q

lint: .venv/.installed  ## ruff and mypy, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(SOURCES)

format: .venv/.installed  ## apply ruff's fixes and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

figures: .venv/.installed  ## redraw the figures from results/
	$(BIN)/python -m experiments.plot

clean:  ## remove the environment and every cache; results/ stays
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find $(SOURCES) tests -name __pycache__ -type d -prune -exec rm -rf {} +
