#include "runtime/text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

int array_reserve(void *data, size_t *capacity, size_t count, size_t size, struct error *err)
{
	if (count <= *capacity)
		return 0;
	size_t room = *capacity + *capacity / 2;
	if (room < count)
		room = count;
	if (room < 16)
		room = 16;
	void *old, *grown = NULL;
	memcpy(&old, data, sizeof old);
	if (room <= SIZE_MAX / 2 / size)
		grown = realloc(old, room * size);
	if (!grown)
		return error_memory(err, "a tokenizer's text");
	memcpy(data, &grown, sizeof grown);
	*capacity = room;
	return 0;
}

int bytes_append(struct bytes *bytes, const void *data, size_t length, struct error *err)
{
	if (array_reserve(&bytes->data, &bytes->capacity, bytes->length + length + 1, 1, err))
		return -1;
	if (length)
		memcpy(bytes->data + bytes->length, data, length);
	bytes->length += length;
	bytes->data[bytes->length] = '\0';
	return 0;
}

int bytes_append_char(struct bytes *bytes, int32_t code, struct error *err)
{
	char text[4];
	size_t width;
	if (code < 0x80) {
		text[0] = (char)code;
		width = 1;
	} else if (code < 0x800) {
		text[0] = (char)(0xc0 | code >> 6);
		width = 2;
	} else if (code < 0x10000) {
		text[0] = (char)(0xe0 | code >> 12);
		width = 3;
	} else {
		text[0] = (char)(0xf0 | code >> 18);
		width = 4;
	}
	for (size_t i = 1; i < width; i++)
		text[i] = (char)(0x80 | (code >> 6 * (width - 1 - i) & 0x3f));
	return bytes_append(bytes, text, width, err);
}

void bytes_free(struct bytes *bytes)
{
	free(bytes->data);
	*bytes = (struct bytes){0};
}

int id_list_append(struct id_list *list, int32_t id, struct error *err)
{
	if (array_reserve(&list->data, &list->capacity, list->count + 1, sizeof *list->data, err))
		return -1;
	list->data[list->count++] = id;
	return 0;
}

/* Bytes of the valid character at `text`, or 0. Overlong forms, surrogates and what lies
 * beyond U+10FFFF are not valid (Unicode 15, table 3-7). */
static size_t utf8_valid_width(const unsigned char *text, size_t left)
{
	if (text[0] < 0x80)
		return 1;
	if (text[0] < 0xc2 || text[0] > 0xf4)
		return 0;
	size_t width = utf8_width((char)text[0]);
	if (width > left)
		return 0;
	for (size_t i = 1; i < width; i++)
		if ((text[i] & 0xc0) != 0x80)
			return 0;
	if ((text[0] == 0xe0 && text[1] < 0xa0) || (text[0] == 0xed && text[1] > 0x9f) ||
	    (text[0] == 0xf0 && text[1] < 0x90) || (text[0] == 0xf4 && text[1] > 0x8f))
		return 0;
	return width;
}

size_t utf8_check(const char *text, size_t length)
{
	size_t at = 0, width;
	while (at < length &&
	       (width = utf8_valid_width((const unsigned char *)text + at, length - at)))
		at += width;
	return at;
}

int32_t utf8_decode(const char *text, size_t *width)
{
	static const unsigned char first_bits[5] = {0, 0x7f, 0x1f, 0x0f, 0x07};
	*width = utf8_width(text[0]);
	int32_t code = text[0] & first_bits[*width];
	for (size_t i = 1; i < *width; i++)
		code = code << 6 | (text[i] & 0x3f);
	return code;
}

bool utf8_is_space(int32_t code)
{
	return (code >= 9 && code <= 13) || code == 0x20 || code == 0x85 || code == 0xa0 ||
	       code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
	       code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

/* The bytes that GPT-2 does not leave as they are, in their order, become U+0100 and on:
 * 0 to 0x20, 0x7f to 0xa0, 0xad (encoder.py of openai/gpt-2, bytes_to_unicode). */
int32_t byte_level_char(unsigned char byte)
{
	if (byte <= 0x20)
		return 0x100 + byte;
	if (byte >= 0x7f && byte <= 0xa0)
		return 0x100 + 0x21 + (byte - 0x7f);
	return byte == 0xad ? 0x143 : byte;
}

int byte_level_byte(int32_t code)
{
	if (code > 0x20 && code < 0x100)
		return byte_level_char((unsigned char)code) == code ? code : -1;
	if (code < 0x100 || code > 0x143)
		return -1;
	return code <= 0x120 ? code - 0x100 : code < 0x143 ? code - 0x121 + 0x7f : 0xad;
}
