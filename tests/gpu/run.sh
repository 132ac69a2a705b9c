#!/usr/bin/env bash
# What needs GPUs: every block of the CUDA backend against the CPU backend, packed weights, whole steps, and sums over
# the ranks one way and another, on 1 to 4 ranks, the golden models, what a user meets, and faults. Where there are
# fewer GPUs than ranks, ranks share them and add through host memory; that is told, because it is another
# path than between GPUs, and some cases go the latter's way besides, in turns. The CPU backend is the judge and
# wants its cores: ranks are not bound.
# TEST_TIMES=1 tells what each case of theirs takes.
#   TPRUN=build/tprun TESTS=build/tests/gpu FAULTS=build/faults-gpu/tprun SHARED=../shared run.sh
set -u
here=$(cd "$(dirname "$0")" && pwd)
: "${TPRUN:=build/tprun}" "${TESTS:=build/tests/gpu}" "${FAULTS:=build/faults-gpu/tprun}" "${SHARED:=../shared}"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU')
if [ "$gpus" = 0 ]; then
	echo "no GPU is seen here (nvidia-smi -L)" >&2
	exit 1
fi
commands=()
for ranks in 1 2 3 4; do
	start=(mpirun --oversubscribe --bind-to none -np "$ranks")
	for name in backend packed steps reduce; do
		commands+=(-- "${start[@]}" "$TESTS/test_cuda_$name")
	done
	if [ "$ranks" -gt "$gpus" ]; then
		echo "$ranks ranks share $gpus GPUs"
		commands+=(-- env TPRUN_REDUCE=peer "${start[@]}" "$TESTS/test_cuda_backend" blocks_through_gemm_match_float64)
		commands+=(-- env TPRUN_REDUCE=peer "${start[@]}" "$TESTS/test_cuda_steps")
	fi
done
models=("$SHARED"/models/stories260K* "$SHARED"/models/golden/* "$here"/../data/golden-*)
exec "$here/../run.sh" -t 300 "${commands[@]}" \
	-- "$here/../golden.py" "$TPRUN" --backend cuda --prefix gpu --ranks 1,2,4 "${models[@]}" \
	-- env TPRUN="$TPRUN" "$here/cli.sh" \
	-- env TPRUN="$FAULTS" "$here/../faults.py" --backend cuda --table
