"""The job client: a script in a session, watched from outside, whatever the script, the session and
the network do. job_driver runs one job; what is left in the session is looked at after each."""

import base64
import json
import os
import random
import signal
import subprocess
import time
import zlib

import pytest

from support import process
from support import proxy as fault
from support.process import environment
from support.wait import wait_for

pytestmark = [pytest.mark.session, pytest.mark.limit(120)]

DRIVER = process.BUILD / "tests/unit/job_driver"

LEFT = """
import os
def left():
    found = ["/mnt/data/" + name for name in os.listdir("/mnt/data") if name.startswith("acafs-")]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if b"ACAFS_JOB=" in file.read():
                    found.append(open(f"/proc/{pid}/cmdline").read().replace("\\0", " "))
        except OSError:
            pass
    return found
left()
"""


class Job:
    """A job_driver under way: job_driver OPTIONS SCRIPT ARGS."""

    def __init__(self, folder, where, arguments, env):
        self.files = {name: folder / name for name in ("stdout", "errors", "report", "log")}
        for file in self.files.values():
            file.unlink(missing_ok=True)
        with open(self.files["stdout"], "wb") as sink:
            self.process = process.start(
                ["sh", "-c", 'exec "$@" 3>"$REPORT" 4>"$ERRORS"', "sh", DRIVER, *where, *arguments],
                self.files["log"], stdout=sink,
                env=environment(REPORT=self.files["report"], ERRORS=self.files["errors"], **env))

    @property
    def stdout(self):
        return self.files["stdout"].read_bytes()

    @property
    def stderr(self):
        return self.files["errors"].read_bytes().decode("utf-8", "replace")

    def signal(self, number):
        self.process.send_signal(number)

    def waits_for(self, text):
        """Until it has put that out."""
        wait_for(lambda: text in self.stdout or self.process.poll() is not None, 30, f"{text} in stdout")
        assert text in self.stdout, self
        return self

    def end(self, deadline=90):
        """How it went, as the library tells."""
        code = self.process.wait(deadline)
        assert not process.alarms(self.files["log"]), self
        assert code == 0, self
        for name, value in json.loads(self.files["report"].read_text()).items():
            setattr(self, name, value)
        return self

    def __repr__(self):
        return "\n".join(f"--- {name}\n{file.read_bytes()[-4000:].decode(errors='replace')}"
                         for name, file in self.files.items() if file.exists())


@pytest.fixture
def jobs(tmp_path, session, request):
    """Starts jobs in one session: jobs(ARGUMENT…, proxy=…, pool=…, files={NAME: CONTENT}). At the
    end nothing of them may be left in the session."""
    used = []

    def start(*arguments, pool=None, proxy=None, env=None):
        pool = pool or request.getfixturevalue("tcp_pool" if proxy else "pool")
        used.append(pool)
        where = ["-u", proxy.url] if proxy else ["-u", pool.url] if pool.token else ["-s", pool.socket]
        folder = tmp_path / f"job{len(used)}"
        folder.mkdir()
        return Job(folder, [*where, "-i", session], arguments, {"ACAFS_TOKEN": pool.token, **(env or {})})
    yield start
    for pool in {id(it): it for it in used}.values():
        if pool.process.poll() is None:
            wait_for(lambda: not left(pool, session), 20, "nothing left in the session")


def left(pool, session):
    answer = pool.execute(session, LEFT, useEmptyKernel=True)
    return answer["result"]["executionResult"]


@pytest.fixture
def script(pool, session, jobs):
    """Puts a script in the session and runs it to its end: script(CODE, ARGUMENT…, options=[…])."""
    def run(code, *arguments, options=(), name="script.py", path=None, **how):
        pool.write(session, name, code.encode(), path)
        return jobs(*options, f"{path}/{name}" if path else name, *arguments, **how).end()
    return run


# --- what a script sees

def test_arguments_arrive_as_they_are(script):
    arguments = ["", "a b", "two\nlines", "-c", "--", "'\"\\$(x)`", "日本", "🎉", b"\xff\xfe\x80", "%s{}", "\t"]
    job = script("import os, sys\n[list(map(ord, a)) for a in sys.argv]", *arguments)
    wanted = [list(map(ord, os.fsdecode(a))) for a in ["script.py", *arguments]]
    assert job.state == "succeeded" and job.value == wanted


def test_many_long_arguments(script):
    job = script("import sys\n[len(a) for a in sys.argv[1:]]", *["x" * 60_000] * 3)
    assert job.value == [60_000] * 3, job


def test_a_script_is_main_in_its_own_directory(script):
    code = "import os, sys\n[__file__, __name__, os.getcwd(), sys.path[0], sys.argv, __spec__ is None]"
    job = script(code, "x", path="a b/deep")
    place = "/mnt/data/a b/deep"
    assert job.value == [f"{place}/script.py", "__main__", place, place, ["script.py", "x"], True], job


def test_main_can_be_imported_and_pickled(script):
    job = script("import __main__, pickle\nclass A: pass\n"
                 "[__main__.A is A, type(pickle.loads(pickle.dumps(A()))).__name__]")
    assert job.value == [True, "A"], job


def test_edited_modules_are_seen(script, pool, session):
    for n in range(3):
        pool.write(session, "helper.py", f"value = {n}\n".encode())
        assert script("import helper\nhelper.value").value == n
    assert pool.names(session) == {"helper.py", "script.py"}  # no __pycache__ either


def test_a_traceback_shows_file_line_and_source(script):
    job = script("def f():\n    return 1 / 0\n\n\nf()\n")
    assert (job.state, job.exit_code) == ("failed", 1)
    assert job.stderr == ('Traceback (most recent call last):\n'
                          '  File "/mnt/data/script.py", line 5, in <module>\n    f()\n'
                          '  File "/mnt/data/script.py", line 2, in f\n    return 1 / 0\n'
                          '           ~~^~~\nZeroDivisionError: division by zero\n')
    assert job.message == "ZeroDivisionError: division by zero"


def test_a_syntax_error_shows_the_line(script):
    job = script("x = 1\ny = = 2\n")
    assert (job.state, job.exit_code) == ("failed", 1)
    assert 'File "/mnt/data/script.py", line 2\n    y = = 2\n' in job.stderr
    assert "acafs" not in job.stderr and job.message.startswith("SyntaxError")


@pytest.mark.parametrize("code, status, says", [
    ("3", 3, ""), ("None", 0, ""), ("'no luck'", 1, "no luck\n"), ("300", 44, ""), ("0", 0, ""), ("-1", 255, ""),
    ("True", 1, ""), ("256", 0, ""), ("(1, 2)", 1, "(1, 2)\n"), ("''", 1, "\n")])
def test_sys_exit(script, code, status, says):
    job = script(f"import sys\nprint('before')\nsys.exit({code})\nprint('after')")
    assert (job.exit_code, job.state) == (status, "failed" if status else "succeeded")
    assert (job.stdout, job.stderr) == (b"before\n", says)


def test_a_killed_script_is_said_to_be(script):
    job = script("import os\nprint('before', flush=True)\nos.kill(os.getpid(), 9)")
    assert (job.state, job.exit_code, job.stdout) == ("failed", 137, b"before\n")
    assert "SIGKILL" in job.message
    assert script("import os; os.abort()").exit_code == 134


def test_children_left_behind_are_ended(script):
    job = script("""
import os, time
for way in range(3):
    if os.fork() == 0:
        if way:
            os.setsid()
        if way == 2 and os.fork():
            os._exit(0)
        print("child", flush=True)
        time.sleep(1000)
time.sleep(.3)
print("parent")
""")
    assert job.state == "succeeded", job  # and the fixture sees that none is left
    assert sorted(job.stdout.split()) == [b"child"] * 3 + [b"parent"]


def test_a_daemon_without_the_run_s_mark_is_ended(script, pool, session):
    """As programs become daemons by the book: another session, orphaned, no descriptor and no
    environment of who started it."""
    job = script("""
import os, sys
ends, start = os.pipe()
for round in range(20):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.dup2(ends, 0)
        os.closerange(3, 100)
        os.execve(sys.executable, ["stray", "-c", "import time, os; os.close(1); os.close(2); time.sleep(1000)"], {})
for round in range(20):
    os.wait()
print("parent")
""")
    assert (job.state, job.stdout) == ("succeeded", b"parent\n"), job
    strays = """
[pid for pid in filter(str.isdigit, __import__('os').listdir('/proc'))
 if open(f'/proc/{pid}/cmdline').read().startswith('stray')]"""
    assert pool.run(session, strays) == []


def test_an_end_spares_the_processes_of_another_run(jobs, pool, session):
    daemon = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.execv(sys.executable, ["daemon", "-c", "import time; time.sleep(1000)"])
os.wait()
def daemons():
    return sum(open(f"/proc/{pid}/cmdline").read().startswith("daemon")
               for pid in filter(str.isdigit, os.listdir("/proc")))
while not daemons():
    time.sleep(.01)
"""
    pool.write(session, "long.py", (daemon + "print('ready', flush=True)\n"
                                    "while not os.path.exists('go'): time.sleep(.02)\nprint(daemons())").encode())
    pool.write(session, "short.py", daemon.encode())
    long = jobs("long.py").waits_for(b"ready")
    assert jobs("short.py").end().state == "succeeded"
    pool.write(session, "go", b"")
    assert long.end().stdout == b"ready\n1\n", long


def test_a_script_that_ends_its_supervisor_is_ended(script):
    job = script("import os, signal, time\nos.kill(os.getppid(), signal.SIGKILL)\nprint('on', flush=True)\n"
                 "if os.fork() == 0: os.setsid()\ntime.sleep(1000)")
    assert (job.state, job.stdout) == ("lost", b"on\n"), job  # and the fixture sees that nothing is left


# --- a script that tidies up

TIDY = """
import os, shutil, sys, time
for name in os.listdir("."):
    if os.path.isdir(name):
        shutil.rmtree(name)
    else:
        os.unlink(name)
"""


@pytest.mark.parametrize("options", [[], ["-k"]], ids=["process", "kernel"])
def test_a_script_that_removes_everything_loses_no_output(script, options):
    job = script(f"print('before', flush=True)\nprint('é', file=__import__('sys').stderr)\n{TIDY}"
                 "print('after' * 1000)\n7", options=options)
    assert (job.state, job.exit_code, job.value) == ("succeeded", 0, 7), job
    assert (job.stdout, job.stderr) == (b"before\n" + b"after" * 1000 + b"\n", "é\n"), job


def test_output_after_everything_was_removed_is_live(jobs, pool, session):
    pool.write(session, "script.py", f"print('one', flush=True)\n{TIDY}\n"
               "while not os.path.exists('go'):\n    print('two', flush=True)\n    time.sleep(.1)\n"
               f"{TIDY}\nprint('three', flush=True)".encode())
    job = jobs("script.py").waits_for(b"two")
    pool.write(session, "go", b"")
    assert job.end().state == "succeeded", job
    assert job.stdout.startswith(b"one\ntwo") and job.stdout.endswith(b"two\nthree\n"), job


def test_a_script_that_removed_everything_can_be_canceled(jobs, pool, session):
    pool.write(session, "script.py", f"{TIDY}\nprint('there', flush=True)\ntime.sleep(1000)".encode())
    job = jobs("script.py").waits_for(b"there")
    job.signal(signal.SIGINT)
    assert job.end().state == "canceled", job
    assert "KeyboardInterrupt" in job.stderr


def test_a_child_that_comes_to_the_end_as_well(script):
    job = script("import os\nchild = os.fork()\nif child: os.waitpid(child, 0)\n[1, 2][not child]")
    assert job.state == "succeeded" and job.value == 1, job


def test_subprocesses_write_to_the_same_outputs(script):
    job = script("import subprocess\nprint('a', flush=True)\nsubprocess.run('echo b; echo c >&2', shell=True)\n"
                 "print('d')\n")
    assert (job.stdout, job.stderr) == (b"a\nb\nd\n", "c\n")


def test_standard_input_is_empty(script):
    assert script("import sys\nsys.stdin.read()").value == ""
    assert "EOFError" in script("input()").stderr


def test_a_missing_script(jobs):
    job = jobs("none.py").end()
    assert (job.state, job.exit_code) == ("failed", 66) and "none.py" in job.message


def test_a_script_of_another_name(script):
    assert script("__file__", name="v1.2 (é) & co.py").value == "/mnt/data/v1.2 (é) & co.py"


# --- code that is no script

def test_code_is_run(jobs):
    job = jobs("-c", "import sys\nprint(sys.argv, '__file__' in globals())\n1/0", "a", "b").end()
    assert job.stdout == b"['-c', 'a', 'b'] False\n"
    assert 'File "<string>", line 3, in <module>' in job.stderr


def test_code_from_standard_input(jobs):
    job = jobs("-n", "-", "-c", "import sys\nsys.argv, 1/0", "a").end()
    assert 'File "<stdin>", line 2' in job.stderr
    assert jobs("-n", "-", "-c", "import sys, os\nsys.argv", "a").end().value == ["-", "a"]


def test_long_code(jobs):
    code = "x = '" + "é" * 60_000 + "'\n" + "# filler\n" * 100 + "len(x)"
    assert jobs("-c", "@LONG", env={"LONG": code}).end().value == 60_000


# --- outputs

def test_ten_megabytes_byte_for_byte(script):
    job = script("import random, sys\nsys.stdout.buffer.write(random.Random(1).randbytes(10_000_000))\n"
                 "sys.stderr.write('é' * 300_000)")
    data = random.Random(1).randbytes(10_000_000)
    assert len(job.stdout) == len(data) and zlib.crc32(job.stdout) == zlib.crc32(data), job.log
    assert job.stderr == "é" * 300_000


def test_output_that_goes_on_while_it_is_fetched(script):
    job = script("import sys, time\nfor n in range(60):\n    sys.stdout.write('%04d' % n * 25_000)\n"
                 "    sys.stdout.flush()\n    time.sleep(.02)")
    assert job.stdout == b"".join(b"%04d" % n * 25_000 for n in range(60))


def test_output_is_live(jobs, pool, session):
    """Each line is seen before the next is asked for."""
    pool.write(session, "script.py", b"""
import os, sys, time
for n in range(4):
    print("line", n)
    print("error", n, file=sys.stderr)
    while not os.path.exists("go%d" % n):
        time.sleep(.01)
""")
    job = jobs("script.py")
    for n in range(4):
        asked = time.monotonic()
        job.waits_for(b"line %d\n" % n)
        wait_for(lambda: f"error {n}\n" in job.stderr, 20)
        if n and not process.sanitized():
            assert time.monotonic() - asked < 5  # a second, on an idle machine
        pool.write(session, f"go{n}", b"")
    assert job.end().state == "succeeded"


def test_outputs_are_kept_beside_the_script(script, pool, session):
    script("print('one' * 100)\n'value'", options=["-o"])
    assert pool.read(session, "script.py.result") == b'"value"\n'
    job = script("import sys\nprint('two')\nprint('bad', file=sys.stderr)\n1/0", options=["-o"])
    assert job.state == "failed"
    assert pool.read(session, "script.py.stdout") == b"two\n"
    assert pool.read(session, "script.py.stderr").startswith(b"bad\nTraceback")
    assert pool.read(session, "script.py.result") == b"null\n"


# --- values

@pytest.mark.parametrize("code, value", [
    ("{'a': [1, 2.5, None, True], 'é': '日本'}", {"a": [1, 2.5, None, True], "é": "日本"}),
    ("(1, (2,))", [1, [2]]), ("float('nan')", "nan"), ("[float('-inf')]", ["-inf"]), ("{1, 2}", "{1, 2}"),
    ("object", "<class 'object'>"), ("None", None), ("x = 1", None), ("1;", None), ("'a\\0b'", "a\ufffdb"),
    ("'''doc'''", "doc"), ("2**70", 2**70), ("'\\ud800'", "\ufffd"), ("b'x'", "b'x'"),
    ("from __future__ import annotations\ndef f(a: B): pass\nf.__annotations__", {"a": "B"}),
    ("class A:\n    def __repr__(self): 1/0\nA()", "<A object: its repr() raised ZeroDivisionError>"),
])
def test_the_last_expression_is_the_value(script, code, value):
    job = script(code)
    assert job.state == "succeeded" and job.value == value, job


def test_a_huge_value(script):
    assert script("'x' * 5_000_000").value == "x" * 5_000_000


def test_a_value_too_huge_is_left_out_in_words(script):
    job = script("'x' * 17_000_000")
    assert (job.state, job.value) == ("succeeded", None) and "left out" in job.message


def test_deep_and_endless_values(script):
    job = script("d = []\nfor _ in range(500): d = [d]\nd")
    assert job.state == "succeeded" and job.value.startswith("[[[["), job
    assert script("d = []\nd.append(d)\nd").value == "[[...]]"


def test_figures(script):
    pytest.importorskip("matplotlib")
    job = script("import matplotlib.pyplot as plt\nfor n in range(3):\n    plt.figure(); plt.plot([1, n])\nplt.show()")
    assert sorted(job.images) == [f"script.py.result-{n}.png" for n in (1, 2, 3)], job
    pictures = [base64.b64decode(image) for image in job.images.values()]
    assert all(one.startswith(b"\x89PNG") for one in pictures) and len(set(pictures)) == 3
    assert job.value["type"] == "image" and job.value["files"] == sorted(job.images)


def test_a_figure_not_shown_is_there_too(script):
    pytest.importorskip("matplotlib")
    job = script("import matplotlib.pyplot as plt\nplt.plot([1, 2])")
    assert list(job.images) == ["script.py.result.png"], job


def test_an_image_of_pil_is_the_value(script):
    pytest.importorskip("PIL")
    job = script("from PIL import Image\nImage.new('RGB', (30, 20), 'red')")
    assert list(job.images) == ["script.py.result.png"], job
    assert job.value == {"type": "image", "format": "png", "file": "script.py.result.png"}


def test_images_of_other_formats(script, pool, session):
    job = script("class Svg:\n    def _repr_svg_(self): return '<svg>é</svg>'\nSvg()")
    assert base64.b64decode(job.images["script.py.result.svg"]).decode() == "<svg>é</svg>"
    described = {"type": "image", "format": "JPEG", "base64_data": base64.b64encode(b"jpg").decode()}
    job = script(repr(described))
    assert base64.b64decode(job.images["script.py.result.jpeg"]) == b"jpg"
    described["format"] = "../evil"
    assert list(script(repr(described)).images) == ["script.py.result.img"]


def test_a_large_image_is_whole(script):
    data = random.Random(2).randbytes(3_000_000)
    job = script("import random\nclass Png:\n    def _repr_png_(self): return random.Random(2).randbytes(3_000_000)\n"
                 "Png()")
    assert base64.b64decode(job.images["script.py.result.png"]) == data


# --- in the session's own kernel

def test_variables_stay_in_the_kernel(script, pool, session):
    kernel = ["-k"]
    assert script("x = 40\nprint('hello')", options=kernel).stdout == b"hello\n"
    assert script("x += 2\nx", options=kernel).value == 42
    assert pool.run(session, "x") == 42
    job = script("import os, sys\n[__file__, __name__, sys.argv, os.getcwd()]", "a b", b"\xff", options=kernel)
    assert job.value == ["/mnt/data/script.py", "__main__", ["script.py", "a b", "\udcff".encode(
        "utf-16", "surrogatepass").decode("utf-16", "replace")], "/mnt/data"]
    job = script("print('out')\n1/0", options=kernel)
    assert (job.state, job.exit_code, job.stdout) == ("failed", 1, b"out\n")
    assert 'File "/mnt/data/script.py", line 2, in <module>' in job.stderr
    assert script("import sys\nsys.exit(7)", options=kernel).exit_code == 7
    assert pool.run(session, "[n for n in globals() if 'acafs' in n or n in ('__file__', 'd', 't')]") == []


def test_code_in_the_kernel(jobs, pool, session):
    assert jobs("-k", "-c", "y = 5\ny * 2").end().value == 10
    assert jobs("-k", "-c", "import sys\n[y, sys.argv]", "q").end().value == [5, ["-c", "q"]]


def test_a_kernel_that_dies(script):
    job = script("import os\nprint('a', flush=True)\nos.kill(os.getpid(), 9)", options=["-k"])
    assert job.state == "lost" and job.stdout == b"a\n" and "kernel" in job.message, job
    assert script("1", options=["-k"]).value == 1


def test_a_missing_script_in_the_kernel(jobs):
    job = jobs("-k", "none.py").end()
    assert (job.state, job.exit_code) == ("failed", 66)


def test_output_in_the_kernel_is_live(jobs, pool, session):
    pool.write(session, "script.py", b"import os, time\nprint('now')\n"
               b"while not os.path.exists('go'):\n    time.sleep(.01)\n1")
    job = jobs("-k", "script.py").waits_for(b"now\n")
    pool.write(session, "go", b"")
    assert job.end().value == 1


# --- ends

LOOP = "import time\nprint('begun', flush=True)\nwhile True:\n    time.sleep(.05)\n"
DEAF = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" + LOOP


@pytest.mark.parametrize("options", [[], ["-k"]], ids=["process", "kernel"])
def test_timeout(script, options):
    job = script(LOOP, options=["-t", "1000", *options])
    assert (job.state, job.exit_code, job.stdout) == ("timed-out", 124, b"begun\n"), job
    assert 900 < job.milliseconds < 8000 and "timed out" in job.message


@pytest.mark.parametrize("options", [[], ["-k"]], ids=["process", "kernel"])
def test_cancel(jobs, pool, session, options):
    pool.write(session, "script.py", b"import time\ntry:\n    print('begun', flush=True)\n    time.sleep(1000)\n"
               b"finally:\n    print('tidied')\n")
    job = jobs(*options, "script.py").waits_for(b"begun\n")
    job.signal(signal.SIGINT)
    job.end()
    assert (job.state, job.exit_code, job.message) == ("canceled", 130, "Canceled"), job
    assert job.stdout == b"begun\ntidied\n" and "KeyboardInterrupt" in job.stderr


@pytest.mark.parametrize("options", [[], ["-k"]], ids=["process", "kernel"])
def test_cancel_of_a_deaf_script_kills_it(jobs, pool, session, options):
    pool.write(session, "script.py", DEAF.encode())
    job = jobs(*options, "script.py").waits_for(b"begun\n")
    began = time.monotonic()
    job.signal(signal.SIGINT)
    job.end()
    assert (job.state, job.exit_code, job.stdout) == ("canceled", 130, b"begun\n"), job
    assert time.monotonic() - began > 4.9
    assert jobs("-k", "-c", "1").end().value == 1  # the session lives


@pytest.mark.parametrize("moment", ["API version", "helper: 1"])
def test_cancel_at_once(jobs, pool, session, moment):
    """Before the start was sent, and while it is on its way."""
    pool.write(session, "script.py", LOOP.encode())
    for _ in range(5):
        job = jobs("script.py")
        wait_for(lambda: moment in job.files["log"].read_text(), 20, every=0.0005)
        job.signal(signal.SIGINT)
        job.end()
        assert (job.state, job.exit_code) == ("canceled", 130), job


def test_an_abandoned_job_is_ended(jobs, pool, session):
    pool.write(session, "script.py", LOOP.encode())
    job = jobs("script.py").waits_for(b"begun\n")
    job.signal(signal.SIGTERM)
    assert job.process.wait(30) == 0, job  # and the fixture sees that nothing is left


# --- faults

STEADY = """
import os, sys, time
with open("runs", "a") as file:
    file.write("x")
for n in range(8):
    print("line", n)
    print("error", n, file=sys.stderr)
    time.sleep(.05)
class Png:
    def _repr_png_(self): return b"png" * 100_000
Png()
"""
STEADY_OUT = "".join(f"line {n}\n" for n in range(8)).encode()


def assert_steady(job, pool, session):
    assert job.state == "succeeded", job
    assert job.stdout == STEADY_OUT and job.stderr == STEADY_OUT.decode().replace("line", "error")
    assert base64.b64decode(job.images["script.py.result.png"]) == b"png" * 100_000
    assert pool.read(session, "runs") == b"x", "it did not run once"


@pytest.mark.limit(280)
@pytest.mark.parametrize("cut", [fault.cut_before, fault.cut_after], ids=["before", "after"])
def test_each_connection_cut_in_turn(jobs, tcp_pool, proxy, session, cut):
    """Each of its requests, one in each run; the answers that are lost are those of the start, of
    looks, of fetches, of the clearing up."""
    tcp_pool.write(session, "script.py", STEADY.encode())
    n, used = 0, True
    while used:
        tcp_pool.write(session, "runs", b"")
        proxy.clear()
        rule = proxy.rule(".*", cut(), times=1, skip=n)
        job = jobs("script.py", proxy=proxy).end()
        assert_steady(job, tcp_pool, session)
        used = rule.used
        n += 1
    assert n > 6
    wait_for(lambda: not left(tcp_pool, session), 20, f"nothing left of {n} runs")


@pytest.mark.limit(200)
def test_every_third_request_is_lost(jobs, tcp_pool, proxy, session):
    tcp_pool.write(session, "script.py", STEADY.encode())
    tcp_pool.write(session, "runs", b"")
    proxy.rule(".*", fault.cut_after(), every=3)
    proxy.rule(".*", fault.answer(503, {"Retry-After": "0"}), every=4)
    assert_steady(jobs("script.py", proxy=proxy).end(), tcp_pool, session)


def test_a_network_that_is_away_for_a_while(jobs, tcp_pool, proxy, session):
    tcp_pool.write(session, "script.py", STEADY.encode())
    tcp_pool.write(session, "runs", b"")
    job = jobs("script.py", proxy=proxy).waits_for(b"line 1\n")
    proxy.down()
    wait_for(lambda: "; again in" in job.files["log"].read_text(), 30, "noticed")
    proxy.up()
    assert_steady(job.end(), tcp_pool, session)


def test_each_connection_of_a_run_in_the_kernel_cut(jobs, tcp_pool, proxy, session):
    """Its one execution can't be asked for again: but it never runs twice, and what it did is told."""
    tcp_pool.write(session, "script.py", STEADY.encode())
    n, used = 0, True
    while used:
        tcp_pool.write(session, "runs", b"")
        proxy.clear()
        rule = proxy.rule(".*", fault.cut_after(), times=1, skip=n)
        job = jobs("-k", "script.py", proxy=proxy).end()
        if tcp_pool.read(session, "runs") == b"x" and job.state == "succeeded":
            assert_steady(job, tcp_pool, session)
        else:
            assert job.state == "lost" and job.message, job
            assert len(tcp_pool.read(session, "runs")) <= 1
        used = rule.used
        n += 1
    assert n > 4


def test_a_session_recycled_under_a_run(jobs, pool, session):
    pool.write(session, "script.py", LOOP.encode())
    job = jobs("script.py").waits_for(b"begun\n")
    assert pool.request("DELETE", "session", session).status == 204
    job.end()
    assert job.state == "lost" and "recycled" in job.message, job
    assert pool.names(session) == set()


def test_a_pool_that_goes_away_is_unreachable(jobs, own_pool, session):
    pool = own_pool()
    pool.write(session, "script.py", b"1")
    pool.kill()
    job = jobs("script.py", pool=pool).end()
    assert job.state == "lost" and job.err, job


# --- older pools and short limits

@pytest.fixture
def older(proxy):
    """A pool that speaks only that version and older ones, which have no separate kernel."""
    def only(*versions):
        proxy.rule(lambda request: request.query.get("api-version") not in versions,
                   fault.answer(400, {"Content-Type": "application/json"},
                                json.dumps({"error": {"code": "SessionRequestNotSupported", "message": "no"}})))
        return proxy
    return only


@pytest.mark.parametrize("version", ["2025-02-02-preview", "2024-02-02-preview"])
def test_a_pool_without_a_separate_kernel(older, jobs, tcp_pool, session, version):
    proxy = older(version)
    tcp_pool.write(session, "script.py", STEADY.encode())
    assert_steady(jobs("script.py", proxy=proxy).end(), tcp_pool, session)
    tcp_pool.write(session, "runs", b"")
    assert_steady(jobs("-k", "script.py", proxy=proxy).end(), tcp_pool, session)
    assert tcp_pool.run(session, "sorted(n for n in globals() if not n.startswith('_'))") == [
        "Png", "file", "n", "os", "sys", "time"]
    tcp_pool.write(session, "script.py", LOOP.encode())
    job = jobs("-t", "1000", "script.py", proxy=proxy).end()
    assert (job.state, job.exit_code, job.stdout) == ("timed-out", 124, b"begun\n")


def test_the_only_kernel_can_not_be_told(older, jobs, tcp_pool, session):
    """The run's time is given to the pool; a cancel is given up after a while, in words."""
    proxy = older("2025-02-02-preview")
    tcp_pool.write(session, "script.py", LOOP.encode())
    job = jobs("-k", "-t", "1000", "script.py", proxy=proxy).end()
    assert (job.state, job.exit_code) == ("timed-out", 124), job
    tcp_pool.write(session, "script.py", (LOOP + "\n").replace("True", "not open('begun', 'w').close()").encode())
    job = jobs("-k", "script.py", proxy=proxy)
    wait_for(lambda: "begun" in tcp_pool.names(session), 20)
    began = time.monotonic()
    job.signal(signal.SIGINT)
    job.end()
    assert (job.state, job.exit_code) == ("canceled", 130) and "may go on" in job.message, job
    assert time.monotonic() - began < 30
    tcp_pool.request("DELETE", "session", session)


def test_a_script_outlasts_the_limit_of_an_execution(jobs, own_pool, session):
    pool = own_pool(options=["--execution-timeout", "2"])
    pool.write(session, "script.py", b"import time\nfor n in range(50):\n    print(n, flush=True)\n    time.sleep(.1)\n'done'")
    job = jobs("script.py", pool=pool).end()
    assert job.value == "done" and job.stdout == b"".join(b"%d\n" % n for n in range(50)), job
    assert job.milliseconds > 4900
    job = jobs("-k", "script.py", pool=pool).end()
    assert (job.state, job.exit_code) == ("timed-out", 124) and "limit" in job.message, job
    assert job.stdout.startswith(b"0\n1\n2\n")
