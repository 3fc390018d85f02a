"""Many jobs at once: in order, each once, none forgotten before it was waited for, and what is said of them readable at
any time."""

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from support.wait import wait_for

pytestmark = [pytest.mark.session, pytest.mark.limit(200)]

UNTIL_GO = "import os, time\nprint('begun', flush=True)\nwhile not os.path.exists('/mnt/data/go'): time.sleep(.01)\nprint('over')\n"


def code(text, **members):
    return json.dumps({"code": text, "plain": True, **members})


def tells(word):
    """A command's JSON for code that adds that word to what the session has seen."""
    return code(f"open('/mnt/data/runs', 'a').write({word + chr(10)!r})")


def job_file(mount, number, name):
    return (mount / f".acafs/jobs/{number}/{name}").read_text()


def job_state(mount, number):
    return json.loads(job_file(mount, number, "status"))["state"]


def runs(mount):
    return (mount.pool.read(mount.session, "runs") or b"").decode().split("\n")[:-1]


def held_up(mount):
    """A job that runs until lets_go()."""
    (mount / "first.py").write_text(UNTIL_GO)
    number = mount.control("submit first.py")["job"]
    with open(mount / f".acafs/jobs/{number}/stdout") as stream:
        assert stream.readline() == "begun\n"
    return number


def lets_go(mount):
    mount.pool.write(mount.session, "go", b"")


class Watcher(threading.Thread):
    """Reads all that is said of the mount and its jobs, again and again."""

    def __init__(self, mount):
        super().__init__()
        self.mount, self.trouble, self.rounds, self.done = mount, None, 0, threading.Event()

    def run(self):
        try:
            while not self.done.is_set():
                self.mount.status()
                for number in os.listdir(self.mount / ".acafs/jobs"):
                    if Path(f"{self.mount}/.acafs/jobs/{number}").exists():
                        self.look(number)
                self.rounds += 1
        except BaseException as error:
            self.trouble = error

    def look(self, number):
        try:
            json.loads(job_file(self.mount, number, "status"))
            result = job_file(self.mount, number, "result")
        except FileNotFoundError:  # forgotten meanwhile
            return
        assert not result or json.loads(result)["job"] == int(number)

    def end(self):
        self.done.set()
        self.join()
        assert self.trouble is None and self.rounds > 0, self.trouble


@pytest.mark.limit(300)
def test_two_hundred_jobs_of_four_clients(mount):
    watcher = Watcher(mount)
    watcher.start()
    taken, trouble = {}, []

    def client(name):
        try:
            handle = os.open(mount / ".acafs/control", os.O_RDWR)
            for turn in range(50):
                os.write(handle, f"submit {tells(f'{name} {turn}')}\n".encode())
                taken[json.loads(os.read(handle, 65536))["job"]] = f"{name} {turn}"
                # What is pending has any name at all.
                (mount / f"{name} {turn} \"'\\\n\t\x7f\U0001f600\u202e{{").write_text("x")
            os.close(handle)
        except BaseException as error:
            trouble.append(error)
    threads = [threading.Thread(target=client, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not trouble and sorted(taken) == list(range(1, 201))
    # In whatever order they are asked for.
    for number in [200, *range(1, 200)]:
        assert mount.control(f"wait {number}")["state"] == "succeeded", number
    watcher.end()
    assert runs(mount) == [taken[number] for number in sorted(taken)]


def test_a_long_queue_takes_no_descriptors(mount):
    held_up(mount)
    fds = Path(f"/proc/{mount.pid}/fd")
    before = len(os.listdir(fds))
    handle = os.open(mount / ".acafs/control", os.O_RDWR)
    for number in range(300):
        os.write(handle, f"submit {tells(str(number))}\n".encode())
        assert json.loads(os.read(handle, 65536)) == {"job": number + 2}
    os.close(handle)
    assert len(os.listdir(fds)) < before + 10
    for number in range(2, 302):
        assert job_state(mount, number) == "queued"
        if number % 10:
            mount.control(f"cancel {number}")
    lets_go(mount)
    assert mount.control("wait 300")["state"] == "succeeded"
    assert runs(mount) == [str(number - 2) for number in range(10, 301, 10)]
    assert {mount.control(f"wait {number}")["state"] for number in range(2, 302) if number % 10} == {"canceled"}


def test_cancel_in_every_state(mount):
    running = held_up(mount)
    queued = mount.control(f"submit {tells('queued')}")["job"]
    over = mount.control(f"submit {tells('over')}")["job"]
    assert mount.control(f"cancel {queued}") == {"job": queued}
    assert mount.control(f"cancel {queued}") == {"job": queued}  # once more
    assert mount.control(f"wait {queued}")["state"] == "canceled" and job_state(mount, running) == "running"
    assert mount.control(f"cancel {running}") == {"job": running}
    reply = mount.control(f"wait {running}")
    assert (reply["state"], reply["exit_code"], reply["message"]) == ("canceled", 130, "Canceled")
    assert job_file(mount, running, "stdout") == "begun\n"
    assert mount.control(f"wait {over}")["state"] == "succeeded"
    assert mount.control(f"cancel {over}") == {"job": over}  # too late, and no harm
    assert mount.control(f"wait {over}")["state"] == "succeeded" and runs(mount) == ["over"]


def test_a_wait_that_is_interrupted(mount):
    number = held_up(mount)
    wait = ["bash", "-c", f"exec 3<>.acafs/control; echo 'wait {number}' >&3; head -1 <&3"]
    with subprocess.Popen(wait, cwd=mount.path, stdout=subprocess.PIPE) as waiting, \
            subprocess.Popen(wait, cwd=mount.path, stdout=subprocess.PIPE) as left:
        for each in (waiting, left):
            wait_for(lambda: any("head" in Path(f"/proc/{child}/comm").read_text() for child in children(each.pid)), 10)
        for child in children(left.pid):
            os.kill(child, signal.SIGINT)
        assert left.wait(10) != 0
        lets_go(mount)
        assert json.loads(waiting.stdout.read())["state"] == "succeeded"
    assert mount.control(f"wait {number}")["state"] == "succeeded"


def children(pid):
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_session_is_deleted_under_a_job(mount):
    running = held_up(mount)
    then = mount.control(f"submit {code('6 * 7')}")["job"]
    assert mount.control("delete-session") == {"ok": True}
    reply = mount.control(f"wait {running}")
    assert reply["state"] == "lost" and reply["message"]
    assert mount.control(f"wait {then}")["value"] == 42  # in the new one
    assert job_file(mount, running, "stdout") == "begun\n"
    assert mount.status()["jobs_waiting"] == 0


def test_the_queue_goes_on_after_a_restart(mounts, pool, session, tmp_path):
    """Killed with a hundred jobs queued; what was refused before a job leaves nothing of it behind."""
    place = {"pool": pool, "session": session, "cache": tmp_path / "cache", "at": tmp_path / "mnt"}
    mount = mounts(**place)
    held_up(mount)
    handle = os.open(mount / ".acafs/control", os.O_RDWR)
    for number in range(100):
        with pytest.raises(OSError):
            os.write(handle, b'submit {"code": "1", "plain": "yes"}\n')
        os.write(handle, f"submit {code(f'print({number})')}\n".encode())
        assert json.loads(os.read(handle, 65536)) == {"job": number + 2}
    os.close(handle)
    mount.kill()
    mount = mounts(**place)
    lets_go(mount)
    assert mount.control("wait 101")["state"] == "succeeded"
    mount.unmount()
    mount = mounts(**place)
    assert [job_file(mount, number + 2, "stdout") for number in range(100)] == [f"{number}\n" for number in range(100)]
    assert mount.control("wait 1")["state"] == "succeeded"
