#!/usr/bin/env bash
# Runs tests and counts their PASS, FAIL and SKIP lines.
#   run.sh [-t SECONDS] -- COMMAND... [-- COMMAND...]...
# A command that ends with a status other than 0 without having printed a FAIL line (a crash, a
# time-out, a sanitizer's report) counts as one failure, and so does one that prints no line.
# The last line is "N passed, N failed, N skipped"; the status is 0 only where nothing failed.
set -u
limit=600
[ "${1-}" = -t ] && { limit=$2; shift 2; }
passed=0 failed=0 skipped=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

run_one() {
	local start=$SECONDS status p f s
	timeout -k 10 "$limit" "$@" </dev/null 2>&1 | tee "$log" | grep -v '^PASS '
	status=${PIPESTATUS[0]}
	p=$(grep -c '^PASS ' "$log") f=$(grep -c '^FAIL ' "$log") s=$(grep -c '^SKIP ' "$log")
	if [ "$f" = 0 ] && { [ "$status" != 0 ] || [ $((p + s)) = 0 ]; }; then
		echo "FAIL $* (status $status, $p passed before)"
		f=1
	fi
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
	echo "$p passed, $f failed, $s skipped in $((SECONDS - start)) s: $*" | cut -c1-160
}

command=()
for word in "$@" --; do
	if [ "$word" != -- ]; then
		command+=("$word")
	elif [ ${#command[@]} -gt 0 ]; then
		run_one "${command[@]}"
		command=()
	fi
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ $((passed)) -gt 0 ]
