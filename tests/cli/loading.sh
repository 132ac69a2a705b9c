#!/usr/bin/env bash
# What is read of a model's file, by whom and how often, and what comes of files that cannot be read.
. "$(dirname "$0")/common.bash"
MODEL=$TEMP/model
WEIGHTS=$MODEL/model.safetensors
fresh() { mkdir -p "$MODEL" && cp configs/tiny-stories/{*.json,model.safetensors} "$MODEL"; }
fresh
call=(generate --backend cpu --model "$MODEL" --prompt "Once upon a time" --max-new-tokens 12)
${CC:-cc} -shared -fPIC -o "$TEMP/reads.so" tests/reads.c
plain=${LD_PRELOAD:-}
watched() { LD_PRELOAD=$TEMP/reads.so${plain:+:$plain} "$@"; }

# counts LOG: how many bytes of the tensors were read, how many of them more than once.
counts() {
	python3 - "$1" "$WEIGHTS" <<-'END'
		import os, struct, sys
		size = os.path.getsize(sys.argv[2])
		begin = 8 + struct.unpack("<Q", open(sys.argv[2], "rb").read(8))[0]
		times = bytearray(size)
		for line in open(sys.argv[1]):
		    if line[0].isdigit():
		        at, count = map(int, line.split())
		        for i in range(max(at, begin), at + count):
		            times[i] = min(times[i] + 1, 2)
		times = times[begin:]
		print(len(times) - times.count(0), times.count(2), len(times))
	END
}

# Broadcast: the same text, each byte read by one rank and once.
run 1 "${call[@]}" --quiet
good load-alone
cp "$TEMP/out" "$TEMP/expected"
for ranks in 1 2 3 4 7; do
	rm -f "$TEMP/log"
	TPRUN_READS=$TEMP/log watched run $ranks "${call[@]}" --quiet --load broadcast
	good "broadcast (np $ranks)"
	check "broadcast-text (np $ranks)" cmp -s "$TEMP/out" "$TEMP/expected"
	read -r read again all < <(counts "$TEMP/log")
	check "broadcast-each-byte-once (np $ranks)" [ "$read $again" = "$all 0" ]
done
printf '%s\n' '{"id": 1, "prompt": "Once upon a time"}' '{"id": 2, "prompt": "Once upon a time"}' > "$TEMP/in.jsonl"
rm -f "$TEMP/log"
TPRUN_READS=$TEMP/log watched run 4 batch --backend cpu --model "$MODEL" --tp 2 --load broadcast \
	--input "$TEMP/in.jsonl" --output "$TEMP/out.jsonl" --max-new-tokens 12
good "broadcast-replicas (np 4)"
check "broadcast-replicas-text" [ "$(grep -c "$(sed 's/^Once upon a time//; 1q' "$TEMP/expected")" "$TEMP/out.jsonl")" = 2 ]
read -r read again all < <(counts "$TEMP/log")
check "broadcast-replicas-each-byte-once" [ "$read $again" = "$all 0" ]

# Files: each page comes from the disk once for all ranks of the node.
python3 -c 'import os, sys; f = os.open(sys.argv[1], os.O_RDONLY); os.fsync(f); os.posix_fadvise(f, 0, 0, os.POSIX_FADV_DONTNEED)' "$WEIGHTS"
cached=$(fincore --bytes --noheadings --output RES "$WEIGHTS" 2> "$TEMP/err" || echo unknown)
if [ "$((cached))" != 0 ]; then
	skip files-fetched-once "no disk holds $TEMP, or no fincore: $cached bytes stay in memory"
else
	rm -f "$TEMP/log"
	TPRUN_READS=$TEMP/log watched run 3 "${call[@]}" --quiet --load files
	good "files (np 3)"
	check "files-text (np 3)" cmp -s "$TEMP/out" "$TEMP/expected"
	fetched=$(awk '/^fetched/ { sum += $2; if ($2 < 0) bad = 1 } END { print bad ? -1 : sum }' "$TEMP/log")
	size=$(stat -c %s "$WEIGHTS")
	if [ "$fetched" = -1 ]; then
		skip files-fetched-once "the system does not count what disks read"
	else
		check "files-fetched-once (np 3: $fetched of $size bytes)" \
			[ "$fetched" -gt $((size / 10 * 9)) -a "$fetched" -lt $((size + (1 << 20))) ]
	fi
fi

# A line for the node says how much was read, by all its ranks together, and how fast; a bar on request.
for load in files broadcast; do
	run 2 "${call[@]}" --load $load --progress
	says "rate-$load" " on $(hostname), " err
	check "rate-$load-sum" grep -qE "read 9\.[0-9] MiB in [0-9.]+ s on .*B/s$" "$TEMP/err"
	check "bar-$load" grep -qE "weights.*\[#+ *\] +[0-9]+%" "$TEMP/err"
done

# fault NAME RANKS RANK KIND TEXT LOAD: all ranks end, in order, and the message names file, byte and rank:
# where the file was cut off, that is whoever saw it first.
fault() {
	local name="$1-$6" text="$5"
	[ "$2" = 1 ] || text=" (host $(hostname)): loading "
	fresh
	TPRUN_READ_FAULT=$4:$3 watched refused "$name" "$2" 1 "$text" "${call[@]}" --load "$6"
	says "$name-cause (np $2)" "$5" err
	[ "$2$4" != 3eio ] || says "$name-rank (np $2)" "rank $3 (host" err
	says "$name-file (np $2)" "$WEIGHTS" err
	check "$name-byte (np $2)" grep -q 'at byte [0-9]' "$TEMP/err"
}
for load in files broadcast; do
	fault read-error 1 0 eio "Input/output error" $load
	fault read-error 3 2 eio "Input/output error" $load
	TPRUN_READERS=1 fault shortened 1 0 cut "it was cut off" $load
	TPRUN_READERS=1 fault shortened 2 1 cut "it was cut off" $load
done
finish
