# Sourced by the scripts of this folder: what they share. A script runs the program as a user types
# it, prints "PASS cli/name", "FAIL cli/name: why" or "SKIP cli/name: why" a case, and ends with
# finish. TPRUN names the binary, TPRUN_SHARED the folder of shared models.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
TPRUN=$(realpath "${TPRUN:-build/tprun}")
SHARED=${TPRUN_SHARED:-../shared}
STORIES=$SHARED/models/stories260K
TEMP=$(mktemp -d)
trap 'rm -rf "$TEMP"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
limit=10 # seconds
everywhere="1 2 3" # numbers of ranks
# A sanitized build is slow, and MPI's own leaks are told from ours (see tests/keep_modules.c).
if ldd "$TPRUN" | grep -q libasan; then
	limit=60
	everywhere="1 3"
	${CC:-cc} -shared -fPIC -o "$TEMP/keep_modules.so" tests/keep_modules.c
	export LD_PRELOAD=$TEMP/keep_modules.so
	export ASAN_OPTIONS=detect_leaks=1:verify_asan_link_order=0:fast_unwind_on_malloc=0
	export LSAN_OPTIONS=suppressions=$PWD/tests/lsan.supp:print_suppressions=0
fi
failures=0

pass() { echo "PASS cli/$1"; }
fail() { echo "FAIL cli/$1: $2"; failures=$((failures + 1)); }
skip() { echo "SKIP cli/$1: $2"; }
finish() { exit $((failures > 0)); }

# needs_stories NAME: ends the script, by name, where the shared model is absent.
needs_stories() {
	[ -r "$STORIES/config.json" ] && return
	skip "$1" "$STORIES is not there"
	finish
}

# run RANKS ARGUMENTS...: the program on that many ranks (1: without mpirun), with standard output
# in $TEMP/out, standard error in $TEMP/err and the exit status in $status; 124 is a hang. Open MPI
# 4.1's mpirun can crash in its own clean-up when many ranks end with an error on a crowded machine:
# where its own stack trace shows that, the run counts for nothing and is made once more.
run() {
	run_once "$@"
	if grep -q 'mpirun(+0x' "$TEMP/err"; then
		echo "mpirun itself crashed; once more: $*" >&2
		run_once "$@"
	fi
}

run_once() {
	local ranks=$1
	shift
	if [ "$ranks" = 1 ]; then
		timeout $limit "$TPRUN" "$@" > "$TEMP/out" 2> "$TEMP/err" < "${STDIN:-/dev/null}"
	else
		timeout $limit mpirun -np "$ranks" "$TPRUN" "$@" > "$TEMP/out" 2> "$TEMP/err" < "${STDIN:-/dev/null}"
	fi
	status=$?
}

# check NAME CONDITION...: passes where the command succeeds, else shows what the program said.
check() {
	local name=$1
	shift
	if "$@"; then
		pass "$name"
	else
		fail "$name" "not so: $* (status $status): $(tail -c 400 "$TEMP/err" | tr '\n' ' ')"
	fi
}

# good NAME: the last run succeeded.
good() { check "$1" [ "$status" = 0 ]; }
# says NAME TEXT FILE: the file (out or err) has the text.
says() { check "$1" grep -qF -e "$2" "$TEMP/$3"; }

# refused NAME RANKS STATUS TEXT ARGUMENTS...: the call ends with that status and says the text once,
# within ten seconds (sixty for a sanitized build), by no signal, with nothing on standard output.
refused() {
	local name="$1 (np $2)" ranks=$2 expected=$3 text=$4
	shift 4
	run "$ranks" "$@"
	local said
	said=$(grep -cF -e "$text" "$TEMP/err")
	if [ "$status" != "$expected" ]; then
		fail "$name" "status $status, expected $expected: $(tail -c 400 "$TEMP/err" | tr '\n' ' ')"
	elif [ "$said" != 1 ]; then
		fail "$name" "said \"$text\" $said times: $(tail -c 400 "$TEMP/err" | tr '\n' ' ')"
	elif [ -s "$TEMP/out" ]; then
		fail "$name" "standard output has $(head -c 200 "$TEMP/out")"
	elif grep -qi -e "signal" -e "Segmentation" -e "runtime error" -e Sanitizer "$TEMP/err"; then
		fail "$name" "$(tail -c 400 "$TEMP/err" | tr '\n' ' ')"
	else
		pass "$name"
	fi
}

# refused_everywhere NAME STATUS TEXT ARGUMENTS...: the same on 1, 2 and 3 ranks (sanitized: 1 and 3).
refused_everywhere() {
	local name=$1 ranks
	shift
	for ranks in $everywhere; do
		refused "$name" "$ranks" "$@"
	done
}

# A shape of 1.6 TB, which no machine holds.
huge_shape() {
	cat <<-END
		{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16384,
		"intermediate_size": 53248, "num_hidden_layers": 126, "num_attention_heads": 128,
		"num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
		"rms_norm_eps": 1e-5, "torch_dtype": "float32"}
	END
}
