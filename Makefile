# Needs make and Python 3.11 or newer with its venv module; everything else is installed into .venv, by the first target
# that needs it and again when pyproject.toml changes.
#
#   make test PYTHON=python3.13     the Python that .venv is made with
#   make test ARGS="-k mailbox -x"  further arguments to the program that the target runs

SHELL := /bin/sh
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?=
ARGS ?=
VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
SOURCES := creche tests examples benchmarks

# pip and pyright would ask the network whether they are the newest.
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do \
		printf '  make %-18s %s\n' "$$name" "$$text"; \
	done

.PHONY: demo
demo: $(INSTALLED) ## run the message service of examples/
	$(PY) -m examples.message_service.demo $(ARGS)

.PHONY: soak
soak: $(INSTALLED) ## run that service under its killer, for ARGS="--for 3600" seconds, and see that nothing grows
	$(PY) -m examples.message_service.soak $(ARGS)

.PHONY: test
test: $(INSTALLED) ## run the tests
	$(PY) -m pytest -q $(ARGS)

.PHONY: lint
lint: $(INSTALLED) ## check style and format
	$(PY) -m ruff check $(SOURCES)
	$(PY) -m ruff format --check $(SOURCES)

.PHONY: format
format: $(INSTALLED) ## mend what `make lint` can mend by itself
	$(PY) -m ruff check --fix $(SOURCES)
	$(PY) -m ruff format $(SOURCES)

.PHONY: types
types: $(INSTALLED) ## check types with mypy and pyright
	$(PY) -m mypy
	$(PY) -m pyright

.PHONY: bench
bench: $(INSTALLED) ## measure the core and print a table
	$(PY) -m benchmarks.core $(ARGS)

.PHONY: bench-supervision
bench-supervision: $(INSTALLED) ## measure supervision, and what becomes of messages under kills
	$(PY) -m benchmarks.supervision $(ARGS)

.PHONY: mutants
mutants: $(INSTALLED) ## plant faults in a copy of the core; the tests must catch each
	$(PY) -m tests.mutants $(ARGS)

.PHONY: ci
ci: ## all that a clean clone must pass
	.ci/run

.PHONY: venv
venv: $(INSTALLED) ## make .venv, or bring it up to date

.PHONY: python
python: ## print the Python that .venv would be made with
	@$(find_python); echo "$$found"

.PHONY: clean
clean: ## remove .venv, caches and built distributions
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find $(SOURCES) -type d -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml
	@if $(PY) -c 'import pip' 2>/dev/null; then \
		echo "updating $(VENV)"; \
	else \
		$(find_python); \
		echo "making $(VENV) with $$found"; \
		"$$found" -m venv --clear $(VENV) || exit 1; \
	fi
	$(PY) -m pip install --quiet --editable '.[all,dev]'
	@touch $@

# Sets $found to a Python that is new enough and can make a venv, or explains what is missing. A name on the PATH proves
# nothing (it may be a version manager's shim, or lack ensurepip as on Debian), so each candidate is asked.
candidates := $(or $(PYTHON),python3.13 python3.12 python3.11 python3)
probe := import sys; sys.version_info >= (3, 11) or sys.exit(11); print(sys.executable); import ensurepip, venv
define find_python
found=; bare=; \
for name in $(candidates); do \
	answer=$$("$$name" -c '$(probe)' 2>/dev/null); status=$$?; \
	if [ $$status -eq 0 ]; then found=$$answer; break; fi; \
	if [ -n "$$answer" ] && [ -z "$$bare" ]; then bare=$$answer; fi; \
done; \
if [ -z "$$found" ] && [ -n "$$bare" ]; then \
	echo "$$bare is new enough but cannot make a virtual environment: its venv or ensurepip module is missing." >&2; \
	echo "On Debian and Ubuntu: apt-get install python3-venv (or python3.X-venv for another Python 3.X)." >&2; \
	exit 1; \
elif [ -z "$$found" ]; then \
	echo "No Python 3.11 or newer found (tried: $(candidates))." >&2; \
	echo "Install one, or name it: make <target> PYTHON=/path/to/python3" >&2; \
	exit 1; \
fi
endef
