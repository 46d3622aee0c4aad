# Hooklog. `make help` lists what can be done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help venv lock lock-kafka up test check faults soak bench format clean

help: ## list these commands
	@$(PYTHON) -c "import re; [print(f'  make {n:<10} {t}') for n, t in re.findall(r'^([a-z-]+):[^#\n]*## (.+)', open('Makefile').read(), re.M)]"

# Before 24.2, pip trusts a list of its own, which knows no company's proxy. uv and we trust what this machine trusts.
TRUSTING = REQUESTS_CA_BUNDLE="$${REQUESTS_CA_BUNDLE-$${CURL_CA_BUNDLE-$$($(PYTHON) -c \
	'import ssl; print(ssl.get_default_verify_paths().cafile or "")')}}"

venv: $(VENV)/.installed ## create .venv with the locked dependencies

$(VENV)/.installed: pyproject.toml requirements/dev.lock requirements/bootstrap.lock
	@$(PYTHON) -c "import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else 'Hooklog needs Python 3.11, 3.12 or 3.13; PYTHON=python3.12 make … names another one')"
	@echo "installing the locked dependencies into $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@{ $(TRUSTING) $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.lock && \
	$(BIN)/uv --system-certs pip sync --quiet --python $(BIN)/python --require-hashes requirements/bootstrap.lock requirements/dev.lock && \
	$(BIN)/uv --system-certs pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable . ; } || \
	{ echo "Hooklog: the dependencies could not be fetched (the reason is above); run the same again to resume" >&2; exit 1; }
	@touch $@

lock: venv ## resolve the dependencies again into requirements/*.lock
	$(BIN)/uv --system-certs pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --extra stack --extra dev pyproject.toml -o requirements/dev.lock
	$(BIN)/uv --system-certs pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header -c requirements/dev.lock pyproject.toml -o requirements/runtime.lock
	$(BIN)/uv --system-certs pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header -c requirements/dev.lock requirements/bootstrap.in -o requirements/bootstrap.lock

lock-kafka: venv ## resolve Kafka's jars again into deploy/kafka_jars.lock
	$(BIN)/python -W ignore -m deploy.maven

up: venv ## start everything here, send a first event through it, stay until Ctrl-C
	@$(BIN)/hooklog up

clean: ## remove .venv and caches (DATA_DIR and the Kafka cache stay)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

format: venv ## format the code
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

check: static ## seconds: ruff, mypy --strict, import-linter, unit and property tests
	$(BIN)/pytest -q $(wildcard tests/unit tests/property)

.PHONY: static
static: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# The order is that of patience: what is quick and broken says so first.
SUITES := $(wildcard $(addprefix tests/,unit property contract api end_to_end faults))

test: venv ## everything CI runs, on real parts, and how long each suite took
	@began=$$(date +%s) && $(MAKE) --no-print-directory static && \
	STATIC_SECONDS=$$(( $$(date +%s) - began )) $(BIN)/pytest -p tests.budgets $(SUITES)

# The part of the fault tests that kills, at length; FAULTS_SEED=n repeats a schedule.
faults: venv ## kill and freeze every process under load and count what is lost or repeated, into docs (more than an hour)
	FAULTS=long FAULTS_FIGURES=docs/reliability-figures.txt $(BIN)/pytest tests/faults

soak: venv ## all processes for half an hour at half of full speed with bad endpoints: memory, lag, descriptors, CPU, into docs/benchmarks
	$(BIN)/python -m tests.benchmarks.soak --minutes 30 --write docs/benchmarks

# Both go on to the end: one limit that does not hold hides nothing.
bench: venv ## what a delivery costs and what bad endpoints cost the others, with their limits, into docs/benchmarks (half an hour)
	@status=0; for name in delivery isolation; do \
	$(BIN)/python -m tests.benchmarks.$$name --write docs/benchmarks || status=1; done; exit $$status
