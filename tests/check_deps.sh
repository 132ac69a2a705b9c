#!/usr/bin/env bash
# Who may include what: arrows run launcher -> runtime -> kernels/backend.h -> runtime/base.
# MPI, CUDA, NCCL and hwloc headers have one home each. tests/ and bench/ are free.
set -u
cd "$(dirname "$0")/.." || exit 1
failed=0

# only PATTERN 'ALLOWED FOLDERS (regex)' NAME: the include pattern appears nowhere else.
only() {
	local pattern=$1 allowed=$2 name=$3 found
	found=$(grep -rnE "^[[:space:]]*#[[:space:]]*include[[:space:]]*[<\"]$pattern" \
		--include='*.[ch]' --include='*.cu' --include='*.cuh' runtime kernels launcher |
		grep -vE "^($allowed)")
	if [ -n "$found" ]; then
		echo "$found"
		echo "FAIL deps/$name"
		failed=1
	else
		echo "PASS deps/$name"
	fi
}

only 'mpi\.h' 'launcher/|kernels/cpu/' mpi-in-launcher
only '(cuda|cublas|nccl|nvtx)' 'kernels/cuda/' cuda-in-kernels-cuda
only 'hwloc' 'launcher/placement' hwloc-in-placement
only 'launcher/' 'launcher/' launcher-is-the-top
only 'kernels/(cpu|cuda)/' 'kernels/|launcher/' runtime-sees-only-the-contract
only 'runtime/(model|text|engine)/' 'runtime/|launcher/' kernels-see-only-base
only 'runtime/(text|engine)/' 'runtime/(text|engine)/|launcher/' model-knows-no-text
only 'runtime/engine/' 'runtime/engine/|launcher/' engine-is-runtimes-top
only '(runtime/(model|text|engine)|kernels|launcher)/' 'runtime/(model|text|engine)/|kernels/|launcher/' base-stands-alone
exit $failed
