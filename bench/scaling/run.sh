#!/usr/bin/env bash
#SBATCH --job-name=tprun-scaling
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --time=01:00:00
#SBATCH --output=scaling-%j.log
# Measures how inference scales: `tprun bench` over ranks x shapes x batch x context, into one CSV.
set -u
usage="bench/scaling/run.sh [options]            mpirun on this machine, srun inside a Slurm job
sbatch [--nodes N] bench/scaling/run.sh [options]        from the top folder

  --ranks 1,2,4      numbers of ranks             (1, 2, 4, ... to the GPUs or Slurm tasks there are)
  --shapes A,B       names in configs/ or config.json files (llama-2-7b,llama-3-8b; CPU: tiny-stories)
  --batch 1,8        sequences at a time          (1,8)
  --context 128,512  tokens before the timed ones (128,3500; CPU: 128,512)
  --steps N          timed tokens a sequence      (128)
  --tests T,U        tests of \`tprun bench\` in place of the three above
  --dtype D          f32, f16 or bf16             (bf16)
  --backend B        cpu or cuda                  (cuda where nvidia-smi lists a GPU)
  --repeat R         handed to \`tprun bench\`
  --per-node P       most ranks on a node         (Slurm's tasks a node; else all on this machine)
  --machine NAME     first column of the CSV      (the model of the GPU or the CPU)
  --csv FILE         appended to; what it has is not run again (scaling.csv)
  --out FOLDER       pictures and table           (the CSV's name without .csv)
  --dry-run          prints the commands and runs none

TPRUN names the program (build/tprun); MPIRUN and SRUN the launchers with their options (mpirun
--oversubscribe, on CPUs with the same number of cores for each rank; srun --mpi=pmix). Status 1: something could not be run; start again to retry."

say() { echo "scaling: $*" >&2; }
refuse() { say "$*"; exit 2; }

ranks='' shapes='' batch=1,8 context='' steps=128 tests='' dtype=bf16 backend='' repeat='' per_node=''
machine='' csv=scaling.csv out='' dry_run=''
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) echo "$usage"; exit 0 ;;
	--dry-run) dry_run=yes; shift ;;
	--ranks | --shapes | --batch | --context | --steps | --tests | --dtype | --backend | --repeat | \
	--per-node | --machine | --csv | --out)
		[ $# -gt 1 ] || refuse "$1 needs a value"
		name=${1#--}
		printf -v "${name//-/_}" %s "$2"
		shift 2 ;;
	*) refuse "no option $1; see --help" ;;
	esac
done
for list in "ranks=$ranks" "batch=$batch" "context=$context" "steps=$steps" "per-node=$per_node"; do
	[[ ${list#*=} =~ ^([1-9][0-9]{0,6}(,[1-9][0-9]{0,6})*)?$ ]] || refuse "--$list: whole numbers from 1"
done

# Slurm runs a copy of this file from elsewhere: there the folder of the sbatch call counts.
case $csv in /*) ;; *) csv=$PWD/$csv ;; esac
out=${out:-${csv%.csv}}
case $out in /*) ;; *) out=$PWD/$out ;; esac
here=$(dirname "${BASH_SOURCE[0]}")
[ -r "$here/model.awk" ] || here=${SLURM_SUBMIT_DIR:-.}/bench/scaling
cd "$here/../.." 2> /dev/null || refuse "start this from tprun's top folder"
[ -r bench/scaling/model.awk ] || refuse "start this from tprun's top folder"
tprun=${TPRUN:-build/tprun}
[ -x "$tprun" ] || refuse "$tprun is not there: run make, or name it in TPRUN"

# ---- what is to be run ------------------------------------------------------------------------
gpus=$(nvidia-smi -L 2>/dev/null | grep -c ^GPU)
# In salloc's shell on a login node only the job's variables tell of GPUs.
backend=${backend:-$([ "$gpus" -gt 0 ] || [ -n "${SLURM_GPUS_PER_NODE:-}${SLURM_JOB_GPUS:-}" ] && echo cuda || echo cpu)}
case $backend in
cuda) found=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1) ;;
cpu) found=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo 2>/dev/null | head -1) ;;
*) refuse "--backend $backend: cpu or cuda" ;;
esac
machine=${machine:-${found:-$(uname -m)}}
machine=${machine//[$',\t']/ }

# A job may hold fewer nodes than were asked for ("2(x3)" is Slurm's way of saying 2, 2, 2).
nodes_there=1
if [ -n "${SLURM_JOB_ID:-}" ]; then
	nodes_there=${SLURM_JOB_NUM_NODES:-1}
	tasks=${SLURM_NTASKS_PER_NODE:-${SLURM_TASKS_PER_NODE:-}}
	per_node=${per_node:-${tasks%%[!0-9]*}}
fi
if [ "$backend" = cuda ]; then
	most=$((nodes_there * ${per_node:-$gpus}))
	shapes=${shapes:-llama-2-7b,llama-3-8b} context=${context:-128,3500}
else
	most=$((nodes_there * ${per_node:-2}))
	shapes=${shapes:-tiny-stories} context=${context:-128,512}
fi
if [ -z "$ranks" ]; then
	for ((r = 1; r <= most; r *= 2)); do ranks+=${ranks:+,}$r; done
fi
if [ -z "$tests" ]; then
	for b in ${batch//,/ }; do
		for c in ${context//,/ }; do
			tests+=${tests:+,}tg$steps
			[ "$b" = 1 ] || tests+=x$b
			[ "$c" = 128 ] || tests+=@d$c
		done
	done
fi

# A CPU rank takes all cores that it gets: with the same number at every number of ranks, the speed
# of one rank times N means something. Slurm's --cpus-per-task does this by itself.
mpirun=${MPIRUN:-mpirun --oversubscribe}
if [ "$backend" = cpu ] && [ -z "${MPIRUN:-}$per_node" ]; then
	widest=$(tr , '\n' <<< "$ranks" | sort -n | tail -1)
	cores=$(lscpu -p=core,socket 2> /dev/null | grep -v '^#' | sort -u | wc -l)
	[ "$cores" -le "$(nproc)" ] || cores=$(nproc)
	[ "$cores" -lt "$widest" ] || mpirun="mpirun --bind-to core --map-by slot:PE=$((cores / widest))"
fi

# missing RANKS SHAPE: the tests of that combination that have no row in the CSV, one a line.
missing() {
	local known
	known=$([ -r "$csv" ] && awk -F, -v machine="$machine" -v shape="$2" -v dtype="$dtype" \
		-v backend="$backend" -v ranks="$1" '
		/(^|,)shape,dtype,/ { for (i = 1; i <= NF; i++) at[$i] = i; fields = NF; next }
		NF == fields && $at["machine"] == machine && $at["shape"] == shape && $at["dtype"] == dtype &&
			$at["backend"] == backend && $at["ranks"] == ranks { print $at["test"] }' "$csv")
	tr , '\n' <<< "$tests" | grep -vxF -e "${known:-none}"
}

# append FILE: the rows that `tprun bench --csv` wrote into FILE, with machine, nodes and the
# shape as it was asked for, to the CSV, in one write under a lock. Prints the tests that have a row.
append() {
	local rows new
	rows=$(awk -F, -v OFS=, -v machine="$machine" -v nodes="$nodes" -v name="$shape" '
		/^#/ { next }
		/^shape,dtype,/ { print "machine,nodes," $0; for (i = 1; i <= NF; i++) at[$i] = i; fields = NF; next }
		fields && NF == fields { $at["shape"] = name; print machine, nodes, $0 }' "$1")
	[ "$(wc -l <<< "$rows")" -gt 1 ] || return 0
	# shellcheck disable=SC2094 # what is appended comes after what is read
	(
		flock 9
		new=$rows
		# A line that an interruption tore ends here; readers pass over it.
		[ -z "$(tail -c 1 "$csv")" ] || echo >&9
		if [ "$(grep -E '(^|,)shape,dtype,' "$csv" | tail -1)" = "$(head -1 <<< "$rows")" ]; then
			new=$(tail -n +2 <<< "$rows")
		fi
		printf '%s\n' "$new" >&9
	) 9>> "$csv"
	awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next } { print $at["test"] }' <<< "$rows"
}

# launch RANKS TESTS: sets command. Ranks fill nodes evenly.
launch() {
	if [ -n "${SLURM_JOB_ID:-}" ]; then
		# shellcheck disable=SC2206 # options are words
		command=(${SRUN:-srun --mpi=pmix} --nodes="$nodes" --ntasks="$1" --ntasks-per-node=$(($1 / nodes))
			${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK})
	else
		# shellcheck disable=SC2206
		command=($mpirun -np "$1" ${per_node:+--map-by ppr:$(($1 / nodes)):node})
	fi
	command+=("$tprun" bench --shape "$file" --dtype "$dtype" --backend "$backend" --tests "$2" --csv
		${repeat:+--repeat "$repeat"})
}

# ---- the sweep --------------------------------------------------------------------------------
# As root, Open MPI wants to be told that this is meant.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
temp=$(mktemp -d) || exit 1
trap 'rm -rf "$temp"' EXIT
[ -n "$dry_run" ] || : >> "$csv" || exit 1
failed=0
for shape in ${shapes//,/ }; do
	for file in "configs/shapes/$shape.json" "configs/$shape/config.json" "$shape"; do
		[ -f "$file" ] && break
	done
	[ -f "$file" ] || refuse "--shapes $shape: neither in configs/ nor a file"
	for r in ${ranks//,/ }; do
		nodes=$(((r + ${per_node:-$r} - 1) / ${per_node:-$r}))
		if [ $((r % nodes)) != 0 ] || { [ -n "${SLURM_JOB_ID:-}" ] && [ "$nodes" -gt "$nodes_there" ]; }; then
			say "$r ranks, $per_node a node, don't fit evenly on the $nodes_there nodes of this job: left out"
			failed=1
			continue
		fi
		todo=$(missing "$r" "$shape")
		while [ -n "$todo" ]; do
			launch "$r" "$(paste -sd, <<< "$todo")"
			if [ -n "$dry_run" ]; then
				echo "${command[@]}"
				break
			fi
			say "${command[*]}"
			"${command[@]}" < /dev/null > "$temp/rows"
			status=$?
			got=$(append "$temp/rows")
			todo=$(grep -vxF -e "${got:-none}" <<< "$todo")
			if [ -n "$todo" ]; then
				# One test that can't be run must not keep the others from being run.
				say "status $status and no row for $(head -1 <<< "$todo") of $shape on $r ranks: left out"
				failed=1
				todo=$(tail -n +2 <<< "$todo")
			fi
		done
	done
done
[ -n "$dry_run" ] && exit $failed
grep -q . "$csv" || exit 1
bench/scaling/draw.sh "$csv" "$out" || failed=1
exit $failed
