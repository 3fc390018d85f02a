"""A mounted session: acafs in the foreground, its log, and its end."""

import json
import os
import signal
import subprocess
from pathlib import Path

from support import process
from support.wait import wait_for


def mounted(path):
    """The file system type at that mount point, or None."""
    wanted = os.fspath(path)
    with open("/proc/self/mounts") as table:
        for line in table:
            fields = line.split()
            point = fields[1].encode().decode("unicode_escape").encode("latin-1").decode()
            if point == wanted:
                return fields[2]
    return None


class Mount:
    """acafs -f at `path`. Use it as a Path: mount / "a.txt"."""

    def __init__(self, path, source, *, options=(), env=None, log, cache=None):
        self.path = Path(path)
        self.source = source
        self.options = list(options)
        self.env = env if env is not None else process.environment()
        self.log = Path(log)
        if cache is not None:
            self.options.append(f"cache-dir={cache}")
        self.process = None
        self.killed = False

    def __truediv__(self, name):
        return self.path / name

    def __fspath__(self):
        return os.fspath(self.path)

    def __str__(self):
        return str(self.path)

    @property
    def pid(self):
        return self.process.pid

    def command(self):
        command = [process.ACAFS] + ([self.source] if self.source else []) + [self.path, "-f"]
        if self.options:
            command += ["-o", ",".join(self.options)]
        return command

    def start(self, deadline=20):
        """Mounts, and returns when the mount is there."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.process = process.start(self.command(), self.log, env=self.env)
        wait_for(lambda: mounted(self.path) or self.process.poll() is not None, deadline, "mounting")
        assert self.process.poll() is None, \
            f"acafs ended with {self.process.returncode} instead of mounting:\n{self.said()}"
        return self

    def said(self):
        """All it wrote to stdout and stderr so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def status(self):
        return json.loads((self.path / ".acafs/status").read_text())

    def control(self, command):
        """One command in a conversation of its own; the reply as a value."""
        handle = os.open(self.path / ".acafs/control", os.O_RDWR)
        try:
            os.write(handle, command.encode() + b"\n")
            reply = b""
            while piece := os.read(handle, 65536):
                reply += piece
        finally:
            os.close(handle)
        return json.loads(reply)

    def sync(self):
        """Until everything written here is in the session."""
        with open(self.path / ".acafs/control", "w") as control:
            control.write("sync\n")

    def peak_memory(self):
        return process.peak_memory(self.pid)

    def unmount(self, how="fusermount3", deadline=30):
        """Ends the mount the given way; the daemon's exit status (deadline None: not waited for)."""
        if how == "fusermount3":
            process.run(["fusermount3", "-u", self.path])
        elif how == "umount":
            process.run(["umount", self.path])
        elif how == "lazily":
            process.run(["fusermount3", "-u", "-z", self.path])
        else:
            os.kill(self.pid, getattr(signal, how))
        if deadline is None:
            return None
        try:
            return self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"acafs still runs {deadline} s after {how}:\n{self.said()}") from None

    def kill(self):
        """As a power cut would: no goodbye. The mount point is freed."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._free()
        self.killed = True  # another may be mounted there by now

    def _free(self):
        # As root umount needs no help from libfuse; as a user fusermount3 it is.
        for command in (["umount", "-l"], ["fusermount3", "-u", "-z"]):
            if not mounted(self.path):
                return
            subprocess.run(command + [os.fspath(self.path)], stderr=subprocess.DEVNULL, check=False)

    def running(self):
        return self.process is not None and self.process.poll() is None

    def finish(self):
        """Unmounts what is still mounted and insists on a clean end."""
        code = 0
        if self.running():
            try:
                # The kernel may still be closing what a test has just closed.
                wait_for(lambda: not mounted(self.path) or not subprocess.run(
                    ["fusermount3", "-u", os.fspath(self.path)], stderr=subprocess.DEVNULL, check=False).returncode,
                         30, "unmounting")
                code = self.process.wait(30)
            except (AssertionError, subprocess.TimeoutExpired):
                self.kill()
                raise
        if not self.killed:
            self._free()
        found = process.alarms(self.log)
        assert not found, f"in the log of acafs: {found}\n{self.said()}"
        assert code == 0, f"acafs ended with {code} after unmounting:\n{self.said()}"
