"""Cases of batch.py: jobs that are killed, asked to stop, or run out of disk, and go on later."""
import json
import os
import resource
import signal
import time

from batch_case import TINY, Prompts, case
from batch_job import Job, expect, expect_same, read_results, send, size_of, wait_until, write_lines

def late(run):
    """A process may have to wait for a core that others use; sanitized ones look for leaks last."""
    return 2 if run.short else 0.25


class Interrupted:
    """An output at which jobs are interrupted and go on, until it equals that of a job that none
    disturbed; then it begins anew."""

    def __init__(self, run, tp, lines=250):
        self.run, self.tp, self.output = run, tp, run.path("interrupted.jsonl")
        self.input = write_lines(run.path("work.jsonl"),
                                 Prompts(run.rng).mixed(30 if run.short else lines, 0.1))
        start = time.monotonic()
        self.expected, summary = run.batch(self.input, "--tp", tp, ranks=tp)
        self.seconds = summary["seconds"]
        self.start_up = time.monotonic() - start - self.seconds
        with open(self.input, "rb") as file:
            count = file.read().count(b"\n")
        expect(len(self.expected) == count, f"{len(self.expected)} results of {count} lines")
        self.had = 0

    def start(self, ranks):
        if self.had == len(self.expected):
            os.remove(self.output)
            self.had = 0
        return self.run.start(self.input, self.output, "--tp", self.tp, "--json", ranks=ranks)

    def ranks(self):
        return self.tp * self.run.rng.randint(1, 4 // self.tp)

    def look(self, what, torn=False):
        """Every line is that of the undisturbed job, and none that was there is lost."""
        got = read_results(self.output, torn) if os.path.exists(self.output) else {}
        expect_same(got, {key: self.expected.get(key) for key in got}, what)
        expect(len(got) >= self.had, f"{what}: {self.had} lines have become {len(got)}")
        self.had = len(got)

    def finish(self):
        job = self.start(self.ranks())
        expect(job.wait() == 0, job.said())
        self.look("at the end")
        expect(self.had == len(self.expected), f"{self.had} of {len(self.expected)} lines at the end")


def kill(job, rng):
    """SIGKILL for one of the ranks, mpirun, its process group, or all at once."""
    processes = job.processes()
    ranks = [pid for pid, rank in processes.items() if rank is not None]
    victims = [[job.process.pid], list(processes)] + [[pid] for pid in ranks]
    if rng.random() < 0.2:
        os.killpg(job.process.pid, signal.SIGKILL)
        return
    for pid in rng.choice(victims):
        send(pid, signal.SIGKILL)


@case(("tensor parallel", 2, 10), ("replicas", 1, 10), short=1)
def killed_at_any_moment(run, tp, times):
    work = Interrupted(run, tp)
    kills = 0
    while kills < (3 if run.short else times):
        job = work.start(work.ranks())
        time.sleep(run.rng.uniform(0, work.start_up + work.seconds / 4))
        if job.process.poll() is None:
            kill(job, run.rng)
            job.wait_gone(time.monotonic(), 15, f"SIGKILL number {kills}")
            work.look(f"after SIGKILL number {kills}", torn=True)
            kills += 1
        else:
            expect(job.process.returncode == 0, job.said())
            work.look("undisturbed")
    work.finish()


def stopped(job, how, rng):
    """Signals a job as `how` says: who gets SIGUSR1 or SIGTERM. The time of the last signal. A busy machine may
    have let the job end before."""
    number = signal.SIGTERM if "SIGTERM" in how else signal.SIGUSR1
    pids = list(job.rank_pids().values())
    if how == "Slurm":  # its warning to all ranks, then the end
        for pid in pids:
            send(pid, signal.SIGUSR1)
        time.sleep(rng.uniform(0, 0.4))
        for pid in pids:
            send(pid, signal.SIGTERM)
    else:
        send(job.process.pid if "mpirun" in how or not pids else rng.choice(pids), number)
    return time.monotonic()


# How long the ranks may take: mpirun itself sends SIGTERM after 1 s and SIGKILL 1 s later.
SIGNALS = [("SIGTERM to a rank", 1), ("SIGUSR1 to a rank", 5), ("SIGUSR1 to mpirun", 5),
           ("SIGTERM to mpirun", 2), ("Slurm", 1), ("SIGTERM alone", 1), ("SIGUSR1 alone", 5)]


@case(("tensor parallel", 2), ("replicas", 1), short=1)
def stopped_on_request(run, tp):
    work = Interrupted(run, tp)
    for how, limit in SIGNALS:
        if "alone" in how and tp > 1:
            continue
        ranks = 1 if "alone" in how else max(2, work.ranks())
        job = work.start(ranks)
        before = size_of(work.output)
        wait_until(lambda: size_of(work.output) > before or job.process.poll() is not None,
                   f"{how}: a line")
        time.sleep(run.rng.uniform(0, work.seconds / 20))
        signalled = stopped(job, how, run.rng)
        job.wait_gone(signalled, limit + late(run), how, ranks_only=True)
        status = job.wait(mpirun_may_crash=True)
        work.look(how)
        done = status == 0 and work.had == len(work.expected)  # the signal came too late to matter
        expect(status in (3, None) or done or how == "SIGTERM to mpirun",
               f"{how}: status {status}: {job.said()}")
        if status == 3:
            expect("start the same command again" in job.stderr(), f"{how}: {job.said()}")
        if status == 3 and "holds" in job.stderr():  # not the deadline's message
            expect(f"holds {work.had} lines" in job.stderr(), f"{how}: {work.had}: {job.said()}")
            expect(json.loads(job.stdout())["stopped"] is True, f"{how}: {job.stdout()}")
    work.finish()


@case(("SIGUSR1", signal.SIGUSR1, 5, False), ("SIGTERM", signal.SIGTERM, 1, False),
      ("SIGTERM beside a rank that hangs", signal.SIGTERM, 1, True), short=False)
def stopped_in_long_completions(run, number, limit, hang):
    """More than can be finished in time; and ranks that wait for one which does not answer."""
    lines = [{"id": i, "prompt": "Once", "max_new_tokens": 900, "ignore_eos": True} for i in range(64)]
    lines.append({"id": "short", "prompt": "Once", "max_new_tokens": 20, "ignore_eos": True})
    source = write_lines(run.path("in"), lines[::-1])
    job = run.start(source, run.path("out"), "--max-sequences", 64, "--json", ranks=3)
    wait_until(lambda: size_of(run.path("out")), "the short completion")
    pids = job.rank_pids()
    hanging, signalled = (pids[1], pids[0]) if hang else (None, run.rng.choice(list(pids.values())))
    if hang:
        send(hanging, signal.SIGSTOP)
    send(signalled, number)
    start = time.monotonic()
    while signalled in job.rank_pids().values():
        expect(time.monotonic() < start + limit + late(run), f"it is there after {limit} s")
        time.sleep(0.01)
    job.wait_gone(start, limit + late(run) + (3 if hang else 0), "all ranks", ranks_only=True)
    expect(job.wait() == 3, job.said())
    expect("start the same command again" in job.stderr(), job.said())
    expect('"short"' in str(read_results(run.path("out")).keys()), "the finished line is lost")


@case(short=False)
def stopped_while_starting(run):
    """Before the handlers are there a signal ends the process as any other. (One to mpirun that comes
    before it has started the ranks may never reach them: that is not ours.)"""
    work = Interrupted(run, 1, lines=60)
    for number, limit in 3 * [(signal.SIGUSR1, 5), (signal.SIGTERM, 2)]:
        for ranks in 1, run.rng.randint(2, 3):
            job = work.start(ranks)
            wait_until(job.rank_pids, "a rank")
            time.sleep(run.rng.uniform(0, work.start_up))
            pid = run.rng.choice(list(job.rank_pids().values()) or [job.process.pid])
            send(pid, number)
            job.wait_gone(time.monotonic(), limit + late(run), f"signal {number} to {ranks} ranks", ranks_only=True)
            status = job.wait(mpirun_may_crash=True)
            # 0: it was through already.
            expect(status in (0, 3, -number, 128 + number, None),
                   f"signal {number} to one of {ranks} ranks: status {status}: {job.said()}")
            work.look(f"signal {number} to one of {ranks} ranks")
    work.finish()


@case()
def torn_last_line(run):
    """Cut by hand, anywhere in a line: within a character, before the newline, behind one byte."""
    work = Interrupted(run, 2, lines=60)
    work.finish()
    with open(work.output, "rb") as file:
        whole = file.read()
    starts = [0] + [i + 1 for i, byte in enumerate(whole) if byte == 10]
    cuts = [len(whole) - 1, run.rng.randint(starts[-6], len(whole) - 1)]
    if not run.short:
        cuts += [1, starts[1] - 1] + [run.rng.randint(starts[-6], len(whole) - 1) for _ in range(3)]
    for at in cuts:
        with open(work.output, "wb") as file:
            file.write(whole[:at])
        work.had = 0
        job = work.start(2)
        expect(job.wait() == 0, f"cut at {at} of {len(whole)}: {job.said()}")
        work.look(f"cut at {at} of {len(whole)}")
        expect(work.had == len(work.expected), f"cut at {at}: {work.had} lines")
        expect((f"torn last line of {at - max(s for s in starts if s <= at)} bytes" in job.stderr()) or
               at in starts, f"cut at {at}: {job.said()}")


@case(("1 rank", 1, 1), ("2 replicas", 2, 1), ("2 ranks", 2, 2), short=False)
def full_disk(run, ranks, tp):
    """The file may not grow beyond some lines: they stay whole, and the rest comes afterwards."""
    work = Interrupted(run, tp)
    job = Job(run.world, ["batch", "--backend", "cpu", "--model", TINY, "--tp", tp, "--quiet",
                          "--input", work.input, "--output", work.output], ranks,
              restore_signals=False)  # Python ignores SIGXFSZ, and so does the job then
    wait_until(lambda: size_of(work.output) or job.process.poll() is not None, "a line")
    # Standard error is a file, too, and is to hold the message.
    most = max(1000, size_of(work.output) + run.rng.randint(1, 2000))
    resource.prlimit(job.rank_pids()[0], resource.RLIMIT_FSIZE, (most, most))
    run.refused(job, 1, work.output, "File too large")
    work.look("after the disk was full")
    expect(0 < work.had < len(work.expected) and size_of(work.output) <= most, f"{work.had} lines")
    work.finish()
