"""When the network or the pool misbehaves: right content or an error, by the deadline, never a hang."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

from support import proxy as fault
from support.mount import mounted
from support.process import ACAFS, environment, run
from support.wait import wait_for

pytestmark = [pytest.mark.session, pytest.mark.limit(90)]

DOWNLOAD = r"GET files/{name}/content"
UPLOAD = r"POST files"
LIST = r"GET files"
NO_TREE = "api-version=2025-02-02-preview"  # lists one directory at a time: "sub" is not known before it is asked for


@pytest.fixture
def faulty(mounts, proxy, session, tcp_pool):
    """Mounts through the proxy with short timeouts: faulty("max-retries=0", …)."""
    def make(*options):
        return mounts(proxy=proxy, session=session,
                      options=["attr-timeout=1", "timeout-connect=2", "timeout-read=2", *options])
    return make


@pytest.fixture
def behind(tcp_pool, session):
    """Puts a file into the session, behind the mount's back."""
    def put(name, content):
        tcp_pool.write(session, name, content)
        return content
    return put


def fails(command, cwd, within, text=r".*"):
    """The command ends with an error in that time."""
    began = time.monotonic()
    done = run(command, cwd=cwd, check=False, timeout=within + 30, env=environment())
    took = time.monotonic() - began
    assert done.returncode != 0, f"{command}: no error; {done.stdout[:200]!r}"
    assert took < within, f"{command}: {took:.1f} s"
    assert re.search(text, done.stderr), done.stderr
    return done


# --- busy and broken servers

def test_429_is_waited_out(faulty, proxy, behind):
    content = behind("a", b"x" * 1000)
    mount = faulty("timeout-read=20")
    rule = proxy.rule(DOWNLOAD, fault.answer(429, {"Retry-After": "1"}), times=2)
    began = time.monotonic()
    assert (mount / "a").read_bytes() == content
    assert rule.used == 2 and time.monotonic() - began >= 2


def test_429_for_ever_is_eagain(faulty, proxy, behind):
    behind("a", b"x")
    mount = faulty("max-retries=1", "attr-timeout=0")
    proxy.rule(LIST, fault.answer(429, {"Retry-After": "0"}))
    with pytest.raises(OSError) as error:
        os.stat(mount / "a")
    assert error.value.errno == errno.EAGAIN
    proxy.clear()
    assert os.stat(mount / "a").st_size == 1


def test_429_is_no_end_of_a_file(faulty, proxy, behind):
    """Python's read() takes EAGAIN for "no more for now", and returns what came before it."""
    behind("a", b"x")
    mount = faulty("max-retries=1")
    proxy.rule(DOWNLOAD, fault.answer(429, {"Retry-After": "0"}))
    with pytest.raises(OSError) as error:
        (mount / "a").read_bytes()
    assert error.value.errno == errno.EBUSY
    with open(mount / "a", "r+b", buffering=0) as file, pytest.raises(OSError) as error:
        file.write(b"y")
    assert error.value.errno == errno.EBUSY
    proxy.clear()
    assert (mount / "a").read_bytes() == b"x"


@pytest.mark.parametrize("status, code", [(401, errno.EACCES), (403, errno.EACCES), (404, errno.ENOENT),
                                          (409, errno.EBUSY), (500, errno.EIO), (503, errno.EIO)])
def test_statuses_become_errors(faulty, proxy, behind, status, code):
    behind("a", b"x")
    mount = faulty("max-retries=0")
    assert os.listdir(mount) == ["a"]
    proxy.rule(DOWNLOAD, fault.answer(status))
    with pytest.raises(OSError) as error:
        (mount / "a").read_bytes()
    assert error.value.errno == code, errno.errorcode[error.value.errno]


def test_a_refused_upload_fails_fsync(faulty, proxy):
    mount = faulty("max-retries=0")
    proxy.rule(UPLOAD, fault.answer(413))
    handle = os.open(mount / "a", os.O_WRONLY | os.O_CREAT)
    os.write(handle, b"x")
    with pytest.raises(OSError) as error:
        os.fsync(handle)
    assert error.value.errno == errno.EFBIG
    proxy.clear()
    os.write(handle, b"y")
    os.fsync(handle)
    os.close(handle)
    assert mount.pool.read(mount.session, "a") == b"xy"


def test_a_storm_of_503_and_429(faulty, proxy, tcp_pool, session, tmp_path):
    source = tmp_path / "tree"
    for n in range(30):
        (source / f"d{n % 3}").mkdir(parents=True, exist_ok=True)
        (source / f"d{n % 3}/f{n}").write_bytes(os.urandom(n * 100))
    mount = faulty("timeout-read=20", "max-retries=8")
    busy = fault.answer(503, {"Retry-After": "0"})
    proxy.rule(r".*", busy, every=5)
    proxy.rule(r".*", fault.answer(429, {"Retry-After": "0"}), every=7)
    run(["cp", "-r", source, mount / "tree"])
    mount.sync()
    run(["diff", "-r", source, mount / "tree"])
    run(["mv", mount / "tree", mount / "moved"])
    mount.sync()
    proxy.clear()
    assert tcp_pool.run(session, "import os; sum(len(f) for _, _, f in os.walk('/mnt/data/moved'))") == 30


def test_one_request_in_ten_is_lost(faulty, proxy, tmp_path):
    source = tmp_path / "tree"
    source.mkdir()
    for n in range(40):
        (source / f"f{n}").write_bytes(os.urandom(5000 + n))
    mount = faulty("timeout-read=20", "max-retries=6")
    proxy.rule(r"(GET|POST) files.*", fault.cut_before(), every=10)
    proxy.rule(r"(GET|POST) files.*", fault.cut_after(), every=13)
    proxy.rule(DOWNLOAD, fault.cut_body(1234), every=4)
    run(["cp", "-r", source, mount / "tree"])
    mount.sync()
    run(["diff", "-r", source, mount / "tree"])


# --- truncated and wrong answers

def test_a_broken_download_is_taken_up_again(faulty, proxy, behind):
    content = behind("a", os.urandom(500_000))
    mount = faulty("timeout-read=20")
    rule = proxy.rule(DOWNLOAD, fault.cut_body(100_000), times=2)
    assert (mount / "a").read_bytes() == content
    assert rule.used == 2


def test_a_truncated_download_is_never_short_content(faulty, proxy, behind):
    content = behind("a", os.urandom(500_000))
    mount = faulty("max-retries=1")
    proxy.rule(DOWNLOAD, fault.cut_body(100_000))
    with pytest.raises(OSError) as error:
        (mount / "a").read_bytes()
    assert error.value.errno == errno.EIO
    fails("cp a /dev/null", mount, 20)
    proxy.clear()
    assert (mount / "a").read_bytes() == content


def test_an_answer_shorter_than_the_listing_said(faulty, proxy, behind):
    """With a fitting Content-Length, so that HTTP sees nothing wrong."""
    content = behind("a", os.urandom(10_000))
    mount = faulty("max-retries=0")
    assert (mount / "a").stat().st_size == 10_000
    proxy.rule(DOWNLOAD, fault.replace_body(content[:4000]))
    try:
        got = (mount / "a").read_bytes()
    except OSError as error:
        assert error.errno in (errno.EIO, errno.ESTALE)
    else:  # taken for a newer version of the file, then the size must agree
        assert got == content[:4000] and (mount / "a").stat().st_size == 4000


@pytest.mark.parametrize("body", [
    b"", b"null", b"[]", b"{", b'"x"', b"<html>busy</html>", b'{"value":7}', b'{"value":[7,null,"x",[]]}',
    b'{"value":[{"name":7,"type":[]}]}', b"[" * 100_000, b'{"value":[' + b"{}," * 1000 + b"{}]}",
    b'{"value":[{"name":"' + b"n" * 5_000_000 + b'","type":"file"}]}', b"\xff\xfe\0" * 100,
], ids=lambda body: ascii(body[:18]))
def test_nonsense_for_a_listing(faulty, proxy, behind, body):
    behind("a", b"x")
    mount = faulty("max-retries=0")
    proxy.rule(LIST, fault.replace_body(body))
    mount.control("refresh")
    run(["ls", "-la", mount], check=False)
    proxy.clear()
    mount.control("refresh")
    assert os.listdir(mount) == ["a"]


def test_hostile_names_in_a_listing(faulty, proxy):
    names = ["ok", "..", ".", "", "/etc/passwd", "a/b", "../up", "nul\0nul", "x" * 256, "x" * 255, "\n", "\x1b[2J",
             "ok", "é" * 128]
    entries = [{"name": name, "type": "file", "sizeInBytes": 1, "lastModifiedAt": "2026-01-01T00:00:00Z"}
               for name in names]
    entries += [{"name": "huge", "type": "file", "sizeInBytes": 1 << 70}, {"name": "minus", "type": "file", "sizeInBytes": -5},
                {"name": "text", "type": "file", "sizeInBytes": "12"}, {"name": "odd", "type": "socket"},
                {"name": "timeless", "type": "file", "sizeInBytes": 1, "lastModifiedAt": "yesterday"}]
    mount = faulty("max-retries=0")
    proxy.rule(LIST, fault.replace_body(json.dumps({"value": entries}).encode()))
    mount.control("refresh")
    listed = os.listdir(mount)
    assert "ok" in listed and listed.count("ok") == 1 and "x" * 255 in listed
    assert not {"..", ".", "", "/etc/passwd", "a/b", "../up", "x" * 256, "é" * 128} & set(listed)
    assert all("/" not in name and "\0" not in name for name in listed)
    run(["ls", "-la", mount], check=False)
    proxy.clear()
    mount.control("refresh")
    assert os.listdir(mount) == []


def test_a_redirect_is_not_followed(faulty, proxy, behind):
    """The token must not leave for another host. The file itself comes by executed code."""
    behind("a", b"x")
    with socket.socket() as trap:
        trap.bind(("127.0.0.1", 0))
        trap.listen()
        trap.settimeout(0.3)
        mount = faulty("max-retries=0")
        proxy.rule(DOWNLOAD, fault.redirect(f"http://127.0.0.1:{trap.getsockname()[1]}/stolen"))
        assert (mount / "a").read_bytes() == b"x"
        with pytest.raises(TimeoutError):
            trap.accept()


def test_a_page_on_another_host_is_not_fetched(faulty, proxy):
    with socket.socket() as trap:
        trap.bind(("127.0.0.1", 0))
        trap.listen()
        trap.settimeout(0.3)
        mount = faulty("max-retries=0")
        proxy.rule(LIST, fault.replace_body(json.dumps(
            {"value": [], "nextLink": f"http://127.0.0.1:{trap.getsockname()[1]}/files"}).encode()))
        mount.control("refresh")
        run(["ls", mount], check=False)
        with pytest.raises(TimeoutError):
            trap.accept()


# --- executed helpers whose answer is lost

@pytest.mark.parametrize("action", [fault.cut_before, fault.cut_after], ids=["before", "after"])
def test_a_lost_rename_loses_no_file(faulty, proxy, tcp_pool, session, action):
    mount = faulty("max-retries=2")
    (mount / "a").write_text("precious")
    mount.sync()
    proxy.rule(r"POST (executions|code/execute)", action(), times=1)
    try:
        os.rename(mount / "a", mount / "b")
        mount.sync()
        wanted = {"b"}
    except OSError:
        wanted = None
    proxy.clear()
    mount.control("refresh")
    there = tcp_pool.names(session)
    assert there == wanted or (wanted is None and there in ({"a"}, {"b"}))
    wait_for(lambda: set(os.listdir(mount)) == there, 10)
    assert (mount / there.pop()).read_text() == "precious"


@pytest.mark.parametrize("action", [fault.cut_before, fault.cut_after], ids=["before", "after"])
def test_a_lost_mkdir_ends_in_the_truth(faulty, proxy, tcp_pool, session, action):
    mount = faulty("max-retries=2")
    proxy.rule(r"POST (executions|code/execute)", action(), times=1)
    try:
        os.mkdir(mount / "d")
        mount.sync()
    except OSError as error:
        assert error.errno in (errno.EIO, errno.EEXIST, errno.EHOSTUNREACH)
    proxy.clear()
    mount.control("refresh")
    wait_for(lambda: set(os.listdir(mount)) == tcp_pool.names(session), 10)


# --- slow and frozen servers

def test_a_slow_but_steady_download_is_not_cut_off(faulty, proxy, behind):
    content = behind("a", os.urandom(1_000_000))
    mount = faulty("max-retries=0")
    proxy.rule(DOWNLOAD, fault.throttle(250_000))
    assert (mount / "a").read_bytes() == content  # 4 s with timeout-read=2


def test_the_first_bytes_come_before_the_last(faulty, proxy, behind):
    content = behind("a", os.urandom(2_000_000))
    mount = faulty("max-retries=0")
    proxy.rule(DOWNLOAD, fault.freeze_body(1_000_000))
    with open(mount / "a", "rb", buffering=0) as file:
        assert file.read(1000) == content[:1000]


def test_delayed_answers_are_waited_for(faulty, proxy, behind):
    behind("a", b"late")
    mount = faulty("timeout-read=10")
    proxy.rule(r".*", fault.delay(0.7))
    assert (mount / "a").read_bytes() == b"late"


@pytest.mark.parametrize("command", ["cat b", "cp b /dev/null", "head -c1 b", "ls sub", "cat sub/c"])
def test_frozen_server_ends_in_an_error(faulty, proxy, tcp_pool, session, behind, command):
    behind("a", b"cached")
    behind("b", b"not cached")
    tcp_pool.write(session, "c", b"c", path="sub")
    mount = faulty("max-retries=0", NO_TREE)
    assert sorted(os.listdir(mount)) == ["a", "b", "sub"]
    assert (mount / "a").read_bytes() == b"cached"
    proxy.freeze()
    fails(command, mount, 8)
    proxy.clear()
    assert (mount / "b").read_bytes() == b"not cached"
    wait_for(lambda: os.listdir(mount / "sub") == ["c"], 15, every=0.5)


def test_frozen_server_and_a_known_listing(faulty, proxy, behind):
    """What was listed before may be shown again, or an error; but soon."""
    behind("a", b"a")
    mount = faulty("max-retries=0", "attr-timeout=0")
    assert os.listdir(mount) == ["a"]
    proxy.freeze()
    for _ in range(3):
        began = time.monotonic()
        done = run(["ls", mount], check=False)
        assert done.stdout == "a\n" or done.returncode != 0
        assert time.monotonic() - began < 8


def test_frozen_in_the_middle_of_a_file(faulty, proxy, behind):
    content = behind("a", os.urandom(1_000_000))
    mount = faulty("max-retries=0")
    proxy.rule(DOWNLOAD, fault.freeze_body(300_000))
    fails("cat a > /dev/null", mount, 8)
    proxy.clear()
    assert (mount / "a").read_bytes() == content


def test_frozen_with_retries_ends_too(faulty, proxy, behind):
    behind("a", b"x")
    mount = faulty("max-retries=2")
    os.listdir(mount)
    proxy.freeze()
    fails("cat a", mount, 30)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("command", [["cat", "b"], ["ls", "sub"], ["cp", "b", "/dev/null"], ["head", "-c1", "b"]],
                         ids=lambda command: command[0])
def test_a_waiting_process_dies_at_once(faulty, proxy, tcp_pool, session, behind, command, sign):
    behind("b", b"not cached")
    tcp_pool.write(session, "c", b"c", path="sub")
    mount = faulty("timeout-read=60", "max-retries=4", NO_TREE)
    os.listdir(mount)
    proxy.freeze()
    process = subprocess.Popen(command, cwd=mount, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: waits_in_fuse(process.pid), 10, "waiting for the pool")
    began = time.monotonic()
    process.send_signal(sign)
    process.wait(20)
    assert time.monotonic() - began < 2
    proxy.thaw()
    assert (mount / "b").read_bytes() == b"not cached"


# What it waits for, and within what time it is over. Some programs handle the signal: they are given a moment more
# for an answer.
@pytest.mark.parametrize("command, most", [
    ("mkdir new$$", 0.15), ("rmdir sub", 0.15), ("mv old/a old/b", 0.15), ("ln -s a link$$", 0.15),
    ("cat b", 0.15), ("ls sub", 0.15), ("cp b /dev/null", 0.15), ("df .", 0.15),
    ("dd if=/dev/zero of=new$$ count=1 conv=fsync", 0.6),
    ("/usr/bin/python3 -c 'import os; os.mkdir(\"new\" + str(os.getpid()))'", 0.6)])
def test_ctrl_c_is_answered_at_once(faulty, proxy, tcp_pool, session, behind, command, most):
    """The best of three, for other programs run here as well."""
    behind("a", b"a")
    behind("b", b"not cached")
    tcp_pool.write(session, "a", b"a", path="old")
    tcp_pool.write(session, "c", b"c", path="sub")
    mount = faulty("timeout-read=60", "max-retries=4", NO_TREE)
    os.listdir(mount)
    os.listdir(mount / "old")
    proxy.freeze()
    took = []
    while len(took) < 3 and min(took, default=9) > most:
        took.append(time_to_die(f"exec {command}", mount, signal.SIGINT))
    proxy.thaw()
    mount.sync()
    assert min(took) < most


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_writer_leaves_at_once(faulty, proxy, tcp_pool, session, sign):
    """Though the kernel closes its files then, for which -o sync waits."""
    mount = faulty("timeout-read=60", "max-retries=4", "sync")
    proxy.freeze()
    program = ("import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); "
               "os.write(os.open('new', os.O_CREAT | os.O_WRONLY), b'kept'); os.mkdir('waits')")
    assert time_to_die(f'exec /usr/bin/python3 -c "{program}"', mount, sign) < 1
    proxy.thaw()
    mount.sync()
    assert tcp_pool.read(session, "new") == b"kept"


def time_to_die(command, cwd, sign):
    """Seconds from a signal to the end of a shell command that waits in the mount."""
    process = subprocess.Popen(["sh", "-c", command], cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: sleeps_on(process), 20, "waiting for the pool")
    began = time.monotonic()
    process.send_signal(sign)
    process.wait(20)
    return time.monotonic() - began


def sleeps_on(process):
    """It does nothing but wait for the mount, and goes on waiting."""
    def switches():
        with open(f"/proc/{process.pid}/status") as status:
            return [line for line in status if "ctxt_switches" in line]
    before = switches()
    for _ in range(10):
        assert process.poll() is None, "it did not wait"
        if not waits_in_fuse(process.pid) or switches() != before:
            return False
        time.sleep(0.02)
    return True


def waits_in_fuse(pid):
    """The process sleeps in a system call on the mount (a request is out), not in its start-up."""
    with open(f"/proc/{pid}/stat") as stat:
        state = stat.read().rpartition(")")[2].split()[0]
    if state not in "SD":
        return False
    try:
        with open(f"/proc/{pid}/wchan") as wchan:
            where = wchan.read()
    except OSError:
        where = ""
    return "fuse" in where or "request_wait" in where or "folio" in where or "page" in where or \
        ("wait" not in where and where in ("", "0"))


def test_a_stuck_file_does_not_hold_up_the_others(faulty, proxy, behind):
    behind("stuck", b"s" * 1000)
    behind("free", b"free")
    mount = faulty("timeout-read=20", "max-retries=0")
    os.listdir(mount)
    proxy.rule(lambda request: "stuck" in request.path, fault.freeze())
    process = subprocess.Popen(["cat", mount / "stuck"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: proxy.count(lambda request: "stuck" in request.path), 10)
        began = time.monotonic()
        assert (mount / "free").read_bytes() == b"free"
        (mount / "new").write_text("new")
        assert sorted(os.listdir(mount)) == ["free", "new", "stuck"]
        assert time.monotonic() - began < 5
        assert process.poll() is None
    finally:
        process.kill()
        process.wait(10)
    mount.sync()


def test_interrupted_readers_leave_the_file_whole(faulty, proxy, behind):
    content = behind("a", os.urandom(3_000_000))
    mount = faulty("max-retries=2")
    proxy.rule(DOWNLOAD, fault.throttle(1_000_000), times=1)
    process = subprocess.Popen(["cat", mount / "a"], stdout=subprocess.DEVNULL)
    wait_for(lambda: proxy.count(DOWNLOAD), 10)
    process.send_signal(signal.SIGINT)
    process.wait(5)
    assert (mount / "a").read_bytes() == content


# --- the pool goes away and comes back

def quickly(do, within):
    """What do() gives, in that time."""
    began = time.monotonic()
    value = do()
    assert time.monotonic() - began < within
    return value


@pytest.mark.parametrize("api", ["api-version=auto", NO_TREE])
def test_a_frozen_pool_and_an_old_listing(faulty, proxy, behind, tcp_pool, session, api):
    """Shown after a moment, long before the pool is given up; what may have come is not denied."""
    behind("a", b"cached")
    tcp_pool.write(session, "c", b"c", path="sub")
    mount = faulty("attr-timeout=0", "timeout-read=60", "max-retries=4", api)
    assert sorted(os.listdir(mount)) == ["a", "sub"]
    assert os.listdir(mount / "sub") == ["c"]
    assert (mount / "a").read_bytes() == b"cached"
    assert mount.status()["reachable"] is True
    proxy.freeze()
    # The first may be answered by a listing of the same millisecond.
    wait_for(lambda: sorted(quickly(lambda: os.listdir(mount), 20)) == ["a", "sub"] and not mount.status()["reachable"])
    assert mount.status()["away"] is None
    assert "the pool has not answered for" in mount.said()
    assert quickly((mount / "a").read_bytes, 20) == b"cached"
    assert quickly(lambda: os.listdir(mount / "sub"), 20) == ["c"]
    assert sorted(quickly(lambda: os.listdir(mount), 3)) == ["a", "sub"]
    shown = run([ACAFS, "status", mount]).stdout
    assert re.search(r"^away +has not answered for some seconds$", shown, re.M), shown
    asker = subprocess.Popen(["ls", "come"], cwd=mount, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: sleeps_on(asker), 20)
    tcp_pool.write(session, "come", b"while it was away")
    proxy.thaw()
    assert asker.wait(20) == 0
    wait_for(lambda: mount.status()["reachable"], 20)
    wait_for(lambda: "come" in os.listdir(mount), 20)
    assert "the pool answers again" in mount.said()


def test_a_pool_that_was_away_and_is_frozen(faulty, proxy, behind):
    """It is asked now and then, and nobody waits long for that."""
    behind("a", b"cached")
    mount = faulty("attr-timeout=0", "timeout-read=60", "max-retries=0")
    assert (mount / "a").read_bytes() == b"cached"
    proxy.down()
    assert os.listdir(mount) == ["a"]
    assert mount.status()["reachable"] is False and mount.status()["away"]
    asked = proxy.count(LIST)
    proxy.rule(".*", fault.freeze())
    proxy.up()
    wait_for(lambda: quickly(lambda: os.listdir(mount), 15) == ["a"] and proxy.count(LIST) > asked, 30)
    assert quickly(lambda: os.listdir(mount), 5) == ["a"]
    assert not quickly((mount / "not there").exists, 5)
    assert quickly((mount / "a").read_bytes, 5) == b"cached"

def test_what_is_cached_still_reads(faulty, proxy, behind):
    behind("a", b"cached" * 1000)
    behind("b", b"not cached")
    mount = faulty("max-retries=0", "attr-timeout=60")
    assert (mount / "a").read_bytes() == b"cached" * 1000
    proxy.down()
    assert (mount / "a").read_bytes() == b"cached" * 1000
    began = time.monotonic()
    with pytest.raises(OSError) as error:
        (mount / "b").read_bytes()
    assert error.value.errno in (errno.EHOSTUNREACH, errno.ETIMEDOUT, errno.EIO)
    assert time.monotonic() - began < 8
    proxy.up()
    assert (mount / "b").read_bytes() == b"not cached"


def test_fsync_does_not_lie(faulty, proxy):
    mount = faulty("max-retries=0")
    handle = os.open(mount / "a", os.O_WRONLY | os.O_CREAT)
    os.write(handle, b"x")
    proxy.down()
    with pytest.raises(OSError) as error:
        os.fsync(handle)
    assert error.value.errno in (errno.EHOSTUNREACH, errno.ETIMEDOUT, errno.EIO)
    proxy.up()
    os.fsync(handle)
    os.close(handle)


def test_writes_of_an_outage_arrive_afterwards(faulty, proxy, tcp_pool, session):
    mount = faulty()
    (mount / "before").write_text("x")
    mount.sync()
    proxy.down()
    try:
        (mount / "a").write_text("written while it was away")
    except OSError as error:  # refused at once is honest too; then nothing may have been kept
        assert error.errno in (errno.EHOSTUNREACH, errno.ETIMEDOUT, errno.EIO)
        proxy.up()
        (mount / "a").write_text("written while it was away")
    else:
        proxy.up()
    wait_for(lambda: tcp_pool.read(session, "a") == b"written while it was away", 40)


def test_the_pool_is_killed(mounts, own_pool):
    pool = own_pool(tcp=True)
    mount = mounts(pool=pool, options=["timeout-connect=2", "timeout-read=2", "max-retries=0", "attr-timeout=0",
                                       "unmount-timeout=2"])
    (mount / "a").write_text("x")
    mount.sync()
    pool.kill()
    fails("ls nowhere", mount, 8)
    fails("cat b", mount, 8)
    assert mount.status()
    assert mount.unmount(deadline=15) == 0


@pytest.mark.parametrize("how", ["lazily", "SIGTERM"])
def test_unmounting_a_frozen_pool_ends(faulty, proxy, how):
    """Though a program waits for it in there, which plain fusermount3 -u would call busy."""
    mount = faulty("timeout-read=60", "unmount-timeout=2", "attr-timeout=0")
    (mount / "a").write_text("x")
    mount.sync()
    proxy.freeze()
    stuck = subprocess.Popen(["ls", "."], cwd=mount, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: waits_in_fuse(stuck.pid), 10, "waiting for the pool")
        if how == "lazily":
            mount.unmount(how, deadline=None)
            stuck.kill()
            assert mount.process.wait(15) == 0
        else:
            assert mount.unmount(how, deadline=15) == 0
            assert stuck.wait(5) != 0
    finally:
        stuck.kill()
        stuck.wait(10)


def test_unmounting_a_frozen_pool_says_what_is_left(faulty, proxy):
    mount = faulty("timeout-read=60", "unmount-timeout=2")
    (mount / "a").write_text("x")
    mount.sync()
    proxy.freeze()
    handle = os.open(mount / "a", os.O_WRONLY | os.O_TRUNC)
    os.write(handle, b"newer")
    assert mount.unmount("SIGTERM", deadline=15) == 1
    assert "not on the server: a (5 bytes)" in mount.said()
    with pytest.raises(OSError):
        os.close(handle)


@pytest.mark.parametrize("first, second", [("SIGTERM", "SIGTERM"), ("SIGTERM", "SIGINT"), ("SIGINT", "SIGINT")])
def test_a_second_signal_ends_the_drain(mounts, proxy, session, tcp_pool, tmp_path, first, second):
    """At once; nothing is lost, and what is left is told."""
    mount = mounts(proxy=proxy, session=session, cache=tmp_path / "cache")
    proxy.freeze()
    (mount / "a").write_text("kept")
    mount.unmount(first, deadline=None)
    wait_for(lambda: "ending" in mount.said(), 10)
    assert mount.running()
    os.kill(mount.pid, signal.SIGHUP)  # as the end of a login session sends it after the first
    began = time.monotonic()
    assert mount.unmount(second, deadline=20) == 1
    assert time.monotonic() - began < 10
    assert "not on the server: a (4 bytes)" in mount.said()
    assert "1 files and 0 deletes stay in the journal" in mount.said()
    proxy.thaw()
    again = mounts(proxy=proxy, session=session, cache=tmp_path / "cache")
    again.sync()
    assert tcp_pool.read(session, "a") == b"kept"


def test_one_signal_after_umount_is_no_second(faulty, proxy, tcp_pool, session):
    """Told to end while it drains already, it goes on to drain."""
    mount = faulty("unmount-timeout=60")
    proxy.freeze()
    (mount / "a").write_text("x")
    mount.unmount("lazily", deadline=None)
    wait_for(lambda: mounted(mount.path) is None, 10)
    os.kill(mount.pid, signal.SIGTERM)
    wait_for(lambda: "Terminated: ending" in mount.said(), 10)
    proxy.thaw()
    assert mount.process.wait(40) == 0
    assert tcp_pool.read(session, "a") == b"x"


def test_the_token_is_nowhere_to_be_seen(faulty, proxy, tcp_pool):
    mount = faulty("max-retries=0", "log-level=debug")
    (mount / "a").write_text("x")
    mount.sync()
    proxy.rule(r".*", fault.answer(401))
    run("cat nothing; ls", cwd=mount, check=False)
    proxy.clear()
    token = tcp_pool.token
    assert token not in mount.said()
    assert token not in (mount / ".acafs/status").read_text()
    with open(f"/proc/{mount.pid}/cmdline") as line:
        assert token not in line.read()
