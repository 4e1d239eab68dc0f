# Everything one does here. `make` alone lists it. Needs make and a Python from 3.11 to 3.13, nothing else.

KEPT := .dev

PYTHON ?=
SCHEDULER ?= async
PORT ?=
DATA_DIR ?= $(KEPT)
ARGS ?=
TIS ?= 20000

BIN := .venv/bin
READY := .venv/.ready
CLUSTER = $(BIN)/python -m async_scheduler.devcluster
CLUSTER_OPTIONS = --scheduler $(SCHEDULER) --data-dir $(DATA_DIR) $(if $(PORT),--port $(PORT))

.DEFAULT_GOAL := help
.PHONY: help setup browser servers demo cluster check format test test-deep test-faults soak bench lock clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  SCHEDULER=sync   demo, cluster: the stock scheduler in place of the async one"
	@echo "  PORT=8081        demo, cluster: the port of the API server"
	@echo "  DATA_DIR=...     demo, cluster: where the database, keys and logs are kept (.dev)"
	@echo "  ARGS=...         test, test-deep, bench: further arguments, e.g. ARGS='tests/unit -k settings'"
	@echo "  PYTHON=...       setup: the Python to use"

setup: $(READY)  ## Make .venv with everything pinned in config/requirements.lock
	@:

$(READY): pyproject.toml config/requirements.lock
	@python=$$(config/find-python $(PYTHON)) || exit 1; \
	$(BIN)/python -c '' 2>/dev/null || rm -rf .venv; \
	if [ ! -d .venv ]; then \
	    echo "Making .venv with $$($$python --version): about a minute, more with a slow network"; \
	    $$python -m venv .venv || { rm -rf .venv; exit 1; }; \
	else echo "Bringing .venv up to date"; fi
	@$(BIN)/python -m pip install -qq --no-deps --require-hashes -r config/requirements.lock
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY)  ## Run the DAGs of config/dev/dags on a cluster of real processes and judge how they end
	@$(CLUSTER) demo $(CLUSTER_OPTIONS)

cluster: $(READY)  ## Keep that cluster up, with the UI on http://localhost:8080, until Ctrl-C
	@$(CLUSTER) up $(CLUSTER_OPTIONS)

check: $(READY)  ## Lint, formatting, types, layers, dependencies and their licences
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pip check
	$(BIN)/python config/check-licences

format: $(READY)  ## Format the code and mend what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: $(READY) browser servers  ## All tests but the deep ones, on an embedded PostgreSQL
	$(BIN)/pytest -n 2 --dist loadgroup --reruns 1 --rerun-show-tracebacks -m "not deep and not faults" $(ARGS)

browser:
	@command -v chromium >/dev/null || ! command -v apt-get >/dev/null || [ "$$(id -u)" != 0 ] || { \
	    echo "Installing Debian's chromium: some tests look at pages in a browser"; \
	    apt-get update -q >/dev/null && apt-get install -q -y --no-install-recommends chromium >/dev/null; }

servers: $(READY)
	@command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] || exit 0; \
	ls /usr/lib/postgresql/*/bin/initdb /usr/sbin/pgbouncer /usr/sbin/mariadbd /usr/bin/mariadb_config /usr/bin/redis-server \
	    /usr/bin/redis-cli /usr/bin/faketime >/dev/null 2>&1 || { \
	    echo "Installing Debian's PostgreSQL, PgBouncer, MariaDB, Redis and faketime: some tests start servers of their own"; \
	    apt-get update -q >/dev/null && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -q -y \
	        --no-install-recommends postgresql pgbouncer mariadb-server libmariadb-dev pkg-config gcc redis-server faketime \
	        >/dev/null; }; \
	$(BIN)/python -c 'import MySQLdb' 2>/dev/null || $(BIN)/python -m pip install -qq 'mysqlclient>=2.2,<3' \
	    || echo 'mysqlclient cannot be built: the tests of MariaDB are skipped'

test-deep: $(READY) browser  ## The long property tests
	$(BIN)/pytest -n 2 --dist loadgroup -m deep $(ARGS)

test-faults: $(READY) servers  ## Faults injected into real servers and schedulers: about twenty minutes
	$(BIN)/pytest -n 2 --dist loadgroup -m faults $(ARGS)

soak: $(READY)  ## One scheduler for a long time: does its memory stay flat? TIS=1000000 for the long one
	$(BIN)/python -m tests.faults.soak --tis $(TIS) $(ARGS)

bench: $(READY)  ## A short benchmark of the schedulers
	$(BIN)/poc-bench run --quick $(ARGS)

lock: $(READY)  ## Renew config/requirements.lock: the newest versions that pyproject.toml allows
	@$(BIN)/python -m pip install -qq 'uv>=0.9'
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command 'make lock' \
	    --output-file config/requirements.lock pyproject.toml

clean:  ## Remove .venv, the cluster's data in .dev and all caches
	@! kill -0 $$(head -n 1 $(KEPT)/postgres/postmaster.pid 2>/dev/null) 2>/dev/null || \
	    { echo "A cluster is running in $(KEPT): stop it first."; exit 1; }
	rm -rf .venv $(KEPT) build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
