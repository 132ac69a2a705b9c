"""Rotary frequencies of every rope type, as transformers computes them.

    python check_rope_types.py [--check] tests/data/rope.json

Writes the fixture that the unit test of tprun's rope tables reads: for a head
size, a rope configuration and a sequence length, the inverse frequencies and the
factor by which cosine and sine are multiplied. With --check it writes nothing and
says whether the file is still what transformers computes.

The keys of `rope` are those of config.json's rope_parameters. `seq_len` is null
where the length does not matter, which is every type but dynamic.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

import runs

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}

# (what the case is for, head_dim, max_position_embeddings, rope, sequence lengths)
CASES = [
    ("plain rope", 16, 512, {"rope_type": "default", "rope_theta": 10000.0}, [None]),
    ("linear", 16, 512, {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}, [None]),
    ("linear, large theta, odd pair count", 26, 512,
     {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 3.5}, [None]),

    # Below max_position_embeddings the length must change nothing; above it the base grows.
    ("dynamic NTK", 16, 128, {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
     [None, 1, 64, 128, 129, 200, 512]),
    ("dynamic NTK, large head", 128, 2048, {"rope_type": "dynamic", "rope_theta": 500000.0, "factor": 8.0},
     [2048, 2049, 16384]),

    ("llama3, as in Llama 3.1", 128, 131072,
     {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
      "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}, [None]),
    ("llama3, as in Llama 3.2", 64, 131072,
     {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
      "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}, [None]),

    ("yarn, attention factor from factor", 16, 256, YARN, [None]),
    ("yarn, as in Qwen2.5 with long context", 128, 131072,
     {"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0,
      "original_max_position_embeddings": 32768}, [None]),
    ("yarn, attention factor given", 16, 256, {**YARN, "attention_factor": 1.25}, [None]),
    ("yarn, mscale over mscale_all_dim", 64, 256, {**YARN, "factor": 40.0, "mscale": 1.0,
                                                   "mscale_all_dim": 0.707}, [None]),
    # One of the two mscales alone is ignored.
    ("yarn, mscale alone", 64, 256, {**YARN, "mscale": 0.707}, [None]),
    ("yarn, own beta range", 64, 256, {**YARN, "beta_fast": 16.0, "beta_slow": 2.0}, [None]),
    ("yarn, range not truncated to whole dimensions", 64, 256, {**YARN, "truncate": False}, [None]),
    # A factor of 1 stretches nothing: plain frequencies, attention factor 1.
    ("yarn, factor 1", 16, 64, {**YARN, "factor": 1.0}, [None]),
]


def compute(head_dim, max_positions, rope, seq_len):
    """(inverse frequencies, attention scaling) from transformers."""
    config = LlamaConfig(head_dim=head_dim, hidden_size=4 * head_dim, num_attention_heads=4,
                         max_position_embeddings=max_positions, rope_parameters=dict(rope))
    if rope["rope_type"] == "default":
        function = LlamaRotaryEmbedding.compute_default_rope_parameters
    else:
        function = ROPE_INIT_FUNCTIONS[rope["rope_type"]]
    inv_freq, scaling = function(config, torch.device("cpu"), seq_len=seq_len)
    return inv_freq, scaling


def fixture():
    cases = []
    for name, head_dim, max_positions, rope, lengths in CASES:
        for seq_len in lengths:
            inv_freq, scaling = compute(head_dim, max_positions, rope, seq_len)
            cases.append({
                "name": name,
                "head_dim": head_dim,
                "max_position_embeddings": max_positions,
                "rope": rope,
                "seq_len": seq_len,
                "attention_scaling": float(scaling),
                # Nine significant digits carry a float32 exactly.
                "inv_freq": [float(f"{v:.9g}") for v in inv_freq.tolist()],
            })
    return {"made_with": runs.made_with("float32"), "cases": cases}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    args = parser.parse_args()

    now = fixture()
    if args.check:
        if json.loads(args.file.read_text())["cases"] != now["cases"]:
            raise SystemExit(f"{args.file}: differs from {now['made_with']}")
        print(f"{args.file}: {len(now['cases'])} cases agree with {now['made_with']}")
        return

    # One line a case: readable as a list, and a change shows which case it touched.
    lines = ",\n".join("  " + json.dumps(case) for case in now["cases"])
    args.file.write_text(f'{{\n "made_with": {json.dumps(now["made_with"])},\n "cases": [\n{lines}\n ]\n}}\n')
    print(f"{args.file}: {len(now['cases'])} cases")


if __name__ == "__main__":
    main()
