"""What the real model must answer: ids, log-probabilities and greedy text.

    python reference.py build/real

Runs transformers on CPU, in float32 from the stored bfloat16 weights, and writes
build/real/expected.json:

    texts    for every file in texts/: ids, token_logprobs (one for each id but the
             first), perplexity, and the distance of two other runs from these:
             loss_bfloat16, transformers' own run in the stored type, and
             loss_float32, the rounding of the reference itself, against float64
             (where transformers keeps norms and rope in float32)
    prompts  for every prompt: prompt_ids, greedy_ids (with the final end-of-sequence
             id where one comes), margins, end_id, and the text of the continuation

The prompts are also written as files, build/real/prompt-*.txt, for the command line.
"""

import argparse
import json
import sys
from pathlib import Path

import jinja2
import torch
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "reference"))
import runs  # noqa: E402  (it lives beside the other references)

GREEDY_STEPS = 32

# Chosen for clear answers: no greedy step of theirs is decided by less than 0.09. The
# first goes on until the length ends it, and so does the second; the third stops by itself.
PROSE = "The sun rises in the east and sets in the west. This happens because"
QUESTIONS = {"chat": "Name the four seasons of the year.", "chat-stop": "Which animal says meow?"}

# A model that reads its own language is far below this; one whose rope pairs the
# wrong dimensions, or whose tokenizer splits elsewhere, is far above.
WORST_PERPLEXITY = 40


def chat_prompt(folder, question):
    """The question as the model's own chat template asks it."""
    template = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    return jinja2.Template(template).render(
        messages=[{"role": "user", "content": question}], add_generation_prompt=True)


def distance(logprobs, reference):
    d = (logprobs.double() - reference.double()).abs()
    return {"max": round(d.max().item(), 7), "mean": round(d.mean().item(), 7)}


def texts(folder, tokenizer):
    """The entries of `texts`, every model loaded once."""
    result = {}
    for path in sorted((HERE / "texts").glob("*.txt")):
        # Bytes, not text mode: the ids are those of the file as it is.
        result[path.stem] = {"ids": tokenizer.encode(path.read_bytes().decode()).ids}

    def run(dtype, attention="eager"):
        model = runs.load(folder, dtype, attention)
        return {name: runs.token_logprobs(model, entry["ids"]) for name, entry in result.items()}

    reference = run(torch.float32)
    exact = run(torch.float64)
    stored = run(runs.stored_dtype(folder), "sdpa")
    for name, entry in result.items():
        logprobs = reference[name]
        entry["token_logprobs"] = runs.rounded(logprobs, 6)
        entry["perplexity"] = round(torch.exp(-logprobs.mean()).item(), 4)
        entry["loss_bfloat16"] = distance(stored[name], logprobs)
        entry["loss_float32"] = distance(exact[name], logprobs)
        if entry["perplexity"] > WORST_PERPLEXITY:
            raise SystemExit(f"{name}: perplexity {entry['perplexity']}: the model was not converted correctly")
    return result


def prompts(folder, tokenizer):
    """The entries of `prompts`: one text to go on with, and the chat turns."""
    model = runs.load(folder, torch.float32)
    end = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    result = {}
    written = {"prose": PROSE, **{name: chat_prompt(folder, q) for name, q in QUESTIONS.items()}}
    for name, prompt in written.items():
        (folder.parent / f"prompt-{name}.txt").write_text(prompt, encoding="utf-8")
        prompt_ids = tokenizer.encode(prompt).ids
        greedy_ids, margins = runs.greedy(model, prompt_ids, GREEDY_STEPS, stop=(end,))
        result[name] = {
            "prompt_ids": prompt_ids,
            "greedy_ids": greedy_ids,
            "margins": runs.rounded(margins, 5),
            "end_id": end,
            "text": tokenizer.decode(greedy_ids, skip_special_tokens=True),
        }
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder that prepare.py filled")
    args = parser.parse_args()
    folder = args.folder / "smollm2"

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    record = {
        "made_with": runs.made_with("float32 eager"),
        "texts": texts(folder, tokenizer),
        "prompts": prompts(folder, tokenizer),
    }
    (args.folder / "expected.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n",
                                               encoding="utf-8")

    for name, entry in record["texts"].items():
        print(f"{name:<10} {len(entry['ids']):>4} tokens  perplexity {entry['perplexity']:<8}"
              f" bfloat16 loss max {entry['loss_bfloat16']['max']:.4f} mean {entry['loss_bfloat16']['mean']:.4f}"
              f"  float32 loss max {entry['loss_float32']['max']:.1e}")
    for name, entry in record["prompts"].items():
        print(f"{name:<10} {len(entry['greedy_ids']):>4} tokens  least margin {min(entry['margins'])}"
              f"  {entry['text']!r}")


if __name__ == "__main__":
    main()
