/* base: conversions of 16-bit floats, JSON getters, files, threads. */
#define TEST_SUITE "base"
#include "tests/test.h"

#include <signal.h>

#include "runtime/base/dtype.h"
#include "runtime/base/file.h"
#include "runtime/base/json.h"
#include "runtime/base/known_sum.h"
#include "runtime/base/thread.h"

/* Every one of the 65,536 half floats goes to float32 and back unchanged. */
static void half_round_trip(void)
{
	for (uint32_t bits = 0; bits < 65536; bits++) {
		float wide = f16_to_f32((uint16_t)bits);
		if (isnan(wide))
			CHECK(isnan(f16_to_f32(f32_to_f16(wide))));
		else
			CHECK_MSG(f32_to_f16(wide) == bits, "bits %04x", bits);
		float brain = bf16_to_f32((uint16_t)bits);
		if (isnan(brain))
			CHECK(isnan(bf16_to_f32(f32_to_bf16(brain))));
		else
			CHECK_MSG(f32_to_bf16(brain) == bits, "bits %04x", bits);
	}
}

/* The rounded value is a nearest one: no neighbour is nearer, and a tie has an even mantissa. */
static void half_rounds_to_nearest(void)
{
	for (int i = 0; i < 200000; i++) {
		float value = (float)ldexp(test_real() * 2 - 1, (int)test_int(-26, 16));
		uint16_t bits = f32_to_f16(value);
		if ((bits & 0x7fff) >= 0x7bff || !(bits & 0x7fff))
			continue;
		double error = fabs((double)f16_to_f32(bits) - value);
		double below = fabs((double)f16_to_f32((uint16_t)(bits - 1)) - value);
		double above = fabs((double)f16_to_f32((uint16_t)(bits + 1)) - value);
		CHECK_MSG(error <= below && error <= above, "value %a", value);
		if (error == below || error == above)
			CHECK_MSG(!(bits & 1), "tie of %a went to odd %04x", value, bits);
	}
	CHECK(f32_to_f16(65519.0f) == 0x7bff && f32_to_f16(65520.0f) == 0x7c00);
	CHECK(f32_to_bf16(1.00390625f) == 0x3f80 && f32_to_bf16(1.01171875f) == 0x3f82);
}

/* Arrays convert as single values do, between every two types. */
static void arrays_convert(void)
{
	enum { COUNT = 1003 };
	static uint16_t half[COUNT], brain[COUNT], out[COUNT];
	static float values[COUNT], back[COUNT];
	for (int i = 0; i < COUNT; i++) {
		values[i] = (float)(test_normal() * 10);
		half[i] = f32_to_f16(values[i]);
		brain[i] = f32_to_bf16(values[i]);
	}
	dtype_convert(values, DTYPE_F32, out, DTYPE_F16, COUNT);
	CHECK(!memcmp(out, half, sizeof half));
	dtype_convert(values, DTYPE_F32, out, DTYPE_BF16, COUNT);
	CHECK(!memcmp(out, brain, sizeof brain));
	dtype_convert(half, DTYPE_F16, back, DTYPE_F32, COUNT);
	for (int i = 0; i < COUNT; i++)
		CHECK(back[i] == f16_to_f32(half[i]));
	dtype_convert(brain, DTYPE_BF16, back, DTYPE_F32, COUNT);
	for (int i = 0; i < COUNT; i++)
		CHECK(back[i] == bf16_to_f32(brain[i]));
	dtype_convert(half, DTYPE_F16, out, DTYPE_BF16, COUNT);
	for (int i = 0; i < COUNT; i++)
		CHECK(out[i] == f32_to_bf16(f16_to_f32(half[i])));
	dtype_convert(brain, DTYPE_BF16, out, DTYPE_F16, COUNT);
	for (int i = 0; i < COUNT; i++)
		CHECK(out[i] == f32_to_f16(bf16_to_f32(brain[i])));
	dtype_convert(values, DTYPE_F32, back, DTYPE_F32, COUNT);
	CHECK(!memcmp(back, values, sizeof values));
}

static void json_reads_numbers(void)
{
	struct error err = {0};
	const char *text = "{\"a\": 3, \"b\": 1000000000000000019884624838656, \"c\": 2.5, "
			   "\"d\": null, \"e\": \"x\", \"f\": true}";
	json_t *object = json_parse(text, strlen(text), "x.json", &err);
	CHECK(object);
	int64_t number = -7;
	CHECK_OK(json_get_int(object, "a", 0, 10, &number, "x.json", &err), &err);
	CHECK(number == 3);
	CHECK_FAILS(json_get_int(object, "a", 4, 10, &number, "x.json", &err), &err, "outside");
	CHECK_FAILS(json_get_int(object, "b", 0, INT64_MAX, &number, "x.json", &err), &err, "x.json: b");
	CHECK_FAILS(json_get_int(object, "c", 0, 10, &number, "x.json", &err), &err, "integer");
	CHECK_FAILS(json_get_int(object, "e", 0, 10, &number, "x.json", &err), &err, "integer");
	CHECK_OK(json_get_int(object, "d", 0, 10, &number, "x.json", &err), &err);
	CHECK_OK(json_get_int(object, "absent", 0, 10, &number, "x.json", &err), &err);
	CHECK(number == 3);
	CHECK_FAILS(json_need(object, "d", "x.json", &err), &err, "has no \"d\"");
	bool flag = false;
	CHECK_OK(json_get_bool(object, "f", &flag, "x.json", &err), &err);
	CHECK(flag);
	json_decref(object);
}

static void json_refuses(void)
{
	struct error err = {0};
	size_t depth = 100000;
	char *deep = malloc(2 * depth);
	memset(deep, '[', depth);
	memset(deep + depth, ']', depth);
	CHECK(!json_parse(deep, 2 * depth, "deep", &err));
	free(deep);
	CHECK(!json_parse("{\"a\":1,\"a\":2}", 13, "doubled", &err));
	CHECK(strstr(err.message, "doubled"));
	CHECK(!json_parse("{\"a\":\"\xff\"}", 9, "utf8", &err));
	CHECK(!json_parse("", 0, "empty", &err));
}

static void files(void)
{
	struct error err = {0};
	char *data;
	size_t length;
	CHECK_FAILS(file_read("/nonexistent/x", 10, &data, &length, &err), &err, "/nonexistent/x");
	CHECK_FAILS(file_read("/tmp", 10, &data, &length, &err), &err, "folder");
	char path[] = "/tmp/tprun-test-XXXXXX";
	int fd = mkstemp(path);
	CHECK(write(fd, "hello", 5) == 5);
	CHECK_FAILS(file_read(path, 4, &data, &length, &err), &err, "larger");
	CHECK_OK(file_read(path, 5, &data, &length, &err), &err);
	CHECK(length == 5);
	CHECK_STR(data, "hello");
	free(data);
	char part[3] = "";
	CHECK_OK(file_read_at(fd, path, 2, part, 2, &err), &err);
	CHECK_STR(part, "ll");
	CHECK_FAILS(file_read_at(fd, path, 4, part, 2, &err), &err, "cut off");
	close(fd);
	unlink(path);
}

static void *note_signals(void *context)
{
	sigset_t *blocked = context;
	pthread_sigmask(SIG_SETMASK, NULL, blocked);
	return blocked;
}

static void threads_take_no_signals(void)
{
	struct error err = {0};
	pthread_t thread;
	sigset_t before, blocked, after;
	void *result = NULL;
	sigemptyset(&blocked);
	pthread_sigmask(SIG_SETMASK, NULL, &before);
	CHECK_OK(thread_start(&thread, note_signals, &blocked, "a test", &err), &err);
	CHECK(!pthread_join(thread, &result) && result == &blocked);
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	static const int signals[] = {SIGTERM, SIGUSR1, SIGINT, SIGALRM};
	for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
		CHECK(sigismember(&blocked, signals[i]) == 1);
		CHECK(sigismember(&after, signals[i]) == sigismember(&before, signals[i]));
	}
}

/* Any order of adding gives the same in every type, and a wrong, a missing or an old sum is found. */
static void known_sums(void)
{
	enum { COUNT = 1001 };
	static float part[COUNT], sums[COUNT], most[COUNT];
	static uint16_t half[COUNT], brain[COUNT];
	struct error err = {0};
	for (int ranks = 1; ranks < 200; ranks += ranks < 10 ? 1 : (int)test_int(1, 30)) {
		for (int turn = 0; turn < 3; turn++) {
			memset(sums, 0, sizeof sums);
			for (int rank = 0; rank < ranks; rank++) {
				known_parts(part, COUNT, rank, ranks, turn);
				for (int i = 0; i < COUNT; i++)
					sums[i] += part[i];
			}
			CHECK_OK(known_sums_check(sums, COUNT, ranks, turn, &err), &err);
			dtype_convert(sums, DTYPE_F32, half, DTYPE_F16, COUNT);
			dtype_convert(sums, DTYPE_F32, brain, DTYPE_BF16, COUNT);
			dtype_convert(half, DTYPE_F16, most, DTYPE_F32, COUNT);
			CHECK(!memcmp(most, sums, sizeof sums));
			dtype_convert(brain, DTYPE_BF16, most, DTYPE_F32, COUNT);
			CHECK(!memcmp(most, sums, sizeof sums));
			CHECK_FAILS(known_sums_check(sums, COUNT, ranks, turn + 1, &err), &err, "known values");
			sums[test_int(0, COUNT - 1)] += 1;
			CHECK_FAILS(known_sums_check(sums, COUNT, ranks, turn, &err), &err, "instead of");
		}
		if (ranks > 1)
			CHECK_FAILS(known_sums_check(part, COUNT, ranks, 2, &err), &err, "known values");
	}
}

int main(void)
{
	RUN(half_round_trip);
	RUN(half_rounds_to_nearest);
	RUN(arrays_convert);
	RUN(json_reads_numbers);
	RUN(json_refuses);
	RUN(files);
	RUN(known_sums);
	RUN(threads_take_no_signals);
	TEST_END();
}
