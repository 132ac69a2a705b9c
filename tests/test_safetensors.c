/* safetensors: headers that are right, and every way in which they can lie. */
#define TEST_SUITE "safetensors"
#include "tests/test.h"

#include "runtime/model/safetensors.h"
#include "tests/checkpoint_files.h"

static struct error err;
static struct safetensors file;

/* Parses a file of that header and data_bytes of data. */
static int parse(const char *header, uint64_t data_bytes)
{
	struct bytes content = safetensors_content(header, NULL, 0);
	/* A copy of the exact size, so that a sanitizer sees any read beyond it. */
	char *exact = malloc(content.length);
	memcpy(exact, content.data, content.length);
	int result = safetensors_parse(&file, exact, content.length, content.length + data_bytes,
				       "x.safetensors", &err);
	free(exact);
	bytes_free(&content);
	return result;
}

#define TENSOR(name, type, shape, begin, end)                                                      \
	"\"" name "\": {\"dtype\": \"" type "\", \"shape\": " shape ", \"data_offsets\": [" begin   \
	", " end "]}"

static void good_headers(void)
{
	const char *header = "{\"__metadata__\": {\"format\": \"pt\"}, " TENSOR(
		"b", "F32", "[2, 3]", "0", "24") ", " TENSOR("a", "BF16", "[5]", "24", "34") ", "
		TENSOR("empty", "F16", "[0, 7]", "24", "24") ", "
		TENSOR("scalar", "I64", "[]", "34", "42") "}   ";
	CHECK_OK(parse(header, 42), &err);
	CHECK(file.count == 4);
	CHECK_STR(file.tensors[0].name, "a");
	const struct safetensor *b = safetensors_find(&file, "b"), *a = safetensors_find(&file, "a");
	CHECK(b && b->dimensions == 2 && b->shape[0] == 2 && b->shape[1] == 3 && b->bytes == 24);
	CHECK(b->offset == 8 + strlen(header) && a->offset == b->offset + 24);
	CHECK_STR(a->type, "BF16");
	CHECK(safetensors_find(&file, "empty")->bytes == 0);
	CHECK(safetensors_find(&file, "scalar")->dimensions == 0);
	CHECK(!safetensors_find(&file, "c") && !safetensors_find(&file, "__metadata__"));
	safetensors_close(&file);
	CHECK_OK(parse("{}", 0), &err);
	CHECK(file.count == 0 && !safetensors_find(&file, "a"));
	safetensors_close(&file);
	safetensors_close(NULL);
}

static void bad_headers(void)
{
	static const struct {
		const char *header;
		uint64_t data_bytes;
		const char *says;
	} bad[] = {
		{"", 0, "not valid JSON"},
		{"{", 0, "not valid JSON"},
		{"[]", 0, "not a JSON object"},
		{"7", 0, "not a JSON object"},
		{"{} x", 0, "not valid JSON"},
		{"{" TENSOR("a", "F32", "[1]", "0", "4") ", " TENSOR("a", "F32", "[1]", "0", "4") "}", 4,
		 "uplicate"},
		{"{\"a\": 7}", 0, "a has the unknown dtype"},
		{"{\"a\": {\"shape\": [1], \"data_offsets\": [0, 4]}}", 4, "dtype"},
		{"{" TENSOR("a", "F99", "[1]", "0", "4") "}", 4, "F99"},
		{"{" TENSOR("a", "F32", "7", "0", "4") "}", 4, "shape of a"},
		{"{" TENSOR("a", "F32", "[-1]", "0", "4") "}", 4, "shape of a"},
		{"{" TENSOR("a", "F32", "[1.5]", "0", "4") "}", 4, "shape of a"},
		{"{" TENSOR("a", "F32", "[\"1\"]", "0", "4") "}", 4, "shape of a"},
		{"{" TENSOR("a", "F32", "[1,1,1,1,1,1,1,1,1]", "0", "4") "}", 4, "shape of a"},
		{"{" TENSOR("a", "F32", "[4294967296, 4294967296]", "0", "4") "}", 4, "overflows"},
		{"{" TENSOR("a", "F32", "[9007199254740992, 2048]", "0", "0") "}", 4, "overflows"},
		{"{" TENSOR("a", "F32", "[9007199254740993000]", "0", "4") "}", 4, "shape of a"},
		{"{\"a\": {\"dtype\": \"F32\", \"shape\": [1]}}", 4, "data_offsets of a"},
		{"{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [4]}}", 4,
		 "data_offsets of a"},
		{"{" TENSOR("a", "F32", "[1]", "-4", "0") "}", 4, "data_offsets of a"},
		{"{" TENSOR("a", "F32", "[1]", "4", "0") "}", 4, "data_offsets of a"},
		{"{" TENSOR("a", "F32", "[1]", "0", "1e300") "}", 4, "data_offsets of a"},
		{"{" TENSOR("a", "F32", "[1]", "18446744073709551612", "18446744073709551616") "}", 4,
		 "data_offsets of a"},
		{"{" TENSOR("a", "F32", "[2]", "0", "4") "}", 4, "4 bytes of data"},
		{"{" TENSOR("a", "BF16", "[4]", "0", "16") "}", 16, "ask for 8"},
		{"{" TENSOR("a", "F4", "[3]", "0", "1") "}", 1, "a has 1 bytes"},
		{"{" TENSOR("a", "F32", "[2]", "0", "8") "}", 7, "cut off"},
		{"{" TENSOR("a", "F32", "[2]", "0", "8") "}", 12, "4 bytes after the last"},
		{"{" TENSOR("a", "F32", "[2]", "4", "12") "}", 12, "gap of 4"},
		{"{" TENSOR("a", "F32", "[2]", "0", "8") ", " TENSOR("b", "F32", "[2]", "4", "12") "}", 12,
		 "overlap"},
		{"{" TENSOR("a", "F32", "[2]", "0", "8") ", " TENSOR("b", "F32", "[2]", "0", "8") "}", 8,
		 "overlap"},
		{"{" TENSOR("a", "F32", "[0]", "3", "3") "}", 0, "cut off"},
		{"{}", 1, "1 bytes after the last"},
	};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		CHECK_FAILS(parse(bad[i].header, bad[i].data_bytes), &err, bad[i].says);
		CHECK_MSG(strstr(err.message, "x.safetensors"), "%s", err.message);
		CHECK(!file.tensors && !file.path);
	}
}

/* A header length that the file cannot hold, and files that end inside it. */
static void bad_lengths(void)
{
	char folder[64], path[128];
	folder_make(folder);
	snprintf(path, sizeof path, "%s/x.safetensors", folder);
	CHECK_FAILS(safetensors_open(&file, path, &err), &err, "cannot open");
	CHECK_FAILS(safetensors_open(&file, folder, &err), &err, "not a regular file");
	struct bytes whole = safetensors_content("{" TENSOR("a", "F32", "[2]", "0", "8") "}",
						 "12345678", 8);
	for (size_t length = 0; length <= whole.length; length++) {
		folder_write(folder, "x.safetensors", whole.data, length);
		if (length == whole.length) {
			CHECK_OK(safetensors_open(&file, path, &err), &err);
			CHECK(file.count == 1);
			safetensors_close(&file);
		} else
			CHECK_FAILS(safetensors_open(&file, path, &err), &err, "cut off");
	}
	static const uint64_t lengths[] = {100, 100000000, 100000001, UINT64_MAX, UINT64_MAX - 7,
					   (uint64_t)1 << 63};
	for (size_t i = 0; i < 6; i++) {
		memcpy(whole.data, &lengths[i], 8);
		folder_write(folder, "x.safetensors", whole.data, whole.length);
		CHECK_FAILS(safetensors_open(&file, path, &err), &err, "the header claims");
		CHECK(strstr(err.message, path));
	}
	bytes_free(&whole);
	folder_remove(folder);
}

/* Random headers, made right and then spoiled in one number: right ones parse, spoiled ones are
 * refused whenever the number mattered, which all of these do. */
static void random_headers(void)
{
	for (int n = 0; n < 300; n++) {
		enum { MOST = 12 };
		int count = (int)test_int(1, MOST), spoiled = (int)test_int(-1, count - 1);
		uint64_t offset = 0;
		struct bytes header = {0};
		bytes_print(&header, "{");
		for (int i = 0; i < count; i++) {
			static const char *const types[] = {"U8", "F16", "F32", "F64"};
			int type = (int)test_int(0, 3);
			uint64_t rows = (uint64_t)test_int(1, 9), columns = (uint64_t)test_int(1, 9);
			uint64_t begin = offset, end = offset + (rows * columns << type);
			offset = end;
			if (i == spoiled) {
				uint64_t *which[] = {&begin, &end, &rows, &columns};
				*which[test_int(0, 3)] += (uint64_t)test_int(1, 3);
			}
			bytes_print(&header, "%s\"%d\": {\"data_offsets\": [%llu, %llu], \"shape\": [%llu, "
				    "%llu], \"dtype\": \"%s\"}", i ? ", " : "", i,
				    (unsigned long long)begin, (unsigned long long)end,
				    (unsigned long long)rows, (unsigned long long)columns, types[type]);
		}
		bytes_add(&header, "}", 2);
		int result = parse(header.data, offset);
		CHECK_MSG(result == (spoiled < 0 ? 0 : -1), "%s", header.data);
		safetensors_close(&file);
		bytes_free(&header);
	}
}

int main(void)
{
	RUN(good_headers);
	RUN(bad_headers);
	RUN(bad_lengths);
	RUN(random_headers);
	TEST_END();
}
