# `make demo` and `make test` need Python 3.11 or newer, with pip and venv. They install everything else into .venv.
PYTHON ?= python3
BIN := $(if $(filter Windows_NT,$(OS)),.venv/Scripts,.venv/bin)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Python keeps its bytecode: the tests start a hundred processes, and each would compile the modules again.
export PYTHONDONTWRITEBYTECODE =

.PHONY: help demo test faults mutants bench torture
help:
	@echo "make demo      make a text and a tokenizer, train one model in torch and in JAX: runs/demo/report.md"
	@echo "make test      run the linter, the formatter, the type checker and all tests"
	@echo "make faults    break each backend in many ways, one at a time, and check that a test fails each time"
	@echo "make mutants   change 200 places of the code, one at a time, and count the changes that a test notices"
	@echo "make bench     time a training step of both backends and of the torch.nn baseline"
	@echo "make torture   kill training runs 200 times in each backend, and check what they resume to"

demo: .venv/ready
	$(BIN)/lm demo

test: .venv/dev-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n logical --dist worksteal

bench: .venv/ready
	$(BIN)/python -m bench train-step --rounds 5 --contenders jax torch baseline
	$(BIN)/python -m bench train-step --rounds 5 --work tinystories/8/float32 --contenders "torch compiled" "baseline compiled" baseline

torture: .venv/dev-ready
	$(BIN)/python -m tests.torture --kills 200

faults: .venv/dev-ready
	$(BIN)/python -m tests.faults

mutants: .venv/dev-ready
	$(BIN)/python -m tests.mutants

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "twinlm needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	@touch $@

.venv/dev-ready: .venv/ready
	$(PIP) --editable '.[dev]'
	@touch $@
