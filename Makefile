# Each target sets up what it needs: a virtual environment in .venv (reused if there is one) and what it runs there.
#   make demo    train a small model and its module here, and print what the update does and the proof
#   make test    the test suite
#   make lint    ruff, the order of imports, mypy, and the documents: links, paths, figures, and the site without a warning
#   make docs    the documents as a site, in build/site
#   make bench   every benchmark, one after the other; writes benchmarks/results and docs/performance.md
# Another Python: make test PYTHON=python3.12; another environment: make test VENV=path.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable
# An editable install is redone when what it is made of changes: dependencies, and the extensions' sources.
MADE_OF := pyproject.toml constraints.txt $(wildcard setup.py src/prosg/ops/*.h src/prosg/ops/*/*.[ch])

.PHONY: demo test lint docs bench

demo: $(VENV)/.prosg
	$(BIN)/prosg demo

test: $(VENV)/.prosg-dev
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

lint: $(VENV)/.prosg-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy
	$(BIN)/python scripts/check_docs.py
	$(BIN)/python scripts/check_figures.py
	$(BIN)/python scripts/performance_page.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

docs: $(VENV)/.prosg-docs
	$(BIN)/python -m mkdocs build --strict

bench: $(VENV)/.prosg-dev
	set -e; for file in benchmarks/[!_]*.py; do echo "== $$file"; name=$$(basename "$$file" .py); \
	if grep -q 'merges=True' "$$file"; then replace=; else replace=--overwrite; fi; \
	$(BIN)/python "$$file" --out "benchmarks/results/$$name.json" $$replace; done
	$(BIN)/python scripts/performance_page.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Python 3.11 or newer is needed; name one with make ... PYTHON=...' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.prosg: $(MADE_OF) | $(BIN)/python
	$(INSTALL) .
	@touch $@

$(VENV)/.prosg-dev: $(MADE_OF) | $(BIN)/python
	$(INSTALL) '.[dev]'
	@touch $@ $(VENV)/.prosg

$(VENV)/.prosg-docs: $(MADE_OF) | $(BIN)/python
	$(INSTALL) '.[docs]'
	@touch $@
