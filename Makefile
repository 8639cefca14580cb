# Everything runs from the repository root, in .venv, with plain pip.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS ?= cpu,dev

SIZE ?= tiny
DATA ?=
OUT ?=
SERVE ?= 1
PORT ?=
OVERWRITE ?=
ONLY ?=
BENCH_OUT ?= runs/bench
PYTEST_ARGS ?=

# The shell quotes these itself: a path may hold spaces.
export DATA OUT

# Set once for all jobs and tests: no telemetry, threads that sleep while they wait.
export RAY_USAGE_STATS_ENABLED := 0
export TOKENIZERS_PARALLELISM := false
export GOMP_SPINCOUNT := 1000
ifeq ($(RAY_ADDRESS),)
# Off the cloud a look-up of its metadata is a wait for nothing; on a cluster it is where the credentials come from.
export AWS_EC2_METADATA_DISABLED := true
endif

SOURCES := platform jobs serve tests
only := $(if $(ONLY),-k "$(ONLY)")

.PHONY: help quickstart serve check test unit integration browser faults bench system-deps clean

help:  ## Show what can be made, and the variables
	@echo "make TARGET [VARIABLE=value]"
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk -F':.*?## ' '{printf "  %-12s %s\n", $$1, $$2}'
	@echo "Variables:"
	@echo "  SIZE=tiny|small    size of the quickstart (tiny: scenes world; small: pretrained weights)"
	@echo "  DATA=FOLDER        a captioned folder (captions.jsonl) instead of the scenes world"
	@echo "  OUT=URI            where the quickstart writes: a folder or s3://bucket/prefix (default runs/quickstart-SIZE)"
	@echo "  SERVE=0            stop after the table instead of serving the chat page"
	@echo "  PORT=NUMBER        port of the chat page (default 8000)"
	@echo "  OVERWRITE=1        make again what was made from other data or with another recipe"
	@echo "  ONLY=NAME          tests and faults whose name contains NAME; a benchmark or part of one by its name, as index or index.peers"
	@echo "  FAULT_POINTS=N     points of each kind that faults tries (default all, noted in FAULT_OUT=runs/faults)"
	@echo "  BENCH_OUT=FOLDER   where benchmarks write results.json and their table (default runs/bench)"

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON) found. Install Python 3.11, or name another: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

quickstart: $(STAMP)  ## Install, then the whole path from pictures to the chat page
	$(BIN)/python -m jobs.quickstart --recipe $(SIZE) $(if $(DATA),--set "data=$$DATA") $(if $(OUT),--set "output=$$OUT") \
		$(if $(PORT),--set port=$(PORT)) $(if $(filter 0 false no,$(SERVE)),--set serve=false) $(if $(filter 1 true yes,$(OVERWRITE)),--set overwrite=true)

serve: $(STAMP)  ## Serve the chat page over what the quickstart made
	$(BIN)/python -m jobs.serve --recipe $(SIZE) $(if $(PORT),--set port=$(PORT)) $(if $(OUT),--set "args.model=$${OUT%/}/model-instruct" --set "args.index=$${OUT%/}/index")

check: $(STAMP)  ## Format, lint, types, import rules, unit tests
	$(BIN)/ruff format --check --quiet $(SOURCES)
	$(BIN)/ruff check --quiet $(SOURCES)
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile tests/rules tests/unit $(only) $(PYTEST_ARGS)

integration: $(STAMP)  ## Tests with a real Ray, a real S3 server and real workers
	$(BIN)/python -m pytest -q tests/integration $(only) $(PYTEST_ARGS)

browser: $(STAMP)  ## Tests of the chat page in a real Chromium
	$(BIN)/python -m pytest -q tests/browser $(only) $(PYTEST_ARGS)

faults: $(STAMP)  ## Tests that kill and break things on purpose, at every point; an interrupted count is continued
	$(BIN)/python -m pytest -q tests/faults $(only) $(PYTEST_ARGS)

test: system-deps check  ## Everything CI runs
	$(MAKE) integration
	$(MAKE) browser
	$(MAKE) faults FAULT_POINTS=3

bench: $(STAMP)  ## Benchmarks; results in BENCH_OUT
	$(BIN)/python -m tests.benchmarks --output $(BENCH_OUT) $(if $(ONLY),--only $(ONLY))

system-deps:  ## Debian's Chromium for the browser tests, when root and not there yet
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		(apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends chromium) \
		|| { echo "Could not install chromium." >&2; test "$${CI:-}" != true; }; \
	else echo "No chromium, and not root: the browser tests will skip." >&2; test "$${CI:-}" != true; fi

clean:  ## Remove the environment and all caches; runs/ is kept
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
