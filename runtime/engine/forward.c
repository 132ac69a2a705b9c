#include "runtime/engine/forward.h"

static int forward_layer(struct backend *backend, int32_t layer, struct error *err)
{
	const struct backend_ops *ops = backend->ops;

	if (ops->qkv(backend, layer, err) || ops->attend(backend, layer, err) ||
	    ops->project_attention(backend, layer, err))
		return -1;
	return ops->gate_up(backend, layer, err) || ops->project_mlp(backend, layer, err) ? -1 : 0;
}

int forward(struct backend *backend, int32_t layers, const struct step *step,
	    struct activity *activity, struct error *err)
{
	const struct backend_ops *ops = backend->ops;

	int replayed = ops->begin(backend, step, err);
	if (replayed < 0)
		return -1;
	if (!replayed) {
		if (ops->embed(backend, err))
			return -1;
		for (int32_t layer = 0; layer < layers; layer++) {
			activity_at_layer(activity, layer);
			if (forward_layer(backend, layer, err))
				return -1;
		}
		/* The earlier chunks of a long prompt ask for no logits. */
		if (step->logit_rows && ops->logits(backend, err))
			return -1;
	}
	return ops->end(backend, err);
}
