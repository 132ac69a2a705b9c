# tprun. `make` builds build/tprun with what the machine has; `make demo` and `make test` install
# what is missing first (apt, as root or through sudo).
#
# Honoured: CC, MPICC, NVCC, CUDA_HOME, NCCL_HOME, CUDA_ARCHS, PKG_CONFIG_PATH, PREFIX, DESTDIR,
# CFLAGS, LDFLAGS, BUILD (where things are built), KERNELS (a build whose CUDA objects are taken),
# SANITIZE=1, WERROR=1, CUDA=0 (leave CUDA out), FAULTS=1 (ranks that fail on request, for
# tests/faults.py), V=1 (show whole commands).

BUILD ?= build
KERNELS ?= $(BUILD)
PREFIX ?= /usr/local
PKG_CONFIG ?= pkg-config
MPICC ?= mpicc
VERSION := 0.1.0
comma := ,

# ---- what this machine has --------------------------------------------------------------------
has = $(shell $(PKG_CONFIG) --exists $(1) 2>/dev/null && echo $(1))
NEEDED := hwloc jansson libpcre2-8 libutf8proc
FOUND := $(strip $(foreach library,$(NEEDED),$(call has,$(library))))
MISSING := $(filter-out $(FOUND),$(NEEDED)) $(if $(shell command -v $(MPICC)),,$(MPICC))

NVCC ?= $(firstword $(wildcard $(CUDA_HOME)/bin/nvcc) $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))
CUDA ?= $(if $(NVCC),1,0)
NCCL := 0
ifeq ($(CUDA),1)
CUDA_ROOT := $(if $(CUDA_HOME),$(CUDA_HOME),$(patsubst %/bin/nvcc,%,$(realpath $(shell command -v $(NVCC)))))
CUDA_LIBRARY_DIRS := $(wildcard $(addprefix $(CUDA_ROOT)/,lib64 lib targets/x86_64-linux/lib targets/sbsa-linux/lib) $(if $(NCCL_HOME),$(NCCL_HOME)/lib))
NCCL_INCLUDE := $(firstword $(patsubst %/nccl.h,%,$(wildcard $(addsuffix /nccl.h,$(NCCL_HOME)/include /usr/include /usr/local/include $(CUDA_ROOT)/include))))
NCCL := $(if $(NCCL_INCLUDE),1,0)
endif

# ---- flags ------------------------------------------------------------------------------------
OPTIMIZE := -O3
WARNINGS := -Wall -Wextra -Wshadow -Wmissing-prototypes $(if $(WERROR),-Werror)
ifdef SANITIZE
SANITIZERS := -fsanitize=$(if $(filter fuzzer,$(SANITIZE)),fuzzer-no-link$(comma))address,undefined
OPTIMIZE := -O1 -fno-omit-frame-pointer $(SANITIZERS) -fno-sanitize-recover=undefined
endif
DEFINES := -D_GNU_SOURCE -DTPRUN_VERSION='"$(VERSION)"' -DTPRUN_PREFIX='"$(PREFIX)"' \
	$(if $(FAULTS),-DTPRUN_FAULTS) $(if $(filter 1,$(CUDA)),-DTPRUN_CUDA) $(if $(filter 1,$(NCCL)),-DTPRUN_NCCL)
ALL_CFLAGS := -std=gnu11 -g $(OPTIMIZE) -fopenmp $(WARNINGS) -I. $(DEFINES) \
	$(if $(FOUND),$(shell $(PKG_CONFIG) --cflags $(FOUND))) $(CFLAGS)
LIBS := $(if $(FOUND),$(shell $(PKG_CONFIG) --libs $(FOUND))) -lm -lpthread -ldl

# Hopper needs its architecture-specific code (90a); the PTX of compute_80 serves what comes later.
CUDA_ARCHS ?= 80 89 90a
NVCCFLAGS += -std=c++17 -O3 -lineinfo -I. -Xcompiler -Wall,-Wextra --threads 0 \
	$(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) -gencode arch=compute_80,code=compute_80 \
	$(if $(filter 1,$(NCCL)),-DTPRUN_NCCL -I$(NCCL_INCLUDE)) $(if $(WERROR),-Werror all-warnings)
ifeq ($(CUDA),1)
LIBS += $(foreach d,$(CUDA_LIBRARY_DIRS),-L$(d) -Wl$(comma)-rpath$(comma)$(d)) \
	-lcudart_static -ldl -lrt -lstdc++
endif

# ---- what is built ----------------------------------------------------------------------------
# Every source of a folder belongs to the program; all but main.c go into a library that the
# tests link too. launcher/, the tests and the links go through mpicc, told what compiler to wrap.
SOURCES := $(filter-out launcher/main.c,$(wildcard runtime/*/*.c kernels/*.c kernels/cpu/*.c kernels/cuda/*.c launcher/*.c))
CUDA_SOURCES := $(if $(filter 1,$(CUDA)),$(wildcard kernels/cuda/*.cu))
OBJECTS := $(SOURCES:%.c=$(BUILD)/obj/%.o) $(CUDA_SOURCES:%.cu=$(KERNELS)/obj/%.cu.o)
LIBRARY := $(BUILD)/libtprun.a
TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))
GPU_TESTS := $(patsubst tests/gpu/%.c,$(BUILD)/tests/gpu/%,$(wildcard tests/gpu/*.c))
BENCHES := $(patsubst bench/%.c,$(BUILD)/bench/%,$(wildcard bench/*.c))
FUZZERS := $(patsubst tests/fuzz/fuzz_%.c,$(BUILD)/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
MPI = OMPI_CC="$(CC)" MPICH_CC="$(CC)" $(MPICC)

# Short lines unless V=1.
say = $(if $(V),,@printf '  %-5s%s\n' $(1) $@;)

.SECONDARY:
.DELETE_ON_ERROR:
.PHONY: all found commit tests gpu-tests benches fuzzers objects deps test-deps demo test test-gpu test-faults test-slurm slurm-deps test-real fuzz check-deps install clean

all: $(BUILD)/tprun

objects: $(OBJECTS) $(BUILD)/obj/launcher/main.o
tests: $(TESTS)
gpu-tests: $(GPU_TESTS)
benches: $(BENCHES)
fuzzers: $(FUZZERS)

# Tells what is missing before a compiler stumbles over it.
found:
	@case $(CUDA)$(NCCL) in \
	0?) echo "CUDA is left out: no nvcc (looked at NVCC, CUDA_HOME, PATH, /usr/local/cuda), or CUDA=0" ;; \
	10) echo "NCCL is left out: no nccl.h (looked at NCCL_HOME, CUDA_HOME, /usr); GPUs will add through host memory" ;; \
	esac
	@if [ -n "$(strip $(MISSING))" ]; then \
		echo "missing: $(strip $(MISSING))"; \
		echo "looked for $(MPICC) (MPICC names another) in PATH=$$PATH"; \
		echo "looked for libraries with $(PKG_CONFIG) in PKG_CONFIG_PATH=$(PKG_CONFIG_PATH) and" \
			"$$($(PKG_CONFIG) --variable pc_path pkg-config 2>/dev/null || echo '(no pkg-config here)')"; \
		echo "on Debian or Ubuntu, with root or sudo, this installs them: make deps"; \
		exit 1; \
	fi

$(OBJECTS) $(BUILD)/obj/launcher/main.o: | found

$(BUILD)/obj/launcher/%.o: launcher/%.c
	@mkdir -p $(@D)
	$(call say,CC)$(MPI) $(ALL_CFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC)$(CC) $(ALL_CFLAGS) -MMD -MP -c $< -o $@

# `bench` tells what it measured: this object follows the commit.
COMMIT := $(if $(wildcard .git),$(shell git describe --always --dirty --exclude='*' 2>/dev/null))
$(BUILD)/commit: commit
	@mkdir -p $(@D)
	@echo '$(COMMIT)' | cmp -s - $@ || echo '$(COMMIT)' > $@
$(BUILD)/obj/launcher/bench_report.o: $(BUILD)/commit
$(BUILD)/obj/launcher/bench_report.o: ALL_CFLAGS += -DTPRUN_COMMIT='"$(or $(COMMIT),unknown)"'

$(KERNELS)/obj/%.cu.o: %.cu
	@mkdir -p $(@D)
	$(call say,NVCC)$(NVCC) $(NVCCFLAGS) -MMD -MP -MF $(@:.o=.d) -c $< -o $@

$(LIBRARY): $(OBJECTS)
	@mkdir -p $(@D)
	@rm -f $@
	$(call say,AR)$(AR) rcs $@ $^

$(BUILD)/tprun: $(BUILD)/obj/launcher/main.o $(LIBRARY)
	$(call say,LINK)$(MPI) $(SANITIZERS) -fopenmp -o $@ $^ $(LDFLAGS) $(LIBS)

$(BUILD)/tests/%: tests/%.c $(LIBRARY)
	@mkdir -p $(@D)
	$(call say,CC)$(MPI) $(ALL_CFLAGS) -MMD -MP -o $@ $< $(LIBRARY) $(LDFLAGS) $(LIBS)

$(BUILD)/bench/%: bench/%.c $(LIBRARY)
	@mkdir -p $(@D)
	$(call say,CC)$(MPI) $(ALL_CFLAGS) -MMD -MP -o $@ $< $(LIBRARY) $(LDFLAGS) $(LIBS)

$(BUILD)/fuzz/%: tests/fuzz/fuzz_%.c $(LIBRARY)
	@mkdir -p $(@D)
	$(call say,CC)$(MPI) $(ALL_CFLAGS) -fsanitize=fuzzer -MMD -MP -o $@ $< $(LIBRARY) $(LDFLAGS) $(LIBS)

# ---- what is missing is installed -------------------------------------------------------------
DEBS := gcc make pkg-config openmpi-bin libopenmpi-dev libhwloc-dev libjansson-dev \
	libpcre2-dev libutf8proc-dev
TEST_DEBS := clang libomp-dev python3 gnuplot-nox
SLURM_DEBS := slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge iproute2 python3
SUDO := $(if $(filter 0,$(shell id -u)),,sudo -n)
install-debs = missing=$$(for p in $(1); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	if [ -n "$$missing" ]; then echo "installing" $$missing; \
	$(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi

deps:
	@command -v apt-get >/dev/null || { echo "no apt-get here: install the likes of $(DEBS)"; exit 1; }
	@$(call install-debs,$(DEBS))

# libFuzzer and the sanitizers of clang come in a package that carries clang's version.
test-deps: deps
	@$(call install-debs,$(TEST_DEBS))
	@$(call install-debs,$$(apt-cache search --names-only "^libclang-rt-$$(clang -dumpversion | cut -d. -f1)-dev$$" | cut -d' ' -f1))

# For tests/slurm, which starts daemons of its own: those of the packages need not run.
slurm-deps: deps
	@$(call install-debs,$(SLURM_DEBS))

# ---- what a user runs -------------------------------------------------------------------------
# As root, and with fewer cores than ranks, Open MPI wants to be told that this is meant.
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
GPUS = $(shell nvidia-smi -L 2>/dev/null | grep -c ^GPU)

demo: deps
	@$(MAKE) --no-print-directory all
	mpirun --oversubscribe -np 2 $(BUILD)/tprun generate --prompt "Once upon a time, there was a lonely computer" \
		--max-length 256 $(if $(filter 0 1,$(GPUS)),--backend cpu)

# A first look at how inference scales here; SCALING="--ranks 1,2,4 ..." are options of the script.
# gnuplot, for the pictures, is installed where that is possible.
scaling: deps
	@command -v gnuplot >/dev/null || { $(call install-debs,gnuplot-nox); } || true
	@$(MAKE) --no-print-directory all
	TPRUN=$(BUILD)/tprun bench/scaling/run.sh --csv $(BUILD)/scaling.csv $(SCALING)

install: $(BUILD)/tprun
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/tprun/configs
	install $(BUILD)/tprun $(DESTDIR)$(PREFIX)/bin/tprun
	cp -R configs/tiny-stories configs/shapes $(DESTDIR)$(PREFIX)/share/tprun/configs/

# ---- tests ------------------------------------------------------------------------------------
# The unit tests run twice: as built for use, and under the address and undefined-behaviour
# sanitizers (without CUDA, whose driver they don't get along with). clang compiles everything
# too, for its warnings.
SHARED ?= ../shared
FUZZ_SECONDS ?= 10
SUPPRESS := LSAN_OPTIONS=suppressions=tests/lsan.supp:print_suppressions=0
GOLDEN := $(addprefix $(SHARED)/models/,stories260K stories260K-f16 stories260K-bf16-sharded-untied \
	golden/llama-gqa golden/llama3-rope-tied golden/mistral-window golden/qwen2-bias golden/qwen3-qknorm) \
	$(wildcard tests/data/golden-*)

# What is compiled another way where there is no NCCL.
WITHOUT_NCCL := $(addprefix build/without-nccl/obj/kernels/cuda/,reduce.cu.o probe.cu.o libraries.cu.o)

test: test-deps
	@$(MAKE) --no-print-directory all tests
	@$(MAKE) --no-print-directory all tests BUILD=build/asan SANITIZE=1 CUDA=0
	@$(MAKE) --no-print-directory objects BUILD=build/clang CC=clang CUDA=0
	@$(if $(filter 1,$(CUDA)),$(MAKE) --no-print-directory $(WITHOUT_NCCL) BUILD=build/without-nccl NCCL=0 CUDA_ARCHS=80)
	@$(MAKE) --no-print-directory all BUILD=build/faults FAULTS=1 CUDA=0
	@$(MAKE) --no-print-directory fuzzers BUILD=build/fuzz CC=clang SANITIZE=fuzzer CUDA=0
	@export TPRUN_SHARED=$(SHARED) $(SUPPRESS); tests/run.sh -t 900 -- tests/check_deps.sh \
		$(foreach t,$(TESTS),-- $(t)) \
		$(foreach t,$(TESTS:build/%=build/asan/%),-- $(t)) \
		$(foreach s,$(wildcard tests/cli/*.sh),-- env TPRUN=build/tprun $(s) -- env TPRUN=build/asan/tprun $(s)) \
		-- tests/golden.py build/tprun --ranks 1,2,3,4,7 $(GOLDEN) \
		-- tests/batch.py -- env TPRUN=build/asan/tprun tests/batch.py --short \
		-- env TPRUN=build/faults/tprun tests/faults.py \
		-- tests/slurm/run.sh \
		-- tests/fuzz/run.sh build/fuzz/fuzz $(FUZZ_SECONDS)

check-deps:
	@tests/run.sh -- tests/check_deps.sh

fuzz: test-deps
	@$(MAKE) --no-print-directory fuzzers BUILD=build/fuzz CC=clang SANITIZE=fuzzer CUDA=0
	tests/fuzz/run.sh build/fuzz/fuzz $(FUZZ_SECONDS)

# Every fault in every rank and phase, on 2 and 4 ranks, with a table of how long each run went on; about
# four minutes.
test-faults: deps
	@$(MAKE) --no-print-directory all BUILD=build/faults FAULTS=1 CUDA=0
	TPRUN=build/faults/tprun tests/run.sh -t 1800 -- tests/faults.py --all --table

# Launchers, refusals and the job files of launcher/slurm on a Slurm cluster that lives as long as the
# test, in namespaces of its own: as root, about a minute.
test-slurm: slurm-deps
	@$(MAKE) --no-print-directory all
	TPRUN=$(BUILD)/tprun tests/run.sh -- tests/slurm/run.sh

# On a machine with GPUs. More ranks than GPUs share them and add through host memory.
test-gpu: $(BUILD)/tprun $(GPU_TESTS)
	@$(MAKE) --no-print-directory all BUILD=build/faults-gpu FAULTS=1 KERNELS=$(BUILD)
	TPRUN=$(BUILD)/tprun TESTS=$(BUILD)/tests/gpu FAULTS=build/faults-gpu/tprun SHARED=$(SHARED) tests/gpu/run.sh

# A real chat model from a published package against transformers; needs Python, disk and time.
test-real: $(BUILD)/tprun
	tests/run.sh -t 3600 -- tests/real/run.sh

clean:
	rm -rf build

-include $(shell find $(sort $(BUILD)/obj $(KERNELS)/obj) $(BUILD)/tests $(BUILD)/bench -name '*.d' 2>/dev/null)
