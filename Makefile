# make reproduce   the study of params.yaml, from nothing to reports/report.html
# make demo        a tiny study through every rule, in about a minute
# make test        linters, contracts and tests, two files at a time (JOBS=2)
# make study STUDY=workflow/studies/tiny.yaml    any other study, in studies/<name>/
# make torture    runs struck at random moments, again and again (KILLS=100 STUDY=… LONGEST=seconds OUT=counts.json)
# make record      the study, then DVC's record of what it made; STUDY=... as above (docs/sharing.md)
#
# All that is needed is Python 3.11 to 3.13 and make. TORCH=cpu (or cu130, …) chooses PyTorch's wheels.

PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null \
	&& echo $$python && break; done)
TORCH ?=
CORES ?= all
JOBS ?= 2
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: reproduce demo study record test torture lint environment clean-environment
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

record: environment
	@$(BIN)/python workflow/reproduce.py --study "$(or $(STUDY),params.yaml)" --cores $(CORES) --record

lint: environment
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-cache \
		&& $(BIN)/snakefmt --check Snakefile workflow

test: lint
	@$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

torture: environment
	@$(BIN)/python -m tests.workflow.torture --study $(or $(STUDY),workflow/studies/tiny.yaml) --kills $(or $(KILLS),100) $(if $(LONGEST),--longest $(LONGEST)) $(if $(OUT),--out "$(OUT)")

clean-environment:
	rm -rf .venv
