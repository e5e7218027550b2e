# ajit: everything a developer does, from two commands: `make demo` and `make test`.
#
# Setting up needs Python 3.11 or newer and nothing else: cmake and ninja come as wheels, and where
# no C or C++ compiler is found, so does one (ziglang). It is done once, in .venv, and again only
# for what changed: pyproject.toml asks pip, the C sources ask ninja.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
NATIVE := ajit/_gpu/native
NATIVE_SOURCES := CMakeLists.txt $(wildcard $(NATIVE)/CMakeLists.txt $(NATIVE)/*.def $(NATIVE)/*/*.c $(NATIVE)/*/*.h)
# All C and C++: what cuda_cxx/include/ has is a header whatever its name.
C_FILES = $(shell find $(NATIVE) tests/gpu tests/compile -name '*.[ch]' -o -name '*.[hc]pp' -o -name '*.inl' \
	-o -path '*/cuda_cxx/include/*' -type f)
# Test files that run at once in `make test`: one more than two cores have, since tests wait a
# quarter of their time. The slow tests run one by one.
JOBS ?= 3
# The Python of `make gpu`, which needs no network and no .venv: best the one that has PyTorch.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)
# Machines that `make dist` builds wheels for; none: both.
ARCHS ?=
# More arguments for pytest: make test ARGS="tests/cache -k lock"
ARGS ?=

.PHONY: help setup demo kv-demo test test-slow network crash lint format bench bench-kv gpu chaos chaos-kv wheel docs dist constraints check-aarch64 check-zig clean integrations

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMPS)/develop $(STAMPS)/native ## make .venv and build the C libraries (once; skipped when nothing changed)

demo: $(STAMPS)/packages $(STAMPS)/native ## the main job: serve, compile on demand, verify, show what happened
	@$(BIN)/ajit demo $(ARGS)

kv-demo: $(STAMPS)/packages $(STAMPS)/native ## engines that share a KV cache: measured, killed, and compared bit for bit
	@$(BIN)/python -m examples.kv_engine $(ARGS)

# No limit for the whole run: each test has one (pyproject.toml), and a slow machine may need longer.
test: setup ## the tests, all but the slow ones, in 10 to 20 minutes on 2 cores
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow" $(ARGS)

test-slow: setup ## the tests marked slow: fault injection, models, chaos, sanitizers, memory (minutes)
	@$(BIN)/python -m pytest -m slow $(ARGS)

network: setup ## two mounts of a network file system; needs root and fuse3 (minutes)
	@tools/install $(VENV) network
	@$(BIN)/python -m pytest tests/network $(ARGS)

crash: setup ## every fault at every system call on the cache (minutes)
	@$(BIN)/python -m pytest tests/crash --all-faults --timeout=600 $(ARGS)

lint: setup ## ruff, clang-format, mypy strict, the layers, and no asyncio or trio in the package
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(BIN)/clang-format --dry-run -Werror $(C_FILES) \
	|| { echo "make lint: make format lays out C and C++ files" >&2; exit 1; }
	$(BIN)/mypy
	$(BIN)/lint-imports
	@! grep -rnE '^\s*(import|from)\s+(asyncio|trio)\b' --include='*.py' ajit \
	|| { echo "make lint: ajit/ runs on asyncio and trio and imports neither" >&2; exit 1; }

format: setup ## let ruff and clang-format lay out the files, and ruff fix what it safely can
	$(BIN)/clang-format -i $(C_FILES)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMPS)/bench $(STAMPS)/native ## the budgets, measured side by side with peers
	@$(BIN)/python -m benchmarks $(ARGS)

gpu: ## what only an NVIDIA GPU can tell, into docs/measurements/ (up to an hour)
	@$(GPU_PYTHON) -m benchmarks.gpu $(ARGS)

integrations: setup $(STAMPS)/integrations ## install the peers (1 GB and more), test their adapters, measure beside them (minutes)
	@$(BIN)/python -m pytest tests/integrations $(ARGS)
	@$(BIN)/python -m benchmarks integrations

chaos: $(STAMPS)/packages $(STAMPS)/native ## servers killed at random, their cache damaged, headers edited, 10 minutes
	@$(BIN)/python -m benchmarks.chaos $(ARGS)

bench-kv: $(STAMPS)/bench $(STAMPS)/native ## the KV cache beside LMCache, in a venv of its own (1 GB and more)
	@tools/install-lmcache .venv-lmcache "$(PYTHON)"
	@$(BIN)/python -m benchmarks kv_peers

chaos-kv: $(STAMPS)/packages $(STAMPS)/native ## engines and their KV service killed, stopped, flooded, 10 minutes
	@$(BIN)/python -m benchmarks kv-chaos $(ARGS)

wheel: $(STAMPS)/venv ## build the wheel into dist/
	@tools/with-compilers $(VENV) $(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls -l dist/*.whl

docs: setup $(STAMPS)/docs ## the site of the docs, into build/site; warnings and dead links are errors
	@mkdir -p build
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict >build/docs.log 2>&1 || { cat build/docs.log >&2; exit 1; }
	@$(BIN)/python tools/check_site.py build/site

dist: $(STAMPS)/dist ## sdist and wheels for x86_64 and aarch64 (manylinux_2_28), checked, and an SBOM, into dist/
	@tools/dist $(VENV) dist $(ARCHS)

constraints: setup ## write constraints.txt: what the tests ran with
	@$(BIN)/python -c 'print("# pip install -c constraints.txt ajit: the versions that the tests ran with.\n# Written by `make constraints`.")' >constraints.txt
	@$(BIN)/python tools/tested_versions.py test >>constraints.txt

check-aarch64: ## run the aarch64 wheel of dist/ in an emulated Debian; needs root (10 minutes)
	@tools/check-aarch64 dist

check-zig: ## set up and test in a copy with every C and C++ compiler hidden (minutes)
	@tools/check-without-compilers

clean: ## remove what make made, .venv included
	rm -rf $(VENV) .venv-lmcache build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -f $(NATIVE)/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- setting up ------------------------------------------------------------------------------------

$(STAMPS)/venv:
	@tools/make-venv $(VENV) "$(PYTHON)"
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/packages: pyproject.toml $(STAMPS)/venv
	@tools/install $(VENV) headers,examples,build
	@touch $@

$(STAMPS)/develop: pyproject.toml $(STAMPS)/packages
	@tools/install $(VENV) test,lint
	@touch $@

$(STAMPS)/docs: pyproject.toml $(STAMPS)/packages
	@tools/install $(VENV) docs
	@touch $@

$(STAMPS)/dist: pyproject.toml $(STAMPS)/packages
	@tools/install $(VENV) dist
	@touch $@

$(STAMPS)/bench: pyproject.toml $(STAMPS)/packages
	@tools/install $(VENV) bench
	@touch $@

# FlashInfer by itself: most of what it asks for is for work on a GPU, which is not done here.
$(STAMPS)/integrations: pyproject.toml $(STAMPS)/packages
	@tools/install $(VENV) integrations
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps flashinfer-python==0.7.4
	@touch $@

$(STAMPS)/native: $(NATIVE_SOURCES) $(STAMPS)/packages
	@tools/build-native $(VENV) $(NATIVE)
	@touch $@
