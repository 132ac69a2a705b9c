#!/usr/bin/env python3
"""Make the embedded model: text, tokenizer, training, and a Hugging Face folder, in one go.

The training is bounded by time, not by steps: the learning rate follows the share of --seconds that
has passed, so the model ends annealed on a fast machine and on a slow one.
"""

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from pathlib import Path

# Nothing is fetched; without this, some loaders ask the network first.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import stories  # noqa: E402

BEGIN, END = "<|begin|>", "<|end|>"
BEGIN_ID, END_ID = 0, 1
HELD_OUT_SEED = 2_000_003

# The split of Llama 3: contractions, words with their leading space, up to three digits, signs, spaces.
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

PROMPTS = [
    "Once upon a time, there was a lonely computer", "Once upon a time", "One day, a little girl named",
    "There was a small robot who", "The fox was afraid of the dark.", "In a quiet village",
]


def say(*parts):
    print(*parts, flush=True)


def make_range(task):
    seed, first, last = task
    return [stories.story(seed, number) for number in range(first, last)]


def make_stories(seed, count, processes):
    """`count` stories of the book `seed`, made in parallel and in order."""
    size = max(1, min(2000, count // (processes * 4) or 1))
    tasks = [(seed, first, min(count, first + size)) for first in range(0, count, size)]
    # spawn, because a process that is forked after torch's threads have started may hang
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return [text for part in pool.imap(make_range, tasks) for text in part]


def train_tokenizer(texts, vocabulary):
    """A byte-level BPE tokenizer whose encodings start with BEGIN."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    # All 256 bytes are in the vocabulary, so there is no text that it cannot encode.
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[BEGIN, END], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN} $B", special_tokens=[(BEGIN, BEGIN_ID)])
    assert tokenizer.token_to_id(BEGIN) == BEGIN_ID and tokenizer.token_to_id(END) == END_ID
    return tokenizer


def encode(tokenizer, texts):
    """All texts in a row as ids, each between BEGIN and END, and the index of each BEGIN."""
    import numpy

    ids, starts, length = [], [], 0
    for first in range(0, len(texts), 10_000):
        for encoding in tokenizer.encode_batch_fast(texts[first:first + 10_000]):
            starts.append(length)
            ids.append(numpy.array(encoding.ids + [END_ID], dtype=numpy.int16))
            length += len(ids[-1])
    return numpy.concatenate(ids), numpy.array(starts, dtype=numpy.int64)


class Blocks:
    """Random blocks of the training text, which lies whole on the device.

    Half of them start where a story starts, as every prompt does; the others anywhere, so that
    every position of a story is seen at every position of a block.
    """

    def __init__(self, ids, starts, length, device):
        import torch

        self.torch, self.length, self.device = torch, length, device
        self.ids = torch.from_numpy(ids).to(device)
        starts = torch.from_numpy(starts)
        self.starts = starts[starts + length + 1 <= len(ids)].to(device)
        self.offsets = torch.arange(length + 1, device=device)
        if not len(self.starts):
            raise SystemExit("train.py: the text is shorter than one block; ask for more --stories")

    def draw(self, count):
        torch = self.torch
        chosen = self.starts[torch.randint(len(self.starts), (count // 2,), device=self.device)]
        anywhere = torch.randint(len(self.ids) - self.length, (count - count // 2,), device=self.device)
        at = torch.cat([chosen, anywhere])
        return self.ids[at[:, None] + self.offsets].long()


def make_config(arguments):
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=arguments.vocabulary, hidden_size=arguments.hidden, intermediate_size=arguments.intermediate,
        num_hidden_layers=arguments.layers, num_attention_heads=8, num_key_value_heads=4,
        head_dim=arguments.hidden // 8, hidden_act="silu", max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, rms_norm_eps=1e-5,
        tie_word_embeddings=True, bos_token_id=BEGIN_ID, eos_token_id=END_ID, pad_token_id=None)


def mean_loss(model, blocks):
    """Cross-entropy in nats of each token of `blocks` but the first."""
    import torch.nn.functional as functional

    logits = model(input_ids=blocks[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1).float(), blocks[:, 1:].flatten())


def optimizer_for(model, rate, decay, fused):
    import torch

    matrices = [p for p in model.parameters() if p.dim() >= 2]
    norms = [p for p in model.parameters() if p.dim() < 2]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": decay},
                              {"params": norms, "weight_decay": 0.0}],
                             lr=rate, betas=(0.9, 0.95), eps=1e-8, fused=fused)


def share_of_rate(share):
    """The learning rate's factor when `share` of the training is done: warm-up, then a cosine to 1 %."""
    warmup = 0.02
    if share < warmup:
        return max(share / warmup, 0.01)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, (share - warmup) / (1 - warmup))))


def compiled(model, blocks, device, wanted):
    """The loss as a function of a batch, compiled where that works."""
    import torch

    def loss_of(batch):
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return mean_loss(model, batch)

    if wanted:
        started = time.monotonic()
        try:
            fast = torch.compile(loss_of)
            fast(blocks).backward()
            model.zero_grad(set_to_none=True)
            say(f"compiled in {time.monotonic() - started:.1f} s")
            return fast
        except Exception as error:  # any failure of the compiler: slower, but it trains
            say(f"not compiled ({type(error).__name__}: {str(error)[:300]})")
            model.zero_grad(set_to_none=True)
    return loss_of


def train(model, blocks, held_out, arguments, device):
    """Train for arguments.seconds; returns steps, tokens and seconds."""
    import torch

    batch, length = arguments.batch, arguments.block
    loss_of = compiled(model, blocks.draw(batch), device, arguments.compile and device.type == "cuda")
    optimizer = optimizer_for(model, arguments.rate, 0.1, device.type == "cuda")
    if device.type == "cuda":
        torch.cuda.synchronize()

    # The clock is read every few steps: reading the loss would make the device wait.
    every, step, started, passed, reported = 20, 0, time.monotonic(), 0.0, 0.0
    while passed < arguments.seconds and step != arguments.steps:
        share = passed / arguments.seconds
        if arguments.steps > 0:
            share = max(share, step / arguments.steps)
        for group in optimizer.param_groups:
            group["lr"] = arguments.rate * share_of_rate(share)
        loss = loss_of(blocks.draw(batch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % every == 0 or device.type == "cpu":
            if device.type == "cuda":
                torch.cuda.synchronize()
            passed = time.monotonic() - started
            if passed - reported >= arguments.report:
                reported = passed
                say(f"{passed:6.1f} s  step {step:6d}  {step * batch * length / passed / 1e6:6.3f} M tokens/s  "
                    f"rate {optimizer.param_groups[0]['lr']:.2e}  loss {loss.item():.4f}  "
                    f"held-out {evaluate(model, held_out[:64]):.4f}")
    return step, step * batch * length, passed


def evaluate(model, blocks, half=True):
    """Mean loss over all of `blocks`, in bf16 arithmetic where `half`, in float32 otherwise."""
    import torch

    training, total, size = model.training, 0.0, 32
    model.eval()
    with torch.no_grad(), torch.autocast(blocks.device.type, dtype=torch.bfloat16, enabled=half):
        for first in range(0, len(blocks), size):
            part = blocks[first:first + size]
            total += mean_loss(model, part).item() * len(part)
    model.train(training)
    return total / len(blocks)


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def export(model, tokenizer, output):
    """Write the folder that Hugging Face's own loaders and tprun read."""
    import torch

    model.to(torch.bfloat16).save_pretrained(output)
    # Readers older than `rope_parameters` look for the base at the top.
    config = json.loads((output / "config.json").read_text(encoding="utf-8"))
    config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    write_json(output / "config.json", dict(sorted(config.items())))
    # A program that starts a model greedily and stops at END needs no more than this.
    write_json(output / "generation_config.json",
               {"bos_token_id": BEGIN_ID, "eos_token_id": END_ID, "do_sample": False})
    tokenizer.save(str(output / "tokenizer.json"))
    write_json(output / "tokenizer_config.json",
               {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BEGIN, "eos_token": END,
                "model_max_length": 1024, "clean_up_tokenization_spaces": False})


def show(output, held_out, device):
    """Load the written folder as any user would, print completions, and return its held-out loss."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(output)
    model = AutoModelForCausalLM.from_pretrained(output, dtype=torch.bfloat16).to(device).eval()
    say(f"reloaded: {type(model).__name__}, {next(model.parameters()).dtype}, {type(tokenizer).__name__}")
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False).to(device)
        assert inputs["input_ids"][0, 0] == BEGIN_ID
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=320, do_sample=False, pad_token_id=END_ID)[0]
        ended = "ended by itself" if ids[-1] == END_ID else "cut off"
        say(f"--- {prompt!r} ({len(ids)} tokens, {ended})\n{tokenizer.decode(ids, skip_special_tokens=True)}")
    # In float32 arithmetic on the 16-bit weights: this is the loss that the folder is worth.
    return evaluate(model.float(), held_out, half=False)


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--seconds", type=float, default=240, help="training time")
    parser.add_argument("--steps", type=int, default=-1, help="end after so many steps (for tests)")
    parser.add_argument("--stories", type=int, default=600_000, help="stories to train on")
    parser.add_argument("--held-out", type=int, default=2000, help="stories to evaluate on")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--intermediate", type=int, default=704)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--block", type=int, default=512, help="tokens of a sequence")
    parser.add_argument("--batch", type=int, default=128, help="sequences of a step")
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--report", type=float, default=10, help="seconds between reports")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    return parser.parse_args()


def main():
    arguments = read_arguments()
    started = time.monotonic()

    def clock():
        return f"[{time.monotonic() - started:.1f} s]"

    texts = make_stories(arguments.seed, arguments.stories, arguments.processes)
    tests = make_stories(HELD_OUT_SEED, arguments.held_out, arguments.processes)
    distinct = len(set(texts))
    known = set(texts).intersection(tests)
    say(clock(), f"{len(texts)} stories ({distinct} distinct), {sum(map(len, texts)) / 1e6:.1f} MB; "
        f"{len(tests)} held-out stories, {len(known)} of them known")
    tests = [text for text in tests if text not in known]

    tokenizer = train_tokenizer(texts[:50_000], arguments.vocabulary)
    ids, starts = encode(tokenizer, texts)
    test_ids, _ = encode(tokenizer, tests)
    say(clock(), f"vocabulary {tokenizer.get_vocab_size()}, {len(ids) / 1e6:.1f} M tokens, "
        f"{len(ids) / len(texts):.1f} tokens a story")
    del texts

    import torch
    import transformers
    transformers.utils.logging.disable_progress_bar()
    device = torch.device(arguments.device)
    torch.manual_seed(arguments.seed)
    torch.set_float32_matmul_precision("high")
    model = transformers.LlamaForCausalLM(make_config(arguments)).to(device).train()
    parameters = sum(p.numel() for p in model.parameters())
    blocks = Blocks(ids, starts, arguments.block, device)
    length = arguments.block + 1
    held_out = torch.from_numpy(test_ids[:len(test_ids) // length * length]).view(-1, length).long().to(device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    say(clock(), f"{parameters} parameters, {len(held_out)} held-out blocks, on {name}")

    steps, tokens, seconds = train(model, blocks, held_out, arguments, device)
    say(clock(), f"trained {steps} steps, {tokens / 1e6:.1f} M tokens in {seconds:.1f} s")

    arguments.output.mkdir(parents=True, exist_ok=True)
    export(model, tokenizer, arguments.output)
    # Products of float32 numbers are to be exact from here on.
    torch.set_float32_matmul_precision("highest")
    loss = show(arguments.output, held_out, device)
    say(clock(), f"held-out loss {loss:.4f} nats a token, perplexity {math.exp(loss):.4f}")
    write_json(arguments.output / "training.json", {
        "held_out_loss_nats_per_token": round(loss, 5), "held_out_perplexity": round(math.exp(loss), 5),
        "held_out_stories": len(tests), "parameters": parameters, "stories": arguments.stories,
        "story_seed": arguments.seed, "held_out_seed": HELD_OUT_SEED, "text_tokens": len(ids),
        "steps": steps, "tokens_seen": tokens, "batch": arguments.batch, "block": arguments.block,
        "learning_rate": arguments.rate, "training_seconds": round(seconds, 1), "device": name,
        "torch": torch.__version__, "transformers": transformers.__version__,
    })
    for path in sorted(arguments.output.iterdir()):
        say(f"{path.stat().st_size:10d}  {path.name}")


if __name__ == "__main__":
    sys.exit(main())
