/* tokenizer parts: every kind of step on a small vocabulary, BPE against the definition, and
 * hostile files. What the steps should give was computed with Hugging Face's tokenizers 0.23. */
#define TEST_SUITE "tokenizer_parts"
#include "tests/test.h"

#include <stdarg.h>

#include "runtime/text/tokenizer.h"

#define TEST_SPACE "\xe2\x96\x81"

/* JSON is written with ' for ", to be readable here. */
static char *json_text(const char *format, ...) __attribute__((format(printf, 1, 2)));
static char *json_text(const char *format, ...)
{
	va_list arguments;
	char *text = NULL;
	va_start(arguments, format);
	int length = vasprintf(&text, format, arguments);
	va_end(arguments);
	for (int i = 0; i < length; i++)
		if (text[i] == '\'')
			text[i] = '"';
	return length < 0 ? NULL : text;
}

static int open_text(struct tokenizer **out, const char *text, struct error *err)
{
	return tokenizer_open_json(out, text, strlen(text), "small.json", err);
}

/* a to z are 0 to 25. */
#define VOCABULARY                                                                                 \
	"'a':0,'b':1,'c':2,'d':3,'e':4,'f':5,'g':6,'h':7,'i':8,'j':9,'k':10,'l':11,'m':12,"        \
	"'n':13,'o':14,'p':15,'q':16,'r':17,'s':18,'t':19,'u':20,'v':21,'w':22,'x':23,'y':24,"     \
	"'z':25,'0':26,'1':27,'9':28,'.':29,',':30,'!':31,' ':32,'\\n':33,'Ġ':34,'Ċ':35,'▁':36,"   \
	"'é':37,'½':38,'b,':39,',.':40,'.c':41,'c ':42,'  ':43,' .':44,' a':45,'ab':46,'abc':47,"  \
	"'bc':48,'19':49,'▁a':50,'▁ab':51,'Ġa':52,'<unk>':53"
#define MERGES                                                                                     \
	"['b',','],[',','.'],['.','c'],['c',' '],[' ',' '],[' ','.'],[' ','a'],['a','b'],"         \
	"['ab','c'],['b','c'],['1','9'],['▁','a'],['▁a','b'],['Ġ','a']"
#define SPLIT(behavior, invert)                                                                    \
	"'pre_tokenizer':{'type':'Split','pattern':{'Regex':'[.,]| +'},'behavior':'" behavior      \
	"','invert':" invert "}"
#define PRE(step) "'pre_tokenizer':{" step "}"
#define TOKEN(id, content, options)                                                                \
	"{'id':" id ",'content':'" content "'," options                                            \
	"'normalized':false,'special':true}"

static void steps_give_the_reference_ids(void)
{
	static const char text[] = "ab,.c  abc .bc a19";
	static const struct {
		const char *steps, *model, *text;
		int32_t ids[16];
		size_t count;
	} cases[] = {
		{SPLIT("Isolated", "false"), "", text, {46, 30, 29, 2, 43, 47, 32, 29, 48, 32, 0, 49}, 12},
		{SPLIT("Isolated", "true"), "", text, {46, 30, 29, 2, 43, 47, 32, 29, 48, 32, 0, 49}, 12},
		{SPLIT("Removed", "false"), "", text, {46, 2, 47, 48, 0, 49}, 6},
		{SPLIT("Removed", "true"), "", text, {30, 29, 43, 32, 29, 32}, 6},
		{SPLIT("MergedWithPrevious", "false"), "", text,
		 {0, 39, 29, 42, 32, 46, 42, 29, 1, 42, 0, 49}, 12},
		{SPLIT("MergedWithPrevious", "true"), "", text,
		 {46, 30, 41, 43, 47, 32, 29, 48, 45, 49}, 10},
		{SPLIT("MergedWithNext", "false"), "", text,
		 {46, 30, 41, 43, 47, 32, 29, 48, 45, 49}, 10},
		{SPLIT("MergedWithNext", "true"), "", text,
		 {0, 39, 29, 42, 32, 46, 42, 29, 1, 42, 0, 49}, 12},
		{SPLIT("Contiguous", "false"), "", text, {46, 40, 2, 43, 47, 44, 48, 32, 0, 49}, 10},
		{SPLIT("Contiguous", "true"), "", text, {46, 40, 2, 43, 47, 44, 48, 32, 0, 49}, 10},
		{"'decoder':null", "", text, {0, 39, 41, 43, 46, 42, 29, 1, 42, 0, 49}, 11},
		{PRE("'type':'Split','pattern':{'String':'.'},'behavior':'Isolated','invert':false"), "",
		 "b.c,.c", {1, 29, 2, 30, 29, 2}, 6},
		{PRE("'type':'Digits','individual_digits':true"), "", "a19b", {0, 27, 28, 1}, 4},
		{PRE("'type':'Digits','individual_digits':false"), "", "a19½b", {0, 49, 38, 1}, 4},
		{PRE("'type':'Metaspace','replacement':'▁','prepend_scheme':'always','split':true"), "",
		 "ab ab", {36, 46, 36, 46}, 4},
		{PRE("'type':'Metaspace','replacement':'▁','prepend_scheme':'never','split':false"), "",
		 "ab ab", {46, 36, 46}, 3},
		{PRE("'type':'ByteLevel','add_prefix_space':true,'use_regex':true"), "", "abc a\nbc",
		 {34, 47, 52, 35, 48}, 5},
		{PRE("'type':'ByteLevel','add_prefix_space':false,'use_regex':false"), "", "ab ab",
		 {46, 34, 46}, 3},
		{PRE("'type':'Punctuation'"), "", "b,.c", {1, 30, 29, 2}, 4},
		{PRE("'type':'WhitespaceSplit'"), "", "c a  .\nabc", {2, 0, 29, 47}, 4},
		{PRE("'type':'Whitespace'"), "", "b,.c  abc", {1, 40, 2, 47}, 4},
		{"'normalizer':{'type':'Sequence','normalizers':[{'type':'Lowercase'},{'type':'NFC'},"
		 "{'type':'Strip','strip_left':true,'strip_right':true}]}",
		 "", " ABCe\xcc\x81 ", {47, 37}, 2},
		{"'normalizer':{'type':'NFKD'}", "", "ａ①．", {0, 27, 29}, 3},
		{"'normalizer':{'type':'Replace','pattern':{'Regex':' +'},'content':'a'}", "", "b  bc",
		 {1, 47}, 2},
		{"'normalizer':{'type':'Prepend','prepend':'▁'}", "", "ab", {36, 46}, 2},
		{"'decoder':null", "'unk_token':'<unk>','fuse_unk':true,", "aXYbZ", {0, 53, 1, 53}, 4},
		{"'decoder':null", "'unk_token':'<unk>','fuse_unk':false,", "aXYbZ", {0, 53, 53, 1, 53}, 5},
		{"'decoder':null", "", "aXYbZ", {46}, 1},
		{"'decoder':null", "'ignore_merges':true,", "ab,", {0, 39}, 2},
		{"'added_tokens':[{'id':54,'content':'<x>','single_word':false,'lstrip':true,"
		 "'rstrip':true,'normalized':false,'special':true},{'id':46,'content':'ab',"
		 "'single_word':true,'lstrip':false,'rstrip':false,'normalized':true,'special':false}]",
		 "", "a <x> b ab,abc<x>ab", {0, 54, 1, 32, 46, 30, 47, 54, 46}, 9},
		{"'normalizer':{'type':'Lowercase'},'added_tokens':[{'id':54,'content':'Ab',"
		 "'normalized':true,'special':false},{'id':55,'content':'Abc','normalized':false,"
		 "'special':false}]",
		 "", "AbcabcAbcd", {55, 54, 2, 55, 3}, 5},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct error err = {0};
		struct tokenizer *tokenizer = NULL;
		int32_t *ids = NULL;
		size_t count = 0;
		char *json = json_text("{%s,'model':{'type':'BPE',%s'vocab':{" VOCABULARY
				       "},'merges':[" MERGES "]}}",
				       cases[i].steps, cases[i].model);
		CHECK_OK(open_text(&tokenizer, json, &err), &err);
		if (tokenizer)
			CHECK_OK(tokenizer_encode(tokenizer, cases[i].text, strlen(cases[i].text), true,
						  &ids, &count, &err),
				 &err);
		CHECK_MSG(count == cases[i].count &&
				  memcmp(ids, cases[i].ids, count * sizeof *ids) == 0,
			  "case %zu: %s", i, cases[i].steps);
		free(ids);
		free(json);
		tokenizer_close(tokenizer);
	}
}

/* BOS and EOS by template, special tokens in the text, and left out of a decode. */
static void template_and_special_tokens(void)
{
	struct error err = {0};
	struct tokenizer *tokenizer = NULL;
	int32_t *ids;
	size_t count, length;
	char *back;
	char *json = json_text(
		"{'added_tokens':[%s,%s],'decoder':{'type':'Fuse'},'post_processor':{'type':'Sequence',"
		"'processors':[{'type':'ByteLevel'},{'type':'TemplateProcessing','single':["
		"{'SpecialToken':{'id':'<s>','type_id':0}},{'Sequence':{'id':'A','type_id':0}},"
		"{'SpecialToken':{'id':'</s>','type_id':0}}],'special_tokens':{"
		"'<s>':{'id':'<s>','ids':[54],'tokens':['<s>']},"
		"'</s>':{'id':'</s>','ids':[55,55],'tokens':['</s>','</s>']}}}]},"
		"'model':{'vocab':{" VOCABULARY "},'merges':['a b','ab c']}}",
		TOKEN("54", "<s>", ""), TOKEN("55", "</s>", "'lstrip':true,"));
	CHECK_OK(open_text(&tokenizer, json, &err), &err);
	free(json);
	if (!tokenizer)
		return;
	CHECK(tokenizer_vocab_size(tokenizer) == 56);
	CHECK_OK(tokenizer_encode(tokenizer, "abc </s>", 8, true, &ids, &count, &err), &err);
	CHECK(count == 5 && ids[0] == 54 && ids[1] == 47 && ids[2] == 55 && ids[3] == 55);
	CHECK_OK(tokenizer_decode(tokenizer, ids, count, true, &back, &length, &err), &err);
	CHECK_STR(back, "abc");
	free(back);
	CHECK_OK(tokenizer_decode(tokenizer, ids, count, false, &back, &length, &err), &err);
	CHECK_STR(back, "<s>abc</s></s></s>");
	free(back);
	free(ids);
	CHECK_OK(tokenizer_encode(tokenizer, "", 0, false, &ids, &count, &err), &err);
	CHECK(count == 0);
	free(ids);
	CHECK_FAILS(tokenizer_encode(tokenizer, "ab\xff", 3, true, &ids, &count, &err), &err, "byte 2");
	CHECK_FAILS(tokenizer_encode(tokenizer, "\xed\xa0\x80", 3, true, &ids, &count, &err), &err,
		    "byte 0");
	tokenizer_close(tokenizer);
}

/* Decoders that strip at the ends of single tokens and of the whole. */
static void decoders_strip(void)
{
	static const struct {
		const char *decoder, *text;
	} cases[] = {
		{"{'type':'Sequence','decoders':[{'type':'Fuse'},{'type':'Strip','content':'a','start':2,"
		 "'stop':1}]}", "abaaba"},
		{"{'type':'Sequence','decoders':[{'type':'Strip','content':'a','start':1,'stop':1}]}", "bb"},
		{"{'type':'Metaspace','replacement':'b','prepend_scheme':'always'}", "aaa aa aa"},
		{"{'type':'Replace','pattern':{'String':'a'},'content':'xy'}", "xyxyxybxyxybxyxy"},
		{"null", "a a a b a a b a a"},
	};
	static const int32_t ids[] = {0, 0, 0, 1, 0, 0, 1, 0, 0};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct error err = {0};
		struct tokenizer *tokenizer = NULL;
		char *json = json_text("{'decoder':%s,'model':{'vocab':{" VOCABULARY "},'merges':[]}}",
				       cases[i].decoder);
		char *text = NULL;
		size_t length;
		CHECK_OK(open_text(&tokenizer, json, &err), &err);
		if (tokenizer)
			CHECK_OK(tokenizer_decode(tokenizer, ids, 9, false, &text, &length, &err), &err);
		CHECK_STR(text, cases[i].text);
		free(text);
		free(json);
		tokenizer_close(tokenizer);
	}
}

enum { LETTERS = 3, MOST = 60, WORD = 80 };

/* Merges a word as the definition says: again and again the pair of the lowest rank, the
 * leftmost of equals. */
static size_t merge_by_definition(int32_t *word, size_t count, int32_t merges[][2], int merge_count)
{
	for (;;) {
		int best = merge_count;
		size_t place = 0;
		for (size_t i = 0; i + 1 < count; i++)
			for (int rank = 0; rank < best; rank++)
				if (word[i] == merges[rank][0] && word[i + 1] == merges[rank][1]) {
					best = rank;
					place = i;
				}
		if (best == merge_count)
			return count;
		word[place] = LETTERS + best;
		memmove(word + place + 1, word + place + 2, (count - place - 2) * sizeof *word);
		count--;
	}
}

/* Random merges over three letters; each makes a new token, whose id is its rank behind them. */
static void check_random_merges(void)
{
	int32_t merges[MOST][2], word[WORD], *ids = NULL;
	char spelled[LETTERS + MOST][WORD] = {"a", "b", "c"};
	char vocab[8192] = "'a':0,'b':1,'c':2", list[8192] = "", text[WORD + 1] = "";
	int made = 0;
	size_t length = (size_t)test_int(0, WORD), count = 0;
	struct error err = {0};
	struct tokenizer *tokenizer = NULL;
	for (int tries = 0; made < MOST && tries < 200; tries++) {
		int a = (int)test_int(0, LETTERS + made - 1), b = (int)test_int(0, LETTERS + made - 1), i = 0;
		char both[WORD];
		if (strlen(spelled[a]) + strlen(spelled[b]) > 30)
			continue;
		snprintf(both, sizeof both, "%.31s%.31s", spelled[a], spelled[b]);
		while (i < LETTERS + made && strcmp(spelled[i], both) != 0)
			i++;
		if (i < LETTERS + made)
			continue;
		memcpy(spelled[LETTERS + made], both, sizeof both);
		merges[made][0] = a;
		merges[made][1] = b;
		snprintf(vocab + strlen(vocab), 128, ",'%.64s':%d", both, LETTERS + made);
		snprintf(list + strlen(list), 128, "%s'%.31s %.31s'", made ? "," : "", spelled[a], spelled[b]);
		made++;
	}
	for (size_t i = 0; i < length; i++) {
		word[i] = (int32_t)test_int(0, LETTERS - 1);
		text[i] = (char)('a' + word[i]);
	}
	char *json = json_text("{'model':{'vocab':{%s},'merges':[%s]}}", vocab, list);
	CHECK_OK(open_text(&tokenizer, json, &err), &err);
	if (tokenizer)
		CHECK_OK(tokenizer_encode(tokenizer, text, length, false, &ids, &count, &err), &err);
	size_t expected = merge_by_definition(word, length, merges, made);
	CHECK_MSG(count == expected && memcmp(ids, word, count * sizeof *ids) == 0, "\"%s\" with %s", text,
		  list);
	free(ids);
	free(json);
	tokenizer_close(tokenizer);
}

static void bpe_is_its_definition(void)
{
	for (int round = 0; round < 2000; round++)
		check_random_merges();
}

#define MODEL "'model':{'vocab':{'a':0,'b':1,'ab':2},'merges':['a b']}"

static void hostile_files_are_refused(void)
{
	static const struct {
		const char *json, *part;
	} cases[] = {
		{"", "JSON"},
		{"[]", "object"},
		{"{}", "no model"},
		{"{'model':{}}", "not supported"},
		{"{'model':{'type':'Unigram','vocab':[]}}", "Unigram"},
		{"{'model':{'type':'WordPiece','vocab':{}}}", "WordPiece"},
		{"{'model':{'vocab':{},'merges':[]}}", "vocab"},
		{"{'model':{'vocab':[],'merges':[]}}", "vocab"},
		{"{'model':{'vocab':{'a':0},'merges':{}}}", "merges"},
		{"{'model':{'vocab':{'a':0,'a':1},'merges':[]}}", "duplicate"},
		{"{'model':{'vocab':{'a':0,'b':0},'merges':[]}}", "two tokens"},
		{"{'model':{'vocab':{'a':-1},'merges':[]}}", "id of the token \"a\""},
		{"{'model':{'vocab':{'a':0.5},'merges':[]}}", "id of the token \"a\""},
		{"{'model':{'vocab':{'a':2147483648},'merges':[]}}", "id of the token \"a\""},
		{"{'model':{'vocab':{'a':1000000000},'merges':[]}}", "id of the token \"a\""},
		{"{'model':{'vocab':{'a':1e300},'merges':[]}}", "id of the token \"a\""},
		{"{'model':{'vocab':{'a':0,'b':1},'merges':['a b']}}", "merge 0"},
		{"{'model':{'vocab':{'a':0,'b':1,'ab':2},'merges':['a b','a c']}}", "merge 1"},
		{"{'model':{'vocab':{'a':0},'merges':['a']}}", "merge 0"},
		{"{'model':{'vocab':{'a':0},'merges':['a a a']}}", "merge 0"},
		{"{'model':{'vocab':{'a':0},'merges':[['a']]}}", "merge 0"},
		{"{'model':{'vocab':{'a':0},'merges':[['a',1]]}}", "merge 0"},
		{"{'model':{'vocab':{'a':0},'merges':[],'dropout':0.1}}", "dropout"},
		{"{'model':{'vocab':{'a':0},'merges':[],'end_of_word_suffix':'</w>'}}", "</w>"},
		{"{'added_tokens':[{'id':9e9,'content':'x'}]," MODEL "}", "id"},
		{"{'added_tokens':[{'id':5}]," MODEL "}", "content"},
		{"{'added_tokens':[{'content':'x'}]," MODEL "}", "id"},
		{"{'added_tokens':[{'id':0,'content':'x'}]," MODEL "}", "two tokens"},
		{"{'added_tokens':[{'id':7,'content':'ab'}]," MODEL "}", "two ids"},
		{"{'added_tokens':[3]," MODEL "}", "content"},
		{"{'added_tokens':{'id':7}," MODEL "}", "array"},
		{"{'normalizer':{'type':'Precompiled'}," MODEL "}", "Precompiled"},
		{"{'normalizer':{'type':'Replace','content':'x','pattern':{'String':''}}," MODEL "}", "empty"},
		{"{'normalizer':7," MODEL "}", "object"},
		{"{'pre_tokenizer':{'type':'BertPreTokenizer'}," MODEL "}", "BertPreTokenizer"},
		{"{'pre_tokenizer':{}," MODEL "}", "type"},
		{"{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'('},'behavior':'Isolated'}," MODEL "}",
		 "pattern"},
		{"{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'[a&&b]'},'behavior':'Isolated'}," MODEL
		 "}", "&&"},
		{"{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'a{2}+'},'behavior':'Isolated'}," MODEL
		 "}", "interval"},
		{"{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'(?m:a)'},'behavior':'Isolated'}," MODEL
		 "}", "group"},
		{"{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'\\\\G'},'behavior':'Isolated'}," MODEL
		 "}", "escape"},
		{"{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'a'},'behavior':'Random'}," MODEL "}",
		 "Random"},
		{"{'decoder':{'type':'CTC'}," MODEL "}", "CTC"},
		{"{'decoder':{'type':'Strip','content':'ab','start':1,'stop':0}," MODEL "}", "one character"},
		{"{'decoder':{'type':'Strip','content':' ','start':-1,'stop':0}," MODEL "}", "start"},
		{"{'decoder':{'type':'Sequence','decoders':[{'type':'Fuse'},{'type':'ByteFallback'}]}," MODEL
		 "}", "order"},
		{"{'post_processor':{'type':'BertProcessing'}," MODEL "}", "BertProcessing"},
		{"{'post_processor':{'type':'TemplateProcessing','single':[]}," MODEL "}", "sequence"},
		{"{'post_processor':{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'x'}},"
		 "{'Sequence':{'id':'A'}}],'special_tokens':{'x':{'ids':[3]}}}," MODEL "}", "\"x\""},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct error err = {0};
		struct tokenizer *tokenizer = NULL;
		char *json = json_text("%s", cases[i].json);
		CHECK_FAILS(open_text(&tokenizer, json, &err), &err, cases[i].part);
		CHECK_MSG(strstr(err.message, "small.json"), "%s: %s", json, err.message);
		tokenizer_close(tokenizer);
		free(json);
	}
}

/* A pattern of exponential time ends in an error, and soon. */
static void hostile_patterns_hit_a_limit(void)
{
	struct error err = {0};
	struct tokenizer *tokenizer = NULL;
	int32_t *ids;
	size_t count;
	char text[5001];
	char *json = json_text("{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'(a|a)+(a|a)+[xy]'},"
			       "'behavior':'Isolated'}," MODEL "}");
	memset(text, 'a', 5000);
	CHECK_OK(open_text(&tokenizer, json, &err), &err);
	if (tokenizer)
		CHECK_FAILS(tokenizer_encode(tokenizer, text, 5000, true, &ids, &count, &err), &err,
			    "small.json");
	tokenizer_close(tokenizer);
	free(json);
}

/* A SentencePiece model by hand: 'u' unknown, 'n' normal, 'c' control, 'd' user-defined. */
static size_t put_piece(unsigned char *out, const char *text, float score, int type)
{
	size_t length = strlen(text), at = 0;
	out[at++] = 0x0a;
	out[at++] = (unsigned char)(length + 9);
	out[at++] = 0x0a;
	out[at++] = (unsigned char)length;
	memcpy(out + at, text, length);
	at += length;
	out[at++] = 0x15;
	memcpy(out + at, &score, 4);
	at += 4;
	out[at++] = 0x18;
	out[at++] = (unsigned char)type;
	return at;
}

static size_t put_model(unsigned char *out)
{
	static const unsigned char trainer[] = {0x12, 2, 0x18, 2}; /* trainer_spec: model_type BPE */
	static const struct {
		const char *text;
		float score;
		int type;
	} pieces[] = {{"<unk>", 0, 2}, {"<s>", 0, 3},   {"</s>", 0, 3},		  {"ab", -1, 1},
		      {"bc", -1, 1},   {"abc", -2, 1},  {TEST_SPACE, -9, 1},	  {"a", -9, 1},
		      {"b", -9, 1},    {"<x>", 0, 4},   {TEST_SPACE "a", -0.5f, 1}};
	size_t at = 0;
	for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
		at += put_piece(out + at, pieces[i].text, pieces[i].score, pieces[i].type);
	memcpy(out + at, trainer, sizeof trainer);
	return at + sizeof trainer;
}

/* "c" is no piece of its own; "ab" and "bc" have one score, so the left one goes first. */
static void sentencepiece_by_hand(void)
{
	static const struct {
		const char *text;
		int32_t ids[8];
		size_t count;
	} cases[] = {
		{"abc", {1, 10, 4}, 3},	     {"b  abc ", {1, 6, 8, 10, 4}, 5}, {"<x>b<s>", {1, 6, 9, 8, 0}, 5},
		{"cc", {1, 6, 0}, 3},	     {"babc", {1, 6, 8, 5}, 4},	       {"", {1}, 1},
		{"\xe2\x96\x81", {1}, 1},    {"bczc", {1, 6, 4, 0}, 4},
	};
	unsigned char data[512];
	size_t length = put_model(data);
	struct error err = {0};
	struct tokenizer *tokenizer = NULL;
	CHECK_OK(tokenizer_open_sentencepiece(&tokenizer, data, length, "hand.model", &err), &err);
	if (!tokenizer)
		return;
	CHECK(tokenizer_vocab_size(tokenizer) == 11 && tokenizer_find(tokenizer, "c") == -1);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		int32_t *ids = NULL;
		size_t count = 0;
		CHECK_OK(tokenizer_encode(tokenizer, cases[i].text, strlen(cases[i].text), true, &ids,
					  &count, &err),
			 &err);
		CHECK_MSG(count == cases[i].count && memcmp(ids, cases[i].ids, count * sizeof *ids) == 0,
			  "\"%s\": %zu ids", cases[i].text, count);
		free(ids);
	}
	tokenizer_close(tokenizer);
}

/* Cut anywhere, or with any byte changed, a model opens or is refused by name. */
static void damaged_models_are_refused(void)
{
	unsigned char data[512], copy[512];
	size_t length = put_model(data);
	static const unsigned char overflow[] = {0x0a, 0xff, 0xff, 0xff, 0xff, 0xff,
						 0xff, 0xff, 0xff, 0xff, 0x7f};
	struct tokenizer *tokenizer = NULL;
	struct error err = {0};
	CHECK_FAILS(tokenizer_open_sentencepiece(&tokenizer, overflow, sizeof overflow, "bad.model", &err),
		    &err, "bad.model");
	for (size_t cut = 0; cut < length; cut++) {
		memcpy(copy, data, cut);
		CHECK_FAILS(tokenizer_open_sentencepiece(&tokenizer, copy, cut, "bad.model", &err), &err,
			    "bad.model");
	}
	for (int round = 0; round < 5000; round++) {
		memcpy(copy, data, length);
		for (int64_t i = test_int(1, 3); i > 0; i--)
			copy[test_int(0, (int64_t)length - 1)] = (unsigned char)test_int(0, 255);
		int result = tokenizer_open_sentencepiece(&tokenizer, copy, length, "bad.model", &err);
		int32_t *ids;
		size_t count;
		CHECK_MSG(result == 0 || strstr(err.message, "bad.model"), "%s", err.message);
		if (result)
			continue;
		CHECK_OK(tokenizer_encode(tokenizer, "abc <x> cab", 11, true, &ids, &count, &err), &err);
		free(ids);
		tokenizer_close(tokenizer);
	}
}

int main(void)
{
	RUN(steps_give_the_reference_ids);
	RUN(template_and_special_tokens);
	RUN(decoders_strip);
	RUN(bpe_is_its_definition);
	RUN(hostile_files_are_refused);
	RUN(hostile_patterns_hit_a_limit);
	RUN(sentencepiece_by_hand);
	RUN(damaged_models_are_refused);
	TEST_END();
}
