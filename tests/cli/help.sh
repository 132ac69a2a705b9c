#!/usr/bin/env bash
# Help, version, and the commands that never start MPI.
. "$(dirname "$0")/common.bash"

run 1 --help
good help
says help-names-commands "tokenize" out
says help-names-status "3 stopped" out
check help-quiet [ ! -s "$TEMP/err" ]
run 1 --version
says version "tprun " out
for command in generate batch score tokenize plan bench; do
	run 1 $command --help
	good "help-$command"
	says "help-$command-options" "--model DIR" out
done
run 2 --help
check help-once-under-mpirun [ "$(grep -c 'tprun COMMAND --help' "$TEMP/out")" = 1 ]

# The fastest of five, because the machine may be busy.
best=1000000
for _ in 1 2 3 4 5; do
	start=$(date +%s%N)
	"$TPRUN" --help > /dev/null
	taken=$((($(date +%s%N) - start) / 1000))
	[ $taken -lt $best ] && best=$taken
done
case $(ldd "$TPRUN") in
*libasan*) skip help-time "sanitized builds are slower" ;;
*) check "help-time" [ $best -lt 20000 ] ;;
esac

# An MPI that can't start: what works anyway doesn't start it.
needs_stories help-without-mpi
export OMPI_MCA_pml=none-such
run 1 generate --model "$STORIES" --prompt a
check broken-mpi-is-broken [ "$status" != 0 ]
run 1 generate --help
good help-without-mpi
run 1 tokenize --model "$STORIES" --text "Once upon a time"
check tokenize-without-mpi [ "$(cat "$TEMP/out")" = 1,403,407,261,378 ]
run 1 plan --model "$STORIES"
good plan-without-mpi
finish
