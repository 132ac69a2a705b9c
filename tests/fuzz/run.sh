#!/usr/bin/env bash
# A short run of every fuzzer, on copies of the kept corpora.
#   run.sh FOLDER SECONDS     FOLDER holds the fuzzers, SECONDS is for each
set -u
folder=$1 seconds=$2 failed=0
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for fuzzer in "$folder"/*; do
	name=$(basename "$fuzzer")
	[ -x "$fuzzer" ] && [ -d "$here/corpus/$name" ] || continue
	mkdir "$work/$name"
	if "$fuzzer" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -verbosity=0 \
		-artifact_prefix="$work/" "$work/$name" "$here/corpus/$name" >"$work/log" 2>&1; then
		echo "PASS fuzz/$name"
	else
		tail -40 "$work/log"
		for found in "$work"/crash-* "$work"/timeout-* "$work"/oom-* "$work"/leak-*; do
			[ -f "$found" ] && { echo "input, in base64:"; base64 <"$found" | head -50; }
		done
		echo "FAIL fuzz/$name"
		failed=1
	fi
done
exit $failed
