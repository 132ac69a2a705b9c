#!/usr/bin/env python3
"""`tprun batch` from end to end: what it writes, in whatever way it is run and interrupted.

  batch.py [--short] [--seed N] [--only WORD] [--times]

TPRUN names the binary (build/tprun), TPRUN_SHARED the folder of shared models. Inputs are drawn
afresh from a seed, which is printed. Prints PASS, FAIL or SKIP lines, as all tests do. --short is
for sanitized binaries: fewer interruptions and comparisons of the same kinds.
"""
import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback

sys.dont_write_bytecode = True
import batch_interrupted  # its cases
from batch_case import CASES, STORIES, TINY, Case, Prompts, case
from batch_job import (Failure, MpirunCrashed, World, expect, expect_same, read_results, size_of,
                       wait_until, write_lines)

assert batch_interrupted

# ---- texts -------------------------------------------------------------------------------------

def is_as_generate(run, model, ranks, tp, samples):
    """Greedy lines, in a batch with others, against generate on as many ranks as a replica has."""
    prompts = Prompts(run.rng, model)
    lines = [prompts.greedy(i if i % 3 else f"a{i}") for i in range(60)]
    results, summary = run.batch(lines, "--tp", tp, ranks=ranks, model=model)
    expect(len(results) == 60 and summary["requests"] == 60 and summary["errors"] == 0, str(summary))
    expect(summary["replicas"] == ranks // tp, str(summary))
    for key in "prompt_tokens", "output_tokens":
        total = sum(line[key] for line in results.values())
        expect(summary[key] == total, f"the summary has {summary[key]} {key}, the lines {total}")
    for line in lines:
        got = results[json.dumps(line["id"]), None]
        at_most = line["max_new_tokens"]
        expect(got["output_tokens"] == at_most if got["finish_reason"] == "length"
               else got["output_tokens"] <= at_most, f"{line}\n{got}")
    for line in run.rng.sample(lines, 3 if run.short else samples):
        got, expected = results[json.dumps(line["id"]), None], run.generate(line, tp, model)
        expect(got == expected, f"{line}\n{got}\n{expected}")


@case(("2 ranks", 2, 2, 7), ("1 rank", 1, 1, 12), ("3 ranks", 3, 3, 4),
      ("4 replicas", 4, 1, 4), ("2 replicas of 2", 4, 2, 4), short=1)
def as_generate(run, ranks, tp, samples):
    is_as_generate(run, TINY, ranks, tp, samples)


@case(short=False, stories=True)
def as_generate_with_stories260K(run):
    is_as_generate(run, STORIES, 2, 2, 6)


# Over other numbers of ranks sums are rounded otherwise: one draw or one tie of float32 weights may
# honestly fall the other way, two are no accident.
WAYS = [
    ("on 2 replicas", 2, ["--tp", 1], 0),
    ("one at a time", 1, ["--max-sequences", 1], 0),
    ("steps of 77 tokens", 1, ["--max-sequences", 5, "--max-batch-tokens", 77], 0),
    ("64 at a time", 1, ["--max-sequences", 64, "--max-batch-tokens", 64], 0),
    ("steps of 512 tokens", 1, ["--max-batch-tokens", 512], 0),
    ("on 2 ranks", 2, ["--tp", 2], 1),
    ("on 3 ranks", 3, ["--tp", 3], 1),
    ("on 2 replicas of 2", 4, ["--tp", 2], 1),
]


@case(short=False)
def whatever_the_order_and_the_batch(run):
    prompts = Prompts(run.rng)
    some = 8 if run.short else 20
    lines = ([prompts.sampled(i) for i in range(2 * some)] +
             [prompts.greedy(f"g{i}") for i in range(some)])
    expected, _ = run.batch(lines, "--dtype", "f32")
    expect(len(expected) == len(lines) and not any("error" in line for line in expected.values()), "errors")
    for name, ranks, options, ties in WAYS[::3] if run.short else WAYS:
        run.rng.shuffle(lines)
        got, _ = run.batch(lines, "--dtype", "f32", *options, ranks=ranks)
        expect_same(got, expected, name, ties)


@case()
def draws(run):
    """They depend on the seed, the id and the number of the sample, and on nothing else."""
    base = {"prompt": "Once upon a time", "temperature": 1.2, "max_new_tokens": 30, "ignore_eos": True}
    lines = ([{**base, "id": i} for i in range(6)] + [{**base, "id": str(i)} for i in range(6)] +
             [{**base, "id": "n", "n": 5}, {**base, "id": "seeds"}])
    first, _ = run.batch(lines, "--seed", 7)
    texts = [line["text"] for line in first.values() if "text" in line]
    texts += [sample["text"] for sample in first['"n"', None]["completions"]]
    expect(len(set(texts)) == 18, f"{18 - len(set(texts))} of the texts are alike")
    again, _ = run.batch([{**base, "id": "n"}, *lines[:12], {**base, "id": "seeds", "seed": 8}],
                         "--seed", 7)
    for key in first.keys() - {('"n"', None), ('"seeds"', None)}:
        expect(first[key] == again[key], f"{key} drew something else in another order")
    expect(first['"n"', None]["completions"][0]["text"] == again['"n"', None]["text"],
           "the first of 5 samples is not the only one of 1")
    expect(first['"seeds"', None] != again['"seeds"', None], "another seed drew the same")


# ---- lines that are wrong ----------------------------------------------------------------------

def said_of(**more):
    return {"prompt": "x", "max_new_tokens": 3, **more}


# What is wrong with a line, and what its error line says of it. Those without an id that counts
# are known by their number.
BAD = [
    (b"not JSON", "not valid JSON"),
    (b'{"id": "torn", "prompt": "x', "not valid JSON"),
    (b'{"id": "\xff", "prompt": "x"}', "UTF-8|decode byte"),
    (b'{"id": "surrogate", "prompt": "\\ud800"}', "Unicode"),
    (b'{"id": "twice", "prompt": "x", "prompt": "y"}', "duplicate"),
    (b"[" * 100000, "depth"),
    (b"[1, 2]", "not a JSON object"),
    (b'{"id": "huge", "prompt": "' + b"x" * (64 << 20) + b'"}', "longer than 64 MiB"),
    (said_of(), '"id"'),
    (said_of(id=None), '"id"'),
    (said_of(id=1.5), '"id"'),
    (said_of(id=True), '"id"'),
    (said_of(id=["a"]), '"id"'),
    (said_of(id="x" * 5000), '"id"'),
    (said_of(id=10 ** 30), '"id"'),
    (said_of(id="good 0"), "an earlier line"),
    (said_of(id="b1", max_tokens=5), '"max_tokens"'),
    (said_of(id="b2", temperature="hot"), '"temperature"'),
    (said_of(id="b3", n=0), '"n"'),
    (said_of(id="b4", max_new_tokens=1.5), '"max_new_tokens"'),
    (said_of(id="b5", stop=""), "stop"),
    (said_of(id="b6", seed=-1), '"seed"'),
    (said_of(id="b7", prompt=5), '"prompt"'),
    (said_of(id="b8", prompt="x " * 200), "context of 64"),
    (said_of(id="b9", messages=[]), '"messages"'),
    ({"id": "b10"}, '"prompt_ids"'),
    ({"id": "b11", "prompt_ids": []}, "empty"),
    ({"id": "b12", "prompt_ids": [1, 2048]}, "2048"),
    ({"id": "b13", "prompt_ids": [1, -1]}, '"prompt_ids"'),
    ({"id": "b14", "messages": [{"role": "user", "content": "x"}]}, "no chat template"),
    ({"id": "b15", "prompt": "one two three four", "max_length": 3}, "max_length"),
]


@case(("2 ranks", 2, 2), ("1 rank", 1, 1), ("2 replicas", 2, 1), short=1)
def bad_lines(run, ranks, tp):
    lines, wanted = [b'\xef\xbb\xbf{"id": "bom", "prompt": "Once", "max_new_tokens": 3}\r', b" \t"], {}
    for number, (line, text) in enumerate(run.rng.sample(BAD, len(BAD))):
        if number % 5 == 0:
            lines.append(said_of(id=f"good {len(lines)}"))
        if text == "an earlier line":
            lines.append(said_of(id="good 0"))
        lines.append(line)
        name = line.get("id") if isinstance(line, dict) else None
        of_its_own = isinstance(name, str) and len(name) < 100 and name != "good 0"
        key = (json.dumps(name if of_its_own or name == "good 0" else None),
               None if of_its_own else len(lines))
        wanted[key] = text
    results, summary = run.batch(lines, "--context", 64, "--tp", tp, ranks=ranks)
    errors = {key: line["error"] for key, line in results.items() if "error" in line}
    expect(errors.keys() == wanted.keys(), f"error lines {errors.keys() ^ wanted.keys()}")
    for key, text in wanted.items():
        expect(any(part in errors[key] for part in text.split("|")), f"{text}: {errors[key]}")
    good = len(lines) - 1 - len(BAD)
    expect(len(results) == len(lines) - 1 and summary["requests"] == good and
           summary["errors"] == len(BAD) and summary["duplicates"] == 1 and
           summary["skipped"] == 0 and not summary["stopped"], f"{good} are good: {summary}")
    # Once more: nothing is to be done.
    again, summary = run.batch(run.path("in.jsonl"), "--context", 64, output=run.path("out.jsonl"))
    expect_same(again, results, "once more")
    expect(summary["skipped"] == len(results) and not summary["requests"] and not summary["errors"],
           str(summary))


@case()
def summary_for_people(run):
    lines = [said_of(id=1), said_of(id=2), b"bad", said_of(id=1)]
    job = run.start(write_lines(run.path("in"), lines), run.path("out"))
    run.refused(job, 0, "2 requests", "2 errors", "tokens/s", "P95", "KV cache", "earlier one: line 4")


# ---- conversations -----------------------------------------------------------------------------

TEMPLATE = """{{ bos_token }}{% for m in messages %}
<{{ m['role'] }}>{{ m.content | trim }}{% if not loop.last %};{% endif %}
{% endfor %}{% if add_generation_prompt %}{{ opening or '<answer>' }}{% endif %}"""


def model_with_template(run, template):
    """The embedded model's folder with a chat template, or one that is told to have none (None)."""
    folder = tempfile.mkdtemp(dir=run.folder)
    for name in "config.json", "generation_config.json", "model.safetensors", "tokenizer.json":
        os.symlink(os.path.join(TINY, name), os.path.join(folder, name))
    with open(os.path.join(TINY, "tokenizer_config.json"), encoding="utf-8") as file:
        config = json.load(file)
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as file:
        json.dump({**config, "chat_template": template} if template else config, file)
    return folder


@case()
def messages(run):
    folder = model_with_template(run, TEMPLATE)
    talk = [{"role": "system", "content": " Be kind. "}, {"role": "user", "content": "A story, 日本?\n"}]
    told = [*talk, {"role": "assistant", "content": "Once upon"}]
    head = "<system>Be kind.;<user>A story, 日本?"
    lines, texts = [], [head + "<answer>", head + "Sure:", head + ";<assistant>Once upon"]
    for number, more in enumerate([{"messages": talk},
                                   {"messages": talk, "chat_template_kwargs": {"opening": "Sure:"}},
                                   {"messages": told, "add_generation_prompt": False}]):
        lines.append({"id": number, "max_new_tokens": 25, **more})
    results, _ = run.batch([*lines, {"id": "bad", "messages": [{"content": "no role"}]}], ranks=2,
                           model=folder)
    for line, text in zip(lines, texts):
        plain = {"id": line["id"], "max_new_tokens": 25, "prompt": text}  # generate puts BOS before it
        got, expected = results[str(line["id"]), None], run.generate(plain, 2)
        expect(got == expected, f"{text}\n{got}\n{expected}")
    expect("role" in results['"bad"', None]["error"], str(results['"bad"', None]))


@case()
def template_that_is_not_understood(run):
    source = write_lines(run.path("in"), [said_of(id=1)])
    for template, text in ("{% frob %}", "frob"), ("{{ x | frobnicate }}", "frobnicate"):
        job = run.start(source, run.path("out"), model=model_with_template(run, template))
        status = job.wait()
        expect(status in (1, 2) and text in job.stderr(), f"{template}: status {status}: {job.said()}")


# ---- files -------------------------------------------------------------------------------------

class SlowInput:
    """A job that reads standard input, which the test writes line by line."""

    def __init__(self, run, *options, ranks=1, output=None):
        self.output = output or run.path("slow.jsonl")
        self.job = run.start("-", self.output, "--quiet", *options, ranks=ranks, stdin=-1)
        self.written = 0

    def put(self, line):
        """Writes a line and waits for its result."""
        before = size_of(self.output)
        self.job.process.stdin.write(json.dumps(line).encode() + b"\n")
        self.job.process.stdin.flush()
        wait_until(lambda: size_of(self.output) > before, f"the result of {line}: {self.job.said()}")

    def end(self):
        self.job.process.stdin.close()
        expect(self.job.wait() == 0, self.job.said())
        return read_results(self.output)


@case(("2 ranks", 2), ("1 rank", 1), short=False)
def standard_input(run, ranks):
    lines = Prompts(run.rng).mixed(12, 0)
    expected, _ = run.batch(lines, "--tp", ranks, ranks=ranks)
    slow = SlowInput(run, ranks=ranks)
    for line in lines:
        slow.put(line)
    expect_same(slow.end(), expected, "line by line")
    with open(run.path("in.jsonl"), "rb") as file:
        job = run.start("-", run.path("file.jsonl"), ranks=ranks, stdin=file)
        expect(job.wait() == 0, job.said())
    expect_same(read_results(run.path("file.jsonl")), expected, "a file as standard input")


@case(short=False)
def output_to_a_pipe(run):
    lines = Prompts(run.rng).mixed(40, 0.1)
    expected, _ = run.batch(lines, "--tp", 2, ranks=2)
    pipe, copy = run.path("pipe"), run.path("copy")
    os.mkfifo(pipe)

    def read():
        with open(pipe, "rb") as source, open(copy, "wb") as target:
            while some := source.read(100):
                target.write(some)
                time.sleep(0.001)
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    job = run.start(run.path("in.jsonl"), pipe, ranks=2)
    expect(job.wait() == 0, job.said())
    reader.join(10)
    expect_same(read_results(copy), expected, "through a pipe")


@case()
def second_job_on_an_output(run):
    slow = SlowInput(run, ranks=2)
    slow.put(said_of(id=1))
    for ranks in 1, 2:
        job = run.start(write_lines(run.path("other"), [said_of(id="other")]), slow.output, ranks=ranks)
        run.refused(job, 2, slow.output, "another job")
    slow.put(said_of(id=2))
    expect(len(slow.end()) == 2, "the first job was disturbed")
    job = run.start(run.path("other"), slow.output)
    expect(job.wait() == 0 and len(read_results(slow.output)) == 3, f"after it: {job.said()}")


@case(("1 rank", 1), ("2 ranks", 2), short=1)
def files_that_are_refused(run, ranks):
    good = write_lines(run.path("good"), [said_of(id=1)])
    foreign = write_lines(run.path("foreign"), [b"precious"])
    unended = run.path("unended")
    with open(unended, "wb") as file:
        file.write(b"precious")
    locked = run.path("read-only")
    os.mkdir(locked, 0o500)
    missing = run.path("missing")
    for source, output, named in [
            (missing, run.path("out"), missing), (good, foreign, foreign),
            (good, missing + "/out", missing + "/out"), (run.folder, run.path("out"), run.folder),
            (good, run.folder, run.folder), (good, unended, unended), (good, good, good),
            # Not even root can make files there.
            (good, "/proc/out" if os.geteuid() == 0 else locked + "/out", "/out")][:8 // ranks ** 2]:
        run.refused(run.start(source, output, ranks=ranks), 2, named)
    for path in foreign, unended:
        with open(path, "rb") as file:
            expect(file.read().strip() == b"precious", f"{path} was changed")
    run.refused(run.start(good, "/dev/full", ranks=ranks), 1, "/dev/full", "No space left")


@case()
def ranks_that_tp_does_not_divide(run):
    source = write_lines(run.path("in"), [said_of(id=1)])
    job = run.start(source, run.path("out"), "--tp", 2, ranks=3)
    run.refused(job, 2, "--tp 2", "3 ranks")
    expect(not os.path.exists(run.path("out")), "it made an output all the same")


# ---- all ---------------------------------------------------------------------------------------

def attempt(world, name, function, arguments, options):
    """Why the case failed, or None."""
    for _ in range(3):
        try:
            function(Case(world, name, options.seed, options.short), *arguments)
            return None
        except MpirunCrashed:
            print(f"mpirun itself crashed or hung; once more: {name}", file=sys.stderr)
        except Failure as failure:
            return str(failure)
        except Exception:  # a line that is no JSON, say
            return traceback.format_exc()
    return "mpirun crashed or hung three times"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED", random.randrange(10**6))))
    parser.add_argument("--only", default="")
    parser.add_argument("--times", action="store_true", help="tell the seconds of each case")
    options = parser.parse_args()
    print(f"batch.py --seed {options.seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # a time limit leaves no job behind
    world = World(tempfile.mkdtemp(prefix="tprun-batch-"))
    failed = False
    try:
        for name, function, arguments, in_short, stories in CASES:
            if options.only not in name or (options.short and not in_short):
                continue
            if stories and not os.path.isdir(STORIES):
                print(f"SKIP batch/{name}: {STORIES} is absent", flush=True)
                continue
            start = time.monotonic()
            problem = attempt(world, name, function, arguments, options)
            failed |= problem is not None
            print(f"FAIL batch/{name}: {problem}" if problem else f"PASS batch/{name}",
                  f"({time.monotonic() - start:.1f} s)" if options.times else "", flush=True)
            for job in world.jobs:
                job.kill()
    finally:
        world.close()
    sys.exit(failed)


if __name__ == "__main__":
    main()
