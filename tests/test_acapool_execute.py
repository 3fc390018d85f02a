"""What code in a session of acapool can do and see, and what is answered."""

import base64
import json
import os
import shutil
import subprocess
import threading
import time
import uuid

import pytest

from clients.server import ACAPOOL, Server, Session, wait_until

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("pool")) as it:
        yield it


@pytest.fixture
def session(server):
    it = server.session()
    yield it
    it.call("DELETE", "session")


# --- values

@pytest.mark.parametrize("code, value", [
    ("1 + 1", 2), ("-1.5", -1.5), ("'text'", "text"), ("True", True), ("[1, [2], None]", [1, [2], None]),
    ("{'a': {'b': None}}", {"a": {"b": None}}), ("(1, 2)", [1, 2]), ("x = 1", ""), ("None", ""), ("print(1)", ""),
    ("float('nan')", "nan"), ("float('-inf')", "-inf"), ("[float('inf')]", ["inf"]), ("{1, 2}", "{1, 2}"),
    ("{1: 2}", "{1: 2}"), ("b'x'", "b'x'"), ("range(3)", "range(0, 3)"), ("2**70", 2**70), ("''", ""),
    ("'\\0a\\0'", "\0a\0"), ("'\\ud800x'", "\ufffdx"), ("'日本 🎉'", "日本 🎉"), ("1;", ""), ("", ""),
    ("# nothing", ""), ("import math\nmath.pi", 3.141592653589793), ("def f():\n    return 7\nf()", 7),
])
def test_the_last_expression_is_the_result(session, code, value):
    assert session.run(code) == value


def test_numbers_of_numpy_are_numbers(session):
    assert session.run("import numpy as np; np.int64(3)") == 3
    assert session.run("[np.float64(.5), np.bool_(True)]") == [.5, True]
    assert session.run("np.array([1, 2])") == "array([1, 2])"


def test_what_json_can_not_hold_is_shown_as_text(session):
    assert session.run("x = []; x.append(x); x") == "[[...]]"
    assert session.run("class A:\n    def __repr__(self): return 'an A'\nA()") == "an A"
    assert "raised ZeroDivisionError" in session.run("class B:\n    def __repr__(self): return 1/0\nB()")
    deep = session.run("d = []\nfor _ in range(150): d = [d]\nd")
    assert isinstance(deep, str) and deep.startswith("[[[[")
    assert "int" in session.run("10 ** 5000")


def test_a_large_value_is_complete(session):
    assert session.run("'x' * 10_000_000") == "x" * 10_000_000


def test_a_value_too_large_is_refused_in_words(session):
    assert "TooLarge" in session.fail("'x' * (65 << 20)")


# --- state

def test_variables_stay(session):
    session.run("x = 41\nimport os")
    assert session.run("x + 1") == 42
    assert session.run("os.getcwd()") == "/mnt/data"
    assert session.run("__name__") == "__main__"


def test_functions_of_earlier_executions_show_their_source(session):
    session.run("def f():\n    raise ValueError('from f')")
    assert session.fail("f()") == ('Traceback (most recent call last):\n'
                                   '  File "<execution 2>", line 1, in <module>\n    f()\n'
                                   '  File "<execution 1>", line 2, in f\n    raise ValueError(\'from f\')\n'
                                   'ValueError: from f\n')


def test_pickle_and_processes_know_the_main_module(session):
    assert session.run("class A: x = 5\nimport pickle; pickle.loads(pickle.dumps(A())).x") == 5
    assert session.run("import multiprocessing as m\ndef f(x): return x * x\n"
                       "with m.get_context('fork').Pool(2) as p: r = p.map(f, range(4))\nr") == [0, 1, 4, 9]


def test_modules_beside_the_data_can_be_imported(session):
    session.put("mine.py", b"value = 9\n")
    assert session.run("import mine; mine.value") == 9


def test_files_that_shadow_modules_do_not_hurt_the_kernel(session):
    for name in ("json", "ast", "traceback", "struct"):
        session.put(f"{name}.py", b"raise RuntimeError('not this one')\n")
    session.run("import os; 1")
    session.execute("os.kill(os.getpid(), 9)")
    assert session.run("1 + 1") == 2


def test_await_at_the_top(session):
    assert session.run("import asyncio\nawait asyncio.sleep(0.01)\nawait asyncio.sleep(0, 'done')") == "done"
    assert session.run("async def g():\n    return 3\nawait g()") == 3


# --- output

def test_streams_are_apart_and_of_subprocesses_too(session):
    result = session.execute("import sys, subprocess, os\nprint('a'); print('b', file=sys.stderr)\n"
                             "subprocess.run(['sh', '-c', 'echo c; echo d >&2'])\nos.system('echo e')\n"
                             "os.write(1, b'f\\n'); None")["result"]
    assert (result["stdout"], result["stderr"]) == ("a\nc\ne\nf\n", "b\nd\n")


def test_output_of_c_libraries(session):
    assert session.out("import ctypes; ctypes.CDLL(None).printf(b'from C\\n'); None") == "from C\n"


def test_streams_are_cut_at_4096_characters(session):
    assert session.out("print('é' * 5000)") == "é" * 4096
    assert session.out("print('x' * 4095)") == "x" * 4095 + "\n"
    assert session.out("print('x' * 9999)", outputStreamsMaxLength=10) == "x" * 10
    assert session.out("print('x' * 100000)", outputStreamsMaxLength=200000) == "x" * 100000 + "\n"
    assert session.out("print('x')", outputStreamsMaxLength=0) == ""


def test_bytes_that_are_no_text_and_nul(session):
    assert session.out("import os; os.write(1, b'a\\xff\\0b\\xe2\\x82'); None") == "a\ufffd\0b\ufffd\ufffd"


def test_gigabytes_of_output_take_no_memory(server, session):
    session.run("1")
    before = rss(server.process.pid)
    answer = session.execute("import subprocess\n"
                             "subprocess.run('yes | head -c 1500000000', shell=True); 'through'")
    assert answer["result"]["executionResult"] == "through"
    assert answer["result"]["stdout"] == "y\n" * 2048
    assert rss(server.process.pid) - before < 32 << 20


def rss(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def test_streams_that_were_closed_are_back_next_time(session):
    session.execute("import sys, os; sys.stdout.close(); sys.stderr.close()")
    assert session.out("print('again')") == "again\n"
    session.execute("os.close(1); os.close(2); os.close(0)")
    assert session.out("import os; print('again'); os.system('echo sub')") == "again\nsub\n"
    session.execute("sys.stdout = None; sys.stderr = None")
    assert session.out("print('again')") == "again\n"


def test_a_stream_put_in_place_stays(session):
    session.run("import sys, io; sys.stdout = io.StringIO(); None")
    session.run("print('kept'); None")
    assert session.run("sys.stdout.getvalue()") == "kept\n"


def test_every_descriptor_closed(session):
    answer = session.execute("import os; os.closerange(0, 1 << 16)")
    assert answer["status"] == "Failed" and "Execution aborted" in answer["result"]["stderr"]
    assert session.out("print(1)") == "1\n"


def test_late_output_of_a_background_process_belongs_to_nobody(session):
    session.run("import subprocess, os\n"
                "p = subprocess.Popen('while [ ! -e go ]; do sleep .01; done; echo late; touch gone', shell=True); None")
    session.put("go")
    wait_until(lambda: "gone" in session.names(), 10, "the background process")
    assert session.out("print('mine')") == "mine\n"


def test_a_chatty_background_process_does_not_block(session):
    """More than any pipe holds, while nothing is executed."""
    session.run("import subprocess\nsubprocess.Popen('head -c 3000000 /dev/zero; touch done', shell=True); None")
    wait_until(lambda: "done" in session.names(), 15, "the background process writing it all")


# --- failures

def test_tracebacks_are_pythons_own(session):
    assert session.fail("x = 1\n1/0") == (
        'Traceback (most recent call last):\n  File "<execution 1>", line 2, in <module>\n    1/0\n    ~^~\n'
        'ZeroDivisionError: division by zero\n')
    assert session.fail("1 +") == '  File "<execution 2>", line 1\n    1 +\n       ^\nSyntaxError: invalid syntax\n'
    assert session.fail("return 1") == ('  File "<execution 3>", line 1\n    return 1\n    ^^^^^^^^\n'
                                        "SyntaxError: 'return' outside function\n")
    chained = session.fail("try:\n    1/0\nexcept Exception as e:\n    raise KeyError('k') from e")
    assert "direct cause" in chained and chained.count("Traceback") == 2 and "acapool" not in chained


def test_output_before_a_failure_is_kept(session):
    result = session.execute("print('before')\nraise SystemExit('over')")["result"]
    assert result["stdout"] == "before\n" and "SystemExit: over" in result["stderr"]


@pytest.mark.parametrize("code", ["import sys; sys.exit(3)", "exit()", "raise SystemExit", "quit(0)"])
def test_exit_fails_and_keeps_the_kernel(session, code):
    session.run("kept = 1")
    assert "SystemExit" in session.fail(code)
    assert session.run("kept") == 1


def test_input_is_refused(session):
    text = session.fail("input('name? ')")
    assert "StdinNotImplementedError" in text and "refuse_input" not in text
    assert session.run("import sys; sys.stdin.read()") == ""


@pytest.mark.parametrize("code", ["raise KeyboardInterrupt", "raise GeneratorExit", "raise BaseException('x')",
                                  "def f(): f()\nf()", "class E(Exception):\n def __str__(s): 1/0\nraise E"])
def test_odd_exceptions(session, code):
    assert session.fail(code)
    assert session.run("1") == 1


@pytest.mark.parametrize("code", ["import os; os.kill(os.getpid(), 9)", "import os; os._exit(0)", "import os; os.abort()",
                                  "import ctypes; ctypes.string_at(0)",
                                  "import os; os.killpg(0, 9)"])
def test_a_kernel_that_dies_is_replaced(session, code):
    session.run("x = 1; open('f', 'w').write('kept')")
    answer = session.execute("print('before', flush=True)\n" + code)
    assert answer["status"] == "Failed" and answer["result"]["stderr"].endswith("Execution aborted")
    assert session.run("'x' in globals(), open('f').read()") == [False, "kept"]


def test_memory_that_is_not_there(session):
    assert session.fail("x = 'a' * 10**11").endswith("MemoryError\n")
    assert session.fail("x = []\nwhile True: x.append('a' * 10**7)").endswith("MemoryError\n")
    assert session.run("x = None; 1 + 1") == 2


def test_many_processes_together_do_not_take_more_memory_either(tmp_path):
    with Server(tmp_path, "--memory", "256M") as server:
        session = server.session()
        session.run("import os, time\nfor _ in range(3):\n    if os.fork() == 0:\n        x = b'a' * (120 << 20)\n"
                    "        time.sleep(1000)\n        os._exit(0)")
        wait_until(lambda: "more than --memory" in server.errors(), 20, "the watch")
        wait_until(lambda: session.execute("1")["status"] == "Succeeded", 20, "a kernel that lives")


def test_fork_bomb(tmp_path):
    with Server(tmp_path, "--processes", "32") as server:
        session, other = server.session(), server.session()
        answer = session.execute("import os, time\nwhile True:\n    if os.fork() == 0: time.sleep(100)", timeoutInSeconds=20)
        assert "BlockingIOError" in answer["result"]["stderr"]
        assert other.run("import subprocess; subprocess.run(['echo']).returncode") == 0


def test_code_that_forks_and_returns_is_answered_once(session):
    for _ in range(3):
        session.run("import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)")
    assert session.run("os.getpid() == os.getpgid(0)") is True
    assert session.out("if os.fork() == 0: print('child')\nelse:\n    os.wait(); print('parent')") == "child\nparent\n"


# --- time

def test_a_timeout_interrupts_and_keeps_the_variables(session):
    session.run("x = 5")
    began = time.monotonic()
    answer = session.execute("print('began', flush=True)\nimport time; time.sleep(100)", timeoutInSeconds=1)
    assert time.monotonic() - began < 5
    assert answer["status"] == "Failed" and answer["result"]["stdout"] == "began\n"
    assert answer["result"]["stderr"] == "Request timed out waiting for code execution to complete"
    assert session.run("x") == 5


def test_code_that_ignores_the_interrupt_is_killed(session):
    session.run("x = 5; import os; first = os.getpid()")
    answer = session.execute("import time\nwhile True:\n    try: time.sleep(100)\n    except KeyboardInterrupt: pass",
                             timeoutInSeconds=1)
    assert "timed out" in answer["result"]["stderr"]
    assert session.run("'x' in globals()") is False


def test_the_pools_own_timeout(tmp_path):
    with Server(tmp_path, "--execution-timeout", "1") as server:
        assert "timed out" in server.session().fail("import time; time.sleep(30)", timeoutInSeconds=60)


def test_waiting_for_ones_turn_counts(session):
    session.run("import os, time")
    code = "open('here', 'w').close()\nwhile not os.path.exists('go'): time.sleep(.01)"
    first = threading.Thread(target=session.execute, args=(code,))
    first.start()
    wait_until(lambda: "here" in session.names(), 20, "the first to run")
    assert "timed out" in session.fail("1", timeoutInSeconds=1)
    session.put("go")
    first.join(20)
    assert session.run("2") == 2


@pytest.mark.parametrize("timeout", [0, -1, "x", 1.5, [], {}])
def test_timeouts_that_are_none(session, timeout):
    answer = session.call("POST", "executions", {"code": "1", "timeoutInSeconds": timeout})
    assert (answer.status, answer.code) == (400, "SessionRequestValidationFailed")


# --- kernels, side by side and one after another

def test_executions_of_one_session_queue_in_order(session):
    session.run("import os, time; order = []")
    threads = []

    def after(n):
        return f"order.append({n})" if n else "while not os.path.exists('go'): time.sleep(.01)"
    for n in range(6):
        operation = str(uuid.uuid4())
        threads.append(threading.Thread(target=session.execute, args=(after(n), {"operation-id": operation})))
        threads[-1].start()
        wait_until(lambda: session.call("GET", f"executions/{operation}").status == 200, 20, "its place in the queue")
    session.put("go")
    for thread in threads:
        thread.join(20)
    assert session.run("order") == [1, 2, 3, 4, 5]


def test_sessions_run_side_by_side_and_file_calls_do_not_wait(server):
    sessions = [server.session() for _ in range(3)]
    code = ("import os, time\nopen('here', 'w').close()\n"
            "while not os.path.exists('go'): time.sleep(.01)")
    threads = [threading.Thread(target=each.execute, args=(code,)) for each in sessions]
    for thread in threads:
        thread.start()
    for each in sessions:
        wait_until(lambda: "here" in each.names(), 20, "all of them running at once")
    assert all(thread.is_alive() for thread in threads)
    for each in sessions:
        assert each.put("go").status == 200
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_the_empty_kernel_is_another(session):
    session.run("x = 1")
    assert session.run("'x' in globals()", useEmptyKernel=True) is False
    session.run("y = 2", useEmptyKernel=True)
    assert session.run("y", useEmptyKernel=True) == 2
    assert session.run("'y' in globals(), x") == [False, 1]
    assert session.run("open('f', 'w').write('z')", useEmptyKernel=True) == 1
    assert session.run("open('f').read()") == "z"


def test_the_empty_kernel_does_not_wait_for_the_other(session):
    session.run("import os, time")
    busy = threading.Thread(target=session.execute, args=("while not os.path.exists('go'): time.sleep(.01)",))
    busy.start()
    assert session.run("1", useEmptyKernel=True) == 1
    assert busy.is_alive()
    session.run("open('go', 'w').close()", useEmptyKernel=True)
    busy.join(20)


def test_kernels_see_each_others_processes(session):
    """The harness starts a detached run from one kernel and watches it from another."""
    pid = session.run("import os; os.getpid()")
    assert session.run(f"import os; os.kill({pid}, 0); os.path.exists('/proc/{pid}')", useEmptyKernel=True) is True
    session.run("open('/tmp/shared', 'w').write('x')")
    assert session.run("open('/tmp/shared').read()", useEmptyKernel=True) == "x"


def test_asynchronous(session):
    session.run("x = 1")
    answer = session.call("POST", "executions", {
        "codeInputType": "inline", "executionType": "asynchronous",
        "code": "import os, time\nwhile not os.path.exists('go'): time.sleep(.01)\nprint('out')\n'x' in globals()"})
    assert answer.status == 202
    begun = answer.json()
    assert begun["status"] in ("NotStarted", "Running") and begun["executionType"] == "Asynchronous"
    assert answer.headers["operation-id"] == begun["id"]
    location = answer.headers["Operation-Location"]
    assert begun["id"] in location
    assert session.server.raw("GET", location).json()["status"] in ("NotStarted", "Running")
    assert session.run("x") == 1
    session.put("go")
    wait_until(lambda: session.server.raw("GET", location).json()["status"] == "Succeeded", 10, "the end")
    result = session.call("GET", f"executions/{begun['id']}").json()["result"]
    assert (result["stdout"], result["executionResult"]) == ("out\n", False)


def test_unknown_executions(session):
    answer = session.call("GET", "executions/nothing-of-the-kind")
    assert answer.status == 404 and b"No execution available for operation Id: nothing-of-the-kind" in answer.body


def test_an_operation_id_runs_once(session):
    session.run("n = 0")
    operation = str(uuid.uuid4())
    for _ in range(3):
        answer = session.execute("n += 1; n", headers={"operation-id": operation})
        assert (answer["id"], answer["result"]["executionResult"]) == (operation, 1)
    assert session.run("n") == 1
    assert session.call("GET", f"executions/{operation}").json()["result"]["executionResult"] == 1


def test_an_operation_id_of_a_running_execution(session):
    session.run("import os, time")
    operation = str(uuid.uuid4())
    code = "while not os.path.exists('go'): time.sleep(.01)\n'over'"
    first = threading.Thread(target=session.execute, args=(code, {"operation-id": operation}))
    first.start()
    state = lambda: session.call("GET", f"executions/{operation}")  # noqa: E731
    wait_until(lambda: state().status == 200 and state().json()["status"] == "Running", 10, "running")
    again = session.call("POST", "executions", {"code": code}, {"operation-id": operation})
    assert again.status == 202 and again.json()["status"] == "Running"
    session.put("go")
    first.join(20)
    assert state().json()["result"]["executionResult"] == "over"


def test_a_client_that_leaves_does_not_end_its_execution(session):
    session.run("import os, time")
    operation = str(uuid.uuid4())
    connection = session.server.connection()
    connection.request("POST", session.target("executions"),
                       json.dumps({"code": "while not os.path.exists('go'): time.sleep(.01)\nopen('end', 'w').write('x')"}),
                       {"operation-id": operation})
    wait_until(lambda: session.call("GET", f"executions/{operation}").status == 200, 10, "its start")
    connection.close()
    session.put("go")
    wait_until(lambda: "end" in session.names(), 10, "its end")
    wait_until(lambda: session.call("GET", f"executions/{operation}").json()["status"] == "Succeeded", 10, "its state")


def test_a_detached_process_outlives_executions_and_kernels(session):
    session.run("import subprocess, os\n"
                "p = subprocess.Popen(['python3', '-c', 'import time, os\\nn = 0\\nwhile True:\\n n += 1\\n "
                "open(\"n.new\", \"w\").write(str(n)); os.replace(\"n.new\", \"n\"); time.sleep(.01)'], "
                "start_new_session=True, stdout=subprocess.DEVNULL); open('pid', 'w').write(str(p.pid))")
    count = lambda: int(session.get("n").body or 0) if session.get("n").status == 200 else 0  # noqa: E731
    wait_until(lambda: count() > 3, 10, "its first steps")
    session.execute("os.kill(os.getpid(), 9)")
    now = count()
    wait_until(lambda: count() > now, 10, "steps after the kernel died")
    session.execute("while True:\n  try: __import__('time').sleep(9)\n  except KeyboardInterrupt: pass", timeoutInSeconds=1)
    now = count()
    wait_until(lambda: count() > now, 10, "steps after the kernel was killed")
    session.run(f"import os; os.kill({session.get('pid').body.decode()}, 15)")


# --- the request

@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b"\xff", b"null", b'{"code": "1"} x', b'"\xed\xa0\x80"'])
def test_bodies_that_are_no_object(session, body):
    answer = session.call("POST", "executions", body, {"Content-Type": "application/json"})
    assert answer.status == 400 and answer.headers["Content-Type"].startswith("application/problem+json")
    assert answer.json()["status"] == 400


@pytest.mark.parametrize("body, code", [
    ({}, "SessionPropertiesMissing"), ({"code": 1}, "SessionPropertiesMissing"),
    ({"properties": {"code": "1"}}, "SessionPropertiesMissing"),
    ({"code": "1", "codeInputType": "telepathy"}, "SessionRequestValidationFailed"),
    ({"code": "1", "executionType": "never"}, "SessionRequestValidationFailed"),
    ({"code": "!", "codeInputType": "InlineBase64"}, "SessionRequestValidationFailed"),
    ({"code": "1", "outputStreamsMaxLength": -1}, "SessionRequestValidationFailed"),
])
def test_requests_that_are_refused(session, body, code):
    answer = session.call("POST", "executions", body)
    assert (answer.status, answer.code, answer.headers["x-ms-error-code"]) == (400, code, code)


def test_an_operation_id_that_is_none(session):
    answer = session.call("POST", "executions", {"code": "1"}, {"operation-id": "a b/../c"})
    assert answer.status == 400


def test_code_in_base64_and_in_capitals(session):
    encoded = base64.b64encode("'é'".encode()).decode()
    assert session.run(encoded, codeInputType="InlineBase64") == "é"
    assert session.run("1", codeInputType="INLINETEXT", executionType="SYNCHRONOUS") == 1


def test_headers_of_an_execution(session):
    answer = session.call("POST", "executions", {"code": "1"})
    assert answer.headers["x-ms-new-allocation"] == "true"
    assert answer.headers["operation-id"] == answer.json()["id"]
    assert answer.json()["identifier"] == session.identifier
    assert int(answer.headers["X-Ms-Overall-Execution-Time"]) >= 0
    again = session.call("POST", "executions", {"code": "1"})
    assert again.headers["x-ms-new-allocation"] == "false"
    assert again.headers["x-ms-session-guid"] == answer.headers["x-ms-session-guid"]


def test_a_large_program(session):
    code = "x = '" + "y" * 5_000_000 + "'\nlen(x)"
    assert session.run(code) == 5_000_000
    answer = session.call("POST", "executions", b"x" * (33 << 20))
    assert answer.status == 413


# --- images

PNG = b"\x89PNG\r\n\x1a\n"


def image(value):
    assert (value["type"], value["format"]) == ("image", "png"), value
    data = base64.b64decode(value["base64_data"])
    assert data.startswith(PNG)
    return data


@pytest.mark.parametrize("end", ["plt.show()", "plt.plot([3, 4])", "fig", "None", "plt.show(); plt.close('all')"])
def test_matplotlib(session, end):
    data = image(session.run(f"import matplotlib.pyplot as plt\nfig = plt.figure()\nplt.plot([1, 2, 3])\n{end}",
                             timeoutInSeconds=100))
    assert len(data) > 2000
    assert session.run("plt.get_fignums()") == []


def test_a_real_plot_shows_what_was_drawn(session):
    """The picture is decoded by another program than the one that drew it."""
    data = image(session.run(
        "import numpy as np, matplotlib.pyplot as plt\nplt.figure(figsize=(4, 3))\n"
        "plt.fill_between([0, 1], [1, 1], color=(1, 0, 0))\nplt.axis('off')\nplt.show()"))
    seen = subprocess.run(["/usr/bin/python3", "-c",
                           "import sys, io; from PIL import Image; i = Image.open(io.BytesIO(sys.stdin.buffer.read()))"
                           ".convert('RGB'); print(i.size[0], i.size[1], i.getpixel((i.size[0] // 2, i.size[1] // 2)))"],
                          input=data, capture_output=True, check=True).stdout.decode().split(maxsplit=2)
    assert int(seen[0]) > 200 and int(seen[1]) > 150 and seen[2].strip() == "(255, 0, 0)"


def test_pictures_of_pil_and_of_anything_that_has_one(session):
    image(session.run("from PIL import Image; Image.new('RGB', (8, 8), 'red')"))
    image(session.run("class P:\n    def _repr_png_(self): return b'\\x89PNG\\r\\n\\x1a\\n'\nP()"))
    image(session.run("display(P()); 5"))
    assert session.out("display([1], 'x')") == "[1]\nx\n"


def test_no_figure_no_image(session):
    assert session.run("import matplotlib.pyplot as plt; plt.show(); 4") == 4


# --- the sandbox

def test_what_is_seen_of_the_system(session):
    assert session.run("import os; sorted(os.listdir('/mnt')), os.getuid() != 0") == [["data"], True]
    assert session.run("os.path.exists('/root'), os.path.exists('/var'), os.path.exists('/run'), "
                       "os.path.exists('/etc/shadow'), os.path.exists('/home/session')") == [False] * 4 + [True]
    assert session.run("os.listdir('/tmp')") == [] and session.run("oct(os.stat('/tmp').st_mode)") == "0o41777"
    assert session.run("sorted(os.environ)") == sorted(
        ["HOME", "LANG", "LOGNAME", "MPLBACKEND", "PATH", "PWD", "SHELL", "USER"])
    assert session.run("import getpass, socket; getpass.getuser(), socket.gethostname(), os.path.expanduser('~')") == \
        ["session", "session", "/home/session"]


@pytest.mark.parametrize("path", ["/", "/usr", "/etc", "/dev", "/bin", "/proc/1", "/mnt", "/usr/lib/python3/dist-packages"])
def test_the_system_is_read_only(session, path):
    assert "Error" in session.fail(f"open('{path}/x', 'w')")


def test_no_network(session):
    text = session.fail("import urllib.request as r; r.urlopen('http://127.0.0.1:1/', timeout=3)")
    assert "URLError" in text
    assert session.run("import socket\n[n for _, n in socket.if_nameindex()]") == ["lo"]
    assert "Error" in session.fail("import socket; socket.create_connection(('1.1.1.1', 53), 3)")


def test_no_process_of_the_host_and_none_of_other_sessions(server, session):
    other = server.session()
    other.run("import subprocess; p = subprocess.Popen(['sleep', '31415']); None")
    seen = session.run("import os\n[open(f'/proc/{p}/cmdline').read() for p in os.listdir('/proc') if p.isdigit()]")
    assert len(seen) <= 3 and not any("31415" in line for line in seen)
    assert str(server.process.pid) not in session.run("sorted(os.listdir('/proc'))") or server.process.pid < 10
    other.run("p.kill()")


def test_the_supervisor_is_out_of_reach(session):
    session.run("kept = 1; import os, signal")
    session.execute("for n in list(range(1, 32)):\n    try: os.kill(1, n)\n    except OSError: pass")
    assert session.run("kept") == 1
    assert "PermissionError" in session.fail("open('/proc/1/mem', 'rb')")
    assert "PermissionError" in session.fail("os.listdir('/proc/1/fd')")


def test_no_way_to_more_rights(session):
    assert session.run("import subprocess as s; s.run(['unshare', '-Ur', 'true'], stderr=s.DEVNULL).returncode") != 0
    assert session.run("open('/proc/self/status').read().split('CapEff:')[1].split()[0]") == "0" * 16
    assert session.run("import ctypes; ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None)") == -1
    assert session.run("import resource\ntry:\n    resource.setrlimit(resource.RLIMIT_NPROC, (10**6, 10**6)); r = 'raised'\n"
                       "except ValueError: r = 'refused'\nr") == "refused"


def test_scratch_space_is_bounded(tmp_path):
    with Server(tmp_path, "--memory", "128M") as server:
        text = server.session().fail("with open('/tmp/big', 'wb') as f:\n  while True: f.write(b'x' * 2**20)")
        assert "No space left" in text


def test_files_are_bounded(tmp_path):
    with Server(tmp_path, "--disk", "8M") as server:
        session = server.session()
        assert "File too large" in session.fail("with open('big', 'wb') as f:\n  while True: f.write(b'x' * 2**20)")
        answer = session.execute("import time\nn = 0\nwhile True:\n  open(f'f{n}', 'wb').write(b'x' * 2**20); n += 1; time.sleep(.02)",
                                 timeoutInSeconds=30)
        assert "Execution aborted" in answer["result"]["stderr"] and "more than --disk" in server.errors()
        assert session.put("more", b"x" * 2**20).status == 507
        assert session.run("import glob, os\nfor n in glob.glob('*'): os.unlink(n)\nlen(glob.glob('*'))") == 0
        wait_until(lambda: session.put("more", b"x" * 2**20).status == 200, 10, "room again")


def test_a_session_of_an_ordinary_user(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("every other test runs as an ordinary user already")
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    for parent in [folder, *folder.parents]:
        if not os.stat(parent).st_mode & 0o001 and str(parent) != "/":
            os.chmod(parent, os.stat(parent).st_mode | 0o111)
    program = shutil.copy(ACAPOOL, folder)  # the checkout may be in a home that others can't enter
    with Server(folder, user=65534, program=program) as server:
        session = server.session()
        session.put("a", b"from outside")
        assert session.run("import os\nopen('a', 'a').write(', and inside'); os.mkdir('closed', 0); os.getuid()") == 1000
        assert session.get("a").body == b"from outside, and inside"
        assert [entry["name"] for entry in session.list(recursive="true")] == ["a", "closed"]
        assert session.call("DELETE", "session").status == 204


def test_without_a_sandbox(tmp_path):
    with Server(tmp_path, "--no-sandbox") as server:
        session = server.session()
        session.put("a", b"content")
        assert session.run("open('a').read()") == "content"
        pid = session.run("import subprocess; p = subprocess.Popen(['sleep', '1000'], start_new_session=True); p.pid")
        assert os.path.exists(f"/proc/{pid}")
        session.call("DELETE", "session")
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), 10, "what it started ending with it")


def test_deleting_a_session_cancels_what_runs_in_it(server):
    session = server.session()
    session.run("import time")
    answers = []
    running = threading.Thread(target=lambda: answers.append(session.execute("open('here', 'w').close(); time.sleep(100)")))
    running.start()
    wait_until(lambda: "here" in session.names(), 20, "it to run")
    assert session.call("DELETE", "session").status == 204
    running.join(20)
    assert answers and answers[0]["status"] == "Canceled"
