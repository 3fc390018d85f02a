"""A whole pool when things go wrong: away, killed, expired, deleted with work to do; and when it is large."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import threading

import pytest

from support import process
from support import proxy as fault
from support.wait import wait_for
from support.whole import allocate, listed, opened, refused

pytestmark = [pytest.mark.session, pytest.mark.limit(120)]

HASTY = ["timeout-read=2", "timeout-connect=2", "max-retries=0"]


def test_away_at_the_start(whole, proxy):
    """As with one session: nothing is mounted, and one line says why."""
    proxy.down()
    mount = whole(proxy=proxy, options=HASTY, start=False)
    mount.path.mkdir()
    for how in (["-f"], []):
        done = process.run([process.ACAFS, proxy.url, mount.path, *how, "-o", ",".join(mount.options)],
                           env=mount.env, check=False)
        assert done.returncode == 69 and len(done.stderr.splitlines()) == 1, done.stderr
        assert proxy.url in done.stderr
    proxy.up()
    mount.start()


def test_frozen_at_the_start(whole, proxy):
    proxy.freeze()
    mount = whole(proxy=proxy, options=HASTY, start=False)
    mount.path.mkdir()
    done = process.run([process.ACAFS, proxy.url, mount.path, "-o", ",".join(mount.options)],
                       env=mount.env, check=False, timeout=30)
    assert done.returncode == 69 and len(done.stderr.splitlines()) == 1, done.stderr
    proxy.thaw()


def test_deleting_one_with_uploads_pending(whole, proxy, tcp_pool, name):
    """They are sent first, for what is in it decides; with force they need not be."""
    mount = whole(proxy=proxy, config=f"[session {name}-force]\nforce = yes\n")
    for one in (name, name + "-force"):
        os.mkdir(mount / one)
        proxy.rule("POST files", fault.answer(503), times=2)
        (mount / one / "a.txt").write_text("pending")
    refused(errno.ENOTEMPTY, os.rmdir, mount / name)
    assert tcp_pool.read(name, "a.txt") == b"pending"
    os.rmdir(mount / (name + "-force"))
    assert name + "-force" not in listed(tcp_pool)
    os.unlink(mount / name / "a.txt")
    os.rmdir(mount / name)
    mount.sync()
    assert not {name, name + "-force"} & listed(tcp_pool), "nothing comes later and makes it anew"


@pytest.mark.parametrize("force", [False, True])
def test_rm_r(whole, tcp_pool, name, force):
    mount = whole(options=["force"] if force else [])
    top = mount / name
    os.mkdir(top)
    process.run(f"cd {top} && mkdir -p sub/deep .git && touch sub/deep/a b .git/c && ln -s b link && echo x > 'a+b'")
    process.run(["rm", "-r", top])
    assert name not in listed(tcp_pool) and name not in os.listdir(mount)
    mount.sync()
    assert name not in listed(tcp_pool)


def test_files_that_listings_leave_out_are_not_deleted_unseen(whole, tcp_pool, name):
    mount = whole()
    os.mkdir(mount / name)
    tcp_pool.run(name, "import os; os.makedirs('/mnt/data/.hidden.d/x')")
    refused(errno.ENOTEMPTY, os.rmdir, mount / name)
    assert tcp_pool.run(name, "import os; os.listdir('/mnt/data')") == [".hidden.d"]


def test_expired_under_a_shell(whole, tcp_pool, name):
    """Whoever is in it finds it empty, and may go on."""
    mount = whole(options=["attr-timeout=0"])
    os.mkdir(mount / name)
    (mount / name / "a.txt").write_text("one")
    mount.sync()
    shell = subprocess.Popen(["bash", "--norc"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                             cwd=mount / name)
    try:
        assert tcp_pool.request("DELETE", "session", session=name).status == 204
        wait_for(lambda: name not in listed(tcp_pool), 10)
        wait_for(lambda: os.listdir(mount / name) == [], 20)
        out, _ = shell.communicate("ls; /bin/pwd; echo again > b.txt; cat b.txt; cd ..; ls\n", timeout=30)
        lines = out.splitlines()
        assert lines[0] == str(mount / name) and lines[1] == "again" and name in lines[2:]
    finally:
        shell.kill()
        shell.wait()
    mount.sync()
    assert tcp_pool.names(name) == {"b.txt"}


def test_deleted_under_a_shell(whole, tcp_pool, name):
    mount = whole()
    os.mkdir(mount / name)
    shell = subprocess.Popen(["bash", "--norc"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             text=True, cwd=mount / name)
    try:
        os.rmdir(mount / name)
        os.mkdir(mount / name)
        (mount / name / "a.txt").write_text("of the new one")
        out, _ = shell.communicate("ls; echo x > b.txt; cd ..; cat " + name + "/a.txt\n", timeout=30)
        assert out.splitlines()[-1] == "of the new one" and "b.txt: " in out
    finally:
        shell.kill()
        shell.wait()
    assert os.listdir(mount / name) == ["a.txt"]


def test_three_sessions_after_a_crash(whole, tcp_pool, proxy, tmp_path, name):
    """What was pending in each goes on at the next mount, and nobody need look into one."""
    names = [f"{name}-{i}" for i in range(3)]
    mount = whole(proxy=proxy, cache=tmp_path / "cache")
    for one in names:
        os.mkdir(mount / one)
        (mount / one / "old.txt").write_text("sent")
    mount.sync()
    proxy.rule("POST files", fault.answer(503))
    proxy.rule("DELETE files/{name}", fault.answer(503))
    for one in names:
        (mount / one / "a.txt").write_text(one)
        (mount / one / "old.txt").write_text("changed")
    mount.kill()
    proxy.clear()
    again = whole(proxy=proxy, cache=tmp_path / "cache")
    for one in names:
        wait_for(lambda: tcp_pool.read(one, "a.txt") == one.encode() and tcp_pool.read(one, "old.txt") == b"changed", 30)
        assert tcp_pool.names(one) == {"a.txt", "old.txt"}
    again.sync()
    assert again.status()["pending"] == [] and again.unmount() == 0


def test_the_drain_ends_with_its_time(whole, tcp_pool, proxy, name):
    names = [f"{name}-{i}" for i in range(3)]
    mount = whole(proxy=proxy, options=["unmount-timeout=1"])
    for one in names:
        os.mkdir(mount / one)
    proxy.rule("POST files", fault.freeze())
    for one in names:
        (mount / one / "a.txt").write_text(one)
    assert mount.unmount(deadline=20) == 1
    assert "3 files and 0 deletes stay in the journal" in mount.said()
    proxy.clear()
    mount.start()
    for one in names:
        wait_for(lambda: tcp_pool.read(one, "a.txt") == one.encode(), 30)


def test_all_of_it_drains_at_the_end(whole, tcp_pool, proxy, name):
    """Those that failed a moment ago, too, once the pool lets them."""
    names = [f"{name}-{i}" for i in range(3)]
    mount = whole(proxy=proxy)
    for one in names:
        os.mkdir(mount / one)
    rule = proxy.rule("POST files", fault.answer(503))
    for one in names:
        (mount / one / "a.txt").write_text(one)
    ended = threading.Thread(target=mount.unmount)
    ended.start()
    wait_for(lambda: rule.used >= 3, 20)
    proxy.drop(rule)
    ended.join(60)
    assert mount.process.returncode == 0
    assert [tcp_pool.read(one, "a.txt") for one in names] == [one.encode() for one in names]


def test_a_script_of_a_session(whole, tcp_pool, name):
    mount = whole()
    os.mkdir(mount / name)
    (mount / name / "x.py").write_text("import sys\nopen('made', 'w').write('by it')\nprint(sys.argv[1])\nsys.exit(3)\n")
    done = process.run([process.ACARUN, mount / name / "x.py", "one"], env=mount.env, check=False)
    assert (done.returncode, done.stdout) == (3, "one\n")
    assert (mount / name / "made").read_text() == "by it" and (mount / name / "x.py.stdout").read_text() == "one\n"
    done = process.run([process.ACARUN, "x.py", "two"], env=mount.env, check=False, cwd=mount / name)
    assert done.stdout == "two\n"


def test_autorun_in_each(whole, name):
    mount = whole(options=["autorun=*.py"])
    for i in range(3):
        os.mkdir(mount / f"{name}-{i}")
        (mount / f"{name}-{i}/x.py").write_text(f"print('in {i}')\n")
    for i in range(3):
        out = mount / f"{name}-{i}/x.py.stdout"
        wait_for(lambda: out.exists() and out.read_text() == f"in {i}\n", 30)


def test_a_job_that_a_crash_left(whole, tcp_pool, proxy, tmp_path, name):
    """A job that waited is taken up again as well."""
    mount = whole(proxy=proxy, cache=tmp_path / "cache")
    os.mkdir(mount / name)
    proxy.rule("POST files", fault.answer(503))
    (mount / name / "x.py").write_text("print('after all')\n")
    handle = os.open(mount / name / ".acafs/control", os.O_RDWR)
    os.write(handle, b"submit x.py\n")
    assert json.loads(os.read(handle, 4096))["job"] == 1
    mount.kill()
    with contextlib.suppress(OSError):
        os.close(handle)
    proxy.clear()
    again = whole(proxy=proxy, cache=tmp_path / "cache")
    wait_for(lambda: tcp_pool.read(name, "x.py.stdout") == b"after all\n", 60)
    wait_for(lambda: again.status()["jobs_waiting"] == 0, 30)


@pytest.mark.limit(240)
def test_a_thousand_sessions_can_be_told_of(whole, own_pool):
    """What is told of all together does not grow beyond use, and does not stop the mount."""
    count, busy, files = 1000, 60, 20
    pool = own_pool(tcp=True, options=["--max-sessions", str(count + 10)])
    for i in range(count):
        allocate(pool, f"session-{i:04}")
    mount = whole(pool=pool, options=["attr-timeout=600", *HASTY])
    assert len(os.listdir(mount)) == count
    for i in range(busy):
        assert os.listdir(mount / f"session-{i:04}") == []
    pool.kill()
    for i in range(busy):
        for j in range(files):
            (mount / f"session-{i:04}/{j}.txt").write_text("x")
    status = mount.status()
    assert (status["sessions"]["known"], status["sessions"]["open"]) == (count, busy)
    assert len(status["pending"]) == 1000 and status["pending_more"] == files * busy - 1000
    assert len((mount / ".acafs/status").read_bytes()) < 300_000
    assert f"acafs_pending_files {files * busy}\n" in (mount / ".acafs/metrics").read_text()
    assert len((mount / ".acafs/metrics").read_bytes()) < 30_000
    told = process.run([process.ACAFS, "status", mount], env=mount.env).stdout
    assert f"{files * busy} files" in told and len(told.splitlines()) < 60, told[-2000:]
    assert str(mount) in process.run([process.ACAFS, "list"], env=mount.env).stdout
    assert mount.said().count("the pool does not answer") == 1, "once for all of them"
    said = len(mount.said())
    os.kill(mount.pid, signal.SIGUSR1)
    wait_for(lambda: "state: jobs_waiting" in mount.said()[said:], 20)
    assert sum(len(line) for line in mount.said().splitlines() if "state: " in line) < 10_000
    mount.kill()
