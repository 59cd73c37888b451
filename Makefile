# The two commands of the README do all set-up by themselves; the second time it takes under a second.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: setup demo test check chaos format protos demo-model clean

setup: $(READY)

# torch first and by itself: with torch present, no other requirement can pull another build of it.
$(READY): pyproject.toml
	@$(PYTHON) -c "import ensurepip, sys; sys.exit(sys.version_info < (3, 11))" || \
	    { echo "songstream needs Python 3.11 or newer with venv; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(READY)

demo: setup
	$(BIN)/python bench/demo.py --out demo-out

# Several at a time: on two cores tests of training wait for Ray and for each other, and the others for a server or a sound
# three quarters of their time. A file's tests share what they set up. One thread each, as two times two threads on two cores
# spend their time waiting for each other. Ray gives way to all other work, and beside other tests would get next to nothing.
PYTEST := OMP_NUM_THREADS=1 RAY_worker_niceness=0 $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder --durations=15

test: setup
	./deploy/install-test-tools.sh
	$(PYTEST) -n 4 --ignore tests/training
	$(PYTEST) -n 3 tests/training

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python protos/generate.py --check
	$(BIN)/python -m pytest -q tests/core/test_imports.py

# What docs/promises.md promises, against real processes: about half an hour.
chaos: setup
	$(BIN)/python bench/black_hole.py
	$(BIN)/python bench/faults.py --seeds 200

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

protos: setup
	$(BIN)/python protos/generate.py

# Rebuilds the bundle shipped in models/ from nothing but simulated seasons.
demo-model: setup
	$(BIN)/python models/build_demo.py

clean:
	rm -rf $(VENV) demo-out build dist
