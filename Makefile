# `make` lists the targets. `make PYTHON=python3.12 venv` selects another Python (3.11 to 3.13).
PYTHON ?=
VENV := .venv
STAMP := $(VENV)/.installed
EXTRAS := $(VENV)/.extras
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv extras parity test further test-extras check pure sweep bench detection pictures clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

# The stamp is written last, so an interrupted install is never taken for a whole one.
$(STAMP): requirements/lock.txt requirements/install.sh pyproject.toml
	@rm -f $@
	@PYTHON="$(PYTHON)" sh requirements/install.sh $(VENV)
	@touch $@

venv: $(STAMP) ## build .venv from the pinned lock (2 to 3 minutes, 5 GB)

# Built after .venv is whole, and again with it: a new .venv has no extras.
$(EXTRAS): $(STAMP) requirements/extras.txt requirements/extras.sh
	@rm -f $@
	@sh requirements/extras.sh $(VENV)
	@touch $@

extras: $(EXTRAS) ## add the packages of the Keras route and LiteRT-LM's engine to .venv (190 MB)

parity: $(STAMP) ## compare SmolLM2-135M in its three versions; ARGS="--json" passes options on
	@$(BIN)/edge-parity run smollm2 $(ARGS)

test: $(STAMP) ## the tests, slow ones too, and the gate in suites/; ARGS="-x" goes to pytest
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not further and not sweep and not extras' tests suites $(ARGS)

further: $(STAMP) ## the same on further models and in further ways, which CI runs as well
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m 'further and not sweep and not extras' tests suites $(ARGS)

# What is only skipped elsewhere must run here.
test-extras: $(EXTRAS) ## the tests of routes whose packages are an extra; CI runs them last
	@$(BIN)/edge-parity doctor --install-flex
	@EDGE_PARITY_NEEDS_EXTRAS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m extras tests suites $(ARGS)

check: $(STAMP) ## format, lint, types and the tests that need no framework: a minute
	@$(BIN)/ruff format --check --quiet . || { echo "fix it with: $(BIN)/ruff format ." >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile -m 'not slow and not further and not sweep and not extras' --hypothesis-profile=quick $(ARGS)

pure: $(STAMP) ## those of them that only compute: seconds
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile -m 'not slow and not further and not sweep and not extras and not miniature and not process and not files' --hypothesis-profile=quick $(ARGS)

sweep: $(STAMP) ## every model at ten seeds, three lengths and 1,024 positions, on all hops: 11 minutes and more
	@$(BIN)/python -m pytest -q -n 2 -m 'sweep and not extras' -rP tests $(ARGS)

bench: $(STAMP) ## measure what benchmarks/ promises
	@set -e; for file in benchmarks/[!_]*.py; do \
		if [ ! -e "$$file" ]; then echo "no benchmarks yet"; break; fi; \
		echo "== $$file"; $(BIN)/python "$$file"; \
	done

detection: $(STAMP) ## make the catalogue's faults and write docs/detection.md: a quarter of an hour
	@$(BIN)/edge-parity bench --out docs/detection.md $(ARGS)

pictures: $(STAMP) ## make the pictures in the README again, from a real run (1 minute, needs Chromium)
	@$(BIN)/python tests/support/pictures.py

clean: ## remove .venv, builds and tool caches; runs in reports/ and the cache of conversions stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find harness models suites tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
