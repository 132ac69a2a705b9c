#include "launcher/session.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cuda/cuda.h"
#include "launcher/fault.h"
#include "launcher/load_report.h"
#include "launcher/output.h"
#include "launcher/session_sizes.h"
#include "launcher/start_checks.h"
#include "launcher/watchdog.h"
#include "runtime/base/file.h"
#include "runtime/engine/kv.h"
#include "runtime/model/plan.h"
#include "runtime/model/rope.h"

enum {
	SHAPE_BYTES_MAX = 16 << 20,
	RANDOM_WEIGHTS_SEED = 1,
};

bool session_speaks(const struct session *session)
{
	return session->world->rank == 0 && !session->options->quiet;
}

/* ---- the model's files ------------------------------------------------------------------- */

/* The embedded model stands beside the source tree's build folder, or in share/ of the prefix that
 * holds bin/, or where the build was told to install. */
static char *embedded_folder(struct error *err)
{
	static const char *const places[] = {"../configs/tiny-stories",
					     "../share/tprun/configs/tiny-stories"};
	char self[PATH_MAX] = "", path[PATH_MAX + 64];
	ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
	char *slash = length > 0 ? strrchr(self, '/') : NULL;
	if (slash)
		*slash = '\0';
	for (size_t i = 0; slash && i < sizeof places / sizeof places[0]; i++) {
		snprintf(path, sizeof path, "%s/%s", self, places[i]);
		if (file_exists(path))
			return strdup(path);
	}
	snprintf(path, sizeof path, "%s/share/tprun/configs/tiny-stories", TPRUN_PREFIX);
	if (file_exists(path))
		return strdup(path);
	error_usage(err, "the embedded model is not there (looked for %s/%s, %s/%s and %s): give "
			 "--model DIR", self, places[0], self, places[1], path);
	return NULL;
}

char *session_model_folder(const struct options *options, struct error *err)
{
	if (!options->given[OPTION_MODEL])
		return embedded_folder(err);
	char *folder = strdup(options->model.data);
	if (!folder)
		error_memory(err, "a path");
	return folder;
}

int session_read_config(const struct options *options, struct model_config *config, char **folder,
			struct error *err)
{
	const char *shape = options->shape.data;
	char *text;
	size_t length;
	*folder = NULL;
	if (!shape) {
		*folder = session_model_folder(options, err);
		return *folder ? config_read(config, *folder, err) : -1;
	}
	if (options->given[OPTION_MODEL])
		return error_usage(err, "--model and --shape exclude each other");
	if (file_read(shape, SHAPE_BYTES_MAX, &text, &length, err))
		return -1;
	int result = config_parse(config, text, length, shape, err);
	free(text);
	return result;
}

int session_read_headers(const struct options *options, const char *folder,
			 const struct model_config *config, struct checkpoint **checkpoint,
			 enum dtype *dtype, struct error *err)
{
	static const enum dtype dtypes[] = {
		[DTYPE_CHOICE_F32] = DTYPE_F32, [DTYPE_CHOICE_F16] = DTYPE_F16,
		[DTYPE_CHOICE_BF16] = DTYPE_BF16,
	};
	*checkpoint = NULL;
	if (!folder)
		*dtype = config->dtype;
	else if (checkpoint_open(checkpoint, folder, config, err))
		return -1;
	else
		*dtype = checkpoint_dtype(*checkpoint);
	if (options->dtype != DTYPE_CHOICE_AUTO)
		*dtype = dtypes[options->dtype];
	return 0;
}

/* The leader alone knows text. Ids given by number need no tokenizer. */
static int open_tokenizer(struct session *session, const char *folder, struct error *err)
{
	const bool *given = session->options->given;
	bool text = given[OPTION_PROMPT] || given[OPTION_PROMPT_FILE] || given[OPTION_TEXT] ||
		    given[OPTION_TEXT_FILE] || given[OPTION_STOP];
	if (session->group->rank != 0)
		return 0;
	if (!folder)
		return text ? error_usage(err, "--shape has no tokenizer: give the prompt as ids, and "
					       "no --stop") : 0;
	char *json = file_join(folder, "tokenizer.json", err);
	char *model = file_join(folder, "tokenizer.model", err);
	int result = json && model ? 0 : -1;
	if (!result && (text || file_exists(json) || file_exists(model)))
		result = tokenizer_open(&session->tokenizer, folder, err);
	free(json);
	free(model);
	return result;
}

/* What --stats and --profile ask for. */
static int open_observers(struct session *session, struct error *err)
{
#ifdef TPRUN_CUDA
	if (session->options->profile)
		session->profile = cuda_profile();
#endif
	if (session->options->profile && !session->profile)
		return error_usage(err, "--profile: this tprun was built without NVTX; build it where nvcc and "
					"nvtx3/nvToolsExt.h of the CUDA toolkit are found (CUDA_HOME)");
	return session->world->rank == 0 ? stats_open(&session->stats, session->options, &session->log, err)
					 : 0;
}

/* A rank number beyond the heads is refused as soon as the heads are known. */
static int read_model(struct session *session, struct likeness *likeness, struct error *err)
{
	if (open_observers(session, err))
		return -1;
	const struct options *options = session->options;
	struct model_config *config = &session->config;
	struct generation_defaults *defaults = &session->defaults;
	char *folder, *path = NULL;
	int result = -1;
	if (session_read_config(options, config, &folder, err) ||
	    shard_make(&session->shard, config, session->group->size, session->group->rank, err))
		goto fail;
	if (folder ? generation_defaults_read(defaults, config, folder, err)
		   : generation_defaults_parse(defaults, config, "{}", 2, options->shape.data, err))
		goto fail;
	if (session_read_headers(options, folder, config, &session->checkpoint, &session->dtype, err))
		goto fail;
	path = folder ? file_join(folder, "config.json", err) : NULL;
	if ((folder && !path) ||
	    likeness_make(likeness, path ? path : options->shape.data,
			  session->checkpoint ? checkpoint_hash(session->checkpoint) : 0,
			  session->dtype, err))
		goto fail;
	result = open_tokenizer(session, folder, err);
fail:
	free(path);
	free(folder);
	return result;
}

int session_open(struct session *session, const struct options *options, struct group *world,
		 struct group *group, struct error *err)
{
	memset(session, 0, sizeof *session);
	session->options = options;
	session->world = world;
	session->log = log_make(options, world->rank);
	session->group = group;
	session->start = output_now();
	session->times.mpi = output_process_age();
	watchdog_set_leader(mpi_group_watchdog(world), world->rank - group->rank);
	struct likeness likeness;
	int result = group->agree(group, read_model(session, &likeness, err), err);
	if (!result)
		result = likeness_check(&likeness, world, err);
	session->times.model = output_now() - session->start;
	activity_enter(mpi_group_activity(world), ACTIVITY_IDLE);
	return result;
}

int session_context(const struct session *session, int64_t needed, int32_t *context,
		    struct error *err)
{
	const struct options *options = session->options;
	int32_t most = session->config.max_positions;
	if (options->given[OPTION_CONTEXT] && options->context > most)
		return error_usage(err, "--context %d: this model reaches %d positions",
				   options->context, most);
	*context = options->given[OPTION_CONTEXT] ? options->context
		   : needed < most		  ? (int32_t)needed
						  : most;
	return 0;
}

/* ---- the start --------------------------------------------------------------------------- */

/* The map, and what is wrong with it. */
static void tell_placement(const struct session *session, const struct placement_row *rows)
{
	struct log log = session->log;
	char *text = NULL, *warnings = placement_warnings(rows, session->world->size);
	size_t length;
	FILE *out = open_memstream(&text, &length);
	if (session->options->print_placement && log.level < LOG_INFO)
		log.level = LOG_INFO; /* asked for by name */
	if (out) {
		placement_print(out, rows, session->world->size);
		fclose(out);
	}
	if (text)
		log_text(&log, LOG_INFO, text);
	if (warnings)
		log_text(&session->log, LOG_WARNING, warnings);
	free(warnings);
	free(text);
}

/* Binds the process before CUDA contexts and compute threads start; shows the map. */
static int place(struct session *session, int *threads, struct error *err)
{
	const struct options *options = session->options;
	struct placement_row *rows;
	char device[sizeof session->device.placement.name + 16] = "";
	bool shown = !options->quiet || options->print_placement;
	const struct placement_options how = {
		.no_bind = options->no_bind, .network = options->print_placement, .links = shown,
	};
	if (placement_apply(session->world, &session->device.placement, &how, &rows, err))
		return -1;
	*threads = rows[session->world->rank].cores;
	if (session->device.cuda)
		snprintf(device, sizeof device, "GPU %d, %s", session->device.device,
			 session->device.placement.name);
	watchdog_set_device(mpi_group_watchdog(session->world), device);
	if (session->world->rank == 0)
		tell_placement(session, rows);
	free(rows);
	if (session->device.shared && session_speaks(session))
		log_say(&session->log, LOG_WARNING, "tprun: warning: ranks share a GPU: sums go through host "
			"memory and are slow");
	return 0;
}

static int open_backend(struct session *session, struct error *err)
{
#ifdef TPRUN_CUDA
	if (session->device.cuda)
		return cuda_backend_open(&session->backend, &session->backend_options, err);
#endif
	return cpu_backend_open(&session->backend, &session->backend_options, err);
}

/* Kernels give up by themselves only where the watchdog, which says more and tells them to, did not. */
static int kernel_patience(const struct options *options)
{
	return 2 * (options->given[OPTION_WATCHDOG] ? options->watchdog : WATCHDOG_DEFAULT_S);
}

/* What has to be the same on all ranks that add up over GPUs. */
static int compare_versions(const struct session *session, struct error *err)
{
#ifdef TPRUN_CUDA
	struct cuda_versions own;
	if (session->device.cuda && session->world->size > 1) {
		cuda_versions(&own, session->group->size > 1);
		return versions_check(&own, session->world, &session->log, err);
	}
#endif
	(void)session, (void)err;
	return 0;
}

static void abort_backend(void *backend)
{
	((struct backend *)backend)->ops->abort(backend);
}

/* The ranks' sums are tried before anything is built upon them. */
static int connect_ranks(struct session *session, struct error *err)
{
	struct activity *activity = mpi_group_activity(session->world);
	activity_enter(activity, ACTIVITY_CONNECT);
	if (fault_check(session->world, activity, err) || compare_versions(session, err) ||
	    session->world->agree(session->world, sums_check(session->group, err), err) ||
	    session->world->agree(session->world, open_backend(session, err), err))
		return -1;
	if (session->backend->ops->abort)
		watchdog_set_abort(mpi_group_watchdog(session->world), abort_backend, session->backend);
	return 0;
}

/* Threads that read: as many as this rank has cores. TPRUN_READERS asks for fewer, to measure what
 * they bring. */
static int choose_readers(int cores)
{
	const char *asked = getenv("TPRUN_READERS");
	int readers = asked ? atoi(asked) : 0;
	return readers > 0 && readers < cores ? readers : cores;
}

static int load_weights(struct session *session, int cores, struct error *err)
{
	const struct backend_ops *ops = session->backend->ops;
	struct progress bar;
	profile_begin(session->profile, "load");
	const struct weights_progress progress = {progress_bytes, &bar};
	const struct weights_options options = {
		.dtype = session->dtype, .threads = choose_readers(cores),
		.progress = session->world->rank == 0 ? &progress : NULL,
		.activity = mpi_group_activity(session->world),
	};
	int result;
	if (!session->checkpoint) {
		result = ops->load_random(session->backend, RANDOM_WEIGHTS_SEED, err);
	} else {
		progress_start(&bar, "weights", session->options->progress,
			       session->options->quiet || session->log.stamped);
		bool once = session->options->load == LOAD_BROADCAST;
		result = (once ? weights_broadcast : weights_load)(
			session->checkpoint, &session->config, &session->shard,
			once ? session->world : session->group, session->backend, &options,
			&session->bytes_read, err);
		progress_end(&bar);
	}
	checkpoint_close(session->checkpoint);
	session->checkpoint = NULL;
	profile_end(session->profile);
	return result;
}

/* Where the time of the start went; waiting for a prompt is no part of it. */
static void tell_times(const struct session *session)
{
	const struct session_times *t = &session->times;
	if (!session_speaks(session))
		return;
	log_say(&session->log, LOG_INFO, "ready in %.2f s: MPI %.2f, model %.2f, devices %.2f, backend "
		"%.2f, weights %.2f, rest %.2f",
		t->mpi + t->model + t->devices + t->backend + t->weights + t->rest, t->mpi, t->model,
		t->devices, t->backend, t->weights, t->rest);
}

/* The way that sums over GPUs take, and what keeps them from a shorter one. */
static void tell_sums(const struct session *session)
{
#ifdef TPRUN_CUDA
	if (session_speaks(session) && session->device.cuda && session->group->size > 1)
		log_say(&session->log, LOG_INFO, "sums over the GPUs: %s",
			cuda_backend_reduce_name(session->backend));
#else
	(void)session;
#endif
}

/* The seconds since *begun, which is now. */
static double lap(double *begun)
{
	double before = *begun;
	*begun = output_now();
	return *begun - before;
}

int session_start(struct session *session, const struct session_sizes *wanted, struct error *err)
{
	struct group *world = session->world, *group = session->group;
	struct model_config *config = &session->config;
	struct activity *activity = mpi_group_activity(world);
	struct session_sizes sizes = *wanted;
	float magnitude = 1;
	int32_t kv_blocks;
	int threads = 1;
	double begun = output_now();
	activity_enter(activity, ACTIVITY_DEVICE);
	int result = devices_choose(&session->device, world, session->options->backend, err);
	if (world->agree(world, result, err) ||
	    world->agree(world, place(session, &threads, err), err) ||
	    devices_measure(&session->device, world, err))
		return -1;
	session->times.devices = lap(&begun);

	if (session_choose_sizes(session, &sizes, &kv_blocks, err))
		return -1;
	session->frequencies = malloc((size_t)config->head_dim / 2 * sizeof(float) + sizeof(float));
	result = session->frequencies ? session_check_memory(session, &sizes, kv_blocks, err)
				      : error_memory(err, "rope frequencies");
	if (world->agree(world, result, err))
		return -1;
	rope_frequencies(config, session->frequencies, &magnitude);
	session->context = sizes.context;
	session->backend_options = (struct backend_options){
		.shape = shard_backend_shape(&session->shard, config, session->dtype,
					     session->frequencies, magnitude),
		.group = group,
		.kv_blocks = kv_blocks,
		.max_blocks = kv_blocks_of(sizes.context),
		.max_tokens = sizes.max_tokens,
		.max_sequences = sizes.max_sequences,
		.max_logit_rows = sizes.max_logit_rows,
		.device = session->device.device,
		.threads = threads, .patience_s = kernel_patience(session->options),
		.time_sums = session->stats != NULL,
		.profile = session->profile, .activity = activity,
	};
	if (connect_ranks(session, err))
		return -1;
	session->times.backend = lap(&begun);
	activity_enter(activity, ACTIVITY_LOAD);
	if (fault_check(world, activity, err) ||
	    world->agree(world, load_weights(session, threads, err), err))
		return -1;
	session->times.weights = lap(&begun);
	activity_enter(activity, ACTIVITY_CONNECT); /* a backend may have connected meanwhile: it ends here */
	if (load_report(world, &session->log, session->bytes_read, session->times.weights, err))
		return -1;
	if (world->agree(world, session->backend->ops->load_end(session->backend, err), err))
		return -1;
	tell_sums(session);
	fault_at(activity, "sums");
	if (fault_check(world, activity, err) ||
	    world->agree(world, engine_open(&session->engine, session->backend,
					    &session->backend_options, err), err))
		return -1;
	result = stats_start(session->stats, session->engine, group, session->backend, err);
	if (world->agree(world, result, err))
		return -1;
	activity_enter(activity, ACTIVITY_IDLE);
	session->times.rest = lap(&begun);
	session->load_s = output_now() - session->start;
	tell_times(session);
	return 0;
}

void session_close(struct session *session)
{
	if (!session)
		return;
	if (session->world) {
		activity_enter(mpi_group_activity(session->world), ACTIVITY_STOP);
		watchdog_set_abort(mpi_group_watchdog(session->world), NULL, NULL);
	}
	stats_close(session->stats);
	session->stats = NULL;
	engine_close(session->engine);
	if (session->backend) {
		activity_arrive(mpi_group_activity(session->world)); /* a backend may wait for the others here */
		session->backend->ops->close(session->backend);
	}
	checkpoint_close(session->checkpoint);
	tokenizer_close(session->tokenizer);
	free(session->frequencies);
	session->engine = NULL;
	session->backend = NULL;
	session->checkpoint = NULL;
	session->tokenizer = NULL;
	session->frequencies = NULL;
}
