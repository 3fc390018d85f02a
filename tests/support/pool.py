"""A session pool of the tests' own, and the way behind the mount's back."""

import http.client
import json
import os
import secrets
import socket
import urllib.parse
from pathlib import Path

from support import process
from support.wait import wait_for

VERSION = "2025-10-02-preview"


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    def json(self):
        return json.loads(self.body)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self.path))


class Pool:
    """acapool on a private Unix socket (no token) or on a loopback port (with one).

    directory is also the XDG_RUNTIME_DIR with which `acafs local` finds the Unix one."""

    def __init__(self, directory, tcp=False, options=()):
        self.directory = Path(directory)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.socket = None if tcp else self.directory / "acafs/pool.sock"
        self.log = self.directory / "pool.log"
        self.options = list(options)
        self.token = None
        self.port = None
        self.process = None
        if tcp:
            self.token = secrets.token_urlsafe(24)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}" if self.port else "http://localhost"

    def start(self):
        if self.port:
            token_file = self.directory / "token"
            token_file.touch(mode=0o600)
            token_file.write_text(self.token)
            where = ["--listen", f"127.0.0.1:{self.port}", "--token-file", token_file]
        else:
            self.socket.parent.mkdir(mode=0o700, exist_ok=True)
            where = ["--socket", self.socket]
        self.process = process.start([process.ACAPOOL, *where, *self.options], self.log,
                                     env=process.environment(XDG_RUNTIME_DIR=self.directory))
        wait_for(lambda: self.process.poll() is not None or self._listens(), 20, "acapool listening")
        assert self.process.poll() is None, f"acapool did not start:\n{self.log.read_text()}"
        return self

    def _listens(self):
        with self._connection(5) as _:
            return True

    def _connection(self, timeout):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout) if self.port \
            else _UnixConnection(self.socket, timeout)
        connection.connect()
        return _Closing(connection)

    def kill(self):
        """As if its machine had gone."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process is None:
            return
        running = self.process.poll() is None
        if running:
            self.process.terminate()
            try:
                self.process.wait(20)
            except Exception:
                self.kill()
                raise AssertionError(f"acapool did not end on SIGTERM:\n{self.log.read_text()}") from None
        found = process.alarms(self.log)
        assert not found, f"in the log of acapool: {found}"
        assert not running or self.process.returncode == 0, \
            f"acapool ended with {self.process.returncode}:\n{self.log.read_text()}"

    # --- the API, in its newest shape

    def request(self, method, path, session=None, query=None, body=None, headers=None, timeout=60,
                version=VERSION):
        fields = {"api-version": version, **(query or {})}
        if session is not None:
            fields["identifier"] = session
        headers = dict(headers or {})
        if self.token:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        target = f"/{path}?{urllib.parse.urlencode(fields, quote_via=urllib.parse.quote)}"
        with self._connection(timeout) as connection:
            connection.request(method, target, body, headers)
            return Answer(connection.getresponse())

    def execute(self, session, code, **fields):
        """Runs code in the session; what the API answers."""
        answer = self.request("POST", "executions", session, timeout=240, body=json.dumps(
            {"codeInputType": "Inline", "executionType": "Synchronous", "code": code, **fields}),
            headers={"Content-Type": "application/json"})
        assert answer.status in (200, 202), (answer.status, answer.body)
        return answer.json()

    def run(self, session, code):
        """Runs code that must succeed; its last expression."""
        answer = self.execute(session, code)
        assert answer["status"] == "Succeeded", answer
        return answer["result"]["executionResult"]

    def read(self, session, name, path=None):
        """The content of a file in the session, or None."""
        answer = self.request("GET", f"files/{urllib.parse.quote(name)}/content", session,
                              {"path": path} if path else None)
        if answer.status == 404:
            return None
        assert answer.status == 200, (answer.status, answer.body)
        return answer.body

    def write(self, session, name, content, path=None):
        boundary = secrets.token_hex(12)
        body = (f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
                "Content-Type: application/octet-stream\r\n\r\n").encode() + content + \
            f"\r\n--{boundary}--\r\n".encode()
        answer = self.request("POST", "files", session, {"path": path} if path else None, body,
                              {"Content-Type": f"multipart/form-data; boundary={boundary}"})
        assert answer.status in (200, 201), (answer.status, answer.body)

    def delete(self, session, name, path=None):
        answer = self.request("DELETE", f"files/{urllib.parse.quote(name)}", session,
                              {"path": path} if path else None)
        assert answer.status in (200, 204), (answer.status, answer.body)

    def names(self, session, path=None):
        """The names at the top of the session's files, or in one directory."""
        answer = self.request("GET", "files", session, {"path": path} if path else None)
        assert answer.status == 200, (answer.status, answer.body)
        return {entry["name"] for entry in answer.json()["value"] or []}


class _Closing:
    """with-statement for an http.client connection."""

    def __init__(self, connection):
        self.connection = connection

    def __enter__(self):
        return self.connection

    def __exit__(self, *_):
        self.connection.close()
