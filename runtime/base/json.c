#include "runtime/base/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/file.h"

#define JSON_EXACT_INTEGERS 9007199254740992.0 /* 2^53 */

json_t *json_parse(const char *text, size_t length, const char *name, struct error *err)
{
	json_error_t where;
	json_t *value = json_loadb(text, length,
				   JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL | JSON_ALLOW_NUL |
					   JSON_REJECT_DUPLICATES,
				   &where);
	if (!value)
		error_run(err, "%s is not valid JSON: %s at line %d, column %d", name, where.text,
			  where.line, where.column);
	return value;
}

json_t *json_read_file(const char *path, size_t max_bytes, struct error *err)
{
	char *text;
	size_t length;
	if (file_read(path, max_bytes, &text, &length, err))
		return NULL;
	json_t *value = json_parse(text, length, path, err);
	free(text);
	return value;
}

json_t *json_member(const json_t *object, const char *key)
{
	json_t *value = json_object_get(object, key);
	return json_is_null(value) ? NULL : value;
}

int json_to_int(const json_t *value, int64_t *out)
{
	if (!json_is_number(value))
		return -1;
	double number = json_number_value(value);
	if (!(fabs(number) <= JSON_EXACT_INTEGERS) || number != floor(number))
		return -1;
	*out = (int64_t)number;
	return 0;
}

int json_get_int(const json_t *object, const char *key, int64_t min, int64_t max, int64_t *out,
		 const char *name, struct error *err)
{
	const json_t *value = json_member(object, key);
	if (!value)
		return 0;
	int64_t number;
	if (json_to_int(value, &number))
		return error_run(err, "%s: %s must be an integer", name, key);
	if (number < min || number > max)
		return error_run(err, "%s: %s is %lld, which is outside %lld to %lld", name, key,
				 (long long)number, (long long)min, (long long)max);
	*out = number;
	return 0;
}

int json_get_real(const json_t *object, const char *key, double min, double max, double *out,
		  const char *name, struct error *err)
{
	const json_t *value = json_member(object, key);
	if (!value)
		return 0;
	if (!json_is_number(value))
		return error_run(err, "%s: %s must be a number", name, key);
	double number = json_number_value(value);
	if (!(number >= min && number <= max))
		return error_run(err, "%s: %s is %g, which is outside %g to %g", name, key, number, min,
				 max);
	*out = number;
	return 0;
}

int json_get_bool(const json_t *object, const char *key, bool *out, const char *name,
		  struct error *err)
{
	const json_t *value = json_member(object, key);
	if (!value)
		return 0;
	if (!json_is_boolean(value))
		return error_run(err, "%s: %s must be true or false", name, key);
	*out = json_is_true(value);
	return 0;
}

int json_get_string(const json_t *object, const char *key, const char **out, const char *name,
		    struct error *err)
{
	const json_t *value = json_member(object, key);
	if (!value)
		return 0;
	if (!json_is_string(value))
		return error_run(err, "%s: %s must be a string", name, key);
	if (strlen(json_string_value(value)) != json_string_length(value))
		return error_run(err, "%s: %s holds a NUL character", name, key);
	*out = json_string_value(value);
	return 0;
}

int json_need(const json_t *object, const char *key, const char *name, struct error *err)
{
	if (!json_member(object, key))
		return error_run(err, "%s has no \"%s\"", name, key);
	return 0;
}
