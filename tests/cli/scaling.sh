#!/usr/bin/env bash
# bench/scaling: the sweep, its file, its resumption, Slurm, pictures, the model of the cost. Most of
# it with a program in tprun's place that makes up its speeds by a known formula.
. "$(dirname "$0")/common.bash"
if ldd "$TPRUN" | grep -q libasan; then
	skip scaling "scripts: tested with the ordinary build"
	finish
fi
unset SLURM_JOB_ID
real=$TPRUN
csv=$TEMP/sweep.csv

# The fake: rows for --tests, by FAKE_RANKS; a test at depth 999 fails without a row. tiny-stories
# reads 9,895,936 bytes of weights and 3,072 bytes of KV a token, all halved on 2 ranks; here at
# 10 GB/s, with sums of 5 us and a rest of $rest us a layer.
rest=$((5 + RANDOM % 50))
cat > "$TEMP/tprun" <<-FAKE
	#!/usr/bin/env bash
	echo "\$FAKE_RANKS \$*" >> "$TEMP/calls"
	while [ "\$1" != --tests ]; do shift; done
	echo "# a header"
	echo "shape,dtype,backend,ranks,test,batch,depth,tokens,tokens_per_s,deviation,ms_per_step,gb_per_s,ceiling_gb_per_s,share,reduce_us,reduces_per_step,reduce_share,hash"
	for test in \${2//,/ }; do
		case \$test in *@d999) echo "no room" >&2; exit 1 ;; esac
		awk -v test=\$test -v ranks=\$FAKE_RANKS 'BEGIN {
			batch = test ~ /x8/ ? 8 : 1
			depth = test ~ /@d512/ ? 512 : 128
			sums = ranks == 1 ? 0 : 13 * (5 + 1e6 * batch * 512 / 190e9)
			us = (9895936 + 3072 * batch * (depth + 64)) / ranks / 1e4 + sums + 6 * $rest
			printf "some/path,bf16,cpu,%d,%s,%d,%d,0,%.6f,0,%.6f,0,10,0,%s,13,0,0\n", ranks, test, batch, depth,
				1e6 * batch / us, us / 1000, ranks == 1 ? 0 : 5
		}'
	done
FAKE
cat > "$TEMP/mpirun" <<-'FAKE'
	#!/usr/bin/env bash
	[ "$1" = -np ] || exit 9
	FAKE_RANKS=$2 exec "${@:3}"
FAKE
cat > "$TEMP/srun" <<-FAKE
	#!/usr/bin/env bash
	echo "\$*" >> "$TEMP/srun-calls"
	while [ "\${1#--}" != "\$1" ]; do case \$1 in --ntasks=*) FAKE_RANKS=\${1#*=} ;; esac; shift; done
	FAKE_RANKS=\$FAKE_RANKS exec "\$@"
FAKE
chmod +x "$TEMP"/{tprun,mpirun,srun}

# sweep ARGUMENTS...: the script with the fake, its status in $status, calls counted in $calls.
sweep() {
	: > "$TEMP/calls"
	TPRUN=$TEMP/tprun MPIRUN=$TEMP/mpirun bench/scaling/run.sh --backend cpu --machine "a, b" \
		--csv "$csv" --out "$TEMP/pictures" "$@" > "$TEMP/out" 2> "$TEMP/err"
	status=$?
	calls=$(wc -l < "$TEMP/calls")
}
rows() { grep -c '^a  b,1,tiny-stories,bf16,cpu,' "$csv"; }
# combinations: how many different ones have a whole row.
combinations() { grep -E '^a  b,([^,]*,){18}[^,]*$' "$csv" | cut -d, -f1-7 | sort -u | wc -l; }

# ---- a sweep, and the same again --------------------------------------------------------------
sweep --ranks 1,2 --batch 1,8 --context 128,512
good scaling-sweep
check scaling-rows [ "$(rows) $(combinations) $calls" = "8 8 2" ]
check scaling-one-header [ "$(grep -c shape,dtype "$csv")" = 1 ]
check scaling-tests grep -qF -- "--tests tg128,tg128@d512,tg128x8,tg128x8@d512 --csv" "$TEMP/calls"
says scaling-finds-the-constant "rest $rest.00 us a layer, fitted to 4 points" out
says scaling-error-none "error on all 8 measured decode points: mean 0.0%, max 0.0%" out
cp "$csv" "$TEMP/before"
sweep --ranks 1,2 --batch 1,8 --context 128,512
check scaling-resumes [ "$status $calls" = "0 0" ]
check scaling-resumes-unchanged cmp -s "$csv" "$TEMP/before"

# ---- interrupted in the middle of a row -------------------------------------------------------
truncate -s -$((2 + RANDOM % 20)) "$csv"
torn=$(tail -1 "$csv")
sweep --ranks 1,2 --batch 1,8 --context 128,512
case $torn in
*,*,*,*,*,*,*,*,*,*,*,*,*,*,*,*,*,*,*,*) expected="0 0" ;; # only the hash, the last field, was cut
*) expected="0 1" ;;
esac
check scaling-torn [ "$status $calls $(combinations)" = "$expected 8" ]
says scaling-torn-model "error on all 8 measured decode points: mean 0.0%, max 0.0%" out

# ---- a combination that can't be run ----------------------------------------------------------
sweep --ranks 2 --tests tg128@d999,tg64,tg32@d999,tg16
check scaling-failing-status [ "$status" = 1 ]
says scaling-failing-named "no row for tg32@d999 of tiny-stories on 2 ranks" err
check scaling-failing-others [ "$(grep -cE ',(tg64|tg16),' "$csv")" = 2 ]

# ---- pictures ---------------------------------------------------------------------------------
if command -v gnuplot > /dev/null; then
	picture=$TEMP/pictures/tiny-stories-bf16-tg128
	check scaling-svg python3 -c 'import sys, xml.dom.minidom as m; m.parse(sys.argv[1])' "$picture.svg"
	check scaling-svg-size [ "$(stat -c %s "$picture.svg" || echo 99999)" -lt 60000 ]
	check scaling-svg-says grep -q "all-reduce" "$picture.svg"
	check scaling-png [ "$(head -c 4 "$picture.png" | tail -c 3)" = PNG ]
	check scaling-picture-quiet [ "$(grep -c warning "$TEMP/err")" = 0 ]
else
	skip scaling-pictures "gnuplot is not there"
fi

# ---- Slurm: a copy of the script in a spool folder, two nodes of four ---------------------------
cp bench/scaling/run.sh "$TEMP/slurm_script"
csv=$TEMP/slurm.csv
SLURM_JOB_ID=7 SLURM_JOB_NUM_NODES=2 SLURM_TASKS_PER_NODE="4(x2)" SLURM_SUBMIT_DIR=$PWD SRUN=$TEMP/srun \
	TPRUN=$TEMP/tprun bash "$TEMP/slurm_script" --backend cpu --machine m --batch 1 --context 128 \
	--csv "$csv" --out "$TEMP/pictures" > "$TEMP/out" 2> "$TEMP/err"
status=$?
good scaling-slurm
check scaling-slurm-ranks [ "$(cut -d' ' -f1-3 "$TEMP/srun-calls" | tr '\n' ';')" = \
	"--nodes=1 --ntasks=1 --ntasks-per-node=1;--nodes=1 --ntasks=2 --ntasks-per-node=2;--nodes=1 --ntasks=4 --ntasks-per-node=4;--nodes=2 --ntasks=8 --ntasks-per-node=4;" ]
check scaling-slurm-nodes grep -q '^m,2,tiny-stories,bf16,cpu,8,' "$csv"
check scaling-sbatch-header [ "$(sed -n 2p bench/scaling/run.sh)" = "#SBATCH --job-name=tprun-scaling" ]

# ---- other GPUs: the ceiling is the CSV's, the peak is not -------------------------------------
header="machine,nodes,shape,dtype,backend,ranks,test,batch,depth,tokens,tokens_per_s,deviation,ms_per_step,gb_per_s,ceiling_gb_per_s,share,reduce_us,reduces_per_step,reduce_share,hash"
for machine in "NVIDIA H100 80GB HBM3" "NVIDIA A100-SXM4-80GB"; do
	{
		echo "$header"
		echo "$machine,1,llama-2-7b,bf16,cuda,1,tg128,1,128,128,200,0,5,2600,3100,0.8,0,0,0,a"
		echo "$machine,1,llama-2-7b,bf16,cuda,4,tg128,1,128,128,500,0,2,2600,3100,0.8,5,65,0.1,b"
		echo "$machine,1,llama-2-7b,bf16,cuda,4,b8,8,128,2048,3000,0,2,2600,3100,0.8,6,65,0.1,c"
	} > "$TEMP/gpu.csv"
	bench/scaling/draw.sh "$TEMP/gpu.csv" "$TEMP/gpu" > "$TEMP/out" 2> "$TEMP/err"
	status=$?
	good "scaling-gpu $machine"
	says "scaling-gpu-title $machine" "$machine, cuda: llama-2-7b, bf16, tg128" out
	# 13.2 GB at 3.1 TB/s, 0.1 of keys and values.
	check "scaling-gpu-floor $machine" grep -qE '^ +1 +1 +200\.0 +200\.0 +232\.[0-9] ' "$TEMP/out"
done
says scaling-gpu-peak "NVIDIA A100-SXM4-80GB: peak, and the sums that the CSV lacks, are those of H100s" out
bench/scaling/draw.sh bench/scaling/results/h200.csv "$TEMP/gpu" > "$TEMP/out" 2> "$TEMP/err"
check scaling-gpu-peak-known [ "$(grep -c 'peak, and' "$TEMP/out")" = 0 ]

# ---- bad calls --------------------------------------------------------------------------------
for bad in "--ranks 0" "--ranks 1,,2" "--batch x" "--shapes none-such" "--backend tpu" "--csv" "--none"; do
	# shellcheck disable=SC2086 # options are words
	sweep $bad
	check "scaling-refuses $bad" [ "$status $calls" = "2 0" ]
done

# ---- the program itself, and the model --------------------------------------------------------
csv=$TEMP/real.csv
TPRUN=$real timeout 60 bench/scaling/run.sh --backend cpu --ranks 1,2 --batch 1 --context 128 --steps 16 \
	--csv "$csv" --out "$TEMP/real" > "$TEMP/out" 2> "$TEMP/err"
status=$?
good scaling-real
check scaling-real-rows [ "$(grep -c ',tiny-stories,bf16,cpu,[12],tg16,' "$csv")" = 2 ]
tests/cli/scaling_model.py || failures=$((failures + 1))
finish
