# Fairlead: `make help` lists what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.fairlead-installed
NATIVE := CMakeLists.txt setup.py $(shell find csrc -type f)

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-check test lint clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup: $(STAMP) ## Make .venv and install Fairlead into it, with the pinned versions

$(STAMP): pyproject.toml constraints.txt $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Fairlead needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
	       "Name another one: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e ".[test]"
	@touch $@

demo: setup ## Show the claims of the InstructGPT paper in miniature, in five to eight minutes
	$(BIN)/fairlead demo

demo-check: setup ## The same, and fail where a claim does not hold
	$(BIN)/fairlead demo --check

DATA := $(abspath $(wildcard ../shared/data))

test: setup lint ## Lint, then run every test (with real data where ../shared/data is)
	OMP_NUM_THREADS=1 FAIRLEAD_DATA=$(DATA) $(BIN)/python -m pytest -n 2

lint: setup ## Check style, types, import rules and C++ formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	find csrc tests/kernels/cuda_on_host -type f | xargs $(BIN)/clang-format --dry-run -Werror

clean: ## Remove .venv, builds and caches (runs/ stays)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache \
	  .import_linter_cache .hypothesis
	rm -f kernels/fairlead_kernels/_native.*.so kernels/fairlead_kernels/_native_build.txt
	find engine plugins kernels tests -name __pycache__ -type d -prune -exec rm -rf {} +
