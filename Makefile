# Two commands for a fresh clone: `make demo` and `make test`. Everything else is listed by `make help`.
# PYTHON picks the interpreter, PIP_FLAGS goes to pip (for example an index for CPU builds of torch, see README).
PYTHON ?= python3
PIP_FLAGS ?=
MICE_HOME ?= .mice
DATA ?= $(or $(MICE_DATA),../shared/data)
STUDY ?= tcga
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export MICE_HOME
export DAGSTER_HOME := $(abspath $(MICE_HOME))/dagster

.PHONY: help setup demo test check dev tcga bench bench-gpu faults test-gpu clean
help: ## List the commands.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## Install everything into .venv, at the pins of constraints.txt.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e ".[dev,baselines]"
	touch $(READY)

demo: $(READY) ## Run the whole graph on the synthetic cohort; the last line is one JSON object.
	$(BIN)/mice run --study demo

tcga: $(READY) ## Run the same graph on real patients: make tcga DATA=<landing folder>.
	$(BIN)/mice run --study $(STUDY) --data "$(DATA)"

dev: $(READY) ## Serve Dagster's UI on loopback, port 3000.
	$(BIN)/mice prepare-dagster
	MICE_DATA="$(DATA)" $(BIN)/dagster dev --module-name dagster_project.definitions --host 127.0.0.1 --port 3000

test: $(READY) ## Run the tests; those on real data skip where the landing folder is absent.
	MICE_DATA="$(DATA)" OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-gpu: $(READY) ## Run the tests that need a CUDA device.
	$(BIN)/python -m pytest -m gpu

check: $(READY) ## Lint, format check and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY) ## Run a benchmark: make bench NAME=<name> [ARGS=...].
	MICE_DATA="$(DATA)" $(BIN)/python -m benchmarks.$(NAME) $(ARGS)

bench-gpu: $(READY) ## Measure the kernels on a CUDA device; the last line is one JSON object.
	$(BIN)/python -m benchmarks.kernels_gpu $(ARGS)

faults: $(READY) ## Do faults to the real thing and check what must hold: make faults NAME=store [ARGS=...].
	$(BIN)/python -m faults.$(NAME) $(ARGS)

clean: ## Remove the environment; data and models in $(MICE_HOME) stay.
	rm -rf $(VENV)
