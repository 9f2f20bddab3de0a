# Everything a user or developer does. A fresh machine needs Python 3.11 or 3.12 and make; the tests also Node, a JDK with Maven, Rust, Go and a C compiler.
SHELL := /bin/bash
PY := .venv/bin/python
PYTHON ?= python3

.DEFAULT_GOAL := help

help: ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: .venv/installed $(if $(shell command -v npm),ui) ## Install locked, hash-checked dependencies into .venv; build the UI where Node is there

.venv/installed: requirements.lock pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

ui: web/static/index.html ## Build the browser's pages into web/static (needs Node 20.19 or later)

web/static/index.html: web/ui/node_modules/.package-lock.json $(shell find web/ui -type f -not -path '*/node_modules/*')
	cd web/ui && npm run --silent build

web/ui/node_modules/.package-lock.json: web/ui/package-lock.json
	cd web/ui && npm ci --loglevel=error
	touch $@

run: install ## Start a simulated plant and the gateway; Ctrl-C stops both
	.venv/bin/bifrost demo

counterparts: install ## Install the real servers and clients that the tests talk to
	bash tests/counterparts/install.sh

test: install counterparts ## Run the tests
	$(PY) -m pytest -m "not soak" $(ARGS)

test-influx2: install ## Build InfluxDB 2.7 and run the writer suite against it too (the first time: 24 minutes, needs Go and Rust)
	sh tests/counterparts/influx2/install.sh
	BIFROST_INFLUX2=1 $(PY) -m pytest tests/contract/test_writers.py tests/connectors/targets/test_influxdb_answers.py -k "influxdb" $(ARGS)

check: install ## Format, lint, types, import direction, generated docs
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/mypy benchmarks tests/benchmarks tests/bifrost tests/config tests/normalization
	$(PY) -m pytest -q tests/test_layout.py
	$(PY) -m config.reference --check
	$(PY) -m flows.picture --check
	$(PY) -m web.reference --check
	$(PY) -m benchmarks.tables --check
	$(PY) -m tests.threats --check

k8s-check: install ## Render the chart and the overlays, compare them, and check them against three versions of Kubernetes
	sh tests/counterparts/kubernetes/install.sh
	$(PY) -m pytest -q tests/k8s $(ARGS)

compose-check: install ## Check docker-compose.yaml and what it mounts by the programs that will read them
	sh tests/counterparts/compose/install.sh
	$(PY) -m tests.deployment.compose_file
	$(PY) -m pytest -q tests/deployment/test_compose.py $(ARGS)

k8s-rules: install ## Write the alerts as an object of the Prometheus operator
	$(PY) -m tests.k8s_rendered --rules

image: ui ## Build the image with podman or docker (IMAGE=bifrost EXTRAS=all BASE_IMAGE=python:3.12-slim)
	$(or $(shell command -v podman),docker) build $(if $(shell command -v podman),--format docker) -t $(or $(IMAGE),bifrost) \
		--build-arg BASE_IMAGE=$(or $(BASE_IMAGE),python:3.12-slim) --build-arg EXTRAS=$(or $(EXTRAS),all) \
		--build-arg REVISION=$(shell git rev-parse HEAD) --build-arg CREATED=$(shell date -u +%Y-%m-%dT%H:%M:%SZ) .

image-test: install ## Build the image on a Debian base, run, kill and restart it, play its pod, as root, for minutes; writes build/evidence/image.json
	sh tests/counterparts/containers.sh
	sh tests/counterparts/kubernetes/install.sh
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --target build/deployment/lib --upgrade -r tests/deployment/requirements.txt
	PYTHONPATH=build/deployment/lib $(PY) -m tests.deployment.image $(ARGS)

gateway-test: $(if $(STAND_INS),install) ## Run docker-compose.yaml with docker or podman and look at it in six steps (STAND_INS=1 where no registry of images is reached)
	$(if $(STAND_INS),$(PY) -m tests.deployment.stand_ins,bash tests/deployment/test_gateway.sh)

bundle: install ui ## Make the archive that installs without a network, build/bundle/*.tar (ARGS="--architecture aarch64 --python 3.11": only for it)
	$(PY) -m deploy.bundle $(ARGS)

bundle-test: bundle ## Install it in an empty Debian without a network, run, kill and restart it, as root, for minutes; writes build/evidence/bundle.json
	sh tests/counterparts/containers.sh
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --target build/deployment/lib --upgrade -r tests/deployment/requirements.txt
	PYTHONPATH=build/deployment/lib $(PY) -m tests.deployment.offline

format: install ## Format the code and write the generated docs
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .
	$(PY) -m config.reference
	$(PY) -m flows.picture
	$(PY) -m web.reference
	$(PY) -m benchmarks.tables
	$(PY) -m tests.threats
	$(PY) -m tests.k8s_rendered --rules

chaos: install counterparts ## Kills, power cuts, bit flips, full disks, outages: an hour; writes build/evidence/chaos.json
	$(PY) -m tests.chaos $(ARGS)

chaos-short: install counterparts ## The same in under 15 minutes
	$(PY) -m tests.chaos --short $(ARGS)

soak: install ## Hours with faults, in which nothing may grow (HOURS=4); writes build/evidence/soak.json
	$(PY) -m tests.chaos.soak --hours $(or $(HOURS),4)

mutation: install ## Change the delivery code in small ways and see which tests notice (FILES=delivery/retry.py); writes build/evidence/mutation.json
	sh tests/mutation/install.sh
	nice -n 19 build/mutation/venv/bin/python -m tests.mutation $(ARGS) $(FILES)

fuzz: install ## Look for bytes that break a decoder, led by the code they reach (TARGET=opcua SECONDS=60)
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --target build/fuzz/lib -r tests/fuzz/requirements.txt
	for target in $(or $(TARGET),$$($(PY) -c "from tests.fuzz.targets import TARGETS; print(*TARGETS)")); do \
		PYTHONPATH=build/fuzz/lib $(PY) -m tests.fuzz $$target $(or $(SECONDS),60) || exit 1; done

bench: install ## Measure; writes build/evidence/bench.json
	$(PY) -m benchmarks.run

bench-peers: install counterparts ## The same for the sources, with Telegraf beside, which is built first (needs Go)
	$(PY) -m benchmarks.run peers

evidence: install ## Copy build/evidence to docs/evidence and write the tables of figures
	mkdir -p docs/evidence && cp build/evidence/*.json docs/evidence/
	$(PY) -m benchmarks.tables
	$(PY) -m config.reference

lock: install ## Resolve the dependencies anew
	$(PY) -m pip install --quiet uv
	$(PY) -m uv pip compile --universal --python-version 3.11 --extra dev --generate-hashes --no-emit-index-url --no-header --no-annotate -q pyproject.toml -o requirements.lock
	for extra in all edge; do \
		$(PY) -m uv pip compile --universal --python-version 3.11 --extra $$extra -c requirements.lock --generate-hashes --no-emit-index-url --no-header --no-annotate -q pyproject.toml -o deploy/$$extra.lock || exit 1; done
	echo pip | $(PY) -m uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -q - -o deploy/bundle.lock

clean: ## Remove what was built
	rm -rf .venv build data web/static web/ui/node_modules .pytest_cache .mypy_cache .ruff_cache

.PHONY: help install ui image image-test bundle bundle-test gateway-test compose-check run counterparts test test-influx2 check k8s-check k8s-rules format chaos chaos-short soak mutation fuzz bench bench-peers evidence lock clean
