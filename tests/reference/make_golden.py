"""Small random models for what the other golden data does not cover.

    python make_golden.py tests/data

golden-bias-yarn            Llama with biases everywhere, yarn rope, a head size of its own
golden-linear-qwen2window   Qwen2 whose first layer sees everything and the others 8 tokens,
                            with linear rope

Each folder is a Hugging Face checkpoint in float32 with an expected.json: prompts,
per-token log-probabilities, the last position's logits, and a greedy continuation
with the margin of every step.

A fixture is worth something only if a program that lacks the feature fails on it:
after writing a model, each of its features is switched off in turn, and it is an
error if the log-probabilities hardly move.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

import runs

GREEDY_STEPS = 24
LEAST_MARGIN = 0.05  # below it a greedy step may flip in float32, by tprun's own promise
SEED = 20240607

YARN_BIAS = LlamaConfig(
    hidden_size=24, num_attention_heads=6, num_key_value_heads=3, head_dim=16,
    intermediate_size=100, num_hidden_layers=2, vocab_size=96, max_position_embeddings=256,
    attention_bias=True, mlp_bias=True, tie_word_embeddings=False, rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
                     "original_max_position_embeddings": 64},
    bos_token_id=1, eos_token_id=2,
)

QWEN2_WINDOW = Qwen2Config(
    hidden_size=32, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=60, num_hidden_layers=3, vocab_size=96, max_position_embeddings=256,
    use_sliding_window=True, sliding_window=8, max_window_layers=1,
    tie_word_embeddings=False, rms_norm_eps=1e-6,
    rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
    bos_token_id=1, eos_token_id=2,
)


def zero_biases(suffix):
    def change(model):
        for name, tensor in model.named_parameters():
            if name.endswith(suffix + ".bias"):
                tensor.data.zero_()
    return change


def plain_rope(model):
    rotary = model.model.rotary_emb
    inv_freq, scaling = rotary.compute_default_rope_parameters(model.config)
    rotary.inv_freq.copy_(inv_freq)
    rotary.attention_scaling = scaling


def no_attention_factor(model):
    model.model.rotary_emb.attention_scaling = 1.0


def layer_types(*types):
    """Every layer treated as one of these types, in order."""
    def change(model):
        model.config.layer_types = list(types)
    return change


FULL, WINDOW = "full_attention", "sliding_attention"

# folder: (class, configuration, prompt lengths, {feature: how to switch it off})
MODELS = {
    "golden-bias-yarn": (LlamaForCausalLM, YARN_BIAS, (1, 40, 90), {
        "yarn": plain_rope,
        "yarn's attention factor": no_attention_factor,
        **{f"{name} bias": zero_biases(name)
           for name in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")},
    }),
    "golden-linear-qwen2window": (Qwen2ForCausalLM, QWEN2_WINDOW, (1, 7, 40, 90), {
        "linear rope": plain_rope,
        "window": layer_types(FULL, FULL, FULL),
        "a first layer without window": layer_types(WINDOW, WINDOW, WINDOW),
    }),
}


def randomize(model, generator):
    """Weights large enough that attention picks tokens and logits differ by whole units."""
    for name, tensor in model.named_parameters():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("norm.weight"):
            tensor.data = 1 + 0.2 * noise
        elif name.endswith(".bias"):
            tensor.data = 0.3 * noise
        elif "embed_tokens" in name:
            tensor.data = 0.6 * noise
        else:
            tensor.data = 1.6 * noise / tensor.shape[1] ** 0.5


def draw_case(model, length, generator):
    """A prompt with what the model makes of it, drawn until no greedy step is close.

    Then every implementation that is right writes the same ids. Ids below 3 stay out
    of prompts and the end of sequence out of continuations: they mean something.
    """
    while True:
        prompt = torch.randint(3, model.config.vocab_size, (length,), generator=generator).tolist()
        greedy_ids, margins = runs.greedy(model, prompt, GREEDY_STEPS)
        if min(margins) < LEAST_MARGIN or model.config.eos_token_id in greedy_ids:
            continue
        return {
            "prompt_ids": prompt,
            "token_logprobs": runs.rounded(runs.token_logprobs(model, prompt), 6),
            "last_logits": runs.rounded(runs.logits(model, prompt)[-1], 5),
            "greedy_ids": greedy_ids,
            "margins": runs.rounded(margins, 5),
        }


def effect(folder, ids, switch_off):
    """How far the largest log-probability moves when a feature is switched off."""
    reference = runs.token_logprobs(runs.load(folder, torch.float32), ids)
    changed = runs.load(folder, torch.float32)
    switch_off(changed)
    return (runs.token_logprobs(changed, ids) - reference).abs().max().item()


def make(folder, model_class, config, lengths, features):
    generator = torch.Generator().manual_seed(SEED)
    model = model_class(config)
    randomize(model, generator)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)

    # What is recorded is what the stored file gives, so it is read back.
    stored = runs.load(folder, torch.float32)
    record = {
        "made_with": runs.made_with("float32 eager"),
        "stored_dtype": "torch.float32",
        "cases": [draw_case(stored, length, generator) for length in lengths],
    }
    (folder / "expected.json").write_text(json.dumps(record) + "\n")

    print(folder.name)
    for feature, switch_off in features.items():
        moved = effect(folder, record["cases"][-1]["prompt_ids"], switch_off)
        print(f"  without {feature:<32} log-probabilities move by {moved:.2f}")
        if moved < 0.1:
            raise SystemExit(f"{folder}: does not test {feature}: choose another seed or larger weights")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the models' folders go")
    args = parser.parse_args()
    for name, model in MODELS.items():
        make(args.folder / name, *model)


if __name__ == "__main__":
    main()
