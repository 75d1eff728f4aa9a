# make quickstart: set up .venv and run the whole method on embedded data
# make test:       set up .venv and run the modules' tests
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup quickstart test check format walkthroughs browser fuzz kills wheel audit readme docs export clean

# Set up once: the stamp's name holds a checksum of the files that say what to install.
STAMP := .venv/installed-$(shell cat settings.ini setup.py pyproject.toml | cksum | cut -d' ' -f1)
RUN := .venv/bin/python
# The interpreter of a new .venv: the first of these that is 3.11 to 3.13; `make PYTHON=...` names another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && { echo $$p; break; }; done)

help: ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/make \1\t\2/p' Makefile | expand -t 20

$(STAMP):
	@test -n "$(PYTHON)" || { echo "mtmg needs Python 3.11, 3.12 or 3.13, and none is on the path; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(RUN) || $(PYTHON) -m venv .venv || { rm -rf .venv; echo "could not make .venv (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "Installing mtmg into .venv; the first time takes about 5 minutes and 6.5 GB (torch brings its CUDA libraries)."
	@.venv/bin/pip install --disable-pip-version-check --editable '.[dev]'
	@rm -f .venv/installed-*
	@touch $@

setup: $(STAMP) ## build .venv and install mtmg with what its developers need

quickstart: $(STAMP) ## patch, align, measure on embedded data: runs/quickstart (ARGS="--seed 1" goes to mtmg)
	@.venv/bin/mtmg quickstart $(ARGS)

test: $(STAMP) ## run the modules' notebooks as tests, and compare notebooks and package (NAMES="bands clip": those only)
	@$(RUN) tools/notebooks.py test $(if $(NAMES),$(NAMES),--agree)

check: $(STAMP) ## what takes seconds: ruff, notebooks and package agree, imports go down, names stay private
	@.venv/bin/ruff check --quiet . && .venv/bin/ruff format --check --quiet . && $(RUN) tools/notebooks.py agree

format: $(STAMP) ## format notebooks and tools, then export
	@.venv/bin/ruff check --quiet --fix . ; .venv/bin/ruff format . && .venv/bin/nbdev_export && .venv/bin/nbdev_clean

walkthroughs: $(STAMP) ## execute the walkthroughs (SAVE=1 keeps their fresh outputs, NAMES picks some)
	@$(RUN) tools/notebooks.py walkthroughs $(NAMES) $(if $(SAVE),--save)

browser: $(STAMP) ## play with the demos in a real browser (ARGS="--shots shots" keeps screenshots)
	@$(RUN) tools/browser.py $(ARGS)

fuzz: $(STAMP) ## damage files of every format that is read (SECONDS=600: a longer round, ARGS="--seed 7 tar": another)
	@$(RUN) tools/fuzz.py --seconds $(or $(SECONDS),30) $(ARGS)

kills: $(STAMP) ## kill commands while they write, cut files short, run them again (ARGS=--few: a few of each)
	@$(RUN) tools/kills.py $(ARGS)

wheel: $(STAMP) ## build the wheel and try it in a clean environment, from another folder
	@$(RUN) tools/wheel.py

audit: $(STAMP) ## look up what is installed among the published vulnerabilities (pip-audit, asks osv.dev)
	@test -x .venv/audit/bin/pip-audit || \
		{ $(RUN) -m venv .venv/audit && .venv/audit/bin/pip install --quiet --disable-pip-version-check pip-audit; }
	@.venv/audit/bin/pip-audit --path "$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
		--skip-editable --vulnerability-service osv

export: $(STAMP) ## notebooks -> mtmg/, and clean the notebooks
	@.venv/bin/nbdev_export && .venv/bin/nbdev_clean

readme: $(STAMP) ## nbs/index.ipynb -> README.md
	@$(RUN) tools/docs.py readme

docs: $(STAMP) ## documentation site in _docs, from the notebooks (FAST=1: without running them for their pictures)
	@$(RUN) tools/docs.py site $(if $(FAST),,--execute)

clean: ## remove what was built, but not .venv, data or runs
	rm -rf _docs _proc build dist *.egg-info
	find nbs mtmg tools -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
