# Everything a user or developer does. A fresh machine needs Python 3.11 or 3.12 and make; the tests also Node and a C compiler.
SHELL := /bin/bash
PY := .venv/bin/python
PYTHON ?= python3

.DEFAULT_GOAL := help

help: ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: .venv/installed ## Install locked, hash-checked dependencies into .venv

.venv/installed: requirements.lock pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

run: install ## Start a simulated plant and the gateway; Ctrl-C stops both
	.venv/bin/bifrost demo

counterparts: install ## Install the real servers and clients that the tests talk to
	bash tests/counterparts/install.sh

test: install counterparts ## Run the tests
	$(PY) -m pytest -m "not soak" $(ARGS)

check: install ## Format, lint, types, import direction, generated docs
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	$(PY) -m pytest -q tests/test_layout.py
	$(PY) -m config.reference --check
	$(PY) -m flows.picture --check

format: install ## Format the code and write the generated docs
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .
	$(PY) -m config.reference
	$(PY) -m flows.picture

bench: install ## Measure; writes build/evidence/bench.json
	$(PY) -m benchmarks.run

evidence: ## Copy build/evidence to docs/evidence
	mkdir -p docs/evidence && cp build/evidence/*.json docs/evidence/

lock: install ## Resolve the dependencies anew
	$(PY) -m pip install --quiet uv
	$(PY) -m uv pip compile --universal --python-version 3.11 --extra dev --generate-hashes --no-emit-index-url --no-header --no-annotate -q pyproject.toml -o requirements.lock

clean: ## Remove what was built
	rm -rf .venv build data .pytest_cache .mypy_cache .ruff_cache

.PHONY: help install run counterparts test check format bench evidence lock clean
