#!/usr/bin/env bash
# Every wrong call and every damaged model ends with a message and a status, on any number of ranks.
. "$(dirname "$0")/common.bash"
cpu=(--backend cpu)

refused unknown-command 1 2 "the commands are" frobnicate
refused no-command 1 2 "--help"
refused_everywhere unknown-option 2 "did you mean --temperature?" generate --temprature 1
refused_everywhere option-without-value 2 "--prompt needs a value" generate --prompt
refused_everywhere temperature 2 "--temperature takes" generate --prompt a --temperature -1
refused_everywhere top-p 2 "--top-p takes" generate --prompt a --top-p 0
refused_everywhere missing-folder 2 "/nowhere/at-all" generate "${cpu[@]}" --model /nowhere/at-all --prompt a
mkdir "$TEMP/empty"
refused_everywhere no-config 2 "config.json" generate "${cpu[@]}" --model "$TEMP/empty" --prompt a
refused_everywhere missing-shape 1 "/nowhere/shape" generate "${cpu[@]}" --shape /nowhere/shape --prompt-ids 1
refused_everywhere batch-no-input 2 "batch needs --input FILE" batch --output "$TEMP/out.jsonl"
refused_everywhere batch-no-output 2 "batch needs --output FILE" batch --input -
refused_everywhere tp-of-generate 2 "--tp 7: generate splits the model over all ranks" generate --tp 7 --prompt a

# Started with others, and yet alone to MPI; a program of a batch script is alone and right.
for told in SLURM_STEP_NUM_TASKS PMI_SIZE OMPI_COMM_WORLD_SIZE; do
	export $told=4
	refused "$told" 1 2 "4 tasks were started together ($told), but to MPI" generate "${cpu[@]}" --prompt a
	unset $told
done
SLURM_STEP_NUM_TASKS=4 SLURM_PROCID=0 refused slurm-first-task 1 2 "--mpi=pmix" generate "${cpu[@]}" --prompt a
SLURM_STEP_NUM_TASKS=4 SLURM_PROCID=3 run 1 generate "${cpu[@]}" --prompt a
check slurm-other-task-silent [ "$status $(wc -c < "$TEMP/err")" = "2 0" ]
SLURM_NTASKS=4 SLURM_PROCID=0 run 1 generate "${cpu[@]}" --model "$PWD/configs/tiny-stories" --prompt a --max-new-tokens 2
good batch-script-alone

needs_stories bad-models
stories=("${cpu[@]}" --model "$STORIES")
short=(--prompt "Once upon a time" --max-new-tokens 4)

# damaged NAME: a copy of the model to damage, in $copy.
damaged() {
	copy=$TEMP/$1
	mkdir -p "$copy" && cp "$STORIES"/{config.json,model.safetensors,tokenizer.json} "$copy"
	chmod -R u+w "$copy"
}

refused_everywhere no-prompt 2 "exactly one of --prompt" generate "${stories[@]}"
refused_everywhere two-prompts 2 "only one of --prompt" generate "${stories[@]}" --prompt a --prompt-ids 1
refused_everywhere bad-utf8 2 "UTF-8" generate "${stories[@]}" --prompt $'a\xffb'
refused_everywhere ids-outside 2 "outside the model's vocabulary of 512" generate "${stories[@]}" --prompt-ids 1,512
refused_everywhere no-ids 2 "prompt is empty" generate "${stories[@]}" --prompt-ids ""
refused_everywhere prompt-too-long 2 "the context of 5 leaves no room" generate "${stories[@]}" "${short[@]}" --context 5
refused_everywhere max-length 2 "--max-length of 4 leaves" generate "${stories[@]}" --prompt "Once upon a time" --max-length 4
refused_everywhere context-too-long 2 "reaches 512" generate "${stories[@]}" "${short[@]}" --context 513
refused_everywhere empty-stop 2 "stop" generate "${stories[@]}" "${short[@]}" --stop ""
refused_everywhere score-one-token 2 "at least 2" score "${stories[@]}" --ids 1
refused_everywhere missing-prompt-file 1 "/nowhere/prompt" generate "${stories[@]}" --prompt-file /nowhere/prompt
refused_everywhere model-and-shape 2 "exclude each other" generate "${stories[@]}" --shape "$STORIES/config.json" --prompt-ids 1
refused_everywhere shape-with-text 2 "--shape has no tokenizer" generate "${cpu[@]}" --shape "$STORIES/config.json" --prompt a
refused "too many ranks" 9 2 "at most 8" generate "${stories[@]}" "${short[@]}"

# A model of 129 GiB a rank and more is refused at once, with nothing read or made.
cat > "$TEMP/huge-shape.json" <<-END
	{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16384,
	"intermediate_size": 53248, "num_hidden_layers": 126, "num_attention_heads": 128,
	"num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
	"rms_norm_eps": 1e-5, "torch_dtype": "float32"}
END
refused_everywhere too-large 2 "does not fit" generate "${cpu[@]}" --shape "$TEMP/huge-shape.json" --prompt-ids 1

printf 'Once\0upon\0' > "$TEMP/nul"
STDIN=$TEMP/nul run 2 generate "${stories[@]}" --prompt-file - --max-new-tokens 2
good "NUL-in-prompt (np 2)"

damaged no-bos
printf '{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}' > "$copy/tokenizer.json"
refused_everywhere empty-prompt 2 "empty" generate "${cpu[@]}" --model "$copy" --prompt ""

damaged not-json
printf '{"model_type": "llama",' > "$copy/config.json"
refused_everywhere config-not-json 1 "not valid JSON" generate "${cpu[@]}" --model "$copy" "${short[@]}"
damaged deep
printf '[%.0s' $(seq 100000) > "$copy/config.json"
refused_everywhere config-nested-deep 1 "config.json" generate "${cpu[@]}" --model "$copy" "${short[@]}"
damaged huge
sed -E 's/"hidden_size": *[0-9]+/"hidden_size": 1e300/' "$STORIES/config.json" > "$copy/config.json"
refused_everywhere config-huge 1 "hidden_size" generate "${cpu[@]}" --model "$copy" "${short[@]}"
damaged negative
sed -E 's/"num_hidden_layers": *[0-9]+/"num_hidden_layers": -3/' "$STORIES/config.json" > "$copy/config.json"
refused_everywhere config-negative 1 "num_hidden_layers" generate "${cpu[@]}" --model "$copy" "${short[@]}"

damaged cut-header
head -c 100 "$STORIES/model.safetensors" > "$copy/model.safetensors"
refused_everywhere header-truncated 1 "model.safetensors" generate "${cpu[@]}" --model "$copy" "${short[@]}"
damaged cut-data
head -c 200000 "$STORIES/model.safetensors" > "$copy/model.safetensors"
refused_everywhere data-truncated 1 "model.safetensors" generate "${cpu[@]}" --model "$copy" "${short[@]}"
damaged long-header
{ printf '\377\377\377\377\377\377\377\177'; tail -c +9 "$STORIES/model.safetensors"; } > "$copy/model.safetensors"
refused_everywhere header-length 1 "model.safetensors" generate "${cpu[@]}" --model "$copy" "${short[@]}"
damaged renamed
sed 's/model\.layers\.3\.mlp\.up_proj\.weight/model.layers.3.mlp.xx_proj.weight/' "$STORIES/model.safetensors" > "$copy/model.safetensors"
refused_everywhere tensor-missing 1 "model.layers.3.mlp.up_proj.weight" generate "${cpu[@]}" --model "$copy" "${short[@]}"
damaged no-weights && rm "$copy/model.safetensors"
refused_everywhere no-weights 2 "safetensors" generate "${cpu[@]}" --model "$copy" "${short[@]}"
damaged no-tokenizer && rm "$copy/tokenizer.json"
refused_everywhere no-tokenizer 2 "tokenizer" generate "${cpu[@]}" --model "$copy" "${short[@]}"
damaged bad-tokenizer
printf '{' > "$copy/tokenizer.json"
refused_everywhere bad-tokenizer 1 "tokenizer.json" generate "${cpu[@]}" --model "$copy" "${short[@]}"

# One rank alone cannot read its files: all end, and the message names it.
for ranks in 2 3; do
	cat > "$TEMP/wrapper.sh" <<-END
		#!/bin/sh
		model=$STORIES
		[ "\${OMPI_COMM_WORLD_RANK:-\$PMIX_RANK}" = $((ranks - 1)) ] && model=$TEMP/nowhere
		exec "$TPRUN" generate --backend cpu --model "\$model" --prompt a --max-new-tokens 4
	END
	chmod +x "$TEMP/wrapper.sh"
	TPRUN=$TEMP/wrapper.sh refused "one-rank-cannot-read" $ranks 2 "rank $((ranks - 1)) (host"
done
# The same where only its weights are damaged.
cat > "$TEMP/wrapper.sh" <<-END
	#!/bin/sh
	model=$STORIES
	[ "\${OMPI_COMM_WORLD_RANK:-\$PMIX_RANK}" = 1 ] && model=$TEMP/cut-data
	exec "$TPRUN" generate --backend cpu --model "\$model" --prompt a --max-new-tokens 4
END
TPRUN=$TEMP/wrapper.sh refused "one-rank-reads-less" 2 1 "rank 1 (host"
finish
