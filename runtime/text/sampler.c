#include "runtime/text/sampler.h"

#include <math.h>

int sampling_check(const struct sampling *s, struct error *err)
{
	/* Written so that NaN fails too. */
	if (!(s->temperature >= 0 && isfinite(s->temperature)))
		return error_usage(err, "--temperature is %g: give 0 (greedy) or more",
				   s->temperature);
	if (s->top_k < 0)
		return error_usage(err, "--top-k is %d: give 0 (all tokens) or more", s->top_k);
	if (!(s->top_p > 0 && s->top_p <= 1))
		return error_usage(err, "--top-p is %g: give more than 0 and at most 1", s->top_p);
	if (!(s->min_p >= 0 && s->min_p <= 1))
		return error_usage(err, "--min-p is %g: give 0 to 1", s->min_p);
	if (!(s->repetition_penalty >= 0.001 && s->repetition_penalty <= 1000))
		return error_usage(err, "--repetition-penalty is %g: give 0.001 to 1000, 1 for none",
				   s->repetition_penalty);
	return 0;
}

float sampling_inverse_temperature(const struct sampling *s)
{
	if (s->temperature == 0)
		return 1;
	/* Bounded so that products stay finite; that cold, only the best token is left anyway. */
	return (float)fmin(1 / s->temperature, 1e30);
}

static uint64_t mix(uint64_t z)
{
	/* The finalizer of SplitMix64 (Steele, Lea, Flood 2014). */
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

double sampler_draw(uint64_t seed, uint64_t request, uint64_t position)
{
	const uint64_t golden = 0x9e3779b97f4a7c15ull;
	/* Each request is a SplitMix64 stream of its own, positions its consecutive outputs. */
	uint64_t stream = mix(mix(seed + golden) + golden * (request + 1));
	return (double)(mix(stream + golden * (position + 1)) >> 11) * 0x1p-53;
}

/* ---- merging ---------------------------------------------------------------------------------- */

static bool stands_before(float logit, int32_t id, float other_logit, int32_t other_id)
{
	return logit > other_logit || (logit == other_logit && id < other_id);
}

/* Merges a part's candidates, in order like those of the list, into it. */
static void merge_part(struct candidate_list *list, const struct logit_result *part)
{
	const struct candidate_list old = *list;
	int32_t a = 0, b = 0, count = 0;

	while (count < CANDIDATES && (a < old.count || b < part->count)) {
		bool take_old = b == part->count ||
				(a < old.count && stands_before(old.logits[a], old.ids[a],
								part->logits[b], part->ids[b]));
		list->ids[count] = take_old ? old.ids[a] : part->ids[b];
		list->logits[count++] = take_old ? old.logits[a++] : part->logits[b++];
	}
	list->count = count;
}

int sampler_merge(struct candidate_list *out, const struct logit_result *parts, size_t stride,
		  int32_t ranks, int32_t vocab, struct error *err)
{
	*out = (struct candidate_list){.target_logit = -INFINITY};
	double highest = -INFINITY, sum = 0;

	for (int32_t r = 0; r < ranks; r++) {
		const struct logit_result *part = &parts[(size_t)r * stride];
		if (part->count < 0 || part->count > CANDIDATES)
			return error_run(err, "rank %d offers %d candidates", r, part->count);
		bool sound = part->log_sum_exp < INFINITY && part->target_logit < INFINITY;
		for (int32_t i = 0; i < part->count; i++)
			sound = sound && part->logits[i] < INFINITY;
		if (!sound)
			return error_run(err, "rank %d computed logits that are NaN or infinite: the "
					 "weights are damaged, or too large for this --dtype", r);
		merge_part(out, part);
		highest = fmax(highest, part->log_sum_exp);
		out->target_logit = fmaxf(out->target_logit, part->target_logit);
	}
	if (highest == -INFINITY || !out->count)
		return error_run(err, "no token has a finite logit: the weights are damaged");
	for (int32_t r = 0; r < ranks; r++)
		sum += exp(parts[(size_t)r * stride].log_sum_exp - highest);
	out->log_sum_exp = highest + log(sum);
	out->complete = out->count == vocab;
	return 0;
}

/* ---- picking ---------------------------------------------------------------------------------- */

/* Weights are exp(logit - highest logit). The first index whose cumulative weight exceeds
 * `threshold`, or `count` where none does. */
static int32_t find_share(const double *cumulative, int32_t count, double threshold)
{
	int32_t i = 0;
	while (i < count && cumulative[i] <= threshold)
		i++;
	return i;
}

int sampler_pick(const struct candidate_list *list, const struct sampling *s, double u, int32_t *id)
{
	if (s->temperature == 0 || s->top_k == 1) {
		*id = list->ids[0];
		return 0;
	}

	double cumulative[CANDIDATES], weight[CANDIDATES], sum = 0;
	int32_t count = list->count;
	if (s->top_k && s->top_k < count)
		count = s->top_k;
	for (int32_t i = 0; i < count; i++) {
		weight[i] = exp((double)list->logits[i] - list->logits[0]);
		cumulative[i] = sum += weight[i];
	}
	/* Whether nothing is left beyond the list, and the weight of all that top-k leaves. */
	bool closed = list->complete || s->top_k == count;
	if (!closed && s->top_k)
		return 1; /* top-k reaches beyond the list */
	double total = closed ? sum : fmax(sum, exp(list->log_sum_exp - list->logits[0]));

	/* top-p keeps a token while those before it have less than top_p; min-p while it has min_p
	 * times the best's probability. Both keep a beginning of the list. */
	int32_t kept = 1;
	while (kept < count && cumulative[kept - 1] < s->top_p * total && weight[kept] >= s->min_p)
		kept++;
	bool cut = kept < count || cumulative[kept - 1] >= s->top_p * total;

	/* The weight of what is kept. Where the cut lies beyond the list it is known within bounds,
	 * and a draw that falls on the same token of the list for both is decided all the same. */
	double low = cumulative[kept - 1], high = low;
	if (!cut && !closed) {
		high = fmin(total, s->top_p * total + weight[count - 1]);
		if (s->min_p == 0)
			low = s->top_p * total;
	}
	int32_t index = find_share(cumulative, kept, u * low);
	if (index != find_share(cumulative, kept, u * high))
		return 1;
	if (index == kept) {
		if (!cut && !closed)
			return 1;
		index = kept - 1; /* u * low rounded up to low */
	}
	*id = list->ids[index];
	return 0;
}

/* A heap over ids[count]: the token that stands first is at its root. */
static void sift_down(int32_t *ids, int32_t count, int32_t root, const float *logits)
{
	int32_t moved = ids[root];
	for (;;) {
		int64_t child = 2 * (int64_t)root + 1;
		if (child >= count)
			break;
		if (child + 1 < count && stands_before(logits[ids[child + 1]], ids[child + 1],
						       logits[ids[child]], ids[child]))
			child++;
		if (!stands_before(logits[ids[child]], ids[child], logits[moved], moved))
			break;
		ids[root] = ids[child];
		root = (int32_t)child;
	}
	ids[root] = moved;
}

/* The tokens in order, as many as were asked for: they gather at the end of the heap's array. */
struct order {
	const float *logits;
	int32_t *ids, vocab, taken;
};

static int32_t order_get(struct order *o, int32_t index)
{
	while (o->taken <= index) {
		int32_t last = o->vocab - ++o->taken, first = o->ids[0];
		o->ids[0] = o->ids[last];
		o->ids[last] = first;
		sift_down(o->ids, last, 0, o->logits);
	}
	return o->ids[o->vocab - 1 - index];
}

void sampler_pick_full(const float *logits, int32_t vocab, const struct sampling *s, double u,
		       int32_t *scratch, int32_t *id)
{
	struct order order = {.logits = logits, .ids = scratch, .vocab = vocab};
	for (int32_t i = 0; i < vocab; i++)
		scratch[i] = i;
	for (int32_t i = vocab / 2; i-- > 0;)
		sift_down(scratch, vocab, i, logits);

	int32_t count = s->top_k && s->top_k < vocab ? s->top_k : vocab;
	if (s->temperature == 0)
		count = 1;
	double highest = logits[order_get(&order, 0)], total = 0;
	if (count == vocab)
		for (int32_t i = 0; i < vocab; i++)
			total += exp(logits[i] - highest);
	else
		for (int32_t i = 0; i < count; i++)
			total += exp(logits[order_get(&order, i)] - highest);

	/* As in sampler_pick. Without a cut there is no need to walk to the end for the sum. */
	double kept = total;
	if (s->top_p < 1 || s->min_p > 0) {
		kept = 1;
		for (int32_t i = 1; i < count && kept < s->top_p * total; i++) {
			double weight = exp(logits[order_get(&order, i)] - highest);
			if (weight < s->min_p)
				break;
			kept += weight;
		}
	}
	double sum = 1;
	int32_t index = 0;
	while (sum <= u * kept && index + 1 < count) {
		double weight = exp(logits[order_get(&order, index + 1)] - highest);
		if (weight == 0)
			break; /* u * kept rounded up to kept: weights that vanish are never drawn */
		sum += weight;
		index++;
	}
	*id = order_get(&order, index);
}
