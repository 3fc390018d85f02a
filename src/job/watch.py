"""Runs in the session by the helper's "call", each time anew: starts a script in a process of its
own, looks after it, ends it, and clears up. main() gives what there is to say, within `length` bytes
of content.

A run's folder, ROOT/acafs-job-*, holds: harness.py, out, err, lock (held while it runs), pid, stop
(asked to end, and why), abandoned; and when it is over: result, images, status.json."""
import base64
import errno
import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time

ROOT = "/mnt/data"
NAME = re.compile(r"acafs-job-[0-9a-f]{16}")
STEP = 0.01  # seconds between looks
STARTING = 20  # seconds that a start may take until there is a lock
SETTLE = 0.02  # seconds for more output to come once there is some


def main(a):
    if not NAME.fullmatch(a["job"]):
        raise ValueError("no name of a job")
    folder = os.path.join(a.get("root", ROOT), a["job"])
    if a["do"] == "start":
        refused = start(folder, a)
        if refused:
            return refused
    elif a["do"] == "stop":
        stop(folder, a["why"])
    elif a["do"] == "kill":
        end(folder, signal.SIGKILL)
    elif a["do"] == "clear":
        clear(folder, a)
        return {"state": "gone"}
    elif a["do"] == "abandon":
        abandon(folder, a)
        return {"state": "gone"}
    return look(folder, a)


def path_in(folder, name):
    return os.path.join(folder, name)


def read(folder, name):
    with open(path_in(folder, name), "rb") as file:
        return file.read()


# --- starting

def start(folder, a):
    """None when it runs; else what there is to say instead."""
    root = os.path.dirname(folder)
    script = path_in(folder, "code") if a["path"] is None else os.path.join(root, a["path"])
    if os.path.isdir(folder):
        return None  # the same call came twice: it runs already, or is about to
    if a["path"] is not None and not os.path.isfile(script):
        return {"state": "missing"}
    source = None
    if a.get("content"):
        source = whole(script, a["content"])
        if source is None:
            return {"state": "replaced"}
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        return None
    read_end, write_end = os.pipe()
    try:
        try:
            trouble = prepare(folder, a, source) or spawn(folder, script, a, write_end)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            os.close(write_end)
        if trouble:
            shutil.rmtree(folder, ignore_errors=True)
            return {"state": "no process", "why": trouble[-500:]}
        wait_for_end(folder, read_end, a["wait"] / 1000)
    finally:
        os.close(read_end)
    a["wait"] = 0
    return None


def whole(script, content):
    """The script's source; None when it is not that one."""
    import hashlib
    try:
        with open(script, "rb") as file:
            source = file.read()
    except OSError:
        return None
    # As script_content() has it: the digest's first 64 bits, the last of them set.
    first = int(hashlib.sha256(source).hexdigest()[:16], 16) | 1
    return source if first == int(content, 16) else None


def prepare(folder, a, source):
    """Puts in the folder what is run, or what the script was when it was looked at."""
    if source is not None:
        with open(path_in(folder, "source"), "wb") as file:
            file.write(source)
    with open(path_in(folder, "harness.py"), "w", encoding="utf-8") as file:
        file.write(a["harness"])
    if a.get("upload"):
        os.rename(upload(folder, a), path_in(folder, "code"))
    elif a["path"] is None:
        with open(path_in(folder, "code"), "wb") as file:
            file.write(base64.b64decode(a["code"]))


def upload(folder, a):
    """The place where long code was uploaded to."""
    if not NAME.fullmatch(a["upload"]):
        raise ValueError("no name of an upload")
    return os.path.join(os.path.dirname(folder), a["upload"])


def spawn(folder, script, a, notice):
    """Starts the harness, which detaches itself; what went wrong, or None."""
    environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1", MPLBACKEND="agg",
                       ACAFS_JOB=os.path.basename(folder))
    for name in ("JPY_PARENT_PID", "JPY_SESSION_NAME", "PYTHONSTARTUP"):
        environment.pop(name, None)
    arguments = [base64.b64decode(each) for each in a["args"]]
    command = [sys.executable or "python3", path_in(folder, "harness.py"), str(notice),
               "%.3f" % a["timeout"], "1" if a["keep"] else "0", a["label"], script, *arguments]
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    out, err = (os.open(path_in(folder, name), flags, 0o666) for name in ("out", "err"))
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=folder,
                                   env=environment, pass_fds=(notice,), start_new_session=True)
        code = process.wait()
    except OSError as error:
        if error.errno == errno.E2BIG:
            raise
        return "%s: %s" % (command[0], error.strerror)
    finally:
        os.close(out)
        os.close(err)
    if code:
        said = read(folder, "err").decode("utf-8", "replace").strip()
        return said.splitlines()[-1] if said else "%s ended with %d" % (command[0], code)
    return None


def wait_for_end(folder, notice, seconds):
    """Until the run is over; not long when it has put something out."""
    until = time.monotonic() + seconds
    while True:
        left = until - time.monotonic()
        if left <= 0 or select.select([notice], [], [], min(left, SETTLE))[0]:
            return
        if any(size(folder, name) for name in ("out", "err")):
            until = min(until, time.monotonic() + SETTLE)


# --- looking

def look(folder, a):
    state = wait(folder, a)
    answer = {"state": state}
    if state == "gone":
        return answer
    left = a["length"]
    for name in ("out", "err"):
        answer[name] = piece(path_in(folder, name), a[name], left)
        left -= answer[name]["length"]
    if state == "over":
        answer["status"] = json.loads(read(folder, "status.json"))
        result = path_in(folder, "result")
        if os.path.getsize(result) <= left:
            answer["result"] = base64.b64encode(read(folder, "result")).decode()
    return answer


def wait(folder, a):
    """How the run is, once there is something new to say or `wait` milliseconds have passed."""
    until = time.monotonic() + a["wait"] / 1000
    while True:
        state = state_of(folder)
        if state != "running" or time.monotonic() >= until:
            return state
        if any(size(folder, name) > a[name] for name in ("out", "err")):
            until = min(until, time.monotonic() + STEP)
        time.sleep(STEP)


def size(folder, name):
    try:
        return os.path.getsize(path_in(folder, name))
    except OSError:
        return 0


def state_of(folder):
    if not os.path.isdir(folder):
        return "gone"
    if not os.path.exists(path_in(folder, "status.json")) and locked(folder):
        return "running"
    # It may have ended between the two looks.
    if os.path.exists(path_in(folder, "status.json")):
        return "over"
    return "running" if starting(folder) else "died"


def starting(folder):
    """Whether it is only just being started, by another call, and has no lock yet."""
    try:
        return not os.path.exists(path_in(folder, "lock")) and time.time() - os.stat(folder).st_ctime < STARTING
    except OSError:
        return False


def locked(folder):
    """Whether the run's supervisor lives."""
    try:
        lock = os.open(path_in(folder, "lock"), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def piece(path, offset, length):
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(offset)
            data = file.read(max(0, min(length, size - offset)))
    except OSError:
        return {"size": offset, "length": 0, "data": ""}
    return {"size": size, "length": len(data), "data": base64.b64encode(data).decode()}


# --- ending

def end(folder, number):
    try:
        pid = int(read(folder, "pid"))
    except (OSError, ValueError):
        return
    if pid > 1 and locked(folder):
        try:
            os.kill(pid, number)
        except OSError:
            pass


def stop(folder, why):
    """The supervisor sees `stop` at the signal, or as soon as it watches at all. In a kernel of the
    session the signal is the interrupt itself."""
    if not os.path.isdir(folder):
        return
    with open(path_in(folder, "stop"), "w") as file:
        file.write(why)
    has_supervisor = os.path.exists(path_in(folder, "harness.py"))
    end(folder, signal.SIGTERM if has_supervisor else signal.SIGINT)


def clear(folder, a):
    if not os.path.exists(path_in(folder, "status.json")):
        kill_left(folder)
    if a.get("upload"):
        try:
            os.unlink(upload(folder, a))
        except OSError:
            pass  # it became the code that was run
    shutil.rmtree(folder, ignore_errors=True)


def kill_left(folder):
    """What nobody looked after to its end: processes with the mark of the run."""
    mark = b"ACAFS_JOB=" + os.path.basename(folder).encode()
    for _ in range(20):
        found = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and marked(pid, mark)]
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        if not found:
            return
        time.sleep(STEP)  # for those that were forking


def marked(pid, mark):
    try:
        with open("/proc/%s/environ" % pid, "rb") as file:
            return mark in file.read().split(b"\0")
    except OSError:
        return False


def abandon(folder, a):
    if os.path.isdir(folder):
        with open(path_in(folder, "abandoned"), "w"):
            pass
        stop(folder, "canceled")
    if not locked(folder):
        clear(folder, a)
