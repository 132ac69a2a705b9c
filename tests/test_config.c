/* config: what each family's files say, in both spellings, and all that must be refused. */
#define TEST_SUITE "config"
#include "tests/test.h"

#include "runtime/base/file.h"
#include "runtime/model/config.h"
#include "tests/checkpoint_files.h"

static struct model_config config;
static struct error err;

/* Parses {BASE, more}; keys in `more` must not be in BASE. */
#define BASE                                                                                       \
	"\"vocab_size\": 100, \"hidden_size\": 64, \"intermediate_size\": 172, "                   \
	"\"num_hidden_layers\": 4, \"num_attention_heads\": 8"
#define LLAMA "\"model_type\": \"llama\", " BASE

static int parse(const char *text)
{
	return config_parse(&config, text, strlen(text), "config.json", &err);
}

static int parse_with(const char *base, const char *more)
{
	char text[8192];
	snprintf(text, sizeof text, "{%s%s%s}", base, *more ? ", " : "", more);
	return parse(text);
}

static void family_defaults(void)
{
	CHECK_OK(parse_with(LLAMA, ""), &err);
	CHECK(config.family == FAMILY_LLAMA && config.dtype == DTYPE_F32);
	CHECK(config.vocab == 100 && config.hidden == 64 && config.intermediate == 172);
	CHECK(config.layers == 4 && config.heads == 8 && config.kv_heads == 8 && config.head_dim == 8);
	CHECK(config.max_positions == 2048 && config.norm_epsilon == 1e-6 && !config.tied);
	CHECK(!config.qkv_bias && !config.output_bias && !config.mlp_bias && !config.query_key_norm);
	CHECK(config.rope.type == ROPE_DEFAULT && config.rope.theta == 10000);
	CHECK(config.bos == 1 && config.eos_count == 1 && config.eos[0] == 2);
	CHECK(config.windows[0] == 0 && config.windows[3] == 0);

	CHECK_OK(parse_with("\"architectures\": [\"MistralForCausalLM\"], " BASE, ""), &err);
	CHECK(config.family == FAMILY_MISTRAL && config.kv_heads == 8);
	CHECK(config.max_positions == 131072 && config.windows[0] == 4096 && config.windows[3] == 4096);
	CHECK(config.bos == 1 && config.eos[0] == 2 && !config.qkv_bias);

	CHECK_OK(parse_with("\"model_type\": \"qwen2\", " BASE, "\"num_key_value_heads\": 2"), &err);
	CHECK(config.qkv_bias && !config.output_bias && !config.query_key_norm);
	CHECK(config.max_positions == 32768 && config.bos == -1 && config.eos_count == 0);
	CHECK_FAILS(parse_with("\"model_type\": \"qwen2\", " BASE, ""), &err,
		    "num_key_value_heads (32)");

	CHECK_OK(parse_with("\"model_type\": \"qwen3\", " BASE, "\"num_key_value_heads\": null"), &err);
	CHECK(config.query_key_norm && !config.qkv_bias && config.head_dim == 128);
	CHECK(config.kv_heads == 8);
	for (enum model_family family = FAMILY_LLAMA; family <= FAMILY_QWEN3; family++) {
		char type[256];
		snprintf(type, sizeof type, "\"model_type\": \"%s\", " BASE, config_family_name(family));
		CHECK_OK(parse_with(type, "\"num_key_value_heads\": 4"), &err);
		CHECK(config.family == family && config.kv_heads == 4);
	}
}

static void both_spellings(void)
{
	CHECK_OK(parse_with(LLAMA, "\"torch_dtype\": \"float16\", \"rope_theta\": 5000.5, "
				   "\"max_position_embeddings\": 512, \"rope_scaling\": "
				   "{\"type\": \"linear\", \"factor\": 2.5}"), &err);
	struct model_config old = config;
	CHECK_OK(parse_with(LLAMA, "\"dtype\": \"float16\", \"max_position_embeddings\": 512, "
				   "\"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": 2.5, "
				   "\"rope_theta\": 5000.5}"), &err);
	CHECK(memcmp(&old, &config, sizeof old) == 0);
	CHECK(config.dtype == DTYPE_F16 && config.rope.type == ROPE_LINEAR);
	CHECK(config.rope.theta == 5000.5 && config.rope.factor == 2.5 && config.max_positions == 1280);
	CHECK_OK(parse_with(LLAMA, "\"torch_dtype\": null, \"rope_scaling\": null"), &err);
	CHECK(config.dtype == DTYPE_F32 && config.rope.type == ROPE_DEFAULT);
	/* Where both are there transformers takes the newer dtype and the older scaling. */
	CHECK_OK(parse_with(LLAMA, "\"torch_dtype\": \"float16\", \"dtype\": \"bfloat16\", "
				   "\"rope_scaling\": {\"rope_type\": \"dynamic\", \"factor\": 2}, "
				   "\"rope_parameters\": {\"rope_theta\": 7}"), &err);
	CHECK(config.dtype == DTYPE_BF16 && config.rope.type == ROPE_DYNAMIC);
	CHECK(config.rope.theta == 10000);
}

static void biases_and_heads(void)
{
	CHECK_OK(parse_with(LLAMA, "\"attention_bias\": true, \"mlp_bias\": true, \"head_dim\": 10, "
				   "\"num_key_value_heads\": 2, \"tie_word_embeddings\": true, "
				   "\"rms_norm_eps\": 1e-05"), &err);
	CHECK(config.qkv_bias && config.output_bias && config.mlp_bias && config.tied);
	CHECK(config.head_dim == 10 && config.kv_heads == 2 && config.norm_epsilon == 1e-5);
	/* By hand: 4 layers of q, k, v, o with biases, gate, up, down with biases, two norms; then
	 * the embedding and the last norm. */
	uint64_t layer = (64 + 1) * 80 + 2 * (64 + 1) * 20 + (80 + 1) * 64 + 2 * (64 + 1) * 172 +
			 (172 + 1) * 64 + 2 * 64;
	CHECK(config_parameters(&config) == 4 * layer + 100 * 64 + 64);
	CHECK_OK(parse_with("\"model_type\": \"qwen3\", " BASE,
			    "\"num_key_value_heads\": 4, \"attention_bias\": true"), &err);
	CHECK(config.qkv_bias && config.output_bias && !config.mlp_bias);
	/* Families without the key do not look at it. */
	CHECK_OK(parse_with("\"model_type\": \"mistral\", " BASE,
			    "\"attention_bias\": true, \"mlp_bias\": true"), &err);
	CHECK(!config.qkv_bias && !config.mlp_bias);
}

static void windows(void)
{
	CHECK_OK(parse_with("\"model_type\": \"mistral\", " BASE, "\"sliding_window\": null"), &err);
	CHECK(config.windows[0] == 0);
	CHECK_OK(parse_with("\"model_type\": \"mistral\", " BASE, "\"sliding_window\": 7"), &err);
	CHECK(config.windows[0] == 7 && config.windows[3] == 7);
	const char *qwen = "\"model_type\": \"qwen2\", \"num_key_value_heads\": 4, "
			   "\"sliding_window\": 9, " BASE;
	CHECK_OK(parse_with(qwen, "\"max_window_layers\": 1"), &err);
	CHECK(config.windows[3] == 0);
	CHECK_OK(parse_with(qwen, "\"max_window_layers\": 1, \"use_sliding_window\": true"), &err);
	CHECK(config.windows[0] == 0 && config.windows[1] == 9 && config.windows[3] == 9);
	CHECK_OK(parse_with(qwen, "\"use_sliding_window\": true"), &err); /* 28 layers without */
	CHECK(config.windows[3] == 0);
	CHECK_OK(parse_with(qwen, "\"use_sliding_window\": true, \"layer_types\": [\"sliding_attention\", "
				  "\"full_attention\", \"sliding_attention\", \"full_attention\"]"), &err);
	CHECK(config.windows[0] == 9 && config.windows[1] == 0 && config.windows[2] == 9);
	CHECK_FAILS(parse_with(qwen, "\"layer_types\": [\"sliding_attention\", \"full_attention\", "
				     "\"full_attention\", \"full_attention\"]"), &err, "layer_types[0]");
	CHECK_FAILS(parse_with(qwen, "\"layer_types\": [\"full_attention\", \"linear_attention\", "
				     "\"full_attention\", \"full_attention\"]"), &err, "linear_attention");
	CHECK_FAILS(parse_with(qwen, "\"layer_types\": [\"full_attention\"]"), &err, "list of 4");
	CHECK_FAILS(parse_with(qwen, "\"layer_types\": [1, 2, 3, 4]"), &err, "layer_types[0]");
	CHECK_FAILS(parse_with("\"model_type\": \"mistral\", " BASE, "\"sliding_window\": 0"), &err,
		    "sliding_window");
}

static void special_tokens(void)
{
	CHECK_OK(parse_with(LLAMA, "\"bos_token_id\": null, \"eos_token_id\": [5, 99, 100, 7]"), &err);
	CHECK(config.bos == -1 && config.eos_count == 3); /* 100 is outside the vocabulary */
	CHECK(config.eos[0] == 5 && config.eos[1] == 99 && config.eos[2] == 7);
	CHECK_OK(parse_with(LLAMA, "\"bos_token_id\": 0, \"eos_token_id\": null"), &err);
	CHECK(config.bos == 0 && config.eos_count == 0);
	CHECK_OK(parse("{\"model_type\": \"llama\", \"vocab_size\": 1, \"hidden_size\": 8, "
		       "\"intermediate_size\": 8, \"num_hidden_layers\": 1, "
		       "\"num_attention_heads\": 1}"), &err);
	CHECK(config.bos == -1 && config.eos_count == 0); /* nor are the family's own ids in it */
	CHECK_FAILS(parse_with(LLAMA, "\"eos_token_id\": \"</s>\""), &err, "eos_token_id");
	CHECK_FAILS(parse_with(LLAMA, "\"eos_token_id\": [1.5]"), &err, "eos_token_id");
	CHECK_FAILS(parse_with(LLAMA, "\"eos_token_id\": [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]"),
		    &err, "17 ids");
}

static void rope_types(void)
{
	CHECK_OK(parse_with(LLAMA, "\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, "
				   "\"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
				   "\"original_max_position_embeddings\": 64}"), &err);
	CHECK(config.rope.type == ROPE_LLAMA3 && config.rope.original_max_positions == 64);
	CHECK(config.rope.high_freq_factor == 4 && config.max_positions == 2048);
	CHECK_OK(parse_with(LLAMA, "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4, "
				   "\"original_max_position_embeddings\": 2048, \"mscale\": null}"), &err);
	CHECK(config.rope.type == ROPE_YARN && config.max_positions == 8192);
	CHECK(config.rope.beta_fast == 32 && config.rope.beta_slow == 1 && config.rope.truncate);
	CHECK_OK(parse_with(LLAMA, "\"rope_scaling\": {\"type\": \"yarn\", "
				   "\"original_max_position_embeddings\": 512}"), &err);
	CHECK(config.rope.factor == 4 && config.max_positions == 2048);
	static const char *const bad[][2] = {
		{"{\"rope_type\": \"longrope\", \"factor\": 2}", "longrope"},
		{"{\"type\": \"mrope\"}", "mrope"},
		{"{\"type\": \"linear\"}", "factor"},
		{"{\"type\": \"linear\", \"factor\": \"2\"}", "factor"},
		{"{\"type\": \"linear\", \"factor\": -2}", "factor"},
		{"{\"type\": \"dynamic\", \"factor\": 0}", "factor"},
		{"{\"type\": 7}", "type"},
		{"{\"type\": \"llama3\", \"factor\": 8}", "low_freq_factor"},
		{"{\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, "
		 "\"high_freq_factor\": 1}", "high_freq_factor"},
		{"{\"type\": \"yarn\", \"factor\": 2, \"original_max_position_embeddings\": 0}",
		 "original_max_position_embeddings"},
		{"{\"partial_rotary_factor\": 0.5}", "partial_rotary_factor"},
		{"{\"rope_theta\": 0}", "rope_theta"},
		{"{\"full_attention\": {\"rope_type\": \"default\"}}", "kinds of layers"},
		{"[1]", "object"},
	};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		char more[512];
		snprintf(more, sizeof more, "\"rope_parameters\": %s", bad[i][0]);
		CHECK_FAILS(parse_with(LLAMA, more), &err, bad[i][1]);
		CHECK(strstr(err.message, "config.json"));
	}
	CHECK_FAILS(parse_with(LLAMA, "\"partial_rotary_factor\": 0.25"), &err, "partial_rotary_factor");
	CHECK_FAILS(parse_with(LLAMA, "\"head_dim\": 2, \"rope_scaling\": {\"type\": \"dynamic\", "
				      "\"factor\": 2}"), &err, "dynamic");
}

static void refused_by_name(void)
{
	static const char *const bad[][2] = {
		{"{}", "model_type"},
		{"[]", "not a JSON object"},
		{"7", "not a JSON object"},
		{"", "not valid JSON"},
		{"{\"model_type\": \"llama\"", "not valid JSON"},
		{"{\"model_type\": \"llama\", \"model_type\": \"qwen2\"}", "not valid JSON"},
		{"{\"model_type\": \"mixtral\"}", "mixtral"},
		{"{\"model_type\": \"mixtral\"}", "Qwen3ForCausalLM"},
		{"{\"architectures\": [\"GPT2LMHeadModel\"]}", "GPT2LMHeadModel"},
		{"{\"architectures\": []}", "architectures"},
		{"{\"architectures\": \"LlamaForCausalLM\"}", "architectures"},
		{"{\"model_type\": 7}", "model_type"},
		{"{\"model_type\": \"llama\\u0000x\"}", "NUL"},
		{"{\"model_type\": \"llama\", \"architectures\": [\"LlamaForSequenceClassification\"]}",
		 "LlamaForSequenceClassification"},
		{"{\"model_type\": \"qwen2\", \"architectures\": [\"LlamaForCausalLM\"]}", "qwen2"},
	};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		CHECK_FAILS(parse(bad[i][0]), &err, bad[i][1]);
	static const char *const more[][2] = {
		{"\"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": 4}", "gptq"},
		{"\"quantization_config\": {\"bits\": 4}", "quantized"},
		{"\"quantization_config\": {\"quant_method\": \"fp8\"}", "dequantize"},
		{"\"hidden_act\": \"gelu\"", "gelu"},
		{"\"dtype\": \"float8_e4m3fn\"", "float8_e4m3fn"},
		{"\"dtype\": 3", "dtype"},
		{"\"num_key_value_heads\": 3", "not a multiple of num_key_value_heads (3)"},
		{"\"num_key_value_heads\": 0", "num_key_value_heads"},
		{"\"num_key_value_heads\": 16", "num_key_value_heads (16)"},
		{"\"head_dim\": 7", "head_dim is 7"},
		{"\"head_dim\": 258", "head_dim is 258"},
		{"\"head_dim\": 0", "head_dim"},
		{"\"head_dim\": -8", "head_dim"},
		{"\"rms_norm_eps\": -1", "rms_norm_eps"},
		{"\"rms_norm_eps\": \"small\"", "rms_norm_eps"},
		{"\"max_position_embeddings\": 0", "max_position_embeddings"},
		{"\"max_position_embeddings\": 1e30", "max_position_embeddings"},
		{"\"tie_word_embeddings\": 1", "tie_word_embeddings"},
		{"\"attention_bias\": \"yes\"", "attention_bias"},
	};
	for (size_t i = 0; i < sizeof more / sizeof more[0]; i++)
		CHECK_FAILS(parse_with(LLAMA, more[i][0]), &err, more[i][1]);
}

/* Each needed size, left out, negative, zero, huge, fractional and of another type. */
static void sizes(void)
{
	static const char *const keys[] = {"vocab_size", "hidden_size", "intermediate_size",
					   "num_hidden_layers", "num_attention_heads"};
	static const char *const values[] = {NULL, "-1", "0", "1e18", "4294967297", "2147483648",
					     "2.5", "\"64\"", "true", "[64]", "null",
					     "1000000000000000000000000000000"};
	for (size_t key = 0; key < 5; key++) {
		for (size_t value = 0; value < sizeof values / sizeof values[0]; value++) {
			char text[1024] = "{\"model_type\": \"llama\"";
			for (size_t i = 0; i < 5; i++) {
				const char *is = i == key ? values[value] : "64";
				if (is)
					snprintf(text + strlen(text), sizeof text - strlen(text),
						 ", \"%s\": %s", keys[i], is);
			}
			strcat(text, "}");
			CHECK_FAILS(parse(text), &err, keys[key]);
			CHECK(strstr(err.message, "config.json"));
		}
	}
	CHECK_FAILS(parse("{\"model_type\": \"llama\", \"vocab_size\": 9, \"hidden_size\": 65, "
			  "\"intermediate_size\": 9, \"num_hidden_layers\": 1, "
			  "\"num_attention_heads\": 8}"), &err, "hidden_size (65)");
	/* The largest sizes there may be: the count of parameters does not overflow. */
	CHECK_OK(parse("{\"model_type\": \"llama\", \"vocab_size\": 16777216, \"hidden_size\": 1048576, "
		       "\"intermediate_size\": 4194304, \"num_hidden_layers\": 1024, "
		       "\"num_attention_heads\": 4096}"), &err);
	double h = 1048576, expected = 1024 * (4 * h * h + 3 * h * 4194304 + 2 * h) + 2 * h * 16777216 + h;
	CHECK(fabs((double)config_parameters(&config) / expected - 1) < 1e-12);
}

static void nested_deep(void)
{
	size_t depth = 100000;
	struct bytes text = {0};
	bytes_print(&text, "{" LLAMA ", \"x\": ");
	for (size_t i = 0; i < depth; i++)
		bytes_add(&text, i % 2 ? "[" : "{\"a\":", i % 2 ? 1 : 5);
	bytes_add(&text, "1", 1);
	for (size_t i = depth; i-- > 0;)
		bytes_add(&text, i % 2 ? "]" : "}", 1);
	bytes_add(&text, "}", 1);
	CHECK_FAILS(config_parse(&config, text.data, text.length, "config.json", &err), &err,
		    "config.json");
	bytes_free(&text);
}

static void folders(void)
{
	char folder[64];
	folder_make(folder);
	CHECK_FAILS(config_read(&config, folder, &err), &err, "holds no config.json");
	folder_print(folder, "config.json", "{" LLAMA "}");
	CHECK_OK(config_read(&config, folder, &err), &err);
	CHECK(config.vocab == 100);
	folder_print(folder, "config.json", "{");
	CHECK_FAILS(config_read(&config, folder, &err), &err, folder);
	folder_remove(folder);
	CHECK_FAILS(config_read(&config, folder, &err), &err, "there is no model folder");
}

/* The published shapes have the published numbers of parameters. */
static void shapes(void)
{
	static const struct {
		const char *name;
		uint64_t parameters;
	} published[] = {
		{"llama-2-7b", 6738415616}, {"llama-2-13b", 13015864320}, {"llama-2-70b", 68976648192},
		{"llama-3-8b", 8030261248}, {"llama-3-70b", 70553706496}, {"mistral-7b", 7241732096},
		{"qwen2.5-7b", 7615616512}, {"qwen3-8b", 8190735360},
		{"tinyllama-1.1b", 1100048384}, {"smollm2-135m", 134515008},
	};
	for (size_t i = 0; i < sizeof published / sizeof published[0]; i++) {
		char path[128], *text;
		size_t length;
		snprintf(path, sizeof path, "configs/shapes/%s.json", published[i].name);
		CHECK_OK(file_read(path, 1 << 20, &text, &length, &err), &err);
		CHECK_OK(config_parse(&config, text, length, path, &err), &err);
		CHECK_MSG(config_parameters(&config) == published[i].parameters, "%s: %llu", path,
			  (unsigned long long)config_parameters(&config));
		free(text);
	}
}

static struct generation_defaults defaults;

static int parse_generation(const char *text)
{
	return generation_defaults_parse(&defaults, &config, text, strlen(text), "generation_config.json",
					 &err);
}

static void generation(void)
{
	char folder[64];
	folder_make(folder);
	CHECK_OK(parse_with(LLAMA, "\"eos_token_id\": [3, 4]"), &err);
	CHECK_OK(generation_defaults_read(&defaults, &config, folder, &err), &err);
	CHECK(!defaults.sample && defaults.temperature == 1 && defaults.top_k == 50);
	CHECK(defaults.top_p == 1 && defaults.min_p == 0 && defaults.repetition_penalty == 1);
	CHECK(!defaults.max_length && !defaults.max_new_tokens && defaults.bos == 1);
	CHECK(defaults.eos_count == 2 && defaults.eos[0] == 3 && defaults.eos[1] == 4);
	folder_print(folder, "generation_config.json",
		     "{\"do_sample\": true, \"temperature\": 0.6, \"top_p\": 0.9, \"top_k\": 20, "
		     "\"min_p\": 0.05, \"repetition_penalty\": 1.1, \"max_length\": 4096, "
		     "\"max_new_tokens\": null, \"bos_token_id\": 9, \"eos_token_id\": 8, "
		     "\"transformers_version\": \"4.40.0\"}");
	CHECK_OK(generation_defaults_read(&defaults, &config, folder, &err), &err);
	CHECK(defaults.sample && defaults.temperature == 0.6 && defaults.top_k == 20);
	CHECK(defaults.top_p == 0.9 && defaults.min_p == 0.05 && defaults.repetition_penalty == 1.1);
	CHECK(defaults.max_length == 4096 && !defaults.max_new_tokens && defaults.bos == 9);
	CHECK(defaults.eos_count == 1 && defaults.eos[0] == 8);
	folder_remove(folder);

	static const char *const bad[][2] = {
		{"[]", "object"},		      {"{", "not valid JSON"},
		{"{\"temperature\": -1}", "temperature"}, {"{\"temperature\": \"hot\"}", "temperature"},
		{"{\"top_p\": 1.5}", "top_p"},	      {"{\"top_k\": -1}", "top_k"},
		{"{\"top_k\": 1e10}", "top_k"},	      {"{\"min_p\": 2}", "min_p"},
		{"{\"repetition_penalty\": 0}", "repetition_penalty"},
		{"{\"max_new_tokens\": 1.5}", "max_new_tokens"},
		{"{\"do_sample\": 1}", "do_sample"},  {"{\"eos_token_id\": {}}", "eos_token_id"},
	};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		CHECK_FAILS(parse_generation(bad[i][0]), &err, bad[i][1]);
}

int main(void)
{
	RUN(family_defaults);
	RUN(both_spellings);
	RUN(biases_and_heads);
	RUN(windows);
	RUN(special_tokens);
	RUN(rope_types);
	RUN(refused_by_name);
	RUN(sizes);
	RUN(nested_deep);
	RUN(folders);
	RUN(shapes);
	RUN(generation);
	TEST_END();
}
