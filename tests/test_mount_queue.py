"""The queue outlives the daemon: no job that was submitted is forgotten, and none is run twice. Each script here
counts its own runs in a file that nothing but the session knows."""

import contextlib
import json
import os
import random
import signal
import subprocess
import threading

import pytest

from support.acarun import nothing_left, run_folders
from support.wait import wait_for

pytestmark = [pytest.mark.session, pytest.mark.limit(120)]

COUNTS = """
import os, sys, time
with open("/mnt/data/runs", "a") as file: file.write(" ".join(sys.argv[1:] or ["once"]) + "\\n")
print("begun", *sys.argv[1:], flush=True)
"""
AT_ONCE = COUNTS + "print('over')\n6 * 7\n"
UNTIL_GO = COUNTS + "while not os.path.exists('/mnt/data/go'): time.sleep(.01)\nprint('over')\n6 * 7\n"
SEEDS = [int(os.environ["ACAFS_SEED"])] if "ACAFS_SEED" in os.environ else [1, 2, 3]
STEPS = ["job-kept", "job-named", "job-begun", "job-done", "job-told"]


@pytest.fixture
def remount(mounts, pool, session, tmp_path):
    """Mounts the session, again and again with the same cache and place."""
    def make(*options, pool=pool, session=session, **how):
        return mounts(pool=pool, session=session, cache=tmp_path / "cache", at=tmp_path / "mnt",
                      options=["attr-timeout=1", *options], **how)
    return make


@pytest.fixture
def runs(pool, session):
    """What the scripts told of their runs, in order."""
    return lambda: (pool.read(session, "runs") or b"").decode().split("\n")[:-1]


def put(mount, name, text):
    (mount / name).write_text(text)
    mount.sync()


def submit(mount, line):
    return mount.control(f"submit {line}")["job"]


def job_file(mount, number, name):
    return (mount / f".acafs/jobs/{number}/{name}").read_text()


def state(mount, number):
    return json.loads(job_file(mount, number, "status"))["state"]


def follow(mount, number, line):
    """Until the job has put that line out."""
    with open(mount / f".acafs/jobs/{number}/stdout") as stream:
        assert stream.readline() == line


def lets_go(pool, session):
    pool.write(session, "go", b"")


# --- crashes

@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step(remount, pool, session, runs, step):
    mount = remount()
    put(mount, "x.py", AT_ONCE.replace("print('over')", "time.sleep(.4)\nprint('over')"))
    mount.unmount()
    mount = remount(env={"ACAFS_FAULT": step})
    answer = None
    with contextlib.suppress(OSError):  # who asked hears of its death, or was answered before
        answer = submit(mount, "x.py")
    assert mount.process.wait(20) == -signal.SIGKILL
    mount.kill()
    assert answer is None if step == "job-kept" else answer in (None, 1)
    again = remount()
    reply = again.control("wait 1")
    assert (reply["job"], reply["state"], reply["value"]) == (1, "succeeded", 42), reply
    assert runs() == ["once"]
    assert job_file(again, 1, "stdout") == "begun\nover\n"
    assert (again / "x.py.stdout").read_text() == "begun\nover\n"
    nothing_left(pool, session)
    assert submit(again, "x.py two") == 2
    assert again.control("wait 2")["state"] == "succeeded"
    assert runs() == ["once", "two"]


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_at_any_time(remount, pool, session, runs, seed):
    """Again and again, while jobs are submitted and run. Repeat with ACAFS_SEED."""
    dice = random.Random(seed)
    mount = remount()
    put(mount, "x.py", AT_ONCE)
    taken = {}
    for turn in range(5):
        killer = threading.Timer(dice.uniform(0, .6), mount.process.kill)
        killer.start()
        with contextlib.suppress(OSError, ValueError):
            for n in range(4):
                word = f"{turn}-{n}"
                taken[submit(mount, f"x.py {word}")] = word
        killer.join()
        mount.process.wait(20)
        mount.kill()
        mount = remount()
    last = submit(mount, "x.py last")
    assert mount.control(f"wait {last}")["state"] == "succeeded"
    told = runs()
    assert len(told) == len(set(told)), told
    # What was not answered may have been taken, too; what was, did run, in its order.
    assert [word for word in told if word in taken.values()] == list(taken.values())
    for number, word in taken.items():
        assert job_file(mount, number, "stdout") == f"begun {word}\nover\n"
        assert mount.control(f"wait {number}")["value"] == 42
    nothing_left(pool, session)


def test_killed_before_its_turn(remount, pool, session, runs):
    mount = remount()
    put(mount, "x.py", UNTIL_GO)
    for n in range(4):
        assert submit(mount, f"x.py {n}") == n + 1
    follow(mount, 1, "begun 0\n")
    mount.kill()
    assert runs() == ["0"]
    again = remount()
    assert os.listdir(again / ".acafs/jobs") == ["1", "2", "3", "4"]
    follow(again, 1, "begun 0\n")
    assert [state(again, n) for n in (1, 2, 3, 4)] == ["running", "queued", "queued", "queued"]
    assert submit(again, "x.py 4") == 5
    lets_go(pool, session)
    assert again.control("wait 5")["state"] == "succeeded"
    assert runs() == ["0", "1", "2", "3", "4"]
    assert [again.control(f"wait {n}")["value"] for n in (1, 2, 3, 4)] == [42] * 4
    nothing_left(pool, session)


def test_killed_while_it_runs(remount, pool, session, runs):
    mount = remount()
    put(mount, "x.py", UNTIL_GO)
    submit(mount, "x.py")
    follow(mount, 1, "begun\n")
    for _ in range(3):
        mount.kill()
        mount = remount()
        follow(mount, 1, "begun\n")
    lets_go(pool, session)
    assert mount.control("wait 1")["state"] == "succeeded"
    assert job_file(mount, 1, "stdout") == "begun\nover\n"
    assert runs() == ["once"]
    nothing_left(pool, session)


@pytest.mark.parametrize("how", ["succeeds", "fails"])
def test_over_before_anybody_asked(remount, pool, session, runs, how):
    mount = remount()
    put(mount, "x.py", UNTIL_GO + "print('so', file=sys.stderr)\n" + ("7\n" if how == "succeeds" else "sys.exit(3)\n"))
    submit(mount, "x.py")
    follow(mount, 1, "begun\n")
    mount.kill()
    lets_go(pool, session)
    wait_for(lambda: run_folders(pool, session)[1] == [], what="the script's end")
    again = remount()
    reply = again.control("wait 1")
    assert (reply["state"], reply["exit_code"], reply["value"]) == \
        (("succeeded", 0, 7) if how == "succeeds" else ("failed", 3, None))
    assert job_file(again, 1, "stdout") == "begun\nover\n" and job_file(again, 1, "stderr") == "so\n"
    assert runs() == ["once"]
    nothing_left(pool, session)


def test_what_is_over_can_be_asked_later(remount, pool, session, runs):
    mount = remount()
    put(mount, "x.py", AT_ONCE)
    reply = mount.control("run x.py")
    mount.kill()
    again = remount()
    assert again.control("wait 1") == reply
    assert json.loads(job_file(again, 1, "result")) == reply
    assert job_file(again, 1, "stdout") == "begun\nover\n" and job_file(again, 1, "code") == "x.py\n"
    assert again.control("run x.py 2")["job"] == 2
    assert runs() == ["once", "2"]


def test_canceled_and_killed(remount, pool, session, runs):
    mount = remount()
    put(mount, "x.py", UNTIL_GO)
    for n in (1, 2):
        submit(mount, f"x.py {n}")
    follow(mount, 1, "begun 1\n")
    mount.control("cancel 2")
    mount.kill()
    again = remount()
    assert again.control("wait 2")["state"] == "canceled"
    follow(again, 1, "begun 1\n")
    again.control("cancel 1")
    again.kill()
    third = remount()
    assert third.control("wait 1")["state"] == "canceled"
    assert runs() == ["1"]
    nothing_left(pool, session)


# --- code

def test_long_code_is_found_again(remount, pool, session, runs):
    mount = remount()
    code = UNTIL_GO + "# " + "x" * 200_000 + "\n43\n"
    assert submit(mount, json.dumps({"code": code, "args": ["a b", "c"]})) == 1
    follow(mount, 1, "begun a b c\n")
    mount.kill()
    lets_go(pool, session)
    again = remount()
    assert again.control("wait 1")["value"] == 43
    assert job_file(again, 1, "code") == code + "\n"
    assert runs() == ["a b c"]
    nothing_left(pool, session)


def test_plain_code_is_asked_after(remount, pool, session, runs):
    mount = remount()
    code = "with open('/mnt/data/runs', 'a') as f: n = f.write('plain\\n')\nimport os, time\n" \
           "while not os.path.exists('/mnt/data/go'): time.sleep(.01)\nprint('said')\n5"
    submit(mount, json.dumps({"code": code, "plain": True}))
    wait_for(lambda: runs() == ["plain"], what="its beginning")
    mount.kill()
    again = remount()
    wait_for(lambda: state(again, 1) == "running", what="its being looked for")
    lets_go(pool, session)
    reply = again.control("wait 1")
    assert (reply["state"], reply["value"], job_file(again, 1, "stdout")) == ("succeeded", 5, "said\n"), reply
    assert runs() == ["plain"]


def test_in_the_kernel(remount, pool, session, runs):
    mount = remount()
    put(mount, "x.py", UNTIL_GO)
    submit(mount, json.dumps({"path": "x.py", "in_kernel": True}))
    wait_for(lambda: runs() == ["once"], what="its beginning")
    mount.kill()
    again = remount()
    lets_go(pool, session)
    reply = again.control("wait 1")
    assert (reply["state"], reply["value"], job_file(again, 1, "stdout")) == ("succeeded", 42, "begun\nover\n"), reply
    assert runs() == ["once"]
    nothing_left(pool, session)


@pytest.mark.parametrize("how", ["plain", "in_kernel"])
def test_in_the_kernel_nothing_is_started_by_guess(remount, pool, session, runs, how):
    """Nothing tells whether it is still to begin there."""
    mount = remount(env={"ACAFS_FAULT": "job-named"})
    with contextlib.suppress(OSError):
        submit(mount, json.dumps({"code": "open('/mnt/data/runs', 'a').write('ran\\n')", how: True}))
    assert mount.process.wait(20) == -signal.SIGKILL
    mount.kill()
    reply = remount().control("wait 1")
    assert (reply["state"], reply["exit_code"]) == ("lost", 1) and reply["message"]
    assert runs() == []


# --- an orderly end

@pytest.mark.parametrize("how", ["fusermount3", "SIGTERM"])
def test_jobs_that_nobody_waits_for_go_on(remount, pool, session, runs, how):
    mount = remount()
    put(mount, "x.py", UNTIL_GO)
    for n in range(3):
        submit(mount, f"x.py {n}")
    follow(mount, 1, "begun 0\n")
    assert mount.unmount(how) == 0
    assert len(run_folders(pool, session)[1]) >= 2  # the script, and who looks after it
    again = remount()
    follow(again, 1, "begun 0\n")
    lets_go(pool, session)
    assert again.control("wait 3")["state"] == "succeeded"
    assert runs() == ["0", "1", "2"]
    assert again.unmount() == 0
    nothing_left(pool, session)


def test_a_job_that_somebody_waits_for_is_canceled(remount, pool, session, runs):
    mount = remount()
    put(mount, "x.py", UNTIL_GO)
    waiting = os.open(mount / ".acafs/control", os.O_RDWR)
    os.write(waiting, b"run x.py waited\n")
    submit(mount, "x.py alone")
    follow(mount, 1, "begun waited\n")
    assert mount.unmount("SIGTERM", deadline=None) is None
    assert json.loads(os.read(waiting, 4096))["state"] == "canceled"
    os.close(waiting)
    assert mount.process.wait(30) == 0
    again = remount()
    assert again.control("wait 1")["state"] == "canceled"
    lets_go(pool, session)
    assert again.control("wait 2")["state"] == "succeeded"
    assert runs() == ["waited", "alone"]
    nothing_left(pool, session)


# --- what happens meanwhile

def test_the_session_is_recycled_meanwhile(remount, pool, session):
    mount = remount()
    put(mount, "x.py", UNTIL_GO)
    submit(mount, "x.py one")
    submit(mount, json.dumps({"code": COUNTS, "args": ["two"]}))
    follow(mount, 1, "begun one\n")
    mount.kill()
    assert pool.request("DELETE", "session", session).status in (200, 204)
    again = remount()
    reply = again.control("wait 1")
    assert (reply["state"], reply["exit_code"]) == ("lost", 1) and "recycled" in reply["message"]
    assert again.control("wait 2")["state"] == "succeeded"  # it was not begun in the old one
    assert pool.read(session, "runs") == b"two\n"
    nothing_left(pool, session)


def test_named_in_a_session_that_is_no_more(remount, pool, session):
    """Whether it was started in there can't be known."""
    put(mount := remount(env={"ACAFS_FAULT": "job-named"}), "x.py", AT_ONCE)
    submit(mount, json.dumps({"code": AT_ONCE}))
    assert mount.process.wait(20) == -signal.SIGKILL
    mount.kill()
    assert pool.request("DELETE", "session", session).status in (200, 204)
    again = remount()
    assert again.control("wait 1")["state"] == "lost"
    assert pool.read(session, "runs") is None


def test_the_pool_is_away_at_the_restart(remount, own_pool, session):
    pool = own_pool()
    mount = remount(pool=pool)
    put(mount, "x.py", UNTIL_GO)
    submit(mount, "x.py one")
    submit(mount, "x.py two")
    follow(mount, 1, "begun one\n")
    mount.kill()
    os.kill(pool.process.pid, signal.SIGSTOP)
    away = remount("timeout-connect=1", "timeout-read=1", "max-retries=0", pool=pool, start=False)
    done = subprocess.run(away.command(), env=away.env, capture_output=True, timeout=60, check=False)
    os.kill(pool.process.pid, signal.SIGCONT)
    assert done.returncode == 69, done
    again = remount(pool=pool)
    lets_go(pool, session)
    assert again.control("wait 2")["state"] == "succeeded"
    assert pool.read(session, "runs") == b"one\ntwo\n"
    again.unmount()


def test_the_pool_goes_away_after_the_restart(remount, own_pool, session):
    pool = own_pool()
    mount = remount(pool=pool)
    put(mount, "x.py", UNTIL_GO)
    submit(mount, "x.py")
    follow(mount, 1, "begun\n")
    mount.kill()
    again = remount("timeout-connect=1", "timeout-read=1", "max-retries=0", pool=pool)
    os.kill(pool.process.pid, signal.SIGSTOP)
    wait_for(lambda: again.status()["jobs_waiting"] == 1, what="a status without the pool")
    os.kill(pool.process.pid, signal.SIGCONT)
    lets_go(pool, session)
    assert again.control("wait 1")["state"] == "succeeded"
    assert pool.read(session, "runs") == b"once\n"
    again.unmount()


# --- autorun

def test_autorun_goes_on(remount, pool, session, runs):
    mount = remount("autorun=*.py")
    for n in range(3):
        (mount / f"s{n}.py").write_text(UNTIL_GO.replace('"once"', f'"s{n}"'))
    follow(mount, 1, "begun\n")
    mount.kill()
    again = remount("autorun=*.py")
    lets_go(pool, session)
    assert again.control("wait 3")["state"] == "succeeded"
    assert runs() == ["s0", "s1", "s2"]
    for n in range(3):  # the same content again is nothing new
        (again / f"s{n}.py").write_text(UNTIL_GO.replace('"once"', f'"s{n}"'))
    (again / "s3.py").write_text(AT_ONCE)
    assert again.control("wait 4")["state"] == "succeeded"
    assert runs() == ["s0", "s1", "s2", "once"]
    assert sorted(os.listdir(again / ".acafs/jobs")) == ["1", "2", "3", "4"]


# --- the cache

def test_no_job_is_taken_that_cant_be_kept(remount, runs):
    mount = remount()
    put(mount, "x.py", AT_ONCE)
    folder = os.path.join(mount.status()["cache"]["directory"], "jobs")
    os.rmdir(folder)
    reply = mount.control("submit x.py")
    assert reply["error"]["errno"] == "ENOENT", reply
    assert mount.control("wait 1")["state"] == "lost"
    assert runs() == []


def test_damaged_documents_are_passed_over(remount, runs):
    mount = remount()
    put(mount, "x.py", AT_ONCE)
    for _ in range(2):
        mount.control("run x.py")
    folder = os.path.join(mount.status()["cache"]["directory"], "jobs")
    mount.unmount()
    with open(os.path.join(folder, "2"), "r+b") as file:
        file.truncate(20)
    for name in ("7.new", "9.out", "other"):
        open(os.path.join(folder, name), "w").close()
    again = remount()
    assert os.listdir(again / ".acafs/jobs") == ["1"]
    assert again.control("run x.py")["job"] == 3
    assert runs() == ["once"] * 3
    assert "job 2 of the mount before is lost" in again.said()
    assert {"7.new", "9.out"}.isdisjoint(os.listdir(folder)) and "other" in os.listdir(folder)
