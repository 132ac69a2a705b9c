#include <signal.h>
#include <stdio.h>

#include "launcher/commands.h"
#include "launcher/mpi_group.h"
#include "launcher/options.h"
#include "launcher/stop_request.h"

static int exit_status(int result, const struct error *err, bool speaks)
{
	if (!result)
		return 0;
	if (speaks)
		fprintf(stderr, "tprun: %s\n", err->message);
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

/* All ranks come together before anything is said, a wrong call included, so that a message is
 * printed once and every rank ends with the same status. batch alone can go on where it was stopped:
 * the others end by signals as any program does. */
static int run_on_ranks(const struct options *options, int parsed, struct error *err)
{
	struct group *world;
	bool batch = options->command == COMMAND_BATCH;
	if (batch && !parsed)
		parsed = stop_request_open(err);
	if (batch && launch_hint().rank == 0)
		stop_request_message("tprun: stopped; start the same command again to go on\n");
	if (mpi_group_open(&world, err))
		return exit_status(-1, err, true);
	int result = world->agree(world, parsed ? parsed : check_tp(options, world, err), err);
	if (!result)
		result = ranks_command_of(options->command)(options, world, err);
	int status = exit_status(result, err, world->rank == 0);
	if (status == ERROR_STOPPED)
		stop_request_end();
	mpi_group_close(world);
	return status;
}

/* The others need no MPI: under mpirun one rank does the work, the rest have nothing to do. */
static int run_alone(const struct options *options, int parsed, struct error *err)
{
	bool speaks = launch_hint().rank == 0;
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
	return exit_status(result, err, speaks);
}

int main(int argc, char **argv)
{
	struct options options;
	struct error err = {0};
	/* A reader that went away and a file that grew too large are errors of the write. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	int parsed = options_parse(&options, argc, argv, &err);
	int status = ranks_command_of(options.command) && !options.help
			     ? run_on_ranks(&options, parsed, &err)
			     : run_alone(&options, parsed, &err);
	options_close(&options);
	return status;
}
