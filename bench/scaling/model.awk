# model.awk - what a decode step costs on any number of ranks, beside what was measured.
#
#   awk -f model.awk [-v per_node=8] [-v to=64] [-v also=SHAPE:DTYPE:TEST,...] [-v NAME=VALUE]... \
#       results.csv                                                          (from the top folder)
#
# Reads rows of `tprun bench --csv`; the columns machine and nodes may stand in front. Of tests
# tg<N>[x<batch>][@d<depth>] it models the step; pp and b tests are passed on as measured. What
# `also` names is predicted, for the first machine of the file, though no rank count was run.
#
#   step   = weights + attention + sums + rest                        (the slowest rank's, seconds)
#   weights   = max(weight_share x weight bytes / ceiling, 2 x weights x batch / peak)
#   attention = batch x context x layers x 2 x KV heads x head size x bytes / ceiling
#   sums      = (2 x layers + 1) x sum(batch x hidden x bytes)        (the one is the embedding)
#   sum(n)    = inside + between, hierarchical: reduce-scatter in each node, all-reduce of each
#               GPU's share of n between the nodes, all-gather in each node
#     inside  = node_us + node_us_more x (G - ranks measured) + 2 (G - 1) / G x n / node_bytes   (G ranks a node)
#     between = the faster of recursive doubling, log2 M x (hop_us + share / net_bytes), and of
#               halving and doubling, 2 log2 M x hop_us + 2 (M - 1) / M x share / net_bytes (M nodes)
#   rest      = layers x rest_us: kernel slots, tails, sampling, the host
#
# Weights and KV heads of a rank follow runtime/model/shard.h: whole heads, blocks of 32 columns, a
# KV head on every rank that reads it. Embedding rows, norms and biases are too small to count.
# The context is that of the middle step: depth (128 where the test names none) + N / 2.
#
# Constants: where each comes from.
#   ceiling       the CSV: bytes a second that a rank reads, measured in the same run
#   weight_share  the CSV: below 1 where weights are read packed; where it has no such row, the least of the test's
#   peak          770 to 800 TFLOP/s, a bf16 product of 8192^3 on an H200, 778 to 798 on an H100 (SXM);
#                 for other GPUs give it. cpu_peak for a CPU rank: no bound where it isn't given (an
#                 AVX-512 core does about 100 GFLOP/s)
#   node_us       the CSV: the least reduce_us at batch 1 in one node, of G ranks or the next fewer
#                 that were measured; else 4.14, 8 KB over 2 H200s on symmetric windows
#   node_us_more  for each rank more: (4.38 - 4.14) / 2, the same over 4
#   node_bytes    190 GB/s: 4 MB in 27.8 us over 2 and 35.9 over 4 give 177 and 200
#   hop_us, net_bytes   assumed, not measured: 10 us a hop, 400 Gb/s for each GPU
#   rest_us       the one free constant, fitted for each machine and backend to the decode points
#                 at batch 1 on 1 and 2 ranks (least squares of the relative errors). Without such
#                 points it is 8 kernels a layer at 1 us, an empty kernel's slot in a CUDA graph.
#
# Output, tab-separated:
#   model  machine backend rest_us points_fitted points mean_% max_% others others_mean_% others_max_%
#   point  machine backend shape dtype test nodes ranks measured model ideal floor weights attention
#          sums rest
# measured, model, ideal and floor are tokens/s ("-" where there is none). The parts are
# milliseconds of a step: of a measured one, with what it takes beyond the model's bytes and its
# own measured sums as rest (where that would be negative, as in a CPU's cache, the others are
# scaled to the whole); of the model's where nothing was measured.

function fail(text) { print "model.awk: " text > "/dev/stderr"; failed = 1; exit 1 }
function least(a, b) { return a < b ? a : b }
function most(a, b) { return a > b ? a : b }
function up(a, b) { return int((a + b - 1) / b) }
function column(name, otherwise) {
	return (name in at) && $at[name] != "" ? $at[name] : otherwise
}

# The number after a pattern: after(tg128x8@d512, "x", 1) is 8.
function after(text, pattern, otherwise) {
	if (!match(text, pattern "[0-9]+"))
		return otherwise
	text = substr(text, RSTART, RLENGTH)
	sub("^" pattern, "", text)
	return text + 0
}

# ---- shapes and shards ------------------------------------------------------------------------
function read_shape(shape,    file, try, line, text, count, i) {
	if (shape in layers)
		return
	count = split(shape " configs/shapes/" shape ".json configs/" shape "/config.json", try, " ")
	for (i = 1; i <= count && text == ""; i++)
		while ((getline line < try[i]) > 0)
			text = text line
	gsub(/[ \t\r]/, "", text)
	hidden[shape] = after(text, "\"hidden_size\":", 0)
	layers[shape] = after(text, "\"num_hidden_layers\":", 0)
	heads[shape] = after(text, "\"num_attention_heads\":", 0)
	intermediate[shape] = after(text, "\"intermediate_size\":", 0)
	vocab[shape] = after(text, "\"vocab_size\":", 0)
	if (!hidden[shape] || !layers[shape] || !heads[shape])
		fail("no configuration found for shape " shape)
	kv_heads[shape] = after(text, "\"num_key_value_heads\":", heads[shape])
	head_dim[shape] = after(text, "\"head_dim\":", hidden[shape] / heads[shape])
	window[shape] = after(text, "\"sliding_window\":", 0)
}

# Rank `rank`'s share of `total` columns: whole blocks of 32, larger parts first, the last block short.
function columns(total, ranks, rank,    blocks, first, count) {
	blocks = up(total, 32)
	first = int(blocks / ranks) * rank + least(rank, blocks % ranks)
	count = int(blocks / ranks) + (rank < blocks % ranks)
	return least(32 * (first + count), total) - least(32 * first, total)
}

# Sets shard_weights, the most weights that a rank of `ranks` reads in a step, and shard_kv, the
# most KV heads.
function shard(shape, ranks,    rank, first, count, kv, attending, total) {
	shard_weights = shard_kv = first = 0
	for (rank = 0; rank < ranks; rank++) {
		count = int(heads[shape] / ranks) + (rank < heads[shape] % ranks)
		kv = int((first + count - 1) * kv_heads[shape] / heads[shape]) - \
			int(first * kv_heads[shape] / heads[shape]) + 1
		first += count
		attending = 2 * head_dim[shape] * (count + kv)
		total = hidden[shape] * (layers[shape] * (attending + \
			3 * columns(intermediate[shape], ranks, rank)) + columns(vocab[shape], ranks, rank))
		shard_weights = most(shard_weights, total)
		shard_kv = most(shard_kv, kv)
	}
}

# ---- the cost, in seconds ---------------------------------------------------------------------
function sum_seconds(where, ranks, nodes, bytes,    local, from, latency, hops, share, inside, between) {
	local = up(ranks, nodes)
	inside = between = 0
	if (local > 1) {
		for (from = local; from > 2 && !((where, from) in measured_us); from--)
			;
		latency = (where, from) in measured_us ? measured_us[where, from] : node_us
		inside = 1e-6 * (latency + node_us_more * (local - from)) + \
			2 * (local - 1) / local * bytes / node_bytes
	}
	if (nodes > 1) {
		for (hops = 0; 2 ^ hops < nodes; hops++)
			;
		share = bytes / local
		between = least(hops * (1e-6 * hop_us + share / net_bytes),
			2 * hops * 1e-6 * hop_us + 2 * (nodes - 1) / nodes * share / net_bytes)
	}
	return inside + between
}

# Sets weights, attention and sums of a step, in seconds.
function cost(g, ranks, nodes,    shape, bytes, context, limit) {
	shape = group_shape[g]
	bytes = group_dtype[g] == "f32" ? 4 : 2
	context = group_depth[g] + group_steps[g] / 2
	if (window[shape])
		context = least(context, window[shape])
	shard(shape, ranks)
	weights = bytes * ((g, ranks) in row_share ? row_share[g, ranks] : group_share[g]) * shard_weights / ceiling[group_where[g]]
	limit = group_where[g] ~ /\tcuda$/ ? peak : cpu_peak
	if (limit)
		weights = most(weights, 2 * shard_weights * group_batch[g] / limit)
	attention = group_batch[g] * context * layers[shape] * 2 * shard_kv * head_dim[shape] * bytes / \
		ceiling[group_where[g]]
	sums = (2 * layers[shape] + 1) * sum_seconds(group_where[g], ranks, nodes, \
		group_batch[g] * hidden[shape] * bytes)
	return weights + attention + sums
}

# ---- reading ----------------------------------------------------------------------------------
function add_group(where, shape, dtype, test,    g) {
	g = where "\t" shape "\t" dtype "\t" test
	if (g in group_shape)
		return g
	groups[++group_count] = g
	group_where[g] = where
	group_shape[g] = shape
	group_dtype[g] = dtype
	group_decode[g] = test ~ /^tg[0-9]+(x[0-9]+)?(@d[0-9]+)?$/
	group_steps[g] = after(test, "tg", 0)
	group_batch[g] = after(test, "x", 1)
	group_depth[g] = after(test, "@d", 128)
	group_share[g] = 1
	read_shape(shape)
	return g
}

BEGIN {
	FS = ","
	if (!per_node) per_node = 8
	if (!peak) peak = 790e12
	if (!node_us) node_us = 4.14
	if (node_us_more == "") node_us_more = 0.12
	if (!node_bytes) node_bytes = 190e9
	if (hop_us == "") hop_us = 10
	if (!net_bytes) net_bytes = 50e9
}

/^#/ || /^[ \t\r]*$/ { next }
/(^|,)shape,dtype,/ {
	sub(/\r$/, "")
	for (name in at)
		delete at[name]
	for (i = 1; i <= NF; i++)
		at[$i] = i
	fields = NF
	next
}
NF != fields { next } # torn by an interruption

{
	where = column("machine", "-") "\t" column("backend", "-")
	g = add_group(where, column("shape", ""), column("dtype", ""), column("test", ""))
	ranks = column("ranks", 0) + 0
	nodes = column("nodes", 1) + 0
	tokens_per_s = column("tokens_per_s", "")
	if (ranks < 1 || ranks > heads[group_shape[g]] || nodes < 1 || nodes > ranks ||
	    tokens_per_s !~ /^[0-9.]+(e[-+]?[0-9]+)?$/ || tokens_per_s + 0 <= 0)
		next
	row_share[g, ranks] = column("weight_share", 1) + 0
	group_share[g] = least(group_share[g], row_share[g, ranks])
	if (column("ceiling_gb_per_s", 0) + 0 > 0) {
		ceiling_sum[where] += column("ceiling_gb_per_s", 0)
		ceiling_rows[where]++
		ceiling[where] = 1e9 * ceiling_sum[where] / ceiling_rows[where]
	}
	us = column("reduce_us", 0) + 0
	if (group_decode[g] && group_batch[g] == 1 && us > 0 && nodes == 1 && ranks > 1)
		if (!((where, ranks) in measured_us) || us < measured_us[where, ranks])
			measured_us[where, ranks] = us
	# The last row of a combination counts.
	if (!(g in fewest) || ranks < fewest[g])
		fewest[g] = ranks
	most_ranks[where] = most(most_ranks[where], ranks)
	speed[g, ranks] = tokens_per_s
	row_nodes[g, ranks] = nodes
	row_sums[g, ranks] = 1e-6 * us * column("reduces_per_step", 0)
}

# ---- the fit, the errors, the points ----------------------------------------------------------
function fit(where,    i, g, ranks, t, l, above, below) {
	fitted[where] = above = below = 0
	for (i = 1; i <= group_count; i++) {
		g = groups[i]
		if (group_where[g] != where || !group_decode[g] || group_batch[g] != 1)
			continue
		for (ranks = 1; ranks <= 2; ranks++)
			if ((g, ranks) in speed) {
				t = 1 / speed[g, ranks]
				l = layers[group_shape[g]]
				above += l / t * (t - cost(g, ranks, row_nodes[g, ranks])) / t
				below += l / t * l / t
				fitted[where]++
			}
	}
	rest[where] = below ? most(0, above / below) : where ~ /\tcuda$/ ? 8e-6 : 0
}

function errors(where,    i, g, ranks, t, e, n, total, worst, others, others_total, others_worst) {
	n = total = worst = others = others_total = others_worst = 0
	for (i = 1; i <= group_count; i++) {
		g = groups[i]
		for (ranks = 1; ranks <= heads[group_shape[g]]; ranks++) {
			if (group_where[g] != where || !group_decode[g] || !((g, ranks) in speed))
				continue
			t = group_batch[g] / speed[g, ranks]
			e = t / (cost(g, ranks, row_nodes[g, ranks]) + layers[group_shape[g]] * rest[where]) - 1
			e = 100 * (e < 0 ? -e : e)
			n++
			total += e
			worst = most(worst, e)
			if (group_batch[g] != 1 || ranks > 2) {
				others++
				others_total += e
				others_worst = most(others_worst, e)
			}
		}
	}
	printf "model\t%s\t%.2f\t%d\t%d\t%.1f\t%.1f\t%d\t%.1f\t%.1f\n", where, 1e6 * rest[where], \
		fitted[where], n, n ? total / n : 0, worst, others, others ? others_total / others : 0, others_worst
}

# The speed at one rank that the ideal multiplies: of the fewest ranks measured, else the model's.
function one_rank(g) {
	if (g in fewest)
		return speed[g, fewest[g]] / fewest[g]
	return group_batch[g] / (cost(g, 1, 1) + layers[group_shape[g]] * rest[group_where[g]])
}

function point(g, ranks,    known, ideal, nodes, own, left, scale, t) {
	known = (g, ranks) in speed
	nodes = known ? row_nodes[g, ranks] : up(ranks, per_node)
	ideal = ranks * one_rank(g)
	printf "point\t%s\t%d\t%d\t%s", g, nodes, ranks, known ? sprintf("%.1f", speed[g, ranks]) : "-"
	if (!group_decode[g]) {
		printf "\t-\t%.1f\t-\t-\t-\t-\t-\n", ideal
		return
	}
	t = cost(g, ranks, nodes)
	left = layers[group_shape[g]] * rest[group_where[g]]
	printf "\t%.1f\t%.1f\t%.1f", group_batch[g] / (t + left), ideal, group_batch[g] / t
	scale = 1
	if (known) {
		if (ranks > 1 && row_sums[g, ranks] > 0)
			sums = row_sums[g, ranks]
		own = weights + attention + sums
		t = group_batch[g] / speed[g, ranks]
		left = most(0, t - own)
		scale = (t - left) / own
	}
	printf "\t%.4f\t%.4f\t%.4f\t%.4f\n", 1e3 * scale * weights, 1e3 * scale * attention, \
		1e3 * scale * sums, 1e3 * left
}

END {
	if (failed)
		exit 1
	if (!group_count)
		fail("no rows")
	where = group_where[groups[1]]
	for (i = split(also, asked, ","); i > 0; i--) {
		if (split(asked[i], part, ":") != 3 || part[3] !~ /^tg/)
			fail("also=" asked[i] " is not SHAPE:DTYPE:TEST with a decode test")
		wanted[add_group(where, part[1], part[2], part[3])] = 1
	}
	for (i = 1; i <= group_count; i++) {
		where = group_where[groups[i]]
		if (group_decode[groups[i]] && !(where in ceiling))
			fail("no row of " where " tells ceiling_gb_per_s")
		if (!(where in rest)) {
			fit(where)
			errors(where)
		}
	}
	for (i = 1; i <= group_count; i++) {
		g = groups[i]
		if (!(g in fewest) && !(g in wanted))
			continue
		last = to ? to : group_where[g] ~ /\tcuda$/ ? 64 : most_ranks[group_where[g]]
		power = 1
		for (ranks = 1; ranks <= heads[group_shape[g]]; ranks++) {
			if (((g, ranks) in speed) || (ranks == power && ranks <= last && group_decode[g]))
				point(g, ranks)
			if (ranks == power)
				power *= 2
		}
	}
}
