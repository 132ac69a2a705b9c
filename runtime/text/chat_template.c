/* Opening a template, and turning a conversation into the values that it works on. */
#include "runtime/text/chat_template.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/file.h"
#include "runtime/base/json.h"
#include "runtime/text/chat_template_internal.h"
#include "runtime/text/tokenizer_internal.h"

#define CONFIG_MAX_BYTES ((size_t)64 << 20) /* of tokenizer_config.json */

struct chat_template {
	char *label;
	struct program plain, tools; /* `tools` is used where tools are given; body NULL: none */
	bool has_plain, has_tools;
	json_t *tokens; /* "bos_token": "<s>" and the like */
};

void chat_template_close(struct chat_template *template)
{
	if (!template)
		return;
	arena_free(&template->plain.arena);
	arena_free(&template->tools.arena);
	json_decref(template->tokens);
	free(template->label);
	free(template);
}

/* ---- opening ---- */

/* Line ends become "\n", and the last one goes. */
static char *normalize_lines(struct arena *arena, const char *text, size_t *length)
{
	char *out = arena_take(arena, *length + 1);
	size_t at = 0;
	for (size_t i = 0; out && i < *length; i++) {
		if (text[i] == '\r' && i + 1 < *length && text[i + 1] == '\n')
			continue;
		out[at++] = text[i] == '\r' ? '\n' : text[i];
	}
	if (out && at && out[at - 1] == '\n')
		at--;
	*length = at;
	return out;
}

static int open_program(struct chat_template *template, bool tools, const char *text, size_t length,
			struct error *err)
{
	struct program *program = tools ? &template->tools : &template->plain;
	size_t valid = utf8_check(text, length);
	if (length > TEMPLATE_MAX_BYTES)
		return error_run(err, "%s: a chat template of %zu bytes is too long", template->label,
				 length);
	if (valid < length)
		return error_run(err, "%s: byte %zu of the chat template is not UTF-8",
				 template->label, valid);
	if (tools ? template->has_tools : template->has_plain)
		return error_run(err, "%s: two chat templates have the same name", template->label);
	program->label = template->label;
	text = normalize_lines(&program->arena, text, &length);
	if (!text)
		return error_memory(err, "a chat template");
	*(tools ? &template->has_tools : &template->has_plain) = true;
	return parser_run(program, (struct text){text, length}, err);
}

/* Members named ..._token: text, or an object whose "content" is the text. */
static int read_tokens(struct chat_template *template, const json_t *config, struct error *err)
{
	const char *key;
	json_t *value;
	template->tokens = json_object();
	if (!template->tokens)
		return error_memory(err, "a chat template");
	json_object_foreach((json_t *)config, key, value) {
		size_t length = strlen(key);
		if (length < 6 || strcmp(key + length - 6, "_token") != 0)
			continue;
		if (json_is_object(value))
			value = json_object_get(value, "content");
		if (json_is_string(value) && json_object_set(template->tokens, key, value))
			return error_memory(err, "a chat template");
	}
	return 0;
}

static struct chat_template *template_new(const char *label, const json_t *config, struct error *err)
{
	struct chat_template *template = calloc(1, sizeof *template);
	if (!template || !(template->label = strdup(label))) {
		error_memory(err, "a chat template");
	} else if (read_tokens(template, config, err) == 0) {
		return template;
	}
	chat_template_close(template);
	return NULL;
}

int chat_template_open_text(struct chat_template **out, const char *text, size_t length,
			    const json_t *config, const char *name, struct error *err)
{
	*out = NULL;
	struct chat_template *template = template_new(name, config, err);
	if (!template || open_program(template, false, text, length, err)) {
		chat_template_close(template);
		return -1;
	}
	*out = template;
	return 0;
}

/* FOLDER/name, where it exists. */
static int open_file(struct chat_template *template, const char *folder, const char *name,
		     bool tools, struct error *err)
{
	char *path = file_join(folder, name, err), *text = NULL;
	size_t length;
	int result = path ? 0 : -1;
	if (path && file_exists(path))
		result = file_read(path, TEMPLATE_MAX_BYTES, &text, &length, err) ||
				 open_program(template, tools, text, length, err)
				 ? -1
				 : 0;
	free(text);
	free(path);
	return result;
}

static int open_string(struct chat_template *template, const json_t *string, bool tools,
		       struct error *err)
{
	return open_program(template, tools, json_string_value(string), json_string_length(string),
			    err);
}

/* "chat_template" of tokenizer_config.json: a text, or a list of named ones, of which "default"
 * and "tool_use" are for us. */
static int open_config(struct chat_template *template, const json_t *entry, struct error *err)
{
	size_t index;
	json_t *item;
	if (!entry)
		return 0;
	if (json_is_string(entry))
		return open_string(template, entry, false, err);
	if (!json_is_array(entry))
		return error_run(err, "%s: chat_template must be a text or a list of templates",
				 template->label);
	json_array_foreach(entry, index, item) {
		const char *name = json_string_value(json_object_get(item, "name"));
		const json_t *text = json_object_get(item, "template");
		if (!name || !json_is_string(text))
			return error_run(err, "%s: template %zu of chat_template has no name or no text",
					 template->label, index);
		bool tools = strcmp(name, "tool_use") == 0;
		if ((tools || strcmp(name, "default") == 0) &&
		    open_string(template, text, tools, err))
			return -1;
	}
	return 0;
}

int chat_template_open(struct chat_template **out, const char *folder, struct error *err)
{
	struct chat_template *template = NULL;
	char *path = file_join(folder, "tokenizer_config.json", err);
	json_t *config = NULL;
	int result = -1;
	*out = NULL;
	if (!path)
		return -1;
	if (file_exists(path) && !(config = json_read_file(path, CONFIG_MAX_BYTES, err)))
		goto end;
	if (config && !json_is_object(config)) {
		error_run(err, "%s must hold a JSON object", path);
		goto end;
	}
	template = template_new(folder, config, err);
	if (!template || open_file(template, folder, "chat_template.jinja", false, err) ||
	    open_file(template, folder, "additional_chat_templates/tool_use.jinja", true, err))
		goto end;
	if (!template->has_plain && !template->has_tools &&
	    open_config(template, json_member(config, "chat_template"), err))
		goto end;
	result = 0;
	if (template->has_plain || template->has_tools) {
		*out = template;
		template = NULL;
	}
end:
	chat_template_close(template);
	json_decref(config);
	free(path);
	return result;
}

/* ---- rendering ---- */

static int from_json(struct render *r, const json_t *json, struct value *out);

static int from_string(struct render *r, const char *data, size_t length, struct value *out)
{
	*out = value_string(data, length);
	return utf8_check(data, length) == length ? 0 : render_fail(r, "a text is not UTF-8");
}

static int from_array(struct render *r, const json_t *json, struct value *out)
{
	if (render_enter(r) || value_sequence(r, VALUE_LIST, json_array_size(json), out))
		return -1;
	for (size_t i = 0; i < out->sequence->count; i++)
		if (from_json(r, json_array_get(json, i), &out->sequence->values[i]))
			return -1;
	render_leave(r);
	return 0;
}

static int from_object(struct render *r, const json_t *json, struct value *out)
{
	const char *key;
	size_t length;
	json_t *member;
	if (render_enter(r) || value_dict(r, json_object_size(json), out))
		return -1;
	for (void *at = json_object_iter((json_t *)json); at;
	     at = json_object_iter_next((json_t *)json, at)) {
		struct pair *pair = &out->dict->pairs[out->dict->count++];
		key = json_object_iter_key(at);
		length = json_object_iter_key_len(at);
		member = json_object_iter_value(at);
		if (from_string(r, key, length, &pair->key) || from_json(r, member, &pair->value))
			return -1;
	}
	render_leave(r);
	return 0;
}

/* Strings are borrowed from `json`. The reader of base/json.h makes no difference between 1 and
 * 1.0, so a number without a fraction is an integer here. */
static int from_json(struct render *r, const json_t *json, struct value *out)
{
	int64_t integer;
	switch (json_typeof(json)) {
	case JSON_OBJECT:
		return from_object(r, json, out);
	case JSON_ARRAY:
		return from_array(r, json, out);
	case JSON_STRING:
		return from_string(r, json_string_value(json), json_string_length(json), out);
	case JSON_INTEGER:
		*out = value_integer(json_integer_value(json));
		return 0;
	case JSON_REAL:
		*out = json_to_int(json, &integer) ? value_float(json_real_value(json))
						   : value_integer(integer);
		return 0;
	case JSON_NULL:
		*out = value_none();
		return 0;
	default:
		*out = value_bool(json_is_true(json));
		return 0;
	}
}

/* Binds a variable, if the template names it at all. */
static int bind(struct render *r, const char *key, struct value value)
{
	struct text text = {key, strlen(key)};
	const struct name *name = r->program->names;
	while (name && !text_equal(name->text, text))
		name = name->next;
	return name ? render_bind(r, r->scope, name->text.data, value) : 0;
}

static int bind_members(struct render *r, const json_t *object)
{
	const char *key;
	json_t *member;
	json_object_foreach((json_t *)object, key, member) {
		struct value value;
		if (from_json(r, member, &value) || bind(r, key, value))
			return -1;
	}
	return 0;
}

static int bind_variables(struct render *r, const struct chat_template *template,
			  const json_t *messages, bool add_generation_prompt,
			  const json_t *variables)
{
	struct value list;
	r->scope = render_scope(r, NULL);
	/* transformers always passes tools and documents, None where there are none. */
	return !r->scope || bind_members(r, template->tokens) || bind(r, "tools", value_none()) ||
	       bind(r, "documents", value_none()) || bind_members(r, variables) ||
	       from_json(r, messages, &list) || bind(r, "messages", list) ||
	       bind(r, "add_generation_prompt", value_bool(add_generation_prompt));
}

int chat_template_render(const struct chat_template *template, const json_t *messages,
			 bool add_generation_prompt, const json_t *variables, time_t now, char **text,
			 size_t *length, struct error *err)
{
	bool tools = template->has_tools && json_member(variables, "tools");
	struct render r = {.program = tools ? &template->tools : &template->plain,
			   .arena.limit = TEMPLATE_MAX_MEMORY, .now = now, .line = 1, .err = err};
	int result = -1;
	*text = NULL;
	if (!json_is_array(messages)) {
		error_usage(err, "messages must be a list of objects with a role and a content");
	} else if (!tools && !template->has_plain) {
		error_usage(err, "%s: the only chat template is for tools, and none are given",
			    template->label);
	} else if (bind_variables(&r, template, messages, add_generation_prompt, variables) == 0 &&
		   render_body(&r, r.program->body) == 0 && render_put(&r, "", 1) == 0) {
		*text = r.out.data;
		*length = r.out.length - 1;
		r.out.data = NULL;
		result = 0;
	}
	arena_free(&r.arena);
	free(r.out.data);
	return result;
}
