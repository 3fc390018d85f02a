"""The work that tests/bench has done: each row on a mount by system calls, with curl by its options.

A row is a function of the contestant; it measures with Watch and returns {measurement: value}. What
it read or wrote is checked after the clock stopped."""

import hashlib
import json
import os
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support import filler, process
from support.contestants import Acafs, Curl
from support.pool import VERSION

KIB4, MB100 = 4096, 100_000_000
BLOCK = 1 << 20
READERS = 16
DROP_CACHES = Path("/proc/sys/vm/drop_caches")

# Folders that the server has from the start, by the rows that need them.
FOLDERS = {
    "one": [("one", 200, KIB4)],
    "many": [("many", 200, KIB4)],
    "big": [("big", 1, MB100)],
    "warm": [("big", 1, MB100)],
    "stat": [("names", 1000, 10)],
    "save": [("save", 20, KIB4)],
}


class Watch:
    def __init__(self):
        self.begin = time.monotonic()

    def __call__(self):
        return time.monotonic() - self.begin


def check_pieces(pieces, folder, count, size):
    whole = hashlib.sha256()
    for piece in pieces:
        whole.update(piece)
    assert whole.hexdigest() == filler.digest(folder, count, size), f"{folder}: wrong content"


def check_found(contestant, folder, count, size):
    found = contestant.found(folder)
    assert found == [count, filler.digest(folder, count, size)], f"{folder}: {found[0]} files, or wrong content"


def contents(folder, count, size):
    return [(name, b"".join(filler.blocks(folder, name, size))) for name in filler.names(count)]


# --- on a directory

def ls(contestant):
    """Files that appeared since the mount last looked, so that nothing of them is at hand."""
    contestant.fill("listed", 1000, 10)
    time.sleep(contestant.forgets_after)
    watch = Watch()
    done = process.run(["ls", "-l", contestant.root / "listed"])
    seconds = watch()
    assert len(done.stdout.splitlines()) == 1001
    return {"ls": seconds}


def read_file(path):
    with open(path, "rb", buffering=0) as file:
        return file.read()


def one(contestant):
    folder = contestant.root / "one"
    watch = Watch()
    pieces = [read_file(folder / name) for name in sorted(os.listdir(folder))]
    seconds = watch()
    check_pieces(pieces, "one", 200, KIB4)
    return {"one": seconds}


def many(contestant):
    folder = contestant.root / "many"
    with ThreadPoolExecutor(READERS) as readers:
        list(readers.map(len, [b""] * READERS))  # the threads are there
        watch = Watch()
        pieces = list(readers.map(lambda name: read_file(folder / name), sorted(os.listdir(folder))))
        seconds = watch()
    check_pieces(pieces, "many", 200, KIB4)
    return {"many": seconds}


def write_all(contestant, folder, files):
    place = contestant.root / folder
    for name, content in files:
        with open(place / name, "wb", buffering=0) as file:
            view = memoryview(content)
            for at in range(0, len(content), BLOCK):
                file.write(view[at:at + BLOCK])


def write(contestant, folder="written", count=200, size=KIB4):
    (contestant.root / folder).mkdir()
    files = contents(folder, count, size)
    watch = Watch()
    write_all(contestant, folder, files)
    contestant.drain(folder, count, size)
    seconds = watch()
    check_found(contestant, folder, count, size)
    return {"write": seconds}


def read_timed(path, buffer):
    """(seconds to the first byte, to the last)."""
    at, view, watch = 0, memoryview(buffer), Watch()
    with open(path, "rb", buffering=0) as file:
        at = file.readinto(view[:1])
        first = watch()
        while n := file.readinto(view[at:at + BLOCK]):
            at += n
    seconds = watch()
    assert at == len(buffer)
    return first, seconds


def big(contestant):
    buffer = bytearray(MB100)
    first, seconds = read_timed(contestant.root / "big/f0000", buffer)
    check_pieces([buffer], "big", 1, MB100)
    return {"big first": first, "big": seconds}


def warm(contestant):
    buffer = bytearray(MB100)
    path = contestant.root / "big/f0000"
    read_timed(path, buffer)
    result = {"warm": read_timed(path, buffer)[1]}
    if os.access(DROP_CACHES, os.W_OK):
        os.sync()
        DROP_CACHES.write_text("1")
        result["warm dropped"] = read_timed(path, buffer)[1]
    check_pieces([buffer], "big", 1, MB100)
    return result


def send(contestant):
    return {"send": write(contestant, "sent", 1, MB100)["write"]}


def stat(contestant):
    folder = contestant.root / "names"
    paths = [os.fspath(folder / name) for name in sorted(os.listdir(folder))]
    assert all(os.stat(path).st_size == 10 for path in paths)
    watch = Watch()
    for _ in range(10):
        for path in paths:
            os.stat(path)
    return {"stat": watch()}


def save(contestant):
    """As an editor does: a new file beside, then over the old one."""
    folder = contestant.root / "save"
    files = contents("saved", 20, KIB4)
    watch = Watch()
    for name, content in files:
        (folder / f".{name}.tmp").write_bytes(content)
        os.replace(folder / f".{name}.tmp", folder / name)
    contestant.drain_saved(files)
    seconds = watch()
    assert contestant.found("save") == [20, filler.digest("saved", 20, KIB4)]
    return {"save": seconds}


def memory(contestant):
    """The most that its processes took since they began, while 100 MB came and went before this row."""
    return {"memory": sum(map(process.peak_memory, contestant.pids)) / 1e6}


def cpu_seconds(pids):
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def idle(contestant, seconds=3):
    time.sleep(1)
    before = cpu_seconds(contestant.pids)
    time.sleep(seconds)
    return {"idle": 100 * (cpu_seconds(contestant.pids) - before) / seconds}


# --- by curl

def curl_ls(c):
    c.fill("listed", 1000, 10)
    watch = Watch()
    text = c.curl([[("url", c.url("files", "listed"))]])
    seconds = watch()
    assert text.count("lastModifiedAt") == 1000
    return {"ls": seconds}


def curl_read(c, folder, *options):
    place = c.target(folder)
    transfers = [[pair for name in filler.names(200) for pair in
                  (("url", c.url(f"files/{name}/content", folder)), ("output", place / name))]]
    watch = Watch()
    c.curl(transfers, *options)
    seconds = watch()
    check_pieces((read_file(place / name) for name in filler.names(200)), folder, 200, KIB4)
    return {folder: seconds}


def curl_one(c):
    return curl_read(c, "one")


def curl_many(c):
    return curl_read(c, "many", "--parallel", "--parallel-max", str(READERS))


def curl_send(c, folder, count, size, target=None):
    place, target = c.target(folder), target or folder
    filler.fill(place.parent, folder, count, size)
    transfers = [[("form", f"file=@{place}/{name};type=application/octet-stream"),
                  ("output", place / f"{name}.answer"), ("url", c.url("files", target))]
                 for name in filler.names(count)]
    watch = Watch()
    c.curl(transfers, "--parallel", "--parallel-max", str(READERS))
    seconds = watch()
    assert c.found(target) == [count, filler.digest(folder, count, size)]
    return seconds


def curl_write(c):
    return {"write": curl_send(c, "written", 200, KIB4)}


def curl_sent(c):
    return {"send": curl_send(c, "sent", 1, MB100)}


def curl_save(c):
    return {"save": curl_send(c, "saved", 20, KIB4, "save")}


def curl_big(c):
    place = c.target("big") / "f0000"
    text = c.curl([[("url", c.url("files/f0000/content", "big")), ("output", place)]],
                  "-w", "%{time_starttransfer} %{time_total}")
    first, seconds = map(float, text.split())
    check_pieces([read_file(place)], "big", 1, MB100)
    return {"big first": first, "big": seconds}


def curl_memory(c):
    """Of the curl that fetches 100 MB."""
    place = c.target("memory") / "f0000"
    with subprocess.Popen(["curl", "-q", "-sS", "-H", f"Authorization: Bearer {c.pool.token}", "-o", place,
                           c.url("files/f0000/content", "big")]) as child:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return {"memory": usage.ru_maxrss * 1024 / 1e6}


def median_of(times, call):
    """Of so many processes, one after another, after one that does not count."""
    taken = []
    for _ in range(times + 1):
        watch = Watch()
        answer = call()
        taken.append(watch())
        assert answer in ("1\n", 1), answer
    return statistics.median(taken[1:])


def run(contestant):
    """The same code run again and again in one session, by acarun without a mount."""
    if not isinstance(contestant, Acafs):
        return {}
    command = [process.ACARUN, "--pool", f"http://127.0.0.1:{contestant.away.port}", "--session", contestant.session,
               "-c", "1"]
    env = contestant.mount.env
    return {"run": median_of(20, lambda: process.run(command, env=env).stdout)}


def curl_run(c):
    body = json.dumps({"codeInputType": "Inline", "executionType": "Synchronous", "code": "1"})
    url = f"http://127.0.0.1:{c.away.port}/executions?api-version={VERSION}&identifier={c.session}"
    command = ["curl", "-q", "-sS", "-H", f"Authorization: Bearer {c.pool.token}", "-H", "Content-Type: application/json",
               "-d", body, url]
    return {"run": median_of(20, lambda: json.loads(process.run(command).stdout)["result"]["executionResult"])}


ROWS = {"ls": (ls, curl_ls), "one": (one, curl_one), "many": (many, curl_many), "write": (write, curl_write),
        "big": (big, curl_big), "send": (send, curl_sent), "warm": (warm, None), "stat": (stat, None),
        "save": (save, curl_save), "memory": (memory, curl_memory), "idle": (idle, None),
        "run": (run, curl_run)}


def do(row, contestant):
    """What the row measured; {} where it is not for this contestant."""
    on_mount, with_curl = ROWS[row]
    function = with_curl if isinstance(contestant, Curl) else on_mount
    if not function or (row in ("memory", "idle") and not isinstance(contestant, Curl) and not contestant.pids):
        return {}
    return function(contestant)
