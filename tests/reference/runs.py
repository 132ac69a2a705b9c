"""The reference computations that every script here shares: transformers on CPU.

Two things are asked of a model: the log-probability of every token of a text,
and a greedy continuation with the margin of each step. Both recompute the whole
sequence for every step instead of using transformers' KV cache: slower, but then
a reference is a function of the ids alone, whatever the cache does.
"""

import json
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def made_with(attention):
    """The versions behind a set of numbers, for the record beside them."""
    return f"transformers {transformers.__version__}, torch {torch.__version__}, {attention}"


def stored_dtype(folder):
    """The dtype a checkpoint is stored in; older files call the key torch_dtype."""
    config = json.loads((Path(folder) / "config.json").read_text())
    return getattr(torch, config.get("dtype") or config["torch_dtype"])


def load(folder, dtype, attention="eager"):
    """A model from a Hugging Face folder, its weights cast to dtype."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
    return model.eval()


@torch.no_grad()
def logits(model, ids):
    """float32 logits, one row for each position."""
    return model(torch.tensor([ids]), use_cache=False).logits[0].float()


def token_logprobs(model, ids):
    """Log-probability of each id but the first, given those before it."""
    rows = torch.log_softmax(logits(model, ids)[:-1], dim=-1)
    return rows.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def greedy(model, prompt, steps, stop=()):
    """(ids, margins) of a greedy continuation; an id in `stop` is kept and ends it.

    A margin is the distance in logits between the best token and the second:
    where it is small, honest rounding may choose the other one.
    """
    ids, margins = list(prompt), []
    for _ in range(steps):
        top = logits(model, ids)[-1].topk(2)
        ids.append(top.indices[0].item())
        margins.append((top.values[0] - top.values[1]).item())
        if ids[-1] in stop:
            break
    return ids[len(prompt):], margins


def rounded(values, digits):
    return [round(float(v), digits) for v in values]
