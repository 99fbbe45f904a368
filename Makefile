# Each target does its whole set-up on a fresh clone with nothing but Python 3.11.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test lint bench docs clean

setup: .venv/.ready

.venv/.ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/pretask demo --out demo --overwrite

lint: setup
	$(BIN)/ruff check src tests bench
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --durations=15

docs: setup
	$(BIN)/mkdocs build --strict

bench: .venv-bench/.ready
	OMP_NUM_THREADS=1 .venv-bench/bin/python -m bench all

.venv-bench/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --upgrade pip
	.venv-bench/bin/python -m pip install --quiet -e '.[bench]'
	touch $@

clean:
	rm -rf .venv .venv-bench build dist demo site
