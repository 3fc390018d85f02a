"""The control file of a mount: one conversation per open handle."""

import errno
import json
import os
import signal
import stat
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest

from support import process
from support.acarun import nothing_left
from support.wait import wait_for

pytestmark = pytest.mark.session

HELLO = "import sys\nprint('hello', *sys.argv[1:])\n6 * 7\n"
UNTIL_GO = """
import os, sys, time
print("begun", *sys.argv[1:], flush=True)
while not os.path.exists("/mnt/data/go"): time.sleep(.01)
print("gone on")
"""


class Conversation:
    """An open handle of .acafs/control."""

    def __init__(self, mount, flags=os.O_RDWR):
        self.fd = os.open(mount / ".acafs/control", flags)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)

    def say(self, line):
        line = line.encode() if isinstance(line, str) else line
        while line:
            line = line[os.write(self.fd, line):]

    def hear(self):
        reply = b""
        while piece := os.read(self.fd, 65536):
            reply += piece
        assert reply.endswith(b"\n") and reply.count(b"\n") == 1
        return json.loads(reply)

    def ask(self, line):
        self.say(line + "\n")
        return self.hear()

    def refused(self, line):
        """The reason of a line that fails the write with EINVAL."""
        with pytest.raises(OSError) as error:
            self.say(line)
        assert error.value.errno == errno.EINVAL
        said = self.hear()["error"]
        assert said["errno"] == "EINVAL"
        return said["message"]


@pytest.fixture
def talk(mount):
    """Opens conversations with the test's mount."""
    opened = []

    def start(flags=os.O_RDWR):
        opened.append(Conversation(mount, flags))
        return opened[-1]
    yield start
    for each in opened:
        os.close(each.fd)


def job_file(mount, number, name):
    return (mount / f".acafs/jobs/{number}/{name}").read_text()


# --- from a plain shell

def test_a_conversation_in_the_shell(mount, sh):
    (mount / "hello.py").write_text(HELLO)
    reply = json.loads(sh('exec 3<>.acafs/control; echo "run hello.py a b" >&3; cat <&3'))
    assert (reply["state"], reply["exit_code"], reply["value"], reply["error"]) == ("succeeded", 0, 42, None)
    assert reply["images"] == [] and reply["milliseconds"] > 0
    assert sh("cat hello.py.stdout hello.py.result") == "hello a b\n42\n"
    assert sh(f"cat .acafs/jobs/{reply['job']}/stdout") == "hello a b\n"


def test_a_handle_goes_on_with_the_next_command(mount, sh):
    (mount / "hello.py").write_text(HELLO)
    out = sh('exec 3<>.acafs/control; for i in 1 2 3; do echo "run hello.py $i" >&3; head -1 <&3; done')
    assert [json.loads(line)["value"] for line in out.splitlines()] == [42] * 3
    assert sh("cat hello.py.stdout") == "hello 3\n"


def test_a_write_carries_the_errno(mount, sh):
    (mount / "fails.py").write_text("1 / 0\n")
    (mount / "hello.py").write_text(HELLO)
    assert sh("echo sync > .acafs/control; echo 'run hello.py' > .acafs/control; echo fine") == "fine\n"
    for line, reason in (("run fails.py", "Input/output error"), ("nonsense", "Invalid argument"), ("wait 99", "Invalid argument")):
        done = process.run(f"echo '{line}' > .acafs/control", cwd=mount.path, check=False)
        assert done.returncode != 0 and reason in done.stderr, line


def test_a_command_without_the_end_of_its_line(mount, sh):
    (mount / "hello.py").write_text(HELLO)
    assert json.loads(sh("exec 3<>.acafs/control; printf 'run hello.py' >&3; cat <&3"))["value"] == 42
    sh("printf sync > .acafs/control")
    handle = os.open(mount / ".acafs/control", os.O_WRONLY)
    os.write(handle, b"nonsense")
    with pytest.raises(OSError) as error:
        os.close(handle)
    assert error.value.errno == errno.EINVAL


# --- run, submit, wait, cancel

def test_submit_answers_at_once_and_wait_later(mount, talk):
    (mount / "x.py").write_text(UNTIL_GO)
    job = talk().ask("submit x.py one")["job"]
    follower = open(mount / f".acafs/jobs/{job}/stdout")
    assert follower.readline() == "begun one\n"  # while it runs
    assert json.loads(job_file(mount, job, "status"))["state"] == "running"
    assert job_file(mount, job, "result") == ""
    waiting = talk()
    waiting.say(f"wait {job}\n")
    mount.pool.write(mount.session, "go", b"")
    reply = waiting.hear()
    assert (reply["job"], reply["state"]) == (job, "succeeded")
    assert follower.read() == "gone on\n"
    follower.close()
    assert talk().ask(f"wait {job}") == reply  # as often as one likes
    assert json.loads(job_file(mount, job, "result")) == reply


def test_jobs_run_one_after_another_in_order(mount, talk):
    (mount / "x.py").write_text("""
import os, sys, time
assert not os.path.exists("busy")
open("busy", "w").close()
with open("order", "a") as file: file.write(sys.argv[1] + " ")
time.sleep(.05)
os.remove("busy")
""")
    jobs = [talk().ask(f"submit x.py {n}")["job"] for n in range(8)]
    assert jobs == sorted(jobs)
    assert mount.status()["jobs_waiting"] >= 6
    assert talk().ask(f"wait {jobs[-1]}")["state"] == "succeeded"
    assert [json.loads(job_file(mount, job, "status"))["state"] for job in jobs] == ["succeeded"] * 8
    assert (mount / "order").read_text().split() == [str(n) for n in range(8)]
    assert mount.status()["jobs_waiting"] == 0
    assert sorted(os.listdir(mount / ".acafs/jobs"), key=int) == [str(job) for job in jobs]


def test_cancel_a_job_that_runs(mount, talk):
    (mount / "x.py").write_text(UNTIL_GO)
    waiting = talk()
    job = talk().ask("submit x.py")["job"]
    with open(mount / f".acafs/jobs/{job}/stdout") as follower:
        assert follower.readline() == "begun\n"
        waiting.say(f"wait {job}\n")
        assert talk().ask(f"cancel {job}")["job"] == job
        reply = waiting.hear()
        assert (reply["state"], reply["exit_code"], reply["message"]) == ("canceled", 130, "Canceled")
        assert follower.read() == ""
    assert (mount / "x.py.stdout").read_text() == "begun\n"
    nothing_left(mount.pool, mount.session)
    assert talk().ask(f"cancel {job}")["job"] == job  # too late to matter
    assert talk().ask(f"wait {job}") == reply


def test_cancel_a_job_that_waits_for_its_turn(mount, talk):
    (mount / "x.py").write_text(UNTIL_GO)
    first, second, third = (talk().ask(f"submit x.py {n}")["job"] for n in range(3))
    assert json.loads(job_file(mount, second, "status"))["state"] == "queued"
    assert talk().ask(f"cancel {second}")["job"] == second
    assert talk().ask(f"wait {second}")["state"] == "canceled"
    assert json.loads(job_file(mount, first, "status"))["state"] in ("running", "uploading")
    mount.pool.write(mount.session, "go", b"")
    assert talk().ask(f"wait {third}")["state"] == "succeeded"
    assert job_file(mount, second, "stdout") == "" and job_file(mount, first, "stdout") == "begun 0\ngone on\n"
    assert job_file(mount, third, "stdout") == "begun 2\ngone on\n"


def test_a_timeout(mount, talk):
    (mount / "x.py").write_text(UNTIL_GO)
    reply = talk().ask('run {"path": "x.py", "timeout": 0.3}')
    assert (reply["state"], reply["exit_code"]) == ("timed-out", 124)


def test_a_script_that_fails(mount, talk):
    (mount / "x.py").write_text("import sys\nsys.exit(3)\n")
    reply = talk().ask("run x.py")
    assert (reply["state"], reply["exit_code"], reply["error"]) == ("failed", 3, None)
    reply = talk().ask("run missing.py")
    assert (reply["state"], reply["exit_code"]) == ("failed", 66) and "missing.py" in reply["message"]


# --- quoting

AWKWARD = ["", " ", "a b", "new\nline", 'quo"te', "back\\slash", "tab\t", "ünïcode", "-x", "$HOME", "{}"]


def test_json_says_any_arguments(mount, talk):
    (mount / "a dir").mkdir()
    (mount / "a dir/x y.py").write_text("import sys\nprint(ascii(sys.argv))\n")
    reply = talk().ask("run " + json.dumps({"path": "a dir/x y.py", "args": AWKWARD}))
    assert reply["state"] == "succeeded"
    assert job_file(mount, reply["job"], "stdout") == ascii(["x y.py", *AWKWARD]) + "\n"
    status = json.loads(job_file(mount, reply["job"], "status"))
    assert status["path"] == "a dir/x y.py" and status["args"] == AWKWARD


def test_code_instead_of_a_script(mount, talk):
    reply = talk().ask('run {"code": "import sys\\nprint(sys.argv)\\n1", "args": ["a"], "code_name": "-"}')
    assert reply["value"] == 1 and job_file(mount, reply["job"], "stdout") == "['-', 'a']\n"
    assert job_file(mount, reply["job"], "code") == "import sys\nprint(sys.argv)\n1\n"
    assert talk().ask('run {"code": "n = 5", "plain": true}')["state"] == "succeeded"
    assert talk().ask('run {"code": "n", "in_kernel": true}')["value"] == 5
    assert os.listdir(mount) == []


def test_outputs_false_leaves_none(mount, talk):
    (mount / "x.py").write_text(HELLO)
    assert talk().ask('run {"path": "x.py", "outputs": false}')["state"] == "succeeded"
    assert os.listdir(mount) == ["x.py"]


MALFORMED = [
    ("nonsense\n", "unknown command; there are: run submit wait cancel sync refresh delete-session"),
    ("RUN x.py\n", "unknown command"), ("run{}\n", "unknown command"),
    ("run\n", "path or code"), ("submit\n", "path or code"), ("run {\n", "JSON"), ('run {"path": 1}\n', "path or code"),
    ('run {"path": "x", "code": "y"}\n', "path or code"), ('run {"path": "x", "args": [1]}\n', "args"),
    ('run {"path": "x", "timeout": "soon"}\n', "timeout"), ('run {"path": "x", "timeout": -1}\n', "timeout"),
    ('run {"path": "x", "args": "a"}\n', "args"), ('run {"path": "x", "in_kernel": 1}\n', "in_kernel"),
    ('run {"path": "x", "arg": ["a"]}\n', "arg"),
    ("run ../x.py\n", "relative"), ("run /etc/passwd\n", "relative"), ("run a/../x\n", "relative"), ("run ./x\n", "relative"),
    ('run {"code": "1", "plain": true, "args": ["a"]}\n', "plain"), ("wait\n", "not a job number"), ("wait x\n", "not a job number"),
    ("wait -1\n", "not a job number"), ("wait 1 2\n", "not a job number"), ("cancel 0x1\n", "not a job number"),
    ("wait 0\n", "no such job"), ("wait 1\n", "no such job"), ("cancel 7\n", "no such job"), ("wait 18446744073709551616\n", "no such job"),
    ("sync now\n", "sync"), ("delete-session please\n", "delete-session"), ("sync\nsync\n", "one command"), (b"run x\0y\n", "NUL"),
    (b"run \xff.py\n", "UTF-8"), (b"submit a\xc3.py\n", "UTF-8"), (b"refresh \xed\xa0\x80\n", "UTF-8"),
    (b'run {"path": "\xff"}\n', "UTF-8"), ('run {"path": "\\ud800"}\n', "JSON"), ('run {"path": "x", "path code": 1}\n', "members"),
    ('run {"path": "a\\u0000b"}\n', "NUL"), ('run {"path": "x", "args": ["\\u0000"]}\n', "NUL"), ('run {"code": "\\\\\\u0000"}\n', "NUL"),
    ('refresh {"path": "a\\u0000b"}\n', "NUL"), ('refresh {"path": 1}\n', "path"), ('refresh {}\n', "path"), ("refresh {x\n", "JSON"),
    ('refresh {"path": "x", "all": true}\n', "path"),
]


def test_malformed_commands_fail_the_write_and_say_why(mount, talk):
    conversation = talk()
    for line, reason in MALFORMED:
        message = conversation.refused(line)
        assert reason in message, (line, message)
        assert f"acafs: control: {message}" in mount.said(), line
    assert conversation.ask("sync") == {"ok": True}  # and the handle is as good as before
    assert os.listdir(mount / ".acafs/jobs") == []


def test_blanks_and_line_ends_are_no_part_of_a_word(mount, talk):
    (mount / "x.py").write_text("import sys\nsys.argv\n")
    conversation = talk()
    for line in ("run x.py a", " run  x.py\ta ", "run x.py a\r", "\n\r\n\trun x.py a \t\r", "run x.py a\n \r\n"):
        assert conversation.ask(line)["value"] == ["x.py", "a"], line
    assert conversation.ask('run {"path": "x.py", "args": ["a "]} \r')["value"] == ["x.py", "a "]
    job = conversation.ask("submit x.py\r")["job"]
    assert conversation.ask(f"wait {job} \r")["value"] == ["x.py"]
    assert conversation.ask(" sync \r") == conversation.ask("refresh x.py \r") == {"ok": True}


def test_blank_lines_are_no_commands(mount, talk):
    conversation = talk()
    for line in ("\n", "\r\n", " \n\n", "\t\n"):
        conversation.say(line)
        assert os.read(conversation.fd, 100) == b""
    assert conversation.ask("sync") == {"ok": True}
    for line in ("", "  ", "\n\n"):
        process.run(f"printf '{line}\n' > .acafs/control", cwd=mount.path)
    assert "control:" not in mount.said()


def test_json_tells_a_nul_from_what_looks_like_one(mount, talk):
    reply = talk().ask(r'run {"code": "len(\"\\u0000\\\\u0000\")", "plain": true}')
    assert reply["value"] == 7


def test_a_line_in_pieces(mount, talk):
    (mount / "x.py").write_text("import sys\nsys.argv\n")
    conversation = talk()
    for piece in ("\n", " ", "run", " x.py a", " ", "b", " \r", "\n"):
        conversation.say(piece)
    assert conversation.hear()["value"] == ["x.py", "a", "b"]
    for piece in (b"run x.py \xc3", b"\xa9\n"):  # a character in two
        conversation.say(piece)
    assert conversation.hear()["value"] == ["x.py", "\u00e9"]


def test_the_shell_s_ways_to_open_it(mount, sh):
    (mount / "a").write_text("x")
    sh("echo sync >> .acafs/control; echo sync >| .acafs/control; echo sync | tee -a .acafs/control; echo sync 1<>.acafs/control")
    sh("{ echo sync; echo; echo refresh; echo sync; } > .acafs/control")
    done = process.run("{ echo sync; echo nonsense; } >> .acafs/control", cwd=mount.path, check=False)
    assert done.returncode != 0 and "Invalid argument" in done.stderr
    assert mount.pool.read(mount.session, "a") == b"x"


def test_a_timeout_that_rounds_to_nothing_is_one(mount, talk):
    reply = talk().ask('run {"code": "import time; time.sleep(60)", "timeout": 0.0001}')
    assert (reply["state"], reply["exit_code"]) == ("timed-out", 124)


# --- sync, refresh, delete-session

def test_sync(mount, talk):
    with open(mount / "a", "w") as file:
        file.write("x" * 100)
        file.flush()
        assert talk().ask("sync") == {"ok": True}
        assert mount.pool.read(mount.session, "a") == b"x" * 100
    assert mount.status()["pending"] == []


@pytest.fixture
def patient(mounts):
    """A mount that believes what it knows for ten minutes."""
    return mounts(options=["attr-timeout=600"])


def test_refresh_of_everything(patient):
    assert not (patient / "new").exists() and not (patient / "d/deep").exists()
    patient.pool.write(patient.session, "new", b"x")
    patient.pool.write(patient.session, "deep", b"y", path="d")
    assert not (patient / "new").exists()
    assert patient.control("refresh") == {"ok": True}
    assert (patient / "new").read_text() == "x" and (patient / "d/deep").read_text() == "y"


def test_refresh_of_a_file(patient):
    (patient / "d").mkdir()
    for name in ("d/one", "two"):
        (patient / name).write_text("before")
        assert (patient / name).read_text() == "before"
    patient.sync()
    patient.pool.write(patient.session, "one", b"after, and longer", path="d")
    patient.pool.write(patient.session, "two", b"after, and longer")
    assert (patient / "d/one").read_text() == "before"
    assert patient.control("refresh d/one") == {"ok": True}
    assert (patient / "d/one").read_text() == "after, and longer"
    assert (patient / "two").read_text() == "before"  # that was not asked for
    assert patient.control("refresh ./two") == {"ok": True}
    assert (patient / "two").stat().st_size == 17


def test_refresh_of_a_directory(patient):
    (patient / "a dir").mkdir()
    (patient / "a dir/old").write_text("x")
    patient.sync()
    patient.pool.run(patient.session, "import os; os.remove('/mnt/data/a dir/old'); open('/mnt/data/a dir/new', 'w').write('y')")
    assert patient.control("refresh a dir/") == {"ok": True}
    assert os.listdir(patient / "a dir") == ["new"] and not (patient / "a dir/old").exists()


def test_refresh_finds_what_was_never_seen(patient):
    assert os.listdir(patient) == []
    patient.pool.run(patient.session, """
import os
os.makedirs('/mnt/data/x/.git')
open('/mnt/data/x/.git/config', 'w').write('hidden from the file calls')
os.symlink('x', '/mnt/data/link')
""")
    assert patient.control("refresh x/.git/config") == {"ok": True}
    assert (patient / "x/.git/config").read_text().startswith("hidden")
    assert patient.control("refresh link") == {"ok": True}
    assert os.readlink(patient / "link") == "x"


@pytest.mark.parametrize("name", ["new\nline.txt", " blanks ", "{brace", 'a "quote"'])
def test_refresh_of_any_name(patient, name):
    (patient / name).write_text("before")
    patient.sync()
    patient.pool.run(patient.session, f"with open({'/mnt/data/' + name!r}, 'w') as file: file.write('after, and longer')")
    assert (patient / name).stat().st_size == 6
    assert patient.control("refresh " + json.dumps({"path": name})) == {"ok": True}
    assert (patient / name).read_text() == "after, and longer"


def test_refresh_of_what_is_not_there(patient):
    (patient / "gone").write_text("x")
    patient.sync()
    patient.pool.delete(patient.session, "gone")
    for path in ("gone", "missing", "missing/too", "gone/below"):
        error = patient.control(f"refresh {path}")["error"]
        assert error["errno"] == "ENOENT", path
    assert not (patient / "gone").exists()
    done = process.run("echo refresh missing > .acafs/control", cwd=patient.path, check=False)
    assert "No such file" in done.stderr


def test_refresh_keeps_what_is_not_sent_yet(patient):
    with open(patient / "mine", "w") as file:
        file.write("not sent")
        file.flush()
        assert patient.control("refresh mine") == {"ok": True}
        assert (patient / "mine").read_text() == "not sent"
    patient.sync()
    assert patient.pool.read(patient.session, "mine") == b"not sent"


def test_delete_session(mounts):
    mount = mounts(options=["attr-timeout=0"])
    (mount / "a").write_text("x")
    mount.sync()
    assert mount.control("delete-session") == {"ok": True}
    assert mount.pool.names(mount.session) == set()
    wait_for(lambda: os.listdir(mount) == [], 10, "the mount showing the new session")


# --- conversations do not mix, wait, and can be left

def test_two_handles_never_see_each_other_s_replies(mount):
    (mount / "x.py").write_text("import sys\nint(sys.argv[1])\n")
    trouble = []

    def converse(number):
        try:
            with Conversation(mount) as mine:
                for turn in range(5):
                    reply = mine.ask(f"run x.py {number * 100 + turn}")
                    assert reply["value"] == number * 100 + turn, reply
        except BaseException as error:
            trouble.append(error)
    threads = [threading.Thread(target=converse, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not trouble


def test_a_busy_handle_takes_no_second_command(mount, talk):
    (mount / "x.py").write_text(UNTIL_GO)
    conversation = talk()
    conversation.say("run x.py\n")
    with pytest.raises(OSError) as error:
        conversation.say("sync\n")
    assert error.value.errno == errno.EBUSY
    mount.pool.write(mount.session, "go", b"")
    assert conversation.hear()["state"] == "succeeded"  # the first one's own
    assert conversation.ask("sync") == {"ok": True}


def test_a_reader_can_be_interrupted_and_come_back(mount, talk):
    (mount / "x.py").write_text(UNTIL_GO)
    conversation = talk()
    conversation.say("run x.py\n")
    reader = subprocess.Popen(["cat"], stdin=conversation.fd, stdout=subprocess.PIPE)
    wait_for(lambda: "fuse" in Path(f"/proc/{reader.pid}/wchan").read_text() or
             "request_wait_answer" in Path(f"/proc/{reader.pid}/wchan").read_text(), 10, "cat waiting in the mount")
    began = time.monotonic()
    reader.send_signal(signal.SIGINT)
    assert reader.wait(10) == -signal.SIGINT and time.monotonic() - began < 5
    reader.stdout.close()
    mount.pool.write(mount.session, "go", b"")
    assert conversation.hear()["state"] == "succeeded"


def test_a_killed_writer_leaves_the_job_alone(mount, tmp_path):
    """echo "run x.py" > .acafs/control, and Ctrl-C while it waits."""
    (mount / "x.py").write_text(UNTIL_GO)
    writer = process.start(["bash", "-c", "echo 'run x.py' > .acafs/control"], tmp_path / "log", cwd=mount.path)
    wait_for(lambda: job_state(mount, 1) == "running", 20)
    began = time.monotonic()
    writer.kill()
    writer.wait(10)
    assert time.monotonic() - began < 5
    mount.pool.write(mount.session, "go", b"")
    wait_for(lambda: job_state(mount, 1) == "succeeded", 20)


def job_state(mount, number):
    path = mount / f".acafs/jobs/{number}/status"
    return json.loads(path.read_text())["state"] if path.exists() else None


def test_a_handle_that_is_closed_leaves_the_job_alone(mount, talk):
    (mount / "x.py").write_text(UNTIL_GO)
    with Conversation(mount) as one:
        one.say("run x.py\n")
    mount.pool.write(mount.session, "go", b"")
    assert talk().ask("wait 1")["state"] == "succeeded"


def test_a_command_longer_than_one_request(mount, talk):
    """A write of more than 1 MiB comes in several requests."""
    code = "x = '" + "y" * 5_000_000 + "'\nlen(x)"
    line = "run " + json.dumps({"code": code}) + "\n"
    assert talk().ask(line[:-1])["value"] == 5_000_000
    conversation = talk()
    with pytest.raises(OSError):  # more than a line may have
        conversation.say("run " + "x" * (17 << 20) + "\n")
    assert conversation.hear()["error"]["errno"] == "EINVAL"
    assert "acafs: control: a command is no longer than 16 MiB" in mount.said()
    assert conversation.ask("sync") == {"ok": True}


def test_output_of_any_length_is_in_the_job_s_files(mount, talk):
    (mount / "x.py").write_text("import sys\nsys.stdout.buffer.write(bytes(range(256)) * 40000)\n")
    job = talk().ask("run x.py")["job"]
    assert (mount / f".acafs/jobs/{job}/stdout").read_bytes() == bytes(range(256)) * 40000
    assert json.loads(job_file(mount, job, "status"))["stdout_bytes"] == 256 * 40000


def test_the_last_jobs_are_kept(mount):
    with Conversation(mount) as conversation:
        for n in range(70):
            assert conversation.ask('run {"code": "%d", "plain": true}' % n)["value"] == n
        kept = sorted(int(name) for name in os.listdir(mount / ".acafs/jobs"))
        assert kept == list(range(7, 71))
        assert "no such job" in conversation.refused("wait 1\n")
        assert not (mount / ".acafs/jobs/1").exists()


# --- whose it is

FILES = {"": 0o700, "/control": 0o600, "/status": 0o400, "/metrics": 0o400, "/lost": 0o700, "/jobs": 0o700, "/jobs/1": 0o700, "/jobs/1/code": 0o400,
         "/jobs/1/status": 0o400, "/jobs/1/stdout": 0o400, "/jobs/1/stderr": 0o400, "/jobs/1/result": 0o400}


@pytest.mark.parametrize("options", [[], ["allow_other", "umask=000", "uid=1234", "gid=1234"]])
def test_modes_and_owner(mounts, options):
    mount = mounts(options=options)
    mount.control('run {"code": "1", "plain": true}')
    found = [os.path.relpath(os.path.join(folder, name), mount / ".acafs")
             for folder, folders, files in os.walk(mount / ".acafs") for name in folders + files]
    assert {"/" + name for name in found} | {""} == set(FILES) | {"/lost"}
    assert os.path.samefile(mount / ".acafs/lost", mount.status()["cache"]["directory"] + "/lost")
    for name, mode in FILES.items():
        status = os.stat(f"{mount}/.acafs{name}")
        assert stat.S_IMODE(status.st_mode) == mode, name
        assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
def test_others_are_kept_out(mounts):
    mount = mounts(options=["allow_other"], at=Path(tempfile.mkdtemp(prefix="acafs-")))
    other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c"]
    try:
        for command in ("ls .acafs", "cat .acafs/status", "echo sync > .acafs/control", "cat .acafs/jobs/1/stdout", "cd .acafs"):
            done = process.run([*other, command], cwd=mount.path, check=False)
            assert done.returncode != 0 and ("ermission denied" in done.stderr or "can't cd" in done.stderr), command
        assert process.run([*other, "ls"], cwd=mount.path).stdout == ""
    finally:
        mount.unmount()
        mount.path.rmdir()


def test_nothing_can_be_changed_there(mount, talk):
    talk().ask('run {"code": "1", "plain": true}')
    control = mount / ".acafs"
    for call in (lambda: (control / "new").write_text("x"), lambda: os.mkdir(control / "d"), lambda: os.unlink(control / "status"),
                 lambda: os.rename(control / "status", mount / "x"), lambda: os.rename(control, mount / "x"), lambda: os.rmdir(control),
                 lambda: os.rmdir(control / "jobs/1"), lambda: os.symlink("x", control / "l"), lambda: os.mkdir(mount / ".acafs")):
        with pytest.raises(OSError) as error:
            call()
        assert error.value.errno in (errno.EPERM, errno.EEXIST, errno.ENOTEMPTY, errno.EBUSY), error.value
    assert ".acafs" not in os.listdir(mount)
    assert sorted(os.listdir(control)) == ["control", "jobs", "lost", "metrics", "status"]
