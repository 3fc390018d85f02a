"""Runs inside a session's sandbox: one supervisor, and the kernels it forks.

The supervisor is the sandbox's process 1. On fd 3 it gets commands from acapool, one JSON object a
packet: {"start": N} with three descriptors (channel, stdout, stderr) forks kernel N; {"signal": S,
"kernel": N} signals the process group of kernel N and is acknowledged by one byte. When a kernel ends
its channel is shut down, whoever else may hold it. What a script detached (setsid) stays.

A kernel gets executions through its channel and answers each. Frame, both ways: length of the rest
and sequence number, 32 bit big-endian each; then one byte b"N" or b"O" (values for the new or the old
shape of the API) and the code, or one byte b"S" or b"F" and the value of the last expression as JSON
(nothing: no value). stdout and stderr are pipes that acapool drains."""

import ast
import base64
import builtins
import ctypes
import fcntl
import inspect
import io
import json
import linecache
import math
import os
import pprint
import resource
import select
import signal
import socket
import struct
import sys
import traceback
import types
from figures import ImportHook, draw  # embed.py

CONTROL = 3
OWN_NAME = "<acapool>"
MAX_VALUE = 64 << 20  # bytes of JSON
MAX_DEPTH = 100
KEPT_SOURCES = 500

libc = ctypes.CDLL(None, use_errno=True)
PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NAME = 4, 36, 15


# --- the supervisor

class Supervisor:
    def __init__(self, settings):
        self.settings = settings
        self.control = socket.socket(fileno=CONTROL)
        os.set_inheritable(CONTROL, False)
        self.kernels = {}  # number -> (pid, channel)

    def run(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        libc.prctl(PR_SET_DUMPABLE, 0)  # code of the session must not trace its supervisor
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.wake = (woken, wake)
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(woken, select.POLLIN)
        while True:
            self.reap()
            for fd, _ in poll.poll():
                if fd == woken:
                    os.read(woken, 4096)
                else:
                    self.command()

    def command(self):
        packet, fds, _, _ = socket.recv_fds(self.control, 4096, 3)
        if not packet:
            self.end()
        command = json.loads(packet)
        if "start" in command:
            self.start(command["start"], fds)
        else:
            if command["kernel"] in self.kernels:
                send_signal(self.kernels[command["kernel"]][0], command["signal"])
            self.control.send(b".")

    def start(self, number, fds):
        channel, out, err = fds
        try:
            pid = os.fork()
        except OSError as error:
            os.write(2, b"acapool: fork in a sandbox: %s\n" % os.strerror(error.errno).encode())
            socket.socket(fileno=channel).shutdown(socket.SHUT_RDWR)
            pid = None
        if pid == 0:
            try:
                self.become_kernel(channel, out, err)
            finally:
                os._exit(70)
        os.close(out)
        os.close(err)
        if pid is not None:
            self.kernels[number] = (pid, socket.socket(fileno=channel))

    def become_kernel(self, channel, out, err):
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        for _, other in self.kernels.values():
            other.close()
        for fd in self.wake:
            os.close(fd)
        self.control.close()
        os.setsid()
        libc.prctl(PR_SET_DUMPABLE, 1)
        libc.prctl(PR_SET_NAME, b"kernel")
        self.limit()
        Kernel(channel, out, err).run()

    def limit(self):
        """Hard limits: nothing in here can raise them again."""
        for what, value in ((resource.RLIMIT_DATA, self.settings["memory"]),
                            (resource.RLIMIT_FSIZE, self.settings["disk"]),
                            (resource.RLIMIT_NPROC, self.settings["processes"]),
                            (resource.RLIMIT_CORE, 0)):
            hard = resource.getrlimit(what)[1]
            if value is not None:
                value = value if hard == resource.RLIM_INFINITY else min(value, hard)
                resource.setrlimit(what, (value, value))

    def reap(self):
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            for number, (pid, channel) in list(self.kernels.items()):
                if pid == ended.si_pid:
                    send_signal(pid, signal.SIGKILL)  # what it left behind in its group
                    try:
                        channel.shutdown(socket.SHUT_RDWR)
                    except OSError:
                        pass
                    channel.close()
                    del self.kernels[number]
            os.waitpid(ended.si_pid, 0)

    def end(self):
        """acapool is done with the session. As process 1 it is enough to exit; without a sandbox
        everything that descends from here is looked up."""
        if os.getpid() != 1:
            while True:
                with open("/proc/self/task/%d/children" % os.getpid()) as file:
                    children = file.read().split()
                if not children:
                    break
                for pid in children:
                    try:
                        os.kill(int(pid), signal.SIGKILL)
                        os.waitpid(int(pid), 0)
                    except OSError:
                        pass
        os._exit(0)


def send_signal(group, number):
    try:
        os.killpg(group, number)
    except OSError:
        try:
            os.kill(group, number)  # it had no time for setsid
        except OSError:
            pass


# --- a kernel

class StdinNotImplementedError(RuntimeError):
    pass


def refuse_input(prompt=""):
    raise StdinNotImplementedError("input() was called, but a session has nobody to ask")


class TooLarge(Exception):
    pass


class NotPython(Exception):
    """Code that can't be compiled; the cause says why."""


def out_of_the_way(fd):
    """The same file at a descriptor number that scripts do not meet by chance."""
    least = min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 16)
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least)
    os.close(fd)
    return moved


class Kernel:
    def __init__(self, channel, out, err):
        self.channel, self.out, self.err = (out_of_the_way(fd) for fd in (channel, out, err))
        self.pid = os.getpid()
        self.count = 0
        self.image = None
        self.as_json = as_json
        self.sources = []
        self.loop = None
        self.module = types.ModuleType("__main__")
        self.module.__dict__.update(__builtins__=builtins, __annotations__={})

    def run(self):
        sys.modules["__main__"] = self.module
        sys.path.insert(0, "")
        sys.argv = [""]
        builtins.input = refuse_input
        builtins.display = self.display
        sys.meta_path.insert(0, ImportHook(["matplotlib.pyplot"], self.take_pyplot))
        os.register_at_fork(after_in_child=self.forked)
        self.connect_streams()
        while True:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            head = self.receive(8)
            size, sequence = struct.unpack(">II", head)
            mode, code = self.receive(1), self.receive(size - 5)
            self.as_json = as_json_of_old if mode == b"O" else as_json
            good, value = self.execute(code.decode("utf-8", "replace"))
            if os.getpid() != self.pid:
                os._exit(0 if good else 1)
            self.send(struct.pack(">IIc", 5 + len(value), sequence, b"S" if good else b"F") + value)

    def receive(self, size):
        parts = []
        while size:
            part = os.read(self.channel, min(size, 1 << 20))
            if not part:
                os._exit(0)
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def send(self, data):
        view = memoryview(data)
        while view:
            view = view[os.write(self.channel, view):]

    def forked(self):
        """In a process that the user's code forked: only the kernel itself speaks to acapool."""
        os.close(self.channel)
        self.channel = -1

    def connect_streams(self):
        """fd 0 to 2, and the files on them, as they should be whatever was done to them."""
        os.dup2(self.out, 1)
        os.dup2(self.err, 2)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        if null > 2:
            os.close(null)
        for name, fd in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
            file = getattr(sys, name, None)
            if getattr(file, "acapool", None) is self and not file.closed:
                continue
            if getattr(file, "closed", True) or file in (sys.__stdin__, sys.__stdout__, sys.__stderr__):
                file = Stream(open(fd, "rb" if fd == 0 else "wb", closefd=False), encoding="utf-8",
                              errors="strict" if fd == 0 else "backslashreplace", line_buffering=fd != 0)
                file.acapool = self
                setattr(sys, name, file)
                setattr(sys, f"__{name}__", file)

    def execute(self, code):
        """(whether it succeeded, the value as JSON or nothing), as bytes."""
        self.image = None
        good, value = False, b""
        try:
            try:
                self.connect_streams()
                signal.signal(signal.SIGINT, signal.default_int_handler)
                result = self.evaluate(code)
                value = self.show(result)
                good = True
            finally:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
        except NotPython as error:
            self.write_error("".join(traceback.format_exception_only(error.__cause__)))
        except BaseException as error:
            if os.getpid() != self.pid and isinstance(error, SystemExit):
                good = not error.code
            else:
                self.report(error)
        self.flush()
        return good, value

    def evaluate(self, code):
        """Runs code in the session's namespace; the value of its last expression, or None."""
        name = self.remember(code)
        tree = parse(code, name)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr) and not code.rstrip().endswith(";"):
            last = ast.Expression(tree.body.pop().value)
        if tree.body:
            self.step(tree, name, "exec")
        return self.step(last, name, "eval") if last else None

    def step(self, tree, name, mode):
        try:
            code = compile(tree, name, mode, flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            if isinstance(error, SyntaxError) and error.text is None and error.lineno:
                error.text = linecache.getline(name, error.lineno)
            raise NotPython from error
        value = eval(code, self.module.__dict__)
        if code.co_flags & inspect.CO_COROUTINE:
            import asyncio
            if self.loop is None or self.loop.is_closed():
                self.loop = asyncio.new_event_loop()
                asyncio.set_event_loop(self.loop)
            value = self.loop.run_until_complete(value)
        return value

    def remember(self, code):
        """Makes the source known to tracebacks and inspect."""
        self.count += 1
        name = f"<execution {self.count}>"
        linecache.cache[name] = (len(code), None, [line + "\n" for line in code.splitlines()], name)
        self.sources.append(name)
        if len(self.sources) > KEPT_SOURCES:
            linecache.cache.pop(self.sources.pop(0), None)
        return name

    def report(self, error):
        """The traceback, as python itself would print it, without the frames of this program."""
        try:
            if isinstance(error, (MemoryError, RecursionError)):
                error.__context__ = None
            told = traceback.TracebackException.from_exception(error, compact=True)
            forget_own_frames(told)
            text = "".join(told.format())
        except BaseException:
            text = f"{type(error).__name__} (its traceback could not be formatted)\n"
        self.write_error(text)

    def write_error(self, text):
        try:
            sys.stderr.flush()
        except BaseException:
            pass
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        while data:
            data = data[os.write(self.err, data):]

    def flush(self):
        for file in (sys.stdout, sys.stderr):
            try:
                file.flush()
            except BaseException:
                pass
        libc.fflush(None)

    # --- values and images

    def show(self, result):
        image = picture(result)
        if image:
            self.image = image
        self.take_figures()
        if self.image:
            return json.dumps({"type": "image", "format": "png",
                               "base64_data": base64.b64encode(self.image).decode()}).encode()
        if result is None:
            return b""
        value = self.as_json(result)
        if len(value) > MAX_VALUE:
            raise TooLarge(f"the value of the last expression takes {len(value)} bytes, more than {MAX_VALUE}")
        return value

    def display(self, *objects):
        """As in a notebook: an image becomes the result, anything else is printed."""
        for each in objects:
            image = picture(each)
            if image:
                self.image = image
            else:
                print(each if isinstance(each, str) else repr(each))

    def take_pyplot(self, pyplot):
        pyplot.show = lambda *_, **__: self.take_figures()

    def take_figures(self):
        """Keeps the last of the open figures (the service shows one image), closes all."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is None or not hasattr(pyplot, "get_fignums"):
            return
        numbers = pyplot.get_fignums()
        if numbers:
            try:
                self.image = draw(pyplot.figure(numbers[-1]))
            finally:
                pyplot.close("all")


class Stream(io.TextIOWrapper):
    """A text file that knows whose it is."""
    acapool = None


def picture(value):
    """The PNG of a value that is an image, or None."""
    if value is None or isinstance(value, (str, int, float, list, dict, type)):
        return None
    figure = sys.modules.get("matplotlib.figure")
    if figure is not None and isinstance(value, figure.Figure):
        return draw(value)
    render = getattr(type(value), "_repr_png_", None)
    image = render(value) if callable(render) else None
    return image if isinstance(image, bytes) and image else None


class Unfit(Exception):
    """The value has no exact likeness in JSON."""


def fit(value, depth=MAX_DEPTH):
    """value made of what json can write."""
    if value is None or isinstance(value, bool):
        return value
    kind = type(value)
    if kind is str:
        return value
    if kind is int:
        return value
    if isinstance(value, float):
        value = float(value)
        return value if math.isfinite(value) else repr(value)
    if depth == 0:
        raise Unfit
    if kind in (list, tuple):
        return [fit(each, depth - 1) for each in value]
    if isinstance(value, dict):
        if any(type(key) is not str for key in value):
            raise Unfit
        return {key: fit(each, depth - 1) for key, each in value.items()}
    if kind.__module__ == "numpy" and getattr(value, "shape", None) == () and hasattr(value, "item"):
        return fit(value.item(), depth - 1)
    raise Unfit


def as_json(value):
    try:
        text = json.dumps(fit(value), ensure_ascii=False)
    except (Unfit, RecursionError, ValueError):
        try:
            text = repr(value)
        except Exception as error:
            text = f"<{type(value).__name__} object: its repr() raised {type(error).__name__}>"
        text = json.dumps(text, ensure_ascii=False)
    return text.encode("utf-8", "replace_surrogates")


def as_json_of_old(value):
    """The old shape parses what a notebook would print: AutoGen takes the names of packages out of
    "['a',\n 'b']". So a list or dict that prints as no JSON is shown as it prints."""
    if isinstance(value, (list, tuple, dict)):
        try:
            text = pprint.pformat(value, width=79, sort_dicts=False)
            json.loads(text)
        except (ValueError, RecursionError):
            return json.dumps(text, ensure_ascii=False).encode("utf-8", "replace_surrogates")
    return as_json(value)


# --- what notebooks have beyond Python

def parse(code, name):
    """Code as a tree; lines like "!pip list" and "%matplotlib inline", which programs written for
    notebooks have, are understood where Python alone is not."""
    try:
        return ast.parse(code, name)
    except SyntaxError as error:
        translated = "\n".join(translate(line) for line in code.splitlines())
        try:
            return ast.parse(translated, name)
        except SyntaxError:
            raise NotPython from error
    except ValueError as error:  # NUL, or half a character
        raise NotPython from error


def translate(line):
    text = line.lstrip()
    indent = line[:len(line) - len(text)]
    if text.startswith("%pip "):
        text = "!python3 -m " + text[1:]
    if text.startswith("!"):
        return f"{indent}__import__('os').system({text[1:].strip()!r});None"
    if text.startswith("%matplotlib"):
        return f"{indent}pass"
    return line


def escape_surrogates(error):
    """JSON has only characters: what is half of one becomes U+FFFD."""
    return "\ufffd".encode() * (error.end - error.start), error.end


def forget_own_frames(told):
    seen, rest = set(), [told]
    while rest:
        one = rest.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.stack[:] = [frame for frame in one.stack if frame.filename != OWN_NAME]
        rest += [one.__cause__, one.__context__, *(getattr(one, "exceptions", None) or ())]


if __name__ == "__main__":
    import codecs
    codecs.register_error("replace_surrogates", escape_surrogates)
    Supervisor(json.loads(sys.argv[1])).run()
