# The entry points of the project; `make help` lists them.

VENV   ?= .venv
PYTHON ?= python3
ARGS ?=
PYTEST_ARGS ?=
BENCH ?= tests.bench
BENCH_ARGS ?=
FAULT_ARGS ?=
SOAK_ARGS ?=

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
NPM_CI := npm ci --ignore-scripts --no-audit --no-fund --loglevel=error

# What an editable install depends on. The build also vendors the browser client.
BUILD_INPUTS := pyproject.toml setup.cfg setup.py packaging/backend.py \
    packaging/package.json packaging/package-lock.json packaging/.npmrc
CLIENT := gateway/static/vendor/socket.io-client.json
NODE_TESTS := tests/e2e/node
COMPILED := build/compiled
# What runs again on the compiled modules: all that goes through them on real sockets, and what
# keeps messages.
COMPILED_TESTS := tests/transport tests/e2e/test_node.py tests/core/test_engineio.py \
    tests/core/test_mailbox.py tests/core/test_messages.py tests/core/test_replay.py \
    tests/stores/test_redis_bus.py tests/stores/test_redis_client.py tests/stores/test_rooms.py \
    tests/stores/test_sqlite_copies.py tests/stores/test_store.py
BENCH_PEERS := tests/bench/peers

# What tests run, as command:package of Debian. Nothing is installed that is there.
TEST_COMMANDS := chromium:chromium chromedriver:chromium-driver firefox-esr:firefox-esr \
    WebKitWebDriver:webkit2gtk-driver Xvfb:xvfb systemd-analyze:systemd \
    systemd-nspawn:systemd-container nsenter:util-linux curl:curl openssl:openssl \
    node:nodejs npm:npm faketime:faketime nginx:nginx caddy:caddy redis-server:redis-server

# Where a release goes, and what it is made with: the Python of the system it will run on.
PREFIX ?= /opt/game-gateway
SYSCONFDIR ?= /etc
BINDIR ?= /usr/local/bin
UNITDIR ?= /etc/systemd/system
SYSTEM_PYTHON ?= /usr/bin/python3
WHEELS ?= build/wheels
INSTALL := DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' SYSCONFDIR='$(SYSCONFDIR)' BINDIR='$(BINDIR)' \
    UNITDIR='$(UNITDIR)' PYTHON='$(SYSTEM_PYTHON)' sh systemd/install.sh

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help run test test-compiled compiled bench faults soak lint format clean wheels install \
    rollback system-packages test-environment FORCE

help:
	@echo 'make run      start a gateway                      (ARGS="--port 9000")'
	@echo 'make test     linters, types and all tests         (PYTEST_ARGS="-k replay -x")'
	@echo 'make test-compiled   some tests again, on the compiled modules of a wheel'
	@echo 'make bench    the gateway beside other servers     (BENCH_ARGS="--rounds 1")'
	@echo '              several of each      (BENCH=tests.bench.nodes, BENCH=tests.bench.scaling)'
	@echo 'make faults   break the gateway under load         (FAULT_ARGS="--rounds 5")'
	@echo 'make soak     ten minutes of mixed load with faults (SOAK_ARGS="--minutes 60")'
	@echo 'make wheels   the gateway and all it needs, in $(WHEELS)'
	@echo 'make install  a release from these wheels, as a service (PREFIX, DESTDIR, ...)'
	@echo 'make rollback the release before that one'
	@echo 'make lint     linters and types only'
	@echo 'make format   rewrite the code in the common format'
	@echo 'make clean    remove what builds and tests left; keeps $(VENV) and var/'

run: $(VENV)/.installed
	@exec $(BIN)/game-gateway serve $(ARGS)

test: system-packages test-environment lint
	$(BIN)/pytest $(PYTEST_ARGS)

test-compiled: test-environment compiled
	cd $(COMPILED) && $(abspath $(BIN))/pytest $(COMPILED_TESTS) $(PYTEST_ARGS)

bench: $(BENCH_PEERS)/node_modules/.installed compiled
	cd $(COMPILED) && $(abspath $(BIN))/python -m $(BENCH) $(BENCH_ARGS)

# A copy of the tree with the modules compiled that are in a wheel.
compiled: $(VENV)/.installed-test
	@echo "Compiling into $(COMPILED)"
	@rm -rf $(COMPILED)
	@mkdir -p $(COMPILED)
	@cp -r gateway config packaging systemd tests *.cfg *.md *.py *.toml $(COMPILED)
	@cd $(COMPILED) && GATEWAY_COMPILED=yes $(abspath $(BIN))/python setup.py -q build_ext \
	    --inplace >build.log 2>&1 || { cat build.log; exit 1; }

wheels:
	@rm -rf $(WHEELS) build/wheels-venv
	@$(SYSTEM_PYTHON) -m venv build/wheels-venv
	@build/wheels-venv/bin/python -m pip wheel --quiet --disable-pip-version-check \
	    --wheel-dir $(WHEELS) .
	@echo "$(WHEELS): $$(ls $(WHEELS)/game_gateway-*.whl)"

install:
	@$(INSTALL) install $(WHEELS)

rollback:
	@$(INSTALL) rollback

faults: system-packages $(VENV)/.installed-test
	$(BIN)/python -m tests.faults $(FAULT_ARGS)

soak: system-packages $(VENV)/.installed-test
	$(BIN)/python -m tests.faults.soak $(SOAK_ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-test
	$(BIN)/ruff check --quiet --fix --exit-zero .
	$(BIN)/ruff format .

clean:
	rm -rf build dist *.egg-info gateway/static/vendor
	rm -rf $(NODE_TESTS)/node_modules $(BENCH_PEERS)/node_modules
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find gateway packaging tests -name __pycache__ -prune -exec rm -rf {} +
	rm -f $(VENV)/.installed $(VENV)/.installed-test

# The environment

test-environment: $(VENV)/.installed-test $(NODE_TESTS)/node_modules/.installed

$(BIN)/python:
	@echo "Creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BUILD_INPUTS) $(if $(wildcard $(CLIENT)),,FORCE) | $(BIN)/python
	@echo "Installing game-gateway into $(VENV)"
	@$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: $(BUILD_INPUTS) $(if $(wildcard $(CLIENT)),,FORCE) | $(BIN)/python
	@echo "Installing game-gateway and its tests' tools into $(VENV)"
	@$(PIP_INSTALL) --editable '.[test]'
	@touch $(VENV)/.installed $@

%/node_modules/.installed: %/package.json %/package-lock.json %/.npmrc
	@echo "Installing the packages of $*"
	@cd $* && $(NPM_CI) >/dev/null
	@touch $@

system-packages:
	@missing=; \
	for pair in $(TEST_COMMANDS); do \
	    PATH="$$PATH:/usr/sbin" command -v "$${pair%%:*}" >/dev/null 2>&1 || missing="$$missing $${pair#*:}"; \
	done; \
	test -x $(BIN)/python || $(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	    missing="$$missing python3-venv"; \
	/usr/bin/python3 -c 'import ensurepip' 2>/dev/null || missing="$$missing python3-venv"; \
	test -n "$$missing" || exit 0; \
	if ! command -v apt-get >/dev/null 2>&1; then \
	    echo "make test: these programs are missing, and there is no apt-get to install" \
	        "them; install what your system calls:$$missing" >&2; exit 1; \
	fi; \
	as_root=; \
	if [ "$$(id -u)" -ne 0 ]; then \
	    if ! command -v sudo >/dev/null 2>&1; then \
	        echo "make test: these Debian packages are missing, and installing them takes" \
	            "root or sudo; as root, run: apt-get install$$missing" >&2; exit 1; \
	    fi; \
	    as_root=sudo; \
	fi; \
	echo "Installing Debian packages:$$missing"; \
	if ! { $$as_root apt-get update -qq && \
	    $$as_root env DEBIAN_FRONTEND=noninteractive \
	        apt-get install -y -qq --no-install-recommends $$missing; } >/dev/null; then \
	    echo "make test: apt-get could not install$$missing; tests need them all" >&2; exit 1; \
	fi
