# make reproduce   the study of params.yaml, from nothing to reports/report.html
# make demo        a tiny study through every rule, in about two minutes
# make test        linters, contracts and tests
# make study STUDY=workflow/studies/tiny.yaml    any other study, in studies/<name>/
# make record      the study, then `dvc commit` of what it made
#
# All that is needed is Python 3.11 to 3.13 and make. TORCH=cpu (or cu130, …) chooses PyTorch's wheels.

PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null \
	&& echo $$python && break; done)
TORCH ?=
CORES ?= all
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: reproduce demo study record test lint environment clean-environment
.DEFAULT_GOAL := reproduce

environment: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "perflow: needs Python 3.11 to 3.13 with venv; give one with make PYTHON=/path/to/python"; exit 1; }
	@echo "perflow: making the environment in .venv with $(PYTHON) (once, a few minutes)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.8
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --compile-bytecode \
		$(if $(TORCH),--torch-backend=$(TORCH)) --requirement requirements.lock --editable .
	@touch $@

reproduce: environment
	@$(BIN)/python workflow/reproduce.py --cores $(CORES)

demo: environment
	@$(BIN)/python workflow/reproduce.py --study workflow/studies/tiny.yaml --cores $(CORES)

study: environment
	@test -n "$(STUDY)" || { echo "perflow: give a study, such as make study STUDY=workflow/studies/tiny.yaml"; exit 1; }
	@$(BIN)/python workflow/reproduce.py --study "$(STUDY)" --cores $(CORES)

record: reproduce
	@$(BIN)/dvc commit --force --quiet study && echo "recorded in dvc.lock: commit it, and dvc push to share"

lint: environment
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-cache \
		&& $(BIN)/snakefmt --check Snakefile workflow

test: lint
	@$(BIN)/python -m pytest

clean-environment:
	rm -rf .venv
