/*
 * chat_template.h - a conversation as the text that a model was trained on.
 *
 * Renders the Jinja template of a model folder (chat_template.jinja where there is one, else
 * `chat_template` of tokenizer_config.json) with an interpreter of the part of Jinja that published
 * templates use, the way transformers' apply_chat_template does (trim_blocks and lstrip_blocks on,
 * loop controls, tojson without HTML escapes, raise_exception, strftime_now). What it does not
 * know - a tag, a filter, a test, a function - is refused by name and line when the template is
 * opened, or where only a value tells (a method of an unknown name), when it is rendered.
 * Templates are hostile: loops, recursion, nesting and the size of the result are bounded.
 */
#ifndef TPRUN_TEXT_CHAT_TEMPLATE_H
#define TPRUN_TEXT_CHAT_TEMPLATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "runtime/base/error.h"

struct chat_template;

/* From a model folder. *out is NULL, without an error, where the folder has no template. */
int chat_template_open(struct chat_template **out, const char *folder, struct error *err);
/* From a template's text; the special tokens (bos_token, ...) are members of `config`, an object
 * like tokenizer_config.json (strings, or objects with "content"); may be NULL. `name` is what
 * errors call it. For tests and fuzzers. */
int chat_template_open_text(struct chat_template **out, const char *text, size_t length,
			    const json_t *config, const char *name, struct error *err);
void chat_template_close(struct chat_template *);

/* Renders `messages`, an array of {"role": ..., "content": ...}, into malloc'ed text, NUL-terminated
 * beyond *length. add_generation_prompt: end where the assistant's answer begins. `variables`: an
 * object of further variables of the template ("tools", "date_string", "enable_thinking"); may be
 * NULL. A number without a fraction is an integer, as json_parse makes no difference between 1 and
 * 1.0. `now`: what strftime_now formats, in local time. A template's own raise_exception is an
 * ERROR_USAGE with its message. The template does not change: calls are independent. The text holds
 * BOS where the template writes it, so it is to be encoded without the tokenizer's own. */
int chat_template_render(const struct chat_template *, const json_t *messages,
			 bool add_generation_prompt, const json_t *variables, time_t now, char **text,
			 size_t *length, struct error *err);

#endif
