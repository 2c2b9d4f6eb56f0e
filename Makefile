# Every target sets up what it needs and finds it there the second time.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
KAFKA_VERSIONS := 4.3.0 3.9.1 2.4.1

bin := .venv/bin
python := $(bin)/python
venv := .venv/installed
# Those without ZooKeeper.
PREPARED_VERSIONS := 4.3.0 3.9.1
jars := $(KAFKA_VERSIONS:%=build/kafka/%/complete) $(PREPARED_VERSIONS:%=build/kafka/%/prepared)
streams := build/kafka-streams/$(firstword $(KAFKA_VERSIONS))/complete
mirrormaker := build/mirrormaker/$(firstword $(KAFKA_VERSIONS))/complete
sources := protocol gateway compose certs tests $(wildcard demo bench client_suites)
unit_tests = $(filter-out tests/compose tests/e2e, $(patsubst %/,%,$(wildcard tests/*/)))
pytest := $(python) -m pytest
# Three at a time, each file in one of them: most end-to-end tests wait more than they compute.
parallel := -n 3 --dist loadfile

.PHONY: help setup tools certs lint format test unit e2e demo demo-stop bench bench-client bench-link \
    client-suites soak fuzz acl-differential lock clean

help:
	@echo "make demo    two Kafka clusters, two gateways, a link: the main job, end to end (KEEP=1: stays up)"
	@echo "make test    lint and every test, on real Kafka"
	@echo "make setup   everything the others need: .venv, build/kafka, build/certs"
	@echo "make lint | format | unit | e2e | bench | client-suites | soak | fuzz | acl-differential | lock | clean"

# --- set-up ------------------------------------------------------------------------------------------------

setup: tools $(venv) $(jars) $(streams) certs

tools:
	@PYTHON=$(PYTHON) requirements/tools.sh

$(venv): requirements/test.txt requirements/run.in pyproject.toml | tools
	$(PYTHON) -m venv --clear .venv
	$(bin)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/test.txt
	PYTHONWARNINGS=ignore $(bin)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# Maven may be cut off in the middle of a download: only a complete directory gets its final name.
build/kafka/%/complete: compose/pom.xml | tools
	rm -rf build/kafka/$*.part build/kafka/$*
	mvn --quiet --batch-mode -f compose/pom.xml -Dkafka.version=$* dependency:copy-dependencies \
	    -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/build/kafka/$*.part
	mv build/kafka/$*.part build/kafka/$*
	@touch $@

build/kafka/%/prepared: build/kafka/%/complete compose/prepare.py | $(venv)
	$(python) -m compose.prepare $*
	@touch $@

build/kafka-streams/%/complete: compose/streams.xml | tools
	rm -rf build/kafka-streams/$*.part build/kafka-streams/$*
	mvn --quiet --batch-mode -f compose/streams.xml -Dkafka.version=$* dependency:copy-dependencies \
	    -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/build/kafka-streams/$*.part
	mv build/kafka-streams/$*.part build/kafka-streams/$*
	@touch $@

build/mirrormaker/%/complete: compose/mirrormaker.xml | tools
	rm -rf build/mirrormaker/$*.part build/mirrormaker/$*
	mvn --quiet --batch-mode -f compose/mirrormaker.xml -Dkafka.version=$* dependency:copy-dependencies \
	    -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/build/mirrormaker/$*.part
	mv build/mirrormaker/$*.part build/mirrormaker/$*
	@touch $@

certs: $(venv)
	@$(python) -m certs.make_certs --server cloud-gateway --server onprem-gateway

lock: $(venv)
	for name in run test client-suites; do \
	    CUSTOM_COMPILE_COMMAND="make lock" $(bin)/pip-compile --quiet --generate-hashes --allow-unsafe \
	        --strip-extras --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options \
	        --output-file requirements/$$name.txt requirements/$$name.in; \
	done

# --- checks ------------------------------------------------------------------------------------------------

lint: $(venv)
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy $(sources)
	$(bin)/lint-imports --no-logo

format: $(venv)
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

test: setup lint
	@rm -rf build/coverage && mkdir -p build/coverage
	$(pytest) $(parallel) --durations=40 --durations-min=5 --cov --cov-report= tests
	@echo; echo "Coverage of gateway/ by the tests in this process (gateways of end-to-end tests run in their own):"
	@$(python) -m coverage report --include='gateway/*'
	@echo; echo "Coverage of protocol/, which must be complete:"
	@$(python) -m coverage report --include='protocol/*' --fail-under=100

unit: tools $(venv) certs
	$(pytest) $(parallel) $(unit_tests)

e2e: setup
	$(pytest) $(parallel) tests/compose tests/e2e

# --- the rest ----------------------------------------------------------------------------------------------

demo: setup
	@$(python) -m demo.run

demo-stop: $(venv)
	@$(python) -m demo.keep

bench: bench-client bench-link

bench-client: setup
	@$(python) -m bench.client

bench-link: setup $(mirrormaker)
	@$(python) -m bench.link

# FRAMES=1000000 SEED=1 SECONDS=0 (no limit): mutated requests and responses through a running gateway.
fuzz: setup
	@$(python) -m tests.fuzz.run

# Decisions and answers about ACLs, against real Kafka: the short forms are in `make test`.
acl-differential: setup
	@$(python) -m tests.e2e.acl_differential

client-suites: setup
	@command -v go >/dev/null || { echo "make client-suites needs Go 1.26 or later, for franz-go" >&2; exit 1; }
	@$(python) -m client_suites.run

soak: setup
	$(pytest) -m soak tests

clean:
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
