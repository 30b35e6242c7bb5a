# `make demo` and `make test` set up what they need from nothing but Python, pip and a package index.
#   PYTHON=python3.12 make test          another interpreter (3.11 or later)
#   TORCH_INDEX=https://... make demo    another index for torch alone, e.g. a CPU or CUDA one

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=

BIN := $(VENV)/bin
ENVIRONMENT := $(VENV)/.installed
WHEEL := build/wheel

.PHONY: help demo test test-browser test-minimum test-transformers-main lint types slow clean
help:
	@echo "make demo    segment a bundled image, print the result, write demo_overlay.png"
	@echo "make test    lint, type-check the installed wheel, run the test suite"
	@echo "make lint    ruff alone          make types   mypy on the installed wheel alone"
	@echo "make test-browser   the demos in headless chromium, which it installs where it is missing (Debian, as root)"
	@echo "make test-minimum   the test suite with the oldest versions that are allowed"
	@echo "make test-transformers-main   the test suite with the main branch of transformers"
	@echo "make slow    the tests that take minutes"
	@echo "make clean   remove what these commands made, the environment too"

# Torch first and pinned, from TORCH_INDEX where it is given: an index whose torch is built for GPUs would otherwise put
# gigabytes of libraries onto a machine without one (https://download.pytorch.org/whl/cpu has the small build).
$(ENVIRONMENT): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "hf_ris needs Python 3.11 or later; say which with PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV); the first time takes a few minutes ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

demo: $(ENVIRONMENT)
	$(BIN)/hf-ris segment src/hf_ris/assets/demo_scene.png "the black teapot in the middle" "the little pink tree on the right" --output demo_overlay.png --json

test: lint types
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: $(ENVIRONMENT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# From the wheel, because type checkers do not see `hf_ris.modeling` through an editable install.
types: $(ENVIRONMENT)
	@rm -rf build/lib build/bdist.* $(WHEEL)
	$(BIN)/python -m build --wheel --no-isolation --outdir $(WHEEL) . > /dev/null
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(WHEEL)/installed $(WHEEL)/*.whl
	MYPYPATH=$(WHEEL)/installed $(BIN)/mypy -p hf_ris

# Screenshots go to build/screenshots, to be looked at. Two packages come from npm's registry, once.
test-browser: $(ENVIRONMENT)
	@command -v chromium > /dev/null || command -v google-chrome > /dev/null || { apt-get -qq update && apt-get -qq install --yes chromium > /dev/null; }
	$(BIN)/python -m pytest -m browser tests/test_browser.py tests/test_browser_web.py

# The oldest versions that pyproject.toml allows, of what it names itself, in an environment apart.
test-minimum:
	$(PYTHON) -m venv --clear build/minimum
	build/minimum/bin/python -m pip install --quiet --disable-pip-version-check uv
	build/minimum/bin/uv pip install --quiet --python build/minimum/bin/python --resolution lowest-direct $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX) --index-strategy unsafe-best-match) --editable ".[dev]"
	build/minimum/bin/python -m pytest -n auto --dist worksteal

# The main branch of transformers, in an environment apart.
test-transformers-main:
	$(MAKE) VENV=build/transformers-main build/transformers-main/.installed
	build/transformers-main/bin/python -m pip install --quiet --disable-pip-version-check "git+https://github.com/huggingface/transformers"
	build/transformers-main/bin/python -m pytest -n auto --dist worksteal

# Minutes: a forward pass at the published size, and tens of thousands of expressions re-derived.
slow: $(ENVIRONMENT)
	$(BIN)/python -m pytest -m slow
	$(BIN)/python scripts/check_refshapes.py

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache demo_overlay.png
