# The two commands of the README are `make run` and `make test`; both set up what they need.

# Build output lives outside the clone, so that dependencies are built once for all clones.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/quiver/target
export QUIVER_CACHE ?= $(HOME)/.cache/quiver

.PHONY: run test check analytics analytics-release fmt lint unit compat openapi bench bench-instructions bench-attack soak fuzz deny help

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

run: ## build the server and start it on embedded defaults (127.0.0.1:9740, data in ./data)
	@scripts/setup build
	cargo run --release --locked -p quiver -- serve

test: ## everything: set-up, format, lints, all tests with the real programs beside them
	@scripts/setup test
	$(MAKE) --no-print-directory check

check: fmt lint analytics unit compat openapi ## what a reviewer would run, without set-up

analytics: ## the process that answers SQL and works on tables (DuckDB, Polars): build and test it, cheaply compiled
	scripts/analytics build
	scripts/analytics test
	scripts/analytics lint

analytics-release: ## the same, as it is put beside a quiver that is in use
	scripts/analytics release

fmt: ## formatting
	cargo fmt --all --check

lint: ## clippy, warnings are errors
	cargo clippy --locked --workspace --all-targets -- -D warnings

unit: ## all Rust tests, end-to-end ones included
	cargo test --locked --workspace

compat: ## stock DuckDB and Polars read a data directory of ours
	scripts/compat

openapi: ## the OpenAPI document is held against a running server with schemathesis; EXAMPLES=200 for a long run
	scripts/openapi $(EXAMPLES)

bench: ## the benchmark beside Prometheus, VictoriaMetrics and InfluxDB; some 40 minutes, not part of the tests; BENCH="--only remote-write" for a part
	@scripts/setup bench
	cargo build --release --locked -p quiver -p bench
	$(CARGO_TARGET_DIR)/release/quiver-bench --quiver $(CARGO_TARGET_DIR)/release/quiver $(BENCH)

bench-attack: analytics-release ## the latency of collection while hostile SQL runs, some 8 minutes
	@scripts/setup bench
	cargo build --release --locked -p quiver -p bench
	$(CARGO_TARGET_DIR)/release/quiver-bench --quiver $(CARGO_TARGET_DIR)/release/quiver \
		--analytics $(QUIVER_CACHE)/analytics-target/release/quiver-analytics --only attack $(BENCH)

bench-instructions: ## instructions per sample of each step of the hot path, counted under callgrind
	@scripts/setup bench
	cargo build --release --locked -p wire -p collect -p store --example parse_speed --example scrape_cost --example ingest_speed
	scripts/bench-instructions

fuzz: ## the fuzz targets, a minute each; needs a C++ compiler, no nightly one; FUZZ="promql lines" for some, QUIVER_FUZZ_SECONDS for how long
	@scripts/setup build
	scripts/fuzz $(FUZZ)

soak: ## half an hour of kills, full disks, simulated disks and fuzzing; prints a summary
	@scripts/setup build
	scripts/soak
	cargo test --release --locked -p store --test admission -- --include-ignored

deny: ## licences, bans and sources of all dependencies (builds cargo-deny once)
	@test -x $(QUIVER_CACHE)/tools/bin/cargo-deny || cargo install --locked --root $(QUIVER_CACHE)/tools cargo-deny@0.20.2
	$(QUIVER_CACHE)/tools/bin/cargo-deny check bans licenses sources
	$(QUIVER_CACHE)/tools/bin/cargo-deny --manifest-path analytics/Cargo.toml check bans licenses sources
