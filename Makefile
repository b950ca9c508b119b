# `make help` lists what a person needs.
SHELL := /bin/bash
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/llmservice
PY := .venv/bin/python
UV := $(CACHE)/uv/$(shell sha256sum tests/requirements-uv.txt | cut -c1-8)

.PHONY: help env
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

env: .venv/.done ## development environment (.venv) from the hashed lock

.venv/.done: tests/requirements-dev.txt tests/requirements-uv.txt pyproject.toml
	test -x $(UV)/bin/uv || { python3 -m venv $(UV) && $(UV)/bin/pip install -q --require-hashes -r tests/requirements-uv.txt; }
	$(UV)/bin/uv venv -q --clear --python 3.11 .venv
	$(UV)/bin/uv pip install -q --python .venv --require-hashes -r tests/requirements-dev.txt
	$(UV)/bin/uv pip install -q --python .venv --no-deps --no-build-isolation -e .
	touch $@

lock: ## rewrite the hashed locks (no URLs in them)
	U=$(UV)/bin/uv; L="--generate-hashes --no-emit-index-url --python-version 3.11 --custom-compile-command 'make lock' -q"; \
	echo uv==0.13.9 | eval $$U pip compile $$L - -o tests/requirements-uv.txt && \
	eval $$U pip compile $$L --extra operator --extra router --group dev pyproject.toml -o tests/requirements-dev.txt && \
	eval $$U pip compile $$L --extra operator --extra router pyproject.toml -o operator/requirements.txt && \
	eval $$U pip compile $$L --allow-unsafe tests/requirements-vllm-tests.in -o tests/requirements-vllm-tests.txt && \
	eval $$U pip compile $$L bench/router/requirements-vllm-router.in -o bench/router/requirements-vllm-router.txt

.PHONY: lint test test-fast evidence cluster cluster-down demo e2e-scaling demo-down images soak
lint: env ## ruff, mypy, import contracts
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy && .venv/bin/lint-imports

test-fast: env ## rules, manifests, templates: seconds, no programs needed
	.venv/bin/pytest -q -m "not api and not engine and not prometheus and not cluster"

test: env ## every tier on this machine: builds what is missing first (warm 30 to 45 min on 2 cores; a first run builds Kubernetes too)
	$(PY) -m e2e.check

evidence: env ## sizing laws on the same simulated loads -> bench/sizing/RESULTS.md (up to 2 hours, goes on where it stopped; Q=--quick: shorter parts)
	nice -n 10 $(PY) -m bench.sizing.evidence $(Q) --write

soak: env ## 90 minutes of faults under streams on kind, every answer compared -> build/soak (Q="--minutes 8 --scale 0.1": each fault once)
	$(PY) -m e2e.cluster up && $(PY) -m e2e.install && $(PY) -m e2e.cluster exec -- $(PY) -m e2e.soak $(Q)

cluster: env ## a real Kubernetes with 2 x 8 fake GPUs (kind; cold about 13 min, warm under 1)
	$(PY) -m e2e.cluster up

cluster-down: env ## remove it: no process, mount, namespace or cgroup stays
	$(PY) -m e2e.cluster down

demo: env ## the main job: from nothing to pools that follow the load
	$(PY) -m e2e.demo

e2e-scaling: env ## a compressed Azure hour on kind, recorded, then simulated: both side by side (about 20 minutes)
	$(PY) -m e2e.scaling

demo-down: cluster-down ## remove what the demo made

.PHONY: sbom fuzz
sbom: env ## bills of materials of the locks (CycloneDX) -> dist/sbom
	$(PY) -m e2e.images.sbom

fuzz: env ## 10,000 bad LLMServices and 10,000 bad requests, 300 services through the operator (40 minutes)
	LLMSERVICE_FUZZ=1 nice -n 10 .venv/bin/pytest -q -s tests/fuzz

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
images: ## build and push the images with docker: make images REGISTRY=registry.example.com/team
	@test -n "$(REGISTRY)" || { echo "say where to: make images REGISTRY=registry.example.com/team" >&2; exit 2; }
	docker build -f operator/Dockerfile -t $(REGISTRY)/llmservice-operator:$(VERSION) .
	docker build -f serving/Dockerfile -t $(REGISTRY)/llmservice-engine:$(VERSION) .
	docker push $(REGISTRY)/llmservice-operator:$(VERSION)
	docker push $(REGISTRY)/llmservice-engine:$(VERSION)
