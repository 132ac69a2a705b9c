/* rope: against transformers' own frequencies, and against the formulas written out plainly. */
#define TEST_SUITE "rope"
#include "tests/test.h"

#include "runtime/base/json.h"
#include "runtime/model/rope.h"

#define PI 3.14159265358979323846

/* A llama of that head size with `rope` as its rope_parameters. */
static void config_with_rope(struct model_config *config, int head_dim, int max_positions,
			     const char *rope)
{
	struct error err = {0};
	char text[2048];
	snprintf(text, sizeof text,
		 "{\"model_type\": \"llama\", \"vocab_size\": 8, \"hidden_size\": 8, "
		 "\"intermediate_size\": 8, \"num_hidden_layers\": 1, \"num_attention_heads\": 2, "
		 "\"head_dim\": %d, \"max_position_embeddings\": %d, \"rope_parameters\": %s}",
		 head_dim, max_positions, rope);
	CHECK_OK(config_parse(config, text, strlen(text), "config.json", &err), &err);
}

static double relative(double is, double should)
{
	return fabs(is - should) / fabs(should);
}

static void one_case(const json_t *entry)
{
	struct model_config *config = malloc(sizeof *config);
	const char *name = json_string_value(json_object_get(entry, "name"));
	int head_dim = (int)json_number_value(json_object_get(entry, "head_dim"));
	char *rope = json_dumps(json_object_get(entry, "rope"), 0);
	config_with_rope(config, head_dim,
			 (int)json_number_value(json_object_get(entry, "max_position_embeddings")),
			 rope);
	free(rope);
	float frequencies[128], magnitude;
	rope_frequencies(config, frequencies, &magnitude);
	double attention = json_number_value(json_object_get(entry, "attention_scaling"));
	CHECK_MSG(relative(magnitude, attention) < 1e-6, "%s: magnitude %g", name, magnitude);

	const json_t *length = json_object_get(entry, "seq_len");
	double growth = 1;
	if (!json_is_null(length))
		growth = rope_growth(config, (int32_t)json_number_value(length));
	const json_t *inverse = json_object_get(entry, "inv_freq");
	CHECK((int)json_array_size(inverse) == head_dim / 2);
	for (int i = 0; i < head_dim / 2; i++) {
		double is = frequencies[i] * pow(growth, -2.0 * i / (head_dim - 2));
		double should = json_number_value(json_array_get(inverse, (size_t)i));
		/* transformers computes in float32, with powers of up to 5e8 */
		CHECK_MSG(relative(is, should) < 2e-6, "%s, length %g, pair %d: %.9g, not %.9g", name,
			  json_number_value(length), i, is, should);
	}
	free(config);
}

static void as_transformers(void)
{
	struct error err = {0};
	json_t *root = json_read_file("tests/data/rope.json", 1 << 20, &err);
	CHECK_MSG(root, "%s", err.message);
	const json_t *cases = json_object_get(root, "cases");
	CHECK(json_array_size(cases) > 15);
	for (size_t i = 0; i < json_array_size(cases); i++)
		one_case(json_array_get(cases, i));
	json_decref(root);
}

/* A ramp that ends beyond the last pair, as short heads with a small base have it; the numbers
 * are transformers 5.17's. */
static void yarn_ramp_beyond_the_head(void)
{
	static const double expected[] = {
		1, 0.562341332, 0.316227764, 0.177827939, 0.100000001,
		0.0562341288, 0.0293640085, 0.0152423959,
	};
	struct model_config *config = malloc(sizeof *config);
	config_with_rope(config, 16, 8192,
			 "{\"rope_type\": \"yarn\", \"rope_theta\": 100.0, \"factor\": 2.0, "
			 "\"original_max_position_embeddings\": 4096}");
	float frequencies[128], magnitude;
	rope_frequencies(config, frequencies, &magnitude);
	for (int i = 0; i < 8; i++)
		CHECK_MSG(relative(frequencies[i], expected[i]) < 1e-6, "pair %d: %.9g", i,
			  (double)frequencies[i]);
	free(config);
}

/* Random parameters of llama3: outside the blended band exactly stretched or exactly kept, and
 * monotonic and between the two inside. */
static void llama3_bands(void)
{
	struct model_config *config = malloc(sizeof *config);
	for (int n = 0; n < 200; n++) {
		int head_dim = 2 * (int)test_int(1, 128), original = (int)test_int(16, 16384);
		double theta = pow(10, 3 + 3 * test_real()), factor = 1 + 31 * test_real();
		double low = 0.5 + test_real(), high = low + 0.5 + 4 * test_real();
		char rope[512];
		snprintf(rope, sizeof rope,
			 "{\"rope_type\": \"llama3\", \"rope_theta\": %.17g, \"factor\": %.17g, "
			 "\"low_freq_factor\": %.17g, \"high_freq_factor\": %.17g, "
			 "\"original_max_position_embeddings\": %d}",
			 theta, factor, low, high, original);
		config_with_rope(config, head_dim, 131072, rope);
		float frequencies[128], magnitude;
		rope_frequencies(config, frequencies, &magnitude);
		CHECK(magnitude == 1);
		for (int i = 0; i < head_dim / 2; i++) {
			double plain = exp(-log(theta) * 2 * i / head_dim);
			double wavelength = 2 * PI / plain;
			double is = frequencies[i];
			if (wavelength > original / low)
				CHECK(relative(is, plain / factor) < 1e-6);
			else if (wavelength < original / high)
				CHECK(relative(is, plain) < 1e-6);
			else
				CHECK(is > plain / factor * 0.999999 && is < plain * 1.000001);
			CHECK(i == 0 || is <= frequencies[i - 1]);
		}
	}
	free(config);
}

/* Dynamic NTK's shortcut, one number for a length, gives what the changed base gives. */
static void dynamic_growth(void)
{
	struct model_config *config = malloc(sizeof *config);
	for (int n = 0; n < 200; n++) {
		int head_dim = 2 * (int)test_int(2, 128), original = (int)test_int(16, 4096);
		double theta = pow(10, 3 + 3 * test_real()), factor = 1 + 7 * test_real();
		char rope[256];
		snprintf(rope, sizeof rope,
			 "{\"type\": \"dynamic\", \"rope_theta\": %.17g, \"factor\": %.17g}", theta, factor);
		config_with_rope(config, head_dim, original, rope);
		CHECK(config->max_positions == (int)(original * factor));
		float frequencies[128], magnitude;
		rope_frequencies(config, frequencies, &magnitude);
		int length = (int)test_int(1, 4 * original);
		double growth = rope_growth(config, length), base = theta;
		if (length > original)
			base *= pow(factor * length / original - (factor - 1),
				    head_dim / (head_dim - 2.0));
		else
			CHECK(growth == 1);
		for (int i = 0; i < head_dim / 2; i++)
			CHECK(relative(frequencies[i] * pow(growth, -2.0 * i / (head_dim - 2)),
				       pow(base, -2.0 * i / head_dim)) < 1e-6);
	}
	free(config);
}

/* Whatever a file may hold within the accepted ranges, no frequency is infinite or NaN. */
static void always_finite(void)
{
	struct model_config *config = calloc(1, sizeof *config);
	for (int n = 0; n < 2000; n++) {
		config->head_dim = 2 * (int)test_int(1, 128);
		config->max_positions = (int)test_int(1, 1 << 30);
		config->rope = (struct rope_config){
			.type = (enum rope_type)test_int(ROPE_DEFAULT, ROPE_YARN),
			.theta = pow(10, 0.2 + 14 * test_real()),
			.factor = pow(10, -3 + 9 * test_real()),
			.original_max_positions = (int)test_int(1, 1 << (int)test_int(0, 30)),
			.low_freq_factor = 1, .high_freq_factor = 1 + test_real(),
			.beta_fast = pow(10, -3 + 9 * test_real()),
			.beta_slow = pow(10, -3 + 9 * test_real()),
			.mscale = test_real(), .mscale_all_dim = test_real(),
			.truncate = test_int(0, 1),
		};
		float frequencies[128], magnitude;
		rope_frequencies(config, frequencies, &magnitude);
		CHECK(isfinite(magnitude) && magnitude > 0);
		for (int i = 0; i < config->head_dim / 2; i++)
			CHECK(isfinite(frequencies[i]) && frequencies[i] >= 0);
		CHECK(isfinite(rope_growth(config, (int32_t)test_int(1, 1 << 30))));
	}
	free(config);
}

int main(void)
{
	RUN(as_transformers);
	RUN(yarn_ramp_beyond_the_head);
	RUN(llama3_bands);
	RUN(dynamic_growth);
	RUN(always_finite);
	TEST_END();
}
