# Two commands for a newcomer: `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
JOB ?= examples/demo.toml
OUT ?= out/demo
# Root needs no sudo; others use it where it asks for no password.
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo -n)
APT := apt-get -qq -o=Dpkg::Use-Pty=0

.PHONY: help
help: ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

.PHONY: demo
demo: install system ## set up and run the main job: real photos, a cascade, a (virtual) Raspberry Pi, a report
	$(BIN)/edgecompress run $(JOB) --out $(OUT)
	@$(MAKE) --no-print-directory shipped || echo "The main job above is done. For the second one: edgecompress data get imagenette, make shipped"

.PHONY: shipped
shipped: install system ## the cascade that this project compressed itself, on the same board (fetches Imagenette, 94 MB)
	$(BIN)/edgecompress data get imagenette
	$(BIN)/edgecompress run examples/shipped.toml --out out/shipped

SIDE_BY_SIDE := $(addprefix tests/,bench compile compress edgecompress targets)

.PHONY: test
test: install system counting ## set up and run the everyday tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	# Nothing in these rooms is disturbed by a neighbour: two processes, one thread each.
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile --durations=25 $(SIDE_BY_SIDE)
	$(BIN)/pytest -q --durations=25 $(SIDE_BY_SIDE:%=--ignore=%)

.PHONY: test-slow
test-slow: install system counting ## the tests that take longer
	$(BIN)/pytest -q -m slow

RELIABILITY := out/reliability.jsonl

.PHONY: reliability
reliability: install system ## break boards, links and processes; writes the table of docs/reliability.md
	@mkdir -p out && rm -f $(RELIABILITY)
	EDGECOMPRESS_RELIABILITY=$(abspath $(RELIABILITY)) $(BIN)/pytest -q -m "" tests/faults
	$(BIN)/python tests/faults/table.py $(RELIABILITY) docs/reliability.md

.PHONY: fuzz
SECONDS ?= 3600
fuzz: install ## damaged files for all that reads them; SECONDS=3600, files below out/fuzz
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

.PHONY: benchmark
benchmark: install ## pytest-benchmark: kernels, decoding, cropping
	$(BIN)/pytest -q --benchmark-only -m ""

.PHONY: format
format: install ## format and fix what a tool can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: install
install: $(VENV)/.installed ## make .venv and install the project into it

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed; try: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { $(AS_ROOT) $(APT) update && $(AS_ROOT) env DEBIAN_FRONTEND=noninteractive $(APT) install -y python3-venv; } || \
	  { echo "error: this Python cannot make virtual environments; try: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip

# Debian packages that Python tells of ($1), unless they are there; without them: $2.
define apt_install
	@missing=$$(for p in $$($(BIN)/python -c '$1'); do \
	  dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	  echo "installing" $$missing; \
	  { $(AS_ROOT) $(APT) update && $(AS_ROOT) env DEBIAN_FRONTEND=noninteractive $(APT) install -y --no-install-recommends $$missing; } >/dev/null || \
	  echo "! cannot install" $$missing "- $2"; \
	fi
endef

# The virtual board needs a few. Without them the job still runs, on the host board.
.PHONY: system
system: install ## install the Debian packages of the virtual board, where that is allowed
	$(call apt_install,from edgecompress.rpc.virtual import APT_PACKAGES as p; print(*p),the host board will stand in for the virtual Raspberry Pi)

.PHONY: counting
counting: install ## install what counts instructions of arm64 code (edgecompress bench peers|layers)
	$(call apt_install,from edgecompress.bench.emulated.count import APT_PACKAGES as p; print(*p),nothing can be counted on the virtual board)

.PHONY: clean
clean: ## remove results and caches of this folder; the environment stays
	rm -rf out build .pytest_cache .ruff_cache .hypothesis *.egg-info
