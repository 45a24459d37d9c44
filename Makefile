# A two-core machine slows down twentyfold if idle threads spin; these must be set before torch is imported.
export OMP_WAIT_POLICY = PASSIVE
PYTHON ?= python3
BIN = .venv/bin
BENCH_PYTHON ?= $(BIN)/python
INSTALL = $(BIN)/pip install --quiet --constraint constraints.txt

.PHONY: demo test check format bench bench-gpu bench-export torture clean

# The quickstart's matrices are so small that two threads wait for each other: two steps at a time, of one thread each.
demo: .venv/.demo-installed
	OMP_NUM_THREADS=1 $(BIN)/innovator run recipes/quickstart.yaml --jobs 2

test: .venv/.test-installed
	$(BIN)/python -m pytest

check: .venv/.test-installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(MAKE) test

format: .venv/.test-installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# BENCH="--quick", or "--only layer": benchmarks/README.md.
bench: .venv/.demo-installed
	$(BIN)/python benchmarks/all.py $(BENCH)

# A GPU's machine often has a torch of its own: make bench-gpu BENCH_PYTHON=python3.
bench-gpu:
	PYTHONPATH=. $(BENCH_PYTHON) benchmarks/all.py --device cuda $(BENCH)

# BENCH="--shape tiny", or "--mergekit PROGRAM": benchmarks/README.md.
bench-export: .venv/.demo-installed
	$(BIN)/python benchmarks/export.py $(BENCH)

# One thread: what is compared byte for byte must be summed in one order.
torture: .venv/.test-installed
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false PYTHONPATH=tests $(BIN)/python benchmarks/torture.py $(TORTURE)

clean:
	rm -rf build *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find innovator tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.demo-installed: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) --editable '.[demo]'
	touch $@

.venv/.test-installed: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) --editable '.[demo,curate,pdf,test,dev]'
	touch $@
