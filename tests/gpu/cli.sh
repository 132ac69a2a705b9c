#!/usr/bin/env bash
# What a user meets on GPUs beside the text: a GPU that is too small or full, --stats, --profile, SIGUSR2.
. "$(dirname "$0")/../cli/common.bash"
limit=60
model=(--backend cuda --model configs/tiny-stories)
prompt=(--prompt "Once upon a time" --max-new-tokens 20 --ignore-eos)
ranks=$(nvidia-smi -L | grep -c '^GPU')
ranks=$((ranks > 4 ? 4 : ranks))

# hold LEFT [AFTER]: another program takes the first GPU's memory but LEFT MiB, at once or once AFTER MiB
# more are used. Returns when it holds it, or waits. It is gone after let_go.
mkfifo "$TEMP/holder"
hold() {
	tests/gpu/hold_memory.py "$1" ${2:+--after "$2"} > "$TEMP/holder" &
	holder=$!
	exec 4< "$TEMP/holder"
	read -r _ <&4
}
let_go() { kill $holder && wait $holder 2> /dev/null; exec 4<&-; }

# Too large a model for any GPU: told from the headers and what is free, before anything is read.
huge_shape > "$TEMP/huge.json"
run 1 plan --backend cuda --shape "$TEMP/huge.json"
check gpu-plan-huge [ "$status" = 2 ]
begin=$(date +%s%3N)
refused gpu-start-huge 1 2 "does not fit: a rank needs" generate --backend cuda --shape "$TEMP/huge.json" --prompt-ids 1,2
echo "gpu-start-huge: $(($(date +%s%3N) - begin)) ms, CUDA's own start included"
[ "$ranks" = 1 ] || refused gpu-start-huge "$ranks" 2 "does not fit: a rank needs" \
	generate --backend cuda --shape "$TEMP/huge.json" --prompt-ids 1,2

# A GPU that somebody else has filled before, and one that is filled while tprun starts: whatever call meets
# that, one message names the GPU or the sizes, and the run ends in order.
seven=(generate --backend cuda --shape configs/shapes/llama-2-7b.json --prompt-ids 1,2 --max-new-tokens 5)
hold 1024
refused gpu-full 1 2 "does not fit: a rank needs" "${seven[@]}"
[ "$ranks" = 1 ] || refused gpu-full "$ranks" 2 "does not fit: a rank needs" "${seven[@]}"
let_go
hold 64 200
run 1 "${seven[@]}"
let_go
check "gpu-filled-meanwhile (status $status)" grep -qx '[12]' <<< "$status"
check gpu-filled-told-once [ "$(grep -c '^tprun: ' "$TEMP/err")" = 1 ]
check gpu-filled-cause grep -qE "^tprun: (GPU 0|.*does not fit)" "$TEMP/err"
tail -n 1 "$TEMP/err"
run 1 generate "${model[@]}" "${prompt[@]}"
good gpu-free-again

# Statistics, with sums through peers' memory where that is the way of few tokens, and through NCCL.
ways=('')
[ "$ranks" = 1 ] || ways+=(nccl)
for way in "${ways[@]}"; do
	name=gpu-stats${way:+-$way}
	rm -f "$TEMP/stats"
	TPRUN_REDUCE=$way run "$ranks" generate "${model[@]}" "${prompt[@]}" --stats "$TEMP/stats" --stats-interval 0.002
	good "$name"
	[ -n "$way" ] || cp "$TEMP/out" "$TEMP/plain"
	check "$name-lines" python3 - "$TEMP/stats" "$ranks" <<-'END'
		import json, sys
		lines = [json.loads(line) for line in open(sys.argv[1])]
		assert sum(line["steps"] for line in lines) == 20, lines
		for line in lines:
		    assert 0 <= line["kv_blocks_used"] <= line["kv_blocks"], line
		    if not line["steps"]:
		        assert line["step_s"] is None and line["all_reduce_s"] is None, line
		        continue
		    assert 0 < line["step_s"]["p50"] <= line["step_s"]["p99"], line
		    if sys.argv[2] == "1":
		        assert line["all_reduce_s"] == 0, line
		    else:
		        assert 0 < line["all_reduce_s"] < line["step_s"]["mean"], line
	END
done
run "$ranks" generate "${model[@]}" "${prompt[@]}" --profile
good gpu-profile
check gpu-profile-same-text cmp -s "$TEMP/out" "$TEMP/plain"
check gpu-map-uuid grep -qE 'GPU-[0-9a-f]{8}-' "$TEMP/err"

# Every rank sees its own GPU alone, as where Slurm binds tasks to GPUs: the same text, and either the
# ranks' memory can be reached all the same or the cure is named.
if [ "$ranks" -gt 1 ]; then
	printf '#!/bin/sh\nCUDA_VISIBLE_DEVICES=$OMPI_COMM_WORLD_LOCAL_RANK exec %s "$@"\n' "$TPRUN" > "$TEMP/hidden"
	chmod +x "$TEMP/hidden"
	TPRUN=$TEMP/hidden run "$ranks" generate "${model[@]}" "${prompt[@]}"
	good gpu-one-visible
	check gpu-one-visible-same-text cmp -s "$TEMP/out" "$TEMP/plain"
	check gpu-one-visible-way grep -qE "through peers' memory|--gpu-bind=none" "$TEMP/err"
fi

# A library that is none stands in NCCL's place: nothing of it is needed where the GPUs' own memory serves.
if [ "$ranks" -gt 1 ]; then
	mkdir "$TEMP/none"
	: > "$TEMP/none/libnccl.so.2"
	LD_LIBRARY_PATH=$TEMP/none:${LD_LIBRARY_PATH:-} run "$ranks" generate "${model[@]}" "${prompt[@]}"
	good gpu-without-nccl
	check gpu-without-nccl-same-text cmp -s "$TEMP/out" "$TEMP/plain"
	check gpu-without-nccl-way grep -q "through peers' memory" "$TEMP/err"
	LD_LIBRARY_PATH=$TEMP/none:${LD_LIBRARY_PATH:-} TPRUN_REDUCE=nccl \
		refused gpu-nccl-asked-for "$ranks" 2 "TPRUN_REDUCE=nccl: rank 0: " generate "${model[@]}" "${prompt[@]}"
fi

# Replicas whose sums go different ways start and end together.
if [ "$ranks" = 4 ]; then
	printf '{"id": %d, "prompt": "Once"}\n' {1..8} > "$TEMP/lines"
	command=("$TPRUN" batch "${model[@]}" --tp 2 --input "$TEMP/lines" --output "$TEMP/done" --max-new-tokens 20 --ignore-eos)
	timeout $limit mpirun -np 2 "${command[@]}" : -np 2 -x TPRUN_REDUCE=nccl "${command[@]}" > "$TEMP/out" 2> "$TEMP/err"
	status=$?
	good gpu-replicas-two-ways
	check gpu-replicas-two-ways-lines [ "$(grep -c '"text"' "$TEMP/done")" = 8 ]
fi

# SIGUSR2, while the ranks wait for a prompt; the text is as if nothing had been asked.
mkfifo "$TEMP/prompt"
mpirun -np "$ranks" "$TPRUN" generate "${model[@]}" --prompt-file "$TEMP/prompt" --max-new-tokens 20 --ignore-eos \
	> "$TEMP/out" 2> "$TEMP/err" &
launcher=$!
exec 3<> "$TEMP/prompt" # never blocks
for _ in $(seq 100); do
	[ "$(pgrep -P $launcher -x tprun | wc -l)" = "$ranks" ] && break
	sleep 0.1
done
sleep 2
kill -USR2 $launcher # mpirun passes it on
answers() { grep -o 'tprun: rank [0-9]* (host [^,]*, pid [0-9]*): [a-z]' "$TEMP/err" | cut -d' ' -f3 | sort -u | wc -l; }
for _ in $(seq 50); do
	[ "$(answers)" = "$ranks" ] && break
	sleep 0.1
done
check gpu-where-every-rank [ "$(answers)" = "$ranks" ]
printf 'Once upon a time' >&3
exec 3>&-
wait $launcher
status=$?
good gpu-where-goes-on
check gpu-where-same-text cmp -s "$TEMP/out" "$TEMP/plain"
finish
