"""The mount and the session behind it: what one does, the other sees."""

import errno
import json
import os
import subprocess
import time

import pytest

from support.process import run
from support.wait import wait_for

pytestmark = pytest.mark.session


def test_files_written_here_are_in_the_session(mount):
    (mount / "d").mkdir()
    (mount / "d/a.txt").write_text("content")
    mount.sync()
    assert mount.pool.run(mount.session, "open('/mnt/data/d/a.txt').read()") == "content"


def test_fsync_means_it_is_there(mount):
    with open(mount / "a", "w") as file:
        file.write("durable")
        file.flush()
        os.fsync(file.fileno())
        assert mount.pool.read(mount.session, "a") == b"durable"


def test_option_sync_makes_close_wait(mounts):
    mount = mounts(options=["sync"])
    for n in range(5):
        (mount / "a").write_text(f"version {n}")
        assert mount.pool.read(mount.session, "a") == b"version %d" % n


def test_files_of_executed_code_appear(mounts):
    mount = mounts(options=["attr-timeout=1"])
    assert os.listdir(mount) == []
    mount.pool.run(mount.session, "open('/mnt/data/new.txt', 'w').write('by code')")
    wait_for(lambda: os.listdir(mount) == ["new.txt"], 5)
    assert (mount / "new.txt").read_text() == "by code"


def test_changes_of_executed_code_show(mounts):
    mount = mounts(options=["attr-timeout=1"])
    (mount / "a").write_text("here")
    mount.sync()
    mount.pool.run(mount.session, "open('/mnt/data/a', 'a').write(' and there, at length')")
    wait_for(lambda: (mount / "a").read_text() == "here and there, at length", 5)
    assert (mount / "a").stat().st_size == 25


def test_a_change_of_the_same_size_shows(mounts):
    mount = mounts(options=["attr-timeout=1"])
    (mount / "a").write_text("one")
    mount.sync()
    assert (mount / "a").read_text() == "one"
    mount.pool.run(mount.session, "open('/mnt/data/a', 'w').write('two')")
    wait_for(lambda: (mount / "a").read_text() == "two", 5)


def test_files_deleted_in_the_session_disappear(mounts):
    mount = mounts(options=["attr-timeout=1"])
    for name in ("a", "b"):
        (mount / name).write_text(name)
    mount.sync()
    assert sorted(os.listdir(mount)) == ["a", "b"]
    mount.pool.delete(mount.session, "a")
    wait_for(lambda: os.listdir(mount) == ["b"], 5)
    with pytest.raises(FileNotFoundError):
        (mount / "a").read_text()


def test_a_tree_made_by_code(mounts):
    mount = mounts(options=["attr-timeout=1"])
    mount.pool.run(mount.session, """
import os
os.makedirs('/mnt/data/x/.git/y')
os.makedirs('/mnt/data/v1.2')
open('/mnt/data/x/.git/y/a+b', 'w').write('1')
open('/mnt/data/v1.2/c', 'w').write('2')
os.symlink('v1.2/c', '/mnt/data/link')
os.chmod('/mnt/data/v1.2/c', 0o755)
""")
    wait_for(lambda: set(os.listdir(mount)) == {"x", "v1.2", "link"}, 5)
    assert run("cat x/.git/y/a+b v1.2/c link; readlink link", cwd=mount).stdout == "122v1.2/c\n"


def test_refresh_shows_changes_at_once(mounts):
    mount = mounts(options=["attr-timeout=600"])
    assert os.listdir(mount) == []
    mount.pool.write(mount.session, "fresh", b"x")
    mount.control("refresh")
    assert os.listdir(mount) == ["fresh"]


def test_two_mounts_of_one_session_in_turn(mounts, session):
    one = mounts(session=session)
    (one / "dir").mkdir()
    (one / "dir/a").write_text("from one")
    (one / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (one / "run.sh").chmod(0o755)
    assert one.unmount() == 0
    two = mounts(session=session)
    assert (two / "dir/a").read_text() == "from one"
    with open(two / "dir/a", "a") as file:
        file.write(", then two")
    assert two.unmount() == 0
    three = mounts(session=session)
    assert (three / "dir/a").read_text() == "from one, then two"
    assert sorted(os.listdir(three)) == ["dir", "run.sh"]


def test_metadata_survives_a_remount(mounts, session, tmp_path):
    one = mounts(session=session, cache=tmp_path / "cache")
    (one / "x").write_text("x")
    os.chmod(one / "x", 0o640)
    os.utime(one / "x", (1_000_000_000, 1_000_000_000))
    os.symlink("x", one / "s")
    assert one.unmount() == 0
    two = mounts(session=session, cache=tmp_path / "cache")
    status = os.stat(two / "x")
    assert (oct(status.st_mode & 0o7777), status.st_mtime) == ("0o640", 1_000_000_000)
    assert os.readlink(two / "s") == "x"


def test_two_sessions_do_not_see_each_other(mounts):
    one, two = mounts(), mounts()
    (one / "a").write_text("one")
    one.sync()
    assert os.listdir(two) == []


def test_unmounting_uploads_what_is_left(mounts, session, pool):
    mount = mounts(session=session)
    for n in range(50):
        (mount / f"f{n}").write_text(str(n))
    assert mount.unmount() == 0
    assert pool.names(session) == {f"f{n}" for n in range(50)}
    assert pool.read(session, "f49") == b"49"


def test_overwrites_in_quick_succession(mounts, session, pool):
    mount = mounts(session=session)
    for n in range(100):
        (mount / "a").write_text(f"version {n} " + "x" * (n * 37 % 1000))
    (mount / "b").write_text("b")
    os.rename(mount / "b", mount / "c")
    (mount / "b").write_text("b again")
    os.unlink(mount / "c")
    mount.sync()
    assert pool.read(session, "a").startswith(b"version 99 ")
    assert pool.names(session) == {"a", "b"}
    assert pool.read(session, "b") == b"b again"


def test_no_scraps_are_left_in_the_session(mount):
    """Staging files, helper files and the like are gone when all is done."""
    run("mkdir .git; echo 1 > .git/config; echo 2 > a~; mkdir d; mv a~ d/x:y; ln -s d l; rm -r .git", cwd=mount)
    mount.sync()
    assert mount.pool.run(mount.session, "import os; sorted(os.listdir('/mnt/data'))") == ["d", "l"]


def test_the_users_kernel_stays_clean(mount):
    before = mount.pool.run(mount.session, "sorted(globals())")
    run("mkdir a; mv a b; ln -s b c; rmdir b; echo > 'x:y'; rm c", cwd=mount)
    mount.sync()
    assert set(mount.pool.run(mount.session, "sorted(globals())")) <= set(before)


def test_names_nobody_may_see_are_hidden(mount):
    mount.pool.write(mount.session, "acafs-stage-0123456789abcdef", b"x")
    mount.pool.write(mount.session, "acafs-other", b"x")
    mount.control("refresh")
    assert os.listdir(mount) == ["acafs-other"]


def test_a_mount_works_while_a_script_runs(mounts, session, pool):
    """File calls do not wait behind the user's running code."""
    mount = mounts(session=session, options=["attr-timeout=0"])
    (mount / "a").write_text("a")
    mount.sync()
    pool.run(session, "1")
    code = "import os, time\nwhile not os.path.exists('/mnt/data/stop'): time.sleep(.05)"
    import threading
    running = threading.Thread(target=pool.execute, args=(session, code))
    running.start()
    try:
        began = time.monotonic()
        (mount / "b").write_text("b")
        (mount / "d").mkdir()
        os.rename(mount / "b", mount / "d/b")
        mount.sync()
        assert sorted(os.listdir(mount)) == ["a", "d"]
        assert (mount / "d/b").read_text() == "b"
        assert time.monotonic() - began < 20
        assert running.is_alive()
    finally:
        pool.write(session, "stop", b"")
        running.join(30)


def test_one_session_from_two_mounts_at_once(mounts, session):
    one = mounts(session=session, options=["attr-timeout=1"])
    two = mounts(session=session, options=["attr-timeout=1"])
    (one / "a").write_text("first")
    one.sync()
    wait_for(lambda: (two / "a").read_text() == "first", 5)
    (two / "a").write_text("second, longer")
    two.sync()
    wait_for(lambda: (one / "a").read_text() == "second, longer", 5)


# --- .acafs

def test_dot_acafs_is_hidden_but_there(mount):
    assert ".acafs" not in os.listdir(mount)
    assert run(["ls", "-A", mount]).stdout == ""
    assert {"control", "status"} <= set(os.listdir(mount / ".acafs"))
    assert run(f"find {mount}").stdout == f"{mount}\n"


def test_dot_acafs_can_not_be_changed(mount):
    for call in (lambda: os.mkdir(mount / ".acafs"), lambda: os.rmdir(mount / ".acafs"),
                 lambda: os.unlink(mount / ".acafs/control"), lambda: (mount / ".acafs/new").write_text("x"),
                 lambda: os.rename(mount / ".acafs", mount / "x"),
                 lambda: os.mkdir(mount / ".acafs/d")):
        with pytest.raises(OSError):
            call()
    (mount / "a").write_text("a")
    with pytest.raises(OSError):
        os.rename(mount / "a", mount / ".acafs/a")
    mount.sync()
    assert mount.pool.names(mount.session) == {"a"}


def test_status_tells(mount):
    (mount / "a").write_text("a")
    mount.sync()
    status = mount.status()
    assert mount.session in json.dumps(status)
    assert run(["cat", mount / ".acafs/status"]).stdout.endswith("\n")


def test_echo_sync(mount):
    (mount / "a").write_text("x" * 100_000)
    run("echo sync > .acafs/control", cwd=mount)
    assert mount.pool.read(mount.session, "a") == b"x" * 100_000


def test_control_answers_in_one_document(mount):
    assert "error" not in mount.control("sync")
    assert "error" not in mount.control("refresh")
    (mount / "d").mkdir()
    assert "error" not in mount.control("refresh d")


@pytest.mark.parametrize("line", ["nonsense", "sync too much", "run", "wait x", "wait 99999", "cancel -1",
                                  "submit {", 'submit {"path":7}', "x" * 5000])
def test_control_refuses_what_it_does_not_know(mount, line):
    handle = os.open(mount / ".acafs/control", os.O_RDWR)
    try:
        try:
            os.write(handle, line.encode() + b"\n")
        except OSError as error:
            assert error.errno in (errno.EINVAL, errno.ENOENT, errno.E2BIG, errno.EMSGSIZE)
        else:
            assert json.loads(os.read(handle, 65536))["error"]["errno"] in ("EINVAL", "ENOENT", "ESRCH")
    finally:
        os.close(handle)
    assert (mount / ".acafs/status").read_text()


def test_many_conversations_at_once(mount):
    for n in range(20):
        (mount / f"f{n}").write_text(str(n))
    several = [subprocess.Popen("echo sync > .acafs/control", shell=True, cwd=mount) for _ in range(10)]
    assert [process.wait(30) for process in several] == [0] * 10


def test_control_belongs_to_the_mounting_user(mount):
    assert oct(os.stat(mount / ".acafs/control").st_mode & 0o777) == "0o600"
    assert os.stat(mount / ".acafs/control").st_uid == os.getuid()


def test_a_job_by_the_control_file(mount):
    (mount / "hello.py").write_text("import sys\nprint('hello', *sys.argv[1:])\n6 * 7\n")
    reply = mount.control('run {"path":"hello.py","args":["a","b"]}')
    assert (reply["state"], reply["exit_code"], reply["value"]) == ("succeeded", 0, 42)
    job = mount / f".acafs/jobs/{reply['job']}"
    assert (job / "stdout").read_text() == "hello a b\n"
    assert (job / "stderr").read_text() == ""


def test_output_can_be_followed_while_it_runs(mount):
    (mount / "slow.py").write_text("import os, time\nprint('begun', flush=True)\n"
                                   "while not os.path.exists('go'): time.sleep(.05)\nprint('done')\n")
    number = mount.control('submit {"path":"slow.py"}')["job"]
    with open(mount / f".acafs/jobs/{number}/stdout", "rb", buffering=0) as out:
        assert out.read(100) == b"begun\n"
        mount.pool.write(mount.session, "go", b"")
        assert out.read(100) == b"done\n"
        assert out.read(100) == b""
    assert mount.control(f"wait {number}")["state"] == "succeeded"


def test_what_others_made_longer_is_read_whole(mounts):
    """The attributes from before are still believed; a mix of new bytes and the old size would be neither file."""
    mount = mounts(options=["attr-timeout=600"])
    mount.pool.write(mount.session, "a", b"old!")
    mount.control("refresh")
    assert os.stat(mount / "a").st_size == 4
    mount.pool.write(mount.session, "a", b"new and longer")
    assert (mount / "a").read_bytes() == b"new and longer"
    assert os.stat(mount / "a").st_size == 14
    mount.pool.write(mount.session, "b", b"old and longer")
    mount.control("refresh")
    assert os.stat(mount / "b").st_size == 14
    mount.pool.write(mount.session, "b", b"new")
    assert (mount / "b").read_bytes() == b"new"
    assert run(["cat", mount / "b"]).stdout == "new"
