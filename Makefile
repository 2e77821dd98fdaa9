# Two commands for a newcomer: `make demo` and `make test`. Each sets up what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# A file of tests has one process, and with it the searches that its tests share.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
DEMO := demo-$(shell date +%Y%m%d-%H%M%S)

# Busy processes with several threads each collapse on a small machine.
export OMP_NUM_THREADS := 1

.PHONY: demo test test-all test-cluster test-faults check audit format install

demo: $(INSTALLED)
	$(BIN)/kdcurve search configs/demo.yaml --name $(DEMO)
	@echo
	$(BIN)/kdcurve curve $(DEMO)

test: check
	$(BIN)/pytest $(PARALLEL) -m "not slow"

test-all: check
	$(BIN)/pytest -m "not cluster"

# Three machines made of namespaces: needs root, iproute2, openssh-server and rsync.
test-cluster: $(INSTALLED)
	$(BIN)/pytest -m cluster -rs

# What a search does when machines, disks, servers and files fail it: docs/faults.md.
test-faults: $(INSTALLED)
	$(BIN)/pytest -m faults

check: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: $(INSTALLED)
	$(BIN)/pip-audit --skip-editable

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	@touch $@
