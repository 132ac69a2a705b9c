#include "launcher/batch_worker.h"

#include <stdlib.h>
#include <string.h>

#include "launcher/batch_lines.h"
#include "launcher/completion_text.h"
#include "launcher/output.h"

struct job;

/* One completion of a job. */
struct sample {
	struct job *job;
	struct completion_text text;
	int32_t *ids, count; /* [max_new_tokens] */
	bool stopped;
	double first, last; /* when its first and its newest id came */
};

/* A line in the works. */
struct job {
	struct batch_worker *worker;
	struct batch_request request;
	struct sample *samples; /* [n] */
	int32_t n, unfinished;
	struct error failed; /* of a text, as by an id that the tokenizer doesn't know */
	double start;
	struct job *previous, *next;
};

struct batch_worker {
	struct batch_worker_options options;
	struct completions *completions;
	struct job *jobs;
	int32_t load;
	struct batch_stats stats;
};

static void close_job(struct job *job)
{
	struct batch_worker *worker = job->worker;

	if (job->previous)
		job->previous->next = job->next;
	else if (worker->jobs == job)
		worker->jobs = job->next;
	if (job->next)
		job->next->previous = job->previous;
	for (int32_t i = 0; job->samples && i < job->n; i++) {
		completion_text_close(&job->samples[i].text);
		free(job->samples[i].ids);
	}
	worker->load -= job->unfinished;
	free(job->samples);
	batch_request_close(&job->request);
	free(job);
}

int batch_worker_open(struct batch_worker **out, const struct batch_worker_options *options,
		      struct error *err)
{
	struct batch_worker *worker = calloc(1, sizeof *worker);

	*out = NULL;
	if (!worker)
		return error_memory(err, "the worker");
	worker->options = *options;
	if (completions_open(&worker->completions, options->session->engine,
			     &options->session->config, true, err)) {
		free(worker);
		return -1;
	}
	*out = worker;
	return 0;
}

void batch_worker_close(struct batch_worker *worker)
{
	if (!worker)
		return;
	completions_close(worker->completions);
	while (worker->jobs)
		close_job(worker->jobs);
	free(worker);
}

int32_t batch_worker_load(const struct batch_worker *worker)
{
	return worker->load;
}

void batch_worker_drain(struct batch_worker *worker)
{
	completions_drain(worker->completions);
}

/* ---- lines out --------------------------------------------------------------------------------- */

/* Takes the reference to `line`. */
static int deliver(const struct batch_worker *worker, json_t *line, struct error *err)
{
	const struct batch_worker_options *options = &worker->options;
	char *text = line ? json_dumps(line, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
	int result = text ? options->deliver(options->deliver_context, text, strlen(text), err)
			  : error_memory(err, "a line of output");

	free(text);
	json_decref(line);
	return result;
}

static int deliver_error(struct batch_worker *worker, json_t *id, const struct error *error,
			 struct error *err)
{
	worker->stats.errors++;
	return deliver(worker, batch_request_error(id, error->message), err);
}

static int deliver_result(struct job *job, struct error *err)
{
	const struct batch_request *request = &job->request;
	struct batch_sample *samples = calloc((size_t)job->n, sizeof *samples);

	if (!samples)
		return error_memory(err, "a line of output");
	for (int32_t i = 0; i < job->n; i++) {
		const struct sample *sample = &job->samples[i];
		samples[i] = (struct batch_sample){
			.text = !sample->text.stream ? NULL
				: sample->text.data  ? sample->text.data : "",
			.length = sample->text.length, .ids = sample->ids,
			.count = sample->count, .stopped = sample->stopped,
		};
	}
	job->worker->stats.requests++;
	job->worker->stats.prompt_tokens += (uint64_t)request->count;
	int result = deliver(job->worker, batch_request_result(request, samples), err);
	free(samples);
	return result;
}

/* ---- completions ------------------------------------------------------------------------------- */

static bool is_eos(const struct sample *sample, int32_t id)
{
	return !sample->job->request.settings.ignore_eos &&
	       generation_defaults_is_eos(sample->job->worker->options.context.defaults, id);
}

static int put(void *context, int32_t id, struct error *err)
{
	struct sample *sample = context;

	sample->last = output_now();
	if (sample->count == 0)
		sample->first = sample->last;
	sample->ids[sample->count++] = id;
	(void)err;
	if (is_eos(sample, id))
		return 0;
	return completion_text_put(&sample->text, id, &sample->job->failed) || sample->text.stopped;
}

static int done(void *context, enum finish_reason finish, int32_t shared, struct error *err)
{
	struct sample *sample = context;
	struct job *job = sample->job;
	struct batch_worker *worker = job->worker;

	(void)shared; /* the scheduler's counts tell the sum */
	completion_text_end(&sample->text, &job->failed);
	sample->stopped = finish == FINISH_STOP || sample->text.stopped;
	batch_stats_completion(&worker->stats, sample->count, sample->first - job->start,
			       sample->last - job->start);
	worker->load--;
	if (--job->unfinished)
		return 0;
	int result = job->failed.kind ? deliver_error(worker, job->request.id, &job->failed, err)
				      : deliver_result(job, err);
	close_job(job);
	return result;
}

/* Opens the texts of a job and queues its completions. */
static int start_job(struct job *job, struct error *err)
{
	struct batch_worker *worker = job->worker;
	const struct batch_request *request = &job->request;
	const struct generation_defaults *defaults = worker->options.context.defaults;

	job->samples = calloc((size_t)job->n, sizeof *job->samples);
	if (!job->samples)
		return error_memory(err, "a request");
	for (int32_t i = 0; i < job->n; i++) {
		struct sample *sample = &job->samples[i];
		sample->job = job;
		sample->ids = malloc((size_t)request->max_new_tokens * sizeof *sample->ids);
		if (!sample->ids)
			return error_memory(err, "a request");
		if (completion_text_open(&sample->text, worker->options.context.tokenizer,
					 &request->settings.stop, err) ||
		    completion_text_prompt(&sample->text, request->ids, (size_t)request->count, err))
			return -1;
		sample->text.length = 0; /* the prompt's is not wanted */
	}
	for (int32_t i = 0; i < job->n; i++) {
		const struct completion_request completion = {
			.prompt = request->ids, .prompt_count = request->count,
			.max_new_tokens = request->max_new_tokens, .eos = defaults->eos,
			.eos_count = request->settings.ignore_eos ? 0 : defaults->eos_count,
			.sampling = request->settings.sampling,
			.request = batch_request_draw(request->request, i),
			.put = put, .done = done, .context = &job->samples[i],
		};
		/* All samples are alike: if one is refused, so is the first. */
		if (completions_add(worker->completions, &completion, err))
			return -1;
		job->unfinished++;
		worker->load++;
	}
	return 0;
}

int batch_worker_add(struct batch_worker *worker, const char *line, size_t length,
		     struct error *err)
{
	struct error bad = {0};
	struct job *job = calloc(1, sizeof *job);

	if (!job)
		return error_memory(err, "a request");
	job->worker = worker;
	job->start = output_now();
	if (batch_request_parse(&job->request, &worker->options.context, line, length, &bad)) {
		json_t *id = NULL, *object = batch_line_parse(line, length, &id, err);
		free(job);
		if (!object)
			return -1;
		int result = deliver_error(worker, id, &bad, err);
		json_decref(object);
		return result;
	}
	job->n = job->request.settings.n;
	job->next = worker->jobs;
	if (worker->jobs)
		worker->jobs->previous = job;
	worker->jobs = job;
	if (start_job(job, &bad) == 0)
		return 0;
	if (job->unfinished) {
		*err = bad;
		return -1;
	}
	int result = deliver_error(worker, job->request.id, &bad, err);
	close_job(job);
	return result;
}

/* ---- rounds ------------------------------------------------------------------------------------ */

int batch_worker_begin(struct batch_worker *worker, struct error *err)
{
	return completions_begin(worker->completions, err);
}

int batch_worker_end(struct batch_worker *worker, bool *busy, struct error *err)
{
	return completions_end(worker->completions, busy, err);
}

struct batch_totals batch_worker_totals(const struct batch_worker *worker)
{
	return (struct batch_totals){
		.stats = worker->stats, .counts = completions_counts(worker->completions),
		.times = completions_times(worker->completions),
	};
}
