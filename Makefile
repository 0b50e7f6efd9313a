# Two commands for a fresh machine with Python 3.11 or newer; each sets up its own virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart test lint docs faults bench audit install-all clean

quickstart: $(VENV)/.installed  ## train on four synthetic products and detect their defects
	$(BIN)/python train.py +experiment=quickstart

test: $(VENV)/.installed-test  ## run the tests
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-test  ## format, lint, types and import order of the packages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: $(VENV)/.installed-docs  ## build the site into site/ and execute the tutorial; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

faults: $(VENV)/.installed-test  ## long fault injection; see docs/reliability.md
	$(BIN)/python -m tests.fault_injection --kills 50

bench: $(VENV)/.installed-test  ## short form of all benchmarks, as one table
	$(BIN)/python benchmarks/short.py

audit: $(VENV)/.installed-test  ## check the installed packages for known vulnerabilities
	$(BIN)/python -m pip install pip-audit
	$(BIN)/pip-audit --local --skip-editable

install-all: | $(BIN)/python  ## install the packages of all targets at once
	$(BIN)/python -m pip install --no-compile -e '.[weights,test,docs]'
	-$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib  # on all cores; some packages contain templates that are no Python
	touch $(VENV)/.installed $(VENV)/.installed-test $(VENV)/.installed-docs

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -e '.[weights]'
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -e '.[weights,test]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -e '.[weights,docs]'
	touch $@ $(VENV)/.installed
