#!/usr/bin/env bash
# What cluster.sh runs: launchers, refusals, and every file of launcher/slurm as a job. The files run as
# they are, with their nodes and (make-believe) GPUs, but with two tasks a node: two cores may be all
# that there is. TPRUN names the binary, by a path from the working folder.
set -u
export TPRUN=$PWD/${TPRUN:-build/tprun}
MODEL=$PWD/configs/tiny-stories
# Both nodes share the machine's cores, which neither MPI nor tprun can know.
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_rmaps_base_oversubscribe=1
files=launcher/slurm
out=/run/shared
limit=30 # seconds, for a command or a job
failures=0

pass() { echo "PASS slurm/$1"; }
fail() { echo "FAIL slurm/$1: $2"; failures=$((failures + 1)); }

# check NAME CONDITION...: passes where the command succeeds, else shows what was said last.
check() {
	local name=$1
	shift
	if "$@"; then pass "$name"; else fail "$name" "not so: $*: $(tail -c 600 "$out/said" | tr '\n' ' ')"; fi
}

# run COMMAND...: standard output in out, standard error in said, the status in $status.
run() {
	timeout -k 1 $limit "$@" > $out/out 2> $out/said < /dev/null
	status=$?
}

# The map of the last run without what differs from run to run (the pid) and, with a name given, with
# that name for the host's.
map() {
	awk -v host="${1-}" '$1 == "rank" {shown = 1; for (i = 1; i <= NF; i++) if ($i == "pid") pid = i; next}
		shown && $1 !~ /^[0-9]+$/ {exit}
		shown {if (pid) $pid = ""; if (host) $2 = host; print}' $out/said
}

# ---- launchers: the same text and the same places for the same resources --------------------------
story=(generate --model "$MODEL" --backend cpu --prompt "Once upon a time" --max-new-tokens 12 --print-placement)
run "$TPRUN" "${story[@]}"
check one-rank [ $status = 0 ]
expected=$(cat $out/out)

# launched NAME COMMAND...: the story is told, by the ranks and on the places of $places where that is set.
launched() {
	local name=$1
	shift
	run "$@" "$TPRUN" "${story[@]}"
	check "$name" [ "$status $(cat $out/out)" = "0 $expected" ]
	check "$name-map" [ -n "$(map)" ]
	[ -z "$places" ] || check "$name-as-srun" [ "$(map $host)" = "$places" ]
}

host='' places=''
launched srun-two-nodes srun --mpi=pmix -N2 -n3
check srun-uneven [ "$(map | awk '{print $1 $2}' | xargs)" = "0node1 1node1 2node2" ]
places=$(map)
launched salloc-mpirun-two-nodes salloc -Q -N2 -n3 mpirun
launched salloc-srun-two-nodes salloc -Q -N2 -n3 srun --mpi=pmix
host=node1 places=''
launched srun-one-node srun --mpi=pmix -N1 -n2
places=$(map $host)
launched salloc-mpirun-one-node salloc -Q -N1 -n2 mpirun
launched mpirun-alone mpirun -np 2
cat > $out/mpirun.sbatch <<-'END'
	#!/bin/bash
	mpirun "$@"
END
launched sbatch-mpirun sbatch -Q --wait -N1 -n2 --output=$out/out --error=$out/said $out/mpirun.sbatch

# ---- tasks that MPI knows nothing of ---------------------------------------------------------------
run srun --mpi=none -N2 -n4 "$TPRUN" "${story[@]}"
check wrong-mpi-refused [ "$status $(wc -c < $out/out)" = "2 0" ]
check wrong-mpi-says-once [ "$(grep -c "4 tasks were started together.*--mpi=pmix" $out/said)" = 1 ]
run srun --mpi=none --kill-on-bad-exit=1 -N2 -n4 "$TPRUN" "${story[@]}"
check wrong-mpi-says-when-killed grep -q -e "--mpi=pmix" $out/said
run srun --mpi=pmi2 -N1 -n2 "$TPRUN" "${story[@]}"
check wrong-pmi [ $status != 0 ]
check wrong-pmi-says grep -q -e "--mpi=pmix" $out/said
run srun --mpi=none -n2 "$TPRUN" plan --model "$MODEL"
check plan-in-a-step [ "$status $(grep -c "2 ranks" $out/out)" = "0 1" ]
cat > $out/alone.sbatch <<-'END'
	#!/bin/bash
	$TPRUN plan --model $1 && $TPRUN generate --model $1 --backend cpu --prompt "Once upon a time" --max-new-tokens 12
END
run sbatch -Q --wait -N1 -n4 --output=$out/job $out/alone.sbatch "$MODEL"
cat $out/job >> $out/said
check alone-in-a-job [ $status = 0 ]
check alone-in-a-job-tells grep -qF "$expected" $out/job

# ---- the files of launcher/slurm -------------------------------------------------------------------
# job NAME FILE ARGUMENTS...: a file to its end, its output in $out/NAME and in said.
job() {
	local name=$1 file=$2
	shift 2
	run sbatch -Q --wait --ntasks-per-node=2 --output="$out/$name" $files/"$file" "$@"
	cat "$out/$name" >> $out/said
	check "$name" [ $status = 0 ]
}

# prompts FILE COUNT TOKENS: lines with ids from 0 on.
prompts() {
	local i
	for ((i = 0; i < $2; i++)); do
		echo "{\"id\": $i, \"prompt\": \"One day, a fox named number $i\", \"max_new_tokens\": $3}"
	done > "$1"
}

# complete FILE COUNT: each id once, with a text, and nothing else.
complete() {
	python3 - "$@" <<-'END'
		import json, sys
		lines = [json.loads(line) for line in open(sys.argv[1])]
		sys.exit(not (sorted(l["id"] for l in lines) == list(range(int(sys.argv[2])))
		              and all(l["text"] and "error" not in l for l in lines)))
	END
}

cpu=(--model "$MODEL" --backend cpu)
job one-node one-node.sbatch "${story[@]}"
check one-node-text grep -qF "$expected" $out/one-node
job tensor-parallel tensor-parallel.sbatch "${story[@]}"
check tensor-parallel-text grep -qF "$expected" $out/tensor-parallel
check tensor-parallel-nodes [ "$(map | awk '{print $2}' | xargs)" = "node1 node1 node2 node2" ]
prompts $out/replicas.jsonl 40 16
job replicas replicas.sbatch "${cpu[@]}" --input $out/replicas.jsonl --output $out/replicas.out
check replicas-complete complete $out/replicas.out 40

mkdir $out/in
for name in a b c; do prompts $out/in/$name.jsonl 10 8; done
export TPRUN_OPTIONS="${cpu[*]}"
run sbatch -Q --wait --array=0-2 --output="$out/array-%a" $files/array.sbatch $out/array $out/in/*.jsonl
cat $out/array-* >> $out/said
check array [ $status = 0 ]
for name in a b c; do check array-$name complete $out/array/$name.jsonl 10; done
run sbatch -Q --wait --array=3 --output=$out/array-none $files/array.sbatch $out/array $out/in/*.jsonl
check array-too-long [ "$status $(grep -c "no file for number 3: there are 3" $out/array-none)" = "2 1" ]

# ---- the job that is queued again ------------------------------------------------------------------
# until_so CONDITION...: waits for it; fails after $limit seconds.
until_so() {
	local end=$((SECONDS + limit))
	until "$@"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}
in_job() { scontrol show job "$id" | grep -q "$1"; }
has_lines() { [ -e "$1" ] && [ "$(wc -l < "$1")" -ge "$2" ]; }

# As Slurm does with --signal=B:USR1@60, but not up to a minute early.
prompts $out/requeue.jsonl 200 40
id=$(sbatch --parsable --ntasks-per-node=2 --output=$out/requeue $files/requeue.sbatch "${cpu[@]}" \
	--input $out/requeue.jsonl --output $out/requeue.out)
until_so has_lines $out/requeue.out 5
scancel --batch --signal=USR1 "$id"
until_so in_job "Restarts=1"
had=$(wc -l < $out/requeue.out)
check requeue-queued in_job "JobState=\(PENDING\|RUNNING\|COMPLETING\|REQUEUED\)"
sleep 5 # until the first run's credential is void; Slurm itself looks again within a minute
scontrol update jobid="$id" starttime=now
until_so in_job "JobState=\(COMPLETED\|FAILED\|CANCELLED\|TIMEOUT\)"
{ scontrol show job "$id"; cat $out/requeue; } > $out/said
check requeue-completed in_job "JobState=COMPLETED"
check requeue-once [ "$(grep -c "^run .* queued again$" $out/requeue)" = 1 ]
check requeue-stopped-early [ "$had" -ge 5 -a "$had" -lt 200 ]
check requeue-resumed grep -q "$had lines are done already" $out/requeue
check requeue-complete complete $out/requeue.out 200

# ---- the end ---------------------------------------------------------------------------------------
check nothing-left [ -z "$(squeue --noheader)" ]
check nodes-well [ "$(sinfo --noheader --states=idle --format=%D)" = 2 ]
exit $((failures > 0))
