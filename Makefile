# Each target does its own set-up in .venv: Python >= 3.11 and make are all a machine needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: serve test check

# --no-compile: most of what is installed is never imported; the rest is compiled when it is.
.venv/.serve: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --editable .
	touch $@

.venv/.develop: pyproject.toml constraints-test.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints-test.txt --editable '.[test,dev,mic]'
	touch $@ .venv/.serve

serve: .venv/.serve
	$(BIN)/myna serve $(ARGS)

test: .venv/.develop
	$(BIN)/pytest $(ARGS)

check: .venv/.develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
