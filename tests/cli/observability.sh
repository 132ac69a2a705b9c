#!/usr/bin/env bash
# The log, --stats, --profile and SIGUSR2, as a user meets them.
. "$(dirname "$0")/common.bash"
needs_stories observability
model=(--backend cpu --model "$STORIES")
prompt=(--prompt "Once upon a time" --max-new-tokens 20)

# Every line of a log is stamped; without one none is.
run 2 generate "${model[@]}" "${prompt[@]}" --log-level debug
good log-debug
stamp='^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z rank [0-9]+ (error|warning|info|debug): '
check log-every-line [ "$(grep -cvE "$stamp" "$TEMP/err")" = 0 ]
says log-has-map "info: rank  host" err
run 2 generate "${model[@]}" "${prompt[@]}"
check log-default-is-plain [ "$(grep -cE "$stamp" "$TEMP/err")" = 0 ]
run 1 generate "${model[@]}" "${prompt[@]}" --max-length 9 --log-level warning
check log-warning-only [ "$(wc -l < "$TEMP/err")" = 1 ]
says log-warning "rank 0 warning: tprun: warning: --max-new-tokens and" err
run 1 generate "${model[@]}" "${prompt[@]}" --max-length 9 --log-level error
check log-error-only [ ! -s "$TEMP/err" ]
refused_everywhere log-of-errors 2 "rank 0 error: tprun: there is no model folder" \
	generate --log-level error --model "$TEMP/none" --prompt a
refused_everywhere log-level-unknown 2 "--log-level takes" generate --log-level loud --prompt a

# Statistics: JSON lines that add up.
for ranks in 1 2; do
	rm -f "$TEMP/stats"
	run $ranks generate "${model[@]}" "${prompt[@]}" --ignore-eos --stats "$TEMP/stats" --stats-interval 0.002
	good "stats (np $ranks)"
	check "stats-lines (np $ranks)" python3 - "$TEMP/stats" <<-'END'
		import json, sys
		lines = [json.loads(line) for line in open(sys.argv[1])]
		keys = {"time", "seconds", "steps", "step_s", "batch", "tokens", "kv_blocks_used", "kv_blocks", "all_reduce_s"}
		assert lines and all(set(line) == keys for line in lines), lines
		assert sum(line["steps"] for line in lines) == 20, lines
		assert sum(line["tokens"] for line in lines) == 5 + 19, lines
		assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
		for line in lines:
		    assert 0 <= line["kv_blocks_used"] <= line["kv_blocks"]
		    if not line["steps"]:
		        assert line["step_s"] is None and line["all_reduce_s"] is None
		        continue
		    times = line["step_s"]
		    assert 0 < times["p50"] <= times["p99"] and times["mean"] > 0 and line["batch"] == 1
		    assert 0 <= line["all_reduce_s"] < times["mean"]
	END
done
before=$(wc -l < "$TEMP/stats")
run 1 bench "${model[@]}" --tests tg8x2 --repeat 1 --stats "$TEMP/stats"
good stats-bench
check stats-are-added [ "$(wc -l < "$TEMP/stats")" -gt "$before" ]
printf '{"id": 1, "prompt": "Once"}\n{"id": 2, "prompt": "One day"}\n' > "$TEMP/in"
rm -f "$TEMP/stats"
run 2 batch "${model[@]}" --input "$TEMP/in" --output "$TEMP/done" --max-new-tokens 9 --stats "$TEMP/stats"
good stats-batch
check stats-batch-lines grep -q '"steps":[1-9]' "$TEMP/stats"
run 1 generate "${model[@]}" "${prompt[@]}" --stats /dev/full --stats-interval 0.001
good stats-full-disk
check stats-full-disk-told-once [ "$(grep -c "cannot write to /dev/full: No space left" "$TEMP/err")" = 1 ]
refused_everywhere stats-no-folder 2 "--stats: cannot open $TEMP/none/stats: No such file" \
	generate "${model[@]}" "${prompt[@]}" --stats "$TEMP/none/stats"
refused "stats-interval" 1 2 "--stats-interval takes" generate --stats-interval 0 --prompt a

# Profiling needs NVTX in the build: said, or done.
run 1 generate "${model[@]}" "${prompt[@]}" --profile
if grep -q "built without NVTX" "$TEMP/err"; then
	check profile-refused [ "$status" = 2 ]
else
	good profile
fi

# SIGUSR2: every rank says where it is, and the text is as if nothing had been asked.
long=(generate "${model[@]}" --prompt "Once upon a time" --ignore-eos --max-length 512)
run 2 "${long[@]}"
cp "$TEMP/out" "$TEMP/plain"
mkfifo "$TEMP/prompt"
mpirun -np 2 "$TPRUN" generate "${model[@]}" --prompt-file "$TEMP/prompt" --ignore-eos --max-length 512 \
	> "$TEMP/out" 2> "$TEMP/err" &
launcher=$!
exec 3<> "$TEMP/prompt" # rank 0 reads its prompt: no race with a run that ends early; never blocks
for _ in $(seq 100); do
	pids=$(pgrep -P $launcher -x tprun | wc -l)
	[ "$pids" = 2 ] && break
	sleep 0.1
done
sleep 1
kill -USR2 $launcher # mpirun passes it on
for _ in $(seq 50); do
	[ "$(grep -c 'tprun: rank [01] (host .*, pid [0-9]*): ' "$TEMP/err")" = 2 ] && break
	sleep 0.1
done
check where-every-rank [ "$(grep -o 'tprun: rank [01] (host [^,]*, pid [0-9]*): [a-z]' "$TEMP/err" | cut -d' ' -f3 | sort -u | wc -l)" = 2 ]
check where-seconds grep -qE 'tprun: rank [01] .*for [0-9]+\.[0-9]{3} s$' "$TEMP/err"
printf 'Once upon a time' >&3
exec 3>&-
wait $launcher
status=$?
good where-goes-on
check where-same-text cmp -s "$TEMP/out" "$TEMP/plain"
finish
