"""What batch.py needs of processes and files: jobs of tprun that can be signalled and watched."""
import collections
import json
import os
import shutil
import signal
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TPRUN = os.path.abspath(os.environ.get("TPRUN", os.path.join(ROOT, "build", "tprun")))
CORES = sorted(os.sched_getaffinity(0))
COMPLAINTS = ("Sanitizer", "runtime error", "Segmentation", "Assertion")


class Failure(Exception):
    """Why a case failed."""


class MpirunCrashed(Exception):
    """Open MPI 4.1's mpirun can crash or hang in its own clean-up, when a rank is killed while it connects:
    such a run counts for nothing."""


def expect(condition, message):
    if not condition:
        raise Failure(message)


class World:
    """The environment of all jobs, and the folder that takes whatever they leave."""

    def __init__(self, temp):
        self.temp, self.jobs = temp, []
        self.environment = dict(
            os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
            OMPI_MCA_rmaps_base_oversubscribe="1",
            PRTE_MCA_rmaps_default_mapping_policy=":oversubscribe",
            # What a killed mpirun leaves behind goes with the test's folder.
            OMPI_MCA_orte_tmpdir_base=temp, OMPI_MCA_btl_vader_backing_directory=temp)
        libraries = subprocess.run(["ldd", TPRUN], capture_output=True, text=True, check=True).stdout
        self.sanitized = "libasan" in libraries
        self.limit = 400 if self.sanitized else 100  # seconds; a run that takes longer hangs
        if self.sanitized:  # see tests/cli/common.bash
            keep = os.path.join(temp, "keep_modules.so")
            subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-o", keep,
                            os.path.join(ROOT, "tests", "keep_modules.c")], check=True)
            suppressions = os.path.join(ROOT, "tests", "lsan.supp")
            self.environment.update(
                LD_PRELOAD=keep,
                ASAN_OPTIONS="detect_leaks=1:verify_asan_link_order=0:fast_unwind_on_malloc=0",
                LSAN_OPTIONS=f"suppressions={suppressions}:print_suppressions=0")

    def close(self):
        for job in self.jobs:
            job.kill()
        shutil.rmtree(self.temp, ignore_errors=True)


class Job:
    """A call of tprun on some ranks (1: without mpirun), in a process group of its own. Its processes are
    known by a variable in their environment, so that none escapes, whoever its parent is by now."""

    def __init__(self, world, arguments, ranks=1, stdin=subprocess.DEVNULL, stdout=None, **popen):
        world.jobs.append(self)
        self.world, self.ranks = world, ranks
        self.mark = f"{os.getpid()}.{len(world.jobs)}"
        prefix = os.path.join(world.temp, f"job{len(world.jobs)}")
        self.paths = prefix + ".out", prefix + ".err"
        launcher = ["mpirun", "-np", str(ranks)] if ranks > 1 else []
        if ranks == 1:  # one thread: several on cores that others use too would mostly wait
            popen.setdefault("preexec_fn", lambda: os.sched_setaffinity(
                0, {CORES[len(world.jobs) % len(CORES)]}))
        with open(self.paths[0], "wb") as out, open(self.paths[1], "wb") as err:
            self.process = subprocess.Popen(
                launcher + [TPRUN, *map(str, arguments)], stdin=stdin, stdout=stdout or out,
                stderr=err, start_new_session=True,
                env=dict(world.environment, TPRUN_TEST_JOB=self.mark), **popen)

    def processes(self):
        """Those alive: {pid: rank}, None for mpirun's. A zombie has no environment any more."""
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    names = dict(pair.split(b"=", 1) for pair in file.read().split(b"\0") if b"=" in pair)
            except OSError:
                continue
            if names.get(b"TPRUN_TEST_JOB") == self.mark.encode():
                rank = names.get(b"OMPI_COMM_WORLD_RANK", None if self.ranks > 1 else 0)
                found[int(pid)] = rank if rank is None else int(rank)
        return found

    def rank_pids(self):
        return {rank: pid for pid, rank in self.processes().items() if rank is not None}

    def wait_gone(self, since, limit, what, ranks_only=False):
        """Until none of the processes is left, `limit` seconds after `since` at the latest."""
        while True:
            alive = self.rank_pids() if ranks_only else self.processes()
            took = time.monotonic() - since
            if not alive:
                expect(took <= limit, f"{what}: the last process was gone after {took:.2f} s: {self.said()}")
                return took
            if took > limit + 5:
                self.kill()
                if set(alive.values()) == {None} and self.ranks > 1:
                    raise MpirunCrashed
                ranks = sorted(rank for rank in alive.values() if rank is not None)
                raise Failure(f"{what}: ranks {ranks} are left after {took:.1f} s: {self.said()}")
            self.process.poll()
            time.sleep(0.01)

    def wait(self, limit=None, mpirun_may_crash=False):
        """The exit status; None where mpirun crashed and that does not matter."""
        try:
            status = self.process.wait(limit or self.world.limit)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failure(f"it hangs: {self.process.args}: {self.said()}") from None
        if "mpirun(+0x" in self.stderr():
            if mpirun_may_crash:
                return None
            raise MpirunCrashed
        complaint = [word for word in COMPLAINTS if word in self.stderr()]
        expect(not complaint, f"{complaint}: {self.stderr()[-3000:]}")
        return status

    def kill(self):
        while alive := self.processes():
            for pid in alive:
                send(pid, signal.SIGKILL)
            self.process.poll()

    def stdout(self):
        with open(self.paths[0], encoding="utf-8") as file:
            return file.read()

    def stderr(self):
        with open(self.paths[1], encoding="utf-8", errors="replace") as file:
            return file.read()

    def said(self):
        return " | ".join(self.stderr().strip().splitlines())[-600:]


def send(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def wait_until(condition, what, limit=60):
    end = time.monotonic() + limit
    while not condition():
        expect(time.monotonic() < end, f"{what} did not come within {limit} s")
        time.sleep(0.005)


# ---- lines -------------------------------------------------------------------------------------

def write_lines(path, lines):
    """Objects become JSON, bytes go as they are."""
    with open(path, "wb") as file:
        for line in lines:
            file.write(line if isinstance(line, bytes) else json.dumps(line).encode())
            file.write(b"\n")
    return path


def read_results(path, torn=False):
    """The lines of an output, each known by its id and, if it carries one, its line number. All are
    whole, but for the last where `torn`, and none is there twice."""
    with open(path, "rb") as file:
        *whole, rest = file.read().split(b"\n")
    expect(torn or not rest, f"a torn last line: {rest[-80:]}")
    lines = [json.loads(line) for line in whole]
    keys = [(json.dumps(line["id"]), line.get("line")) for line in lines]
    twice = [key for key, count in collections.Counter(keys).items() if count > 1]
    expect(not twice, f"twice in the output: {twice[:5]}")
    return dict(zip(keys, lines))


def size_of(path):
    return os.path.getsize(path) if os.path.exists(path) else 0


def expect_same(got, expected, what, ties=0):
    """Of all lines; `ties` may differ in what was written."""
    expect(got.keys() == expected.keys(), f"{what}: missing {list(expected.keys() - got.keys())[:5]}, "
                                          f"not asked for {list(got.keys() - expected.keys())[:5]}")
    different = [key for key in got if got[key] != expected[key]]
    shown = "".join(f"\n{got[key]}\n{expected[key]}" for key in different[:2])
    expect(len(different) <= ties, f"{what}: {len(different)} of {len(got)} lines differ:{shown}")
