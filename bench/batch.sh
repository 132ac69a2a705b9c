#!/usr/bin/env bash
# Output tokens/s of `tprun batch` on random weights and random prompts of one length.
#   bench/batch.sh [RANKS [TP]]
# SHAPE, REQUESTS, PROMPT (tokens), NEW (tokens), TPRUN and TPRUN_OPTIONS come from the environment.
# Prints the summary as one JSON object; output_tokens over seconds is the figure.
set -euo pipefail
cd "$(dirname "$0")/.."
ranks=${1:-1} tp=${2:-${1:-1}}
shape=${SHAPE:-configs/shapes/llama-2-7b.json}
vocab=$(tr -d ' \n' < "$shape" | sed -E 's/.*"vocab_size":([0-9]+).*/\1/')
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT

awk -v requests="${REQUESTS:-1024}" -v prompt="${PROMPT:-128}" -v new="${NEW:-128}" \
	-v vocab="$vocab" 'BEGIN {
	srand(1)
	for (i = 0; i < requests; i++) {
		printf "{\"id\": %d, \"max_new_tokens\": %d, \"prompt_ids\": [", i, new
		for (k = 0; k < prompt; k++)
			printf "%s%d", k ? "," : "", int(rand() * vocab)
		print "]}"
	}
}' > "$temp/prompts.jsonl"

# shellcheck disable=SC2086 # options are words
mpirun -np "$ranks" "${TPRUN:-build/tprun}" batch --shape "$shape" --tp "$tp" --ignore-eos \
	--input "$temp/prompts.jsonl" --output "$temp/out.jsonl" --json ${TPRUN_OPTIONS:-}
