#!/usr/bin/env bash
# What binding is worth: how fast weights are loaded and how steady the steps are, with tprun's binding
# of cores and memory (bound) and without any (mpirun --bind-to none, tprun --no-bind).
#   bench/binding.sh [RANKS]
# MODEL (a folder), BACKEND (auto: GPUs where each rank has one), NEW (tokens to write), REPEAT, TPRUN,
# MPIRUN and TPRUN_OPTIONS come from the environment. What GPUs load is worth a look with a model of
# gigabytes alone, that is in memory (the system's cache). Both kinds take turns; a line each: the median over the runs of the first node's rate of
# reading weights, and of P50, P99 and P99 over P50 of a run's steps.
set -euo pipefail
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
cd "$(dirname "$0")/.."
ranks=${1:-1} repeat=${REPEAT:-5}
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT

# once KIND MPIRUN-OPTION... -- TPRUN-OPTION...: appends "kind load p50 p99 p99/p50" to the results.
# shellcheck disable=SC2086 # options are words
once() {
	local kind=$1 launch=()
	shift
	while [ "$1" != -- ]; do
		launch+=("$1")
		shift
	done
	shift
	rm -f "$temp/stats"
	${MPIRUN:-mpirun} "${launch[@]}" -np "$ranks" "${TPRUN:-build/tprun}" generate \
		--backend "${BACKEND:-auto}" --model "${MODEL:-configs/tiny-stories}" --prompt "Once upon a time" --ignore-eos \
		--max-new-tokens "${NEW:-200}" --stats "$temp/stats" --stats-interval 86400 "$@" \
		${TPRUN_OPTIONS:-} > /dev/null 2> "$temp/err" || { cat "$temp/err" >&2; exit 1; }
	local load p50 p99
	load=$(sed -nE 's/^read .* on [^,]*, ([0-9.]+) ([KMGT])iB\/s.*/\1 \2/p' "$temp/err" | head -n 1 |
		awk '{ print $1 * 1024 ^ (index("KMGT", $2) - 3) }') # GiB/s
	p50=$(sed -E 's/.*"p50":([0-9.e+-]+).*/\1/' "$temp/stats")
	p99=$(sed -E 's/.*"p99":([0-9.e+-]+).*/\1/' "$temp/stats")
	awk -v kind="$kind" -v load="$load" -v p50="$p50" -v p99="$p99" \
		'BEGIN { print kind, load, 1e3 * p50, 1e3 * p99, p99 / p50 }' >> "$temp/results"
}

for _ in $(seq "$repeat"); do
	once bound --
	once unbound --bind-to none -- --no-bind
done

# median KIND COLUMN
median() { awk -v kind="$1" -v column="$2" '$1 == kind { print $column }' "$temp/results" | sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
printf '%-8s %12s %10s %10s %8s\n' "$ranks ranks" "GiB/s load" "P50, ms" "P99, ms" P99/P50
for kind in bound unbound; do
	printf '%-8s %12.2f %10.3f %10.3f %8.2f\n' $kind "$(median $kind 2)" "$(median $kind 3)" \
		"$(median $kind 4)" "$(median $kind 5)"
done
