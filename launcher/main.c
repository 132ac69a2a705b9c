#include <signal.h>
#include <stdio.h>

#include "launcher/commands.h"
#include "launcher/fault.h"
#include "launcher/launch.h"
#include "launcher/log.h"
#include "launcher/mpi_group.h"
#include "launcher/options.h"
#include "launcher/stop_request.h"
#include "launcher/watchdog.h"
#include "launcher/whereabouts.h"

static int exit_status(int result, const struct error *err, const struct log *log, bool speaks)
{
	if (!result)
		return 0;
	if (speaks)
		log_say(log, LOG_ERROR, "tprun: %s", err->message);
	return err->kind ? (int)err->kind : ERROR_RUN;
}

/* The commands that run on all ranks; NULL: it needs no ranks. */
typedef int ranks_command(const struct options *, struct group *, struct error *);

static ranks_command *ranks_command_of(enum command command)
{
	switch (command) {
	case COMMAND_GENERATE: return cmd_generate;
	case COMMAND_BATCH: return cmd_batch;
	case COMMAND_SCORE: return cmd_score;
	case COMMAND_BENCH: return cmd_bench;
	default: return NULL;
	}
}

/* generate and score run one replica, which is all ranks. */
static int check_tp(const struct options *options, const struct group *world, struct error *err)
{
	if (options->command == COMMAND_BATCH || !options->given[OPTION_TP] ||
	    options->tp == world->size)
		return 0;
	return error_usage(err, "--tp %d: %s splits the model over all ranks, of which there %s %d: "
				"start %d (mpirun -np %d), or leave --tp out", options->tp,
			   options_command_name(options->command), world->size == 1 ? "is" : "are",
			   world->size, options->tp, options->tp);
}

/* *out is NULL where the options leave nothing to watch. */
static int open_watchdog(struct watchdog **out, const struct options *options,
			 struct activity *activity, const struct log *log, struct error *err)
{
	struct launch_hint hint = launch_hint();
	const struct watchdog_options watch = {
		.activity = activity, .log = *log, .rank = hint.rank, .size = hint.size ? hint.size : 1,
		.stuck_s = options->given[OPTION_WATCHDOG] ? options->watchdog : WATCHDOG_DEFAULT_S,
		.start_s = options->given[OPTION_INIT_TIMEOUT] ? options->init_timeout
							       : INIT_TIMEOUT_DEFAULT_S,
	};
	stop_request_at_end(watchdog_gone);
	return watch.stuck_s > 0 || watch.start_s > 0 ? watchdog_open(out, &watch, err) : 0;
}

/* All ranks come together before anything is said, a wrong call included, so that a message is
 * printed once and every rank ends with the same status. batch alone can go on where it was stopped:
 * the others end by signals as any program does. */
static int run_on_ranks(const struct options *options, int parsed, struct error *err)
{
	struct group *world;
	struct watchdog *watchdog = NULL;
	bool batch = options->command == COMMAND_BATCH;
	struct activity activity = {.layer = -1};
	struct log log = log_make(options, launch_hint().rank);
	stop_request_log(&log);
	if (!parsed)
		parsed = whereabouts_open(&activity, &log, err);
	if (batch && !parsed)
		parsed = stop_request_open(err);
	if (!parsed)
		parsed = open_watchdog(&watchdog, options, &activity, &log, err);
	fault_open(&activity);
	if (batch && launch_hint().rank == 0)
		stop_request_message("tprun: stopped; start the same command again to go on\n");
	if (launch_is_doubtful() && launch_hint().rank == 0)
		log_say(&log, LOG_INFO, "tprun: started through PMI: if MPI does not start now, give srun "
					"--mpi=pmix, or use mpirun");
	if (mpi_group_open(&world, err)) { /* a wrong call is one on all ranks */
		watchdog_close(watchdog);
		whereabouts_close();
		return exit_status(-1, err, &log, err->kind != ERROR_USAGE || launch_hint().rank == 0);
	}
	log.rank = world->rank;
	mpi_group_log(world, &log);
	mpi_group_watch(world, &activity, watchdog);
	int result = world->agree(world, parsed ? parsed : check_tp(options, world, err), err);
	if (!result)
		result = fault_check(world, &activity, err);
	if (!result && watchdog)
		result = watchdog_connect(watchdog, world, mpi_group_host(world), err);
	activity_enter(&activity, ACTIVITY_MODEL);
	if (!result)
		result = ranks_command_of(options->command)(options, world, err);
	if (result)
		watchdog_give_way(watchdog, 0);
	int status = exit_status(result, err, &log, world->rank == 0);
	if (status)
		stop_request_end(status);
	activity_enter(&activity, ACTIVITY_STOP);
	mpi_group_close(world);
	watchdog_close(watchdog);
	whereabouts_close();
	return status;
}

/* The others need no MPI: under mpirun one rank does the work, the rest have nothing to do. */
static int run_alone(const struct options *options, int parsed, struct error *err)
{
	struct log log = log_make(options, launch_hint().rank);
	bool speaks = log.rank == 0;
	int result = parsed;
	if (!result && speaks && (options->help || options->command == COMMAND_NONE)) {
		if (options->version)
			puts("tprun " TPRUN_VERSION);
		else
			options_help(stdout, options->command);
		if (fflush(stdout))
			result = error_run(err, "cannot write to standard output");
	} else if (!result && speaks) {
		result = (options->command == COMMAND_PLAN ? cmd_plan : cmd_tokenize)(options, err);
	}
	return exit_status(result, err, &log, speaks);
}

int main(int argc, char **argv)
{
	struct options options;
	struct error err = {0};
	/* A reader that went away and a file that grew too large are errors of the write. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	int parsed = options_parse(&options, argc, argv, &err);
	if (ranks_command_of(options.command) && !options.no_bind)
		launch_widen(argv);
	int status = ranks_command_of(options.command) && !options.help
			     ? run_on_ranks(&options, parsed, &err)
			     : run_alone(&options, parsed, &err);
	options_close(&options);
	return status;
}
