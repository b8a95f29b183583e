# Two commands, each of which does all of its own set-up; Python 3.9, 3.10 or 3.11 is all they need:
#
#   make run      the main job: train, export, measure and report on the demo shop
#   make test     the fast tests
#   make check    style and types
#
# ARGS goes on to the job:        make run ARGS="--source folder --data_dir my_shop"
# PYTHON names an interpreter:    make run PYTHON=/opt/python3.11/bin/python3
# VENV is where packages go:      make run VENV=/tmp/venv

VENV ?= .venv
PYTHON ?=
ARGS ?=
environment = @.ci/environment "$(VENV)"

.PHONY: help run test check
help:
	@sed -n 's/^#   make/make/p' Makefile

run:
	$(environment) run "$(PYTHON)"
	$(VENV)/bin/python train.py $(ARGS)

test:
	$(environment) test "$(PYTHON)"
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile -m "not slow and not data" $(ARGS)

check:
	$(environment) dev "$(PYTHON)"
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m mypy
