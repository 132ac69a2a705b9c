# picture.gp - one combination's two panels; draw.sh calls it.
#   points: ranks, measured, model, ideal, floor (tokens/s; "-" where there is none)
#   bars:   place, bottom, top (ms), colour: one box a part of a step
#   words:  title, note, known (is anything measured?), last (the most ranks), bars_last, top (ms),
#           tics (of the bars, as a command)
#   picture, kind (svg or png)
load words
set encoding utf8
if (kind eq "svg") set terminal svg size 960,400 font "sans-serif,13" background "white" noenhanced
if (kind eq "png") set terminal pngcairo size 1440,600 font "sans,13" background "white" noenhanced
set output picture
set datafile missing "-"
set multiplot layout 1,2 title title
set border 3
set tics nomirror out
set grid ytics lc rgb "#e4e4e4" lt 1
set key left top reverse Left samplen 2 spacing 1.1

set xlabel "ranks"
set ylabel "tokens/s"
set logscale xy 2
set xtics (1, 2, 4, 8, 16, 32, 64, 128)
set xrange [0.8:last * 1.25]
# Room for the key above the best speed; the ideal may leave by the top.
stats points using (column(3)) name "model" nooutput
stats points using (column(5)) name "floor" nooutput
set yrange [model_min * 0.7:2.4 * (model_max > floor_max ? model_max : floor_max)]
set logscale y 10
set ytics format "%.0f" (20,50,100,200,500,1e3,2e3,5e3,1e4,2e4,5e4,1e5,2e5,5e5,1e6,2e6,5e6)
measured = !known ? "" : ', "" using 1:2 with linespoints lw 2 pt 7 ps 0.9 lc rgb "#d62728" title "measured"' . \
	', "" using 1:2:(sprintf("%.4g", column(2))) with labels offset 0,-1.1 font ",11" notitle'
plot points using 1:4 with lines lw 1.5 dt 3 lc rgb "#888888" title "ideal: linear", \
	"" using 1:5 with lines lw 1.5 lc rgb "#54a24b" title "floor: bytes and sums alone", \
	"" using 1:3 with linespoints lw 2 dt 2 pt 6 ps 0.6 lc rgb "#4c78a8" title "model" @measured

unset logscale
set ytics auto format "%g"
set xlabel note font ",11"
set ylabel "ms a step"
set xrange [-0.6:bars_last + 0.6]
set yrange [0:top * 1.3]
set xtics auto
eval tics
set key right top vertical reverse Left maxrows 2 samplen 1 width 1
set style fill solid noborder
plot bars using 1:2:($1 - 0.36):($1 + 0.36):2:3:4 with boxxyerror lc rgb variable notitle, \
	NaN with boxes lc rgb 0x4c78a8 title "weights", \
	NaN with boxes lc rgb 0xf58518 title "attention (KV)", \
	NaN with boxes lc rgb 0xe45756 title "all-reduce", \
	NaN with boxes lc rgb 0x8c8c8c title "rest"
unset multiplot
