/*
 * commands.h - one function a command. Each writes its result to standard output and returns 0, or
 * -1 with err set.
 */
#ifndef TPRUN_LAUNCHER_COMMANDS_H
#define TPRUN_LAUNCHER_COMMANDS_H

#include "launcher/options.h"
#include "runtime/base/group.h"

/* On all ranks of the world, with the same result on each. */
int cmd_generate(const struct options *, struct group *, struct error *err);
int cmd_batch(const struct options *, struct group *world, struct error *err);
int cmd_score(const struct options *, struct group *, struct error *err);
int cmd_bench(const struct options *, struct group *, struct error *err);

/* In one process, without MPI. */
int cmd_tokenize(const struct options *, struct error *err);
int cmd_plan(const struct options *, struct error *err);

#endif
