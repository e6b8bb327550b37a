# Two commands do everything: `make demo` runs the main job on real data, `make test` all tests. Both make a virtual
# environment of their own in .venv; neither needs anything but python3, git and make.

PYTHON ?= python3
VENV ?= .venv
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
BIN := $(VENV)/bin

.PHONY: demo test lint fuzz networks benchmarks explanations explanations-speed emulator clean

# With the emulated board where it can be had without asking for a password; the demo says so where it cannot.
demo: $(VENV)/.demo
	@if [ -z "$(SUDO)" ] || sudo -n true 2>/dev/null; then $(MAKE) --no-print-directory emulator || true; fi
	$(BIN)/tvm-lowbit demo --out out/demo

test: $(VENV)/.test lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Beyond the tests; all go into out/ and on where they were ended, but for networks; see CONTRIBUTING.md for their cost.
fuzz: $(VENV)/.test
	PYTHONPATH=.:tests $(BIN)/python -m fuzz.run --count 10000 --out out/fuzz

networks: $(VENV)/.test
	PYTHONPATH=.:examples $(BIN)/python -m networks.compile --out out/networks

benchmarks: $(VENV)/.test
	PYTHONPATH=.:examples $(BIN)/python -m benchmarks --out out/benchmarks --docs docs/benchmarks.md

explanations: $(VENV)/.test
	PYTHONPATH=.:examples $(BIN)/python -m explanations --out out/explanations --docs docs/explanations.md

explanations-speed: $(VENV)/.test
	PYTHONPATH=.:examples $(BIN)/python -m explanations.speed --docs docs/explanations_speed.md

# The emulated Arm board: Debian packages (asks for root where they are missing) and TVM's aarch64 runtime.
emulator: $(VENV)/.demo
	PYTHON=$(BIN)/python sh tvm_lowbit/boards/install_emulator.sh

$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { \
	  $(SUDO) apt-get update && $(SUDO) apt-get install -y --no-install-recommends python3-venv && \
	  $(PYTHON) -m venv --clear $(VENV); }

$(VENV)/.demo: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[cross,demo]'
	touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) out
