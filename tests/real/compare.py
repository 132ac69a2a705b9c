"""Compares what tprun wrote with build/real/expected.json.

    python compare.py expected.json OUTPUT_FOLDER --ranks 1 2 3 [--arithmetic float32|bfloat16]

OUTPUT_FOLDER/n2/score-harbour.json is the answer of two ranks to
`score --json` on texts/harbour.txt, n2/generate-chat.json that to `generate --json`
on prompt-chat.txt. One PASS or FAIL line is printed for each check; the exit status is 1 if any
failed. An output that is missing or isn't JSON is a failed check, not an error.

What counts as equal depends on the arithmetic:

    float32    tprun at --dtype f32: float32 from the stored 16-bit weights, as in the
               reference: log-probabilities within 2e-3, where the reference's own
               rounding is about 1e-5 and a 16-bit run loses 0.1 to 0.2; greedy ids
               equal while the margin is above 0.05
    bfloat16   a 16-bit run: log-probabilities no further off than those of transformers'
               own bfloat16 run are in its worst text, in the maximum and in the mean;
               greedy ids equal while the margin is above 0.15
"""

import argparse
import json
import math
import sys
from pathlib import Path

TIGHT = 2e-3
LEAST_MARGIN = {"float32": 0.05, "bfloat16": 0.15}


class Failure(Exception):
    """A check that failed, with what was found."""


def read(path):
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Failure(f"no usable output: {error}") from None
    if not isinstance(value, dict):
        raise Failure("output is not a JSON object")
    return value


def field(output, name):
    if name not in output:
        raise Failure(f"no {name!r} in the output")
    return output[name]


def same_ids(got, expected):
    """Says where two lists of ids part."""
    if got == expected:
        return f"{len(got)} equal"
    for i, (a, b) in enumerate(zip(got, expected)):
        if a != b:
            raise Failure(f"id {i} is {a}, expected {b}")
    raise Failure(f"{len(got)} ids, expected {len(expected)}")


def logprob_bounds(texts, arithmetic):
    """The distance from the reference that is still right: {"max", "mean"}."""
    if arithmetic == "float32":
        return {"max": TIGHT, "mean": TIGHT}
    return {kind: max(entry["loss_bfloat16"][kind] for entry in texts.values()) for kind in ("max", "mean")}


# A check gets tprun's output and the entry of expected.json, returns what it found,
# and raises Failure. The third argument is its tolerance, where there is one.

def score_ids(output, entry, _):
    return same_ids(field(output, "ids"), entry["ids"])


def score_logprobs(output, entry, bounds):
    got, expected = field(output, "token_logprobs"), entry["token_logprobs"]
    if len(got) != len(expected):
        raise Failure(f"{len(got)}, expected {len(expected)}")
    if not all(math.isfinite(value) for value in got):
        raise Failure("one of them is not finite")
    distances = [abs(a - b) for a, b in zip(got, expected)]
    largest, mean = max(distances), sum(distances) / len(distances)
    found = f"max {largest:.2e} of {bounds['max']:.2e}, mean {mean:.2e} of {bounds['mean']:.2e}"
    if largest > bounds["max"] or mean > bounds["mean"]:
        raise Failure(f"{found}; the worst is that of token {distances.index(largest) + 1}")
    return found


def score_perplexity(output, entry, _):
    """Has to follow from the log-probabilities beside it."""
    got, logprobs = field(output, "perplexity"), field(output, "token_logprobs")
    implied = math.exp(-sum(logprobs) / len(logprobs))
    if not math.isclose(got, implied, rel_tol=1e-4):
        raise Failure(f"{got}, but the log-probabilities give {implied:.4f}")
    return f"{got:.4f}, reference {entry['perplexity']}"


def generate_prompt_ids(output, entry, _):
    return same_ids(field(output, "prompt_ids"), entry["prompt_ids"])


def generate_ids(output, entry, least_margin):
    """Equal until a step too close to call; after another choice there it is another text."""
    got, expected = field(output, "output_ids"), entry["greedy_ids"]
    for i, (have, want) in enumerate(zip(got, expected)):
        if have != want and entry["margins"][i] <= least_margin:
            return f"{i} of {len(expected)} equal, then a margin of {entry['margins'][i]}"
        if have != want:
            raise Failure(f"id {i} is {have}, expected {want} with a margin of {entry['margins'][i]}")
    return same_ids(got, expected)


def generate_text(output, entry, _):
    if field(output, "output_ids") != entry["greedy_ids"]:
        return "not compared, the ids differ"
    if field(output, "text") != entry["text"]:
        raise Failure(f"{output['text']!r}, expected {entry['text']!r}")
    return f"{len(entry['text'])} characters equal"


def generate_finish(output, entry, _):
    """Judged by the ids that came, so that a choice forgiven above is forgiven here."""
    got, ids = field(output, "finish_reason"), field(output, "output_ids")
    expected = "stop" if ids[-1:] == [entry["end_id"]] else "length"
    if got != expected:
        raise Failure(f"{got!r}, expected {expected!r}")
    return got


class Report:
    """Prints a line for each check and counts them."""

    def __init__(self):
        self.passed = self.failed = 0

    def failure(self, name, found):
        self.failed += 1
        print(f"FAIL real/{name}: {found}")

    def run(self, name, path, entry, checks):
        """All checks of one output; one failed check where there is no output."""
        try:
            output = read(path)
        except Failure as failure:
            self.failure(name, failure)
            return
        for part, (check, tolerance) in checks.items():
            try:
                found = check(output, entry, tolerance)
            except Failure as failure:
                self.failure(f"{name} {part}", failure)
            except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
                # Values of the wrong type, such as null for a list.
                self.failure(f"{name} {part}", f"malformed output: {error}")
            else:
                self.passed += 1
                print(f"PASS real/{name} {part}: {found}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("expected", type=Path)
    parser.add_argument("outputs", type=Path)
    parser.add_argument("--ranks", type=int, nargs="+", required=True)
    parser.add_argument("--arithmetic", choices=LEAST_MARGIN, default="float32")
    args = parser.parse_args()

    expected = json.loads(args.expected.read_text(encoding="utf-8"))
    score = {
        "ids": (score_ids, None),
        "log-probabilities": (score_logprobs, logprob_bounds(expected["texts"], args.arithmetic)),
        "perplexity": (score_perplexity, None),
    }
    generate = {
        "prompt ids": (generate_prompt_ids, None),
        "ids": (generate_ids, LEAST_MARGIN[args.arithmetic]),
        "text": (generate_text, None),
        "finish reason": (generate_finish, None),
    }

    report = Report()
    for n in args.ranks:
        folder = args.outputs / f"n{n}"
        for text, entry in expected["texts"].items():
            report.run(f"n={n} score {text}", folder / f"score-{text}.json", entry, score)
        for prompt, entry in expected["prompts"].items():
            report.run(f"n={n} generate {prompt}", folder / f"generate-{prompt}.json", entry, generate)
    print(f"{report.passed} passed, {report.failed} failed")
    sys.exit(report.failed > 0)


if __name__ == "__main__":
    main()
