"""Starting programs so that none outlives the tests."""

import ctypes
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from pathlib import Path

BUILD = Path(os.environ.get("ACAFS_BUILD") or Path(__file__).resolve().parents[2] / "build").resolve()
ACAFS = BUILD / "src/acafs/acafs"
ACARUN = BUILD / "src/acarun/acarun"
ACAPOOL = BUILD / "src/acapool/acapool"

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1

# What a sanitizer or a failed assertion leaves in a program's stderr.
_ALARMS = re.compile(
    r"ERROR: \w+Sanitizer|runtime error:|SUMMARY: \w+Sanitizer|Assertion .* failed|stack smashing|"
    r"double free|corrupted size|free\(\): invalid|malloc\(\): ")


def sanitized():
    """Whether the programs under test are a sanitizer build (slower, bigger)."""
    with open(ACAFS, "rb") as program:
        return b"__asan_init" in program.read()


def _die_with_tests():
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def environment(**changes):
    """This process's environment without anything that would steer acafs, plus changes."""
    env = {key: value for key, value in os.environ.items()
           if not key.startswith(("ACAFS_", "AZURE_", "IDENTITY_", "MSI_", "XDG_"))
           and key.lower() not in ("http_proxy", "https_proxy", "all_proxy", "no_proxy")}
    env["LC_ALL"] = "C.UTF-8"
    env["PATH"] = f"{ACAPOOL.parent}:{env.get('PATH', '/usr/bin:/bin')}"  # for `acafs local`
    env["ASAN_OPTIONS"] = "detect_leaks=1:abort_on_error=0:exitcode=99"
    env["UBSAN_OPTIONS"] = "print_stacktrace=1:halt_on_error=0"
    env.update({key: str(value) for key, value in changes.items() if value is not None})
    for key, value in changes.items():
        if value is None:
            env.pop(key, None)
    return env


def start(arguments, log, **options):
    """Popen with stdout and stderr going to the file `log`; killed when the tests end."""
    with open(log, "ab") as sink:
        return subprocess.Popen([os.fspath(part) for part in arguments], stdin=subprocess.DEVNULL,
                                stdout=options.pop("stdout", sink), stderr=sink,
                                preexec_fn=_die_with_tests, **options)


def alarms(log):
    """The lines of a log that no healthy program writes."""
    return alarms_in(Path(log).read_text(errors="replace") if os.path.exists(log) else "")


def alarms_in(text):
    return [line for line in text.splitlines() if _ALARMS.search(line)]


def run(arguments, *, check=True, timeout=60, text=True, **options):
    """subprocess.run that captures output, and whose failure shows it."""
    if not isinstance(arguments, str):
        arguments = [os.fspath(part) for part in arguments]
    options.setdefault("shell", isinstance(arguments, str))
    if options["shell"]:
        options.setdefault("executable", "/bin/bash")
    options.setdefault("stdin", subprocess.DEVNULL if "input" not in options else None)
    if "input" in options:
        options.pop("stdin")
    done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=text,
                          timeout=timeout, errors="surrogateescape" if text else None, **options)
    if check and done.returncode != 0:
        raise AssertionError(f"{arguments} ended with {done.returncode}\n"
                             f"--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}")
    return done


def peak_memory(pid):
    """The most resident memory that process ever had (VmHWM), in bytes."""
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    raise AssertionError(f"no VmHWM of process {pid}")


class Terminal:
    """A program whose stderr is a terminal of 80 columns; .said() is what it wrote there so far."""

    def __init__(self, arguments, **options):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen([os.fspath(part) for part in arguments], stdin=subprocess.DEVNULL, stderr=slave,
                                        preexec_fn=_die_with_tests, **{"stdout": subprocess.DEVNULL, **options})
        os.close(slave)
        os.set_blocking(self.master, False)
        self.text = b""

    def said(self):
        try:
            while data := os.read(self.master, 65536):
                self.text += data
        except OSError:  # nothing more for now, or for ever
            pass
        return self.text.decode(errors="replace")

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.master)
