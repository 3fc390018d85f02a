"""A proxy in front of a pool that misbehaves on demand.

It speaks HTTP/1.1 with kept-alive connections, forwards each request to the pool, and before
that asks its rules:

    proxy.rule("GET files/{name}/content", cut_body(1000), times=2)
    proxy.rule(r"GET .*", answer(429, {"Retry-After": "1"}), every=10)
    proxy.rule(lambda request: request.query.get("path") == "sub", delay(3))

A rule's match is a regular expression for the whole of "METHOD kind" ("{name}" and "{id}" stand for
themselves), or a function of the request. The first rule that matches and is not used up acts.
`freeze()` stops everything until `thaw()`; `down()` refuses connections until `up()`.
`requests` lists all that came, `count(match)` counts them."""

import contextlib
import os
import re
import select
import socket
import threading
import time
import urllib.parse
from dataclasses import dataclass, field

from support.wait import wait_for

_BLOCK = 65536

# "files/{name}/content" from the path of a request, whatever stands before it.
_KINDS = [
    (r"files/content/[^/]+", "files/content/{name}"),
    (r"files/upload", "files/upload"),
    (r"files/[^/]+/content", "files/{name}/content"),
    (r"files/[^/]+", "files/{name}"),
    (r"files", "files"),
    (r"code/execute", "code/execute"),
    (r"executions/[^/]+", "executions/{id}"),
    (r"executions", "executions"),
    (r"session", "session"),
    (r"metadata", "metadata"),
    (r"listSessions", "listSessions"),
    (r"\.management/\w+", ".management/{name}"),
]


@dataclass
class Request:
    method: str
    target: str
    headers: dict
    kind: str = ""
    query: dict = field(default_factory=dict)
    time: float = 0.0

    def __post_init__(self):
        path, _, query = self.target.partition("?")
        self.path = urllib.parse.unquote(path)
        self.query = {key: values[-1] for key, values in
                      urllib.parse.parse_qs(query, keep_blank_values=True).items()}
        self.kind = path
        for pattern, kind in _KINDS:
            if re.search(f"(^|/){pattern}/?$", path):
                self.kind = kind
                break
        self.time = time.monotonic()

    def __str__(self):
        return f"{self.method} {self.kind}"


class _Cut(Exception):
    """Ends the client's connection at once."""


# --- actions: each takes an _Exchange and does with it what it likes.

def delay(seconds):
    """Answers, but late."""
    def act(exchange):
        exchange.pause(seconds)
        exchange.forward()
    return act


def answer(status, headers=None, body=b"", reason="Because"):
    """Answers by itself; the pool never hears of the request."""
    body = body.encode() if isinstance(body, str) else body

    def act(exchange):
        exchange.swallow()
        lines = {"Content-Length": str(len(body)), **(headers or {})}
        head = f"HTTP/1.1 {status} {reason}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
        exchange.send(head.encode() + b"\r\n" + body)
    return act


def redirect(location):
    return answer(302, {"Location": location})


def cut_before():
    """The connection breaks before the request reaches the pool."""
    def act(exchange):
        raise _Cut
    return act


def cut_after():
    """The pool does what was asked, and the answer is lost."""
    def act(exchange):
        exchange.forward(relay=lambda data: None)
        raise _Cut
    return act


def cut_body(size):
    """The answer breaks off after `size` bytes of its body."""
    def act(exchange):
        exchange.forward(relay=_first(exchange, size))
        raise _Cut
    return act


def withhold(event):
    """The pool does what was asked; the answer comes once the event is set."""
    def act(exchange):
        whole = []
        exchange.forward(relay=whole.append)
        while not event.wait(0.05):
            exchange.pause(0)
        exchange.send(b"".join(whole))
    return act


def freeze():
    """Never answers."""
    def act(exchange):
        exchange.swallow()
        exchange.hold()
    return act


def freeze_body(size):
    """Sends the head and `size` bytes of the body, then nothing more."""
    def act(exchange):
        exchange.forward(relay=_first(exchange, size))
        exchange.hold()
    return act


def replace_body(body):
    """Passes the pool's status on with another body."""
    def act(exchange):
        whole = []
        exchange.forward(relay=whole.append)
        head = b"".join(whole).partition(b"\r\n\r\n")[0].split(b"\r\n")
        kept = [line for line in head if not re.match(rb"(?i)content-length|transfer-encoding", line)]
        exchange.send(b"\r\n".join(kept) + f"\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    return act


def throttle(bytes_per_second):
    """Answers slowly but steadily."""
    def act(exchange):
        def relay(data):
            for at in range(0, len(data), 4096):
                piece = data[at:at + 4096]
                exchange.send(piece)
                exchange.pause(len(piece) / bytes_per_second)
        exchange.forward(relay=relay)
    return act


def _first(exchange, size):
    """A relay that passes the head and the first `size` bytes of the body."""
    left, head, in_body = size, b"", False

    def relay(data):
        nonlocal left, head, in_body
        if not in_body:
            head += data
            if b"\r\n\r\n" not in head:
                return
            top, _, data = head.partition(b"\r\n\r\n")
            exchange.send(top + b"\r\n\r\n")
            in_body = True
        if left > 0:
            exchange.send(data[:left])
            left -= len(data[:left])
    return relay


class _Exchange:
    """One request and its answer, on a connection of the client."""

    def __init__(self, proxy, client, request, head, rest):
        self.proxy, self.client, self.request = proxy, client, request
        self._head = head
        self._rest = rest  # what was read beyond the head
        self._keep = True
        self._swallowed = False

    def send(self, data):
        self.client.sendall(data)

    def pause(self, seconds):
        if self.proxy.closing.wait(seconds):
            raise _Cut

    def hold(self):
        """Until the client goes away or the proxy is told otherwise."""
        while not self.proxy.closing.is_set():
            readable, _, _ = select.select([self.client], [], [], 0.05)
            if readable and not self.client.recv(1, socket.MSG_PEEK):
                break
        raise _Cut

    def _body(self):
        """The request's body in its own framing, in pieces."""
        if self._swallowed:
            return
        self._swallowed = True
        headers = self.request.headers
        if headers.get("expect", "").lower() == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" in headers.get("transfer-encoding", "").lower():
            yield from self._chunks()
            return
        left = int(headers.get("content-length", 0))
        while left > 0:
            piece = self._read(left)
            left -= len(piece)
            yield piece

    def _chunks(self):
        while True:
            line = self._line()
            size = int(line.split(b";")[0], 16)
            yield line + b"\r\n"
            left = size + 2 if size else 0
            while left:
                piece = self._read(left)
                left -= len(piece)
                yield piece
            if not size:
                while trailer := self._line():
                    yield trailer + b"\r\n"
                yield b"\r\n"
                return

    def _line(self):
        while b"\r\n" not in self._rest:
            self._rest += self._receive()
        line, _, self._rest = self._rest.partition(b"\r\n")
        return line

    def _read(self, most):
        if not self._rest:
            self._rest = self._receive()
        piece, self._rest = self._rest[:most], self._rest[most:]
        return piece

    def _receive(self):
        data = self.client.recv(_BLOCK)
        if not data:
            raise _Cut
        return data

    def swallow(self):
        for _ in self._body():
            pass

    def forward(self, relay=None):
        """Sends the request to the pool and hands its answer to relay, in pieces as they come."""
        relay = relay or self.send
        with contextlib.closing(self.proxy.connect()) as pool:
            lines = [line for line in self._head.split(b"\r\n")
                     if not re.match(rb"(?i)connection:|expect:|keep-alive:", line)]
            pool.sendall(b"\r\n".join(lines) + b"\r\nConnection: close\r\n\r\n")
            refused = False
            for piece in self._body():
                if refused:
                    continue
                try:
                    pool.sendall(piece)
                except OSError:  # it answers without reading all: 401, 413
                    refused = True
            self._relay(pool, relay)

    def _relay(self, pool, relay):
        head = b""
        while b"\r\n\r\n" not in head:
            data = self._from_pool(pool)
            if not data:
                raise _Cut
            head += data
        top, _, rest = head.partition(b"\r\n\r\n")
        kept = [line for line in top.split(b"\r\n") if not re.match(rb"(?i)connection:|keep-alive:", line)]
        status = int(kept[0].split()[1])
        framed = any(re.match(rb"(?i)content-length:|transfer-encoding:", line) for line in kept)
        if not framed and status not in (204, 304) and self.request.method != "HEAD":
            kept.append(b"Connection: close")
            self._keep = False
        relay(b"\r\n".join(kept) + b"\r\n\r\n")
        if rest:
            relay(rest)
        while data := self._from_pool(pool):
            relay(data)

    def _from_pool(self, pool):
        try:
            return pool.recv(_BLOCK)
        except ConnectionResetError:
            return b""


class _Rule:
    def __init__(self, match, action, times, every, skip):
        if isinstance(match, str):
            pattern = re.compile(re.sub(r"\{(\w+)\}", r"\\{\1\\}", match))
            self.matches = lambda request: pattern.fullmatch(str(request))
        else:
            self.matches = match or (lambda request: True)
        self.action, self.left, self.every, self.skip = action, times, every, skip
        self.seen = 0
        self.used = 0


class Proxy:
    """Listens on a loopback port (default) or on a Unix socket; forwards to `pool`: a
    ("127.0.0.1", port) pair or the path of a Unix socket."""

    def __init__(self, pool, path=None):
        self.pool = pool
        self.path = path
        self.port = None
        self.closing = threading.Event()
        self.requests = []
        self.busy = 0  # requests being served
        self._rules = []
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._open.set()
        self._clients = {}  # their addresses
        self._listener = None
        self.up()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    # --- what tests say

    def rule(self, match, action, times=None, every=1, skip=0):
        """From now on `action` for what matches: `times` often (None: always), of those
        that match only each `every`-th, after the first `skip`. Returns the rule: .used counts."""
        rule = _Rule(match, action, times, every, skip)
        with self._lock:
            self._rules.insert(0, rule)
        return rule

    def drop(self, rule):
        with self._lock:
            self._rules.remove(rule)

    def clear(self):
        """Behaves again; forgets what it counted."""
        with self._lock:
            self._rules.clear()
            self.requests.clear()
        self.thaw()

    def freeze(self):
        """No request is read or answered any more; connections are still accepted."""
        self._open.clear()

    def thaw(self):
        self._open.set()

    def down(self):
        """As if the pool's machine had gone: connections break, new ones are refused."""
        if self._listener:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def up(self):
        if self._listener:
            return
        if self.path:
            listener = socket.socket(socket.AF_UNIX)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
            listener.bind(str(self.path))
        else:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port or 0))
            self.port = listener.getsockname()[1]
        listener.listen(128)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def count(self, match=".*"):
        """How many requests came that match, as in rule()."""
        matches = _Rule(match, None, None, 1, 0).matches
        with self._lock:
            return sum(1 for request in self.requests if matches(request))

    def drain(self, deadline=20):
        """Waits until all that was sent by clients that are gone is done: a busy machine may not have read it yet."""
        with contextlib.closing(socket.create_connection(("127.0.0.1", self.port), deadline)) as last:
            wait_for(lambda: last.getsockname() in self._peers(), deadline)  # those before it were taken, too
        wait_for(lambda: not self._peers(), deadline)

    def _peers(self):
        with self._lock:
            return set(self._clients.values())

    def close(self):
        self.closing.set()
        self.thaw()
        self.down()

    # --- its own business

    def connect(self):
        if isinstance(self.pool, tuple):
            return socket.create_connection(self.pool, timeout=240)
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(240)
        connection.connect(str(self.pool))
        return connection

    def _accept(self, listener):
        while True:
            try:
                client, address = listener.accept()
            except OSError:
                return
            with self._lock:
                self._clients[client] = address
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        try:
            if client.family == socket.AF_INET:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            rest = b""
            while rest is not None:
                rest = self._one(client, rest)
        except (OSError, _Cut, ValueError):
            pass
        finally:
            with self._lock:
                self._clients.pop(client, None)
            client.close()

    def _one(self, client, rest):
        """Serves one request; what was read beyond it, or None when the connection is over."""
        while b"\r\n\r\n" not in rest:
            data = client.recv(_BLOCK)
            if not data:
                return None
            rest += data
        self._wait_until_open(client)
        head, _, rest = rest.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ", 2)
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        request = Request(method, target, headers)
        exchange = _Exchange(self, client, request, head, rest)
        with self._lock:
            self.busy += 1
        try:
            action = self._choose(request)
            if action:
                action(exchange)
            else:
                exchange.forward()
        finally:
            with self._lock:
                self.busy -= 1
        return exchange._rest if exchange._keep else None

    def _wait_until_open(self, client):
        while not self._open.wait(0.05):
            readable, _, _ = select.select([client], [], [], 0)
            if readable and not client.recv(1, socket.MSG_PEEK):
                raise _Cut
        if self.closing.is_set():
            raise _Cut

    def _choose(self, request):
        with self._lock:
            self.requests.append(request)
            for rule in self._rules:
                if rule.left == 0 or not rule.matches(request):
                    continue
                rule.seen += 1
                if rule.seen <= rule.skip or (rule.seen - rule.skip) % rule.every:
                    continue
                rule.used += 1
                if rule.left is not None:
                    rule.left -= 1
                return rule.action
        return None
