# Sets up what each target needs; nothing has to be installed first but Python 3.10-3.13, make and a C++ compiler
# (llama-cpp-python builds llama.cpp, which takes some minutes).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check

.PHONY: demo check setup lint test parity parity-setup golden reference

demo: $(VENV)/.installed
	$(BIN)/cotcli demo

check: lint test

setup: $(VENV)/.installed-dev

parity-setup: $(VENV)/.installed-parity

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy --strict cotcli convert training benchmarks tests

test: setup
	$(BIN)/python -m pytest

parity: parity-setup
	$(BIN)/python -m pytest tests/parity

golden: parity-setup
	for script in tests/parity/make_*_golden.py; do $(BIN)/python -m tests.parity.$$(basename $$script .py) || exit 1; done

reference: $(VENV)/.installed
	$(BIN)/python -m cotcli.cli.reference > docs/reference.md.part && mv docs/reference.md.part docs/reference.md

$(VENV)/pyvenv.cfg:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/pyvenv.cfg pyproject.toml
	$(PIP) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/pyvenv.cfg pyproject.toml
	$(PIP) -e '.[dev]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-parity: $(VENV)/pyvenv.cfg pyproject.toml
	$(PIP) -e '.[dev,parity]'
	$(PIP) --no-deps llama-models==0.3.0
	touch $@ $(VENV)/.installed $(VENV)/.installed-dev
