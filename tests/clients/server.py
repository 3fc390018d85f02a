"""An acapool of a test's own, spoken to with nothing but http.client."""

import ctypes
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.parse
import uuid
from pathlib import Path

VERSION = "2025-10-02-preview"
OLD = "2024-02-02-preview"

_build = Path(os.environ.get("ACAFS_BUILD") or Path(__file__).resolve().parents[2] / "build")
ACAPOOL = Path(os.environ.get("ACAPOOL") or _build / "src/acapool/acapool").resolve()
_libc = ctypes.CDLL(None)
_ALARM = re.compile(r"ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:|SUMMARY: \w+Sanitizer|double free|corrupted")


def sanitized():
    return b"__asan_init" in ACAPOOL.read_bytes()


def wait_until(condition, seconds, what):
    """Waits for condition() to be true; what it gave."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    def json(self):
        return json.loads(self.body)

    @property
    def code(self):
        """The error's code, wherever the service puts it."""
        document = self.json()
        return document.get("error", document).get("code")


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout=60):
        super().__init__("localhost", timeout=timeout)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Server:
    """A running acapool; options as on its command line."""

    def __init__(self, folder, *options, tcp=False, user=None, env=None, program=ACAPOOL):
        self.folder = Path(folder)
        self.folder.mkdir(exist_ok=True, parents=True)
        self.log = self.folder / "log"
        self.path = None if tcp else self.folder / "s/pool.sock"
        where = ["--listen", "127.0.0.1:0"] if tcp else ["--socket", self.path]
        ready, write = os.pipe()
        command = [str(part) for part in (program, *where, "--ready-fd", write, *options)]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, pass_fds=[write],
                preexec_fn=lambda: _libc.prctl(1, signal.SIGKILL), user=user, group=user,
                extra_groups=[] if user else None,
                env={"PATH": "/usr/bin:/bin", "ASAN_OPTIONS": "exitcode=99", **(env or {})})
        os.close(write)
        with os.fdopen(ready) as file:
            self.ready = file.readline()
        self.said = []
        self.token = self.url = None
        if self.ready == "ready\n":
            self.said.append(self.process.stdout.readline().decode().strip())
            if tcp:
                self.url = self.said[0]
                if "--token-file" not in options:
                    self.said.append(self.process.stdout.readline().decode().strip())
                    self.token = self.said[1].removeprefix("token ")

    def errors(self):
        return self.log.read_text(errors="replace")

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
        code = self.process.wait(30)
        self.process.stdout.close()
        assert not _ALARM.search(self.errors()), self.errors()
        assert code == 0, (code, self.errors())

    def __enter__(self):
        assert self.ready == "ready\n", self.errors()
        return self

    def __exit__(self, *_):
        self.stop()

    def connection(self, timeout=60):
        if self.path:
            return UnixConnection(self.path, timeout)
        return http.client.HTTPConnection(urllib.parse.urlsplit(self.url).netloc, timeout=timeout)

    def raw(self, method, target, body=None, headers=None, timeout=60):
        headers = dict(headers or {})
        if self.token:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        connection = self.connection(timeout)
        try:
            connection.request(method, target, body, headers)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def session(self):
        """A session of an identifier that nobody used before."""
        return Session(self, str(uuid.uuid4()))


def form(name, content, field="file"):
    """(body, content type) of a multipart form with one file."""
    boundary = uuid.uuid4().hex
    head = (f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n").encode()
    return head + content + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


class Session:
    def __init__(self, server, identifier):
        self.server = server
        self.identifier = identifier

    def target(self, path, /, version=VERSION, **query):
        query = {"api-version": version, "identifier": self.identifier, **query}
        return f"/{path}?{urllib.parse.urlencode(query, quote_via=urllib.parse.quote)}"

    def call(self, method, path, /, body=None, headers=None, version=VERSION, timeout=60, **query):
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
            headers = {"Content-Type": "application/json", **(headers or {})}
        return self.server.raw(method, self.target(path, version, **query), body, headers, timeout)

    def execute(self, code, headers=None, **fields):
        """The resource that an execution is answered with."""
        answer = self.call("POST", "executions", {"codeInputType": "Inline", "executionType": "Synchronous",
                                                  "code": code, **fields}, headers)
        assert answer.status in (200, 202), (answer.status, answer.body)
        return answer.json()

    def run(self, code, **fields):
        """The value of code that succeeds."""
        answer = self.execute(code, **fields)
        assert answer["status"] == "Succeeded", answer
        return answer["result"]["executionResult"]

    def out(self, code, **fields):
        answer = self.execute(code, **fields)
        assert answer["status"] == "Succeeded", answer
        return answer["result"]["stdout"]

    def fail(self, code, **fields):
        """stderr of code that fails."""
        answer = self.execute(code, **fields)
        assert answer["status"] == "Failed", answer
        return answer["result"]["stderr"]

    def put(self, name, content=b"", /, **query):
        body, kind = form(name, content)
        return self.call("POST", "files", body, {"Content-Type": kind}, **query)

    def get(self, name, /, headers=None, **query):
        return self.call("GET", f"files/{urllib.parse.quote(name, safe='')}/content", headers=headers, **query)

    def list(self, **query):
        answer = self.call("GET", "files", **query)
        assert answer.status == 200, (answer.status, answer.body)
        return answer.json()["value"]

    def names(self, **query):
        return [entry["name"] for entry in self.list(**query)]
