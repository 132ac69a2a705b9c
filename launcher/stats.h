/*
 * stats.h - --stats FILE: how the steps go, a JSON object a line, at an interval.
 *
 * World rank 0 writes them, from a thread of its own, so that neither a slow disk holds up a step nor
 * a step that hangs stops the lines: an interval without a step says so. A line tells of its interval
 * alone:
 *
 *   {"time": seconds since 1970 at its end, "seconds": its length, "steps": how many ended,
 *    "step_s": {"mean", "p50", "p99"} or null without steps, from the handing over of a step to the
 *    device to its results,
 *    "batch": sequences of a step, on average, "tokens": run in all steps, prompts included,
 *    "kv_blocks_used", "kv_blocks": held by sequences in the last step, and there are,
 *    "all_reduce_s": mean of a step's sums over the ranks, waiting for the slowest included, or null
 *    without steps; on GPUs by their own clock, which costs a step that adds through NCCL two small kernels a sum}
 *
 * With replicas it is the replica of rank 0 that is told of.
 */
#ifndef TPRUN_LAUNCHER_STATS_H
#define TPRUN_LAUNCHER_STATS_H

#include "launcher/log.h"
#include "launcher/options.h"
#include "runtime/base/group.h"
#include "runtime/engine/engine.h"

struct stats;

/* Opens the file that --stats names, for lines to be added at its end; *out is NULL without the
 * option. A file that can't be opened is an error; what fails later, as on a full disk, is a warning,
 * told once, and its line is lost. The log must outlive the stats. */
int stats_open(struct stats **out, const struct options *, const struct log *, struct error *err);
/* Begins to write, of the steps of this engine, whose sums over the ranks go through this group or are timed
 * by this backend (time_sums). NULL stats are nothing to do. */
int stats_start(struct stats *, struct engine *, const struct group *, struct backend *, struct error *err);
/* Writes the line of what is left. Before engine_close. */
void stats_close(struct stats *);

#endif
