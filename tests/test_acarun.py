"""acarun, as a user sees it: a script of a mount, and the same anywhere else."""

import base64
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from support import process
from support.acarun import Acarun, interrupt, nothing_left
from support.proxy import answer, cut_after, cut_before, cut_body, delay
from support.wait import wait_for

pytestmark = pytest.mark.session

PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=")
PICTURE = f'{{"type": "image", "format": "png", "base64_data": "{base64.b64encode(PNG).decode()}"}}\n'
TWO_PICTURES = """
import base64
class Picture:
    def __init__(self, data): self.data = data
    def _repr_png_(self): return self.data
from matplotlib import pyplot
pyplot.figure(); pyplot.plot([1, 2])
pyplot.figure(); pyplot.plot([2, 1])
pyplot.show()
"""


@pytest.fixture
def direct(tmp_path, pool):
    """Where no mount is."""
    (tmp_path / "work").mkdir()
    return Acarun(tmp_path / "work", pool, tmp_path)


@pytest.fixture
def mounted(tmp_path, shared_mount, folder):
    """A subdirectory of a mount."""
    it = Acarun(folder, shared_mount.pool, tmp_path)
    it.session, it.mount = shared_mount.session, shared_mount
    return it


@pytest.fixture(params=["direct", "mounted"])
def acarun(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def proxied(tmp_path, proxy, tcp_pool):
    """Where no mount is, and a proxy in front of the pool."""
    (tmp_path / "work").mkdir()
    it = Acarun(tmp_path / "work", tcp_pool, tmp_path)
    it.where = ["-p", proxy.url]
    return it


def sessions(pool):
    return {entry["identifier"] for entry in pool.request("GET", "listSessions").json()["sessions"]}


# --- a script runs as `python3 SCRIPT` would run it

def test_the_script_sees_what_python3_would_show_it(acarun):
    name = acarun.script("""
import os, sys
print(sys.argv, __name__)
print(os.path.abspath(__file__) == os.path.join(os.getcwd(), "hello.py"), sys.path[0] == os.getcwd())
print("to stderr", file=sys.stderr)
""")
    done = acarun(name, "a", "b c", "--json", "-x", "", "ü\n'\"$HOME\\")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['hello.py', 'a', 'b c', '--json', '-x', '', 'ü\\n\\'\"$HOME\\\\'] __main__\nTrue True\n"
    assert done.stderr == "to stderr\n"
    assert acarun.output(name, "stdout") == done.stdout
    assert acarun.output(name, "stderr") == done.stderr
    assert acarun.output(name, "result") == "null\n"


def test_the_last_value_is_the_result(acarun):
    name = acarun.script("import math\n{'a': [1, 2.5, None, True], 'ü': 'x\\ny', 'n': math.nan}\n")
    done = acarun(name)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert json.loads(acarun.output(name, "result")) == {"a": [1, 2.5, None, True], "ü": "x\ny", "n": "nan"}


@pytest.mark.parametrize("code, status", [
    ("pass", 0), ("import sys; sys.exit()", 0), ("import sys; sys.exit(0)", 0), ("import sys; sys.exit(7)", 7),
    ("import sys; sys.exit(255)", 255), ("import sys; sys.exit(130)", 130), ("import sys; sys.exit('why')", 1),
    ("raise SystemExit(64)", 64), ("import os; os._exit(9)", 9), ("1 / 0", 1), ("1 +", 1),
    ("import os; os.kill(os.getpid(), 9)", 137), ("import os; os.kill(os.getpid(), 15)", 143)])
def test_the_exit_status_is_the_script_s(acarun, code, status):
    done = acarun(acarun.script(code))
    assert done.returncode == status, done.stderr
    if "why" in code:
        assert done.stderr == "why\n"
    elif status < 128 and "1" not in code:
        assert done.stderr == ""


def test_a_traceback_shows_the_script_s_lines_and_nothing_of_ours(acarun):
    name = acarun.script("def f():\n    return 1 / 0\n\nprint('before')\nf()\n")
    done = acarun(name)
    assert (done.returncode, done.stdout) == (1, "before\n")
    lines = done.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):" and lines[-1] == "ZeroDivisionError: division by zero"
    frames = [line.split(",")[0:2] for line in lines if line.startswith("  File")]
    assert [frame[1] for frame in frames] == [" line 5", " line 2"]
    assert all(frame[0].endswith('hello.py"') for frame in frames)
    assert "    return 1 / 0" in lines and "acafs" not in done.stderr
    assert acarun.output(name, "stderr") == done.stderr
    assert acarun.output(name, "result") == "null\n"


def test_modules_and_data_beside_a_script_of_a_mount(mounted):
    name = mounted.script("import lib\nprint(lib.value, open('data.txt').read())\n")
    mounted.script("value = 1\n", "lib.py")
    (mounted / "data.txt").write_text("data")
    assert mounted(name).stdout == "1 data\n"
    mounted.script("value = 22\n", "lib.py")  # edited: seen
    assert mounted(name).stdout == "22 data\n"


@pytest.mark.parametrize("name", ["with space.py", "it's \"quoted\".py", "überraschung 漢字.py", "-dash.py", "--json.py",
                                  "a+b%20#1.py", "noextension", "$HOME;`x`.py", ".hidden.py", "tab\there.py"])
def test_names_of_scripts(acarun, name):
    acarun.script("import os, sys\nprint(ascii(sys.argv[0]), os.path.basename(__file__) == sys.argv[0])\n", name)
    done = acarun(*(["--"] if name[0] == "-" else []), name, "x")
    assert (done.returncode, done.stdout) == (0, f"{ascii(name)} True\n"), done.stderr
    assert acarun.output(name, "stdout") == done.stdout


def test_a_script_named_by_a_path(acarun):
    (acarun / "deep/er").mkdir(parents=True)
    name = acarun.script("import os\nprint(os.path.basename(os.getcwd()))\n", "deep/er/x.py")
    absolute = os.path.join(acarun.folder, name)
    for path, cwd in ((name, acarun.folder), (absolute, "/"), ("../er/x.py", acarun / "deep/er"), ("./x.py", acarun / "deep/er")):
        (acarun / "deep/er/x.py.stdout").unlink(missing_ok=True)
        done = acarun(path, cwd=cwd)
        assert done.returncode == 0, done.stderr
        assert acarun.output(name, "stdout") == done.stdout
        if acarun.folder.name != "work":  # a session of its own has no such directories
            assert done.stdout == "er\n"


def test_a_symlink_to_a_script(acarun):
    acarun.script("import sys\nprint(sys.argv[0])\n", "real.py")
    os.symlink("real.py", acarun / "link.py")
    done = acarun("link.py")
    assert (done.returncode, done.stdout) == (0, "link.py\n"), done.stderr
    assert acarun.output("link.py", "stdout") == "link.py\n"
    assert acarun.output("real.py", "stdout") is None


def test_a_symlink_from_elsewhere_into_a_mount(mounted, tmp_path):
    """The session can't see the link, so its target is what runs, there."""
    mounted.script("import os\nprint(os.path.exists('beside'))\n", "real.py")
    (mounted / "beside").touch()
    os.symlink(mounted / "real.py", tmp_path / "link.py")
    done = mounted(tmp_path / "link.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_standard_input_of_a_script_is_empty(acarun):
    done = acarun(acarun.script("import sys\nprint(repr(sys.stdin.read()))\n"), input="not for it")
    assert done.stdout == "''\n"


# --- outputs

def test_outputs_are_those_of_the_last_run_only(acarun):
    name = acarun.script("print('x' * 100000)\n" + PICTURE)
    assert acarun(name).returncode == 0
    assert acarun.output(name, "result.png", binary=True) == PNG
    acarun.script("print('short')\n1 / 0\n")
    assert acarun(name).returncode == 1
    assert acarun.output(name, "stdout") == "short\n"
    assert acarun.output(name, "result") == "null\n" and "ZeroDivision" in acarun.output(name, "stderr")
    assert acarun.output(name, "result.png") is None  # not of this run


def test_outputs_take_their_places_whole(acarun, tmp_path):
    """Nobody sees half of the new one: in a mount, nobody in the session."""
    def look():
        if not hasattr(acarun, "session"):
            return acarun.output(name, "stdout", binary=True)
        return acarun.pool.read(acarun.session, f"{name}.stdout", path=acarun.folder.name)
    name = acarun.script("print('one')\n")
    acarun(name)
    acarun.script("import time\nfor i in range(3): print('two', flush=True); time.sleep(.05)\n")
    seen = set()
    with acarun.started(name, log=tmp_path / "log", stdout=subprocess.DEVNULL) as running:
        while running.poll() is None:
            seen.add(look())
    assert running.returncode == 0 and seen <= {b"one\n", b"two\n" * 3}
    assert acarun.output(name, "stdout") == "two\n" * 3
    assert not [entry for entry in os.listdir(acarun.folder) if entry.startswith(".acarun")]


def test_no_outputs(acarun):
    name = acarun.script("print('x')\n1\n")
    assert acarun("-n", name).stdout == "x\n"
    assert os.listdir(acarun.folder) == [name]


def test_outputs_in_another_directory(acarun, tmp_path):
    (tmp_path / "out").mkdir()
    name = acarun.script("print('x')\n" + PICTURE)
    done = acarun("-d", tmp_path / "out", name)
    assert (done.returncode, done.stdout) == (0, "x\n")
    assert sorted(os.listdir(tmp_path / "out")) == [name + end for end in (".result", ".result.png", ".stderr", ".stdout")]
    assert (tmp_path / "out/hello.py.result.png").read_bytes() == PNG
    assert str(tmp_path / "out/hello.py.result.png") in done.stderr
    assert os.listdir(acarun.folder) == [name]


def test_outputs_that_cannot_be_written(acarun, tmp_path):
    name = acarun.script("print('x')\n")
    done = acarun("-d", tmp_path / "missing", name)
    assert done.returncode == 73 and str(tmp_path / "missing") in done.stderr and done.stdout == ""
    (tmp_path / "file").touch()
    assert acarun("-d", tmp_path / "file", name).returncode == 73


def test_ten_megabytes_byte_for_byte(acarun):
    name = acarun.script("""
import random, sys
sys.stdout.buffer.write(random.Random(1).randbytes(10_000_000))
sys.stderr.buffer.write(random.Random(2).randbytes(3_000_000))
""")
    import random
    done = acarun(name, text=False)
    assert done.returncode == 0
    assert done.stdout == random.Random(1).randbytes(10_000_000)
    assert done.stderr == random.Random(2).randbytes(3_000_000)
    assert acarun.output(name, "stdout", binary=True) == done.stdout
    assert acarun.output(name, "stderr", binary=True) == done.stderr


def test_output_comes_while_the_script_runs(mounted, tmp_path):
    name = mounted.script("""
import os, sys, time
print("first", flush=True)
while not os.path.exists("go"): time.sleep(.01)
print("second", file=sys.stderr)
""")
    with mounted.started(name, log=tmp_path / "log") as running:
        assert running.stdout.readline() == b"first\n"
        assert running.poll() is None
        (mounted / "go").touch()
        assert running.wait(20) == 0
    assert (tmp_path / "log").read_text() == "second\n"


def test_output_comes_while_a_script_runs_without_a_mount(direct, session, tmp_path):
    name = direct.script("""
import os, time
print("first", flush=True)
while not os.path.exists("/mnt/data/go"): time.sleep(.01)
print("second")
""")
    with direct.started("-s", session, name, log=tmp_path / "log") as running:
        assert running.stdout.readline() == b"first\n"
        direct.pool.write(session, "go", b"")
        assert running.stdout.read() == b"second\n" and running.wait(20) == 0


def test_a_reader_that_has_enough(acarun, tmp_path):
    """acarun x | head -1"""
    name = acarun.script("import time\nfor i in range(10**9): print(i, flush=True); time.sleep(.001)\n")
    with acarun.started(name, log=tmp_path / "log") as running:
        assert running.stdout.readline() == b"0\n"
        running.stdout.close()
        assert running.wait(20) == 141
        running.stdout = None
    if hasattr(acarun, "session"):
        nothing_left(acarun.pool, acarun.session)


def test_a_terminal_that_is_full_does_not_lose_output(acarun, tmp_path):
    """Nobody reads for a while: what comes is kept until somebody does."""
    name = acarun.script("for i in range(200000): print(i)\n")
    with acarun.started(name, log=tmp_path / "log") as running:
        wait_for(lambda: len(select.select([running.stdout], [], [], 0)[0]), 20)
        read = running.stdout.read()
        assert running.wait(30) == 0
    assert read == b"".join(b"%d\n" % i for i in range(200000))


def test_ctrl_c_gets_through_a_full_terminal(acarun, tmp_path):
    name = acarun.script("while True: print('x' * 1000)\n")
    with acarun.started(name, log=tmp_path / "log") as running:
        wait_for(lambda: select.select([running.stdout], [], [], 0)[0], 20)
        interrupt(running)
        wait_for(lambda: acarun.output(name, "stdout"), 40)  # the run is over; the rest waits to be read
        assert running.poll() is None
        interrupt(running)
        assert running.wait(20) == 130


def test_a_full_disk_behind_stdout(acarun):
    with open("/dev/full", "w") as full:
        done = subprocess.run([process.ACARUN, acarun.script("print('x')\n")], stdout=full, stderr=subprocess.PIPE,
                              env=acarun.env, cwd=acarun.folder, text=True, timeout=60)
    assert done.returncode == 74 and "No space left" in done.stderr
    assert acarun.output("hello.py", "stdout") == "x\n"  # the run itself is not lost


def test_on_a_terminal(acarun):
    """A pseudo-terminal, as in a shell: both outputs, nothing else."""
    name = acarun.script("print('out')\nimport sys; sys.stderr.write('err\\n')\n42\n")
    ours, its = pty.openpty()
    running = subprocess.Popen([process.ACARUN, name], stdin=its, stdout=its, stderr=its, env=acarun.env, cwd=acarun.folder)
    os.close(its)
    said = b""
    try:
        while piece := os.read(ours, 4096):
            said += piece
    except OSError:  # its end is closed
        pass
    os.close(ours)
    assert running.wait(20) == 0
    assert sorted(said.splitlines()) == [b"err", b"out"]


# --- images

def test_one_image(acarun):
    name = acarun.script(PICTURE)
    done = acarun(name)
    assert (done.returncode, done.stdout) == (0, "")
    image = acarun / "hello.py.result.png"
    assert image.read_bytes() == PNG
    assert done.stderr.startswith("acarun: image: ") and done.stderr.strip().endswith("hello.py.result.png")
    assert json.loads(acarun.output(name, "result"))["file"] == "hello.py.result.png"
    assert acarun("-q", name).stderr == ""


def test_several_images(acarun):
    name = acarun.script(TWO_PICTURES)
    done = acarun(name)
    assert done.returncode == 0, done.stderr
    for number in (1, 2):
        assert acarun.output(name, f"result-{number}.png", binary=True).startswith(b"\x89PNG")
    assert done.stderr.count("acarun: image: ") == 2
    assert json.loads(acarun.output(name, "result"))["files"] == ["hello.py.result-1.png", "hello.py.result-2.png"]
    acarun.script(PICTURE)  # fewer than before: the others go
    acarun(name)
    assert sorted(entry for entry in os.listdir(acarun.folder) if entry.endswith(".png")) == ["hello.py.result.png"]


def test_an_svg_keeps_its_own_kind(acarun):
    name = acarun.script("class S:\n    def _repr_svg_(self): return '<svg/>'\nS()\n")
    assert acarun(name).returncode == 0
    assert acarun.output(name, "result.svg") == "<svg/>"


def test_images_without_a_place(acarun):
    done = acarun("-c", "x = 1\n" + PICTURE)
    assert done.returncode == 0 and "image not kept" in done.stderr and done.stdout == ""
    assert os.listdir(acarun.folder) == []
    document = json.loads(acarun("--json", "-c", PICTURE).stdout)
    assert base64.b64decode(document["images"][0]["base64_data"]) == PNG


def test_the_image_of_code_in_a_directory(acarun, tmp_path):
    (tmp_path / "out").mkdir()
    assert acarun("-d", tmp_path / "out", "-c", PICTURE).returncode == 0
    assert (tmp_path / "out/code.result.png").read_bytes() == PNG


# --- one document

def test_json(acarun):
    name = acarun.script("import sys\nprint('ü')\nprint('e', file=sys.stderr)\n[1, 2]\n")
    done = acarun("--json", name)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.endswith("}\n")
    document = json.loads(done.stdout)
    assert document.pop("milliseconds") > 0 and len(document.pop("session")) >= 4
    assert document == {"status": "succeeded", "exit_code": 0, "stdout": "ü\n", "stderr": "e\n", "result": [1, 2],
                        "images": [], "message": None}
    assert acarun.output(name, "stdout") == "ü\n"  # the files are there as well


def test_json_of_binary_output(acarun):
    name = acarun.script("import sys\nsys.stdout.buffer.write(bytes(range(256)))\n")
    document = json.loads(acarun("--json", name).stdout)
    assert base64.b64decode(document["stdout_base64"]) == bytes(range(256))
    assert document["stdout"].startswith("\0\1\2") and "\ufffd" in document["stdout"]
    assert document["stderr"] == "" and "stderr_base64" not in document


def test_json_of_a_failure(acarun):
    document = json.loads(acarun("--json", acarun.script("raise ValueError('why')\n")).stdout)
    assert (document["status"], document["exit_code"]) == ("failed", 1)
    assert document["message"] == "ValueError: why" and document["stderr"].endswith("ValueError: why\n")


def test_json_names_the_images(acarun):
    document = json.loads(acarun("--json", acarun.script(PICTURE)).stdout)
    image, = document["images"]
    assert (image["name"], image["format"]) == ("hello.py.result.png", "png")
    assert (acarun.folder / image["path"]).read_bytes() == PNG


def test_json_tells_the_session(mounted, direct, session):
    assert json.loads(mounted("--json", "-c", "1").stdout)["session"] == mounted.session
    assert json.loads(direct("--json", "-s", session, "-c", "1").stdout)["session"] == session


# --- code

def test_code(acarun):
    done = acarun("-c", "print('x')\n6 * 7")
    assert (done.returncode, done.stdout, done.stderr) == (0, "x\n42\n", "")
    assert os.listdir(acarun.folder) == []


def test_variables_of_code_stay_in_a_session(mounted, direct, session):
    for it, where in ((mounted, []), (direct, ["-s", session])):
        assert it(*where, "-c", "n = 5").returncode == 0
        assert it(*where, "-c", "n + 1").stdout == "6\n"
        assert it(*where, "-", input="n + 2").stdout == "7\n"


def test_code_from_standard_input(acarun):
    done = acarun("-", input="import sys\nprint('ü')\n")
    assert (done.returncode, done.stdout) == (0, "ü\n")
    assert acarun("-", input="").returncode == 0
    done = acarun("-", input="a\0b")
    assert done.returncode == 64 and "NUL" in done.stderr


def test_arguments_of_code(acarun):
    assert acarun("-c", "import sys; print(sys.argv)", "a", "-c", "b c").stdout == "['-c', 'a', '-c', 'b c']\n"
    assert acarun("-", "a", input="import sys; print(sys.argv)").stdout == "['-', 'a']\n"


@pytest.mark.parametrize("code, status", [("1 / 0", 1), ("1 +", 1), ("import sys; sys.exit(3)", 3),
                                          ("raise SystemExit", 0), ("import sys; sys.exit('x')", 1)])
def test_the_exit_status_of_code(acarun, code, status):
    for arguments in (["-c", code], ["-k", "-c", code]):
        done = acarun(*arguments)
        assert done.returncode == status, (arguments, done.stderr)


@pytest.mark.parametrize("code, status, said", [
    ("sys.exit(7)", 7, ""), ("sys.exit()", 0, ""), ("sys.exit('two\\nlines: é')", 1, "two\nlines: é\n"),
    ("print('mine', file=sys.stderr)\nsys.exit(3)", 3, "mine\n"),
    ("try: 1 / 0\nexcept ZeroDivisionError: sys.exit('no division')", 1, "no division\n")])
def test_sys_exit_of_code_is_silent_as_that_of_a_script(acarun, code, status, said):
    for what in (["-c", "import sys\n" + code], [acarun.script("import sys\n" + code)]):
        done = acarun(*what)
        assert (done.returncode, done.stdout, done.stderr) == (status, "", said), what


def test_long_code(acarun):
    code = "x = '" + "y" * 300_000 + "'\nlen(x)"
    assert acarun("-", input=code).stdout == "300000\n"
    assert acarun("-", "arg", input=code).stdout == "300000\n"


def test_sanitize(acarun):
    assert acarun("-S", "-c", "```python\n1 + 1\n```").stdout == "2\n"
    assert acarun("--sanitize", "-", input="``` PYTHON\nprint('`')\n```  ").stdout == "`\n"
    assert acarun("-c", "```python\n1 + 1\n```").returncode == 1


# --- in the session's own interpreter

def test_a_script_in_the_kernel(mounted, direct, session):
    for it, where in ((mounted, []), (direct, ["-s", session])):
        name = it.script("import os, sys\nprint(sys.argv, os.path.basename(__file__), __name__)\nkept = len(sys.argv)\nkept\n")
        done = it(*where, "-k", name, "a", "b")
        assert (done.returncode, done.stdout, done.stderr) == (0, "['hello.py', 'a', 'b'] hello.py __main__\n", "")
        assert it.output(name, "result") == "3\n" and it.output(name, "stdout") == done.stdout
        assert it(*where, "-c", "kept").stdout == "3\n"
        assert it(*where, "-k", it.script("import sys; sys.exit(kept + 1)")).returncode == 4


# --- ends

def test_a_timeout(acarun):
    name = acarun.script("import time\nprint('begun', flush=True)\ntime.sleep(600)\n")
    done = acarun("-t", "0.7", name)
    assert done.returncode == 124 and done.stdout == "begun\n" and "timed out" in done.stderr
    assert acarun.output(name, "stdout") == "begun\n"
    document = json.loads(acarun("--json", "-t", "0.3", name).stdout)
    assert (document["status"], document["exit_code"]) == ("timed-out", 124)
    if hasattr(acarun, "session"):
        nothing_left(acarun.pool, acarun.session)


@pytest.mark.parametrize("trouble", ["freeze", "down"])
@pytest.mark.parametrize("where", ["direct", "mounted"])
def test_a_signal_ends_it_when_the_pool_is_away(proxied, mounts, proxy, session, tmp_path, trouble, where):
    if where == "mounted":
        mount = mounts(proxy=proxy, session=session, options=["timeout-connect=2", "timeout-read=3", "max-retries=0"])
        proxied.folder, proxied.where = mount.path, []
    script = proxied.script("import time\nprint('begun', flush=True)\ntime.sleep(600)\n")
    flags = [] if where == "mounted" else [*proxied.where, "-s", session]
    with proxied.started(*flags, script, log=tmp_path / "log") as running:
        assert running.stdout.readline() in (b"begun\n", "begun\n")
        getattr(proxy, trouble)()
        running.send_signal(signal.SIGTERM)
        assert running.wait(40) == 130
    proxy.thaw() if trouble == "freeze" else proxy.up()
    assert "may go on there" in (tmp_path / "log").read_text()
    if where == "direct":
        assert proxied.output(script, "stdout") == "begun\n"


@pytest.mark.parametrize("printed_to", ["stdout", "stderr"])
def test_what_is_said_has_a_line_of_its_own(acarun, printed_to):
    code = f"import sys, time\nprint('half', end='', file=sys.{printed_to}, flush=True)\n"
    late = code + "try: time.sleep(60)\nexcept KeyboardInterrupt: pass"

    def together(*arguments):
        done = subprocess.run([process.ACARUN, *arguments], cwd=acarun.folder, env=acarun.env, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        return done.returncode, done.stdout
    assert together("-t", "0.5", "-c", late, "argument") == (124, "half\nacarun: timed out\n")
    assert together("-c", code) == (0, "half")
    apart = acarun("-t", "0.5", "-c", late, "argument")
    assert apart.stderr == ("half\n" if printed_to == "stderr" else "") + "acarun: timed out\n"
    assert apart.stdout == ("half" if printed_to == "stdout" else "")


def test_a_timeout_that_is_not_reached(acarun):
    assert acarun("-t", "30", acarun.script("print('x')\n")).returncode == 0


@pytest.mark.parametrize("flags", [["-c"], ["-k", "-c"]])
def test_a_timeout_of_code(acarun, flags):
    done = acarun("-t", "1", *flags, "import time; time.sleep(600)")
    assert done.returncode == 124, done.stderr
    assert "timed out" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c(acarun, tmp_path, number):
    name = acarun.script("""
import time
print("begun", flush=True)
try:
    time.sleep(600)
except KeyboardInterrupt:
    print("interrupted")
    raise
""")
    acarun.script("", "hello.py.stdout")
    with acarun.started(name, log=tmp_path / "log") as running:
        assert running.stdout.readline() == b"begun\n"
        running.send_signal(number)
        assert running.stdout.read() == b"interrupted\n"
        assert running.wait(20) == 130
    assert "KeyboardInterrupt" in (tmp_path / "log").read_text()
    assert (tmp_path / "log").read_text().endswith("acarun: Canceled\n")
    assert acarun.output(name, "stdout") == "begun\ninterrupted\n"
    if hasattr(acarun, "session"):
        nothing_left(acarun.pool, acarun.session)


def test_a_script_that_will_not_end_is_killed(acarun, tmp_path):
    name = acarun.script("""
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("begun", flush=True)
while True: time.sleep(1)
""")
    with acarun.started(name, log=tmp_path / "log") as running:
        running.stdout.readline()
        began = time.monotonic()
        interrupt(running)
        assert running.wait(30) == 130
        assert 4 < time.monotonic() - began < 20
    assert acarun.output(name, "stdout") == "begun\n"


def test_a_second_ctrl_c_ends_acarun_at_once(acarun, tmp_path):
    name = acarun.script("""
import signal, time
def heard(*_): print("heard", flush=True)
signal.signal(signal.SIGINT, heard)
print("begun", flush=True)
while True: time.sleep(1)
""")
    with acarun.started(name, log=tmp_path / "log") as running:
        running.stdout.readline()
        interrupt(running)
        assert running.stdout.readline() == b"heard\n"
        began = time.monotonic()
        interrupt(running)
        assert running.wait(20) == 130
        assert time.monotonic() - began < 4
    if hasattr(acarun, "session"):
        nothing_left(acarun.pool, acarun.session)


def test_ctrl_c_of_code(direct, mounts, session, tmp_path):
    mount = mounts()
    code = "import time; open('/mnt/data/begun', 'w'); time.sleep(600)"
    for it, where in ((direct, ["-s", session]), (Acarun(mount.path, mount.pool, tmp_path), [])):
        with it.started(*where, "-c", code, log=tmp_path / "log") as running:
            wait_for(lambda: it.pool.read(where[-1] if where else mount.session, "begun") == b"", 20)
            interrupt(running)
            assert running.wait(20) == 130
        assert (tmp_path / "log").read_text().endswith("KeyboardInterrupt\nacarun: Canceled\n")
        assert it(*where, "-c", "'ready again'", timeout=20).stdout == '"ready again"\n'


def test_ctrl_c_in_the_background_is_ignored(mounted, tmp_path):
    """As by a shell without job control: `acarun x &` ignores SIGINT, and goes on."""
    name = mounted.script("import time\nprint('begun', flush=True)\nwhile not __import__('os').path.exists('go'): time.sleep(.01)\n")
    running = process.start(["sh", "-c", f"trap '' INT; exec {process.ACARUN} {name}"], tmp_path / "log",
                            stdout=subprocess.PIPE, cwd=mounted.folder, env=mounted.env)
    assert running.stdout.readline() == b"begun\n"
    interrupt(running)
    (mounted / "go").touch()
    assert running.wait(20) == 0
    running.stdout.close()


# --- with the mount

def test_what_a_script_made_is_there_when_it_returns(mounts, tmp_path):
    mount = mounts(options=["attr-timeout=600"])
    acarun = Acarun(mount.path, mount.pool, tmp_path)
    assert os.listdir(mount) == []
    name = acarun.script("""
import os
os.makedirs("new/deep"); open("new/deep/file", "w").write("made")
os.symlink("new/deep/file", "link")
open("changed", "w").write("after, longer"); os.remove("gone")
os.rename("moved", "new/moved")
""")
    for made in ("changed", "gone", "moved"):
        (mount / made).write_text("before")
    assert (mount / "changed").read_text() == "before"
    assert acarun(name).returncode == 0
    assert (mount / "new/deep/file").read_text() == "made" and os.readlink(mount / "link") == "new/deep/file"
    assert (mount / "changed").read_text() == "after, longer"
    assert sorted(os.listdir(mount)) == sorted(["changed", "hello.py", "hello.py.result", "hello.py.stderr",
                                                "hello.py.stdout", "link", "new"])
    assert sorted(os.listdir(mount / "new")) == ["deep", "moved"]


def test_pending_uploads_come_first(mounts, proxy, tmp_path):
    mount = mounts(proxy=proxy)
    acarun = Acarun(mount.path, mount.pool, tmp_path)
    acarun.script("print(sum(len(open(f'f{n}').read()) for n in range(30)))\n")
    proxy.rule("POST files", delay(0.3))
    # Written and still open: the bytes are in the mount alone. Not by this process, which holds its
    # lock while children that it starts close what they inherited, and is the proxy too.
    writer = process.start([sys.executable, "-c", """
files = [open(f"f{n}", "w") for n in range(30)]
for n, file in enumerate(files): print("x" * n, end="", file=file, flush=True)
print("written", flush=True)
__import__("signal").pause()
"""], tmp_path / "log", cwd=mount.path, stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"written\n"
    assert acarun("hello.py").stdout == f"{sum(range(30))}\n"
    writer.terminate()
    writer.wait()
    writer.stdout.close()


def test_without_a_mount_the_session_is_deleted_afterwards(direct):
    before = sessions(direct.pool)
    document = json.loads(direct("--json", direct.script("1 / 0")).stdout)
    assert document["session"] not in sessions(direct.pool)
    assert direct("-c", "1").returncode == 0
    assert sessions(direct.pool) <= before


def test_a_session_that_was_named_stays(direct, session):
    direct.script("open('made', 'w').write('x')\n")
    assert direct("--session", session, "hello.py").returncode == 0
    assert direct.pool.names(session) == {"made", "hello.py"}  # outputs are here, not there
    assert direct("-s", session, "-c", "import os; sorted(os.listdir('/mnt/data'))").stdout == '["hello.py","made"]\n'


def test_the_session_is_deleted_after_ctrl_c(direct, tmp_path):
    before = sessions(direct.pool)
    with direct.started(direct.script("print('x', flush=True)\nimport time; time.sleep(600)"), log=tmp_path / "log") as running:
        running.stdout.readline()
        assert len(sessions(direct.pool) - before) == 1
        interrupt(running)
        assert running.wait(20) == 130
    assert sessions(direct.pool) <= before


def test_a_named_session_wins_over_the_mount(mounted, session):
    name = mounted.script("print('x')\n")
    assert mounted("-s", session, name).stdout == "x\n"
    assert name in mounted.pool.names(session)
    assert mounted.output(name, "stdout") == "x\n"


def test_a_mount_in_a_mount_s_directory_is_found_by_its_own_root(mounts, tmp_path):
    outer = mounts()
    (outer / "inner").mkdir()
    inner = mounts(at=outer / "inner")
    acarun = Acarun(inner.path, inner.pool, tmp_path)
    try:
        assert json.loads(acarun("--json", acarun.script("1")).stdout)["session"] == inner.session
        assert acarun.pool.read(inner.session, "hello.py.result") == b"1\n"
    finally:
        assert inner.unmount() == 0


def test_settings_of_the_environment_and_the_config_file(direct, session, tmp_path):
    config = tmp_path / "acafs.conf"
    config.write_text(f"[session]\nid = {session}\n[pool]\nendpoint = local\n")
    direct.env["ACAFS_CONFIG"] = str(config)
    assert json.loads(direct("--json", "-c", "1").stdout)["session"] == session
    direct.env["ACAFS_CONFIG"] = os.devnull
    direct.env["ACAFS_SESSION"] = session
    assert json.loads(direct("--json", "-c", "1").stdout)["session"] == session
    assert session in sessions(direct.pool)
    assert json.loads(direct("--json", "-o", f"session={session}x", "-c", "1").stdout)["session"] == session + "x"


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
def test_the_mount_of_another_user(mounts, tmp_path):
    shared = Path("/tmp") / f"acarun-{uuid.uuid4().hex[:8]}"
    mount = mounts(options=["allow_other"], at=shared)
    try:
        (mount / "hello.py").write_text("print('x')\n")
        # The programs may lie where others can't go: an open descriptor leads there all the same.
        with open(process.ACARUN, "rb") as program:
            done = process.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
                                f"/proc/self/fd/{program.fileno()}", mount / "hello.py"], check=False,
                               env=process.environment(HOME="/nonexistent", ACAFS_CONFIG=os.devnull),
                               pass_fds=[program.fileno()], cwd="/")
        assert done.returncode == 77 and "only who mounted it" in done.stderr, done.stderr
        assert done.stdout == ""
    finally:
        mount.unmount()
        shutil.rmtree(shared, ignore_errors=True)


def test_a_mount_that_ends_under_a_run(mounts, tmp_path):
    mount = mounts()
    acarun = Acarun(mount.path, mount.pool, tmp_path)
    with acarun.started(acarun.script("print('x', flush=True)\nimport time; time.sleep(600)"), log=tmp_path / "log") as running:
        running.stdout.readline()
        os.kill(mount.pid, signal.SIGTERM)
        assert running.wait(30) == 130
    assert mount.process.wait(30) == 0
    nothing_left(mount.pool, mount.session)


def test_a_mount_whose_daemon_was_killed(mounts, tmp_path):
    mount = mounts()
    acarun = Acarun(mount.path, mount.pool, tmp_path)
    name = acarun.script("print('x', end='', flush=True)\nimport time; time.sleep(600)")
    with acarun.started(name, log=tmp_path / "log") as running:
        assert running.stdout.read(1) == b"x"
        os.kill(mount.pid, signal.SIGKILL)
        assert running.wait(30) == 69
    assert (tmp_path / "log").read_text().count("the mount is gone") == 1
    for what in ([mount / name], ["-c", "1"], ["-q", "-j", "2", mount / name], [mount / "x.ipynb"]):
        done = acarun(*what, cwd=mount.path if what[0] == "-c" else tmp_path)
        assert done.returncode == 69, done.stderr
        assert "mount is gone" in done.stderr and done.stderr.count("\n") == 1, what


# --- what goes wrong

def test_no_such_script(acarun):
    for name in ("missing.py", "missing/x.py"):
        done = acarun(name)
        assert done.returncode == 66 and done.stderr == f"acarun: {name}: No such file or directory\n"
    os.mkdir(acarun / "directory")
    done = acarun("directory")
    assert done.returncode == 66 and done.stderr.count("\n") == 1 and "directory" in done.stderr
    os.symlink("nowhere", acarun / "dangling.py")
    assert acarun("dangling.py").returncode == 66


def test_a_script_that_may_not_be_read(direct):
    name = direct.script("1")
    (direct / name).chmod(0)
    if os.getuid() == 0:
        pytest.skip("root reads everything")
    assert direct(name).returncode == 66


def test_the_pool_is_away(direct):
    direct.env["ACAFS_TOKEN"] = "token"
    done = direct("-p", "http://127.0.0.1:9", "-o", "max-retries=0", "-c", "1")
    assert done.returncode == 69 and done.stderr.count("\n") == 1 and "127.0.0.1:9" in done.stderr


def test_the_pool_is_away_from_the_mount(mounts, proxy, tmp_path):
    mount = mounts(proxy=proxy, options=["max-retries=0", "timeout-connect=1", "timeout-read=2"])
    acarun = Acarun(mount.path, mount.pool, tmp_path)
    acarun.script("1")
    mount.sync()
    proxy.down()
    done = acarun("hello.py", timeout=60)
    proxy.up()
    assert done.returncode == 69, done.stderr
    assert "cannot connect" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("status, code", [(401, 77), (403, 77), (429, 75), (404, 69), (500, 69), (503, 69)])
def test_what_the_pool_answers(proxied, proxy, status, code):
    proxy.rule(".*", answer(status))
    for what in (["-c", "1"], [proxied.script("1")]):
        done = proxied(*proxied.where, "-o", "max-retries=1", *what, timeout=60)
        assert done.returncode == code, done.stderr
        assert done.stderr.count("\n") == 1 and done.stderr.startswith("acarun: ")
        if status in (401, 403, 429):
            assert str(status) in done.stderr


def test_refusals_of_a_mount_s_pool(mounts, proxy, tmp_path):
    mount = mounts(proxy=proxy, options=["max-retries=0"])
    acarun = Acarun(mount.path, mount.pool, tmp_path)
    acarun.script("1")
    mount.sync()
    for status, code in ((403, 77), (429, 75)):
        rule = proxy.rule("POST executions", answer(status))
        done = acarun("hello.py", timeout=60)
        proxy.drop(rule)
        assert done.returncode == code, (status, done.stderr)
        assert done.stderr.count("\n") == 1
    assert acarun("hello.py").returncode == 0


def test_a_pool_that_is_full(own_pool, tmp_path):
    pool = own_pool(options=["--max-sessions", "1"])
    pool.run("the-only-one", "1")
    done = Acarun(tmp_path, pool, tmp_path)("-o", "max-retries=0", "-c", "1")
    assert done.returncode == 75 and "SessionsCountExceedsLimit" in done.stderr or "sessions" in done.stderr


def test_no_credential(direct):
    direct.env.pop("ACAFS_TOKEN", None)
    done = direct("-p", "https://127.0.0.1:9/x", "-o", "credential=environment", "-c", "1")
    assert done.returncode == 77, done.stderr
    assert "EnvironmentCredential: not set: AZURE_TENANT_ID" in done.stderr.splitlines()[-1]


def test_bad_settings(direct, tmp_path):
    direct.env["ACAFS_CONFIG"] = str(tmp_path / "missing.conf")
    done = direct("-c", "1")
    assert done.returncode == 78 and "missing.conf" in done.stderr
    (tmp_path / "bad.conf").write_text("[pool]\nnonsense = 1\n")
    direct.env["ACAFS_CONFIG"] = str(tmp_path / "bad.conf")
    done = direct("-c", "1")
    assert done.returncode == 78 and "nonsense" in done.stderr


USAGE = [
    ([], "no SCRIPT"),
    (["--nonsense", "x.py"], "--nonsense"),
    (["-Z", "x.py"], "-Z"),
    (["-c"], "no value for -c"),
    (["--timeout"], "--timeout"),
    (["-t", "soon", "x.py"], "soon"),
    (["-t", "0", "x.py"], "0"),
    (["-t", "-1", "x.py"], "-1"),
    (["-t", "nan", "x.py"], "nan"),
    (["-t", "1e3", "x.py"], "1e3"),
    (["-a", "chat", "x.py"], "--api"),
    (["-S", "x.py"], "--sanitize"),
    (["-n", "-d", "x", "x.py"], "--no-outputs"),
    (["-s", "a b", "-c", "1"], "session identifier"),
    (["-s", "abc", "-c", "1"], "session identifier"),
    (["-p", "http://example.com/x", "-c", "1"], "http"),
    (["-p", "ftp://example.com/x", "-c", "1"], "ftp"),
    (["-o", "nonsense=1", "-c", "1"], "nonsense"),
    (["-o", "timeout-read=never", "-c", "1"], "timeout-read"),
    (["tool-definition"], "--api"),
    (["tool-call"], "--api"),
    (["tool-definition", "-a", "old"], "old"),
    (["tool-definition", "-a", "chat", "x"], "no script"),
    (["tool-call", "-a", "chat", "--json"], "--json"),
]


@pytest.mark.parametrize("arguments, named", USAGE, ids=[" ".join(arguments) or "none" for arguments, _ in USAGE])
def test_usage(direct, arguments, named):
    done = direct(*arguments, input="")
    assert done.returncode == 64 and done.stdout == ""
    assert done.stderr.startswith("acarun: ") and done.stderr.count("\n") == 1
    assert named in done.stderr


def test_help_and_version(direct):
    shown = direct("--help")
    assert shown.returncode == 0 and shown.stdout.startswith("usage: acarun ") and shown.stderr == ""
    assert all(len(line) <= 100 for line in shown.stdout.splitlines()) and shown.stdout.count("\n") < 50
    assert direct("-h").stdout == shown.stdout
    assert direct("-V").stdout.startswith("acarun ")


def test_the_token_is_told_to_nobody(proxied, proxy, session, tmp_path):
    """Neither in what is said, nor to the script, nor in anything left behind."""
    token = proxied.pool.token
    proxied.script("import os\nprint(dict(os.environ))\nopen('/proc/self/cmdline').read()\n")
    done = proxied(*proxied.where, "-s", session, "-o", "log-level=debug", "--json", "hello.py")
    assert done.returncode == 0 and token not in done.stdout + done.stderr
    for path in proxied.folder.iterdir():
        assert token.encode() not in path.read_bytes()
    proxy.rule("POST executions", answer(403, {"x-echo": token}, f'{{"error": {{"code": "X", "message": "{token}"}}}}'))
    assert proxied(*proxied.where, "-c", "1").returncode == 77


# --- for language models

DEFINITION = {"name": "code_interpreter", "parameters": {"type": "object", "required": ["python_code"],
                                                         "properties": {"python_code": {"type": "string"}}}}


def without_texts(value):
    if isinstance(value, dict):
        return {key: without_texts(each) for key, each in value.items() if key != "description"}
    return value


def test_tool_definition(direct):
    chat = json.loads(direct("tool-definition", "--api", "chat").stdout)
    responses = json.loads(direct("tool-definition", "-a", "responses").stdout)
    assert without_texts(chat) == {"type": "function", "function": DEFINITION}
    assert without_texts(responses) == {"type": "function", **DEFINITION}
    for tool in (chat["function"], responses):
        assert tool["description"] and tool["parameters"]["properties"]["python_code"]["description"]


def chat_call(arguments, **changes):
    return json.dumps({"id": "call_1", "type": "function", **changes,
                       "function": {"name": "code_interpreter", "arguments": arguments}})


def responses_call(arguments, **changes):
    return json.dumps({"type": "function_call", "id": "fc_1", "call_id": "call_2", "name": "code_interpreter",
                       "arguments": arguments, **changes})


def test_tool_call(acarun):
    code = json.dumps({"python_code": "```python\nimport sys\nprint('ü')\nprint('e', file=sys.stderr)\n[1, 'x']\n```"})
    message = json.loads(acarun("tool-call", "--api", "chat", input=chat_call(code)).stdout)
    content = json.loads(message.pop("content"))
    assert message == {"role": "tool", "tool_call_id": "call_1", "name": "code_interpreter"}
    assert content == {"result": [1, "x"], "stdout": "ü\n", "stderr": "e\n"}
    message = json.loads(acarun("tool-call", "--api", "responses", input=responses_call(code)).stdout)
    assert json.loads(message.pop("output")) == content
    assert message == {"type": "function_call_output", "call_id": "call_2"}
    assert os.listdir(acarun.folder) == []


def chat_response(*calls):
    """As Chat Completions answers, with those calls."""
    message = {"role": "assistant", "content": None, "refusal": None, "tool_calls": [json.loads(call) for call in calls]}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "usage": {},
            "choices": [{"index": 0, "finish_reason": "tool_calls", "logprobs": None, "message": message}]}


def python(code):
    return json.dumps({"python_code": code})


def test_every_call_of_a_response(acarun):
    other = json.dumps({"id": "call_w", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}})
    calls = [chat_call(python("n = 5"), id="a"), other, chat_call("[]", id="b"), chat_call(python("n + 1"), id="c")]
    response = chat_response(*calls)
    message = response["choices"][0]["message"]
    for given in (response, response["choices"][0], message, message["tool_calls"]):
        done = acarun("tool-call", "-a", "chat", input=json.dumps(given))
        assert done.returncode == 0 and "get_weather" in done.stderr and done.stderr.count("\n") == 1, done.stderr
        answers = json.loads(done.stdout)
        assert [(each["role"], each["tool_call_id"]) for each in answers] == [("tool", "a"), ("tool", "b"), ("tool", "c")]
        contents = [json.loads(each["content"]) for each in answers]
        assert [each.get("result", "-") for each in contents] == [None, "-", 6] and "arguments" in contents[1]["error"]
    assert os.listdir(acarun.folder) == []


def test_every_call_of_the_other_api_s_response(acarun):
    items = [{"type": "reasoning", "id": "rs_1", "summary": []}, json.loads(responses_call(python("n = 5"), call_id="a")),
             json.loads(responses_call("{}", name="get_weather")), json.loads(responses_call(python("n + 1"), call_id="b")),
             {"type": "message", "id": "msg_1", "role": "assistant", "content": []}]
    for given in (items, {"id": "resp_1", "object": "response", "status": "completed", "output": items}):
        done = acarun("tool-call", "-a", "responses", input=json.dumps(given))
        assert done.returncode == 0 and "get_weather" in done.stderr
        answers = json.loads(done.stdout)
        assert [(each["type"], each["call_id"]) for each in answers] == [("function_call_output", "a"), ("function_call_output", "b")]
        assert json.loads(answers[1]["output"])["result"] == 6


def test_numbers_of_any_size_reach_the_model(acarun):
    done = acarun("tool-call", "-a", "chat", input=chat_call(python("[2**70, 0.1]")))
    assert json.loads(json.loads(done.stdout)["content"])["result"] == [2**70, 0.1]


def test_one_call_in_a_list_is_answered_by_a_list(direct):
    done = direct("tool-call", "-a", "chat", input=json.dumps(chat_response(chat_call(python("1")))))
    answer, = json.loads(done.stdout)
    assert answer["tool_call_id"] == "call_1" and done.stderr == ""


def test_calls_share_a_session_of_their_own(tmp_path, own_pool):
    pool = own_pool()
    env = process.environment(HOME=tmp_path, ACAFS_CONFIG=os.devnull, XDG_RUNTIME_DIR=pool.directory, ACAFS_TOKEN=pool.token)
    calls = chat_response(chat_call(python("n = 5"), id="a"), chat_call(python("n + 1"), id="b"))
    done = process.run([process.ACARUN, "tool-call", "-p", "local", "-a", "chat"], input=json.dumps(calls), env=env)
    assert [json.loads(each["content"])["result"] for each in json.loads(done.stdout)] == [None, 6]
    assert sessions(pool) == set()


def test_answers_so_far_are_given_out(direct, session):
    """Ctrl-C in the second of three calls: what the first one did is known all the same."""
    waits = python("open('begun', 'w').close(); import time; time.sleep(60)")
    calls = chat_response(chat_call(python("7"), id="a"), chat_call(waits, id="b"), chat_call(python("open('third', 'w')"), id="c"))
    with subprocess.Popen([process.ACARUN, "tool-call", "-a", "chat", "-s", session], env=direct.env, cwd=direct.folder,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        running.stdin.write(json.dumps(calls).encode())
        running.stdin.close()
        wait_for(lambda: "begun" in direct.pool.names(session), 20)
        running.send_signal(signal.SIGINT)
        answer, = json.loads(running.stdout.read())
        assert running.wait(20) == 130
    assert answer["tool_call_id"] == "a" and json.loads(answer["content"])["result"] == 7
    assert "third" not in direct.pool.names(session)


def test_a_tool_call_whose_code_fails(acarun):
    done = acarun("tool-call", "-a", "chat", input=chat_call(json.dumps({"python_code": "1 / 0"})))
    content = json.loads(json.loads(done.stdout)["content"])
    assert done.returncode == 0 and done.stderr == ""  # the model is to read it
    assert content["result"] is None and "ZeroDivisionError" in content["stderr"]


def test_a_tool_call_with_an_image(acarun):
    done = acarun("tool-call", "-a", "chat", input=chat_call(json.dumps({"python_code": PICTURE})))
    assert base64.b64encode(PNG).decode() not in done.stdout
    result = json.loads(json.loads(done.stdout)["content"])["result"]
    assert (result["type"], result["format"]) == ("image", "png") and "base64_data" not in result


@pytest.mark.parametrize("arguments", ["no json", "[]", "{}", '{"python_code": 1}', '{"code": "1"}', ""])
def test_what_a_model_got_wrong_is_told_to_it(direct, arguments):
    before = sessions(direct.pool)
    for api, call, member in (("chat", chat_call, "content"), ("responses", responses_call, "output")):
        done = direct("tool-call", "-a", api, input=call(arguments))
        assert done.returncode == 0, done.stderr
        assert "arguments" in json.loads(json.loads(done.stdout)[member])["error"]
    assert sessions(direct.pool) <= before


@pytest.mark.parametrize("api, text", [
    ("chat", ""), ("chat", "{"), ("chat", "[]"), ("chat", responses_call("{}")), ("responses", chat_call("{}")),
    ("chat", chat_call("{}", type="other")), ("chat", chat_call("{}", id=5)),
    ("responses", responses_call("{}", name="other")), ("responses", responses_call("{}", call_id=None))])
def test_what_is_no_tool_call(direct, api, text):
    done = direct("tool-call", "--api", api, input=text)
    assert done.returncode == 65 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "tool call" in done.stderr


# --- long runs, over lines that break

COUNTING = """
import os, time
open("/mnt/data/runs", "a").write("x")
for n in range(8):
    print(n, flush=True)
    time.sleep(.25)
"""


def test_a_connection_that_breaks_and_comes_back(proxied, proxy, session, tmp_path):
    name = proxied.script(COUNTING)
    with proxied.started(*proxied.where, "-s", session, name, log=tmp_path / "log") as running:
        assert running.stdout.readline() == b"0\n"
        proxy.down()
        wait_for(lambda: proxied.pool.run(session, "open('/mnt/data/runs').read()") == "x", 10)
        time.sleep(.5)  # it goes on meanwhile, with nobody to see it
        proxy.up()
        assert running.stdout.read() == b"".join(b"%d\n" % n for n in range(1, 8))
        assert running.wait(30) == 0
    assert proxied.output(name, "stdout") == "".join(f"{n}\n" for n in range(8))
    nothing_left(proxied.pool, session)


@pytest.mark.parametrize("flags", [[], ["-q"]], ids=["usual", "quiet"])
def test_what_a_start_waits_for_is_told(proxied, proxy, session, tmp_path, flags):
    log = tmp_path / "log"
    rule = proxy.rule("POST executions", answer(500))
    with proxied.started(*proxied.where, "-s", session, *flags, proxied.script("1"), log=log) as running:
        if flags:
            wait_for(lambda: rule.used >= 5, 20, "tries")
        else:
            wait_for(lambda: "trying for up to 20 s" in log.read_text(), 20, "what it waits for")
        proxy.drop(rule)
        assert running.wait(30) == 0
    assert log.read_text().count("\n") == (0 if flags else 1)
    nothing_left(proxied.pool, session)


@pytest.mark.parametrize("many", [[], ["-j", "1"]], ids=["one", "many"])
def test_what_came_of_a_run_that_is_lost_is_kept(proxied, proxy, session, tmp_path, many):
    name = proxied.script("print('old'); 'old'")
    assert proxied(*proxied.where, name).returncode == 0
    proxied.script("import sys, time\nprint('started', flush=True)\nsys.stderr.write('half a line')\nsys.stderr.flush()\n"
                   "time.sleep(600)\n", name)
    with proxied.started(*proxied.where, "-s", session, *many, name, log=tmp_path / "log") as running:
        wait_for(lambda: proxied.output(name, "stdout") == "old\n"
                 and any(path.read_bytes() == b"started\n" for path in proxied.folder.glob(".acarun-*")), 20, "output")
        proxy.rule("POST executions", answer(403))
        assert running.wait(60) == 77
    assert (proxied.output(name, "stdout"), proxied.output(name, "stderr")) == ("started\n", "half a line")
    result = json.loads(proxied.output(name, "result"))
    assert result["status"] == "lost" and "403" in result["message"]
    assert many or "half a line\nacarun: " in (tmp_path / "log").read_text()


@pytest.mark.parametrize("value", ["{'a': [1, 2.5, None, True], 'b, :': '\\\\\"é,:\\n'}", "10**30, -0.0, 1e300, 2**53 + 1",
                                   "float('nan')", "'x'", "[[], {}]"], ids=["object", "numbers", "nan", "text", "empty"])
def test_the_result_is_the_same_everywhere(direct, mounted, tmp_path, value):
    results = set()
    for acarun in (direct, mounted):
        name = acarun.script(value)
        assert acarun(name).returncode == 0
        results.add(acarun.output(name, "result", binary=True))
    assert len(results) == 1, results
    if "10**30" in value:
        return  # of code in a mount the value comes as a JSON document
    for number, acarun in enumerate((direct, mounted)):
        where = tmp_path / f"out{number}"
        where.mkdir()
        for what in (["-c", value], ["-c", value, "argument"], ["hello.py"]):
            assert acarun("-d", where, *what).returncode == 0
            name = "hello.py" if what[0] == "hello.py" else "code"
            results.add((where / f"{name}.result").read_bytes())
    assert len(results) == 1, results


@pytest.mark.parametrize("trouble", [answer(429, {"Retry-After": "0"}), answer(503), cut_before(), cut_after(), cut_body(20)],
                         ids=["429", "503", "cut-before", "cut-after", "cut-body"])
def test_answers_that_go_wrong_on_the_way(proxied, proxy, session, trouble):
    """Every third one does; the script runs once, and its output is whole."""
    proxy.rule("POST executions", trouble, every=3, skip=1)
    name = proxied.script(COUNTING)
    done = proxied(*proxied.where, "-s", session, name)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join(f"{n}\n" for n in range(8))
    proxy.clear()
    assert proxied.pool.read(session, "runs") == b"x"
    nothing_left(proxied.pool, session)


@pytest.mark.parametrize("how", ["direct", "mounted"])
def test_a_run_outlasts_the_limit_of_an_execution(own_pool, mounts, tmp_path, how):
    pool = own_pool(options=["--execution-timeout", "1"])
    (tmp_path / "work").mkdir()
    folder = mounts(pool=pool).path if how == "mounted" else tmp_path / "work"
    acarun = Acarun(folder, pool, tmp_path)
    done = acarun(acarun.script("import time\nfor n in range(15): print(n, flush=True); time.sleep(.2)\n'end'\n"))
    assert done.returncode == 0 and done.stdout == "".join(f"{n}\n" for n in range(15)), done.stderr
    done = acarun("-c", "import time; time.sleep(30)")
    assert done.returncode == 124 and "limit" in done.stderr


def test_a_session_that_goes_away_under_a_run(proxied, proxy, session, tmp_path):
    with proxied.started(*proxied.where, "-s", session, proxied.script(COUNTING + "time.sleep(600)\n"), log=tmp_path / "log") as running:
        running.stdout.readline()
        assert proxied.pool.request("DELETE", "session", session).status == 204
        assert running.wait(40) == 69
    assert "recycled" in (tmp_path / "log").read_text()


def test_a_session_that_goes_away_under_a_mount_s_run(mount, tmp_path):
    acarun = Acarun(mount.path, mount.pool, tmp_path)
    with acarun.started(acarun.script(COUNTING + "time.sleep(600)\n"), log=tmp_path / "log") as running:
        running.stdout.readline()
        assert mount.pool.request("DELETE", "session", mount.session).status == 204
        assert running.wait(40) == 69
    assert "recycled" in (tmp_path / "log").read_text()
