"""What the cases of batch.py are made of: random prompts, and runs of tprun on them."""
import json
import os
import random
import tempfile

from batch_job import ROOT, Job, expect, read_results, write_lines

TINY = os.path.join(ROOT, "configs", "tiny-stories")
STORIES = os.path.join(os.environ.get("TPRUN_SHARED", os.path.join(ROOT, "..", "shared")),
                       "models", "stories260K")
WORDS = ("once upon a time there was little girl boy dog cat named Tom Lily who liked to play in the "
         "park with big red ball and one day she saw bird it said hello naïve 日本 😀 \n .").split(" ")
STOPS = [" the", ".", " was", "e", "\n", " and", "little", "She ", "un"]


# ---- inputs ------------------------------------------------------------------------------------

class Prompts:
    """Random lines, many of which share their beginnings."""

    def __init__(self, rng, model=TINY):
        with open(os.path.join(model, "config.json"), encoding="utf-8") as file:
            self.vocab = json.load(file)["vocab_size"]
        self.rng = rng
        self.stems = [self.text(rng.randint(15, 60)) for _ in range(4)]
        self.stem_ids = [[rng.randrange(self.vocab) for _ in range(40)] for _ in range(2)]

    def text(self, words):
        return " ".join(self.rng.choices(WORDS, k=words))

    def greedy(self, name):
        rng, line = self.rng, {"id": name}
        if rng.random() < 0.25:
            line["prompt_ids"] = (rng.choice(self.stem_ids)[:rng.randint(0, 40)] +
                                  [rng.randrange(self.vocab) for _ in range(rng.randint(1, 20))])
        else:
            stem = rng.choice(self.stems) + " " if rng.random() < 0.5 else ""
            line["prompt"] = stem + self.text(rng.randint(0, 30))
        line["max_new_tokens"] = rng.randint(1, 60)
        if rng.random() < 0.3:
            line["stop"] = rng.choice([rng.sample(STOPS, 2), rng.choice(STOPS)])
        if rng.random() < 0.3:
            line["ignore_eos"] = True
        return line

    def sampled(self, name):
        rng, line = self.rng, self.greedy(name)
        line.update(temperature=rng.uniform(0.3, 1.5), seed=rng.randrange(1 << 63))
        for key, value in {"top_p": rng.uniform(0.3, 1), "top_k": rng.randint(2, 50),
                           "min_p": rng.uniform(0, 0.2), "n": rng.randint(1, 4),
                           "repetition_penalty": rng.uniform(0.9, 1.5)}.items():
            if rng.random() < 0.4:
                line[key] = value
        return line

    def mixed(self, count, bad):
        """Greedy and sampled lines with ids of both types, a share of them bad."""
        lines = []
        for i in range(count):
            line = self.rng.choice([self.greedy, self.sampled])(i if i % 2 else f"ö{i}")
            if self.rng.random() < bad:
                line = self.rng.choice([b"not JSON", {**line, "n": 0}, {**line, "id": "ö0"},
                                        {**line, "nonsense": 1}, {"prompt": "no id"}])
            lines.append(line)
        return lines


# ---- runs --------------------------------------------------------------------------------------

class Case:
    """What a case is given: its own folder, its own random numbers, and ways to run tprun."""

    def __init__(self, world, name, seed, short):
        self.world, self.name, self.short = world, name, short
        self.rng = random.Random(f"{seed}/{name}")
        self.folder = tempfile.mkdtemp(dir=world.temp)

    def path(self, name):
        return os.path.join(self.folder, name)

    def start(self, source, output, *options, ranks=1, model=TINY, **popen):
        return Job(self.world, ["batch", "--backend", "cpu", "--model", model, "--input", source,
                                "--output", output, *options], ranks, **popen)

    def batch(self, source, *options, ranks=1, model=TINY, output=None):
        """A run to the end: its results and its summary. Of lines, or a file that has them."""
        if isinstance(source, list):
            source = write_lines(self.path("in.jsonl"), source)
        if output is None:
            output = self.path("out.jsonl")
            if os.path.exists(output):
                os.remove(output)
        job = self.start(source, output, "--json", "--quiet", *options, ranks=ranks, model=model)
        status = job.wait()
        expect(status == 0, f"{ranks} ranks, {options}: status {status}: {job.said()}")
        return read_results(output), json.loads(job.stdout())

    def generate(self, line, ranks=1, model=TINY):
        """What `generate` writes for a greedy line, as a line of output."""
        options = []
        for key, value in line.items():
            name = "--" + key.replace("_", "-")
            if key == "prompt_ids":
                options += [name, ",".join(map(str, value))]
            elif key == "stop":
                for stop in value if isinstance(value, list) else [value]:
                    options += [name, stop]
            elif value is True:
                options += [name]
            elif key != "id":
                options += [name, str(value)]
        job = Job(self.world, ["generate", "--backend", "cpu", "--model", model, "--json", "--quiet",
                               *options], ranks)
        expect(job.wait() == 0, f"generate {options}: {job.said()}")
        got = json.loads(job.stdout())
        ids = {"output_ids": got["output_ids"]} if "prompt_ids" in line else {}
        return {"id": line["id"], "text": got["text"], "finish_reason": got["finish_reason"],
                "prompt_tokens": len(got["prompt_ids"]), "output_tokens": len(got["output_ids"]), **ids}

    def refused(self, job, status, *texts):
        got = job.wait(20 if not self.world.sanitized else 120)
        expect(got == status, f"status {got} instead of {status}: {job.said()}")
        expect(not job.stdout(), f"standard output has {job.stdout()[:200]}")
        for text in texts:
            expect(text in job.stderr(), f"\"{text}\" is not said: {job.stderr()}")


CASES = []


def case(*parameters, short=True, stories=False):
    """Marks a case: once, or for each of the parameters (a name and arguments). `short` says whether,
    or for how many of them, --short has it; `stories` that the shared model is needed."""
    def mark(function):
        name = function.__name__.replace("_", "-")
        for number, (suffix, *arguments) in enumerate(parameters or [("",)]):
            in_short = short if isinstance(short, bool) else number < short
            CASES.append((name + (f" ({suffix})" if suffix else ""), function, arguments, in_short,
                          stories))
        return function
    return mark
