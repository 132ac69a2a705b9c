#!/usr/bin/env python3
"""No hang, ever: a rank that is killed, stopped, hangs, exits or fails, in each phase of a run, ends the
run in time, and the message names it.

    faults.py [--backend cpu|cuda] [--all] [--table] [--jobs N]      TPRUN names a build with FAULTS=1

Without --all a subset: on CPUs less than a minute; on GPUs, where no more ranks than GPUs are started, a minute
and a half on four. --table prints how long each run took, or went on after a signal. Faults come from within
(TPRUN_FAULT, launcher/fault.h), and as signals from outside. After each run no process is left, nothing in
/dev/shm, and no memory of a GPU is held; where several runs share GPUs (--jobs) the memory, and what libraries
leave in /dev/shm, are looked at after the last."""
import argparse
import concurrent.futures
import glob
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TPRUN = os.path.abspath(os.environ.get("TPRUN", os.path.join(ROOT, "build", "faults", "tprun")))
BACKEND = "cpu"
JOBS = 3  # runs at a time; on GPUs 1
WATCHDOG, INIT, START = 2, 4, 5  # START: seconds that a start takes at most, on a busy machine
GRACE = 10  # seconds for every process to be gone, after the fault was found
NAMES = {"connect": "connecting the ranks", "load": "loading weights", "sums": "connecting the ranks",
         "prefill": "in prefill", "decode": "in decode", "stop": "closing"}
PHASES = ["mpi", *NAMES]
KINDS = ["kill", "stop", "hang", "exit", "error"]


# What GPUs do not share with CPUs, a rank drawn for each: (ranks, phase, kind).
ON_GPUS = [(2, "connect", "hang"), (2, "load", "error"), (2, "sums", "kill"), (2, "prefill", "kill"),
           (2, "decode", "hang"), (2, "stop", "kill"), (4, "sums", "hang"), (4, "prefill", "stop"),
           (4, "decode", "kill"), (4, "decode", "hang")]
# And where NCCL adds up, which GPUs of one node do without otherwise.
OVER_NCCL = [("sums", "hang"), ("prefill", "stop"), ("decode", "kill"), ("decode", "hang")]


class Failure(Exception):
    pass


class MpirunStuck(Exception):
    """Open MPI 4.1's mpirun is left alone, all ranks having ended."""


class Run:
    """tprun under mpirun, whose ranks are found by a mark in their environment."""

    def __init__(self, temp, ranks, fault, arguments, *models, init=None, way=None):
        self.mark = f"{os.getpid()}.{random.getrandbits(60):x}"
        environment = dict(
            os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
            OMPI_MCA_rmaps_base_oversubscribe="1", OMPI_MCA_orte_tmpdir_base=temp, OMP_NUM_THREADS="1",
            TPRUN_TEST_JOB=self.mark)
        environment.pop("TPRUN_FAULT", None)
        if fault:
            environment["TPRUN_FAULT"] = fault
        if way:
            environment["TPRUN_REDUCE"] = way
        self.err = tempfile.TemporaryFile(dir=temp)
        self.job = None  # Open MPI's number of it
        self.seen = set()  # all its processes
        self.shared = set(os.listdir("/dev/shm"))
        self.start = time.monotonic()
        command = ["mpirun"]
        for model in models or [["--model", os.path.join(ROOT, "configs", "tiny-stories")]]:
            command += [":"] * (len(command) > 1)
            command += ["-np", str(ranks), TPRUN, *arguments, *model, "--backend", BACKEND, "--quiet",
                        "--watchdog", str(WATCHDOG), "--init-timeout", str(init or INIT)]
        self.process = subprocess.Popen(
            command,
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.err,
            start_new_session=True)

    def pids(self):
        """{rank: pid} of the ranks, and mpirun's as None."""
        found = {}
        for path in glob.glob("/proc/[0-9]*/environ"):
            try:
                with open(path, "rb") as file:
                    text = file.read()
            except OSError:
                continue
            if f"TPRUN_TEST_JOB={self.mark}\0".encode() not in text:
                continue
            rank = re.search(rb"\0OMPI_COMM_WORLD_RANK=(\d+)", text)
            job = re.search(rb"\0OMPI_MCA_ess_base_jobid=(\d+)", text)
            if job:
                self.job = int(job[1])
            found[int(rank[1]) if rank else None] = int(path.split("/")[2])
        self.seen.update(found.values())
        return found

    def said(self):
        self.err.seek(0)
        return self.err.read().decode(errors="replace")

    def wait(self, limit):
        """Until mpirun has ended and no process is left; the seconds since the start."""
        end = time.monotonic() + limit
        pids = self.pids()
        while self.process.poll() is None or pids:
            if time.monotonic() > end:
                for pid in pids.values():
                    os.kill(pid, signal.SIGKILL)
                self.process.wait()
                if list(pids) == [None]:
                    raise MpirunStuck(self.said())
                raise Failure(f"left after {limit} s: {pids}; said: {self.said()}")
            time.sleep(0.05)
            pids = self.pids()
        return time.monotonic() - self.start

    def check_end(self, pattern):
        said = self.said()
        if self.process.returncode == 0:
            raise Failure(f"status 0; said: {said}")
        lines = [line for line in said.splitlines() if line.startswith("tprun: ")]
        if pattern and not any(re.search(pattern, line) for line in lines):
            raise Failure(f"no line like {pattern!r} in: {said}")
        if len(lines) > 1:
            raise Failure(f"{len(lines)} messages: {said}")
        # Job numbers come again, and a killed mpirun of any day leaves its files.
        new = set(os.listdir("/dev/shm")) - self.shared
        left = [name for name in new if "tprun" in name or (self.job and f"{self.job:x}" in name)]
        if left:
            raise Failure(f"left behind: {left}")
        if GPUS and JOBS == 1:
            GPUS.check(self.seen)


class Gpus:
    """What is taken on the GPUs, and of /dev/shm by libraries, which is to be what it was before."""

    def __init__(self):
        self.before, self.shared = self.used(), self.files()

    @staticmethod
    def files():
        return {name for name in os.listdir("/dev/shm") if re.match("nccl|cuda", name)}

    @staticmethod
    def ask(what):
        return subprocess.run(["nvidia-smi", what, "--format=csv,noheader,nounits"], capture_output=True,
                              text=True, check=True).stdout.split()

    def used(self):
        return [int(number) for number in self.ask("--query-gpu=memory.used")]

    def check(self, pids):
        end = time.monotonic() + 5
        while True:
            used = self.used()
            # A virtual machine may show no processes; a context takes some hundred MiB.
            holding = pids & {int(pid) for pid in self.ask("--query-compute-apps=pid") if pid.isdigit()}
            files = self.files() - self.shared
            if not holding and not files and all(now < before + 64 for now, before in zip(used, self.before)):
                return
            if time.monotonic() > end:
                raise Failure(f"GPU memory: {self.before} MiB before, {used} after, processes {holding}; "
                              f"left in /dev/shm: {files}")
            time.sleep(0.2)


GPUS = None


def found_after(phase, kind):
    """Seconds that finding the fault may take."""
    if kind in ("kill", "exit", "error"):
        return 0
    return INIT if phase == "mpi" or (phase in ("connect", "sums") and kind == "hang") else WATCHDOG


def pattern_of(rank, phase, kind):
    if kind == "error":
        return rf"^tprun: rank {rank} \(host \S+\): a fault was asked for$"
    if phase == "mpi":  # before it is up, no rank knows of another's end, and mpirun names it but sometimes
        if kind in ("hang", "stop"):
            return rf"^tprun: joining the other ranks takes more than {INIT} s"
        return r"^tprun: ended by SIGTERM while joining the other ranks"
    who = rf"rank {rank} \(host \S+{', GPU [^)]+' if BACKEND == 'cuda' else ''}\)"
    if kind == "hang" and phase in ("connect", "sums"):
        return rf"connecting the ranks takes more than {INIT} s \(--init-timeout\), not arrived: {who};"
    what = {"kill": "lost", "exit": "lost", "stop": "silent", "hang": "stuck"}[kind]
    return rf"^tprun: {what}[^:]*: {who} {NAMES[phase]}"


def inject(temp, ranks, rank, phase, kind, way=None):
    prompt = [f"--prompt={random.choice(['Once', 'The big dog', 'Lily and Tom went out'])}"]
    run = Run(temp, ranks, f"{rank}:{phase}:{kind}", ["generate", *prompt, "--max-new-tokens", "20"], way=way)
    seconds = run.wait(found_after(phase, kind) + GRACE + START)
    run.check_end(pattern_of(rank, phase, kind))
    return seconds


def batch(temp, ranks, kind):
    """Rank 0 is lost to a batch, whose others catch SIGTERM for themselves: one message all the same."""
    lines = os.path.join(temp, f"lines.{ranks}.{kind}")
    with open(lines, "w", encoding="utf-8") as file:
        file.writelines(f'{{"id": {i}, "prompt": "Once upon a time"}}\n' for i in range(64))
    run = Run(temp, ranks, f"0:decode:{kind}", ["batch", "--input", lines, "--output", lines + ".done"])
    seconds = run.wait(found_after("decode", kind) + GRACE + START)
    os.unlink(lines + ".done")
    run.check_end(pattern_of(0, "decode", kind))
    return seconds


def unharmed(temp, ranks):
    """No fault: how long a start and an end take, of which nothing is left either."""
    run = Run(temp, ranks, None, ["generate", "--prompt=Once", "--max-new-tokens", "20"])
    seconds = run.wait(GRACE + START)
    if run.process.returncode:
        raise Failure(f"status {run.process.returncode}; said: {run.said()}")
    if JOBS == 1:
        GPUS.check(run.seen)
    return seconds


def strike(temp, ranks, rank, number, what):
    """A signal from outside, at any moment of a long run."""
    run = Run(temp, ranks, None, ["bench", "--tests", "tg64", "--repeat", "10000"])
    deadline = time.monotonic() + 20
    while rank not in run.pids() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(random.uniform(2, 3))
    pids = run.pids()
    if rank not in pids:
        raise Failure(f"no rank {rank}: {run.said()}")
    run.start = time.monotonic()
    os.kill(pids[rank], number)
    seconds = run.wait((WATCHDOG if number == signal.SIGSTOP else 0) + GRACE)
    run.check_end(rf"^tprun: {what}[^:]*: rank {rank} \(host [^)]+\) ")
    return seconds


def orphaned(run, ranks):
    """mpirun itself is killed: no rank outlives it for long. What MPI leaves in /dev/shm then is mpirun's to
    remove, and gone with it."""
    if len(run.pids()) != ranks + 1:
        raise Failure(f"not all there: {run.pids()}, {run.said()}")
    run.start = time.monotonic()
    run.process.kill()
    seconds = run.wait(GRACE)
    for path in glob.glob(f"/dev/shm/vader_segment.*{run.job:x}*"):
        os.unlink(path)
    run.check_end(None)
    return seconds


def orphans(temp, ranks):
    run = Run(temp, ranks, None, ["bench", "--tests", "tg64", "--repeat", "10000"])
    time.sleep(3)
    return orphaned(run, ranks)


def orphan_before_mpi(temp, ranks, rank):
    """The end of a connection to mpirun tells the others; one that has none yet ends all the same, long before
    its --init-timeout."""
    run = Run(temp, ranks, f"{rank}:mpi:hang", ["generate", "--prompt=Once"], init=120)
    deadline = time.monotonic() + START
    while len(run.pids()) <= ranks and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    return orphaned(run, ranks)


def late_watchdog(temp):
    """All ranks stopped for longer than --watchdog, as by Ctrl-Z: nobody is at fault."""
    run = Run(temp, 2, None, ["bench", "--tests", "tg64", "--repeat", "10000"])
    time.sleep(3)
    pids = [pid for rank, pid in run.pids().items() if rank is not None]
    for number, pause in (signal.SIGSTOP, 2 * WATCHDOG), (signal.SIGCONT, 2 * WATCHDOG):
        for pid in pids:
            os.kill(pid, number)
        time.sleep(pause)
    alive = run.process.poll() is None
    said = run.said()
    run.process.terminate()
    seconds = run.wait(GRACE)
    if not alive or len(pids) != 2:
        raise Failure(f"it ended: {said}")
    return seconds


def different(temp, name, cause):
    """Rank 1 reads a model of its own: nothing is loaded, and the message says what differs."""
    model = os.path.join(ROOT, "configs", "tiny-stories")
    other = tempfile.mkdtemp(dir=temp)
    for path in glob.glob(os.path.join(model, "*")):
        os.symlink(path, os.path.join(other, os.path.basename(path)))
    path = os.path.join(other, name)
    with open(path, "rb") as file:
        data = file.read()
    os.unlink(path)
    with open(path, "wb") as file:
        if name == "config.json":  # a space changes nothing but the text
            file.write(data.replace(b"{", b"{ ", 1))
        else:  # two tensors of one shape change places
            first, second = (f"model.layers.{layer}.mlp.up_proj.weight".encode() for layer in (0, 1))
            data = data.replace(first, b"?" * len(first)).replace(second, first)
            file.write(data.replace(b"?" * len(first), second))
    run = Run(temp, 1, None, ["generate", "--prompt=Once", "--max-new-tokens=5"],
              ["--model", model], ["--model", other])
    seconds = run.wait(GRACE)
    run.check_end(rf"^tprun: the ranks read different {cause} has? ?.*on rank 0 and .* on rank 1$")
    return seconds


def attempt(name, call, temp, more):
    try:
        return call(temp, *more)
    except MpirunStuck as why:
        # Where no rank was left to see to it: rare, and said in the README.
        if not re.search(": (kill|exit|error) at (mpi|connect)$", name):
            raise Failure(f"mpirun stays: {why}") from why
        print(f"note: {name}: mpirun stayed, without any rank; once more", flush=True)
    try:
        return call(temp, *more)
    except MpirunStuck as why:
        raise Failure(f"mpirun stays: {why}") from why


def cpu_cases(everything):
    rng = random.SystemRandom()
    for ranks in (2, 4):
        for phase in PHASES:
            for kind in KINDS:
                every = list(range(ranks))
                some = [rng.choice(every)] if ranks == 2 and kind in ("kill", "hang", "stop") and \
                    (kind != "stop" or phase in ("load", "decode")) else []
                for rank in every if everything else some:
                    yield from injected(ranks, rank, phase, kind)
        for number, what in (signal.SIGKILL, "lost"), (signal.SIGSTOP, "silent"):
            for rank in range(ranks) if everything else [rng.choice(range(ranks))] * (ranks == 2):
                yield from struck(ranks, rank, number, what)
        for kind in ("kill", "exit", "stop") if everything else ("kill",) * (ranks == 4):
            yield f"{ranks} ranks of batch, rank 0: {kind} at decode", batch, (ranks, kind)
    yield "2 ranks: another config.json", different, ("config.json", "models: config.json")
    yield "2 ranks: other weights", different, ("model.safetensors", "weights: the safetensors headers")
    yield "2 ranks: mpirun is killed", orphans, (2,)
    for rank in range(2) if everything else [rng.choice(range(2))]:
        yield f"2 ranks, rank {rank} before MPI: mpirun is killed", orphan_before_mpi, (2, rank)
    yield "2 ranks: all stopped and continued", late_watchdog, ()


def gpu_cases(everything):
    rng = random.SystemRandom()
    for ranks in (ranks for ranks in (2, 4) if ranks <= len(GPUS.before)):
        yield f"{ranks} ranks: no fault", unharmed, (ranks,)
        for phase in PHASES[1:]:
            for kind in KINDS:
                some = [rng.choice(range(ranks))] if (ranks, phase, kind) in ON_GPUS else []
                for rank in range(ranks) if everything else some:
                    yield from injected(ranks, rank, phase, kind)
        drawn = rng.choice(OVER_NCCL)
        for phase, kind in OVER_NCCL:
            for rank in range(ranks) if everything else [rng.choice(range(ranks))] * ((phase, kind) == drawn):
                yield (f"{ranks} ranks, rank {rank}: {kind} at {phase}, over NCCL", inject,
                       (ranks, rank, phase, kind, "nccl"))
        for number, what in (signal.SIGKILL, "lost"), (signal.SIGSTOP, "silent"):
            some = [rng.choice(range(ranks))] if number == signal.SIGKILL else []
            for rank in range(ranks) if everything else some:
                yield from struck(ranks, rank, number, what)


def injected(ranks, rank, phase, kind):
    if phase != "stop" or kind != "error":  # what closes cannot fail
        yield f"{ranks} ranks, rank {rank}: {kind} at {phase}", inject, (ranks, rank, phase, kind)


def struck(ranks, rank, number, what):
    yield f"{ranks} ranks, rank {rank}: {number.name} from outside", strike, (ranks, rank, number, what)


def main():
    global BACKEND, JOBS, GPUS, WATCHDOG, INIT, START
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--only", default="", help="cases whose name has this")
    parser.add_argument("--jobs", type=int, help="runs at a time (3, and 1 on GPUs)")
    options = parser.parse_args()
    if "TPRUN_FAULT" not in subprocess.run(["strings", "-a", TPRUN], capture_output=True,
                                           text=True).stdout:
        print(f"FAIL {TPRUN} is not built with FAULTS=1")
        return 1
    if options.backend == "cuda":  # a context, NCCL and the first kernels need their time
        BACKEND, WATCHDOG, INIT, START, GPUS = "cuda", 3, 6, 20, Gpus()
        if len(GPUS.before) < 2:
            print("SKIP faults on GPUs: it wants two")
            return 0
    JOBS = options.jobs or (1 if GPUS else 3)
    cases = (gpu_cases if GPUS else cpu_cases)(options.all)
    failed = 0
    with tempfile.TemporaryDirectory() as temp, \
            concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        jobs = [(name, pool.submit(attempt, name, call, temp, more)) for name, call, more in cases
                if options.only in name]
        for name, job in jobs:
            try:
                seconds = job.result()
                print(f"PASS {name}", flush=True)
                if options.table:
                    print(f"     {seconds:5.1f} s  {name}", flush=True)
            except Failure as why:
                failed += 1
                print(f"FAIL {name}: {why}", flush=True)
    if GPUS and JOBS > 1:
        try:
            GPUS.check(set())
            print("PASS nothing is left on the GPUs")
        except Failure as why:
            failed += 1
            print(f"FAIL nothing is left on the GPUs: {why}")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
