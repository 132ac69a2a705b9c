/*
 * session.h - the start of a run on all ranks, common to generate, batch and score.
 *
 * A session opens in two collective phases, because the context depends on the prompt and the
 * prompt on the tokenizer: first what the model's headers say, then the devices and the weights.
 * After each part of a phase all ranks agree; where one fails, all return its error.
 */
#ifndef TPRUN_LAUNCHER_SESSION_H
#define TPRUN_LAUNCHER_SESSION_H

#include "launcher/devices.h"
#include "launcher/log.h"
#include "launcher/options.h"
#include "launcher/stats.h"
#include "runtime/engine/engine.h"
#include "runtime/model/config.h"
#include "runtime/model/shard.h"
#include "runtime/model/weights.h"
#include "runtime/text/tokenizer.h"

struct session {
	const struct options *options;
	struct log log;
	struct stats *stats; /* world rank 0's; NULL: none are asked for */
	const struct profile *profile; /* NULL: none is asked for */
	struct group *world; /* all ranks: devices, memory and placement */
	struct group *group; /* those that hold the model together, maybe the same */
	struct model_config config;
	struct generation_defaults defaults;
	struct checkpoint *checkpoint; /* NULL with --shape */
	struct tokenizer *tokenizer;   /* of the group's rank 0; NULL where the folder has none */
	struct shard shard;
	enum dtype dtype;

	int32_t context; /* positions of one sequence, once started */
	struct device_choice device;
	float *frequencies;
	struct backend_options backend_options; /* borrows config, shard and frequencies */
	struct backend *backend;
	struct engine *engine;
	double start, load_s; /* seconds; load_s until the weights are there */
	/* Seconds of the parts of the start, from that of the process on. `rest` is what the backend
	 * prepares beside the loading and is not ready with by its end. */
	struct session_times {
		double mpi, model, devices, backend, weights, rest;
	} times;
	uint64_t bytes_read; /* of the checkpoint, by this rank */
};

/* What the steps of a session are to be sized for. */
struct session_sizes {
	int32_t context; /* positions of one sequence */
	/* Of one step; 0: what `fill` says, or for one sequence. */
	int32_t max_sequences, max_tokens, max_logit_rows;
	/* The KV cache takes what memory is left, up to max_sequences whole contexts; without it, one
	 * context. max_sequences is 256 on CUDA and 16 on CPUs where it is 0 (no more than max_tokens),
	 * max_logit_rows is max_sequences; a context that --context did not ask for shrinks to what
	 * fits. All ranks of the world take the same sizes, those of the least memory. */
	bool fill;
	int32_t kv_blocks; /* of the whole cache, for `bench`; 0: as said above */
};

/* Reads the model's headers and, on the group's rank 0, its tokenizer. `group` is the world itself
 * or this rank's replica (mpi_group_split). session_close is due after an error too. The options
 * and the groups must outlive the session. */
int session_open(struct session *, const struct options *, struct group *world, struct group *group,
		 struct error *err);
void session_close(struct session *);

/* Devices, placement, memory, backend, weights, engine. What was chosen is in session->context and
 * session->backend_options. */
int session_start(struct session *, const struct session_sizes *, struct error *err);

/* The context of a call that needs `needed` positions (INT64_MAX: all there are): --context where
 * given, else what the call needs, at most what the model reaches. An ERROR_USAGE where --context
 * exceeds that. */
int session_context(const struct session *, int64_t needed, int32_t *context, struct error *err);

/* Whether this is world rank 0 and may speak on standard error. */
bool session_speaks(const struct session *);

/* Parts of session_open that `plan` and `tokenize` need as well. */

/* The folder of `--model`, or the embedded model's, in malloc'ed memory; NULL with err set. */
char *session_model_folder(const struct options *, struct error *err);
/* Reads --shape or `folder`/config.json. Exactly one of both is to be used: where --shape is given,
 * *folder becomes NULL, else the folder of the model (session_model_folder). */
int session_read_config(const struct options *, struct model_config *, char **folder,
			struct error *err);
/* Opens the checkpoint in `folder` and tells the type to run in. With folder NULL, for a shape,
 * *checkpoint becomes NULL. */
int session_read_headers(const struct options *, const char *folder, const struct model_config *,
			 struct checkpoint **checkpoint, enum dtype *dtype, struct error *err);

#endif
