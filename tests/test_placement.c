#define TEST_SUITE "placement"
#include "tests/test.h"

#include "launcher/placement.h"
#include "launcher/placement_choose.h"
#include "launcher/placement_nic.h"

enum { RANKS_MAX = 16 };

static hwloc_topology_t load(const char *name, bool synthetic)
{
	hwloc_topology_t topology;
	char path[256];
	snprintf(path, sizeof path, "tests/data/topology/%s.xml", name);
	if (hwloc_topology_init(&topology) ||
	    (synthetic ? hwloc_topology_set_synthetic(topology, name)
		       : hwloc_topology_set_xml(topology, path)) ||
	    hwloc_topology_set_io_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_ALL) ||
	    hwloc_topology_load(topology)) {
		fprintf(stderr, "cannot load the topology %s\n", name);
		exit(1);
	}
	return topology;
}

/* Chooses for `count` ranks that may all use the PUs of `allowed`, a list such as "0-7,16-23". */
static void choose(hwloc_topology_t topology, const char *allowed, const char *const *devices,
		   int count, struct placement_choice *choices)
{
	struct placement_rank ranks[RANKS_MAX];
	struct error err;
	hwloc_bitmap_t set = hwloc_bitmap_alloc();
	hwloc_bitmap_list_sscanf(set, allowed);
	for (int r = 0; r < count; r++)
		ranks[r] = (struct placement_rank){set, false, devices ? devices[r] : NULL};
	CHECK_OK(placement_choose(topology, ranks, count, choices, &err), &err);
	hwloc_bitmap_free(set);
}

static void check_list(hwloc_const_bitmap_t set, const char *expected)
{
	char text[256];
	hwloc_bitmap_list_snprintf(text, sizeof text, set);
	CHECK_STR(text, expected);
}

static void check_choices(const struct placement_choice *choices, int count,
			  const char *const *cpus, const char *const *nodes, int cores)
{
	for (int r = 0; r < count; r++) {
		check_list(choices[r].cpus, cpus[r]);
		check_list(choices[r].nodes, nodes[r]);
		CHECK_MSG(choices[r].cores == cores, "%d", choices[r].cores);
	}
}

static const char *const four_gpus[] = {"0000:17:00.0", "0000:65:00.0", "0000:b3:00.0",
					"0000:e3:00.0"};

static void two_sockets_four_gpus(void)
{
	static const char *const cpus[] = {"0-3,16-19", "4-7,20-23", "8-11,24-27", "12-15,28-31"};
	static const char *const nodes[] = {"0", "0", "1", "1"};
	hwloc_topology_t topology = load("two-sockets-four-gpus", false);
	struct placement_choice choices[4];
	choose(topology, "0-31", four_gpus, 4, choices);
	check_choices(choices, 4, cpus, nodes, 4);
	for (int r = 0; r < 4; r++)
		CHECK(choices[r].near && choices[r].known && !choices[r].shared);
	placement_choices_close(choices, 4);

	/* The order of the devices is the user's; the cores follow the device. */
	static const char *const turned[] = {"0000:e3:00.0", "0000:17:00.0"};
	static const char *const turned_cpus[] = {"8-15,24-31", "0-7,16-23"};
	static const char *const turned_nodes[] = {"1", "0"};
	choose(topology, "0-31", turned, 2, choices);
	check_choices(choices, 2, turned_cpus, turned_nodes, 8);
	placement_choices_close(choices, 2);
	hwloc_topology_destroy(topology);
}

static void eight_gpus_four_nodes(void)
{
	static const char *const gpus[] = {"0000:07:00.0", "0000:0b:00.0", "0000:48:00.0",
					   "0000:4c:00.0", "0000:88:00.0", "0000:8b:00.0",
					   "0000:c8:00.0", "0000:cb:00.0"};
	static const char *const cpus[] = {"0-3,32-35", "4-7,36-39", "8-11,40-43", "12-15,44-47",
					   "16-19,48-51", "20-23,52-55", "24-27,56-59",
					   "28-31,60-63"};
	static const char *const nodes[] = {"0", "0", "1", "1", "2", "2", "3", "3"};
	hwloc_topology_t topology = load("eight-gpus-four-numa", false);
	struct placement_choice choices[8];
	choose(topology, "0-63", gpus, 8, choices);
	check_choices(choices, 8, cpus, nodes, 4);
	placement_choices_close(choices, 8);
	hwloc_topology_destroy(topology);
}

/* A cgroup with one hardware thread a core, few on the second socket, none of the last cores. */
static void restricted_set(void)
{
	static const char *const cpus[] = {"0-1", "2-3", "9", "10"};
	static const char *const nodes[] = {"0", "0", "1", "1"};
	hwloc_topology_t topology = load("two-sockets-four-gpus", false);
	struct placement_choice choices[4];
	choose(topology, "0-3,9-10", four_gpus, 4, choices);
	for (int r = 0; r < 4; r++) {
		check_list(choices[r].cpus, cpus[r]);
		check_list(choices[r].nodes, nodes[r]);
		CHECK(choices[r].near);
	}
	placement_choices_close(choices, 4);

	/* No near core is allowed: far ones, and that is told. */
	choose(topology, "0-3", four_gpus + 2, 2, choices);
	check_list(choices[0].cpus, "0-1");
	check_list(choices[1].cpus, "2-3");
	CHECK(choices[0].known && !choices[0].near && choices[1].known && !choices[1].near);
	placement_choices_close(choices, 2);
	hwloc_topology_destroy(topology);
}

static void fewer_cores_than_ranks(void)
{
	hwloc_topology_t topology = load("two-sockets-four-gpus", false);
	struct placement_choice choices[4];
	choose(topology, "0,16,8", four_gpus, 4, choices);
	for (int r = 0; r < 4; r++) {
		check_list(choices[r].cpus, r < 2 ? "0,16" : "8");
		CHECK(choices[r].cores == 1 && choices[r].shared && choices[r].near);
	}
	placement_choices_close(choices, 4);
	hwloc_topology_destroy(topology);
}

static void unknown_locality(void)
{
	static const char *const gpus[] = {"0000:00:05.0", "0000:00:06.0", "0000:00:07.0", NULL};
	hwloc_topology_t topology = load("virtual-machine", false);
	struct placement_choice choices[4];
	choose(topology, "0-7", gpus, 4, choices); /* the third isn't in the topology */
	for (int r = 0; r < 4; r++) {
		char expected[8];
		snprintf(expected, sizeof expected, "%d-%d", 2 * r, 2 * r + 1);
		check_list(choices[r].cpus, expected);
		CHECK(!choices[r].known && !choices[r].near && choices[r].cores == 2);
	}
	placement_choices_close(choices, 4);
	hwloc_topology_destroy(topology);
}

static void no_device(void)
{
	hwloc_topology_t topology = load("package:2 [numa] core:6 pu:2", true);
	struct placement_choice choices[5];
	static const char *const cpus[] = {"0-5", "6-11", "12-15", "16-19", "20-23"};
	choose(topology, "0-23", NULL, 5, choices);
	for (int r = 0; r < 5; r++)
		check_list(choices[r].cpus, cpus[r]);
	check_list(choices[2].nodes, "1");
	placement_choices_close(choices, 5);
	hwloc_topology_destroy(topology);
}

/* A rank without a known locality leaves the near cores to those that have nothing else. */
static void mixed_localities(void)
{
	static const char *const gpus[] = {NULL, "0000:17:00.0", "0000:65:00.0"};
	hwloc_topology_t topology = load("two-sockets-four-gpus", false);
	struct placement_choice choices[3];
	choose(topology, "0-31", gpus, 3, choices);
	check_list(choices[0].cpus, "8-15,24-31");
	check_list(choices[1].cpus, "0-3,16-19");
	check_list(choices[2].cpus, "4-7,20-23");
	placement_choices_close(choices, 3);
	hwloc_topology_destroy(topology);
}

/* What Slurm or the user gave each rank alone is kept whole, far cores and half cores included; a set
 * that two ranks were given is split between them. */
static void kept_bindings(void)
{
	hwloc_topology_t topology = load("two-sockets-four-gpus", false);
	struct placement_choice choices[3];
	struct error err;
	hwloc_bitmap_t own = hwloc_bitmap_alloc(), common = hwloc_bitmap_alloc();
	hwloc_bitmap_list_sscanf(own, "0,4-9");
	hwloc_bitmap_list_sscanf(common, "10-13,26-29");
	struct placement_rank ranks[] = {{common, true, "0000:b3:00.0"},
					 {own, true, "0000:17:00.0"},
					 {common, true, "0000:e3:00.0"}};
	CHECK_OK(placement_choose(topology, ranks, 3, choices, &err), &err);
	check_list(choices[0].cpus, "10-11,26-27");
	check_list(choices[1].cpus, "0,4-9");
	check_list(choices[2].cpus, "12-13,28-29");
	CHECK(choices[1].cores == 7 && choices[1].known && !choices[1].near);
	placement_choices_close(choices, 3);

	hwloc_bitmap_zero(own);
	hwloc_bitmap_set(own, 900);
	CHECK_FAILS(placement_choose(topology, ranks, 3, choices, &err), &err, "local rank 1");
	hwloc_bitmap_free(own);
	hwloc_bitmap_free(common);
	hwloc_topology_destroy(topology);
}

/* The cores near a device, straight from the description of the fixtures. */
static void expect_near(hwloc_topology_t topology, int socket, hwloc_bitmap_t out)
{
	hwloc_bitmap_copy(out, hwloc_get_obj_by_type(topology, HWLOC_OBJ_PACKAGE,
						     (unsigned)socket)->cpuset);
}

/* Cores that `set` touches. */
static int core_count(hwloc_topology_t topology, hwloc_const_bitmap_t set)
{
	int count = 0, cores = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE);
	for (int c = 0; c < cores; c++)
		count += hwloc_bitmap_intersects(
			hwloc_get_obj_by_type(topology, HWLOC_OBJ_CORE, (unsigned)c)->cpuset, set);
	return count;
}

static void random_once(hwloc_topology_t topology)
{
	static const int socket_of[] = {0, 0, 1, 1};
	struct placement_choice choices[RANKS_MAX], again[RANKS_MAX];
	const char *devices[RANKS_MAX];
	int device[RANKS_MAX], count = (int)test_int(1, RANKS_MAX), pus = 32;
	char list[256];
	hwloc_bitmap_t allowed = hwloc_bitmap_alloc(), near = hwloc_bitmap_alloc();
	int density = (int)test_int(1, 8);
	for (int pu = 0; pu < pus; pu++)
		if (test_int(1, 8) <= density)
			hwloc_bitmap_set(allowed, (unsigned)pu);
	if (hwloc_bitmap_iszero(allowed))
		hwloc_bitmap_set(allowed, (unsigned)test_int(0, pus - 1));
	bool with_none = test_int(0, 1);
	for (int r = 0; r < count; r++) {
		device[r] = (int)test_int(with_none ? -1 : 0, 3);
		devices[r] = device[r] < 0 ? NULL : four_gpus[device[r]];
	}
	hwloc_bitmap_list_snprintf(list, sizeof list, allowed);
	choose(topology, list, devices, count, choices);
	choose(topology, list, devices, count, again);

	bool enough = true;
	for (int s = 0; s < 2; s++) { /* does each socket's share reach for its ranks? */
		int users = 0;
		expect_near(topology, s, near);
		hwloc_bitmap_and(near, near, allowed);
		for (int r = 0; r < count; r++)
			users += device[r] >= 0 && socket_of[device[r]] == s;
		enough &= users <= core_count(topology, near);
	}
	/* Ranks without near cores take any, so let them count on both sides. */
	int none = 0, total = core_count(topology, allowed);
	for (int r = 0; r < count; r++)
		none += device[r] < 0;
	enough &= none == 0 || count <= total;

	for (int r = 0; r < count; r++) {
		CHECK(hwloc_bitmap_isequal(choices[r].cpus, again[r].cpus));
		CHECK(!hwloc_bitmap_iszero(choices[r].cpus));
		CHECK(hwloc_bitmap_isincluded(choices[r].cpus, allowed));
		CHECK(choices[r].cores == core_count(topology, choices[r].cpus));
		if (device[r] >= 0) {
			expect_near(topology, socket_of[device[r]], near);
			if (hwloc_bitmap_intersects(near, allowed))
				CHECK(hwloc_bitmap_isincluded(choices[r].cpus, near));
			CHECK(choices[r].near == hwloc_bitmap_intersects(near, allowed));
		}
		/* All allowed hardware threads of a core come together. */
		for (int c = 0; c < hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE); c++) {
			hwloc_bitmap_copy(near, hwloc_get_obj_by_type(topology, HWLOC_OBJ_CORE,
								      (unsigned)c)->cpuset);
			hwloc_bitmap_and(near, near, allowed);
			if (hwloc_bitmap_intersects(near, choices[r].cpus))
				CHECK(hwloc_bitmap_isincluded(near, choices[r].cpus));
		}
		for (int other = 0; other < r && enough; other++) {
			CHECK_MSG(!hwloc_bitmap_intersects(choices[r].cpus, choices[other].cpus),
				  "%d ranks on %s", count, list);
			if (device[r] == device[other])
				CHECK(abs(choices[r].cores - choices[other].cores) <= 1);
		}
		CHECK(!enough || !choices[r].shared);
	}
	placement_choices_close(choices, count);
	placement_choices_close(again, count);
	hwloc_bitmap_free(allowed);
	hwloc_bitmap_free(near);
}

static void random_sets(void)
{
	hwloc_topology_t topology = load("two-sockets-four-gpus", false);
	for (int i = 0; i < 300 && !test_failures; i++)
		random_once(topology);
	hwloc_topology_destroy(topology);
}

/* Without devices, on random machines: disjoint, even within one, nothing left over. */
static void random_machines(void)
{
	for (int i = 0; i < 40 && !test_failures; i++) {
		char description[64];
		int packages = (int)test_int(1, 3), cores = (int)test_int(1, 6);
		int count = (int)test_int(1, 12), total = packages * cores;
		snprintf(description, sizeof description, "package:%d [numa] core:%d pu:%d",
			 packages, cores, (int)test_int(1, 2));
		hwloc_topology_t topology = load(description, true);
		struct placement_choice choices[12];
		hwloc_bitmap_t all = hwloc_bitmap_alloc();
		choose(topology, "0-99", NULL, count, choices);
		for (int r = 0; r < count; r++) {
			hwloc_bitmap_or(all, all, choices[r].cpus);
			if (count <= total)
				CHECK(!choices[r].shared &&
				      choices[r].cores == total / count + (r < total % count));
			else
				CHECK(choices[r].cores == 1);
		}
		CHECK(hwloc_bitmap_isequal(all, hwloc_get_root_obj(topology)->cpuset));
		hwloc_bitmap_free(all);
		placement_choices_close(choices, count);
		hwloc_topology_destroy(topology);
	}
}

static void map(void)
{
	char *text;
	size_t length;
	FILE *out = open_memstream(&text, &length);
	struct placement_row rows[] = {
		{.rank = 0, .host = "a", .device = {true, "Some GPU", "0000:17:00.0", "GPU-17"}, .cores = 4,
		 .near = true, .known = true, .memory_bound = true, .cpus = "0-3", .nodes = "0",
		 .pid = 17, .nic = "mlx5_0", .links = "NVLink to 1"},
		{.rank = 1, .host = "node17", .device = {true, "Some GPU", "0000:65:00.0", ""},
		 .cores = 12, .cpus = "4-15", .nodes = "0-1", .pid = 123456},
		{.rank = 2, .host = "b", .cores = 1, .shared = true, .memory_bound = true, .cpus = "3",
		 .nodes = "1", .unbound = true},
	};
	placement_print(out, rows, 3);
	fclose(out);
	CHECK_STR(text, "rank  host    pid     cores      NUMA  memory   NIC     GPU\n"
			"   0  a       17      4 (0-3)    0     bound    mlx5_0  Some GPU, 0000:17:00.0, "
			"GPU-17, NVLink to 1\n"
			"   1  node17  123456  12 (4-15)  0-1   local    -       Some GPU, 0000:65:00.0, "
			"locality unknown\n"
			"   2  b       -       1 (3)      1     unbound  -       none; cores shared with "
			"another rank\n");
	free(text);
}

/* One line a node and a fault; nothing where nothing is wrong. */
static void warnings(void)
{
	struct placement_row rows[12];
	for (int r = 0; r < 12; r++) {
		rows[r] = (struct placement_row){.rank = r, .device = {.present = true}, .near = true,
						 .known = true, .node = r / 4 * 4};
		snprintf(rows[r].host, sizeof rows[r].host, "h%d", r / 4);
	}
	CHECK(!placement_warnings(rows, 12));
	for (int r = 0; r < 4; r++)
		rows[r].shared = true; /* none is free: it can't be helped */
	rows[7].near = rows[7].known = false;
	rows[8].device.present = rows[8].near = false;
	CHECK(!placement_warnings(rows, 12));
	for (int r = 4; r < 6; r++) {
		rows[r].shared = true;
		rows[r].free_cores = 3;
	}
	rows[5].near = rows[11].near = false;
	char *text = placement_warnings(rows, 12), *at = text;
	const char *const starts[] = {
		"tprun: warning: ranks 4, 5 (host h1) share cores while 3 of this machine's are free: ",
		"tprun: warning: rank 5 (host h1) runs on cores far from the GPU: ",
		"tprun: warning: rank 11 (host h2) runs on cores far from the GPU: ",
	};
	CHECK(text != NULL);
	for (int i = 0; i < 3 && at; i++, at = strchr(at, '\n') ? strchr(at, '\n') + 1 : NULL)
		CHECK_MSG(!strncmp(at, starts[i], strlen(starts[i])) && strstr(at, "--bind-to none"), "%s", at);
	CHECK(at && !*at);
	free(text);

	for (int r = 0; r < 12; r++)
		rows[r] = (struct placement_row){.rank = r, .shared = true, .free_cores = 1, .host = "h"};
	text = placement_warnings(rows, 12);
	CHECK_MSG(text && strstr(text, "ranks 0, 1, 2, 3, 4, 5, 6, 7, ... (host h)"), "%s", text);
	free(text);
}

static void nearest_nic(void)
{
	static const char *const expected[] = {"mlx5_0", "mlx5_0", "mlx5_1", "mlx5_2"};
	hwloc_topology_t topology = load("two-sockets-with-nics", false);
	hwloc_bitmap_t cpus = hwloc_bitmap_alloc();
	char name[64];
	hwloc_bitmap_set_range(cpus, 0, 3);
	for (int g = 0; g < 4; g++) {
		placement_nearest_nic(topology, four_gpus[g], cpus, name, sizeof name);
		CHECK_STR(name, expected[g]);
	}
	/* Without a device it goes by the cores. */
	placement_nearest_nic(topology, NULL, cpus, name, sizeof name);
	CHECK_STR(name, "mlx5_0");
	hwloc_bitmap_zero(cpus);
	hwloc_bitmap_set_range(cpus, 8, 11);
	placement_nearest_nic(topology, NULL, cpus, name, sizeof name);
	CHECK_STR(name, "mlx5_1");
	hwloc_topology_destroy(topology);
	topology = load("two-sockets-four-gpus", false); /* it has none */
	placement_nearest_nic(topology, four_gpus[0], cpus, name, sizeof name);
	CHECK_STR(name, "");
	hwloc_topology_destroy(topology);
	hwloc_bitmap_free(cpus);
}

int main(void)
{
	RUN(two_sockets_four_gpus);
	RUN(eight_gpus_four_nodes);
	RUN(restricted_set);
	RUN(fewer_cores_than_ranks);
	RUN(unknown_locality);
	RUN(no_device);
	RUN(mixed_localities);
	RUN(kept_bindings);
	RUN(random_sets);
	RUN(random_machines);
	RUN(map);
	RUN(warnings);
	RUN(nearest_nic);
	TEST_END();
}
