#!/usr/bin/env python3
"""Golden models: tprun's log-probabilities and greedy ids against those that transformers computed.

  golden.py TPRUN FOLDER... [--ranks 1,2,3] [--backend cpu] [--prefix NAME]

Every folder holds a model and expected.json (cases of prompt_ids, token_logprobs, last_logits,
greedy_ids, margins) or expected_greedy.json. A case passes where every log-probability lies
within the bound of the stored type, and the greedy ids are equal up to the first step whose
margin is too small to tell. Prints PASS, FAIL or SKIP lines, as all tests do.

On GPUs, where to start takes far longer than to run, the cases of a model are continued in one start, by
`batch`, one after the other; on CPUs each by `generate`.
"""
import argparse
import json
import math
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))

# float32: the runtime's own promise. 16-bit: what transformers itself loses when it runs at the
# stored type, measured by reference/measure_16bit_loss.py; the largest loss of the model counts.
# A greedy id may differ only at a smaller margin than MARGIN; on GPUs, whose activations are
# rounded to 16 bits as transformers' are, than that loss where it is larger.
FLOAT32_BOUND = 2e-3
MARGIN = {"float32": 0.05, "float16": 0.15, "bfloat16": 0.15}


def mpirun(ranks):
    """The launcher's command line; root and few cores need its blessings."""
    return ["timeout", "120", "mpirun", "--oversubscribe", "-np", str(ranks)]


def run(tprun, ranks, arguments):
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    done = subprocess.run(mpirun(ranks) + [tprun] + arguments, env=environment,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr.strip()[-400:]}")
    return json.loads(done.stdout)


def stored_dtype(config):
    return (config.get("dtype") or config.get("torch_dtype") or "float32").replace("torch.", "")


def log_softmax(logits, index):
    top = max(logits)
    return logits[index] - top - math.log(sum(math.exp(x - top) for x in logits))


def check_logprobs(tprun, ranks, base, case, bound):
    """Scores the prompt and one more id, so that last_logits is checked too."""
    ids = case["prompt_ids"] + case["greedy_ids"][:1]
    expected = case["token_logprobs"] + [log_softmax(case["last_logits"], case["greedy_ids"][0])]
    got = run(tprun, ranks, ["score", *base, "--ids", ",".join(map(str, ids))])
    if got["ids"] != ids:
        return f"ids {got['ids'][:8]} instead of {ids[:8]}"
    if len(got["token_logprobs"]) != len(expected):
        return f"{len(got['token_logprobs'])} log-probabilities instead of {len(expected)}"
    worst = max(abs(a - b) for a, b in zip(got["token_logprobs"], expected))
    if not worst <= bound:
        return f"a log-probability is off by {worst:.2g}, more than {bound:.2g}"
    return None


GREEDY = ["--ignore-eos", "--temperature", "0"]


def generate(tprun, ranks, base, case):
    got = run(tprun, ranks, ["generate", *base, *GREEDY,
                             "--max-new-tokens", str(len(case["greedy_ids"])),
                             "--prompt-ids", ",".join(map(str, case["prompt_ids"]))])
    return got["output_ids"]


def generate_all(tprun, ranks, base, cases):
    """The ids of every case from one start, a sequence at a time."""
    longest = max(len(case["prompt_ids"]) + len(case["greedy_ids"]) for case in cases)
    with tempfile.TemporaryDirectory() as folder:
        prompts, results = os.path.join(folder, "in"), os.path.join(folder, "out")
        with open(prompts, "w", encoding="utf-8") as file:
            for number, case in enumerate(cases):
                print(json.dumps({"id": number, "prompt_ids": case["prompt_ids"],
                                  "max_new_tokens": len(case["greedy_ids"])}), file=file)
        run(tprun, ranks, ["batch", *base, *GREEDY, "--max-sequences", "1", "--context", str(longest),
                           "--input", prompts, "--output", results])
        with open(results, encoding="utf-8") as file:
            got = {line["id"]: line["output_ids"] for line in map(json.loads, file)}
    return [got[number] for number in range(len(cases))]


def check_greedy(case, got, margin):
    count = len(case["greedy_ids"])
    if len(got) != count:
        return f"{len(got)} ids instead of {count}"
    for step, (a, b) in enumerate(zip(got, case["greedy_ids"])):
        if a != b:
            if case["margins"][step] > margin:
                return f"step {step}: id {a} instead of {b}, margin {case['margins'][step]}"
            return None  # an honest tie: from here on the texts may differ
    return None


def check_folder(options, folder, name, ranks, config, losses):
    dtype = stored_dtype(config)
    base = ["--model", folder, "--backend", options.backend, "--json", "--quiet"]
    bound = FLOAT32_BOUND if dtype == "float32" else losses[name]["loss"][dtype]["max"]
    margin = max(MARGIN[dtype], bound) if options.backend == "cuda" else MARGIN[dtype]
    problems = []
    scored = os.path.exists(os.path.join(folder, "expected.json"))
    with open(os.path.join(folder, "expected.json" if scored else "expected_greedy.json"),
              encoding="utf-8") as file:
        expected = json.load(file)
    cases = expected["cases"] if scored else [expected]
    if options.backend == "cuda" and len(cases) > 1:
        greedy = generate_all(options.tprun, ranks, base, cases)
    else:
        greedy = [generate(options.tprun, ranks, base, case) for case in cases]
    for number, (case, got) in enumerate(zip(cases, greedy)):
        found = [check_logprobs(options.tprun, ranks, base, case, bound)] if scored else []
        found.append(check_greedy(case, got, margin))
        problems += [f"case {number}: {problem}" for problem in found if problem]
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tprun")
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--ranks", default="1,2,3,4")
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--prefix", default="golden")
    options = parser.parse_args()
    with open(os.path.join(HERE, "reference", "16bit-loss.json"), encoding="utf-8") as file:
        losses = json.load(file)["models"]
    failed = False
    for folder in options.folders:
        name = os.path.basename(os.path.normpath(folder))
        if not os.path.isdir(folder):
            print(f"SKIP {options.prefix}/{name}: {folder} is absent")
            continue
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        for ranks in map(int, options.ranks.split(",")):
            if ranks > config["num_attention_heads"]:
                continue  # refused by design; tests/cli checks that refusal
            try:
                problems = check_folder(options, folder, name, ranks, config, losses)
            except (RuntimeError, ValueError, KeyError) as problem:
                problems = [str(problem)]
            failed |= bool(problems)
            print(f"{'FAIL' if problems else 'PASS'} {options.prefix}/{name}-np{ranks}", flush=True)
            for problem in problems:
                print(f"{name} on {ranks} ranks: {problem}", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
