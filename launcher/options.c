#include "launcher/options_table.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/json.h"

enum { CONFIG_BYTES_MAX = 16 << 20 };

/* ---- values ------------------------------------------------------------------------------ */

int options_parse_size(const char *text, uint64_t *bytes)
{
	static const char letters[] = "KMGT";
	char *end;
	errno = 0;
	double number = strtod(text, &end);
	if (end == text || errno || !(number >= 0))
		return -1;
	while (*end == ' ')
		end++;
	double unit = 1;
	const char *letter = *end ? strchr(letters, toupper((unsigned char)*end)) : NULL;
	if (letter) {
		bool decimal = (end[1] == 'B' || end[1] == 'b') && !end[2];
		if (!decimal && end[1] && strcmp(end + 1, "iB"))
			return -1;
		unit = pow(decimal ? 1000 : 1024, (double)(letter - letters + 1));
	} else if (*end && strcmp(end, "B")) {
		return -1;
	}
	if (number * unit >= 0x1p63)
		return -1;
	*bytes = (uint64_t)(number * unit);
	return 0;
}

static int parse_ids(const char *text, struct option_ids *out)
{
	size_t capacity = 1;
	for (const char *c = text; *c; c++)
		capacity += *c == ',';
	int32_t *ids = malloc(capacity * sizeof *ids);
	if (!ids)
		return -1;
	size_t count = 0;
	const char *at = text + strspn(text, " ");
	while (*at) {
		char *end;
		errno = 0;
		long id = isdigit((unsigned char)*at) ? strtol(at, &end, 10) : -1;
		if (id < 0 || id > INT32_MAX || errno)
			goto fail;
		ids[count++] = (int32_t)id;
		at = end + strspn(end, " ");
		if (!*at)
			break;
		if (*at != ',')
			goto fail;
		at += 1 + strspn(at + 1, " ");
		if (!*at)
			goto fail;
	}
	free(out->data);
	*out = (struct option_ids){ids, count};
	return 0;
fail:
	free(ids);
	return -1;
}

/* "cpu, cuda or …" into text[size]. */
static void choice_list(const struct option_spec *spec, char *text, size_t size)
{
	size_t length = 0;
	for (int i = 0; spec->choices[i] && length < size; i++)
		length += (size_t)snprintf(text + length, size - length, "%s%s",
					   !i ? "" : spec->choices[i + 1] ? ", " : " or ",
					   spec->choices[i]);
}

static int refuse(const struct option_spec *spec, const char *value, const char *wanted,
		  struct error *err)
{
	return error_usage(err, "--%s takes %s, not \"%.80s\"", spec->name, wanted, value);
}

static int parse_number(const struct option_spec *spec, const char *value, void *field,
			struct error *err)
{
	char wanted[96];
	if (spec->type == TYPE_INT && spec->max >= INT32_MAX)
		snprintf(wanted, sizeof wanted, "a whole number of at least %g", spec->min);
	else
		snprintf(wanted, sizeof wanted, "%s %s %g %s %g",
			 spec->type == TYPE_INT ? "a whole number" : "a number",
			 spec->above ? "above" : "from", spec->min,
			 spec->above ? "up to" : "to", spec->max);

	char *end;
	errno = 0;
	double number;
	if (spec->type == TYPE_INT)
		number = (double)strtoll(value, &end, 10);
	else
		number = strtod(value, &end);
	if (end == value || *end || !(number >= spec->min && number <= spec->max) ||
	    (spec->above && number == spec->min))
		return refuse(spec, value, wanted, err);
	if (spec->type == TYPE_INT)
		*(int32_t *)field = (int32_t)number;
	else
		*(double *)field = number;
	return 0;
}

static int parse_seed(const struct option_spec *spec, const char *value, uint64_t *field,
		      struct error *err)
{
	char *end;
	errno = 0;
	unsigned long long seed = strtoull(value, &end, 10);
	if (!isdigit((unsigned char)*value) || *end || errno)
		return refuse(spec, value, "a whole number below 2^64", err);
	*field = seed;
	return 0;
}

static int parse_choice(const struct option_spec *spec, const char *value, int32_t *field,
			struct error *err)
{
	char list[96];
	for (int i = 0; spec->choices[i]; i++)
		if (!strcmp(value, spec->choices[i])) {
			*field = i;
			return 0;
		}
	choice_list(spec, list, sizeof list);
	return refuse(spec, value, list, err);
}

static char *copy_text(const char *text, size_t length)
{
	char *copy = malloc(length + 1);
	if (copy) {
		memcpy(copy, text, length);
		copy[length] = '\0';
	}
	return copy;
}

/* Puts one value into its field. `value` ends with NUL and may hold others only in a text. */
static int set_value(struct options *options, int id, const char *value, size_t length,
		     struct error *err)
{
	const struct option_spec *spec = &option_specs[id];
	void *field = (char *)options + spec->field;
	if (strlen(value) != length && spec->type != TYPE_TEXT)
		return error_usage(err, "--%s cannot hold a NUL character", spec->name);
	options->given[id] = true;

	switch (spec->type) {
	case TYPE_FLAG:
		*(bool *)field = true;
		return 0;
	case TYPE_CHOICE:
		return parse_choice(spec, value, field, err);
	case TYPE_INT:
	case TYPE_REAL:
		return parse_number(spec, value, field, err);
	case TYPE_SEED:
		return parse_seed(spec, value, field, err);
	case TYPE_SIZE:
		if (options_parse_size(value, field))
			return refuse(spec, value, "a size such as 80GiB or 512MB", err);
		return 0;
	case TYPE_IDS:
		if (parse_ids(value, field))
			return refuse(spec, value, "token ids such as 1,2,3", err);
		return 0;
	case TYPE_TEXT: {
		struct option_text *text = field;
		free(text->data);
		*text = (struct option_text){copy_text(value, length), length};
		return text->data ? 0 : error_memory(err, "the options");
	}
	case TYPE_TEXTS: {
		struct option_texts *texts = field;
		char **grown = realloc(texts->data, (texts->count + 1) * sizeof *grown);
		if (!grown)
			return error_memory(err, "the options");
		texts->data = grown;
		if (!(grown[texts->count] = copy_text(value, length)))
			return error_memory(err, "the options");
		texts->count++;
		return 0;
	}
	}
	return 0;
}

/* ---- the config file --------------------------------------------------------------------- */

/* One JSON value becomes the text that the command line would have carried. */
static int set_json_scalar(struct options *options, int id, const json_t *value, struct error *err)
{
	char number[64];
	int64_t integer;
	if (json_is_string(value))
		return set_value(options, id, json_string_value(value), json_string_length(value),
				 err);
	if (json_is_number(value)) {
		if (!json_to_int(value, &integer))
			snprintf(number, sizeof number, "%lld", (long long)integer);
		else
			snprintf(number, sizeof number, "%.17g", json_number_value(value));
		return set_value(options, id, number, strlen(number), err);
	}
	return error_usage(err, "--%s takes a %s", option_specs[id].name,
			   option_specs[id].value ? "string or a number" : "true or false");
}

static int set_json_ids(struct options *options, int id, const json_t *array, struct error *err)
{
	size_t count = json_array_size(array);
	struct option_ids ids = {malloc((count + 1) * sizeof *ids.data), count};
	if (!ids.data)
		return error_memory(err, "the options");
	for (size_t i = 0; i < count; i++) {
		int64_t value;
		if (json_to_int(json_array_get(array, i), &value) || value < 0 || value > INT32_MAX) {
			free(ids.data);
			return error_usage(err, "--%s takes token ids such as [1, 2, 3]",
					   option_specs[id].name);
		}
		ids.data[i] = (int32_t)value;
	}
	struct option_ids *field = (void *)((char *)options + option_specs[id].field);
	free(field->data);
	*field = ids;
	options->given[id] = true;
	return 0;
}

static int set_json(struct options *options, int id, const json_t *value, struct error *err)
{
	if (option_specs[id].type == TYPE_FLAG && json_is_boolean(value)) {
		*(bool *)((char *)options + option_specs[id].field) = json_is_true(value);
		options->given[id] = json_is_true(value);
		return 0;
	}
	if (option_specs[id].type == TYPE_IDS && json_is_array(value))
		return set_json_ids(options, id, value, err);
	if (option_specs[id].type == TYPE_TEXTS && json_is_array(value)) {
		for (size_t i = 0; i < json_array_size(value); i++)
			if (set_json_scalar(options, id, json_array_get(value, i), err))
				return -1;
		return 0;
	}
	if (option_specs[id].type == TYPE_FLAG || json_is_boolean(value))
		return error_usage(err, "--%s takes %s", option_specs[id].name,
				   option_specs[id].value ? option_specs[id].value : "true or false");
	return set_json_scalar(options, id, value, err);
}

static int find_key(const char *key)
{
	char name[64];
	snprintf(name, sizeof name, "%s", key);
	for (char *c = name; *c; c++)
		*c = *c == '_' ? '-' : *c;
	for (int i = 0; i < OPTIONS; i++)
		if (!strcmp(name, option_specs[i].name) && strlen(key) == strlen(option_specs[i].name))
			return i;
	return -1;
}

/* Sets what the command line didn't. Keys of other commands are allowed, so that one file can
 * serve several. */
static int read_config(struct options *options, struct error *err)
{
	const char *path = options->config.data;
	json_t *file = json_read_file(path, CONFIG_BYTES_MAX, err), *value;
	int result = -1;
	const char *key;
	if (!file)
		goto fail;
	if (!json_is_object(file)) {
		error_usage(err, "--config: %s must hold a JSON object", path);
		goto fail;
	}
	json_object_foreach (file, key, value) {
		int id = find_key(key);
		if (id < 0 || id == OPTION_CONFIG) {
			error_usage(err, "--config: %s: \"%.60s\" is no option", path, key);
			goto fail;
		}
		if (options->given[id] || json_is_null(value) ||
		    !option_belongs(&option_specs[id], options->command))
			continue;
		if (set_json(options, id, value, err)) {
			error_context(err, "--config: %s", path);
			goto fail;
		}
	}
	result = 0;
fail:
	if (result)
		err->kind = ERROR_USAGE;
	json_decref(file);
	return result;
}

/* ---- the command line -------------------------------------------------------------------- */

/* Levenshtein's distance of two short words. */
static int word_distance(const char *a, const char *b)
{
	int row[64], length = (int)strlen(b);
	if (length >= 64)
		return INT_MAX;
	for (int j = 0; j <= length; j++)
		row[j] = j;
	for (int i = 1; *a; a++, i++) {
		int diagonal = row[0];
		row[0] = i;
		for (int j = 1; j <= length; j++) {
			int best = diagonal + (*a != b[j - 1]);
			diagonal = row[j];
			best = best < row[j] + 1 ? best : row[j] + 1;
			row[j] = best < row[j - 1] + 1 ? best : row[j - 1] + 1;
		}
	}
	return row[length];
}

/* `word` begins with "--" and may go on after "=". */
static int unknown_option(const char *word, enum command command, struct error *err)
{
	char name[64];
	snprintf(name, sizeof name, "%.*s", (int)strcspn(word, "="), word);
	const char *bare = name + strspn(name, "-"), *near = NULL;
	int best = 4;
	for (int i = 0; i < OPTIONS; i++) {
		if (!strcmp(bare, option_specs[i].name) && !option_belongs(&option_specs[i], command))
			return error_usage(err, "%s is no option of %s; see tprun %s --help", name,
					   command_specs[command].name, command_specs[command].name);
		int distance = word_distance(bare, option_specs[i].name);
		if (distance < best && distance < (int)strlen(option_specs[i].name) - 1 &&
		    option_belongs(&option_specs[i], command)) {
			best = distance;
			near = option_specs[i].name;
		}
	}
	if (near)
		return error_usage(err, "unknown option %s; did you mean --%s?", name, near);
	return error_usage(err, "unknown option %s; see tprun %s --help", name,
			   command_specs[command].name);
}

static int find_command(struct options *out, const char *word, struct error *err)
{
	char list[128] = "";
	for (int i = COMMAND_NONE + 1; i < COMMANDS; i++) {
		if (!strcmp(word, command_specs[i].name)) {
			out->command = (enum command)i;
			return 0;
		}
		size_t length = strlen(list);
		snprintf(list + length, sizeof list - length, "%s%s", length ? ", " : "",
			 command_specs[i].name);
	}
	if (*word == '-')
		return error_usage(err, "the command comes first: tprun COMMAND [options], where "
					"COMMAND is one of %s; see tprun --help", list);
	return error_usage(err, "unknown command \"%.60s\"; the commands are %s", word, list);
}

/* What holds between options. */
static int check_together(const struct options *options, struct error *err)
{
	const bool *given = options->given;
	if (given[OPTION_CSV] && given[OPTION_JSON])
		return error_usage(err, "--csv and --json exclude each other");
	if (options->command != COMMAND_BATCH)
		return 0;
	if (!given[OPTION_INPUT])
		return error_usage(err, "batch needs --input FILE, a prompt a line such as {\"id\": "
					"\"a1\", \"prompt\": \"Once\"}; - is standard input");
	if (!given[OPTION_OUTPUT] || !strcmp(options->output.data, "-"))
		return error_usage(err, "batch needs --output FILE, a file that a later call can go on "
					"with%s", given[OPTION_OUTPUT] ? ", not -" : "");
	if (given[OPTION_MAX_SEQUENCES] && given[OPTION_MAX_BATCH_TOKENS] &&
	    options->max_batch_tokens < options->max_sequences)
		return error_usage(err, "--max-batch-tokens %d is less than a token for each of "
					"--max-sequences %d; give at least as many",
				   options->max_batch_tokens, options->max_sequences);
	return 0;
}

int options_parse(struct options *out, int argc, char **argv, struct error *err)
{
	*out = (struct options){0};
	if (argc < 2)
		return error_usage(err, "no command given; see tprun --help");
	out->help = !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help");
	out->version = !strcmp(argv[1], "--version");
	if (out->help || out->version)
		return 0;
	if (find_command(out, argv[1], err))
		return -1;

	struct option longs[OPTIONS + 2];
	int count = 0;
	for (int i = 0; i < OPTIONS; i++)
		if (option_belongs(&option_specs[i], out->command))
			longs[count++] = (struct option){option_specs[i].name,
				option_specs[i].type == TYPE_FLAG ? no_argument : required_argument, NULL,
				i + 256};
	longs[count++] = (struct option){"help", no_argument, NULL, 'h'};
	longs[count] = (struct option){0};

	/* The command's own word takes the place of the program's name. */
	char **rest = argv + 1;
	int rest_count = argc - 1, which;
	optind = 0; /* getopt starts afresh */
	opterr = 0;
	for (;;) {
		int at = optind ? optind : 1;
		which = getopt_long(rest_count, rest, "+:h", longs, NULL);
		if (which == -1)
			break;
		if (which == 'h')
			out->help = true;
		else if (which == ':')
			return error_usage(err, "%s needs a value; see tprun %s --help", rest[at],
					   command_specs[out->command].name);
		else if (which == '?' && optopt >= 256)
			return error_usage(err, "--%s takes no value", option_specs[optopt - 256].name);
		else if (which == '?')
			return unknown_option(rest[at], out->command, err);
		else if (set_value(out, which - 256, optarg ? optarg : "",
				   optarg ? strlen(optarg) : 0, err))
			return -1;
	}
	if (out->help)
		return 0;
	if (optind < rest_count)
		return error_usage(err, "\"%.60s\" stands alone; values follow their option, and a "
					"text with spaces wants quotes", rest[optind]);
	if (out->given[OPTION_CONFIG] && read_config(out, err))
		return -1;
	return check_together(out, err);
}

void options_close(struct options *options)
{
	if (!options)
		return;
	for (int i = 0; i < OPTIONS; i++) {
		void *field = (char *)options + option_specs[i].field;
		if (option_specs[i].type == TYPE_TEXT)
			free(((struct option_text *)field)->data);
		else if (option_specs[i].type == TYPE_IDS)
			free(((struct option_ids *)field)->data);
		else if (option_specs[i].type == TYPE_TEXTS) {
			struct option_texts *texts = field;
			while (texts->count)
				free(texts->data[--texts->count]);
			free(texts->data);
		}
	}
	*options = (struct options){0};
}
