# Every target makes .venv by itself and installs the project into it, once for each version of pyproject.toml.
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

.PHONY: help demo test check zoo fidelity bench search format clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1  \t\2/p' $(MAKEFILE_LIST)

demo: $(INSTALLED)  ## plan a 70B Llama for 64 H100s, then train a small GPT on 4 local processes
	$(BIN)/python examples/plan_llama_70b.py
	$(BIN)/python examples/train_gpt.py

test: $(INSTALLED)  ## run the whole test suite
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal

check: $(INSTALLED)  ## lint, format, import contracts, types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

zoo: $(INSTALLED)  ## try all architectures of transformers and more, write docs/zoo.md (about half an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.zoo

fidelity: $(INSTALLED)  ## predict all published runs, write docs/fidelity.md (about two minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.fidelity --write

bench: $(INSTALLED)  ## time the runtime beside its peers, write docs/performance.md (about eight minutes)
	OMP_NUM_THREADS=1 KINETO_LOG_LEVEL=99 $(BIN)/python -m tests.benchmarks.runtime_speed --write

search: $(INSTALLED)  ## time the search and compare it with published layouts, write docs/search.md (about half an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.search_speed --write

format: $(INSTALLED)  ## sort the imports, fix what can be fixed, format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## remove .venv, caches and what the examples wrote
	rm -rf $(VENV) emitted dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml
	@test -n "$(PYTHON)" || { echo "autopart needs Python 3.11 or later; name one with: make PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing autopart and what it needs into $(VENV) (some minutes the first time)"
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@
