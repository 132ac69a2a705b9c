#!/usr/bin/env python3
"""No hang, ever: a rank that is killed, stopped, hangs, exits or fails, in each phase of a run, ends the
run in time, and the message names it.

    faults.py [--all] [--table]      TPRUN names a build with FAULTS=1

Without --all a subset that takes less than a minute. --table prints how long each run went on after the
fault. Faults come from within (TPRUN_FAULT, launcher/fault.h), and as signals from outside."""
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
WATCHDOG, INIT = 2, 4
GRACE = 10  # seconds for every process to be gone, after the fault was found
NAMES = {"connect": "connecting the ranks", "load": "loading weights", "prefill": "in prefill",
         "decode": "in decode", "stop": "closing"}
PHASES = ["mpi", *NAMES]
KINDS = ["kill", "stop", "hang", "exit", "error"]


class Failure(Exception):
    pass


class MpirunStuck(Exception):
    """Open MPI 4.1's mpirun is left alone, all ranks having ended: rare, and said."""


class Run:
    """tprun under mpirun, whose ranks are found by a mark in their environment."""

    def __init__(self, temp, ranks, fault, arguments, *models):
        self.mark = f"{os.getpid()}.{random.getrandbits(60):x}"
        environment = dict(
            os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
            OMPI_MCA_rmaps_base_oversubscribe="1", OMPI_MCA_orte_tmpdir_base=temp, OMP_NUM_THREADS="1",
            TPRUN_TEST_JOB=self.mark)
        environment.pop("TPRUN_FAULT", None)
        if fault:
            environment["TPRUN_FAULT"] = fault
        self.err = tempfile.TemporaryFile(dir=temp)
        self.job = None  # Open MPI's number of it
        self.start = time.monotonic()
        command = ["mpirun"]
        for model in models or [["--model", os.path.join(ROOT, "configs", "tiny-stories")]]:
            command += [":"] * (len(command) > 1)
            command += ["-np", str(ranks), TPRUN, *arguments, *model, "--backend", "cpu", "--quiet",
                        "--watchdog", str(WATCHDOG), "--init-timeout", str(INIT)]
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
        if pattern and len(lines) != 1 and "seen by rank" not in lines[0]:
            raise Failure(f"{len(lines)} messages: {said}")
        left = glob.glob(f"/dev/shm/*{self.job:x}*") if self.job else []
        left += [path for path in glob.glob("/dev/shm/*") if "tprun" in path]
        if left:
            raise Failure(f"left behind: {left}")


def found_after(phase, kind):
    """Seconds that finding the fault may take."""
    if kind in ("kill", "exit", "error"):
        return 0
    return INIT if phase == "mpi" or (phase == "connect" and kind == "hang") else WATCHDOG


def pattern_of(rank, phase, kind):
    who = rf"rank {rank} \(host \S+\)"
    if kind == "error":
        return rf"^tprun: {who}: a fault was asked for$"
    if phase == "mpi":  # before it is up mpirun alone knows of a rank's end
        return r"joining the other ranks takes more than 4 s" if kind in ("hang", "stop") else None
    if kind == "hang" and phase == "connect":
        return rf"connecting the ranks takes more than 4 s \(--init-timeout\), not arrived: {who};"
    what = {"kill": "lost", "exit": "lost", "stop": "silent", "hang": "stuck"}[kind]
    return rf"^tprun: {what}[^:]*: {who} {NAMES[phase]}"


def inject(temp, ranks, rank, phase, kind):
    prompt = [f"--prompt={random.choice(['Once', 'The big dog', 'Lily and Tom went out'])}"]
    run = Run(temp, ranks, f"{rank}:{phase}:{kind}", ["generate", *prompt, "--max-new-tokens", "20"])
    seconds = run.wait(found_after(phase, kind) + GRACE + 5)  # 5: the start, on a busy machine
    run.check_end(pattern_of(rank, phase, kind))
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
    run.check_end(rf"^tprun: {what}[^:]*: rank {rank} \(host \S+\) ")
    return seconds


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
    except MpirunStuck:
        print(f"note: {name}: mpirun stayed, without any rank; once more", flush=True)
    try:
        return call(temp, *more)
    except MpirunStuck as why:
        raise Failure(f"mpirun stays: {why}") from why


def cases(everything):
    rng = random.SystemRandom()
    for ranks in (2, 4):
        for phase in PHASES:
            for kind in KINDS:
                if phase == "stop" and kind == "error":
                    continue  # what closes cannot fail
                every = list(range(ranks))
                some = [rng.choice(every)] if ranks == 2 and kind in ("kill", "hang", "stop") and \
                    (kind != "stop" or phase in ("load", "decode")) else []
                for rank in every if everything else some:
                    yield f"{ranks} ranks, rank {rank}: {kind} at {phase}", inject, \
                        (ranks, rank, phase, kind)
        for number, what in (signal.SIGKILL, "lost"), (signal.SIGSTOP, "silent"):
            for rank in range(ranks) if everything else [rng.choice(range(ranks))] * (ranks == 2):
                yield f"{ranks} ranks, rank {rank}: {number.name} from outside", strike, \
                    (ranks, rank, number, what)
    yield "2 ranks: another config.json", different, ("config.json", "models: config.json")
    yield "2 ranks: other weights", different, ("model.safetensors", "weights: the safetensors headers")
    yield "2 ranks: all stopped and continued", late_watchdog, ()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--only", default="", help="cases whose name has this")
    options = parser.parse_args()
    if "TPRUN_FAULT" not in subprocess.run(["strings", "-a", TPRUN], capture_output=True,
                                           text=True).stdout:
        print(f"FAIL {TPRUN} is not built with FAULTS=1")
        return 1
    failed = 0
    with tempfile.TemporaryDirectory() as temp, concurrent.futures.ThreadPoolExecutor(3) as pool:
        jobs = [(name, pool.submit(attempt, name, call, temp, more)) for name, call, more in cases(options.all)
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
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
