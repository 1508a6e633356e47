# Every target but help and clean first brings the environment in .venv up to date.
#   make PYTHON=python3.12      another interpreter (3.11 or later) for a new environment
#   make VENV=/some/where       another place for it

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench

.DEFAULT_GOAL := help
.PHONY: help env demo test test-browser test-long test-exhaustive examples bench lint sample clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

env: $(STAMP) ## create .venv with everything that development needs, at the versions in constraints.txt

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("whisper2max needs Python 3.11 or later and found " + sys.version.split()[0] + ": make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e ".[dev]" -c constraints.txt
	@touch $@

demo: $(STAMP) ## convert Whisper base, print the parity summary, transcribe the sample
	$(BIN)/whisper2max convert --size base --force
	$(BIN)/whisper2max transcribe artifacts/base samples/speech.flac

test: $(STAMP) ## the fast tests
	$(BIN)/pytest -m "not slow and not browser"

test-browser: $(STAMP) ## parity.html in Chromium
	$(BIN)/pytest -m browser

test-long: $(STAMP) ## the long tests: real weights, whole recordings, a fresh installation
	$(BIN)/pytest -m "slow and not exhaustive" -rP

test-exhaustive: $(STAMP) ## every mutation, twenty kills and twenty runs, large-v3
	$(BIN)/pytest -m exhaustive -rP

examples: $(STAMP) ## rewrite docs/examples/base from a new conversion
	$(BIN)/whisper2max convert --size base --force
	mkdir -p docs/examples/base
	cp artifacts/base/model.py artifacts/base/manifest.json artifacts/base/parity.json artifacts/base/parity.html docs/examples/base/

bench: $(BENCH_STAMP) ## this project and its peers side by side; about an hour
	$(BIN)/python benchmarks/run.py

$(BENCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install -e ".[bench]" -c constraints.txt
	@touch $@

lint: $(STAMP) ## ruff, without changing anything
	$(BIN)/ruff check .

sample: $(STAMP) ## speak samples/speech.flac again (needs espeak-ng)
	$(BIN)/python -m whisper2max.samples.make_sample

clean: ## remove build products and tool caches; .venv, artifacts and compiled graphs stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find benchmarks compiler kernels runtime samples templates tests -name __pycache__ -prune -exec rm -rf {} +
