"""acarun -j N: many scripts at once, in a mount, in a session, and in as many sessions."""

import json
import os
import pty
import re
import subprocess
import time

import pytest

from support import process
from support.acarun import Acarun, interrupt, nothing_left
from support.proxy import answer
from support.wait import wait_for

pytestmark = pytest.mark.session


@pytest.fixture
def direct(tmp_path, pool):
    """Where no mount is."""
    (tmp_path / "work").mkdir()
    return Acarun(tmp_path / "work", pool, tmp_path)


@pytest.fixture
def mounted(tmp_path, mount):
    it = Acarun(mount.path, mount.pool, tmp_path)
    it.session = mount.session
    return it


@pytest.fixture(params=["direct", "spread", "mounted"])
def acarun(request):
    it = request.getfixturevalue("mounted" if request.param == "mounted" else "direct")
    it.more = ["--spread"] if request.param == "spread" else []
    return it


def sessions(pool):
    return {entry["identifier"] for entry in pool.request("GET", "listSessions").json()["sessions"]}


def scripts(it, count, text):
    return [it.script(text.format(n=n), f"s{n:02}.py") for n in range(count)]


def table(done):
    """{script: status} of the summary, and its last line."""
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["SCRIPT", "STATUS", "TIME", "MESSAGE"]
    rows = [re.fullmatch(r"(.+?)  +(ok|exit \d+|timed out|canceled|stopped|not run)(?:  +(\d+\.\d s)(?:  (.*))?)?", line)
            for line in lines[1:-1]]
    assert all(rows), done.stdout
    return {row[1]: row[2] for row in rows}, lines[-1]


def test_all_run_and_outputs_never_mix(acarun):
    names = scripts(acarun, 12, "import sys\nfor i in range(200): print('{n}', i)\nprint('e{n}', file=sys.stderr)\n{n}\n")
    done = acarun("-j", "4", *acarun.more, *names)
    assert done.returncode == 0, done.stderr
    assert table(done) == (dict.fromkeys(names, "ok"), "12 ok, 0 failed")
    for n, name in enumerate(names):
        assert acarun.output(name, "stdout") == "".join(f"{n} {i}\n" for i in range(200))
        assert acarun.output(name, "stderr") == f"e{n}\n" and acarun.output(name, "result") == f"{n}\n"
    for n, name in enumerate(names):
        assert f"{name}: started\n" in done.stderr and f"{name}: ok after " in done.stderr


def test_so_many_at_once_and_no_more(direct, session):
    """Each looks for a while how many there are."""
    names = scripts(direct, 6, """
import glob, os, sys, time
mine, most = sys.argv[0] + ".here", 0
open(mine, "w").close()
for _ in range(40):
    most = max(most, len(glob.glob("*.here")))
    time.sleep(.01)
os.remove(mine)
most
""")
    done = direct("-j", "3", "-s", session, *names)
    assert done.returncode == 0, done.stdout
    assert max(int(direct.output(name, "result")) for name in names) == 3
    nothing_left(direct.pool, session)


def test_a_mount_keeps_their_order(mounted):
    names = scripts(mounted, 10, "open('/mnt/data/order', 'a').write('{n} ')\n")
    assert mounted("-j", "4", *names).returncode == 0
    assert mounted.pool.read(mounted.session, "order").split() == [b"%d" % n for n in range(10)]


def test_the_exit_status_of_the_worst(acarun):
    names = [acarun.script("1", "a.py"), acarun.script("import sys; sys.exit(3)", "b.py"), acarun.script("1 / 0", "c.py")]
    done = acarun("-j", "2", *acarun.more, *names)
    assert done.returncode == 3
    assert table(done) == ({"a.py": "ok", "b.py": "exit 3", "c.py": "exit 1"}, "1 ok, 2 failed")
    assert "ZeroDivisionError: division by zero" in done.stdout
    assert re.search(r"c.py: exit 1 after \d+\.\d s: ZeroDivisionError: division by zero\n", done.stderr)
    assert "ZeroDivisionError" in acarun.output("c.py", "stderr")


def test_a_timeout_is_for_each(acarun):
    names = [acarun.script("import time; time.sleep(600)", "a.py"), acarun.script("1", "b.py")]
    done = acarun("-j", "1", "-t", "0.5", *acarun.more, *names)
    assert done.returncode == 124 and table(done)[0] == {"a.py": "timed out", "b.py": "ok"}


def test_fail_fast_stops_the_others(acarun):
    long = acarun.script("import time\nprint('begun', flush=True)\ntime.sleep(600)\n", "a.py")
    bad = acarun.script("import time; time.sleep(.3); 1 / 0", "b.py")
    if not acarun.more and hasattr(acarun, "session"):
        long, bad = bad, long  # of a mount one runs after another
    never = acarun.script("open('/mnt/data/never', 'w')", "c.py")
    done = acarun("-j", "2", "--fail-fast", *acarun.more, long, bad, never)
    states, total = table(done)
    assert done.returncode == 1 and states["c.py"] == "not run" and total == "0 ok, 1 failed, 2 not run to the end"
    assert sorted(states.values()) == ["exit 1", "not run", "stopped"]
    if hasattr(acarun, "session"):
        nothing_left(acarun.pool, acarun.session)


def test_keep_going_is_the_usual_way(acarun):
    names = [acarun.script("1 / 0", "a.py"), acarun.script("1", "b.py")]
    assert table(acarun("-j", "1", *acarun.more, *names))[1] == "1 ok, 1 failed"
    assert table(acarun("-j", "1", "--fail-fast", "--keep-going", *acarun.more, *names))[1] == "1 ok, 1 failed"


def test_ctrl_c(acarun, tmp_path):
    before = sessions(acarun.pool)
    names = scripts(acarun, 5, "import time\nprint('begun', flush=True)\ntime.sleep(600)\n")
    with acarun.started("-j", "2", *acarun.more, *names, log=tmp_path / "log") as running:
        wait_for(lambda: (tmp_path / "log").read_text().count("started") == 2, 20)
        interrupt(running)
        said = running.stdout.read().decode()
        assert running.wait(20) == 130
    assert "0 ok, 0 failed, 5 not run to the end" in said and said.count("not run\n") == 3
    if hasattr(acarun, "session"):
        nothing_left(acarun.pool, acarun.session)
    else:
        assert sessions(acarun.pool) <= before


def test_a_second_ctrl_c_ends_at_once(acarun, tmp_path):
    names = scripts(acarun, 2, """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
open("/mnt/data/begun{n}", "w").close()
while True: time.sleep(1)
""")
    with acarun.started("-j", "2", *acarun.more, *names, log=tmp_path / "log") as running:
        wait_for(lambda: (tmp_path / "log").read_text().count("started") == 2, 20)
        interrupt(running)
        wait_for(lambda: process_waits(running), 5)
        began = time.monotonic()
        while running.poll() is None:  # signals of one kind that come together are one
            interrupt(running)
            time.sleep(.05)
        assert running.returncode == 130 and time.monotonic() - began < 4


def process_waits(running):
    """The first signal was taken: none is pending."""
    with open(f"/proc/{running.pid}/status") as status:
        pending = [int(line.split()[1], 16) for line in status if line.startswith("ShdPnd:")]
    return pending == [0]


# --- sessions

def test_one_session_of_our_own_is_deleted(direct):
    before = sessions(direct.pool)
    names = scripts(direct, 4, "import os\nopen('s{n}', 'w').close()\nimport time; time.sleep(.3)\n")
    with direct.started("-j", "4", *names, log=direct.folder / "log") as running:
        wait_for(lambda: sessions(direct.pool) - before, 20)
        assert len(sessions(direct.pool) - before) == 1
        assert running.wait(30) == 0
    assert sessions(direct.pool) <= before


@pytest.mark.parametrize("spread, at_once, count", [("--spread", 3, 3), ("--spread=2", 4, 2), ("--spread=9", 3, 3), ("--spread", 8, 5)])
def test_as_many_sessions_and_they_are_deleted(direct, spread, at_once, count):
    before, seen = sessions(direct.pool), set()
    names = scripts(direct, 5, "import time; time.sleep(.5)\n")
    with direct.started("-j", str(at_once), spread, *names, log=direct.folder / "log") as running:
        while running.poll() is None:
            seen |= sessions(direct.pool) - before
    assert running.returncode == 0 and len(seen) == count
    assert sessions(direct.pool) <= before


def test_a_named_session_stays(direct, session):
    assert direct("-j", "2", "-s", session, *scripts(direct, 2, "open('made{n}', 'w').close()")).returncode == 0
    assert {"made0", "made1", "s00.py", "s01.py"} == direct.pool.names(session)


def test_scripts_of_the_same_name(direct):
    for folder in ("a", "b", "c"):
        (direct / folder).mkdir()
        direct.script(f"print('{folder}')", f"{folder}/x.py")
    for more in ([], ["--spread=2"]):
        done = direct("-j", "3", *more, "a/x.py", "b/x.py", "c/x.py")
        assert done.returncode == 0, done.stderr
        assert [direct.output(f"{folder}/x.py", "stdout") for folder in "abc"] == ["a\n", "b\n", "c\n"]


@pytest.mark.parametrize("more", [["--spread", "--fetch", "*.csv"], ["--spread=2"], ["--spread=1"], []])
def test_scripts_of_the_same_name_see_the_same(direct, more):
    """The files that go with them, and where what they make is brought to."""
    (direct / "data.csv").write_text("data")
    code = """
import os, time
os.makedirs("deep", exist_ok=True)
data = open("data.csv").read()
open("deep/out.csv", "w").write("{0} " + data)
time.sleep(.5)  # so that they run at the same time, where they can
open("data.csv").read(), len(open("run.py").read())
"""
    folders = ["a", "b", "c"]
    for folder in folders:
        (direct / folder).mkdir()
        direct.script(code.replace("{0}", folder), f"{folder}/run.py")
    done = direct("-j", "3", *more, "--with", "data.csv", *(f"{folder}/run.py" for folder in folders))
    assert done.returncode == 0, done.stdout + done.stderr
    for folder in folders:
        assert json.loads(direct.output(f"{folder}/run.py", "result")) == ["data", len(code) - 2]
        if "--fetch" not in more:
            continue
        brought = direct / f"{folder}/run.py.files"
        assert [os.path.relpath(os.path.join(top, name), brought) for top, _, names in os.walk(brought) for name in names] \
            == ["deep/out.csv"]
        assert (brought / "deep/out.csv").read_text() == f"{folder} data"


def test_files_that_go_with_them(direct, tmp_path):
    (direct / "data.txt").write_text("data")
    (tmp_path / "lib.py").write_text("value = 5\n")
    names = scripts(direct, 4, "import lib\n(open('data.txt').read(), lib.value, {n})\n")
    for more in ([], ["--spread"]):
        done = direct("-j", "2", *more, "--with", "data.txt", "--with", tmp_path / "lib.py", *names)
        assert done.returncode == 0, done.stdout
        for n, name in enumerate(names):
            assert json.loads(direct.output(name, "result")) == ["data", 5, n]
    done = direct("-j", "2", "--with", "missing", *names)
    assert done.returncode == 66 and "missing: No such file" in done.stderr and "4 not run" in done.stdout
    assert direct("-j", "2", "--with", ".", *names).returncode == 66


def test_what_scripts_made_is_fetched(direct, tmp_path):
    (direct / "in.csv").write_text("old")
    names = scripts(direct, 3, """
import os
os.makedirs("deep/er/.git", exist_ok=True)
open("out.csv", "wb").write(bytes([{n}]) * 300_000)
open("deep/er/too.csv", "w").write("{n}")
open("deep/er/.git/x.csv", "w").write("hidden")
open(".dot.csv", "w").write("hidden")
open("other.txt", "w").write("{n}")
if {n} == 1: open("in.csv", "w").write("changed")
""")
    done = direct("-j", "3", "--spread", "--with", "in.csv", "--fetch", "*.csv", *names)
    assert done.returncode == 0, done.stderr
    for n, name in enumerate(names):
        folder = direct / f"{name}.files"
        found = {os.path.relpath(os.path.join(top, file), folder) for top, _, files in os.walk(folder) for file in files}
        assert found - {"deep/er/.git/x.csv"} == {"out.csv", "deep/er/too.csv"} | ({"in.csv"} if n == 1 else set())
        assert (folder / "out.csv").read_bytes() == bytes([n]) * 300_000
        assert (folder / "deep/er/too.csv").read_text() == str(n)
    assert (direct / "s01.py.files/in.csv").read_text() == "changed"
    (tmp_path / "out").mkdir()
    done = direct("-j", "3", "--spread", "-d", tmp_path / "out", "--fetch", "deep/*/too.csv", *names)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/s02.py.files/deep/er/too.csv").read_text() == "2"
    assert not (tmp_path / "out/s02.py.files/out.csv").exists()
    assert (tmp_path / "out/s02.py.stdout").exists()


def test_only_what_this_script_changed_is_fetched(direct):
    """The next script in the same session does not bring what the one before it made."""
    names = scripts(direct, 3, "open('f{n}', 'w').write('x')\n")
    assert direct("-j", "1", "--spread", "--fetch", "f?", *names).returncode == 0
    assert [os.listdir(direct / f"{name}.files") for name in names] == [["f0"], ["f1"], ["f2"]]


def test_a_script_that_fails_is_fetched_from_too(direct):
    name = direct.script("open('log', 'w').write('x')\n1 / 0\n")
    assert direct("-j", "1", "--spread", "--fetch", "log", name).returncode == 1
    assert (direct / "hello.py.files/log").read_text() == "x"


def test_outputs_in_another_directory(acarun, tmp_path):
    (tmp_path / "out").mkdir()
    names = scripts(acarun, 3, "print({n})\n{n}\n")
    assert acarun("-j", "3", *acarun.more, "-d", tmp_path / "out", *names).returncode == 0
    assert sorted(os.listdir(acarun.folder)) == names
    for n, name in enumerate(names):
        assert (tmp_path / f"out/{name}.stdout").read_text() == f"{n}\n" == (tmp_path / f"out/{name}.result").read_text()


def test_no_outputs(acarun):
    names = scripts(acarun, 2, "print({n})\n")
    assert acarun("-j", "2", "-n", *acarun.more, *names).returncode == 0
    assert sorted(os.listdir(acarun.folder)) == names


# --- what is shown

def test_quiet(direct):
    done = direct("-j", "2", "-q", *scripts(direct, 2, "print(1)"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def on_terminal(it, *arguments):
    """What acarun shows on a pseudo-terminal of 80 columns."""
    ours, its = pty.openpty()
    running = subprocess.Popen([process.ACARUN, *arguments], stdin=its, stdout=its, stderr=its, env=it.env, cwd=it.folder)
    os.close(its)
    said = b""
    try:
        while piece := os.read(ours, 4096):
            said += piece
    except OSError:  # its end is closed
        pass
    os.close(ours)
    assert running.wait(20) == 0
    return said.decode()


def test_a_line_for_each_on_a_terminal(direct):
    names = scripts(direct, 3, "import time\nprint('step one of {n}', flush=True)\ntime.sleep(1)\n")
    names.append(direct.script("print('\\033[2J' + 'x' * 500)\nimport time; time.sleep(1)\n", "long \033[31mname.py"))
    said = on_terminal(direct, "-j", "4", *names)
    for n in range(3):
        assert re.search(rf"s0{n}\.py +\d\.\d s  step one of {n}\r\n", said)
    assert re.search(r"[0-3] of 4 done, 0 failed\r\n", said)
    assert "\033[2J" not in said and "\033[31m" not in said  # a script does not steer the terminal
    lines = re.split(r"\r\n", re.sub(r"\033\[\d*[AJ]|\r(?!\n)", "", said))
    assert max(len(line) for line in lines[:-7]) <= 79
    assert lines[-2] == "4 ok, 0 failed"


def test_names_in_the_table(direct):
    names = ["ü ä.py", "漢字.py", "a" * 60 + ".py"]
    for name in names:
        direct.script("1", name)
    done = direct("-j", "2", *names)
    assert done.returncode == 0 and [name for name in table(done)[0]] == names


# --- what goes wrong

def test_usage(direct, mount):
    name, other = direct.script("1"), direct.script("1", "other.py")
    (mount / "m.py").write_text("1")
    (direct / "sub").mkdir()
    direct.script("1", "sub/hello.py")
    for arguments, named in ((["-j", "2"], "no SCRIPT"), (["-j", "0", name], "0"), (["-j", "65", name], "65"), (["-j", "x", name], "x"),
                             (["-j", "2", "-"], "standard input"), (["-j", "2", "-c", "1"], "-c"), (["-j", "2", "--json", name], "--json"),
                             (["-j", "2", "--spread=0", name], "0"), (["-j", "2", "--spread", "-s", "abcd", name], "--session"),
                             (["-j", "2", "--fetch", "*", name], "--spread"), (["-j", "2", "--spread=1", "--fetch", "*", name, other], "--fetch"),
                             (["--spread", name], "-j"), (["--with", "x", name], "-j"), (["--fetch", "x", name], "-j"),
                             (["-j", "2", name, name], "same names"), (["-j", "2", name, "./" + name], "same names"),
                             (["-j", "2", "-d", ".", name, "sub/hello.py"], "same names"), (["-j", "2", name, mount / "m.py"], "one mount"),
                             (["-j", "2", "--with", name, mount / "m.py"], "--with")):
        done = direct(*arguments)
        assert done.returncode == 64 and named in done.stderr and done.stderr.count("\n") == 1, (arguments, done.stderr)
    done = direct("-j", "2", name, "missing.py")
    assert done.returncode == 66 and done.stderr == "acarun: missing.py: No such file or directory\n"


def test_a_pool_that_refuses_is_asked_once(tmp_path, tcp_pool, proxy):
    (tmp_path / "work").mkdir()
    it = Acarun(tmp_path / "work", tcp_pool, tmp_path)
    names = scripts(it, 20, "1")
    proxy.rule(".*", answer(403))
    done = it("-j", "2", "-p", proxy.url, "-o", "max-retries=0", *names)
    assert done.returncode == 77 and "403" in done.stdout
    assert table(done)[1].endswith("19 not run to the end")
    assert proxy.count("POST files") <= 4
    proxy.clear()
    proxy.down()
    done = it("-j", "2", "-p", proxy.url, "-o", "max-retries=0", *names, timeout=60)
    assert done.returncode == 69
    proxy.up()


def test_one_upload_that_fails_fails_one_script(tmp_path, tcp_pool, proxy):
    (tmp_path / "work").mkdir()
    it = Acarun(tmp_path / "work", tcp_pool, tmp_path)
    names = scripts(it, 4, "1")
    proxy.rule("POST files", answer(413), times=1)
    done = it("-j", "1", "-p", proxy.url, *names)
    states, total = table(done)
    assert total == "3 ok, 1 failed" and done.returncode == 1


def test_a_pool_with_room_for_less(own_pool, tmp_path):
    """Some sessions can't be had: their scripts fail with 75, the others run."""
    pool = own_pool(options=["--max-sessions", "2"])
    it = Acarun(tmp_path, pool, tmp_path)
    done = it("-j", "4", "--spread", "-o", "max-retries=0", *scripts(it, 4, "import time; time.sleep(.5)"))
    states, _ = table(done)
    assert done.returncode == 75 and "ok" in states.values() and "exit 75" in states.values()
