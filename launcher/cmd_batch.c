/*
 * World rank 0 walks through the input, hands each line to a replica with room, and appends
 * the results to the output as they come; between these it leads the first replica itself. The
 * leaders of the other replicas get lines and send results over the channel. All other ranks follow
 * their leader's steps.
 */
#include "launcher/commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "launcher/batch_lines.h"
#include "launcher/batch_report.h"
#include "launcher/batch_worker.h"
#include "launcher/channel.h"
#include "launcher/mpi_group.h"
#include "launcher/output.h"
#include "launcher/session.h"

/* To a leader: LINE, a line to run; DRAIN, begin no more; FINISH, end. From a leader: RESULT, a line
 * of output for each line it got; TOTALS, the last thing it says. */
enum message_kind { TO_LEADER_LINE, TO_LEADER_DRAIN, TO_LEADER_FINISH, TO_FIRST_RESULT, TO_FIRST_TOTALS };

enum { WAITING_MIN = 4 };

static const double hand_out_s = 0.005; /* spent on new lines in a round, which runs beside a step */
static const double drain_s = 3;	/* for completions that run when SIGUSR1 comes */
static const double answer_s = 0.3;	/* for the other leaders to answer a FINISH */

struct replica {
	int64_t given; /* lines handed out */
	int64_t lines; /* of those, without a result yet */
	bool ended;    /* its TOTALS are there */
};

struct run {
	const struct options *options;
	struct log log;
	struct group *world, *group;
	int tp, replica_count;
	struct session session;
	struct generation_settings settings;
	struct chat_template *template;
	struct batch_worker *worker; /* of a leader */
	struct channel *channel;
	/* World rank 0's: */
	struct batch_input *input;
	struct batch_output *output;
	struct batch_lines lines;
	struct replica *replicas;
	bool input_ended, asked_to_stop;
	struct batch_report report;
	struct batch_totals others; /* of the other replicas, as they end */
	struct error failed; /* of the files: the run ends in order */
	double start;
	int64_t now; /* the time that templates write, the same on all replicas */
	uint64_t results; /* written, error lines of requests among them */
};

static int leader_of(const struct run *run, int replica)
{
	return replica * run->tp;
}

/* ---- world rank 0: results ----------------------------------------------------------------------- */

/* The engine is well when a file isn't: the run goes on to an orderly end. */
static void write_result(struct run *run, int replica, const char *line, size_t length)
{
	run->replicas[replica].lines--;
	if (run->failed.kind == ERROR_NONE &&
	    batch_output_write_text(run->output, line, length, &run->failed) == 0)
		run->results++;
}

static int deliver_here(void *context, const char *line, size_t length, struct error *err)
{
	(void)err;
	write_result(context, 0, line, length);
	return 0;
}

static int deliver_there(void *context, const char *line, size_t length, struct error *err)
{
	struct run *run = context;
	return channel_send(run->channel, 0, TO_FIRST_RESULT, line, length, err);
}

static void add_totals(struct batch_totals *sum, const struct batch_totals *more)
{
	batch_stats_merge(&sum->stats, &more->stats);
	sum->counts.blocks_used_most += more->counts.blocks_used_most;
	sum->counts.preemptions += more->counts.preemptions;
	sum->counts.shared_tokens += more->counts.shared_tokens;
	sum->counts.steps += more->counts.steps;
	sum->times.between_s += more->times.between_s;
	sum->times.steps_s += more->times.steps_s;
}

/* Takes all that the other leaders have sent. */
static int take_in(struct run *run, struct error *err)
{
	const char *data;
	size_t bytes;
	int rank, kind, got;

	while ((got = channel_receive(run->channel, &rank, &kind, &data, &bytes, err)) > 0) {
		struct batch_totals totals;
		if (kind == TO_FIRST_RESULT) {
			write_result(run, rank / run->tp, data, bytes);
		} else if (kind == TO_FIRST_TOTALS && bytes == sizeof totals) {
			memcpy(&totals, data, sizeof totals);
			add_totals(&run->others, &totals);
			run->replicas[rank / run->tp].ended = true;
		}
	}
	return got;
}

static int tell_all(struct run *run, enum message_kind kind, struct error *err)
{
	for (int r = 1; r < run->replica_count; r++)
		if (channel_send(run->channel, leader_of(run, r), kind, NULL, 0, err))
			return -1;
	return 0;
}

/* ---- world rank 0: lines ------------------------------------------------------------------------- */

/* Of the replicas with room the one that was given the fewest, so that like ones end together;
 * -1: none has room. Which has fewer in hand would favour the first, whose results come at once. */
static int choose_replica(const struct run *run, int64_t most)
{
	int choice = -1;
	for (int r = 0; r < run->replica_count; r++)
		if (run->replicas[r].lines < most &&
		    (choice < 0 || run->replicas[r].given < run->replicas[choice].given))
			choice = r;
	return choice;
}

/* Lines that a replica may have in hand: a full step, and as many that wait for a place in it, since
 * completions of one length all end at once. Near the input's end fewer wait, for what waits in one
 * replica cannot go to another that has run dry. */
static int64_t most_in_hand(const struct run *run)
{
	int64_t sequences = run->session.backend_options.max_sequences, waiting = sequences;
	int64_t left = batch_input_lines(run->input) -
		       (int64_t)(run->lines.given + run->lines.skipped + run->lines.errors);
	if (batch_input_lines(run->input) >= 0 && left < sequences * run->replica_count)
		waiting = sequences / 4 > WAITING_MIN ? sequences / 4 : WAITING_MIN;
	return sequences + waiting;
}

/* Hands lines to the replicas that have room, for a while. */
static int hand_out(struct run *run, struct error *err)
{
	int64_t most = most_in_hand(run);
	double start = output_now();

	while (!run->input_ended && !run->failed.kind && output_now() - start < hand_out_s) {
		struct batch_item item;
		int replica = choose_replica(run, most);
		if (replica < 0)
			return 0;
		int got = batch_lines_next(&run->lines, false, &item, &run->failed);
		if (got < 0 || got == 2)
			return 0;
		if (got == 0) {
			run->input_ended = true;
			return 0;
		}
		run->replicas[replica].lines++;
		run->replicas[replica].given++;
		if (replica ? channel_send(run->channel, leader_of(run, replica), TO_LEADER_LINE,
					   item.text, item.length, err)
			    : batch_worker_add(run->worker, item.text, item.length, err))
			return -1;
	}
	return 0;
}

static int64_t lines_out(const struct run *run)
{
	int64_t lines = 0;
	for (int r = 0; r < run->replica_count; r++)
		lines += run->replicas[r].lines;
	return lines;
}

static bool all_ended(const struct run *run)
{
	for (int r = 1; r < run->replica_count; r++)
		if (!run->replicas[r].ended)
			return false;
	return true;
}

/* The tokens of the first replica stand for those of all until these end. */
static void report(struct run *run)
{
	const struct batch_totals totals = batch_worker_totals(run->worker);
	const struct batch_progress progress = {
		.done = run->results + run->lines.errors, .skipped = run->lines.skipped,
		.errors = run->lines.errors + totals.stats.errors,
		.output_tokens = totals.stats.output_tokens * (uint64_t)run->replica_count,
		.total = batch_input_lines(run->input),
		.fraction = batch_input_fraction(run->input),
	};
	batch_report_progress(&run->report, &progress);
}

/* Ends the other leaders' loops and takes their last results, for a while: what they have sent and
 * nobody takes would keep them from ending. */
static int finish(struct run *run, struct error *err)
{
	double deadline = output_now() + answer_s;

	if (tell_all(run, TO_LEADER_FINISH, err))
		return -1;
	while (!all_ended(run) && (!run->asked_to_stop || output_now() < deadline)) {
		if (take_in(run, err))
			return -1;
		channel_idle(run->channel);
	}
	return channel_flush(run->channel, 60, err);
}

/* Rounds until all lines have their results, a file fails, or the run is asked to stop. */
static int lead(struct run *run, struct error *err)
{
	enum stop_request stop = STOP_NONE;
	double deadline = 0;
	bool busy = false;

	for (;;) {
		if (batch_worker_begin(run->worker, err) || take_in(run, err) ||
		    (!run->asked_to_stop && hand_out(run, err)))
			return -1;
		report(run);
		if (batch_worker_end(run->worker, &busy, err))
			return -1;
		stop = mpi_group_stop_requested(run->world);
		if (stop == STOP_DRAIN && !run->asked_to_stop) {
			deadline = output_now() + drain_s;
			batch_worker_drain(run->worker);
			if (tell_all(run, TO_LEADER_DRAIN, err))
				return -1;
		}
		run->asked_to_stop = stop != STOP_NONE;
		if (run->failed.kind || stop == STOP_NOW)
			break;
		if (run->asked_to_stop ? (!busy && all_ended(run)) || output_now() > deadline
				       : run->input_ended && lines_out(run) == 0)
			break;
		if (!busy)
			channel_idle(run->channel);
	}
	return finish(run, err);
}

/* ---- the other leaders --------------------------------------------------------------------------- */

static int work(struct run *run, struct error *err)
{
	bool busy = false, draining = false;

	for (;;) {
		const char *data;
		size_t bytes;
		int rank, kind, got;
		if (batch_worker_begin(run->worker, err))
			return -1;
		while ((got = channel_receive(run->channel, &rank, &kind, &data, &bytes, err)) > 0) {
			if (kind == TO_LEADER_FINISH)
				break;
			if (kind == TO_LEADER_DRAIN) {
				draining = true;
				batch_worker_drain(run->worker);
			}
			if (kind == TO_LEADER_LINE && batch_worker_add(run->worker, data, bytes, err))
				return -1;
		}
		if (got < 0 || batch_worker_end(run->worker, &busy, err))
			return -1;
		if (got > 0 || (draining && !busy))
			break;
		if (!busy)
			channel_idle(run->channel);
	}
	const struct batch_totals totals = batch_worker_totals(run->worker);
	return channel_send(run->channel, 0, TO_FIRST_TOTALS, &totals, sizeof totals, err) ||
	       channel_flush(run->channel, 60, err) ? -1 : 0;
}

/* ---- start and end ------------------------------------------------------------------------------- */

/* Before a model is read: what is wrong with the files ends the run at once. */
static int open_files(struct run *run, struct error *err)
{
	const struct options *options = run->options;

	if (batch_input_open(&run->input, options->input.data, err) ||
	    batch_output_open(&run->output, options->output.data, err))
		return -1;
	batch_lines_open(&run->lines, run->input, run->output);
	run->replicas = calloc((size_t)run->replica_count, sizeof *run->replicas);
	if (!run->replicas)
		return error_memory(err, "the replicas");
	if (!options->quiet && batch_output_torn_bytes(run->output))
		log_say(&run->log, LOG_WARNING, "tprun: %s: cut off a torn last line of %llu bytes",
			options->output.data,
			(unsigned long long)batch_output_torn_bytes(run->output));
	if (!options->quiet && batch_output_count(run->output))
		log_say(&run->log, LOG_INFO, "tprun: %s: %llu lines are done already", options->output.data,
			(unsigned long long)batch_output_count(run->output));
	return 0;
}

/* A leader's: the tokenizer came with the session. */
static int open_template(struct run *run, struct error *err)
{
	if (run->options->given[OPTION_SHAPE])
		return 0;
	char *folder = session_model_folder(run->options, err);
	int result = folder ? chat_template_open(&run->template, folder, err) : -1;
	free(folder);
	return result;
}

static int open_worker(struct run *run, struct error *err)
{
	bool first = run->world->rank == 0;
	const struct batch_worker_options options = {
		.session = &run->session,
		.context = {
			.tokenizer = run->session.tokenizer, .chat_template = run->template,
			.vocab = run->session.config.vocab, .context = run->session.context,
			.settings = &run->settings, .defaults = &run->session.defaults,
			.now = (time_t)run->now,
		},
		.deliver = first ? deliver_here : deliver_there, .deliver_context = run,
	};
	return batch_worker_open(&run->worker, &options, err);
}

static int start(struct run *run, struct error *err)
{
	const struct options *options = run->options;
	struct group *world = run->world;
	struct session_sizes sizes = {
		.max_sequences = options->max_sequences, .max_tokens = options->max_batch_tokens,
		.fill = true,
	};
	int result = options->given[OPTION_TP] ? 0 : mpi_group_default_tp(world, &run->tp, err);

	if (options->given[OPTION_TP])
		run->tp = options->tp;
	if (result || mpi_group_watch_stop(world, err) ||
	    mpi_group_split(&run->group, world, run->tp, err) ||
	    channel_open(&run->channel, world, run->tp, err))
		return -1;
	run->replica_count = world->size / run->tp;
	if (world->agree(world, world->rank == 0 ? open_files(run, err) : 0, err) ||
	    session_open(&run->session, options, world, run->group, err))
		return -1;
	bool leader = run->group->rank == 0;
	result = leader ? open_template(run, err) : 0;
	if (!result)
		result = generation_settings_choose(&run->settings, options, &run->session.defaults,
						    err);
	if (!result)
		result = session_context(&run->session, INT64_MAX, &sizes.context, err);
	run->now = time(NULL);
	if (world->agree(world, result, err) ||
	    world->broadcast(world, &run->now, sizeof run->now, 0, err) ||
	    session_start(&run->session, &sizes, err))
		return -1;
	return world->agree(world, leader ? open_worker(run, err) : 0, err);
}

static int summarize(struct run *run, struct error *err)
{
	struct batch_totals totals = batch_worker_totals(run->worker);
	add_totals(&totals, &run->others);
	totals.stats.errors += run->lines.errors;
	const struct batch_summary summary = {
		.stats = totals.stats, .skipped = run->lines.skipped,
		.duplicates = run->lines.duplicates, .seconds = output_now() - run->start,
		.kv_blocks = run->session.backend_options.kv_blocks * run->replica_count,
		.kv_blocks_most = totals.counts.blocks_used_most,
		.shared_tokens = totals.counts.shared_tokens,
		.preemptions = totals.counts.preemptions, .steps = totals.counts.steps,
		.idle_share = totals.times.steps_s > 0
				      ? totals.times.between_s / totals.times.steps_s : 0,
		.replicas = run->replica_count, .stopped = run->asked_to_stop,
	};
	if (run->options->json)
		return output_json(batch_summary_json(&summary), err);
	char *text = run->options->quiet ? NULL : batch_summary_text(&summary);
	if (text)
		log_text(&run->log, LOG_INFO, text);
	free(text);
	return 0;
}

static void tell_duplicates(const struct run *run)
{
	const struct batch_lines *lines = &run->lines;
	char numbers[24 * BATCH_DUPLICATES_SHOWN + 8] = "";
	int length = 0;
	if (!lines->duplicates)
		return;
	for (uint64_t i = 0; i < lines->duplicates && i < BATCH_DUPLICATES_SHOWN; i++)
		length += snprintf(numbers + length, sizeof numbers - (size_t)length, "%s %lld", i ? "," : "",
				   (long long)lines->duplicate_lines[i]);
	log_say(&run->log, LOG_WARNING, "tprun: warning: %llu line%s the id of an earlier one: line%s%s",
		(unsigned long long)lines->duplicates, lines->duplicates == 1 ? " has" : "s have", numbers,
		lines->duplicates > BATCH_DUPLICATES_SHOWN ? ", ..." : "");
}

/* World rank 0: what there is to say at the end; *outcome is the run's. */
static void conclude(struct run *run, struct error *outcome)
{
	uint64_t lines = batch_output_count(run->output) + run->results + run->lines.errors;

	batch_report_wipe(&run->report);
	tell_duplicates(run);
	*outcome = run->failed;
	if (!outcome->kind)
		batch_output_sync(run->output, outcome);
	if (!outcome->kind)
		summarize(run, outcome);
	if (!outcome->kind && run->asked_to_stop) {
		outcome->kind = ERROR_STOPPED;
		snprintf(outcome->message, sizeof outcome->message,
			 "stopped on request, %s holds %llu lines; start the same command again to go on",
			 run->options->output.data, (unsigned long long)lines);
	}
}

/* An error of an engine or of MPI ends all ranks at once. */
static int serve(struct run *run, struct error *err)
{
	struct error outcome = {0};
	struct group *world = run->world;
	int result;

	run->start = output_now();
	if (world->rank == 0) {
		batch_report_start(&run->report, run->options->progress, &run->log);
		result = lead(run, err);
	} else {
		result = run->worker ? work(run, err) : engine_follow(run->session.engine, err);
	}
	if (!result && run->worker)
		result = engine_stop(run->session.engine, err);
	if (result)
		world->abort(world, err);
	if (world->rank == 0)
		conclude(run, &outcome);
	if (world->broadcast(world, &outcome, sizeof outcome, 0, err))
		world->abort(world, err);
	if (outcome.kind)
		*err = outcome;
	return outcome.kind ? -1 : 0;
}

int cmd_batch(const struct options *options, struct group *world, struct error *err)
{
	struct run run = {.options = options, .world = world, .log = log_make(options, world->rank)};
	int result = start(&run, err);

	if (!result)
		result = serve(&run, err);
	batch_worker_close(run.worker);
	chat_template_close(run.template);
	generation_settings_close(&run.settings);
	session_close(&run.session);
	batch_lines_close(&run.lines);
	batch_output_close(run.output);
	batch_input_close(run.input);
	channel_close(run.channel);
	if (run.group)
		mpi_group_close(run.group);
	free(run.replicas);
	return result;
}
