/* load_report: what the ranks read, by node. */
#define TEST_SUITE "load_report"
#include "tests/test.h"

#include "launcher/load_report.h"

enum { RANKS_MAX = 40 };

/* Ranks of a node need not be neighbours; a node is numbered by its first rank. */
static void by_node(void)
{
	for (int i = 0; i < 200; i++) {
		struct load_share shares[RANKS_MAX] = {0};
		uint64_t bytes[RANKS_MAX] = {0};
		double seconds[RANKS_MAX] = {0};
		int order[RANKS_MAX], nodes = 0, count = (int)test_int(1, RANKS_MAX);
		for (int r = 0; r < count; r++) {
			int same = (int)test_int(0, r), node = same < r ? shares[same].node : r;
			shares[r].node = node;
			snprintf(shares[r].host, sizeof shares[r].host, "node-%d", node);
			shares[r].bytes = (uint64_t)test_int(0, 1 << 30);
			shares[r].seconds = test_real();
			bytes[node] += shares[r].bytes;
			if (seconds[node] < shares[r].seconds)
				seconds[node] = shares[r].seconds;
			if (node == r)
				order[nodes++] = r;
		}
		CHECK(load_share_by_node(shares, count) == nodes);
		for (int n = 0; n < nodes; n++) {
			char host[HOST_NAME_MAX_BYTES];
			snprintf(host, sizeof host, "node-%d", order[n]);
			CHECK(shares[n].node == order[n] && shares[n].bytes == bytes[order[n]]);
			CHECK(shares[n].seconds == seconds[order[n]]);
			CHECK_STR(shares[n].host, host);
		}
	}
}

int main(void)
{
	RUN(by_node);
	TEST_END();
}
