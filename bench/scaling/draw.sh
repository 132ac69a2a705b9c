#!/usr/bin/env bash
# Draws what run.sh measured.
#   bench/scaling/draw.sh RESULTS.csv FOLDER [NAME=VALUE]...
# Writes FOLDER/table.txt (and prints it) and, where gnuplot is, FOLDER/SHAPE-DTYPE-TEST.svg and .png
# for every decode test. NAME=VALUE sets a parameter of model.awk: per_node=4, to=32, hop_us=5,
# also=llama-2-70b:bf16:tg128, ...
set -u
[ $# -ge 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
csv=$(realpath "$1") && mkdir -p "$2" && out=$(realpath "$2") || exit 1
shift 2
cd "$(dirname "$0")/../.." || exit 1
temp=$(mktemp -d) || exit 1
trap 'rm -rf "$temp"' EXIT
parameters=()
for pair in "$@"; do
	[[ $pair =~ ^[a-z_]+=[A-Za-z0-9_.:@,/+-]+$ ]] || { echo "draw.sh: $pair is not NAME=VALUE" >&2; exit 2; }
	parameters+=(-v "$pair")
done
awk "${parameters[@]}" -f bench/scaling/model.awk "$csv" > "$temp/model" || exit 1

# ---- the table --------------------------------------------------------------------------------
awk -F '\t' '
$1 == "model" {
	if ($3 == "cuda" && $2 !~ /^NVIDIA H(100 80GB HBM3|200)$/)
		others = others $2 ": peak, and the sums that the CSV lacks, are those of H100s and H200s; peak=, node_us=, " \
			"node_bytes= give others.\n"
	if ($6 > 0)
		models = models sprintf("%s, %s: rest %s us a layer, %s; error on all %d measured decode points: mean %s%%, max %s%%", \
			$2, $3, $4, $5 ? "fitted to " $5 " points (batch 1 on 1 and 2 ranks)" : "assumed, nothing to fit it to", \
			$6, $7, $8) ($9 ? sprintf("; on the %d not fitted: %s%%, %s%%", $9, $10, $11) : "") ".\n"
	next
}
$2 " " $3 " " $4 " " $5 " " $6 != group {
	group = $2 " " $3 " " $4 " " $5 " " $6
	printf "\n%s, %s: %s, %s, %s\n", $2, $3, $4, $5, $6
	printf "%6s%6s%12s%12s%12s%8s%8s%9s%10s%8s%12s%8s\n", "ranks", "nodes", "tokens/s", "model", "floor", \
		"error", "ideal", "floor", "weights", "KV", "all-reduce", "rest"
	printf "%6s%6s%12s%12s%12s%8s%8s%9s%10s%8s%12s%8s\n", "", "", "measured", "", "", \
		"", "share", "share", "ms", "ms", "ms", "ms"
}
function of(part, whole) { return part == "-" || whole == "-" ? "-" : sprintf("%.0f%%", 100 * part / whole) }
{
	speed = $9 == "-" ? $10 : $9
	error = $9 == "-" || $10 == "-" ? "-" : sprintf("%+.1f%%", 100 * ($10 / $9 - 1))
	printf "%6d%6d%12s%12s%12s%8s%8s%9s", $8, $7, $9, $10, $12, error, of(speed, $11), of(speed, $12)
	if ($13 == "-")
		print ""
	else
		printf "%10.3f%8.3f%12.3f%8.3f\n", $13, $14, $15, $16
}
END { printf "\n%s%s", models, others
	print "Efficiency is the share of the ideal, the fewest measured ranks times N. Where nothing was measured,"
	print "shares and parts are those of the model; elsewhere rest is what a step takes beyond its bytes at the"
	print "measured ceiling and its sums." }
' "$temp/model" > "$out/table.txt" || exit 1
cat "$out/table.txt"

# ---- the pictures -----------------------------------------------------------------------------
command -v gnuplot > /dev/null || { echo "draw.sh: no gnuplot here, so no pictures (apt-get install gnuplot-nox)" >&2; exit 0; }
# For each decode group NAME: NAME.points, NAME.bars and NAME.words, as picture.gp wants them.
awk -F '\t' -v temp="$temp" '
function quoted(text) { gsub(/["\\`]/, " ", text); return "\"" text "\"" }
function box(height, colour) {
	printf "%d %.5f %.5f %d\n", place, bottom, bottom + height, colour > (file ".bars")
	bottom += height
}
function finish() {
	if (name != "")
		printf "known = %d\nlast = %d\nbars_last = %d\ntop = %.5f\ntics = %s\n", measured, last, place, \
			highest, quoted("set xtics (" tics ")") > (file ".words")
}
$1 == "model" { note[$2 "\t" $3] = sprintf("ranks (*: by the model; its error on all measured points: mean %s%%, max %s%%)", $7, $8); next }
$10 == "-" { next }
{
	id = $2 "\t" $3 "\t" $4 "\t" $5 "\t" $6
	if (id != group) {
		finish()
		group = id
		name = $4
		sub(/.*\//, "", name)
		sub(/\.json$/, "", name)
		name = name "-" $5 "-" $6
		gsub(/[^A-Za-z0-9.@_-]/, "_", name)
		if (taken[name]++)
			name = name "-" taken[name]
		file = temp "/" name
		place = -1
		highest = measured = 0
		tics = ""
		printf "title = %s\nnote = %s\n", quoted($4 ", " $5 ", " $6 " on " $2 " (" $3 ")"), \
			quoted(note[$2 "\t" $3]) > (file ".words")
		print name
	}
	print $8, $9, $10, $11, $12 > (file ".points")
	last = $8
	place++
	bottom = 0
	known = $9 != "-"
	measured += known
	box($13, known ? 5011624 : 12043235)	# 4c78a8, b7c3e3
	box($14, known ? 16090392 : 16636332)	# f58518, fdd9ac
	box($15, known ? 14964566 : 16303034)	# e45756, f8c3ba
	box($16, known ? 9211020 : 14277081)	# 8c8c8c, d9d9d9
	if (bottom > highest)
		highest = bottom
	tics = tics (place ? ", " : "") "\047" $8 (known ? "" : "*") "\047 " place
}
END { finish() }' "$temp/model" > "$temp/names" || exit 1
while read -r name; do
	for kind in svg png; do
		gnuplot -e "points='$temp/$name.points'; bars='$temp/$name.bars'; words='$temp/$name.words'; \
			kind='$kind'; picture='$out/$name.$kind'" bench/scaling/picture.gp || exit 1
	done
done < "$temp/names"
