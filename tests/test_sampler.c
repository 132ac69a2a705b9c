/* Merging and picking, against Hugging Face's processors written out over the whole vocabulary. */
#define TEST_SUITE "sampler"
#include "tests/test.h"

#include "runtime/text/sampler.h"
#include "tests/toy_backend.h"

enum { VOCAB_MAX = 3000, RANKS_MAX = 9 };

/* Logits of some shape: spread, flat, peaked, and with many ties. */
static void random_logits(float *logits, int32_t vocab)
{
	double scale = exp(test_real() * 6 - 3), step = test_int(0, 2) ? 0 : scale / 4;
	for (int32_t i = 0; i < vocab; i++) {
		double x = test_normal() * scale;
		logits[i] = (float)(step > 0 ? rint(x / step) * step : x);
	}
}

/* Splits the vocabulary at random over ranks, answers for each, and merges. */
static void merge_split(const float *logits, int32_t vocab, int32_t ranks, int32_t target,
			struct candidate_list *out)
{
	static struct logit_result parts[2 * RANKS_MAX];
	struct error err = {0};
	int32_t cuts[RANKS_MAX + 1] = {0};
	for (int32_t r = 1; r < ranks; r++)
		cuts[r] = (int32_t)test_int(cuts[r - 1], vocab);
	cuts[ranks] = vocab;
	for (int32_t r = 0; r < ranks; r++)
		toy_answer(logits + cuts[r], cuts[r], cuts[r + 1] - cuts[r], target, &parts[2 * r]);
	CHECK_OK(sampler_merge(out, parts, 2, ranks, vocab, &err), &err);
}

/* All tokens in order, and what the processors leave of them. */
struct reference {
	int32_t ids[VOCAB_MAX], kept;
	double share[VOCAB_MAX]; /* cumulative, of what is kept */
	bool near; /* a cut lies within rounding of another */
};

static const float *sort_logits;

static int before(const void *a, const void *b)
{
	int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
	if (sort_logits[x] != sort_logits[y])
		return sort_logits[x] > sort_logits[y] ? -1 : 1;
	return x - y;
}

static void work_out(struct reference *ref, const float *logits, int32_t vocab,
		     const struct sampling *s)
{
	static double p[VOCAB_MAX];
	double sum = 0;
	int32_t left = vocab;

	for (int32_t i = 0; i < vocab; i++)
		ref->ids[i] = i;
	sort_logits = logits;
	qsort(ref->ids, (size_t)vocab, sizeof *ref->ids, before);
	ref->near = false;
	/* top-k */
	if (s->top_k && s->top_k < left)
		left = s->top_k;
	/* top-p: softmax, then from the least probable upwards all within 1 - top_p go, but one */
	for (int32_t i = 0; i < left; i++)
		sum += p[i] = exp((double)logits[ref->ids[i]] - logits[ref->ids[0]]);
	if (s->top_p < 1) {
		double tail = 0;
		for (int32_t i = left - 1; i > 0; i--) {
			tail += p[i] / sum;
			ref->near = ref->near || fabs(tail - (1 - s->top_p)) < 1e-5;
			if (tail <= 1 - s->top_p)
				left = i;
		}
	}
	/* min-p: those less probable than min_p times the best go */
	for (int32_t i = 1; i < left; i++) {
		ref->near = ref->near || (s->min_p > 0 && fabs(p[i] - s->min_p) < 1e-9);
		if (p[i] < s->min_p)
			left = i;
	}
	ref->kept = left;
	sum = 0;
	for (int32_t i = 0; i < left; i++)
		ref->share[i] = sum += p[i];
	for (int32_t i = 0; i < left; i++)
		ref->share[i] /= sum;
}

static int32_t reference_pick(struct reference *ref, double u)
{
	int32_t i = 0;
	while (i < ref->kept - 1 && ref->share[i] <= u)
		i++;
	return i;
}

static struct sampling random_sampling(int combination)
{
	return (struct sampling){
		.temperature = 1,
		.top_k = combination & 1 ? (int32_t)test_int(1, test_int(0, 3) ? 60 : 400) : 0,
		.top_p = combination & 2 ? 1 - test_real() * test_real() : 1,
		.min_p = combination & 4 ? test_real() * test_real() : 0,
		.repetition_penalty = 1,
	};
}

/* All combinations of the three cuts, split over ranks: the full row gives the reference's token,
 * and the candidates give the same or say that they don't reach, which they must not say where all
 * that is kept lies among them. */
static void against_reference(void)
{
	static float logits[VOCAB_MAX];
	static int32_t scratch[VOCAB_MAX];
	static struct reference ref;
	int near = 0, picked = 0, passed_on = 0, beyond = 0;

	for (int round = 0; round < 4000; round++) {
		int32_t vocab = (int32_t)test_int(1, round % 3 ? 300 : VOCAB_MAX);
		struct sampling s = random_sampling(round % 8);
		struct candidate_list list;
		random_logits(logits, vocab);
		merge_split(logits, vocab, (int32_t)test_int(1, RANKS_MAX), -1, &list);
		work_out(&ref, logits, vocab, &s);
		if (ref.near) {
			near++;
			continue;
		}
		for (int draw = 0; draw < 8; draw++) {
			double u = draw ? test_real() : 0;
			int32_t index = reference_pick(&ref, u), id = -1, full = -1;
			double low = index ? ref.share[index - 1] : -1;
			if ((index < ref.kept - 1 && ref.share[index] - u < 1e-5) || u - low < 1e-5)
				continue;
			sampler_pick_full(logits, vocab, &s, u, scratch, &full);
			CHECK_MSG(full == ref.ids[index], "vocab %d, top-k %d, top-p %g, min-p %g, u %g: "
				  "%d, expected %d", vocab, s.top_k, s.top_p, s.min_p, u, full,
				  ref.ids[index]);
			int result = sampler_pick(&list, &s, u, &id);
			picked += !result;
			passed_on += result;
			CHECK(result ? id == -1 : id == full);
			if (s.top_k > CANDIDATES && vocab > CANDIDATES)
				continue; /* the weight of what top-k leaves isn't known */
			CHECK(!result || ref.kept >= CANDIDATES);
			/* Without a cut, any draw that falls on a candidate is decided. */
			if (s.top_p == 1 && s.min_p == 0 && index < CANDIDATES - 1)
				CHECK(result == 0);
			beyond += !result && ref.kept > CANDIDATES;
		}
	}
	CHECK_MSG(near < 1000, "%d cases were near a boundary", near);
	CHECK_MSG(picked > 1000 && passed_on > 100 && beyond > 100,
		  "%d picked, %d passed on, %d of those picked were cut beyond the list", picked,
		  passed_on, beyond);
}

static void greedy(void)
{
	static float logits[VOCAB_MAX];
	static int32_t scratch[VOCAB_MAX];
	for (int round = 0; round < 500; round++) {
		int32_t vocab = (int32_t)test_int(1, VOCAB_MAX), best = 0, id = -1;
		struct sampling s = random_sampling(round % 8);
		struct candidate_list list;
		s.temperature = 0;
		random_logits(logits, vocab);
		for (int32_t i = 1; i < vocab; i++)
			if (logits[i] > logits[best])
				best = i;
		merge_split(logits, vocab, (int32_t)test_int(1, RANKS_MAX), -1, &list);
		CHECK(sampler_pick(&list, &s, test_real(), &id) == 0 && id == best);
		sampler_pick_full(logits, vocab, &s, test_real(), scratch, &id);
		CHECK(id == best);
	}
	CHECK(sampling_inverse_temperature(&(struct sampling){.temperature = 0}) == 1);
	CHECK(sampling_inverse_temperature(&(struct sampling){.temperature = 0.5}) == 2);
	CHECK(isfinite(sampling_inverse_temperature(&(struct sampling){.temperature = 5e-324})));
}

static void merged(void)
{
	static float logits[VOCAB_MAX];
	static struct reference ref;
	for (int round = 0; round < 500; round++) {
		int32_t vocab = (int32_t)test_int(1, round % 2 ? 100 : VOCAB_MAX);
		int32_t target = (int32_t)test_int(-1, vocab - 1);
		struct candidate_list list;
		double sum = 0;
		random_logits(logits, vocab);
		work_out(&ref, logits, vocab, &(struct sampling){.temperature = 1, .top_p = 1});
		merge_split(logits, vocab, (int32_t)test_int(1, RANKS_MAX), target, &list);
		CHECK(list.count == (vocab < CANDIDATES ? vocab : CANDIDATES));
		CHECK(list.complete == (vocab <= CANDIDATES));
		for (int32_t i = 0; i < list.count; i++)
			CHECK(list.ids[i] == ref.ids[i] && list.logits[i] == logits[ref.ids[i]]);
		for (int32_t i = 0; i < vocab; i++)
			sum += exp((double)logits[i] - logits[ref.ids[0]]);
		CHECK(fabs(list.log_sum_exp - (logits[ref.ids[0]] + log(sum))) <
		      1e-6 * (1 + fabs(list.log_sum_exp)));
		CHECK(list.target_logit == (target < 0 ? -INFINITY : logits[target]));
	}
}

static void broken_numbers(void)
{
	struct error err = {0};
	struct candidate_list list;
	struct logit_result good = {.log_sum_exp = 1, .target_logit = -INFINITY, .count = 1,
				    .ids = {3}, .logits = {1}};
	struct logit_result parts[2];
	const float bad[] = {NAN, INFINITY};

	for (int i = 0; i < 2; i++) {
		parts[0] = parts[1] = good;
		parts[1].log_sum_exp = bad[i];
		CHECK_FAILS(sampler_merge(&list, parts, 1, 2, 9, &err), &err, "rank 1 computed");
		parts[1] = good;
		parts[1].logits[0] = bad[i];
		CHECK_FAILS(sampler_merge(&list, parts, 1, 2, 9, &err), &err, "rank 1 computed");
		parts[1] = good;
		parts[0].target_logit = bad[i];
		CHECK_FAILS(sampler_merge(&list, parts, 1, 2, 9, &err), &err, "rank 0 computed");
		parts[0] = good;
	}
	parts[0].count = CANDIDATES + 1;
	CHECK_FAILS(sampler_merge(&list, parts, 1, 2, 9, &err), &err, "65 candidates");
	parts[0].count = 0;
	parts[0].log_sum_exp = -INFINITY;
	CHECK_FAILS(sampler_merge(&list, parts, 1, 1, 9, &err), &err, "no token");
	CHECK_OK(sampler_merge(&list, parts, 1, 2, 9, &err), &err);
	CHECK(list.count == 1 && list.ids[0] == 3 && list.log_sum_exp == 1);
}

/* ---- statistics: thresholds that chance crosses less than once in a million runs --------------- */

/* The value that chi-square of `freedom` degrees exceeds with probability 1e-7 (Wilson, Hilferty
 * 1931). */
static double chi_limit(double freedom)
{
	double c = 2 / (9 * freedom);
	return freedom * pow(1 - c + 5.2 * sqrt(c), 3);
}

static double chi_square(const double *counts, const double *expected, int bins)
{
	double chi = 0;
	for (int i = 0; i < bins; i++)
		chi += (counts[i] - expected[i]) * (counts[i] - expected[i]) / expected[i];
	return chi;
}

/* 20,000 draws of generation as a user makes it: consecutive positions of one request. */
static void frequencies(void)
{
	static struct reference ref;
	for (int round = 0; round < 8; round++) {
		enum { DRAWS = 20000, VOCAB = 200 };
		float logits[VOCAB];
		double counts[VOCAB] = {0}, expected[VOCAB];
		struct sampling s = random_sampling(round);
		struct candidate_list list;
		int32_t scratch[VOCAB], bins = 0;
		uint64_t request = test_random();
		s.seed = (uint64_t)test_int(0, 100);
		for (int i = 0; i < VOCAB; i++)
			logits[i] = (float)(test_normal() * 1.5);
		work_out(&ref, logits, VOCAB, &s);
		if (ref.near)
			continue;
		merge_split(logits, VOCAB, 3, -1, &list);
		for (int i = 0; i < DRAWS; i++) {
			double u = sampler_draw(s.seed, request, (uint64_t)i);
			int32_t id, place = 0;
			if (sampler_pick(&list, &s, u, &id))
				sampler_pick_full(logits, VOCAB, &s, u, scratch, &id);
			while (ref.ids[place] != id)
				place++;
			CHECK(place < ref.kept);
			counts[place]++;
		}
		/* Bins of at least 10 expected draws: the rare tokens together. */
		double rest = 0, rest_count = 0;
		for (int32_t i = 0; i < ref.kept; i++) {
			double n = DRAWS * (ref.share[i] - (i ? ref.share[i - 1] : 0));
			if (n < 10) {
				rest += n;
				rest_count += counts[i];
				continue;
			}
			expected[bins] = n;
			counts[bins++] = counts[i];
		}
		if (rest >= 10) {
			expected[bins] = rest;
			counts[bins++] = rest_count;
		}
		if (bins < 2)
			continue;
		double chi = chi_square(counts, expected, bins);
		CHECK_MSG(chi < chi_limit(bins - 1), "chi-square %g in %d bins, top-k %d, top-p %g, "
			  "min-p %g", chi, bins, s.top_k, s.top_p, s.min_p);
	}
}

/* Draws fill [0, 1) evenly, alone and in pairs of neighbouring positions, requests and seeds. */
static void draws(void)
{
	enum { SIDE = 16, DRAWS = 100000 };
	static const char *names[] = {"positions", "requests", "seeds"};
	uint64_t base[3] = {(uint64_t)test_int(0, 3), (uint64_t)test_int(0, 3),
			    (uint64_t)test_int(0, 3)};

	for (int neighbour = 0; neighbour < 3; neighbour++) {
		double pairs[SIDE * SIDE] = {0}, single[SIDE * SIDE] = {0}, even[SIDE * SIDE];
		for (int i = 0; i < SIDE * SIDE; i++)
			even[i] = (double)DRAWS / (SIDE * SIDE);
		for (uint64_t i = 0; i < DRAWS; i++) {
			uint64_t a[3] = {base[0], base[1], base[2]}, b[3];
			a[neighbour] += 2 * i;
			memcpy(b, a, sizeof b);
			b[neighbour]++;
			double u = sampler_draw(a[2], a[1], a[0]), v = sampler_draw(b[2], b[1], b[0]);
			CHECK(u >= 0 && u < 1 && v >= 0 && v < 1);
			pairs[(int)(u * SIDE) * SIDE + (int)(v * SIDE)]++;
			single[(int)(u * SIDE * SIDE)]++;
		}
		double limit = chi_limit(SIDE * SIDE - 1);
		CHECK_MSG(chi_square(pairs, even, SIDE * SIDE) < limit, "pairs of %s", names[neighbour]);
		CHECK_MSG(chi_square(single, even, SIDE * SIDE) < limit, "%s", names[neighbour]);
	}
	/* The same triple, the same draw; other triples, others. */
	CHECK(sampler_draw(1, 2, 3) == sampler_draw(1, 2, 3));
	CHECK(sampler_draw(1, 2, 3) != sampler_draw(1, 3, 2));
	CHECK(sampler_draw(1, 2, 3) != sampler_draw(2, 1, 3));
}

static void checked(void)
{
	struct error err = {0};
	const struct sampling good = {.temperature = 0.7, .top_k = 50, .top_p = 0.9, .min_p = 0.05,
				      .repetition_penalty = 1.1};
	CHECK_OK(sampling_check(&good, &err), &err);
	CHECK_OK(sampling_check(&(struct sampling){.top_p = 1, .repetition_penalty = 1}, &err), &err);
#define CHECK_RANGE(field, value, option)                                                          \
	do {                                                                                       \
		struct sampling s = good;                                                          \
		s.field = value;                                                                   \
		CHECK_FAILS(sampling_check(&s, &err), &err, option);                               \
		CHECK(err.kind == ERROR_USAGE);                                                    \
	} while (0)
	CHECK_RANGE(temperature, -0.1, "--temperature");
	CHECK_RANGE(temperature, NAN, "--temperature");
	CHECK_RANGE(temperature, INFINITY, "--temperature");
	CHECK_RANGE(top_k, -1, "--top-k");
	CHECK_RANGE(top_p, 0, "--top-p");
	CHECK_RANGE(top_p, 1.01, "--top-p");
	CHECK_RANGE(top_p, NAN, "--top-p");
	CHECK_RANGE(min_p, -0.1, "--min-p");
	CHECK_RANGE(min_p, 1.1, "--min-p");
	CHECK_RANGE(min_p, NAN, "--min-p");
	CHECK_RANGE(repetition_penalty, 0, "--repetition-penalty");
	CHECK_RANGE(repetition_penalty, -1, "--repetition-penalty");
	CHECK_RANGE(repetition_penalty, NAN, "--repetition-penalty");
}

int main(void)
{
	RUN(against_reference);
	RUN(greedy);
	RUN(merged);
	RUN(broken_numbers);
	RUN(frequencies);
	RUN(draws);
	RUN(checked);
	TEST_END();
}
