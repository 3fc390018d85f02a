"""A whole pool as one mount: each directory is a session."""

import errno
import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from support import process
from support import proxy as fault
from support.mount import Mount
from support.wait import wait_for
from support.whole import QUICK, allocate, listed, opened, refused

pytestmark = pytest.mark.session


def test_sessions_are_directories(whole, tcp_pool, name):
    allocate(tcp_pool, name)
    mount = whole()
    before = mount.status()["counters"]["requests"]
    assert name in os.listdir(mount)
    assert stat.S_ISDIR(os.stat(mount / name).st_mode)
    assert process.run(["ls", "-l", mount]).stdout.count(name) == 1
    assert opened(mount) == 0, "looking at them opens none"
    assert mount.status()["counters"]["requests"] == before, "and asks nothing but the list"
    with os.scandir(mount) as entries:
        numbers = {entry.name: entry.inode() for entry in entries}
    assert numbers[name] == os.stat(mount / name).st_ino
    assert len(set(numbers.values())) == len(numbers)


def test_made_and_deleted(whole, tcp_pool, name):
    mount = whole()
    os.mkdir(mount / name)
    assert name in listed(tcp_pool) and name in os.listdir(mount)
    refused(errno.EEXIST, os.mkdir, mount / name)
    (mount / name / "a.txt").write_text("one")
    refused(errno.ENOTEMPTY, os.rmdir, mount / name)
    assert name in listed(tcp_pool)
    number = os.stat(mount / name).st_ino
    os.unlink(mount / name / "a.txt")
    os.rmdir(mount / name)
    assert name not in listed(tcp_pool) and name not in os.listdir(mount)
    refused(errno.ENOENT, os.stat, mount / name)
    refused(errno.ENOENT, os.rmdir, mount / name)
    os.mkdir(mount / name)
    assert os.listdir(mount / name) == [] and number
    os.rmdir(mount / name)


@pytest.mark.parametrize("bad", ["abc", "with blank", "a.b.c.d", "x" * 129])
def test_names_that_no_session_can_have(whole, bad):
    mount = whole()
    refused(errno.ENOENT, os.stat, mount / bad)
    refused(errno.EINVAL, os.mkdir, mount / bad)


def test_force(whole, tcp_pool, name):
    mount = whole(options=["force"])
    os.mkdir(mount / name)
    (mount / name / "dir").mkdir()
    (mount / name / "dir/a.txt").write_text("one")
    with open(mount / name / "dir/a.txt"):
        refused(errno.EBUSY, os.rmdir, mount / name)
    os.rmdir(mount / name)
    assert name not in listed(tcp_pool)
    os.mkdir(mount / name)
    assert os.listdir(mount / name) == []
    mount.sync()
    assert tcp_pool.request("GET", "files", session=name).json()["value"] == []


def test_by_name(whole, tcp_pool, name):
    """One that came to be after the list that is still believed."""
    mount = whole(options=["attr-timeout=60"])
    assert name not in os.listdir(mount)
    allocate(tcp_pool, name)
    assert os.listdir(mount / name) == []
    assert name in os.listdir(mount), "what was opened here is listed"
    refused(errno.ENOENT, os.stat, mount / "no-such-session")
    assert "no-such-session" not in listed(tcp_pool), "asking makes none"


def test_gone_elsewhere(whole, tcp_pool, name):
    allocate(tcp_pool, name)
    mount = whole(options=["attr-timeout=0"])
    assert name in os.listdir(mount)
    os.stat(mount / name)
    assert tcp_pool.request("DELETE", "session", session=name).status == 204
    wait_for(lambda: name not in os.listdir(mount), 10)
    refused(errno.ENOENT, os.stat, mount / name)


def test_sessions_are_apart(whole, tcp_pool, name):
    other = name + "-other"
    mount = whole()
    for one in (name, other):
        os.mkdir(mount / one)
    (mount / name / "a.txt").write_text("of one")
    (mount / other / "a.txt").write_text("of the other")
    assert (mount / name / "a.txt").read_text() == "of one"
    assert os.stat(mount / name / "a.txt").st_ino != os.stat(mount / other / "a.txt").st_ino
    refused(errno.EXDEV, os.rename, mount / name / "a.txt", mount / other / "b.txt")
    refused(errno.EXDEV, os.link, mount / name / "a.txt", mount / other / "b.txt")
    refused(errno.EPERM, os.link, mount / name / "a.txt", mount / name / "b.txt")
    process.run(["mv", mount / name / "a.txt", mount / other / "b.txt"])
    assert os.listdir(mount / name) == [] and (mount / other / "b.txt").read_text() == "of one"
    mount.sync()
    assert [entry["name"] for entry in tcp_pool.request("GET", "files", session=other).json()["value"]] == \
        ["a.txt", "b.txt"]


def test_the_top_holds_sessions_alone(whole, name):
    mount = whole()
    os.mkdir(mount / name)
    (mount / name / "a.txt").write_text("one")
    refused(errno.EPERM, os.open, mount / "a-file", os.O_CREAT | os.O_WRONLY)
    refused(errno.EPERM, os.symlink, name, mount / "a-link")
    refused(errno.EPERM, os.mkfifo, mount / "a-fifo")
    refused(errno.EPERM, os.rename, mount / name, mount / "other-name")
    refused(errno.EPERM, os.rename, mount / name / "a.txt", mount / "other-name")
    refused(errno.EPERM, os.chmod, mount, 0o700)
    refused(errno.EISDIR, os.unlink, mount / name)
    refused(errno.ENODATA, os.getxattr, mount / name, "user.x")
    assert os.listxattr(mount) == [] and os.statvfs(mount).f_namemax == 128
    assert sorted(os.listdir(mount / ".acafs")) == ["control", "metrics", "status"]
    assert ".acafs" not in os.listdir(mount) and oct(os.stat(mount / ".acafs").st_mode)[-3:] == "700"


def test_control(whole, name):
    mount = whole()
    os.mkdir(mount / name)
    inner = json.loads((mount / name / ".acafs/status").read_text())
    assert inner["session"] == name and "jobs" in os.listdir(mount / name / ".acafs")
    (mount / name / "a.py").write_text("print('from the session')\n")
    handle = os.open(mount / name / ".acafs/control", os.O_RDWR)
    os.write(handle, b"run a.py\n")
    assert json.loads(os.read(handle, 65536))["state"] == "succeeded"
    os.close(handle)
    assert (mount / name / "a.py.stdout").read_text() == "from the session\n"
    assert mount.control("sync") == {"ok": True}
    refused(errno.EINVAL, mount.control, "run a.py")
    assert "acafs_sessions_open 1\n" in (mount / ".acafs/metrics").read_text()
    assert os.readlink(mount / name / ".acafs/lost").endswith("/lost")


def test_programs_find_the_session(whole, name):
    mount = whole()
    os.mkdir(mount / name)
    (mount / name / "sub").mkdir()
    (mount / name / "sub/a.py").write_text("print(6 * 7)\n")
    done = process.run([process.ACARUN, mount / name / "sub/a.py"], env=mount.env)
    assert done.stdout == "42\n" and (mount / name / "sub/a.py.stdout").read_text() == "42\n"
    of_session = process.run([process.ACAFS, "status", mount / name / "sub"], env=mount.env).stdout
    assert name in of_session.splitlines()[0]
    of_all = process.run([process.ACAFS, "status", mount], env=mount.env).stdout
    assert "1 of them open" in of_all.splitlines()[0]
    assert str(mount) in process.run([process.ACAFS, "list"], env=mount.env).stdout
    (mount / name / "b.txt").write_text("x")
    process.run([process.ACAFS, "sync", mount], env=mount.env)
    assert mount.status()["pending"] == []


def test_idle_sessions_are_closed(whole, tcp_pool, name):
    mount = whole(options=QUICK)
    os.mkdir(mount / name)
    os.chmod(mount / name, 0o750)
    (mount / name / "sub").mkdir()
    tcp_pool.write(name, "a.txt", b"made elsewhere")
    wait_for(lambda: "a.txt" in process.run(["ls", "-lR", mount / name]).stdout, 10)
    number = os.stat(mount / name / "sub").st_ino
    wait_for(lambda: opened(mount) == 0, 20, "closing")
    assert name in os.listdir(mount), "it is still there"
    assert stat.S_IMODE(os.stat(mount / name).st_mode) == 0o750
    assert opened(mount) == 0
    assert (mount / name / "a.txt").read_text() == "made elsewhere"
    assert os.stat(mount / name / "sub").st_ino != number, "no number is used twice"


def test_jobs_outlast_a_session_that_is_closed(whole, name):
    mount = whole(options=QUICK)
    os.mkdir(mount / name)
    (mount / name / "a.py").write_text("print('done')\n")
    with open(mount / name / ".acafs/control", "w") as control:
        control.write("run a.py\n")
    os.unlink(mount / name / "a.py")
    for file in os.listdir(mount / name):
        os.unlink(mount / name / file)
    wait_for(lambda: opened(mount) == 0, 20, "closing")
    assert (mount / name / ".acafs/jobs/1/stdout").read_text() == "done\n"


def test_whoever_is_in_a_session_keeps_it_open(whole, tcp_pool, name):
    mount = whole(options=QUICK)
    other = name + "-other"
    for one in (name, other):
        os.mkdir(mount / one)
    (mount / name / "sub").mkdir()
    shell = subprocess.Popen(["bash", "--norc"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                             cwd=mount / name / "sub")
    try:
        os.listdir(mount / other)
        wait_for(lambda: opened(mount) == 1, 20, "closing the other")
        out, _ = shell.communicate("/bin/pwd; echo here > a.txt; cat a.txt; exit\n", timeout=20)
        assert out.splitlines() == [str(mount / name / "sub"), "here"]
    finally:
        shell.kill()
        shell.wait()
    with open(mount / name / "sub/a.txt", "a") as file:
        file.write("kept open\n")
        os.listdir(mount / other)
        wait_for(lambda: opened(mount) == 1, 20, "closing the other")
        file.write("to the end\n")
    assert (mount / name / "sub/a.txt").read_text() == "here\nkept open\nto the end\n"


def test_what_is_pending_goes_up_after_a_crash(whole, tcp_pool, proxy, tmp_path, name):
    """Nobody has to look into the session: the next mount of the pool knows that it was open."""
    mount = whole(proxy=proxy, cache=tmp_path / "cache")
    os.mkdir(mount / name)
    proxy.rule("POST files", fault.answer(503))
    (mount / name / "a.txt").write_text("before the crash")
    mount.kill()
    proxy.clear()
    again = whole(proxy=proxy, cache=tmp_path / "cache")
    wait_for(lambda: tcp_pool.request("GET", "files/a.txt/content", session=name).body == b"before the crash", 20)
    again.sync()
    assert again.status()["pending"] == []


def test_unmounting_drains_every_session(whole, tcp_pool, name):
    mount = whole()
    names = [f"{name}-{i}" for i in range(5)]
    for one in names:
        os.mkdir(mount / one)
        for i in range(3):
            (mount / one / f"{i}.txt").write_text(one)
    assert mount.unmount() == 0
    for one in names:
        assert len(tcp_pool.request("GET", "files", session=one).json()["value"]) == 3
    assert not any(Path(mount.path.parent / "cache").glob("*/open/*")), "none is to be looked after"


def test_what_is_left_is_told(whole, proxy, name, tmp_path):
    mount = whole(proxy=proxy, options=["unmount-timeout=0.5"])
    os.mkdir(mount / name)
    proxy.rule("POST files", fault.answer(503))
    (mount / name / "a.txt").write_text("left")
    assert mount.status()["pending"][0]["path"] == f"{name}/a.txt"
    assert mount.unmount() == 1
    assert "not on the server" in mount.said() and name not in mount.said(), "identifiers are secrets"
    proxy.clear()
    mount.start()
    mount.sync()


def test_a_session_that_expired_is_empty(whole, tcp_pool, name):
    mount = whole(options=["attr-timeout=0"])
    os.mkdir(mount / name)
    (mount / name / "a.txt").write_text("one")
    mount.sync()
    assert tcp_pool.request("DELETE", "session", session=name).status == 204
    wait_for(lambda: os.listdir(mount / name) == [], 10)
    assert name in os.listdir(mount)
    assert os.listdir(mount / name / ".acafs/lost")


def test_a_pool_that_tells_nothing(whole, proxy, name):
    """An old API: every valid name is a session, and those that were opened here are shown."""
    for kind in ("(GET|POST) listSessions", "GET session", r"POST \.management/{name}"):
        proxy.rule(kind, fault.answer(404))
    mount = whole(proxy=proxy)
    assert os.listdir(mount) == []
    assert os.listdir(mount / name) == []
    (mount / name / "a.txt").write_text("one")
    assert os.listdir(mount) == [name]
    assert mount.status()["sessions"]["listed"] is False
    assert mount.said().count("does not list its sessions") == 1
    mount.sync()


def test_a_pool_that_is_away(whole, proxy, name, tcp_pool):
    allocate(tcp_pool, name)
    mount = whole(proxy=proxy, options=["attr-timeout=0", "timeout-read=1", "max-retries=0"])
    assert name in os.listdir(mount)
    proxy.down()
    assert name in os.listdir(mount), "the old list will do"
    os.stat(mount / name)
    refused(errno.EHOSTUNREACH, os.mkdir, mount / "never-made")
    proxy.up()
    assert name in os.listdir(mount)


def test_a_frozen_pool(whole, proxy, name):
    mount = whole(proxy=proxy, options=["timeout-read=1", "max-retries=0"])
    proxy.freeze()
    try:
        refused(errno.ETIMEDOUT, os.stat, mount / name)
        refused(errno.ETIMEDOUT, os.mkdir, mount / name)
    finally:
        proxy.thaw()
    os.mkdir(mount / name)


def test_usage(tmp_path, tcp_pool):
    (tmp_path / "mnt").mkdir()
    env = process.environment(HOME=tmp_path, ACAFS_CONFIG=os.devnull, ACAFS_TOKEN=tcp_pool.token)
    for arguments in (["http://127.0.0.1:1#alice", "--all"], ["http://127.0.0.1:1", "-o", "all,session=alice"]):
        done = process.run([process.ACAFS, *arguments[:1], tmp_path / "mnt", *arguments[1:]], check=False, env=env)
        assert done.returncode == 64 and "name none" in done.stderr, done.stderr
    done = process.run([process.ACAFS, "http://127.0.0.1:1", "--all", tmp_path / "mnt"], check=False, env=env)
    assert done.returncode == 69 and len(done.stderr.splitlines()) == 1
    env["ACAFS_TOKEN"] = "wrong"
    done = process.run([process.ACAFS, tcp_pool.url, "--all", tmp_path / "mnt"], check=False, env=env)
    assert done.returncode == 77 and len(done.stderr.splitlines()) == 1


def test_the_session_that_is_set_is_for_others(whole, name):
    mount = whole(env={"ACAFS_SESSION": name})
    assert name not in os.listdir(mount)


def test_local_pool(tmp_path, pool, name):
    mount = Mount(tmp_path / "mnt", "local", options=["all"], cache=tmp_path / "cache", log=tmp_path / "log",
                  env=process.environment(HOME=tmp_path, ACAFS_CONFIG=os.devnull, XDG_RUNTIME_DIR=pool.directory)).start()
    try:
        os.mkdir(mount / name)
        (mount / name / "a.txt").write_text("one")
    finally:
        mount.finish()
    assert pool.request("GET", "files/a.txt/content", session=name).body == b"one"
