# Thin front to cargo and npm; every target can be run by hand with what it prints.
# CONTRIBUTING.md explains them.

CARGO ?= cargo
NODE ?= node
BUILD := $(CARGO) build --release --locked -p claudemesh
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
PROFILE := $(if $(CI),ci,default)

.PHONY: help build setup check test test-all test-agents demo bench chaos kills sim soak fmt reference mcp-clients

help:
	@echo "make demo [KEEP=1]  build, then run the main job with two people; KEEP=1 leaves it running"
	@echo "make build          the release binary, target/release/claudemesh"
	@echo "make test           format, lints, every test, the documentation, the demo's scripts"
	@echo "make check          format and lints only"
	@echo "make test-all       make test, make mcp-clients, make test-agents, and the long fault and property runs"
	@echo "make mcp-clients    official MCP clients call one tool of each family; downloads them (npm, PyPI)"
	@echo "make test-agents    the real coding agents, offline, against a model that is none; downloads them (npm)"
	@echo "make bench          measure this machine against the targets"
	@echo "make chaos MINUTES=10 [ENGINE=sqlite|postgres|both] [KILLS=n] [SEED=n]"
	@echo "                    kill -9, full disks and cut sockets while people talk; 2 minutes on each engine by default"
	@echo "make reference      write docs/reference and sdk/typescript/src/wire.ts from the tables"
	@echo "make sim SEEDS=5000 [PLANT=bug], make sim SEED=n"
	@echo "                    whole meshes under virtual time with faults that a seed repeats; 200 seeds by default"
	@echo "make kills KILLS=500 [SEED=n]"
	@echo "                    a daemon dies at each of its crash points in turn while people talk; 160 times by default"
	@echo "make soak MINUTES=60 [SEED=n]"
	@echo "                    an even pace for long, with a kill, a stop or a cut now and then; watches what grows"
	@echo "make setup          install what the tests need (Debian packages)"

build:
	$(BUILD)

setup:
	@scripts/setup

fmt:
	$(CARGO) fmt --all

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --workspace --no-deps --locked --quiet

test: setup check
	@scripts/test $(PROFILE)
	@$(NODE) demo/lint.mjs

test-all: test mcp-clients test-agents
	@scripts/test long

mcp-clients:
	$(CARGO) build --locked -p claudemesh
	@scripts/mcp-clients/setup.sh
	@$(NODE) scripts/mcp-clients/run.mjs

test-agents:
	@scripts/agents-setup
	@scripts/test agents

demo: build demo/node_modules/.package-lock.json
	@$(NODE) demo/run.mjs

demo/node_modules/.package-lock.json: demo/package.json demo/package-lock.json
	@cd demo && npm ci --silent --no-progress

bench:
	$(BUILD)
	CLAUDEMESH_BENCH_BINARY=$(TARGET_DIR)/release/claudemesh $(CARGO) run --release --locked -p claudemesh-bench

chaos kills soak: export MINUTES := $(MINUTES)
chaos kills soak: export KILLS := $(KILLS)
chaos kills soak: export SEED := $(SEED)
chaos: export ENGINE := $(ENGINE)
chaos kills soak: setup
	@scripts/test $@

reference:
	UPDATE_REFERENCE=1 $(CARGO) test --quiet --locked -p claudemesh-protocol --test suite reference
	UPDATE_REFERENCE=1 $(CARGO) test --quiet --locked -p claudemesh-testkit --test tidy acceptance

sim:
	$(CARGO) build --profile sim --locked -p claudemesh-sim
	@$(TARGET_DIR)/sim/claudemesh-sim $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),200)) $(if $(PLANT),--plant $(PLANT))
