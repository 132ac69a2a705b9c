# tprun. `make` builds build/tprun; `make demo` and `make test` install what is missing first.
# Honoured: CC, NVCC, MPICC, CUDA_HOME, NCCL_HOME, CUDA_ARCHS, PKG_CONFIG_PATH, PREFIX, DESTDIR,
# CFLAGS, BUILD (the folder of what is built), SANITIZE=1, WERROR=1, CUDA=0 (leave CUDA out).

BUILD ?= build
PREFIX ?= /usr/local
PKG_CONFIG ?= pkg-config
MPICC ?= mpicc
VERSION := 0.1.0

# ---- what this machine has ------------------------------------------------------------------
NVCC ?= $(firstword $(wildcard $(CUDA_HOME)/bin/nvcc) $(shell command -v nvcc 2>/dev/null) $(wildcard /usr/local/cuda/bin/nvcc))
CUDA ?= $(if $(NVCC),1,0)
ifeq ($(CUDA),1)
CUDA_ROOT := $(if $(CUDA_HOME),$(CUDA_HOME),$(patsubst %/bin/nvcc,%,$(realpath $(NVCC))))
NCCL_INCLUDE := $(firstword $(patsubst %/nccl.h,%,$(wildcard $(addsuffix /nccl.h,$(NCCL_HOME)/include /usr/include /usr/local/include $(CUDA_ROOT)/include))))
NCCL := $(if $(NCCL_INCLUDE),1,0)
else
NCCL := 0
endif

# ---- flags ----------------------------------------------------------------------------------
LIBRARIES := hwloc jansson libpcre2-8 libutf8proc openblas
OPTIMIZE := -O3
WARNINGS := -Wall -Wextra -Wshadow -Wmissing-prototypes $(if $(WERROR),-Werror)
ifdef SANITIZE
OPTIMIZE := -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
SANITIZE_LINK := -fsanitize=address,undefined
endif
CPPFLAGS += -I. -D_GNU_SOURCE -DTPRUN_VERSION='"$(VERSION)"' -DTPRUN_PREFIX='"$(PREFIX)"'
CPPFLAGS += $(if $(filter 1,$(CUDA)),-DTPRUN_CUDA) $(if $(filter 1,$(NCCL)),-DTPRUN_NCCL)
ALL_CFLAGS = -std=gnu11 -g $(OPTIMIZE) -fopenmp $(WARNINGS) $(CPPFLAGS) \
	$(shell $(PKG_CONFIG) --cflags $(LIBRARIES) 2>/dev/null) $(CFLAGS)
LDLIBS = $(shell $(PKG_CONFIG) --libs $(LIBRARIES) 2>/dev/null) -lm -lpthread

CUDA_ARCHS ?= 80 89 90a
CUDA_CODE := $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
	-gencode arch=compute_80,code=compute_80
NVCCFLAGS += -std=c++17 -O3 -lineinfo -I. $(CUDA_CODE) -Xcompiler -Wall,-Wextra \
	$(if $(filter 1,$(NCCL)),-DTPRUN_NCCL -I$(NCCL_INCLUDE)) --threads 0 $(if $(WERROR),-Werror all-warnings)
ifeq ($(CUDA),1)
CUDA_LIBRARY_DIRS := $(wildcard $(CUDA_ROOT)/lib64 $(CUDA_ROOT)/lib $(CUDA_ROOT)/targets/x86_64-linux/lib $(NCCL_HOME)/lib)
CUDA_LIBS := $(addprefix -L,$(CUDA_LIBRARY_DIRS)) $(addprefix -Wl$(comma)-rpath$(comma),$(CUDA_LIBRARY_DIRS)) \
	-lcudart -lcublas -lcublasLt $(if $(filter 1,$(NCCL)),-lnccl) -lstdc++
CPPFLAGS += -I$(CUDA_ROOT)/include $(if $(NCCL_INCLUDE),-I$(NCCL_INCLUDE))
endif
comma := ,

# ---- sources: every .c of a folder belongs to it; main.c is linked last ----------------------
SOURCES := $(filter-out launcher/main.c,$(wildcard runtime/*/*.c kernels/*.c kernels/cpu/*.c kernels/cuda/*.c launcher/*.c))
CUDA_SOURCES := $(if $(filter 1,$(CUDA)),$(wildcard kernels/cuda/*.cu))
OBJECTS := $(SOURCES:%.c=$(BUILD)/obj/%.o)
CUDA_OBJECTS := $(CUDA_SOURCES:%.cu=$(BUILD)/obj/%.cu.o)
TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))
LIBRARY := $(BUILD)/libtprun.a

.PHONY: all clean
.SECONDARY:
all: $(BUILD)/tprun

# The compile of launcher/ and the links go through mpicc, told which compiler it wraps.
MPI := OMPI_CC="$(CC)" MPICH_CC="$(CC)" $(MPICC)

$(BUILD)/obj/launcher/%.o: launcher/%.c
	@mkdir -p $(@D)
	$(MPI) $(ALL_CFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/obj/%.cu.o: %.cu
	@mkdir -p $(@D)
	$(NVCC) $(NVCCFLAGS) -MMD -MP -MF $(@:.o=.d) -c $< -o $@

$(LIBRARY): $(OBJECTS) $(CUDA_OBJECTS)
	@mkdir -p $(@D)
	@rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/tprun: $(BUILD)/obj/launcher/main.o $(LIBRARY)
	$(MPI) $(SANITIZE_LINK) -fopenmp -o $@ $^ $(LDFLAGS) $(LDLIBS) $(CUDA_LIBS)

# Tests may include mpi.h, so they are compiled through mpicc too.
$(BUILD)/tests/%: tests/%.c $(LIBRARY)
	@mkdir -p $(@D)
	$(MPI) $(ALL_CFLAGS) -MMD -MP -o $@ $< $(LIBRARY) $(LDFLAGS) $(LDLIBS) $(CUDA_LIBS)

tests: $(TESTS)
.PHONY: tests

clean:
	rm -rf $(BUILD)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
