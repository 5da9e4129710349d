# What a clone needs: make, and Python 3.11, 3.12 or 3.13.
#
# scripts/install.sh installs into .venv. A stamp is written after it has succeeded and makes the
# next run skip it, until pyproject.toml or constraints.txt changes.

PYTHON ?=
export PYTHON

# Some machines tell Python not to keep what it compiled, and uv compiles nothing: each of the many
# processes that tests start would then compile torch and Ray anew.
unexport PYTHONDONTWRITEBYTECODE

PY := .venv/bin/python
INSTALLED := .venv/.installed
INSTALLED_DEV := .venv/.installed-dev
INPUTS := pyproject.toml constraints.txt scripts/install.sh

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check format types wheel clean

help: ## list the targets
	@echo 'usage: make TARGET [PYTHON=/path/to/python]'
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED) ## distill the embedded digits task eight times, on the CPU, in about two minutes
	.venv/bin/dfkd sweep digits --trials 8

test: check ## what CI runs: check, then every test, with coverage
	$(PY) -m pytest -m 'not ray' -n auto --dist worksteal --cov --cov-report=
	$(PY) -m pytest tests/orchestrator -m ray -n 2 --dist loadfile --cov --cov-append --cov-report=term:skip-covered --cov-fail-under=85

check: $(INSTALLED_DEV) .types/dfkd ## style and types, without running anything
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(INSTALLED_DEV) ## rewrite the files as `make check` wants them
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .

types: .types/dfkd ## let mypy and editors find `dfkd`, whatever this folder is called

wheel: $(INSTALLED_DEV) ## build dist/*.whl, the same bytes for the same commit
	rm -rf build dist
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) && export SOURCE_DATE_EPOCH && $(PY) -m build

clean: ## remove what make made (not your runs)
	rm -rf .venv .types build dist dfkd.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.*
	find . -name dfkd-runs -prune -o -name __pycache__ -prune -exec rm -rf {} +

.types/dfkd:
	mkdir -p .types
	ln -sfn .. $@

# The stamps go first: an interrupted install counts as none.
$(INSTALLED): $(INPUTS)
	@rm -f $(INSTALLED) $(INSTALLED_DEV)
	sh scripts/install.sh .
	@touch $@

$(INSTALLED_DEV): $(INPUTS)
	@rm -f $(INSTALLED) $(INSTALLED_DEV)
	sh scripts/install.sh '.[dev]'
	@touch $(INSTALLED) $@
