# Two commands do everything on a bare clone: `make train` and `make test`.
# Each makes .venv and installs what it needs, anew when requirements change.
# `make test-all` also runs the tests that are marked as slow.
# `make test-versions` runs them on every Python that is there (docs/versions.md);
# `make licences` lists the licences of all that an installation brings.
# `make bench PEERS="--peer_python=PYTHON --dlrm=PATH --input=train.txt"` times
# it beside its peers; all three flags may be left out.

PYTHON ?= python3
CHECK := $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11 ...")'
# .venv has JAX for CPU; the compiler of TPUs, which tests use, looks for one.
export JAX_PLATFORMS ?= cpu
BIN := .venv/bin
# A worker without a test left takes some of another worker.
TESTS := $(BIN)/python -m pytest -n auto --dist worksteal
WORKDIR ?= runs/synthetic
PEERS ?=

.PHONY: train test test-all test-versions bench licences lint clean
.DELETE_ON_ERROR:

train: .venv/train.stamp
	$(BIN)/python train.py --config=configs/synthetic.py --workdir=$(WORKDIR)

test: lint
	$(TESTS) -m 'not slow'

# The contracts of tables hold without the kernels in C, too.
test-all: test
	$(TESTS) -m slow
	DLRM_JAX_NATIVE=0 $(TESTS) tests/embedding tests/optim tests/training tests/test_goldens.py

test-versions: .venv/test.stamp
	$(BIN)/python -m benchmarks.versions

licences:
	$(CHECK)
	$(PYTHON) -m venv --clear .venv/licences
	.venv/licences/bin/python -m pip install --quiet -r requirements.txt pip-licenses
	.venv/licences/bin/pip-licenses --from=mixed --order=license

bench: .venv/train.stamp
	$(BIN)/python -m benchmarks $(PEERS)

lint: .venv/test.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports

clean:
	rm -rf .venv runs

.venv/train.stamp: requirements.txt pyproject.toml setup.py $(wildcard dlrm_jax/native/*.[ch])
	$(CHECK)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e .
	touch $@

.venv/test.stamp: requirements-dev.txt .venv/train.stamp
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@
