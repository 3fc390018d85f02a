"""acarun as a user calls it, in a mount or in any other directory."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

from support import process
from support.wait import wait_for


class Acarun:
    """Runs acarun in `folder`. `pool` is where it goes without a mount."""

    def __init__(self, folder, pool, home, **env):
        self.folder = Path(folder)
        self.pool = pool
        self.env = process.environment(HOME=home, ACAFS_CONFIG=os.devnull, XDG_RUNTIME_DIR=pool.directory,
                                       ACAFS_TOKEN=pool.token, **env)

    def __truediv__(self, name):
        return self.folder / name

    def __call__(self, *arguments, **options):
        """It to its end, whatever that is."""
        options.setdefault("cwd", self.folder)
        options.setdefault("env", self.env)
        options.setdefault("check", False)
        done = process.run([process.ACARUN, *arguments], **options)
        said = done.stderr if isinstance(done.stderr, str) else done.stderr.decode(errors="replace")
        assert not process.alarms_in(said), said
        return done

    def script(self, text, name="hello.py"):
        """A script in the folder: its name."""
        (self.folder / name).write_text(text)
        return name

    def output(self, name, kind, binary=False):
        """What the last run left beside the script; None when there is no such file."""
        path = self.folder / f"{name}.{kind}"
        if not path.exists():
            return None
        return path.read_bytes() if binary else path.read_text()

    @contextlib.contextmanager
    def started(self, *arguments, log, **options):
        """It under way, stdout on a pipe, stderr in the file log; killed when the block ends first."""
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("cwd", self.folder)
        it = process.start([process.ACARUN, *arguments], log, env=self.env, **options)
        try:
            yield it
        finally:
            if it.poll() is None:
                it.kill()
            it.wait()
            if it.stdout:
                it.stdout.close()
        assert not process.alarms(log)


def interrupt(running):
    running.send_signal(signal.SIGINT)


def run_folders(pool, session):
    """The names that runs in that session still have there: scratch folders, and their processes."""
    names = {name for name in pool.names(session) if name.startswith("acafs-job")}
    living = pool.run(session, """
import os
def marked(pid):
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return b"ACAFS_JOB=" in file.read()
    except OSError:
        return False
[pid for pid in os.listdir("/proc") if pid.isdigit() and marked(pid)]
""")
    return names, living


def nothing_left(pool, session, deadline=10):
    wait_for(lambda: run_folders(pool, session) == (set(), []), deadline, "the run's traces going")
