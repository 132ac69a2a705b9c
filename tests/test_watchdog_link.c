/* The watchdogs' connections; what they are for, ranks that end and hang, is tests/faults.py's. */
#define TEST_SUITE "watchdog_link"
#include "tests/test.h"

#include <poll.h>
#include <sys/socket.h>

#include "launcher/watchdog_link.h"

static struct error err;

/* Rank 0's end of a connection, and another's. */
static struct link first, other;
static struct meeting meeting;

static void wait_readable(int fd)
{
	poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 5000);
}

static void meet(bool loopback)
{
	int listener = -1;
	first = other = (struct link){.fd = -1, .rank = -1};
	CHECK_OK(link_listen(&listener, &meeting, loopback, &err), &err);
	CHECK(link_accept(listener) == -1);
	if (meeting.count) /* a machine may have no address but the loopback one */
		CHECK_OK(link_connect(&other.fd, &meeting, 5, &err), &err);
	if (meeting.count) {
		wait_readable(listener);
		first.fd = link_accept(listener);
		CHECK(first.fd >= 0);
	}
	CHECK(close(listener) == 0);
}

static struct beat random_beat(void)
{
	struct beat beat;
	for (size_t i = 0; i < sizeof beat; i++)
		((unsigned char *)&beat)[i] = (unsigned char)test_int(1, 255);
	return beat;
}

/* Names end within their arrays, whatever was sent. */
static bool same(const struct beat *sent, const struct beat *got)
{
	struct beat wanted = *sent;
	wanted.host[sizeof wanted.host - 1] = wanted.device[sizeof wanted.device - 1] = '\0';
	return !memcmp(&wanted, got, sizeof wanted);
}

static void beats(void)
{
	meet(true);
	for (int i = 0; i < 200; i++) {
		bool down = test_int(0, 1);
		struct beat beat = random_beat();
		CHECK(link_send(down ? first.fd : other.fd, &beat));
		struct link *to = down ? &other : &first;
		wait_readable(to->fd);
		CHECK(link_receive(to) == 1);
		CHECK(same(&beat, &to->beat));
		CHECK(link_receive(to) == 0);
	}
	link_close(&first);
	link_close(&other);
}

/* A beat that comes in parts, several that come at once, and an end in the middle of one. */
static void parts(void)
{
	meet(true);
	struct beat beat[3] = {random_beat(), random_beat(), random_beat()};
	const char *bytes = (const char *)beat;
	size_t cut = (size_t)test_int(1, sizeof beat[0] - 1), last = (size_t)test_int(1, sizeof beat[0] - 1);
	CHECK(send(other.fd, bytes, cut, 0) == (ssize_t)cut);
	wait_readable(first.fd);
	CHECK(link_receive(&first) == 0);
	size_t rest = 2 * sizeof beat[0] - cut + last;
	CHECK(send(other.fd, bytes + cut, rest, 0) == (ssize_t)rest);
	wait_readable(first.fd);
	for (int i = 0; i < 2; i++) {
		CHECK(link_receive(&first) == 1);
		CHECK(same(&beat[i], &first.beat));
	}
	CHECK(link_receive(&first) == 0);
	link_close(&other);
	wait_readable(first.fd);
	CHECK(link_receive(&first) == -1);
	link_close(&first);
}

static void broken(void)
{
	meet(true);
	link_close(&first);
	struct beat beat = random_beat();
	bool sent = true;
	for (int i = 0; sent && i < 100; i++) {
		sent = link_send(other.fd, &beat);
		usleep(1000);
	}
	CHECK(!sent);
	link_close(&other);
	/* Nobody listens there any more. */
	CHECK(link_connect(&other.fd, &meeting, 1, &err) != 0);
	CHECK(strstr(err.message, "127.0.0.1 port ") && strstr(err.message, "--watchdog 0"));
	meeting.count = 0;
	CHECK(link_connect(&other.fd, &meeting, 1, &err) != 0);
}

static void all_addresses(void)
{
	meet(false);
	if (!meeting.count) {
		printf("SKIP all_addresses: this machine has no address but the loopback one\n");
		return;
	}
	struct beat beat = random_beat();
	CHECK(link_send(other.fd, &beat));
	wait_readable(first.fd);
	CHECK(link_receive(&first) == 1 && same(&beat, &first.beat));
	link_close(&first);
	link_close(&other);
}

static void tokens(void)
{
	uint64_t before = 0;
	for (int i = 0; i < 3; i++) {
		meet(true);
		CHECK(meeting.token != before);
		before = meeting.token;
		link_close(&first);
		link_close(&other);
	}
}

int main(void)
{
	RUN(beats);
	RUN(parts);
	RUN(broken);
	RUN(all_addresses);
	RUN(tokens);
	TEST_END();
}
