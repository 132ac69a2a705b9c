#include "launcher/watchdog_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/launch.h"
#include "launcher/stop_request.h"

enum { LISTED = 8 }; /* ranks that a message lists */

static const double gone_s = 3;	   /* for a run to end after a rank has gone and said why */
/* Between the ranks that could tell the same: the first to do so ends the others, for which mpirun takes
 * more than a second. */
static const double turn_s = 2;
enum { TURNS = 3 };
static const double orphan_s = 1; /* for MPI to end a rank whose launcher has ended */

/* ---- messages ---------------------------------------------------------------------------- */

/* "rank 2 (host a, NVIDIA H100)", behind what is in text already. */
static void add_rank(const struct watchdog *w, int rank, char *text, size_t room)
{
	const struct beat *beat = &w->seen[rank].last;
	size_t used = strlen(text);
	snprintf(text + used, room - used, "rank %d%s%s%s%s%s", rank, beat->host[0] ? " (host " : "",
		 beat->host, beat->device[0] ? ", " : "", beat->device, beat->host[0] ? ")" : "");
}

/* "in decode, step 12, layer 3" */
static void add_doing(const struct beat *beat, char *text, size_t room)
{
	size_t used = strlen(text);
	used += (size_t)snprintf(text + used, room - used, "%s", activity_name(beat->phase));
	if (beat->step && used < room)
		used += (size_t)snprintf(text + used, room - used, ", %s %llu",
					 beat->phase == ACTIVITY_PREFILL || beat->phase == ACTIVITY_DECODE
						 ? "step" : "after step",
					 (unsigned long long)beat->step);
	if (beat->layer >= 0 && used < room)
		snprintf(text + used, room - used, ", layer %d", beat->layer);
}

/* The marked ranks, each with what it was doing where `doing`. */
static void list_ranks(const struct watchdog *w, const bool *marked, bool doing, char *text, size_t room)
{
	int count = 0;
	for (int r = 0; r < w->size; r++) {
		if (!marked[r] || count++ >= LISTED)
			continue;
		if (count > 1)
			strncat(text, ", ", room - strlen(text) - 1);
		add_rank(w, r, text, room);
		if (!doing)
			continue;
		strncat(text, " ", room - strlen(text) - 1);
		add_doing(&w->seen[r].last, text, room);
	}
	size_t used = strlen(text);
	if (count > LISTED)
		snprintf(text + used, room - used, " and %d more", count - LISTED);
}

static const char *advice_of(int phase)
{
	switch (phase) {
	case ACTIVITY_MPI:
		return "see that all hosts start the same MPI and reach each other (mpirun --mca "
		       "btl_tcp_if_include NIC --mca oob_tcp_if_include NIC names the network)";
	case ACTIVITY_MODEL:
		return "see whether the model's folder answers on that host";
	case ACTIVITY_DEVICE:
		return "see whether nvidia-smi answers on that host";
	default:
		return "name the network between hosts (mpirun --mca btl_tcp_if_include NIC, "
		       "NCCL_SOCKET_IFNAME=NIC); between GPUs of one host an IOMMU or PCIe's ACS may hinder, "
		       "which NCCL_P2P_DISABLE=1 shows";
	}
}

/* ---- verdicts ---------------------------------------------------------------------------- */

__attribute__((noreturn))
static void end_all(struct watchdog *w, const char *message)
{
	stop_request_message(""); /* this is no stop on request */
	atomic_store(&w->ends, true);
	if (message[0])
		log_text(&w->options.log, LOG_ERROR, message);
	if (w->rank == 0) {
		struct beat end = watchdog_beat(w, BEAT_END);
		watchdog_send(w, &end);
	} else {
		watchdog_failed();
	}
	ending_run(&w->ending, true);
}

/* The marked ranks have `what`. */
__attribute__((noreturn))
static void end_for(struct watchdog *w, const bool *marked, const char *what)
{
	char text[1024] = "", message[1400];
	list_ranks(w, marked, true, text, sizeof text);
	snprintf(message, sizeof message, "tprun: %s: %s; %s\n", what, text,
		 w->size > 1 ? "all ranks end" : "it ends");
	end_all(w, message);
}

/* Of the members those that the others wait for: they have arrived at the fewest calls, and within
 * steps, which are the same on all, at the fewest layers. */
static void mark_laggards(const struct watchdog *w, bool *member, bool steps)
{
	uint64_t arrivals = UINT64_MAX, count = UINT64_MAX;
	for (int r = 0; r < w->size; r++)
		if (member[r] && w->seen[r].last.arrivals < arrivals)
			arrivals = w->seen[r].last.arrivals;
	for (int r = 0; r < w->size; r++) {
		member[r] = member[r] && w->seen[r].last.arrivals == arrivals;
		if (member[r] && w->seen[r].last.count < count)
			count = w->seen[r].last.count;
	}
	for (int r = 0; r < w->size && steps; r++)
		member[r] = member[r] && w->seen[r].last.count == count;
}

/* The ranks that are led by `leader` and have not said farewell; or all such ranks. */
static void mark_members(const struct watchdog *w, int leader, bool all, bool *member)
{
	for (int r = 0; r < w->size; r++)
		member[r] = !w->seen[r].bye && (all || w->seen[r].last.leader == leader);
}

static void judge_silence(struct watchdog *w, double now, bool *marked)
{
	char what[64];
	bool found = false;
	for (int r = 0; r < w->size; r++) {
		const struct seen *s = &w->seen[r];
		marked[r] = s->connected && !s->bye && now - s->heard > w->options.stuck_s;
		found |= marked[r];
	}
	if (!found)
		return;
	snprintf(what, sizeof what, "silent for %g s, stopped or cut off", w->options.stuck_s);
	end_for(w, marked, what);
}

static void judge_start(struct watchdog *w, double now, bool *marked)
{
	for (int r = 0; r < w->size; r++) {
		const struct seen *s = &w->seen[r];
		int phase = s->last.phase;
		if (!s->connected || s->bye || phase < ACTIVITY_MODEL || phase > ACTIVITY_CONNECT ||
		    now - s->entered <= w->options.start_s)
			continue;
		char text[1024] = "", message[1800];
		mark_members(w, 0, true, marked);
		mark_laggards(w, marked, false);
		list_ranks(w, marked, false, text, sizeof text);
		snprintf(message, sizeof message, "tprun: %s takes more than %g s (--init-timeout), not "
			 "arrived: %s; %s\n", activity_name(phase), w->options.start_s, text,
			 advice_of(phase));
		end_all(w, message);
	}
}

/* Steps are a replica's own; loading and closing are all ranks' together. */
static void judge_progress(struct watchdog *w, double now, bool *marked)
{
	for (int leader = 0; leader < w->size; leader++) {
		const struct seen *s = &w->seen[leader];
		int phase = s->last.phase;
		bool steps = phase == ACTIVITY_PREFILL || phase == ACTIVITY_DECODE, stuck = true;
		if (s->last.leader != leader || s->bye ||
		    !(steps || phase == ACTIVITY_LOAD || phase == ACTIVITY_STOP))
			continue;
		mark_members(w, leader, !steps, marked);
		for (int r = 0; r < w->size; r++)
			stuck &= !marked[r] || now - w->seen[r].moved > w->options.stuck_s;
		if (!stuck)
			continue;
		char what[64];
		mark_laggards(w, marked, steps);
		snprintf(what, sizeof what, "stuck, without progress for %g s", w->options.stuck_s);
		end_for(w, marked, what);
	}
}

/* Ranks other than 0: what has become of rank 0, and after its farewell of this one's own end. The
 * first that is left tells; the others give it time to. */
static void judge_first(struct watchdog *w, double now)
{
	const struct seen *first = &w->seen[0], *own = &w->seen[w->rank];
	char text[512] = "", message[768];
	double turn = turn_s * (w->rank < TURNS ? w->rank - 1 : TURNS - 1);
	if (first->bye) {
		if (w->options.stuck_s <= 0 || now - own->moved <= w->options.stuck_s)
			return;
		add_rank(w, w->rank, text, sizeof text);
		snprintf(message, sizeof message, "tprun: stuck, without progress for %g s: %s %s; it ends\n",
			 w->options.stuck_s, text, activity_name(own->last.phase));
		end_all(w, message);
	}
	bool silent = w->options.stuck_s > 0 && now - first->heard > w->options.stuck_s + turn;
	if (!silent && !(w->gone > 0 && now - w->gone >= turn))
		return;
	add_rank(w, 0, text, sizeof text);
	strncat(text, " ", sizeof text - strlen(text) - 1);
	add_doing(&first->last, text, sizeof text);
	snprintf(message, sizeof message, "tprun: %s: %s; seen by rank %d (host %s), all ranks end\n",
		 silent ? "silent, stopped or cut off" : "lost, killed or crashed", text, w->rank, w->host);
	end_all(w, message);
}

/* Before all ranks have met: only the phase is known, and on rank 0 later who has come. */
static void judge_meeting(struct watchdog *w, double now, bool *marked)
{
	bool joined = marked != NULL;
	int rank = joined ? w->rank : w->options.rank;
	double turn = turn_s * (rank < TURNS ? rank : TURNS);
	char who[1024] = "", message[1800];
	if (w->options.start_s <= 0 || now - w->started <= w->options.start_s + turn)
		return;
	if (joined && rank == 0) {
		bool all = true;
		for (int r = 0; r < w->size; r++)
			all &= !(marked[r] = !w->seen[r].connected);
		if (all) {
			mark_members(w, 0, true, marked);
			mark_laggards(w, marked, false);
		}
		strcpy(who, "not arrived: ");
		list_ranks(w, marked, false, who, sizeof who);
	} else {
		snprintf(who, sizeof who, "seen by rank %d of %d (host %s)", rank,
			 joined ? w->size : w->options.size, w->host);
	}
	snprintf(message, sizeof message, "tprun: %s takes more than %g s (--init-timeout), %s; %s\n",
		 activity_name(ACTIVITY_MPI), w->options.start_s, who, advice_of(ACTIVITY_MPI));
	end_all(w, message);
}

/* MPI ends a rank when its connection to the launcher closes; not before it has made it, and a launcher
 * that dies while it is made leaves PMIx's client waiting without end. */
static void judge_launcher(struct watchdog *w, double now)
{
	char message[256];
	if (!w->launcher || !launch_process_ended(w->launcher))
		return;
	if (!(w->orphaned > 0))
		w->orphaned = now;
	if (now - w->orphaned <= orphan_s)
		return;
	snprintf(message, sizeof message, "tprun: lost, killed or crashed: the launcher of the ranks (host %s, "
		 "process %d); all ranks end\n", w->host, (int)w->launcher);
	end_all(w, link_claim() ? message : "");
}

void watchdog_judge(struct watchdog *w, double now)
{
	bool meeting = atomic_load(&w->options.activity->phase) == ACTIVITY_MPI;
	if (w->told > 0) {
		if (now - w->told > gone_s)
			end_all(w, "");
		return;
	}
	judge_launcher(w, now);
	if (!atomic_load(&w->joined)) {
		judge_meeting(w, now, NULL);
		return;
	}
	bool *marked = calloc((size_t)w->size, sizeof *marked);
	if (!marked)
		return;
	if (meeting)
		judge_meeting(w, now, marked);
	if (w->rank) {
		judge_first(w, now);
	} else {
		if (w->options.stuck_s > 0)
			judge_silence(w, now, marked);
		if (w->options.start_s > 0 && !meeting)
			judge_start(w, now, marked);
		if (w->options.stuck_s > 0 && !meeting)
			judge_progress(w, now, marked);
	}
	free(marked);
}

void watchdog_lost(struct watchdog *w, const bool *marked)
{
	end_for(w, marked, "lost, killed or crashed");
}
