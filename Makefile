# Each target sets up what it needs: .venv from uv.lock, by .ci/setup. A second run reuses everything.
# make demo ENGINE=parakeet   the demo with the other recogniser
# make test TESTS="tests/client -k seams"   some of the tests
# PYTHON=/path/to/python3.12  the interpreter for .venv

ENGINE ?= moonshine
TESTS ?=
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test deploy-test check lint unit format clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

demo: .venv/ready-demo ## Build, serve with a real tritonserver, transcribe a recording of two speakers, stop
	@$(BIN)/spark-speech demo --engine $(ENGINE)

test: .venv/ready-dev ## Run every test; real servers and models among them
	@$(BIN)/python -m pytest $(TESTS)

deploy-test: .venv/ready-dev ## Every test of deployment on throw-away hosts, the slow ones too (root; about an hour)
	@SPARK_SPEECH_DEPLOY_ALL=1 $(BIN)/python -m pytest tests/integration/deploy $(TESTS)

check: .venv/ready-dev ## Lint, types and the tests that need no server or model
	@$(MAKE) --no-print-directory --jobs=2 lint unit

lint: .venv/ready-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

unit: .venv/ready-dev
	@$(BIN)/python -m pytest -m "not integration" --ignore=tests/integration $(TESTS)

format: .venv/ready-dev ## Format the code and fix what the linter can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## Remove what the targets made in this folder
	rm -rf .venv .uv dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/ready-%: pyproject.toml uv.lock .ci/setup
	@.ci/setup $*
