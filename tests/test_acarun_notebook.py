"""acarun NOTEBOOK.ipynb, in a mount and without one: what Jupyter would find in the file afterwards."""

import base64
import json
import os
import re
import signal
import stat
import subprocess
import time

import pytest

from support import process
from support.wait import wait_for

PNG = b"\x89PNG\r\n\x1a\n"


def code(source, **members):
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": source, **members}


def text_of(cells, **members):
    """A notebook's text as Jupyter writes it."""
    top = {"cells": cells, "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
           "nbformat": 4, "nbformat_minor": 5, **members}
    return json.dumps(top, indent=1, ensure_ascii=False) + "\n"


class Book:
    """A notebook in a folder, and acarun on it."""

    def __init__(self, folder, pool, home, session, mount=None):
        self.folder, self.pool, self.session, self.mount = folder, pool, session, mount
        self.path = folder / "book.ipynb"
        self.env = process.environment(HOME=home, ACAFS_CONFIG=os.devnull, XDG_RUNTIME_DIR=pool.directory,
                                       ACAFS_TOKEN=pool.token)
        self.log = home / "acarun.log"

    def command(self, *arguments):
        named = [] if self.mount else ["-p", "local", "-s", self.session]
        return [process.ACARUN, *named, *arguments, self.path]

    def run(self, *arguments, **options):
        done = process.run(self.command(*arguments), env=self.env, cwd=self.folder, check=False, **options)
        assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr
        self.said = done
        return done.returncode

    def write(self, *cells, **members):
        self.path.write_text(text_of([each if isinstance(each, dict) else code(each) for each in cells], **members))

    def start(self, *arguments):
        return process.start(self.command(*arguments), self.log, env=self.env, cwd=self.folder)

    def read(self):
        return json.loads(self.path.read_text())

    def outputs(self, number):
        return self.read()["cells"][number]["outputs"]


@pytest.fixture(params=["direct", "mounted"])
def book(request, tmp_path, pool, session):
    if request.param == "direct":
        folder = tmp_path / "folder"
        folder.mkdir()
        return Book(folder, pool, tmp_path, session)
    mount = request.getfixturevalue("mounts")()
    return Book(mount.path, mount.pool, tmp_path, mount.session, mount)


@pytest.fixture
def direct(tmp_path, pool, session):
    folder = tmp_path / "folder"
    folder.mkdir()
    return Book(folder, pool, tmp_path, session)


def stream(name, *lines):
    return {"name": name, "output_type": "stream", "text": list(lines)}


# --- outputs

def test_streams_values_and_counts(book):
    book.write("x = 6\nprint('one\\ntwo')", {"cell_type": "markdown", "metadata": {}, "source": "# x"},
               "x * 7", "", "import sys\nprint('a')\nprint('b', file=sys.stderr)\nprint('c'); print('d')", "x;")
    assert book.run() == 0, book.said.stderr
    cells = book.read()["cells"]
    assert [each.get("execution_count", "-") for each in cells] == [1, "-", 2, None, 3, 4]
    assert cells[0]["outputs"] == [stream("stdout", "one\n", "two\n")]
    assert cells[2]["outputs"] == [{"output_type": "execute_result", "execution_count": 2, "metadata": {},
                                    "data": {"text/plain": ["42"]}}]
    assert cells[3]["outputs"] == cells[5]["outputs"] == []
    assert cells[4]["outputs"] == [stream("stdout", "a\n"), stream("stderr", "b\n"), stream("stdout", "c\n", "d\n")]
    # On the terminal it is as that of a script, and the progress beside it.
    assert book.said.stdout == "one\ntwo\na\nc\nd\n"
    assert "b\n" in book.said.stderr and "book.ipynb: cell 3 of 4" in book.said.stderr


def test_quiet(direct):
    direct.write("print(1)")
    assert direct.run("-q") == 0 and direct.said.stderr == "" and direct.said.stdout == "1\n"


def test_variables_are_the_session_s(book):
    book.write("kept = [1]")
    assert book.run() == 0
    assert book.pool.run(book.session, "kept") == [1]


def test_an_error_ends_it(book):
    book.write("def f():\n    return 1 / 0", "print('before')\nf()", code("print('never')", execution_count=9,
               outputs=[stream("stdout", "from an earlier run")]))
    assert book.run() == 1
    error = book.outputs(1)[1]
    assert book.outputs(1)[0] == stream("stdout", "before\n")
    assert (error["output_type"], error["ename"], error["evalue"]) == ("error", "ZeroDivisionError", "division by zero")
    assert error["traceback"][0] == "Traceback (most recent call last):"
    assert '  File "<cell In[1]>", line 2, in f' in error["traceback"] and "    return 1 / 0" in error["traceback"]
    assert error["traceback"][-1] == "ZeroDivisionError: division by zero"
    assert not any("acarun" in line for line in error["traceback"])
    assert book.read()["cells"][2]["outputs"] == [] and book.read()["cells"][2]["execution_count"] is None
    assert "ZeroDivisionError" in book.said.stderr and "cell 2 failed" in book.said.stderr


def test_allow_errors_and_the_tag(direct):
    direct.write(code("1 / 0", metadata={"tags": ["other", "raises-exception"]}), "print(1)")
    assert direct.run() == 0, direct.said.stderr
    assert direct.outputs(0)[0]["ename"] == "ZeroDivisionError" and direct.outputs(1) == [stream("stdout", "1\n")]
    direct.write("import sys; sys.exit(3)", "print(1)")
    assert direct.run("--allow-errors") == 1
    assert direct.outputs(0)[0]["ename"] == "SystemExit" and direct.outputs(1) == [stream("stdout", "1\n")]


@pytest.mark.parametrize("source, line, says", [
    ("x = 1\n!ls -l", 2, "shell commands (!) are IPython's"),
    ("x = !ls", 1, "shell commands (!) are IPython's"),
    ("%%bash\nls", 1, "%%bash: magics are IPython's"),
    ("%timeit 1", 1, "%timeit: magics are IPython's"),
    ("for x in 1:\nprint(x)", 2, "expected an indented block"),
])
def test_what_is_no_python(direct, source, line, says):
    direct.write(source)
    assert direct.run() == 1
    error, = direct.outputs(0)
    assert error["ename"].endswith("Error") and says in error["evalue"]
    assert error["traceback"][0] == f'  File "<cell In[1]>", line {line}'
    assert error["traceback"][-1].startswith(error["ename"] + ": ") and says in error["traceback"][-1]


def test_matplotlib(book):
    book.write("%matplotlib inline\nimport matplotlib.pyplot as plt", "plt.plot([1, 2]);", "plt.plot([1]); plt.show(); print('between')\n"
               "plt.figure(); plt.plot([2])", "fig, ax = plt.subplots()\nfig", "plt.get_fignums()")
    assert book.run() == 0, book.said.stderr
    plot, = book.outputs(1)
    assert plot["output_type"] == "display_data" and base64.b64decode(plot["data"]["image/png"]).startswith(PNG)
    kinds = [each["output_type"] for each in book.outputs(2)]
    assert kinds == ["display_data", "stream", "execute_result", "display_data"]
    shown, = book.outputs(3)
    assert shown["output_type"] == "execute_result" and set(shown["data"]) == {"image/png", "text/plain"}
    assert book.outputs(4)[0]["data"]["text/plain"] == ["[]"]


def test_formats(direct):
    direct.write('''class Rich:
    def _repr_html_(self): return "<b>1</b>\\n<i>2</i>"
    def _repr_svg_(self): return "<svg/>"
    def _repr_jpeg_(self): return b"\\xff\\xd8", {"width": 3}
    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"application/vnd.x+json": {"big": 12345678901234567890, "f": 0.1}}
    def __repr__(self): return "Rich \\U0001f600 \\u2028"
display(Rich(), "text")
print("after")
handle = display("first", display_id="a"); handle.update("second")
Rich()''')
    assert direct.run() == 0, direct.said.stderr
    outputs = direct.outputs(0)
    assert [each["output_type"] for each in outputs] == \
        ["display_data", "display_data", "stream", "display_data", "execute_result"]
    data = outputs[0]["data"]
    assert data["text/html"] == ["<b>1</b>\n", "<i>2</i>"] and data["image/svg+xml"] == ["<svg/>"]
    assert base64.b64decode(data["image/jpeg"]) == b"\xff\xd8" and outputs[0]["metadata"] == {"image/jpeg": {"width": 3}}
    assert data["application/vnd.x+json"] == {"big": 12345678901234567890, "f": 0.1}
    assert "".join(data["text/plain"]) == "Rich \U0001f600 \u2028"
    assert "12345678901234567890" in direct.path.read_text()
    assert outputs[1]["data"] == {"text/plain": ["'text'"]}
    assert outputs[3]["data"] == {"text/plain": ["'second'"]} and outputs[4]["data"] == data


def test_odd_values(direct):
    direct.write("class Bad:\n    def __repr__(self): raise ValueError\nBad()", "'\\ud800'", "None", "_",
                 "import os; os.write(1, b'\\xff\\n'); print('\\0\\x1b[1m\\r')", "{1: {2, 3}}")
    assert direct.run() == 0, direct.said.stderr
    assert "repr() raised ValueError" in direct.outputs(0)[0]["data"]["text/plain"][0]
    assert direct.outputs(1)[0]["data"]["text/plain"] == ["'\\ud800'"]
    assert direct.outputs(2) == []
    assert direct.outputs(3)[0]["data"]["text/plain"] == ["'\\ud800'"]
    assert direct.outputs(4) == [stream("stdout", "\ufffd\n", "\0\x1b[1m\r\n")]
    assert direct.outputs(5)[0]["data"]["text/plain"] == ["{1: {2, 3}}"]


@pytest.mark.limit(120)
def test_long_output_is_whole(book):
    book.write("for i in range(200000): print('line', i)")
    assert book.run(timeout=100) == 0
    output, = book.outputs(0)
    assert len(output["text"]) == 200000 and output["text"][-1] == "line 199999\n"


def test_what_is_too_large_is_named(direct):
    direct.write("display('x' * 9_000_000); display('small'); display('y' * 9_000_000)")
    assert direct.run() == 0, direct.said.stderr
    texts = ["".join(each["data"]["text/plain"]) for each in direct.outputs(0)]
    assert sorted(len(text) > 9_000_000 for text in texts) == [False, False, True]
    assert texts[1] == "'small'" and any(text.startswith("<left out: an output of 9") for text in texts)


def test_top_level_await_and_futures(direct):
    direct.write("from __future__ import annotations\nimport asyncio", "await asyncio.sleep(0, 'done')",
                 "def f(x: not_defined): pass\nf.__annotations__")
    assert direct.run() == 0, direct.said.stderr
    assert direct.outputs(1)[0]["data"]["text/plain"] == ["'done'"]
    assert direct.outputs(2)[0]["data"]["text/plain"] == ["{'x': 'not_defined'}"]


def test_carets_stand_below_what_failed(direct):
    direct.write("x = 1\nx + 2 / 0", "s = '\u00e9\u2028\f'\ndef f(): return s + 1\nf()", "a = 1\r\nb = 2\r\na + c")
    assert direct.run("--allow-errors") == 1
    for number, line, carets in ((0, "x + 2 / 0", "2 / 0"), (1, "def f(): return s + 1", "s + 1"), (1, "f()", "f()"), (2, "a + c", "c")):
        trace = direct.outputs(number)[0]["traceback"]
        at = trace.index("    " + line)
        if carets != line:  # else Python leaves them out
            assert trace[at + 1].rstrip() == "    " + " " * line.rindex(carets) + trace[at + 1].strip(), trace
            assert len(trace[at + 1].strip()) == len(carets), trace


def test_jupyter_s_own_judge(book):
    """What is written is valid to nbformat, which Jupyter reads it with."""
    nbformat = pytest.importorskip("nbformat")
    book.write("print('out'); import sys; print('err', file=sys.stderr)\ndisplay({1: 2}); 5", "", "1 / 0",
               "import matplotlib.pyplot as plt; plt.plot([1]); plt.show(); plt.plot([2])\nclass Rich:\n    def _repr_html_(self):"
               " return '<b>'\n    def _repr_json_(self): return {'a': [1]}\nRich()", "import os; os._exit(1)", "print('never')",
               {"cell_type": "markdown", "metadata": {}, "source": ["# x"]}, {"cell_type": "raw", "metadata": {}, "source": ""})
    given = book.read()
    for number, cell in enumerate(given["cells"]):
        cell["id"] = f"cell-{number}"
    book.path.write_text(json.dumps(given))
    nbformat.validate(nbformat.read(book.path, as_version=4))
    assert book.run("--allow-errors") not in (0, 64, 65)
    found = nbformat.read(book.path, as_version=4)
    nbformat.validate(found)
    assert [cell["id"] for cell in found["cells"]] == [f"cell-{number}" for number in range(8)]
    assert [len(cell.get("outputs", [])) for cell in found["cells"]] == [4, 0, 1, 3, 1, 0, 0, 0]


# --- the place

def test_it_starts_in_its_own_directory(tmp_path, mounts):
    mount = mounts()
    (mount / "a b").mkdir()
    (mount / "a b/helper.py").write_text("VALUE = 5\n")
    (mount / "a b/data.txt").write_text("pending")
    book = Book(mount / "a b", mount.pool, tmp_path, mount.session, mount)
    book.write("import helper; helper.VALUE, open('data.txt').read()", "import os, sys\nos.mkdir('sub'); os.chdir('sub')\n"
               "sys.path.append('/x')", "os.getcwd(), sys.path[-1]", "open('made.txt', 'w').write('new');")
    assert book.run() == 0, book.said.stderr
    assert book.outputs(0)[0]["data"]["text/plain"] == ["(5, 'pending')"]
    assert book.outputs(2)[0]["data"]["text/plain"] == ["('/mnt/data/a b/sub', '/x')"]
    assert (mount / "a b/sub/made.txt").read_text() == "new"
    # Others find the session as it was.
    assert mount.pool.run(mount.session, "import os, sys; [os.getcwd(), '/x' in sys.path]") == ["/mnt/data", False]


def test_a_session_of_its_own_is_deleted(tmp_path, own_pool):
    pool = own_pool()
    folder = tmp_path / "folder"
    folder.mkdir()
    book = Book(folder, pool, tmp_path, None)
    book.command = lambda *arguments: [process.ACARUN, *arguments, book.path]
    book.write("x = 1", "x + 1")
    assert book.run() == 0, book.said.stderr
    assert book.outputs(1)[0]["data"]["text/plain"] == ["2"]
    sessions = pool.request("GET", "listSessions").json()
    assert not sessions.get("sessions") and not sessions.get("value"), sessions


# --- the file

ODD = '''{"nbformat":4, "nbformat_minor": 4,
\t"unknown": {"big": 123456789012345678901234567890, "f": 1.10, "e": 1E+2, "n": -0.0},
 "cells" : [ {"source":["print(\\u0031)\\n","2"],"outputs":[{"output_type":"stream","name":"stdout","text":"\\u00e9"}],
  "cell_type":"code", "metadata":{"x":0.30000000000000004},"execution_count":  77, "id":"\\u0061"},
 {"cell_type":"raw","metadata":{},"source":"1/0","attachments":{"a":1e400}},
 {"metadata":{},"cell_type":"code","source":"3"} ],
 "metadata":{"language_info":{"name":"python","version":"3.99"}}}'''


def test_everything_else_stays_byte_for_byte(direct):
    direct.path.write_text(ODD)
    assert direct.run() == 0, direct.said.stderr
    text = direct.path.read_text()
    cells = json.loads(text)["cells"]
    assert [each.get("execution_count") for each in cells] == [1, None, 2]
    assert [each["output_type"] for each in cells[0]["outputs"]] == ["stream", "execute_result"]
    assert cells[2]["outputs"][0]["data"]["text/plain"] == ["3"]
    # Without what was put in, it is as it was.
    text = re.sub(r'"outputs":\[\n.*?\n   \]', '"outputs":OLD', text, count=1, flags=re.S)
    text = text.replace('"execution_count":  1', '"execution_count":  77')
    text = re.sub(r'\n   "execution_count": 2,\n   "outputs": \[\n.*?\n   \],', "", text, flags=re.S)
    assert text == re.sub(r'"outputs":\[.*?\]', '"outputs":OLD', ODD, count=1)


def test_it_is_written_as_jupyter_writes_it(direct):
    direct.write("print(1)\n2")
    assert direct.run() == 0
    text = direct.path.read_text()
    assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n"


def test_a_second_run_changes_nothing(book):
    book.write("print(1)", "import os\n[1] * 40", "1/0")
    assert book.run() == 1
    first = book.path.read_bytes()
    assert book.run() == 1
    assert book.path.read_bytes() == first


def test_mode_and_symlink_stay(direct):
    direct.write("1")
    real = direct.folder / "real.ipynb"
    direct.path.rename(real)
    real.chmod(0o640)
    direct.path.symlink_to("real.ipynb")
    assert direct.run() == 0
    assert direct.path.is_symlink() and stat.S_IMODE(real.stat().st_mode) == 0o640
    assert direct.outputs(0) and sorted(os.listdir(direct.folder)) == ["book.ipynb", "real.ipynb"]


def test_other_places_for_the_outputs(direct):
    direct.write("1")
    before = direct.path.read_text()
    (direct.folder / "out").mkdir()
    assert direct.run("-d", "out") == 0
    assert direct.path.read_text() == before
    assert json.loads((direct.folder / "out/book.ipynb").read_text())["cells"][0]["outputs"]
    assert direct.run("-n") == 0
    assert direct.path.read_text() == before
    assert direct.run("-d", "missing") == 73 and "missing" in direct.said.stderr


def test_a_notebook_edited_meanwhile_is_not_overwritten(direct):
    direct.write("import time\nprint('begun', flush=True)\nwhile not __import__('os').path.exists('go'): time.sleep(.01)")
    edited = text_of([code("edited")])
    with subprocess.Popen([os.fspath(each) for each in direct.command()], env=direct.env, cwd=direct.folder,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "begun\n"
        direct.path.write_text(edited)
        direct.pool.write(direct.session, "go", b"")
        said = running.communicate(timeout=30)[1]
    assert running.returncode == 73 and "changed meanwhile" in said
    assert direct.path.read_text() == edited
    conflict, = direct.folder.glob("book.conflict-*.ipynb")
    assert json.loads(conflict.read_text())["cells"][0]["outputs"] == [stream("stdout", "begun\n")]


@pytest.mark.parametrize("content, says", [
    ("", "line 1: this is no JSON"),
    ('{"cells": [],\n"nbformat": 4,\n}', "line 3: this is no JSON"),
    ("{}", "this is no notebook"),
    (text_of([], nbformat=3), "another version"),
    (text_of([], metadata={"kernelspec": {"language": "R"}}), "another language"),
    ('{"nbformat": 4}', "no cells"),
    (text_of([1]), "no JSON object"),
    (text_of([{"cell_type": "code", "source": 5}]), "no text"),
    (None, "No such file"),
])
def test_what_is_no_notebook(direct, content, says):
    if content is not None:
        direct.path.write_text(content)
    assert direct.run() == (66 if content is None else 65) and says in direct.said.stderr
    assert content is None or direct.path.read_text() == content


def test_a_byte_order_mark(direct):
    """As some editors put it, and with which Jupyter refuses the file."""
    text = text_of([code("6 * 7")])
    direct.path.write_text(text, encoding="utf-8-sig")
    assert direct.run() == 0, direct.said.stderr
    assert direct.path.read_bytes()[:1] == b"{" and direct.outputs(0)[0]["data"] == {"text/plain": ["42"]}
    direct.path.write_text(text, encoding="utf-16")
    before = direct.path.read_bytes()
    assert direct.run() == 65 and "line 1: this is no JSON" in direct.said.stderr
    assert direct.path.read_bytes() == before


def test_usage(direct):
    direct.write("1")
    done = process.run([*direct.command(), "argument"], env=direct.env, check=False)
    assert done.returncode == 64 and "no arguments" in done.stderr
    assert direct.run("--json") == 64 and "--json" in direct.said.stderr
    assert direct.run("-j", "2") == 64 and "notebooks" in direct.said.stderr
    done = process.run([process.ACARUN, "--allow-errors", "-c", "1"], env=direct.env, check=False)
    assert done.returncode == 64 and "notebooks" in done.stderr


def test_the_pool_away(direct, tmp_path):
    direct.write("1")
    before = direct.path.read_text()
    direct.command = lambda *_: [process.ACARUN, "-p", "http://127.0.0.1:1", "-o", "credential=none,max-retries=0", direct.path]
    assert direct.run() == 69
    assert direct.path.read_text() == before and direct.said.stdout == ""


# --- ends that are not its own

def test_timeout(book):
    book.write("print(1)", "import time\nprint('begun')\ntime.sleep(60)", "3")
    assert book.run("-t", "1") == 124, book.said.stderr
    begun, error = book.outputs(1)
    assert begun == stream("stdout", "begun\n") and error["ename"] == "KeyboardInterrupt"
    assert book.outputs(0) == [stream("stdout", "1\n")] and book.outputs(2) == []
    assert "timed out" in book.said.stderr


def test_timeout_with_allow_errors(direct):
    direct.write("import time\ntime.sleep(60)", "3")
    assert direct.run("-t", "1", "--allow-errors") == 1, direct.said.stderr
    assert direct.outputs(1)[0]["data"]["text/plain"] == ["3"]


def test_ctrl_c(book):
    book.write("print(1)", "import time\nprint('begun', flush=True)\ntime.sleep(60)", "3")
    running = book.start()
    wait_for(lambda: "begun" in book.log.read_text(), 20, "the cell")
    running.send_signal(signal.SIGINT)
    assert running.wait(20) == 130
    begun, error = book.outputs(1)
    assert begun == stream("stdout", "begun\n") and error["ename"] == "KeyboardInterrupt"
    assert book.outputs(0) == [stream("stdout", "1\n")] and book.outputs(2) == []


@pytest.mark.limit(90)
def test_a_kernel_that_dies(direct):
    direct.write("print('begun', flush=True)", "import os, time\nprint('last words', flush=True)\nos._exit(3)", "3")
    assert direct.run("--allow-errors", timeout=80) not in (0, 64)
    words, error = direct.outputs(1)
    assert words == stream("stdout", "last words\n")
    assert error["output_type"] == "error" and error["traceback"]
    assert direct.outputs(2) == []


def test_nothing_is_beside_it(direct):
    """Nothing is beside the notebook while it runs, and nothing after."""
    direct.write("import os\nprint('begun', flush=True)\nwhile not os.path.exists('go'): __import__('time').sleep(.01)")
    running = direct.start()
    wait_for(lambda: "begun" in direct.log.read_text(), 20, "the cell")
    assert os.listdir(direct.folder) == ["book.ipynb"] and direct.outputs(0) == []
    direct.pool.write(direct.session, "go", b"")
    assert running.wait(20) == 0
    assert os.listdir(direct.folder) == ["book.ipynb"] and direct.outputs(0) == [stream("stdout", "begun\n")]
