#!/usr/bin/env bash
# tprun under a real Slurm: cases.sh on the cluster of cluster.sh, or a SKIP with the reason.
cd "$(dirname "$0")/../.." || exit 1
TPRUN=$(realpath --relative-to=. "${TPRUN:-build/tprun}") # the folder has another name in the cluster
export TPRUN
said=$(mktemp)
trap 'rm -f "$said"' EXIT
tests/slurm/cluster.sh true > "$said" 2>&1
status=$?
if [ $status = 77 ]; then
	echo "SKIP slurm: $(cat "$said")"
elif [ $status != 0 ]; then
	echo "FAIL slurm/cluster: $(tail -n 5 "$said" | tr '\n' ' ')"
	exit 1
else
	echo "PASS slurm/cluster"
	tests/slurm/cluster.sh tests/slurm/cases.sh
fi
