# Everything happens in .venv, made here on first use. Needed beforehand: make, Python >= 3.11 and a package index.
#
#   make demo PYTHON=/path/to/python3.12      names the Python that makes .venv
#   make demo TORCH_INDEX=URL                 takes PyTorch from another index, e.g. PyTorch's CPU builds
#   make demo TORCH=torch==2.6.0              takes another PyTorch
#
# All paths are relative, so the checkout may lie under a name with spaces. PyTorch is installed first and by itself:
# a newer one is then never fetched to satisfy a range, and one that is already there is left alone.
PYTHON ?=
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
WORKERS ?= 2

bin := .venv/bin
pip := $(bin)/python -m pip --disable-pip-version-check

# Quick tests on few cores: one thread a process beats several, and no test needs a screen.
export MPLBACKEND = Agg
test bench: export OMP_NUM_THREADS = 1
test bench: export MKL_NUM_THREADS = 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench docs web clean

help:  ## list the targets
	@echo "stepscope: make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z]*\):[^#]*## /  \1	/p' Makefile

demo: .venv/.package  ## set up and dissect Adam on the built-in digits; the report opens in any browser
	@$(bin)/stepscope dissect digits --profile demo --out runs/demo

test: .venv/.develop  ## set up and run every check: style, types, docs, tests
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/python -m sphinx -W --keep-going -q -b html docs docs/_build
	$(bin)/python -m pytest -n $(WORKERS)

lint: .venv/.develop  ## style and types only
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy

bench: .venv/.develop  ## measure; results go to benchmarks/results
	$(bin)/python -m benchmarks

docs: .venv/.develop  ## build the documentation into docs/_build
	$(bin)/python -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo "docs/_build/index.html"

web: .venv/.develop  ## build the pages in web/ again (needs npm and Node 20.19 or newer)
	cd web && npm ci --no-audit --no-fund && PYTHON=../$(bin)/python npm run build

clean:  ## remove .venv, caches and built pages; runs/ stays
	rm -rf .venv docs/_build dist web/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: a second call needs no network. Only an edited pyproject.toml installs again.
.venv/.created:
	@found=; for python in $(if $(PYTHON),'$(PYTHON)',python3 python3.13 python3.12 python3.11); do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "error: stepscope needs Python 3.11 or newer, and $(if $(PYTHON),'$(PYTHON)' is not one,none was found)." \
	         "Name one: make demo PYTHON=/path/to/python3.12" >&2; exit 2; \
	fi; \
	echo "making .venv with $$("$$found" --version)"; "$$found" -m venv .venv
	$(pip) install --quiet 'pip>=25.1'
	@touch $@

.venv/.torch: .venv/.created
	@$(bin)/python -c 'import importlib.metadata as m; print("found torch", m.version("torch"))' 2>/dev/null \
	    || $(pip) install '$(TORCH)' $(if $(TORCH_INDEX),--index-url '$(TORCH_INDEX)')
	@touch $@

.venv/.package: .venv/.torch pyproject.toml
	$(pip) install --quiet --editable .
	@touch $@

.venv/.develop: .venv/.torch pyproject.toml
	$(pip) install --quiet --editable . --group dev
	@touch .venv/.package $@
