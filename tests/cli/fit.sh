#!/usr/bin/env bash
# What does not fit is refused at once, with the numbers and with what would fit.
. "$(dirname "$0")/common.bash"
most=1000 # ms
[ $limit = 10 ] || most=5000

# number TEXT: the number behind a text in what the program said.
number() { sed -nE "s/.*$1 ?([0-9]+).*/\1/p" "$TEMP/err" | tail -1; }
# in_time NAME ARGUMENTS...: a plan, within a second.
in_time() {
	local name=$1 begin
	shift
	begin=$(date +%s%3N)
	run 1 plan "$@"
	check "$name-in-time" [ $(($(date +%s%3N) - begin)) -lt $most ]
}

llama=(--shape configs/shapes/llama-2-7b.json --backend cuda)
in_time fits "${llama[@]}" --ranks 2 --memory 80GiB --context 4096
good plan-fits
check plan-fits-silent [ ! -s "$TEMP/err" ]
run 1 plan "${llama[@]}" --dtype bf16
says plan-packed "kept once more, packed" out

# Too long a context: the one that is named fits, and one block more does not.
in_time context "${llama[@]}" --ranks 2 --memory 8GiB --context 4096
check plan-context [ "$status" = 2 ]
says plan-context-rank "rank 0: the model does not fit: a rank needs" err
says plan-context-has "and has 8.0 GiB" err
context=$(number "--context")
run 1 plan "${llama[@]}" --ranks 2 --memory 8GiB --context "${context:-0}"
good "plan-context-that-fits ($context)"
run 1 plan "${llama[@]}" --ranks 2 --memory 8GiB --context $((${context:-0} + 16))
check plan-context-beyond [ "$status" = 2 ]

# Too few ranks: as many as are named fit, and one less does not.
in_time ranks "${llama[@]}" --ranks 1 --memory 8GiB --context 4096
check plan-ranks [ "$status" = 2 ]
says plan-weights "weights 12.6 GiB" err
ranks=$(sed -nE 's/.* ([0-9]+) ranks with as much each.*/\1/p' "$TEMP/err")
run 1 plan "${llama[@]}" --ranks "${ranks:-1}" --memory 8GiB --context 4096
good "plan-ranks-that-fit ($ranks)"
run 1 plan "${llama[@]}" --ranks $((${ranks:-2} - 1)) --memory 8GiB --context 4096
check plan-ranks-below [ "$status" = 2 ]
in_time nothing "${llama[@]}" --ranks 1 --memory 1MiB --json
check plan-nothing [ "$status" = 2 ]
says plan-nothing-json '"largest_context": 0' out
says plan-nothing-cure "no --context and no number of ranks would" err

# The same at the start of a run, before anything is read: 1.6 TB.
huge_shape > "$TEMP/huge.json"
in_time huge --shape "$TEMP/huge.json" --backend cuda --ranks 8 --memory 80GiB
check plan-huge [ "$status" = 2 ]
check plan-huge-rows [ "$(grep -cE '^ +[0-9] ' "$TEMP/out")" = 8 ]
for command in generate score; do
	ids=--prompt-ids
	[ $command = generate ] || ids=--ids
	refused "start-$command" 1 2 "does not fit: a rank needs" $command --backend cpu --shape "$TEMP/huge.json" $ids 1,2
	refused "start-$command" 3 2 "does not fit: a rank needs" $command --backend cpu --shape "$TEMP/huge.json" $ids 1,2
	says "start-$command-weights" "weights 5" err
done
begin=$(date +%s%3N)
run 1 generate --backend cpu --shape "$TEMP/huge.json" --prompt-ids 1,2 --context 100000
check start-in-time [ $(($(date +%s%3N) - begin)) -lt $most ]
says start-dtype "a smaller --dtype" err
finish
