/*
 * cpu_steps.c - microseconds of one step of the CPU backend, without collectives.
 *
 * cpu_steps [threads [ranks [context]]]: the embedded model's shape, or rank 0's part of
 * it, on random weights; decode steps of 1 to 64 sequences at that context, and prompts.
 */
#define TEST_SUITE "bench"
#include "tests/reference_weights.h"

static int no_sum(const struct group *group, float *data, size_t count, struct error *err)
{
	(void)group, (void)data, (void)count, (void)err;
	return 0;
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static const char *const names[] = {"embed", "qkv", "attend", "o", "gate_up", "down", "logits", "top"};

/* Runs one step; adds the seconds of each kind of block to spent. */
static void run_step(struct backend *b, int32_t layers, const struct step *step, double *spent)
{
	static struct logit_request requests[64];
	static struct logit_result results[64];
	struct error err = {0};
	double t[8] = {now()};
	int failed = b->ops->begin(b, step, &err) || b->ops->embed(b, &err);
	spent[0] += now() - t[0];
	for (int32_t i = 0; i < layers; i++) {
		t[1] = now();
		failed |= b->ops->qkv(b, i, &err);
		t[2] = now();
		failed |= b->ops->attend(b, i, &err);
		t[3] = now();
		failed |= b->ops->project_attention(b, i, &err);
		t[4] = now();
		failed |= b->ops->gate_up(b, i, &err);
		t[5] = now();
		failed |= b->ops->project_mlp(b, i, &err);
		t[6] = now();
		for (int k = 1; k < 6; k++)
			spent[k] += t[k + 1] - t[k];
	}
	for (int32_t i = 0; i < step->logit_rows; i++)
		requests[i] = (struct logit_request){.inverse_temperature = 1, .repetition_penalty = 1,
						     .target = -1};
	t[6] = now();
	failed |= b->ops->logits(b, &err);
	t[7] = now();
	failed |= b->ops->end(b, &err) || b->ops->candidates(b, requests, results, &err);
	spent[6] += t[7] - t[6];
	spent[7] += now() - t[7];
	if (failed) {
		fprintf(stderr, "%s\n", err.message);
		exit(1);
	}
}

/* `sequences` that bring `count` tokens each after `context` ones. */
static void measure(struct backend *b, const struct backend_options *o, int32_t sequences,
		    int32_t count, int32_t context)
{
	static int32_t ids[4096], positions[4096], first[65], table[64 * 256], wanted[64];
	struct step step = {.tokens = sequences * count, .sequences = sequences,
			    .logit_rows = sequences, .max_blocks = o->max_blocks, .token_ids = ids,
			    .positions = positions, .first_token = first, .block_table = table,
			    .logit_tokens = wanted};
	for (int32_t t = 0; t < step.tokens; t++) {
		ids[t] = (int32_t)test_int(0, o->shape.total_vocab - 1);
		positions[t] = context + t % count;
	}
	for (int32_t q = 0; q < sequences; q++) {
		first[q + 1] = (q + 1) * count;
		wanted[q] = (q + 1) * count - 1;
	}
	for (int32_t i = 0; i < sequences * o->max_blocks; i++)
		table[i] = i % o->kv_blocks;
	double best = 1e9, best_parts[8];
	int repeats = count > 1 ? 5 : 200;
	for (int i = 0; i < repeats; i++) {
		double parts[8] = {0}, start = now();
		run_step(b, o->shape.layers, &step, parts);
		double spent = now() - start;
		if (spent < best) {
			best = spent;
			memcpy(best_parts, parts, sizeof parts);
		}
	}
	printf("%3d x %4d at %4d: %9.1f us, %9.0f tokens/s;", sequences, count, context, best * 1e6,
	       step.tokens / best);
	for (int k = 0; k < 8; k++)
		printf(" %s %.1f", names[k], best_parts[k] * 1e6);
	putchar('\n');
}

int main(int argc, char **argv)
{
	int threads = argc > 1 ? atoi(argv[1]) : 1, ranks = argc > 2 ? atoi(argv[2]) : 1;
	int32_t context = argc > 3 ? atoi(argv[3]) : 200;
	struct group group = {.size = 1, .sum = no_sum};
	struct head_group groups[REFERENCE_KV_HEADS];
	struct reference_model model = {.config = {
		.layers = 6, .hidden = 256, .head_dim = 32, .query_heads = 8, .kv_heads = 4,
		.intermediate = 704, .vocab = 2048, .tied = true, .norm_epsilon = 1e-5,
		.attention_scale = 0.17678f, .rope_magnitude = 1, .dtype = DTYPE_BF16}};
	int32_t windows[6] = {0};
	struct backend_options o = {.shape = reference_shape(&model, 0, ranks, groups),
				    .group = &group, .kv_blocks = 64 * 32, .max_tokens = 2048,
				    .max_sequences = 64, .max_blocks = 160, .max_logit_rows = 64,
				    .threads = threads};
	o.shape.windows = windows;
	struct backend *b;
	struct error err;
	for (int i = 0; i < 16; i++)
		model.config.rope_frequencies[i] = powf(10000, (float)-i / 16);
	if (cpu_backend_open(&b, &o, &err) || b->ops->load_random(b, 1, &err)) {
		fprintf(stderr, "%s\n", err.message);
		return 1;
	}
	printf("%d threads, part 1 of %d\n", threads, ranks);
	static const int32_t sequences[] = {1, 2, 4, 8, 16, 32, 64};
	for (size_t i = 0; i < sizeof sequences / sizeof *sequences; i++)
		measure(b, &o, sequences[i], 1, context);
	static const int32_t prompts[] = {32, 128, 512, 2048};
	for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++)
		measure(b, &o, 1, prompts[i], 0);
	b->ops->close(b);
	(void)test_skipped; /* test.h wants its counters used */
	TEST_END();
}
