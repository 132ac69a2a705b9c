#!/usr/bin/env bash
# bench: its three formats, what they say of each other, and calls that cannot be.
. "$(dirname "$0")/common.bash"
# Threads that spin for one another make a crowded machine crawl.
export OMP_WAIT_POLICY=passive
limit=$((4 * limit))
model=(--model configs/tiny-stories --backend cpu)
columns=shape,dtype,backend,ranks,test,batch,depth,tokens,tokens_per_s,deviation,ms_per_step,weight_share,gb_per_s,ceiling_gb_per_s,share,reduce_us,reduces_per_step,reduce_share,hash

# field TEST NAME: that column of the test's row in $TEMP/csv.
field() {
	awk -F, -v test="$1" -v name="$2" '
		NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i }
		$at["test"] == test { print $at[name] }' "$TEMP/csv"
}
# holds EXPRESSION: awk finds it true.
holds() { awk "BEGIN { exit !($1) }"; }

tests=pp40,tg6,tg4x3@d50,b2
for ranks in 1 3; do
	run $ranks bench "${model[@]}" --tests $tests --repeat 2 --csv --quiet
	good "csv (np $ranks)"
	cp "$TEMP/out" "$TEMP/csv"
	check "csv-columns (np $ranks)" [ "$(head -1 "$TEMP/csv")" = $columns ]
	check "csv-rows (np $ranks)" [ "$(cut -d, -f1-8 "$TEMP/csv" | tail -n +2 | paste -sd' ')" = \
		"tiny-stories,bf16,cpu,$ranks,pp40,1,0,40 tiny-stories,bf16,cpu,$ranks,tg6,1,128,6 tiny-stories,bf16,cpu,$ranks,tg4x3@d50,3,50,12 tiny-stories,bf16,cpu,$ranks,b2,2,0,256" ]
	check "csv-fields (np $ranks)" [ "$(awk -F, '{ print NF }' "$TEMP/csv" | sort -u)" = 19 ]
	for test in ${tests//,/ }; do
		speed=$(field $test tokens_per_s) step=$(field $test ms_per_step)
		rate=$(field $test gb_per_s) ceiling=$(field $test ceiling_gb_per_s) share=$(field $test share)
		# As far as the three are printed: rates to 0.001, the share to 0.0001.
		check "share-$test (np $ranks)" holds \
			"$speed > 0 && $step > 0 && ($rate - $share * $ceiling) ^ 2 <= (0.0005 * (1 + $share) + 0.00005 * $ceiling + 1e-6) ^ 2"
		if [ $ranks = 1 ]; then
			check "sums-$test (np 1)" [ "$(field $test reduces_per_step)" = 0 ]
		else
			check "sums-$test (np $ranks)" holds "$(field $test reduces_per_step) == 13 && $(field $test reduce_us) > 0"
		fi
	done
	cut -d, -f5,19 "$TEMP/csv" > "$TEMP/hashes"
	run $ranks bench "${model[@]}" --tests $tests --repeat 1 --csv --quiet
	check "same-hashes (np $ranks)" [ "$(cut -d, -f5,19 "$TEMP/out" | cmp - "$TEMP/hashes" && echo same)" = same ]
done

run 2 bench "${model[@]}" --tests tg6,pp40 --repeat 2 --json --quiet
good json
says json-sums '"reduces_per_step": 13' out
says json-test '"test": "pp40"' out
says json-commit '"commit": "' out
check json-one-line [ "$(wc -l < "$TEMP/out")" = 1 ]
check json-alone [ ! -s "$TEMP/err" ]
run 1 bench "${model[@]}" --tests tg6 --repeat 1
good table
says table-ceiling "# ceiling: " out
says table-commit "# tprun " out
check table-row grep -qE '^tg6 +[0-9.]+ ±' "$TEMP/out"
run 1 bench "${model[@]}" --repeat 1 --quiet --max-batch-tokens 128
check default-tests [ "$(grep -v '^#' "$TEMP/out" | awk 'NR > 1 { print $1 }' | paste -sd,)" = pp512,tg128,b8 ]
says table-chunks "each at most 128 tokens" out
printf '{"tests": "tg3", "repeat": 1, "csv": true, "quiet": true, "max_new_tokens": 5}' > "$TEMP/config.json"
run 1 bench --shape configs/tiny-stories/config.json --backend cpu --dtype f32 --config "$TEMP/config.json"
check shape-and-config [ "$(tail -1 "$TEMP/out" | cut -d, -f1-5)" = tiny-stories,f32,cpu,1,tg3 ]

refused_everywhere no-test 2 "\"tg\" is no test" bench "${model[@]}" --tests tg
refused too-deep 2 2 "this model reaches 1024" bench "${model[@]}" --tests pp4,tg128@d1000
refused batch-too-large 1 2 "less than a token for each sequence" bench "${model[@]}" --tests b8 --max-batch-tokens 7
refused both-formats 1 2 "exclude each other" bench "${model[@]}" --csv --json
refused no-context 1 2 "is no option of bench" bench "${model[@]}" --context 5
refused too-much-cache 1 2 "takes more cache than can be" bench --shape configs/shapes/qwen2.5-7b.json --backend cpu --tests pp32768x65536
refused does-not-fit 1 2 "smaller --tests" bench "${model[@]}" --tests tg900x65536@d100
refused too-many-ranks 9 2 "at most 8" bench "${model[@]}" --tests tg4
timeout $limit "$TPRUN" bench "${model[@]}" --tests tg3 --repeat 1 > /dev/full 2> "$TEMP/err"
status=$?
check full-disk [ $status = 1 ]
says full-disk-message "cannot write to standard output" err
finish
