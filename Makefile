# Two commands matter: `make demo` runs the whole chain and ends with a picture to look at, `make test` proves it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow lint format bench proof-cpu proof-clinic proof-gate proof-kill proof-mutation proof-bomb \
	proof-disk proof-network proof-page bundle clean-demo help

help:
	@echo "make demo       build the environment, then phantoms -> teachers -> student -> INT8 bundle -> report"
	@echo "make test       build the environment, lint, types, layers, all quick tests"
	@echo "make test-slow  the slow proofs"
	@echo "make bench      speed and accuracy beside other programs (an hour the first time), docs/benchmarks.md"
	@echo "make proof-cpu  the same answer on emulated processors of 2008, 2011 and 2013 (needs qemu-user)"
	@echo "make bundle     the bundle that ships, from seeds alone (resumable)"
	@echo "make proof-clinic  power cuts, damaged files, bombs, full disks, no network (hours; proof-kill, proof-gate, ... run alone)"
	@echo "make lint       ruff, mypy, import-linter"
	@echo "make clean-demo remove what make demo made"

$(STAMP): pyproject.toml constraints.txt runtime/glialite_runtime/_int8.c runtime/glialite_runtime/kernels/convolution.inc
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[train,export,dicom,package,dev]'
	touch $@

demo: $(STAMP)
	BIN=$(BIN) sh demo.sh

test: $(STAMP) lint
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# OpenVINO is a peer to measure against, never a dependency: it lies in an environment of its own.
bench/work/peers/.installed: bench/requirements.txt
	$(PYTHON) -m venv bench/work/peers
	bench/work/peers/bin/python -m pip install --disable-pip-version-check --quiet --requirement bench/requirements.txt
	touch $@

bench: $(STAMP) bench/work/peers/.installed
	BIN=$(BIN) sh bench/run.sh

proof-cpu: $(STAMP)
	$(BIN)/python bench/proof_cpu.py --out docs/cpu-proof.md $(if $(BUNDLE),--bundle $(BUNDLE))

# What the clinic program withstands: figures go into docs/reliability.md. Each goes on where it was stopped.
CASES ?= demo/unseen
RELIABLE = $(BIN)/python -m bench.reliability
WITH = --seconds 1e9 --cases $(CASES) $(if $(BUNDLE),--bundle $(BUNDLE))

proof-clinic: proof-gate proof-network proof-page proof-disk proof-bomb proof-mutation proof-kill

proof-gate: $(STAMP)
	$(RELIABLE).gate $(WITH)

proof-kill: $(STAMP)
	$(RELIABLE).kill $(WITH)

proof-mutation: $(STAMP)
	$(RELIABLE).mutation nifti $(WITH)
	$(RELIABLE).mutation dicom --count 2000 $(WITH)
	$(RELIABLE).mutation study --count 200 $(WITH)

proof-bomb: $(STAMP)
	$(RELIABLE).bombs $(WITH)

proof-disk: $(STAMP)
	unshare -rm $(RELIABLE).disk $(WITH)

proof-page: $(STAMP)
	$(RELIABLE).page $(WITH)

proof-network: $(STAMP)
	$(RELIABLE).network $(WITH)

bundle: $(STAMP)
	BIN=$(BIN) sh bundle.sh

clean-demo:
	rm -rf demo
