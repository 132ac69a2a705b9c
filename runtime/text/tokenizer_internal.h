/*
 * tokenizer_internal.h - what the files of the tokenizer share.
 *
 * A text becomes ids in four steps, each a list of small operations read from the
 * tokenizer's file:
 *
 *	added tokens	cut out what is a token of its own ("<|eot_id|>")	added_tokens.c
 *	normalizers	rewrite the rest (NFC, " " to "▁")			normalize.c
 *	splits		cut it into words, perhaps spelled in bytes		pretokenize.c
 *	BPE		turn each word into ids					bpe.c
 *
 * and ids become text through a list of decoders (stream.c). tokenizer_json.c and
 * tokenizer_sentencepiece.c fill these lists; nothing writes to a tokenizer afterwards.
 */
#ifndef TPRUN_TEXT_TOKENIZER_INTERNAL_H
#define TPRUN_TEXT_TOKENIZER_INTERNAL_H

#include "runtime/base/json.h"
#include "runtime/text/tokenizer.h"

#define TOKENIZER_MAX_IDS (1 << 22) /* bounds what a hostile file can make us allocate */
#define TOKENIZER_MAX_STEPS 64	    /* of each list */
#define TOKENIZER_MAX_FILE ((size_t)256 << 20)
#define TOKENIZER_SPACE "\xe2\x96\x81" /* U+2581, SentencePiece's visible space */

/* ---- growing arrays (text_memory.c) ---- */

struct bytes {
	char *data;
	size_t length, capacity;
};
int bytes_append(struct bytes *, const void *data, size_t length, struct error *err);
int bytes_append_char(struct bytes *, int32_t code_point, struct error *err);
void bytes_free(struct bytes *);

struct id_list {
	int32_t *data;
	size_t count, capacity;
};
int id_list_append(struct id_list *, int32_t id, struct error *err);

/* Makes room for `count` elements of `size` bytes in *data, doubling *capacity; -1 without
 * memory. For arrays that have no struct of their own. */
int array_reserve(void *data, size_t *capacity, size_t count, size_t size, struct error *err);

/* ---- UTF-8 (text_memory.c) ---- */

/* Offset of the first byte that is not valid UTF-8, or `length` where all is. */
size_t utf8_check(const char *text, size_t length);
/* Bytes of the character that starts with `first`; the text is valid. */
static inline size_t utf8_width(char first)
{
	unsigned char byte = (unsigned char)first;
	return byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}
/* The character at `text`, which is valid; *width gets its bytes. */
int32_t utf8_decode(const char *text, size_t *width);
/* Unicode's White_Space. */
bool utf8_is_space(int32_t code_point);
/* GPT-2's spelling of bytes as printable characters: the code point of a byte, and back
 * (-1 where the code point stands for none). */
int32_t byte_level_char(unsigned char byte);
int byte_level_byte(int32_t code_point);

/* ---- vocabulary and merges (vocabulary.c) ---- */

enum {
	TOKEN_MODEL = 1,      /* of the model's own vocabulary, which BPE may give */
	TOKEN_ADDED = 2,      /* recognized in text before BPE */
	TOKEN_SPECIAL = 4,    /* left out of a decode that skips special tokens */
	TOKEN_NORMALIZED = 8, /* among the added tokens of normalized text */
};

struct token {
	uint32_t offset, length; /* of the spelling, in vocabulary.text */
	uint32_t flags;		 /* 0: no such id */
};

struct vocabulary {
	struct bytes text;
	struct token *tokens; /* by id */
	size_t size, capacity;
	struct vocabulary_slot {
		uint32_t hash;
		int32_t id; /* -1: free */
	} *slots;
	size_t slot_count, used; /* slot_count is a power of two */
};
/* A spelling or an id that is there already is an error that calls the file `name`. */
int vocabulary_add(struct vocabulary *, const char *text, size_t length, int32_t id, uint32_t flags,
		   const char *name, struct error *err);
/* The id of a spelling, or -1. */
int32_t vocabulary_find(const struct vocabulary *, const char *text, size_t length);
/* The token of an id, or NULL. */
const struct token *vocabulary_token(const struct vocabulary *, int32_t id);
void vocabulary_free(struct vocabulary *);

/* (left, right) -> (rank, merged); a lower rank merges first. */
struct merge {
	int32_t left, right; /* left -1: a free slot */
	uint32_t rank;
	int32_t merged;
};
struct merge_table {
	struct merge *slots;
	size_t slot_count, used;
};
/* A pair that is there already gets the new rank. */
int merge_table_add(struct merge_table *, struct merge merge, struct error *err);
const struct merge *merge_table_find(const struct merge_table *, int32_t left, int32_t right);

/* ---- regular expressions (pattern.c) ---- */

/* Compiled for Oniguruma's meaning, which Hugging Face's files are written for; what PCRE2
 * would read otherwise is refused. */
struct pattern;
int pattern_open(struct pattern **out, const char *regex, size_t length, const char *name,
		 struct error *err);
/* Matches `text` itself. */
int pattern_open_literal(struct pattern **out, const char *text, size_t length, const char *name,
			 struct error *err);
void pattern_close(struct pattern *);

/* What a search needs and a pattern, being shared, can't hold; among it the time that patterns
 * may take, which grows with the `length` of the text. */
struct matcher;
int matcher_open(struct matcher **out, size_t length, struct error *err);
void matcher_close(struct matcher *);

/* A walk over all matches as Hugging Face does it, who finds none in an empty text: begin with
 * {0}. */
struct match {
	size_t start, end;
	size_t from;
	bool any;
};
/* 1 with the next match, 0 where there is none, -1 where a limit was hit. */
int pattern_next(const struct pattern *, struct matcher *, const char *text, size_t length,
		 struct match *match, struct error *err);

/* ---- added tokens (added_tokens.c) ---- */

struct added_token {
	char *text; /* what is looked for */
	size_t length;
	int32_t id;
	bool single_word, lstrip, rstrip;
};
struct added_set {
	struct added_token *tokens; /* in byte order, so that a prefix is a range */
	size_t count, capacity;
	bool first[256]; /* bytes that a token starts with */
};
int added_set_add(struct added_set *, struct added_token token, struct error *err);
/* Sorts; call it once after the last add. */
void added_set_finish(struct added_set *);
void added_set_free(struct added_set *);
/* A walk over the tokens in a text: begin with {0}. */
struct added_match {
	size_t start, end; /* with the white space that the token swallows */
	size_t from;	   /* where the search goes on */
};
/* The next token, the leftmost, and there the longest. Plain text lies between the end of the
 * match before and the start of this one. NULL: the rest is plain. */
const struct added_token *added_set_next(const struct added_set *, const char *text, size_t length,
					 struct added_match *);

/* ---- normalizers (normalize.c) ---- */

enum normalizer_kind {
	NORMALIZE_PREPEND,   /* content, unless the text is empty */
	NORMALIZE_REPLACE,   /* every match of pattern by content */
	NORMALIZE_UNICODE,   /* NFC, NFD, NFKC, NFKD: compose, compatible */
	NORMALIZE_LOWERCASE,
	NORMALIZE_STRIP,     /* white space at the ends: left, right */
	NORMALIZE_COLLAPSE,  /* SentencePiece's remove_extra_whitespaces */
};
struct normalizer {
	enum normalizer_kind kind;
	struct pattern *pattern;
	struct bytes content;
	bool compose, compatible;
	bool left, right;
};
/* Rewrites *text in place of itself; *spare is room to work in. */
int normalizer_run(const struct normalizer *, struct matcher *, struct bytes *text,
		   struct bytes *spare, struct error *err);

/* ---- splits (pretokenize.c) ---- */

enum split_kind {
	SPLIT_REPLACE_SPACE, /* " " by content */
	SPLIT_PREFIX,	     /* puts content before, unless the text starts with it */
	SPLIT_MATCHES,	     /* cuts at the matches of pattern */
	SPLIT_BYTES,	     /* spells every byte as GPT-2's printable character */
};
enum split_behavior {
	SPLIT_ISOLATED,
	SPLIT_REMOVED,
	SPLIT_MERGED_WITH_PREVIOUS,
	SPLIT_MERGED_WITH_NEXT,
	SPLIT_CONTIGUOUS,
};
struct split {
	enum split_kind kind;
	struct pattern *pattern;
	struct bytes content;
	enum split_behavior behavior;
	bool invert;
	bool first_only; /* SPLIT_PREFIX: only where the text begins */
};

/* ---- encoding ---- */

struct symbol {
	int32_t id, previous, next; /* id -1: merged into the one before */
};
struct candidate {
	uint64_t key; /* rank, then place: the smallest is merged first */
	const struct merge *merge;
};
struct piece {
	size_t start, end;
	bool match;
};

/* The working memory of one call of tokenizer_encode. */
struct encoder {
	const struct tokenizer *tokenizer;
	size_t length; /* of the whole input */
	struct id_list ids;
	struct matcher *matcher;
	struct bytes text, spare;
	struct encoder_level {
		struct bytes text;
		struct piece *pieces;
		size_t count, capacity;
	} levels[TOKENIZER_MAX_STEPS]; /* one for each split, which nest */
	struct symbol *symbols;
	size_t symbol_capacity;
	struct candidate *heap;
	size_t heap_count, heap_capacity;
};
/* Runs the splits from number `level` on over a text, and BPE over what they leave.
 * `at_start`: the text begins where the whole input does. */
int split_run(struct encoder *, size_t level, const char *text, size_t length, bool at_start,
	      struct error *err);
/* Appends a word's ids. */
int bpe_encode(struct encoder *, const char *word, size_t length, struct error *err);

/* ---- decoding (stream.c) ---- */

enum decoder_kind {
	DECODE_REPLACE,	      /* pattern by content, both plain text */
	DECODE_STRIP,	      /* up to start and stop times content at the ends */
	DECODE_METASPACE,     /* pattern by " ", and by nothing in the first token: first_bare */
	DECODE_BYTE_FALLBACK, /* "<0x41>" */
	DECODE_FUSE,	      /* what follows sees one text */
	DECODE_BYTE_LEVEL,    /* GPT-2's characters back to bytes; fuses too */
};
struct decoder {
	enum decoder_kind kind;
	struct bytes pattern, content;
	size_t start, stop;
	bool first_bare;
};

struct tokenizer {
	struct vocabulary vocabulary;
	struct merge_table merges;
	int32_t vocab_size; /* ids from here on are the file reader's own and never leave */

	int32_t unk_id; /* -1: none, and unknown characters vanish */
	bool unk_missing; /* one is named that isn't there: unknown characters are an error */
	bool fuse_unk, byte_fallback, ignore_merges;
	int32_t byte_ids[256]; /* of "<0x00>" and so on, or -1 */
	int32_t char_ids[512]; /* of the first code points, found without hashing */

	struct added_set added, added_normalized;
	struct normalizer normalizers[TOKENIZER_MAX_STEPS];
	struct split splits[TOKENIZER_MAX_STEPS];
	struct decoder decoders[TOKENIZER_MAX_STEPS];
	size_t normalizer_count, split_count, decoder_count;
	bool no_decoder; /* tokens are joined by spaces, as Hugging Face does */
	struct id_list before, after; /* special tokens around a text */
	bool has_template; /* the file itself says what stands around a text */
};

struct tokenizer *tokenizer_new(struct error *err);
/* Fills vocab_size, byte_ids and char_ids once the model's vocabulary is complete. */
void tokenizer_index(struct tokenizer *);
/* A step appended to one of the lists above, for the caller to fill. NULL: too many. */
struct normalizer *tokenizer_add_normalizer(struct tokenizer *, enum normalizer_kind,
					    const char *name, struct error *err);
struct split *tokenizer_add_split(struct tokenizer *, enum split_kind, const char *name,
				  struct error *err);
struct decoder *tokenizer_add_decoder(struct tokenizer *, enum decoder_kind, const char *name,
				      struct error *err);
/* Sixty-four steps that each double a text would fill any memory: an error where it has grown
 * far beyond what an honest file does (NFKD, at most eleven times). */
int tokenizer_check_growth(size_t before, size_t after, struct error *err);
/* Runs all normalizers; as normalizer_run. */
int tokenizer_normalize(const struct tokenizer *, struct matcher *, struct bytes *text,
			struct bytes *spare, struct error *err);

/* The parts of tokenizer.json beside its model (tokenizer_json_steps.c). */
int tokenizer_read_normalizer(struct tokenizer *, const json_t *, const char *name,
			      struct error *err);
int tokenizer_read_pre_tokenizer(struct tokenizer *, const json_t *, const char *name,
				 struct error *err);
int tokenizer_read_decoder(struct tokenizer *, const json_t *, const char *name, struct error *err);
int tokenizer_read_post_processor(struct tokenizer *, const json_t *, const char *name,
				  struct error *err);

#endif
