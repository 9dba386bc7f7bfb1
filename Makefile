# Everything a fresh checkout needs. On Debian 12 with git, python3 and make; as root, missing packages are
# installed with apt, otherwise they are named.

PYTHON ?= python3
ARGS ?=
SEEDS ?= 1000
MINUTES ?= 10
# Three processes on two cores, because many tests wait. Each needs a network of its own, where one may be made.
PARALLEL := $(shell unshare --net true 2>/dev/null && echo '-n 3 --dist loadgroup --no-loadscope-reorder')

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Left to `make test`: failovers, faults, tools as processes, large rings.
SLOW := $(addprefix tests/contract/test_, cluster_store.py sentinel_store.py state_tools.py split_tools.py \
	locks.py cut_connections.py faulty_store.py redis_store.py sqlite_faults.py sqlite_kills.py) \
	$(addprefix tests/unit/service/test_, interruptions.py split_buckets.py snapshot.py leases.py sweeper.py \
	owner.py outage_bounds.py store_disk.py kicker.py handover.py) tests/simulation/test_large.py
PACKAGES := $(PYTHON) director/demo/packages.py
SOURCES := $(wildcard pyproject.toml setup.py requirements-dev.lock director/wire/*.pyx director/wire/*.pxd director/wire/*.h)

.DEFAULT_GOAL := help
.PHONY: help install check test demo lab lab-test lab-down simulate fuzz bench clean lint

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP)  ## .venv with the command `director`, ready to work on

$(STAMP): $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$$($(PYTHON) --version) is too old, 3.11 or later is needed: make PYTHON=python3.11" >&2; exit 1; }
	@$(PACKAGES) venv git compiler || { $(PACKAGES) venv git && \
		echo "going on without a compiler: the director will be right, but slower" >&2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: install  ## format, lint, types, and the fast tests: under two minutes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@seen=$$(mktemp); trap "rm -f $$seen" EXIT; \
		{ $(BIN)/mypy && $(BIN)/pytest tests/contract tests/simulation $(SLOW:%=--ignore=%); } >$$seen 2>&1 & \
		$(BIN)/pytest tests/unit $(SLOW:%=--ignore=%); unit=$$?; \
		wait $$!; others=$$?; cat $$seen; exit $$((unit + others))

test: lint  ## everything, with real Dovecot and Redis: about half an hour
	@$(PACKAGES) dovecot protocols debian13 redis clocks lookups systemd prometheus || test -z "$$CI"
	SIMULATION_SEEDS=480 $(BIN)/pytest $(PARALLEL)

demo: install  ## a ring of three with real Dovecot around it, on loopback; ARGS=--once ends after the check
	@$(BIN)/director demo $(ARGS)

lab:  ## a cluster in containers, with Redis; ENGINE=local where no image can be pulled (deploy/README.md)
	@deploy/lab/lab up

lab-test: install lab  ## kill, cut and rebuild everything in the lab while users log in; a table
	@eval "$$(deploy/lab/lab env)" && $(BIN)/python -m tests.lab $(ARGS) \
		$(if $(ARGS),,&& $(BIN)/python -m tests.lab.guide && $(BIN)/python -m tests.lab.profiles)

lab-down:  ## remove the lab: containers, volumes, images, an engine of its own
	@deploy/lab/lab down

simulate: install  ## whole rings in virtual time, from many seeds: SEEDS=1000
	$(BIN)/python -m tests.simulation.simulate --seeds $(SEEDS)

fuzz: install  ## random input for every parser, codec and socket, from new seeds: MINUTES=10
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) $(ARGS)

bench: install  ## load, side by side with the original director
	@$(PACKAGES) compiler dovecot
	$(BIN)/python -m tests.bench $(ARGS)

clean:  ## remove what the other targets made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .hypothesis
	rm -f director/wire/*.c director/wire/*.so
	find director state migrations tests -name __pycache__ -prune -exec rm -rf {} +
