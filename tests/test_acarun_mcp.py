"""acarun mcp: what a client of the Model Context Protocol sends and gets, line by line."""

import base64
import contextlib
import json
import os
import queue
import signal
import stat
import subprocess
import threading
import time
import uuid

import pytest

from support import process
from support.wait import wait_for

PNG = b"\x89PNG\r\n\x1a\n"
REVISIONS = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"]


class Client:
    """acarun mcp, and the other end of its pipes."""

    def __init__(self, pool, log, *arguments, session=None, **env):
        self.pool, self.log, self.session = pool, log, session
        self.env = process.environment(HOME=log.parent, ACAFS_CONFIG=os.devnull, XDG_RUNTIME_DIR=pool.directory,
                                       ACAFS_TOKEN=pool.token, **env)
        named = ["-s", session] if session else []
        with open(log, "ab") as sink:
            self.process = subprocess.Popen([process.ACARUN, "mcp", "-p", "local", *named, *arguments],
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink,
                                            env=self.env, preexec_fn=process._die_with_tests)
        self.lines = queue.Queue()
        self.others = []  # that came while another was waited for
        self.number = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(b"")

    def send(self, message):
        text = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def receive(self, timeout=30):
        """The next message; None at the end. Every line is one, and nothing else comes."""
        line = self.lines.get(timeout=timeout)
        if not line:
            return None
        assert line.endswith(b"\n")
        message = json.loads(line)
        assert isinstance(message, list) or message["jsonrpc"] == "2.0", message
        return message

    def request(self, method, params=None, **members):
        """Sends a request: its id."""
        self.number += 1
        message = {"jsonrpc": "2.0", "id": self.number, "method": method, **members}
        if params is not None:
            message["params"] = params
        self.send(message)
        return message["id"]

    def answer(self, number, timeout=30):
        """The answer to that request, whatever comes before it."""
        for message in self.others:
            if message.get("id") == number:
                self.others.remove(message)
                return message
        while True:
            message = self.receive(timeout)
            assert message is not None, self.log.read_text()
            if message.get("id") == number:
                return message
            self.others.append(message)

    def ask(self, method, params=None):
        return self.answer(self.request(method, params))

    def start(self, tool, **arguments):
        return self.request("tools/call", {"name": tool, "arguments": arguments})

    def call(self, tool, **arguments):
        """The result of a tool."""
        answer = self.answer(self.start(tool, **arguments))
        assert "result" in answer, answer
        return answer["result"]

    def code(self, code):
        return self.call("code_interpreter", python_code=code)

    def notify(self, method, **params):
        self.send({"jsonrpc": "2.0", "method": method, "params": params})

    def hello(self, revision=REVISIONS[0]):
        answer = self.ask("initialize", {"protocolVersion": revision, "capabilities": {},
                                         "clientInfo": {"name": "test", "version": "1"}})
        self.notify("notifications/initialized")
        return answer["result"]

    def close(self, timeout=20):
        """Ends its input: its exit status."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        status = self.process.wait(timeout)
        self.process.stdout.close()
        return status


@pytest.fixture
def clients(pool, tmp_path):
    made = []

    def make(*arguments, hello=True, **how):
        it = Client(how.pop("pool", pool), tmp_path / f"mcp{len(made)}.log", *arguments, **how)
        made.append(it)
        if hello:
            it.hello()
        return it
    yield make
    for it in made:
        if it.process.poll() is None:
            it.process.kill()
            it.process.wait()
        it.process.stdout.close()
        found = process.alarms(it.log)
        assert not found, it.log.read_text()


@pytest.fixture
def client(clients):
    return clients()


def text(result):
    first = result["content"][0]
    assert first["type"] == "text"
    return first["text"]


def exists(pool, session):
    answer = pool.request("GET", "session", session)
    assert answer.status in (200, 400, 404), answer.body
    return answer.status == 200


# --- the protocol

@pytest.mark.parametrize("asked, got", [(each, each) for each in REVISIONS] +
                         [("2099-01-01", REVISIONS[0]), ("", REVISIONS[0])])
def test_revisions(clients, asked, got):
    client = clients(hello=False)
    hello = client.hello(asked)
    assert hello["protocolVersion"] == got and hello["capabilities"] == {"tools": {}}
    assert hello["serverInfo"]["name"] == "acarun" and hello["serverInfo"]["version"]
    tools = client.ask("tools/list", {})["result"]["tools"]
    assert [tool["name"] for tool in tools] == ["code_interpreter", "list_files", "upload_file", "download_file"]
    assert [("outputSchema" in tool, "annotations" in tool) for tool in tools[:3]] == \
        [(got in REVISIONS[:2], got != REVISIONS[3])] * 3
    result = client.code("6 * 7")
    assert json.loads(text(result)) == {"result": 42, "stdout": "", "stderr": ""}
    assert ("structuredContent" in result) == (got in REVISIONS[:2])
    assert client.close() == 0


def test_the_schemas(client):
    tools = {tool["name"]: tool for tool in client.ask("tools/list")["result"]["tools"]}
    defined = json.loads(process.run([process.ACARUN, "tool-definition", "--api", "responses"]).stdout)
    assert tools["code_interpreter"]["inputSchema"] == defined["parameters"]
    assert tools["code_interpreter"]["description"] == defined["description"]
    for tool in tools.values():
        assert tool["inputSchema"]["type"] == "object" and tool["description"]
        assert "local_path" not in tool["inputSchema"]["properties"]
    assert tools["list_files"]["inputSchema"].get("required") is None
    assert tools["upload_file"]["inputSchema"]["required"] == ["path"]


def test_ping_and_unknown_methods(client):
    assert client.ask("ping")["result"] == {}
    for method in ("resources/list", "", "tools/", "notifications/initialized"):
        assert client.ask(method)["error"]["code"] == -32601
    client.notify("notifications/unknown")
    client.notify("notifications/cancelled", requestId=99)
    client.notify("notifications/cancelled", requestId=None)
    client.notify("notifications/cancelled")
    client.send({"jsonrpc": "2.0", "id": 5, "result": {}})
    client.send({"jsonrpc": "2.0", "id": 5, "error": {"code": 1, "message": "x"}})
    client.send(b"\n\r\n")
    assert client.ask("ping")["result"] == {} and not client.others


@pytest.mark.parametrize("sent, id, code", [
    (b"{", None, -32700), (b"hello", None, -32700), (b'{"jsonrpc":"2.0","id":1,"method":"ping"} x', None, -32700),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":"\xff"}}', None, -32700),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":NaN}}', None, -32700),
    (b'{"jsonrpc":"2.0","id":01,"method":"ping"}', None, -32700),
    (b"1", None, -32600), (b"[]", None, -32600), (b"{}", None, -32600), (b'"ping"', None, -32600),
    (b'{"id":1,"method":"ping"}', 1, -32600), (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', 1, -32600),
    (b'{"jsonrpc":"2.0","id":1}', 1, -32600), (b'{"jsonrpc":"2.0","id":1,"method":5}', 1, -32600),
    (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', None, -32600),
    (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', None, -32600),
    (b'{"jsonrpc":"2.0","id":"a","method":"ping","params":[1]}', "a", -32602),
    (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', None, -32600),
    (b"[" * 200 + b"]" * 200, None, -32700),
])
def test_bad_requests(client, sent, id, code):
    client.send(sent + b"\n")
    answer = client.receive()
    assert answer["id"] == id and answer["error"]["code"] == code and answer["error"]["message"]
    assert client.ask("ping")["result"] == {}


WRONG_CALLS = [None, {}, {"name": "unknown"}, {"name": 5}, {"name": "code_interpreter", "arguments": []},
               {"name": "code_interpreter", "arguments": {"python_code": "1\0"}},
               {"name": "upload_file", "arguments": {"path": "x", "text": "a\0b"}}]
WRONG_ARGUMENTS = [
    {"name": "code_interpreter"}, {"name": "code_interpreter", "arguments": {"python_code": 5}},
    {"name": "code_interpreter", "arguments": {"code": "1"}}, {"name": "list_files", "arguments": {"path": 5}},
    {"name": "list_files", "arguments": {"recursive": "yes"}}, {"name": "download_file", "arguments": {}},
    {"name": "upload_file", "arguments": {"path": "a"}}, {"name": "upload_file", "arguments": {"text": "a"}},
    {"name": "upload_file", "arguments": {"path": "a", "text": "b", "base64": "Yg=="}},
]


@pytest.mark.parametrize("revision", REVISIONS[:2])
def test_bad_params(clients, revision):
    client = clients(hello=False)
    client.hello(revision)
    for params in WRONG_CALLS:
        assert client.ask("tools/call", params)["error"]["code"] == -32602, params
    for params in WRONG_ARGUMENTS:
        answer = client.ask("tools/call", params)
        if revision == "2025-11-25":  # it wants the model to read what is wrong
            assert answer["result"]["isError"] is True and text(answer["result"]), params
        else:
            assert answer["error"]["code"] == -32602, params
    assert client.ask("initialize", {})["error"]["code"] == -32602
    assert client.ask("tools/list", {"cursor": "x"})["error"]["code"] == -32602
    assert client.ask("tools/list", {"cursor": None})["result"]["tools"]
    assert client.call("list_files")["content"]  # it made no file of it
    assert json.loads(text(client.call("list_files")))["files"] == []


def test_before_initialize(clients):
    """Clients should only ping; what else they ask is answered as the latest revision has it."""
    client = clients(hello=False)
    assert client.ask("ping")["result"] == {}
    assert len(client.ask("tools/list")["result"]["tools"]) == 4
    assert client.ask("server/discover")["error"]["code"] == -32601  # by which later clients tell our age
    assert client.hello()["protocolVersion"] == REVISIONS[0]


@pytest.mark.parametrize("id", [b'"a\\u0022\\n\xc3\xa9"', b"12345678901234567890123", b"-1.50e3", b'""', b"0"])
def test_ids_come_back_as_they_were(client, id):
    client.send(b'{"method":"ping","id":' + id + b',"jsonrpc":"2.0"}\n')
    assert client.lines.get(timeout=10) == b'{"jsonrpc":"2.0","id":' + id + b',"result":{}}\n'


def test_batches_of_the_revision_that_has_them(clients):
    client = clients(hello=False)
    client.hello("2025-03-26")
    ping = {"jsonrpc": "2.0", "method": "ping"}
    code = {"jsonrpc": "2.0", "id": "c", "method": "tools/call",
            "params": {"name": "code_interpreter", "arguments": {"python_code": "6 * 7"}}}
    client.send([{**ping, "id": "p"}, code, {"jsonrpc": "2.0", "method": "notifications/x"}, 5,
                 {**ping, "id": "i", "method": "initialize"}])
    answers = client.receive()
    assert {each["id"] for each in answers} == {"p", "c", None, "i"} and len(answers) == 4
    by_id = {each["id"]: each for each in answers}
    assert json.loads(text(by_id["c"]["result"]))["result"] == 42
    assert by_id[None]["error"]["code"] == by_id["i"]["error"]["code"] == -32600
    # Nothing to answer, nothing said; and of what is cancelled nothing either.
    client.send([{"jsonrpc": "2.0", "method": "notifications/x"}])
    sleep = {"name": "code_interpreter", "arguments": {"python_code": "import time; time.sleep(60)"}}
    client.send([{**ping, "id": "q"}, {"jsonrpc": "2.0", "id": "s", "method": "tools/call", "params": sleep}])
    client.notify("notifications/cancelled", requestId="s")
    assert client.receive() == [{"jsonrpc": "2.0", "id": "q", "result": {}}]


def test_a_message_that_is_too_long(client):
    client.send(b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":"')
    for _ in range(66):
        client.send(b"x" * (1 << 20))
    client.send(b'"}}\n')
    answer = client.receive()
    assert answer["id"] is None and answer["error"]["code"] == -32600
    assert client.ask("ping")["result"] == {}


def test_messages_in_pieces_and_together(client):
    message = b'{"jsonrpc":"2.0","id":7,"method":"ping"}\n'
    for i in range(len(message)):
        client.send(message[i:i + 1])
    assert client.receive()["id"] == 7
    client.send(message * 500)
    assert [client.receive()["id"] for _ in range(500)] == [7] * 500


# --- code

def test_code_keeps_its_variables(client):
    assert client.code("x = 6\nprint('hi')")["structuredContent"] == {"result": None, "stdout": "hi\n", "stderr": ""}
    result = client.code("```python\nx * 7\n```")
    assert result["structuredContent"]["result"] == 42 and result["isError"] is False
    assert json.loads(text(result)) == result["structuredContent"]


def test_numbers_of_any_size(client):
    code = "[12345678901234567890123, 0.1, 1e300, {'a\\n\\r': -2**70}]"
    told = client.code(code)["structuredContent"]["result"]
    assert told == [12345678901234567890123, 0.1, 1e300, {"a\n\r": -2**70}]
    assert client.code("float('nan')")["isError"] is False


def test_code_that_fails(client):
    result = client.code("print('before')\n1 / 0")
    assert result["isError"] is True and result["structuredContent"]["stdout"] == "before\n"
    assert result["structuredContent"]["stderr"].endswith("ZeroDivisionError: division by zero\n")
    assert client.code("import sys; sys.exit('no')")["isError"] is True
    assert client.code("def f(:")["isError"] is True
    assert client.code("1")["isError"] is False


@pytest.mark.parametrize("code, says", [
    ("import sys; sys.exit(3)", "exit 3"), ("exit(4)", "exit 4"), ("import sys; sys.exit('no')", "no\nexit 1"),
    ("import sys; print('warned', file=sys.stderr); sys.exit(3)", "warned\nexit 3")])
def test_code_that_exits_tells_its_status(client, code, says):
    result = client.code(code)
    assert result["isError"] is True and result["structuredContent"]["stderr"] == says
    assert json.loads(text(result)) == result["structuredContent"]
    result = client.code("import sys; sys.exit()")
    assert result["isError"] is False and result["structuredContent"]["stderr"] == ""


@pytest.mark.parametrize("how", ["os._exit(3)", "os.kill(os.getpid(), 9)", "import ctypes; ctypes.string_at(0)"])
def test_a_kernel_that_dies_says_so(client, how):
    client.code("x = 1")
    result = client.code(f"import os, sys; print('seen', flush=True); print('warned', file=sys.stderr, flush=True); {how}")
    told = result["structuredContent"]
    assert result["isError"] is True and told["stdout"] == "seen\n"
    assert told["stderr"].startswith("warned\n") and "variables and imports are gone" in told["stderr"]
    assert client.code("'x' in globals()")["structuredContent"]["result"] is False


DEAF = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('begun', flush=True)\nopen('begun', 'w').close()\ntime.sleep(60)"


@pytest.mark.limit(90)
def test_code_that_had_to_be_killed_takes_the_variables_along(clients, client):
    timed = clients("-t", "1")
    timed.code("x = 1")
    told = timed.code(DEAF)["structuredContent"]
    assert told["stdout"] == "begun\n" and told["stderr"].startswith("timed out; ")
    assert "variables and imports are gone" in told["stderr"]
    # Of a call that was cancelled nobody hears, so the next one tells.
    client.code("x = 1")
    number = client.start("code_interpreter", python_code=DEAF)
    while not client.call("list_files")["structuredContent"]["files"]:
        pass
    client.notify("notifications/cancelled", requestId=number)
    result = client.answer(client.start("code_interpreter", python_code="'x' in globals()"), timeout=60)["result"]
    assert result["structuredContent"]["result"] is False
    assert "variables and imports of earlier calls are gone" in result["content"][-1]["text"]
    assert len(client.code("1")["content"]) == 1


def test_what_is_left_out_is_named(client):
    told = client.code("'x' * 20_000_000")["structuredContent"]
    assert told["result"] is None and "left out" in told["stderr"]


def test_images(client):
    result = client.code("import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show()\nplt.figure(); plt.plot([1])")
    images = result["content"][1:]
    assert [(each["type"], each["mimeType"]) for each in images] == [("image", "image/png")] * 2, result
    assert all(base64.b64decode(each["data"]).startswith(PNG) for each in images)
    assert json.loads(text(result))["result"] == {"type": "image", "format": "png"}


def test_output_of_any_length_and_bytes(client):
    result = client.code("for i in range(100000): print('line', i)")
    out = result["structuredContent"]["stdout"]
    assert out.startswith("line 0\n") and out.endswith("line 99999\n") and 60000 < len(out) < 70000
    assert "bytes left out" in out
    out = client.code("import sys; sys.stdout.buffer.write(b'\\xff\\x00\\n') and None")["structuredContent"]["stdout"]
    assert out == "\ufffd\0\n"


def test_other_requests_are_answered_while_code_runs(client):
    number = client.start("code_interpreter", python_code="open('f', 'w').close()\nwhile not __import__('os').path.exists('go'):"
                                                          " __import__('time').sleep(.01)\n'over'")
    while not client.call("list_files")["structuredContent"]["files"]:
        pass
    # Our own folders are not shown.
    files = client.call("list_files", recursive=True)["structuredContent"]["files"]
    assert [each["path"] for each in files] == ["f"]
    assert client.ask("ping")["result"] == {} and not client.others
    client.call("upload_file", path="go", text="")
    assert client.answer(number)["result"]["structuredContent"]["result"] == "over"


def test_code_runs_in_order(client):
    numbers = [client.start("code_interpreter", python_code=f"order = globals().get('order', []) + [{i}]\norder")
               for i in range(5)]
    results = [client.answer(number)["result"]["structuredContent"]["result"] for number in numbers]
    assert results == [list(range(i + 1)) for i in range(5)]


def test_a_cancelled_call(client):
    client.code("seen = 0")
    first = client.start("code_interpreter", python_code="import time\ntry:\n    open('begun', 'w').close(); time.sleep(60)\n"
                                                         "finally:\n    seen = 1")
    second = client.start("code_interpreter", python_code="seen = 2")
    third = client.start("code_interpreter", python_code="seen")
    while not client.call("list_files")["structuredContent"]["files"]:
        pass
    client.notify("notifications/cancelled", requestId=second, reason="a test")
    client.notify("notifications/cancelled", requestId=first)
    began = time.monotonic()
    assert client.answer(third)["result"]["structuredContent"]["result"] == 1
    assert time.monotonic() - began < 20
    assert client.ask("ping")["result"] == {}
    assert not [each for each in client.others if each.get("id") in (first, second)]


def test_timeout(clients):
    client = clients("-t", "1")
    result = client.code("import time; time.sleep(60)")
    said = result["structuredContent"]["stderr"]
    assert result["isError"] is True and "KeyboardInterrupt" in said and said.endswith("timed out")
    assert client.code("1")["isError"] is False


@pytest.mark.limit(90)
def test_progress(client):
    number = client.request("tools/call", {"name": "code_interpreter", "_meta": {"progressToken": "tok"},
                                           "arguments": {"python_code": "import time; time.sleep(12)"}})
    client.answer(number, timeout=60)
    told = [each["params"] for each in client.others if each.get("method") == "notifications/progress"]
    assert [each["progress"] for each in told] == [1, 2] and {each["progressToken"] for each in told} == {"tok"}


def test_a_session_that_was_recycled(clients, session):
    client = clients(session=session)
    assert len(client.code("x = 1")["content"]) == 1
    assert client.pool.request("DELETE", "session", session).status in (200, 204)
    result = client.code("'x' in globals()")
    assert result["structuredContent"]["result"] is False
    assert "new, empty" in result["content"][-1]["text"]
    assert len(client.code("1")["content"]) == 1


# --- files

def test_files_there_and_back(client):
    assert client.call("upload_file", path="data/in.txt", text="a\n\u00e9")["structuredContent"] == \
        {"path": "data/in.txt", "size": 4}
    raw = bytes(range(256)) * 10
    client.call("upload_file", path="/mnt/data/raw.bin", base64=base64.b64encode(raw).decode())
    assert client.code("open('data/in.txt').read(), len(open('raw.bin', 'rb').read())")["structuredContent"]["result"] \
        == ["a\n\u00e9", 2560]
    assert text(client.call("download_file", path="./data//in.txt")) == "a\n\u00e9"
    resource = client.call("download_file", path="raw.bin")["content"][0]
    assert resource["type"] == "resource" and base64.b64decode(resource["resource"]["blob"]) == raw
    assert resource["resource"]["uri"] == "session:///mnt/data/raw.bin"
    client.call("upload_file", path="empty", text="")
    assert text(client.call("download_file", path="empty")) == ""
    client.code("import matplotlib.pyplot as plt; plt.savefig('a b.png')")
    image = client.call("download_file", path="a b.png")["content"][0]
    assert image["type"] == "image" and base64.b64decode(image["data"]).startswith(PNG)


def test_listing(client):
    assert client.call("list_files")["structuredContent"] == {"files": [], "left_out": 0}
    client.call("upload_file", path="d/e/f.txt", text="123")
    top = client.call("list_files")["structuredContent"]["files"]
    assert [(each["path"], each["type"]) for each in top] == [("d", "directory")]
    below, = client.call("list_files", path="/mnt/data/d/e/")["structuredContent"]["files"]
    assert (below["path"], below["type"], below["size"]) == ("d/e/f.txt", "file", 3) and below["modified"].endswith("Z")
    every = client.call("list_files", recursive=True)["structuredContent"]["files"]
    assert sorted(each["path"] for each in every) == ["d", "d/e", "d/e/f.txt"]
    client.code("for i in range(1200): open(f'd/{i}', 'w').close()")
    many = client.call("list_files", path="d")["structuredContent"]
    assert len(many["files"]) == 1000 and many["left_out"] == 201


def test_errors_of_tools(client):
    for path in ("../etc/passwd", "/etc/passwd", "a/../../b", "..", "/mnt/database"):
        for tool, more in (("download_file", {}), ("upload_file", {"text": "x"}), ("list_files", {})):
            result = client.call(tool, path=path, **more)
            assert result["isError"] is True and "/mnt/data" in text(result)
    assert client.call("download_file", path="missing")["isError"] is True
    assert client.call("download_file", path="")["isError"] is True
    result = client.call("upload_file", path="x", base64="%%%")
    assert result["isError"] is True and "not valid base64" in text(result)
    client.code("open('large', 'wb').write(bytes(5_000_000))")
    result = client.call("download_file", path="large")
    assert result["isError"] is True and "4 MiB" in text(result)


def test_no_file_of_ours_without_leave(client, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    for local in (os.fspath(secret), "secret", "/etc/hostname"):
        result = client.call("upload_file", path="x", local_path=local)
        assert result["isError"] is True and "--files" in text(result)
        result = client.call("download_file", path="x", local_path=local)
        assert result["isError"] is True and secret.read_text() == "s3cret"
    assert client.call("list_files")["structuredContent"]["files"] == []


@pytest.fixture
def shared(tmp_path):
    folder = tmp_path / "shared"
    (folder / "sub").mkdir(parents=True)
    (folder / "in.txt").write_text("from here")
    (tmp_path / "secret").write_text("s3cret")
    (folder / "link").symlink_to("in.txt")
    (folder / "out").symlink_to("../secret")
    (folder / "up").symlink_to("..")
    (folder / "proc").symlink_to("/proc/self/root")
    os.mkfifo(folder / "fifo")
    return folder


def test_files_of_the_shared_directory(clients, shared):
    client = clients("--files", shared)
    tools = {tool["name"]: tool for tool in client.ask("tools/list")["result"]["tools"]}
    assert "local_path" in tools["upload_file"]["inputSchema"]["properties"]
    assert tools["download_file"]["annotations"]["readOnlyHint"] is False
    for n, local in enumerate(["in.txt", "./sub/../in.txt", "link", os.fspath(shared / "in.txt")]):
        result = client.call("upload_file", path=f"a{n}", local_path=local)
        assert result["structuredContent"] == {"path": f"a{n}", "size": 9}, result
        assert text(client.call("download_file", path=f"a{n}")) == "from here"
    client.code("open('big', 'wb').write(bytes(range(256)) * 40000)")
    for local in ("sub/new", os.fspath(shared / "top"), "in.txt"):
        result = client.call("download_file", path="big", local_path=local)
        assert result["structuredContent"] == {"path": "big", "size": 10240000}, result
        assert (shared / local).read_bytes() == bytes(range(256)) * 40000
    assert client.call("download_file", path="missing", local_path="sub/x")["isError"] is True
    assert sorted(os.listdir(shared / "sub")) == ["new"]
    assert not [name for name in os.listdir(shared) if name.startswith(".acarun")]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((shared / "top").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("local", ["../secret", "out", "up/secret", "sub/../../secret", "/etc/hostname", "proc/etc/hostname",
                                   "ABSOLUTE", "fifo", "sub", "", ".", "missing", "/"])
def test_nothing_else_of_this_machine(clients, shared, local):
    client = clients("--files", shared)
    local = os.fspath(shared.parent / "secret") if local == "ABSOLUTE" else local
    result = client.call("upload_file", path="x", local_path=local)
    assert result["isError"] is True, result
    client.call("upload_file", path="x", text="overwritten")
    before = sorted(os.listdir(shared.parent))
    result = client.call("download_file", path="x", local_path=local)
    assert (shared.parent / "secret").read_text() == "s3cret"
    if local in ("out", "fifo", "missing"):  # replaced by what was asked for, where it stood
        assert result["isError"] is False and (shared / local).read_text() == "overwritten"
        assert not (shared / local).is_symlink()
    else:
        assert result["isError"] is True and sorted(os.listdir(shared.parent)) == before


# --- the end

def test_the_end_of_input_deletes_the_session(clients, own_pool):
    pool = own_pool()
    client = clients(pool=pool)
    client.code("1")
    assert len(listed(pool)) == 1
    assert client.close() == 0 and client.receive() is None
    assert listed(pool) == []


def listed(pool):
    answer = pool.request("GET", "listSessions").json()
    return answer.get("sessions") or answer.get("value") or []


def test_a_session_with_a_name_stays(clients, session):
    client = clients(session=session)
    client.code("kept = 5")
    assert client.close() == 0
    assert client.pool.run(session, "kept") == 5


def test_calls_under_way_at_the_end_of_input(clients):
    client = clients()
    slow = client.start("code_interpreter", python_code="import time; time.sleep(4); x = 6")
    number = client.start("code_interpreter", python_code="x * 7")
    client.process.stdin.close()  # as a pipe of prepared messages does, whose reader stays
    assert client.answer(slow)["result"]["isError"] is False
    assert client.answer(number)["result"]["structuredContent"]["result"] == 42
    assert client.process.wait(20) == 0


def test_a_client_that_is_gone(client, session, pool):
    """Both its ends of our pipes are closed while code runs that has no end."""
    with subprocess.Popen([process.ACARUN, "mcp", "-p", "local", "-s", session], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          env=client.env) as left:
        arguments = {"python_code": "open('begun', 'w').close()\nwhile True: pass"}
        left.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
                                     "params": {"name": "code_interpreter", "arguments": arguments}}).encode() + b"\n")
        left.stdin.flush()
        wait_for(lambda: "begun" in pool.names(session), 20)
        left.stdin.close()
        left.stdout.close()
        assert left.wait(20) == 0
    assert pool.run(session, "6 * 7") == 42  # nothing holds it up


@pytest.mark.parametrize("how", ["SIGTERM", "input and SIGTERM", "SIGINT", "SIGHUP"])
def test_it_ends_in_time_while_code_runs(clients, own_pool, session, how):
    pool = own_pool()
    for named in (None, session):
        client = clients(pool=pool, session=named)
        client.start("code_interpreter", python_code="open('begun', 'w').close()\nwhile True: pass")
        while not client.call("list_files")["structuredContent"]["files"]:
            pass
        began = time.monotonic()
        if "input" in how:  # what the protocol has clients do
            client.process.stdin.close()
        client.process.send_signal(getattr(signal, how.split()[-1]))
        assert client.process.wait(20) == 0
        assert time.monotonic() - began < 6
    assert [each["identifier"] for each in listed(pool)] == [session]
    assert pool.run(session, "6 * 7") == 42  # nothing holds it up


def test_nobody_reads(client):
    with subprocess.Popen([process.ACARUN, "mcp", "-p", "local"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          env=client.env) as deaf:
        deaf.stdout.close()
        deaf.stdin.write(b'{"jsonrpc":"2.0","id":7,"method":"ping"}\n')
        deaf.stdin.flush()
        assert deaf.wait(20) == 141


def test_a_client_that_reads_late(client):
    client.code("open('f', 'w').write('x' * 4_000_000)")
    numbers = [client.start("download_file", path="f") for _ in range(8)]
    assert all(len(text(client.answer(number)["result"])) == 4_000_000 for number in numbers)


def test_without_a_session_nothing_is_made(clients, own_pool):
    pool = own_pool()
    client = clients(pool=pool)
    client.ask("tools/list")
    assert client.close() == 0 and listed(pool) == []


def test_the_pool_away(clients, own_pool):
    pool = own_pool()
    client = clients("-o", "max-retries=0", pool=pool)
    pool.kill()
    for tool, arguments in (("code_interpreter", {"python_code": "1"}), ("list_files", {}),
                            ("upload_file", {"path": "a", "text": "b"}), ("download_file", {"path": "a"})):
        result = client.call(tool, **arguments)
        assert result["isError"] is True and text(result)
    assert client.close() == 0


@pytest.mark.parametrize("arguments", [["script.py"], ["-c", "1"], ["--json"], ["--api", "chat"], ["-k"],
                                       ["--files", "/does/not/exist"], ["--session", "x"], ["--unknown"]])
def test_usage(tmp_path, pool, arguments):
    env = process.environment(HOME=tmp_path, ACAFS_CONFIG=os.devnull, XDG_RUNTIME_DIR=pool.directory)
    done = process.run([process.ACARUN, "mcp", *arguments], env=env, check=False)
    assert done.returncode == 64 and done.stdout == "" and done.stderr.startswith("acarun: ")
    done = process.run([process.ACARUN, "--files", tmp_path, "-c", "1"], env=env, check=False)
    assert done.returncode == 64
