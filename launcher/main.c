#include <signal.h>
#include <stdio.h>

#include "launcher/commands.h"
#include "launcher/mpi_group.h"
#include "launcher/options.h"

static int exit_status(int result, const struct error *err, bool speaks)
{
	if (!result)
		return 0;
	if (speaks)
		fprintf(stderr, "tprun: %s\n", err->message);
	return err->kind ? (int)err->kind : ERROR_RUN;
}

/* generate and score: all ranks come together before anything is said, a wrong call included, so
 * that a message is printed once and every rank ends with the same status. */
static int run_on_ranks(const struct options *options, int parsed, struct error *err)
{
	struct group *group;
	if (mpi_group_open(&group, err))
		return exit_status(-1, err, true);
	int result = group->agree(group, parsed, err);
	if (!result)
		result = (options->command == COMMAND_GENERATE ? cmd_generate : cmd_score)(
			options, group, err);
	int status = exit_status(result, err, group->rank == 0);
	mpi_group_close(group);
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
	signal(SIGPIPE, SIG_IGN); /* a reader that went away is an error of the write */
	int parsed = options_parse(&options, argc, argv, &err);
	bool ranks = options.command == COMMAND_GENERATE || options.command == COMMAND_SCORE;
	int status = ranks && !options.help ? run_on_ranks(&options, parsed, &err)
					    : run_alone(&options, parsed, &err);
	options_close(&options);
	return status;
}
