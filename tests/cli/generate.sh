#!/usr/bin/env bash
# generate and score, as a user calls them.
. "$(dirname "$0")/common.bash"
needs_stories generate
model=(--backend cpu --model "$STORIES")

# value KEY: a list or a string of the JSON that the last run printed, without blanks.
value() { tr -d ' \n' < "$TEMP/out" | sed -E "s/.*\"$1\":(\[[^]]*\]|\"[^\"]*\"|null|[0-9.e+-]+).*/\1/"; }
expected=$(tr -d ' \n' < "$STORIES/expected_greedy.json" | sed -E 's/.*"greedy_ids":(\[[^]]*\]).*/\1/')

for ranks in 1 2 3 4; do
	run $ranks generate "${model[@]}" --prompt "Once upon a time" --max-new-tokens 64 --json
	good "generate-json (np $ranks)"
	check "generate-64-ids (np $ranks)" [ "$(value output_ids)" = "$expected" ]
	check "generate-one-line (np $ranks)" [ "$(wc -l < "$TEMP/out")" = 1 ]
	check "generate-map (np $ranks)" [ "$(grep -c ' none' "$TEMP/err")" = $ranks ]
done
check generate-prompt-ids [ "$(value prompt_ids)" = "[1,403,407,261,378]" ]
check generate-finish [ "$(value finish_reason)" = '"length"' ]
run 1 generate "${model[@]}" --prompt "Once upon a time" --max-length 69 --quiet
good generate-plain
check generate-quiet [ ! -s "$TEMP/err" ]
check generate-begins [ "$(head -c 43 "$TEMP/out")" = "Once upon a time, there was a little girl n" ]
cp "$TEMP/out" "$TEMP/plain"

printf 'Once upon a time' > "$TEMP/prompt"
run 2 generate "${model[@]}" --prompt-file "$TEMP/prompt" --max-length 69
check generate-file cmp -s "$TEMP/out" "$TEMP/plain"
STDIN=$TEMP/prompt run 2 generate "${model[@]}" --prompt-file - --max-new-tokens 64
check generate-stdin cmp -s "$TEMP/out" "$TEMP/plain"
run 1 generate "${model[@]}" --prompt-ids 1,403,407,261,378 --max-length 69
check generate-ids cmp -s "$TEMP/out" "$TEMP/plain"
says generate-speed "tokens/s" err
run 1 generate "${model[@]}" --prompt "Once upon a time" --max-length 69 --context 69
check generate-context cmp -s "$TEMP/out" "$TEMP/plain"
printf '{"prompt": "Once upon a time", "max_length": 69, "quiet": true}' > "$TEMP/config.json"
run 1 generate "${model[@]}" --config "$TEMP/config.json"
check generate-config cmp -s "$TEMP/out" "$TEMP/plain"

run 1 generate "${model[@]}" --prompt "Once upon a time" --max-new-tokens 64 --json --stop "girl named"
check generate-stop [ "$(value text)" = '",therewasalittle"' ]
check generate-stop-reason [ "$(value finish_reason)" = '"stop"' ]
run 1 generate "${model[@]}" --prompt "Once upon a time" --max-new-tokens 3 --max-length 7 --json
says generate-both-lengths "the first is used" err
check generate-both-lengths-3 [ "$(value output_ids)" = "$(echo "$expected" | cut -d, -f1-3)]" ]
run 1 generate "${model[@]}" --prompt "Once upon a time" --context 8 --json
check generate-capped [ "$(value output_ids)" = "$(echo "$expected" | cut -d, -f1-3)]" ]
run 1 generate "${model[@]}" --prompt "" --max-new-tokens 2 --json # BOS alone is a prompt
check generate-empty-with-bos [ "$(value prompt_ids)" = "[1]" ]
printf 'a\0b' > "$TEMP/prompt"
run 1 generate "${model[@]}" --prompt-file "$TEMP/prompt" --max-new-tokens 2 --json
good generate-nul-in-file

sampling=(--temperature 0.9 --top-p 0.9 --max-new-tokens 40)
run 1 generate "${model[@]}" --prompt "One day" "${sampling[@]}" --seed 5
cp "$TEMP/out" "$TEMP/sampled"
run 1 generate "${model[@]}" --prompt "One day" "${sampling[@]}" --seed 5
check sample-repeats cmp -s "$TEMP/out" "$TEMP/sampled"
run 3 generate "${model[@]}" --prompt "One day" "${sampling[@]}" --seed 5
check sample-on-3-ranks cmp -s "$TEMP/out" "$TEMP/sampled"
run 1 generate "${model[@]}" --prompt "One day" "${sampling[@]}" --seed 6
check sample-other-seed [ -n "$(cmp "$TEMP/out" "$TEMP/sampled")" ]
run 1 generate "${model[@]}" --prompt "Once upon a time" --max-length 69 --temperature 0 --top-k 5
check sample-temperature-0-is-greedy cmp -s "$TEMP/out" "$TEMP/plain"
run 1 generate "${model[@]}" --prompt "Once upon a time" --max-length 69 --top-k 1
check sample-top-1-is-greedy cmp -s "$TEMP/out" "$TEMP/plain"

# Without a tokenizer: ids in, ids out.
mkdir "$TEMP/bare" && cp "$STORIES"/{config.json,model.safetensors} "$TEMP/bare"
run 2 generate --backend cpu --model "$TEMP/bare" --prompt-ids 1,403,407,261,378 --max-new-tokens 64
check ids-plain [ "[$(cut -d, -f6- "$TEMP/out")]" = "$expected" ]
run 1 generate --backend cpu --model "$TEMP/bare" --prompt-ids 1,403 --max-new-tokens 4 --json
check ids-text-null [ "$(value text)" = null ]

for ranks in 1 3; do
	run $ranks score "${model[@]}" --text "Once upon a time" --json
	check "score-ids (np $ranks)" [ "$(value ids)" = "[1,403,407,261,378]" ]
	check "score-perplexity (np $ranks)" [ "$(value perplexity | cut -c1-5)" = 1.070 ]
	check "score-count (np $ranks)" [ "$(value token_logprobs | tr -cd , | wc -c)" = 3 ]
done
run 1 score "${model[@]}" --ids 1,403,407
says score-plain "perplexity" out
printf 'Once upon a time' > "$TEMP/prompt"
run 2 score "${model[@]}" --text-file "$TEMP/prompt" --quiet
check score-quiet [ ! -s "$TEMP/err" ]
says score-tokens '"upon"' out

timeout $limit "$TPRUN" generate "${model[@]}" --prompt a --max-new-tokens 9 > /dev/full 2> "$TEMP/err"
status=$?
check full-disk [ $status = 1 ]
says full-disk-message "cannot write to standard output" err
timeout $limit "$TPRUN" generate "${model[@]}" --prompt a --max-new-tokens 400 2> "$TEMP/err" |
	head -c 1 > /dev/null
status=${PIPESTATUS[0]}
check closed-pipe [ "$status" = 1 ]
says closed-pipe-message "cannot write to standard output: Broken pipe" err
timeout $limit mpirun -np 2 sh -c "exec \"$TPRUN\" generate --backend cpu --model \"$STORIES\" --prompt a > /dev/full" 2> "$TEMP/err"
status=$?
check "full-disk (np 2)" [ $status = 1 ]
says full-disk-rank "rank 0 (host $(hostname)): cannot write to standard output: No space left" err
# A pipe of the rank's own, which mpirun cannot hide from it.
timeout $limit mpirun -np 2 bash -c "exec \"$TPRUN\" generate --backend cpu --model \"$STORIES\" --prompt a --max-new-tokens 400 > >(head -c 1 > /dev/null)" 2> "$TEMP/err"
status=$?
check "closed-pipe (np 2)" [ $status = 1 ]
says closed-pipe-rank "rank 0 (host $(hostname)): cannot write to standard output: Broken pipe" err
finish
