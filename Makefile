# What a clone needs: make, and Python 3.11, 3.12 or 3.13.
#
# Everything is installed into .venv by uv: the uv on PATH, or one that pip puts into .venv.
# A stamp is written after an install has succeeded and makes the next run skip it, until
# pyproject.toml or constraints.txt changes.

PYTHON ?=
PYTHONS := python3.13 python3.12 python3.11 python3

VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INPUTS := pyproject.toml constraints.txt

SUPPORTED := (3, 11) <= sys.version_info[:2] <= (3, 13)
IS_SUPPORTED := import sys; sys.exit(not $(SUPPORTED))
IS_GOOD_VENV := import sys; sys.exit(sys.prefix == sys.base_prefix or not $(SUPPORTED))

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check format types wheel clean

help: ## list the targets
	@echo 'usage: make TARGET [PYTHON=/path/to/python]'
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED) ## distill the embedded digits task eight times, on the CPU, in about two minutes
	$(VENV)/bin/dfkd sweep digits --trials 8

test: check ## what CI runs: check, then every test, with coverage
	$(PY) -m pytest --cov --cov-report=term:skip-covered --cov-fail-under=85

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
	rm -rf $(VENV) .types build dist dfkd.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.*
	find . -name dfkd-runs -prune -o -name __pycache__ -prune -exec rm -rf {} +

.types/dfkd:
	mkdir -p .types
	ln -sfn .. $@

$(INSTALLED): $(INPUTS)
	$(call install,.)
	@touch $@

$(INSTALLED_DEV): $(INPUTS)
	$(call install,.[dev])
	@touch $(INSTALLED) $@

# install SPEC, editable, into .venv. The stamps go first: an interrupted install counts as none.
define install
@rm -f $(INSTALLED) $(INSTALLED_DEV)
@if ! $(PY) -c '$(IS_GOOD_VENV)' 2>/dev/null; then $(make-venv); fi
@if ! uv --version >/dev/null 2>&1 && ! [ -x $(VENV)/bin/uv ]; then $(get-uv); fi
@uv=uv; uv --version >/dev/null 2>&1 || uv=$(VENV)/bin/uv; \
set -x; "$$uv" pip install --python $(PY) -c constraints.txt -b constraints.txt -e '$(1)'
endef

define make-venv
\
python='$(PYTHON)'; \
for name in $(PYTHONS); do \
    [ -z "$$python" ] || break; \
    if "$$name" -c '$(IS_SUPPORTED)' 2>/dev/null; then python=$$name; fi; \
done; \
if [ -z "$$python" ]; then \
    echo 'dfkd needs Python 3.11, 3.12 or 3.13; none of these is one: $(PYTHONS).' >&2; \
    echo 'Install one, or say where it is: make PYTHON=/path/to/python ...' >&2; \
    exit 1; \
elif ! "$$python" -c '$(IS_SUPPORTED)' 2>/dev/null; then \
    echo "dfkd needs Python 3.11, 3.12 or 3.13; PYTHON=$$python is not one, or does not run." >&2; \
    exit 1; \
fi; \
python=$$("$$python" -c 'import sys; print(sys.executable)'); \
echo "making $(VENV) with $$python"; \
rm -rf $(VENV); \
if uv --version >/dev/null 2>&1; then uv venv --quiet --python "$$python" $(VENV); \
else "$$python" -m venv --without-pip $(VENV); fi
endef

define get-uv
\
echo 'uv is not on PATH: pip puts it into $(VENV)'; \
if ! $(PY) -m pip --version >/dev/null 2>&1 && ! $(PY) -m ensurepip >/dev/null; then \
    echo 'This Python has no ensurepip: install its venv package (python3-venv) or uv.' >&2; \
    exit 1; \
fi; \
$(PY) -m pip install --quiet --disable-pip-version-check uv
endef
