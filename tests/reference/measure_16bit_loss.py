"""What transformers itself loses when it computes in 16 bits.

    python measure_16bit_loss.py MODELS_FOLDER... [--out 16bit-loss.json]

Every model found below the folders is run in float32 from its stored weights (the
reference) and once more in 16 bits, and the log-probabilities of the same tokens
are compared. A model stored in 16 bits runs in that type; a float32 one is
measured in both 16-bit types, its weights rounded on load.

The loss is the yardstick of the tests for tprun's own 16-bit runs: against the
float32 reference they may be as far off as this, and no further. Attention is run both
ways transformers has, its default (sdpa) and its reference (eager): the larger
loss of a case counts, because both are transformers' own.
"""

import argparse
import json
from pathlib import Path

import torch

import runs

ATTENTIONS = ("sdpa", "eager")


def cases(folder):
    """(ids, expected log-probabilities or None) of the texts to measure on."""
    expected = folder / "expected.json"
    if expected.exists():
        # One-token prompts have no log-probability to compare.
        return [(case["prompt_ids"], case["token_logprobs"])
                for case in json.loads(expected.read_text())["cases"] if case["token_logprobs"]]
    case = json.loads((folder / "expected_greedy.json").read_text())
    return [(case["prompt_ids"] + case["greedy_ids"], None)]


def references(folder):
    """(ids, float32 log-probabilities), checked against the recorded ones."""
    model = runs.load(folder, torch.float32)
    result = []
    for ids, recorded in cases(folder):
        logprobs = runs.token_logprobs(model, ids)
        if recorded is not None:
            off = (logprobs - torch.tensor(recorded)).abs().max().item()
            if off > 1e-4:
                raise SystemExit(f"{folder}: expected.json is {off:.1e} off; another transformers?")
        result.append((ids, logprobs))
    return result


def loss(folder, dtype, texts):
    """Maximum and mean distance of a run in dtype, over all tokens and by case."""
    models = [runs.load(folder, dtype, attention) for attention in ATTENTIONS]
    distances = [max(((runs.token_logprobs(model, ids) - expected).abs() for model in models),
                     key=lambda distance: distance.max().item()) for ids, expected in texts]
    every = torch.cat(distances)
    return {
        "max": round(every.max().item(), 6),
        "mean": round(every.mean().item(), 6),
        "cases": [{"tokens": len(ids), "max": round(d.max().item(), 6), "mean": round(d.mean().item(), 6)}
                  for (ids, _), d in zip(texts, distances)],
    }


def measure(folder):
    """{dtype name: loss} of one model."""
    stored = runs.stored_dtype(folder)
    dtypes = [torch.bfloat16, torch.float16] if stored == torch.float32 else [stored]
    texts = references(folder)
    return {
        "stored": str(stored).removeprefix("torch."),
        "loss": {str(dtype).removeprefix("torch."): loss(folder, dtype, texts) for dtype in dtypes},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+", help="folder with models somewhere below it")
    parser.add_argument("--out", type=Path, help="also write the result there, as JSON")
    args = parser.parse_args()

    folders = sorted({path.parent for top in args.models for name in ("expected.json", "expected_greedy.json")
                      for path in top.rglob(name)})
    if not folders:
        raise SystemExit("no folder with an expected.json or expected_greedy.json below those named")

    models = {}
    print(f"{'model':<34}{'stored':<10}{'run in':<10}{'max':>10}{'mean':>10}")
    for folder in folders:
        entry = models[folder.name] = measure(folder)
        for dtype, lost in entry["loss"].items():
            print(f"{folder.name:<34}{entry['stored']:<10}{dtype:<10}{lost['max']:>10.6f}{lost['mean']:>10.6f}")

    result = {"made_with": runs.made_with(" and ".join(ATTENTIONS)), "models": models}
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
