# `make demo` and `make test` need only Python 3.11 or newer with pip and venv; all else goes into .venv.
PYTHON ?= python3
BIN := $(if $(filter Windows_NT,$(OS)),.venv/Scripts,.venv/bin)

.PHONY: help demo test torture faults bench
help:
	@echo "make demo   text, tokenizer, a model trained in torch and in JAX: runs/demo/report.md"
	@echo "make test   linter, formatter, type checker, tests"
	@echo "make faults break either backend in each of many ways, and see the tests go red"
	@echo "make bench  time a training step in JAX and torch beside torch's own parts, parity first"
	@echo "make torture   200 kills -9 of training runs in each backend"

demo: .venv/ready
	$(BIN)/lm demo

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n logical --dist worksteal

bench: .venv/ready
	$(BIN)/python -m bench train-step --rounds 5 --contenders jax torch parts
	$(BIN)/python -m bench train-step --rounds 5 --work tinystories/8/float32 --contenders "torch compiled" "parts compiled" parts

torture: .venv/ready
	$(BIN)/python -m tests.torture --kills 200

faults: .venv/ready
	$(BIN)/python -m tests.faults

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "twinlm needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
