"""Drop-in: a mount with autorun=GLOB runs scripts that are put into it."""

import json
import os
import shutil
import subprocess
import sys
import threading

import pytest

from support import process
from support.acarun import nothing_left
from support.proxy import delay
from support.wait import wait_for

pytestmark = pytest.mark.session

COUNT = "import sys\nopen('/mnt/data/runs', 'a').write(sys.argv[0] + ' ')\n"


@pytest.fixture
def drop(mounts):
    """A mount that runs *.py, wherever they are."""
    return mounts(options=["autorun=*.py"])


def runs(mount):
    """The names of the scripts that ran so far, in order, and that is all: no job waits."""
    wait_for(lambda: mount.status()["jobs_waiting"] == 0, 60, "the jobs being over")
    return (mount.pool.read(mount.session, "runs") or b"").decode().split()


def test_a_script_that_is_written_runs(drop):
    (drop / "hello.py").write_text("print('hello')\n6 * 7\n")
    wait_for(lambda: (drop / "hello.py.result").exists(), 20)
    assert (drop / "hello.py.stdout").read_text() == "hello\n"
    assert (drop / "hello.py.result").read_text() == "42\n"
    assert (drop / "hello.py.stderr").read_text() == ""
    wait_for(lambda: "job 1, hello.py: succeeded" in drop.said(), 20)


def test_a_script_that_fails_leaves_its_stderr(drop):
    (drop / "bad.py").write_text("print('before')\n1 / 0\n")
    (drop / "worse.py").write_text("1 +\n")
    wait_for(lambda: (drop / "worse.py.stderr").exists(), 20)
    assert "ZeroDivisionError" in (drop / "bad.py.stderr").read_text()
    assert (drop / "bad.py.stdout").read_text() == "before\n"
    assert "SyntaxError" in (drop / "worse.py.stderr").read_text()
    assert "job 1, bad.py: failed: ZeroDivisionError: division by zero" in drop.said()


@pytest.mark.parametrize("how", ["cp {0} new.py", "cat {0} > new.py", "cp {0} tmp && mv tmp new.py", "mkdir d && mv {0} d/ && cp d/* new.py",
                                 "rsync {0} new.py", "dd if={0} of=new.py bs=7 status=none", "install -m 755 {0} new.py",
                                 "cp {0} tmp && sync tmp && mv tmp new.py", "tee new.py < {0} > /dev/null",
                                 "echo 'old' > new.py; until [ -e new.py.stderr ]; do sleep .05; done; cp {0} tmp; mv -f tmp new.py"])
def test_ways_to_put_a_script_there(drop, sh, tmp_path, how):
    (tmp_path / "script").write_text(COUNT)
    process.run(how.format(tmp_path / "script"), cwd=drop.path)
    wait_for(lambda: (drop / "new.py.result").exists(), 20)
    assert runs(drop)[-1] == "new.py" and runs(drop).count("new.py") == 1


def test_once_for_each_content(drop):
    for turn in range(3):
        (drop / "x.py").write_text(COUNT)  # the same, written again
        assert runs(drop) == ["x.py"]
    os.utime(drop / "x.py")
    os.chmod(drop / "x.py", 0o755)
    (drop / "tmp").write_text(COUNT)
    os.rename(drop / "tmp", drop / "x.py")  # as an editor saves what was not changed
    with open(drop / "x.py", "a"):
        pass
    assert runs(drop) == ["x.py"]
    with open(drop / "x.py", "a") as file:
        file.write("# more\n")
    assert runs(drop) == ["x.py"] * 2
    (drop / "x.py").write_text(COUNT)  # what came before the last one is new again
    assert runs(drop) == ["x.py"] * 3
    (drop / "y.py").write_text(COUNT)  # another script that says the same
    assert runs(drop) == ["x.py"] * 3 + ["y.py"]


def test_a_new_name_is_no_new_content(drop):
    (drop / "x.py").write_text(COUNT)
    assert runs(drop) == ["x.py"]
    os.rename(drop / "x.py", drop / "y.py")
    (drop / "y.py").write_text(COUNT)
    assert runs(drop) == ["x.py"]
    os.rename(drop / "y.py", drop / "y.txt")
    assert runs(drop) == ["x.py"]


def test_only_what_matches(mounts):
    mount = mounts(options=["autorun=jobs/*.py"])
    for folder in ("jobs", "jobs/deep", "other"):
        (mount / folder).mkdir()
    for name in ("top.py", "other/a.py", "jobs/deep/b.py", "jobs/c.txt", "jobs/.hidden.py", "jobs/d.py.bak", "jobs/yes.py"):
        (mount / name).write_text(COUNT)
    assert runs(mount) == ["yes.py"]
    os.rename(mount / "top.py", mount / "jobs/top.py")  # into place
    assert runs(mount) == ["yes.py", "top.py"]


def test_never_its_own_outputs(mounts):
    """Even where the pattern would take anything."""
    mount = mounts(options=["autorun=*"])
    (mount / "x.py").write_text(COUNT + "open('/mnt/data/made.py', 'w').write('1 / 0')\n'print(1)'\n")
    assert runs(mount) == ["x.py"]
    shutil.copy(mount / "x.py.result", mount / "x.py.stdout")
    assert runs(mount) == ["x.py"] and len(os.listdir(mount / ".acafs/jobs")) == 1


def test_not_what_was_there_already(mounts, session, pool):
    pool.write(session, "old.py", COUNT.encode())
    mount = mounts(session=session, options=["autorun=*.py"])
    assert (mount / "old.py").read_text() == COUNT
    with open(mount / "old.py", "r+"):
        pass
    os.rename(mount / "old.py", mount / "older.py")
    assert runs(mount) == []
    with open(mount / "older.py", "a") as file:
        file.write("# changed\n")
    assert runs(mount) == ["older.py"]
    assert mount.unmount() == 0
    again = mounts(session=session, options=["autorun=*.py"])
    assert (again / "older.py").exists()
    assert runs(again) == ["older.py"]


def test_never_half_a_script(drop):
    """Not while anybody has it open for writing, whatever else is closed meanwhile."""
    first = open(drop / "x.py", "w")
    first.write("1 / 0  # not the end\n")
    first.flush()
    os.close(os.dup(first.fileno()))
    subprocess.run(["true"], pass_fds=[first.fileno()], check=True)
    with open(drop / "x.py", "a"):
        pass
    os.rename(drop / "x.py", drop / "y.py")
    assert runs(drop) == [] and os.listdir(drop / ".acafs/jobs") == []
    first.seek(0)
    first.truncate()
    first.write(COUNT)
    first.close()
    assert runs(drop) == ["y.py"]


def test_not_when_only_made(drop):
    (drop / "x.py").touch()
    process.run("mknod y.py p || true; : > z.py; ln -s x.py link.py", cwd=drop.path, check=False)
    assert runs(drop) == [] and os.listdir(drop / ".acafs/jobs") == []


def test_a_script_that_is_opened_again_before_its_turn_waits(drop):
    """Its job was queued; it runs when it is whole again, once, as it is then."""
    (drop / "long.py").write_text("import os, time\nwhile not os.path.exists('/mnt/data/go'): time.sleep(.01)\n")
    (drop / "x.py").write_text("1 / 0\n")
    (drop / "y.py").write_text(COUNT)
    file = open(drop / "x.py", "w")
    file.write(COUNT[:20])
    file.flush()
    drop.pool.write(drop.session, "go", b"")
    wait_for(lambda: drop.status()["jobs_waiting"] == 0, 20)
    assert runs(drop) == ["y.py"]
    file.write(COUNT[20:])
    file.close()
    assert runs(drop) == ["y.py", "x.py"]
    assert (drop / "x.py.stderr").read_text() == ""


def test_a_script_that_is_renamed_before_its_turn_runs_by_its_new_name(drop):
    (drop / "long.py").write_text("import os, time\nwhile not os.path.exists('/mnt/data/go'): time.sleep(.01)\n")
    (drop / "x.py").write_text(COUNT)
    os.rename(drop / "x.py", drop / "y.py")
    drop.pool.write(drop.session, "go", b"")
    assert runs(drop) == ["y.py"]


def test_two_scripts_that_change_places(drop):
    (drop / "x.py").write_text(COUNT)
    (drop / "y.py").write_text(COUNT + "# y\n")
    assert runs(drop) == ["x.py", "y.py"]
    code = "import ctypes, sys; sys.exit(ctypes.CDLL(None).renameat2(-100, b'x.py', -100, b'y.py', 2))"
    subprocess.run([sys.executable, "-c", code], cwd=drop.path, check=True)
    assert sorted(runs(drop)[2:]) == ["x.py", "y.py"]


def held():
    """An action for a proxy, and the event that ends it: what matches goes on its way then."""
    release = threading.Event()

    def act(exchange):
        while not release.is_set():
            exchange.pause(0.02)
        exchange.forward()
    return act, release


@pytest.mark.parametrize("how", ["written", "renamed over", "the same again", "removed"])
def test_a_script_that_is_replaced_while_its_job_starts(mounts, proxy, tmp_path, how):
    """Its start is on the way to the session, where it finds another script: that runs in its turn,
    and once."""
    mount = mounts(proxy=proxy, options=["autorun=*.py"])
    (mount / "first.py").write_text(COUNT)
    assert runs(mount) == ["first.py"]
    act, release = held()
    start = proxy.rule("POST executions", act, times=1)
    (mount / "x.py").write_text(COUNT + "open('/mnt/data/runs', 'a').write('old ')\n")
    wait_for(lambda: start.used, 20, "the job's start")
    if how == "written":
        (mount / "x.py").write_text(COUNT)
    elif how == "renamed over":
        (mount / "tmp").write_text(COUNT)
        os.rename(mount / "tmp", mount / "x.py")
    elif how == "the same again":
        file = open(mount / "x.py", "w")
        os.fsync(file.fileno())
    else:
        os.remove(mount / "x.py")
    if how in ("written", "renamed over"):
        mount.sync()
    release.set()
    if how == "the same again":
        wait_for(lambda: mount.status()["jobs_waiting"] == 0, 60, "the job's end")
        file.write(COUNT + "open('/mnt/data/runs', 'a').write('old ')\n")
        file.close()
    ran = {"the same again": ["x.py", "old"], "removed": []}.get(how, ["x.py"])
    wait_for(lambda: runs(mount) == ["first.py", *ran], 30, "the runs")
    if how == "removed":
        assert not (mount / "x.py.stderr").exists()
    else:
        assert (mount / f"{ran[0]}.stderr").read_text() == ""


def test_an_upload_that_takes_long_comes_first(mounts, proxy):
    mount = mounts(proxy=proxy, options=["autorun=*.py"])
    proxy.rule("POST files", delay(0.5))
    (mount / "data").write_text("x" * 1000)
    (mount / "x.py").write_text("print(len(open('data').read()))\n")
    wait_for(lambda: (mount / "x.py.stdout").exists(), 30)
    assert (mount / "x.py.stdout").read_text() == "1000\n"


@pytest.mark.limit(240)
def test_a_burst_runs_all_in_order_once_each(drop, tmp_path):
    for n in range(200):
        (tmp_path / f"s{n:03}").write_text(COUNT + f"# {n}\n")
    process.run(f"for f in {tmp_path}/s*; do cp $f $(basename $f).py; done", cwd=drop.path)
    wait_for(lambda: drop.status()["jobs_waiting"] == 0, 200, "the burst being over")
    assert runs(drop) == [f"s{n:03}.py" for n in range(200)]
    assert {name for name in os.listdir(drop) if name.endswith(".stderr")} == {f"s{n:03}.py.stderr" for n in range(200)}
    nothing_left(drop.pool, drop.session)


def test_jobs_of_the_mount_are_listed_as_any_others(drop):
    (drop / "x.py").write_text(COUNT)
    assert runs(drop) == ["x.py"]
    status = json.loads((drop / ".acafs/jobs/1/status").read_text())
    assert (status["path"], status["state"]) == ("x.py", "succeeded")
    assert drop.control("wait 1")["state"] == "succeeded"


def test_without_the_option_nothing_runs(mount):
    (mount / "x.py").write_text(COUNT)
    assert runs(mount) == [] and os.listdir(mount / ".acafs/jobs") == []
