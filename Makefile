# `make` alone lists the targets. Each sets up what it needs (scripts/setup is idempotent and fast the second time).
SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:$(PATH)
# Containers and builds share two cores on the machines that test this.
TEST_THREADS ?= 3

.DEFAULT_GOAL := help
.PHONY: help setup build demo test test-cgroup2 attacks lint bench fuzz sidecar up down logs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: ## install and start what is missing: runsc, Docker where it is wanted, the images (ENGINE=docker|runsc|all)
	scripts/setup

build: ## the release binary, target/release/cellblock
	cargo build --release

demo: setup build ## the main job on a real data set, over the stdio protocol
	cargo run --release --quiet --example demo

# Both engines, and the tools that only tests need.
test bench: export ENGINE := all

test: setup lint ## everything: lint, unit tests, integration tests in real containers
	cargo test --lib --bins --examples
	TEST_ENGINE=runsc cargo test --test it -- --test-threads=$(TEST_THREADS) --skip daemon::
	cargo test --quiet --test attacks -- --engine runsc
	TEST_ENGINE=docker cargo test --test it -- --test-threads=$(TEST_THREADS) $(addprefix --skip ,runsc:: compose:: images:: setup::)

test-cgroup2: ## the runsc engine on control groups version 2, in an emulated machine (minutes)
	scripts/test-cgroup2

# As compose/docker-compose.yml starts it, but on standard input and output.
CONTAINED := docker run --rm --interactive --init --user 1000:1000 --read-only --network none --cap-drop ALL \
	--security-opt no-new-privileges --security-opt seccomp=seccomp/sidecar.json --security-opt apparmor=unconfined \
	--tmpfs /tmp:mode=1777 --volume cellblock_images:/var/lib/cellblock:ro cellblock/sidecar serve

attacks: sidecar ## what hostile code and clients try: both engines, and a sidecar in an unprivileged container
	cargo test --quiet --test attacks -- --engine runsc
	cargo test --quiet --test attacks -- --engine docker
	cargo test --quiet --test attacks -- --stdio $(CONTAINED) --drain-timeout 1s --grace 1s --memory 256m

lint: ## format, clippy, documentation, dependencies, shell scripts
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTC_BOOTSTRAP=1 cargo clippy --manifest-path tests/fuzz/Cargo.toml --target-dir target --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --quiet
	scripts/cargo-deny check bans licenses sources
	shellcheck --external-sources $(shell find scripts .ci -type f)

bench: setup ## round trips and starts beside the engine's own floors
	cargo bench --bench floors

fuzz: ## the three codecs, a minute each (SECONDS=n)
	scripts/fuzz

COMPOSE := docker compose --file compose/docker-compose.yml

sidecar: export ENGINE := all
sidecar: setup build ## the image cellblock/sidecar, and the volume with the images that it starts
	scripts/sidecar-image
	@for name in python nodejs; do $(COMPOSE) run --rm -T images list | grep -q "^cellblock/$$name" || \
		docker save cellblock/$$name | $(COMPOSE) run --rm -T images import -; done

up: sidecar ## a sidecar in an unprivileged container, and an application that uses its socket
	$(COMPOSE) up --detach

down: ## stop it and remove its volumes
	$(COMPOSE) --profile tools down --volumes

logs: ## where the Docker daemon logs, the containers of cellblock, and what the Compose stack says
	@echo "dockerd: /var/log/cellblock-dockerd.log (or: journalctl -u docker)"
	@if command -v docker >/dev/null; then docker ps -a --filter label=cellblock.instance; $(COMPOSE) logs; fi

clean: ## build results, cellblock's containers and images
	if [ -x target/release/cellblock ]; then for name in python nodejs; do target/release/cellblock image rm cellblock/$$name || true; done; fi
	cargo clean
	if command -v docker >/dev/null; then \
		docker ps -aq --filter label=cellblock.instance | xargs -r docker rm -f; \
		docker image ls --format '{{.Repository}}:{{.Tag}}' --filter reference=cellblock/python --filter reference=cellblock/nodejs | \
			xargs -r docker image rm; \
	fi
