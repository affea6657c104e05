# Two commands from a bare machine with Python, make and git:  make train   make test
#   EXPERIMENT=navigation   what `make train` trains        PYTHON=python3.12   another interpreter
PYTHON ?= python3
EXPERIMENT ?= cheetah-velocity
TRAIN_OPTIONS ?=

VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
OLDEST := .venv-oldest
BIN := $(VENV)/bin
# The folder is installed under another name than it has, so mypy finds the packages through links.
LINKS := $(VENV)/links
# A process of tests takes about a gigabyte.
ON_ALL_CORES := -n logical --maxprocesses 8

.DEFAULT_GOAL := help
.PHONY: help setup train test test-slow test-oldest lint docs results

help:
	@sed -n 's/^## //p' $(firstword $(MAKEFILE_LIST))

## make setup        create .venv and install from requirements.lock
setup: $(VENV)/.installed

$(VENV)/.installed: requirements.lock setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "make: $(PYTHON) does not run, or is older than 3.11; name another, such as PYTHON=python3.12" >&2; exit 2; }
	$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	mkdir -p $(LINKS)
	ln -sfn "$(CURDIR)/metarl" $(LINKS)/metarl
	ln -sfn "$(CURDIR)/envs" $(LINKS)/metarl_envs
	ln -sfn "$(CURDIR)/experiments" $(LINKS)/metarl_experiments
	touch $@

## make train        meta-train EXPERIMENT, evaluate it, say where the figures are
train: setup
	$(BIN)/python -m metarl_experiments.job $(EXPERIMENT) $(TRAIN_OPTIONS)

## make test         the ordinary tests, on all cores
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(ON_ALL_CORES) $(PYTEST_OPTIONS)

## make test-slow    learning to a number, full fault counts
test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow $(PYTEST_OPTIONS)

## make test-oldest  the ordinary tests with the oldest versions that setup.cfg allows
# Old releases meet newer dependencies of their own, which deprecate what they call.
test-oldest: $(OLDEST)/.installed
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest $(ON_ALL_CORES) -W ignore::DeprecationWarning $(PYTEST_OPTIONS)

$(OLDEST)/.installed: requirements.lock setup.cfg pyproject.toml
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(PYTHON) -c 'import configparser; c = configparser.ConfigParser(); c.read("setup.cfg"); \
	  print(c["options"]["install_requires"].replace(">=", "=="))' > $(OLDEST)/oldest.txt
	grep -E '^(pytest|execnet|hypothesis|imageio|psutil|setuptools)' requirements.lock >> $(OLDEST)/oldest.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -r $(OLDEST)/oldest.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

## make lint         ruff check and format, mypy
lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=$(LINKS) $(BIN)/mypy

## make docs         build the documentation into site/, warnings are errors
docs: setup
	METARL_LINKS=$(LINKS) NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

## make results      re-evaluate every shipped run, compare with the README and docs
results: setup
	$(BIN)/python -m metarl_experiments.results check
