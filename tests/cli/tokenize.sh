#!/usr/bin/env bash
# tokenize and plan, which need no MPI and read no weights.
. "$(dirname "$0")/common.bash"
needs_stories tokenize

run 1 tokenize --model "$STORIES" --text "Once upon a time" --no-special
check no-special [ "$(cat "$TEMP/out")" = 403,407,261,378 ]
run 1 tokenize --model "$STORIES" --text "Once upon a time" --json
check json [ "$(cat "$TEMP/out")" = '{"ids": [1,403,407,261,378]}' ]
run 1 tokenize --model "$STORIES" --decode 1,403,407,261,378 --no-special
check decode [ "$(cat "$TEMP/out")" = "Once upon a time" ]
run 1 tokenize --model "$STORIES" --decode 1,403 --json
says decode-json '"text"' out
printf '"Once upon"\n"a time"\n' > "$TEMP/lines"
STDIN=$TEMP/lines run 1 tokenize --model "$STORIES" --jsonl
check jsonl [ "$(tr '\n' ' ' < "$TEMP/out")" = "[1,403,407] [1,261,378] " ]
run 2 tokenize --model "$STORIES" --text "Once upon a time"
check once-under-mpirun [ "$(cat "$TEMP/out")" = 1,403,407,261,378 ]

# 1 MB of mixed text takes less than a second of the processor, start included. (Processor time,
# because the machine may be busy; a sanitized build may take longer.)
for _ in $(seq 2500); do
	printf '%s\n' '"Il était une fois, there were 12,345 little robots in Zürich; 今日は良い天気です。 for (i = 0; i < n; i++) { sum += a[i]; }   Привет, мир! 🙂 The end? Not quite: it goes on, and on... \"So it goes\", she said. Γειά σου Κόσμε, مرحبا بالعالم, 한국어도 있습니다. https://example.org/a/b?c=d&e=f 3.14159265358979 END\t and then some more of the same words, again and again."'
done > "$TEMP/lines"
most=1.0
ldd "$TPRUN" | grep -q libasan && most=20.0
TIMEFORMAT=%U
for tokenizer in "$STORIES" "$SHARED/tokenizers/llama3.1" "$SHARED/tokenizers/llama2"; do
	taken=$({ time STDIN=$TEMP/lines run 1 tokenize --model "$tokenizer" --jsonl; } 2>&1)
	check "1-MB-lines-$(basename "$tokenizer")" [ "$(wc -l < "$TEMP/out")" = 2500 ]
	check "1-MB-$(basename "$tokenizer")" awk "BEGIN { exit !($taken < $most) }"
done

run 1 plan --model "$STORIES"
says plan-places "host" out
says plan-fits "all that the model reaches" out
run 1 plan --model "$STORIES" --ranks 3 --memory 80GiB --backend cuda --json
good plan-json
says plan-cuda '"backend": "cuda"' out
run 1 plan --model "$STORIES" --ranks 3 --memory 1MB
says plan-too-small "does not fit" out
run 1 plan --shape "$STORIES/config.json" --ranks 8 --context 100
says plan-shape "context 100" out
check plan-8-ranks [ "$(grep -cE '^ +[0-9] ' "$TEMP/out")" = 8 ]

refused text-and-decode 1 2 "exactly one of" tokenize --model "$STORIES" --text a --decode 1
refused neither 1 2 "exactly one of" tokenize --model "$STORIES"
refused unknown-id 1 2 "99999" tokenize --model "$STORIES" --decode 99999
refused bad-utf8 1 2 "UTF-8" tokenize --model "$STORIES" --text $'a\xff'
refused no-tokenizer 1 2 "tokenizer.json" tokenize --model "$SHARED/models/golden" --text a
printf '"a"\n17\n' > "$TEMP/lines"
STDIN=$TEMP/lines run 1 tokenize --model "$STORIES" --jsonl
check jsonl-no-string [ "$status" = 1 ]
says jsonl-names-the-line "line 2 of standard input" err
printf '"a\n' > "$TEMP/lines"
STDIN=$TEMP/lines refused jsonl-no-json 1 1 "line 1 of standard input" tokenize --model "$STORIES" --jsonl
refused plan-too-many-ranks 1 2 "at most 8" plan --model "$STORIES" --ranks 9
refused plan-context 1 2 "reaches 512" plan --model "$STORIES" --context 513
refused plan-memory 1 2 "--memory takes a size" plan --model "$STORIES" --memory lots
refused plan-no-model 1 2 "/nowhere" plan --model /nowhere
finish
