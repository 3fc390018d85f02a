"""Runs in the session: one script, as `python3 SCRIPT ARGS` would run it, its outputs in files.

    watch.py ── starts ──▶ this, which forks and exits ──▶ supervisor ── forks ──▶ the script

The supervisor ends the script when it is told to (SIGTERM) or its time is over, and leaves in its
folder: `out`, `err`, `result` (the value of the last expression as JSON), the images, and last of all
`status.json`. It holds a lock on the folder for as long as it lives, and puts back what the script
removes of it. Processes that the script detaches from itself are the supervisor's to end. In a
session's own kernel, in_kernel() does the same without processes.

Nothing is imported before it is needed: a short script's time is mostly that of its start."""

import os
import sys
from figures import ImportHook, draw  # embed.py

OWN_FILE = __file__ if "__file__" in globals() else "<acafs>"
KILL_AFTER = 5.0  # seconds from the interrupt to the kill
LOOK_EVERY = 0.5  # seconds between looks at the folder
COPY_EVERY = 0.1  # seconds, once outputs have to be copied to it
STRAYS_MAX = 2.0  # seconds for the end of what the script left behind
PR_SET_CHILD_SUBREAPER = 36
MAX_VALUE = 16 << 20  # bytes of JSON
MAX_DEPTH = 100
MAX_MESSAGE = 400
EXTENSIONS = ("png", "jpg", "jpeg", "svg", "gif", "webp", "bmp", "tiff", "pdf", "img")
ONLY_AST = 0x400  # ast.PyCF_ONLY_AST, without importing ast


# --- the script itself

class Run:
    """One script under way in this process: its code, its namespace and what it shows."""

    def __init__(self, folder, script, arguments, label=""):
        """label: what argv calls code that is no script ("-c", "-"); its file is in the folder."""
        self.folder = folder
        self.script = script
        self.label = label
        self.name = {"": script, "-": "<stdin>"}.get(label, "<string>")
        self.arguments = arguments
        self.pid = os.getpid()
        self.images = []  # (file in the folder, extension)
        self.shown = []  # figures that are among them
        self.notes = []
        # A function: pyplot hangs attributes on it.
        self.show = lambda *_, **__: self.show_figures()

    def prepare(self):
        """argv, the working directory and the place of its modules, as they are for a script."""
        directory = os.path.dirname(self.folder if self.label else self.script)
        os.chdir(directory)
        sys.argv = [self.label or os.path.basename(self.script), *self.arguments]
        sys.meta_path.insert(0, ImportHook(["matplotlib.pyplot"], self.take_pyplot))
        return "" if self.label else directory

    def take_pyplot(self, pyplot):
        pyplot.show = self.show

    def execute(self, names):
        """The value of the last expression."""
        source = os.path.join(self.folder, "source")  # where a certain content is to be run
        with open(source if os.path.exists(source) else self.script, "rb") as file:
            source = file.read()
        body, last = divide(source, self.name)
        exec(body, names)
        return eval(last, names) if last is not None else None

    def forked(self):
        """Whether this is a copy of the script's process that came to the end of the script too."""
        return os.getpid() != self.pid

    def show_figures(self):
        """pyplot.show(): keeps all open figures and closes them, as closing their windows would."""
        self.take_figures()
        sys.modules["matplotlib.pyplot"].close("all")

    def take_figures(self):
        pyplot = sys.modules.get("matplotlib.pyplot")
        for number in pyplot.get_fignums() if hasattr(pyplot, "get_fignums") else ():
            self.take_figure(pyplot.figure(number))

    def take_figure(self, figure):
        if not any(figure is one for one in self.shown):
            self.shown.append(figure)
            self.keep("png", draw(figure))

    def keep(self, extension, data):
        name = "image-%d.%s" % (len(self.images) + 1, extension)
        write(os.path.join(self.folder, name), data)
        self.images.append((name, extension))

    def capture(self, value, ended_well):
        """Writes `result` and `images.json`; nothing when there is nothing to say."""
        if self.forked():
            return
        try:
            if ended_well:
                self.take_figures()
                value = self.take_picture(value)
        except Exception as error:
            self.notes.append("an image could not be saved: %s" % one_line(error))
        if value is None and not self.images and not self.notes:
            return
        import json
        text, exact = as_json(value)
        if len(text) > MAX_VALUE:
            self.notes.append("the value of the last expression is left out: it takes %d bytes, more than %d"
                              % (len(text), MAX_VALUE))
            text, exact = b"null", True
        names = image_names(os.path.basename(self.script), [extension for _, extension in self.images])
        if names:
            about = {"type": "image", "format": self.images[0][1], "file": names[0]}
            if len(names) > 1:
                about["files"] = names
            head = json.dumps(about, ensure_ascii=False).encode("utf-8", "surrogateescape")
            # What has no likeness in JSON beside a picture (lines, axes) is not worth a mention.
            text = head[:-1] + b', "value": ' + text + b"}" if exact and value is not None else head
        write(os.path.join(self.folder, "result"), text + b"\n")
        images = [{"file": file, "name": name, "extension": extension}
                  for (file, extension), name in zip(self.images, names)]
        write(os.path.join(self.folder, "images.json"),
              json.dumps({"images": images, "message": "; ".join(self.notes) or None}).encode())

    def take_picture(self, value):
        """Keeps a value that is an image; what remains of the value."""
        figure = sys.modules.get("matplotlib.figure")
        if figure is not None and isinstance(value, figure.Figure):
            self.take_figure(value)
            return None
        image = picture(value)
        if image is None:
            return value
        self.keep(*image)
        return None


def divide(source, name):
    """The code of a script, and that of its last statement when that is an expression: in one
    namespace, one after the other, they do what the whole would."""
    tree = compile(source, name, "exec", ONLY_AST, dont_inherit=True)
    last = tree.body[-1] if tree.body else None
    if type(last).__name__ != "Expr" or silenced(source, last):
        return compile(tree, name, "exec", dont_inherit=True), None
    if len(tree.body) > 1 or type(getattr(last.value, "value", None)) is not str:
        tree.body.pop()  # else it is the docstring as well
    body = compile(tree, name, "exec", dont_inherit=True)
    flags = 0
    if b"__future__" in source:
        import __future__
        for feature in __future__.all_feature_names:
            flags |= body.co_flags & getattr(__future__, feature).compiler_flag
    import _ast
    return body, compile(_ast.Expression(last.value), name, "eval", flags, dont_inherit=True)


def silenced(source, last):
    """Whether the last expression is followed by a semicolon, which says that its value is not wanted."""
    if source[:3] == b"\xef\xbb\xbf":
        source = source[3:]
    lines = source.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    rest = lines[last.end_lineno - 1][last.end_col_offset:]
    return rest.lstrip(b" \t\f")[:1] == b";"


def report(error):
    """Tells of an exception that nobody caught, as the interpreter would, without our own frames."""
    error = error.with_traceback(without_own_frames(error.__traceback__))
    arguments = type(error), error, error.__traceback__
    sys.last_type, sys.last_value, sys.last_traceback = arguments
    try:
        sys.excepthook(*arguments)
    except SystemExit:
        raise
    except BaseException as second:
        second.__context__ = None
        second = second.with_traceback(without_own_frames(second.__traceback__))
        sys.stderr.write("Error in sys.excepthook:\n")
        sys.__excepthook__(type(second), second, second.__traceback__)
        sys.stderr.write("\nOriginal exception was:\n")
        sys.__excepthook__(*arguments)


def without_own_frames(trace):
    while trace is not None and trace.tb_frame.f_code.co_filename == OWN_FILE:
        trace = trace.tb_next
    return trace


def one_line(error):
    try:
        text = str(error)
    except Exception:
        text = "?"
    name = type(error).__name__
    text = " ".join((name + ": " + text if text else name).split())
    return text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + "..."


def exit_status(code):
    """What sys.exit(code) makes of the process; the text of a code that is no number is printed."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    try:
        sys.stdout.flush()
        print(code, file=sys.stderr)
    except Exception:
        pass
    return 1


def run_process(run, ready):
    """In the script's own process: does not return, but ends the interpreter in its usual way. ready:
    a descriptor that closes when the script may start."""
    directory = run.prepare()
    if sys.path and sys.path[0] == run.folder:
        sys.path[0] = directory
    else:
        sys.path.insert(0, directory)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # so that it can be followed, as on a terminal
    from importlib.machinery import SourceFileLoader
    main = type(sys)("__main__")
    main.__dict__.update(__annotations__={}, __builtins__=__builtins__)
    if not run.label:
        main.__dict__.update(__file__=run.script, __cached__=None,
                             __loader__=SourceFileLoader("__main__", run.script))
    run.own_main, sys.modules["__main__"] = sys.modules["__main__"], main
    value, failure, code = None, None, 0
    try:
        os.read(ready, 1)
        os.close(ready)
        value = run.execute(main.__dict__)
    except SystemExit as end:
        code = exit_status(end.code)
    except BaseException as error:
        failure, code = error, 1
    if failure is not None:
        if not run.forked():
            write(os.path.join(run.folder, "error"), one_line(failure).encode("utf-8", "replace"))
        report(failure)
    run.capture(value, not code)
    value = None
    if isinstance(failure, KeyboardInterrupt):
        failure = None
        sys.excepthook = lambda *_: None
        raise KeyboardInterrupt  # the interpreter then dies by SIGINT
    failure = None
    sys.exit(code)


# --- images and values

def picture(value):
    """(extension, bytes) of a value that is an image, or None."""
    if isinstance(value, dict):
        return described_picture(value)
    if value is None or isinstance(value, (str, bytes, int, float, list, tuple, type)):
        return None
    for extension, method in (("png", "_repr_png_"), ("jpg", "_repr_jpeg_"), ("svg", "_repr_svg_")):
        image = as_bytes(call_method(value, method))
        if image:
            return extension, image
    bundle = call_method(value, "_repr_mimebundle_")
    bundle = bundle[0] if isinstance(bundle, tuple) and bundle else bundle
    for extension, kind in (("png", "image/png"), ("jpg", "image/jpeg"), ("svg", "image/svg+xml"),
                            ("gif", "image/gif"), ("webp", "image/webp")):
        image = as_bytes(bundle.get(kind)) if isinstance(bundle, dict) else None
        if image:
            return extension, image
    return None


def call_method(value, name):
    method = getattr(type(value), name, None)
    try:
        return method(value) if callable(method) else None
    except Exception:
        return None


def as_bytes(image):
    """What _repr_*_ methods give: bytes, base64, or the text of an SVG; perhaps with metadata."""
    if isinstance(image, tuple) and image:
        image = image[0]
    if isinstance(image, str) and image.lstrip()[:1] == "<":
        return image.encode("utf-8", "replace")
    if isinstance(image, str):
        import base64
        try:
            return base64.b64decode(image)
        except ValueError:
            return None
    return bytes(image) if isinstance(image, (bytes, bytearray)) else None


def described_picture(value):
    """An image in the service's own words."""
    if set(value) != {"type", "format", "base64_data"} or value["type"] != "image":
        return None
    extension = value["format"]
    if not isinstance(extension, str) or extension.lower() not in EXTENSIONS:
        extension = "img"
    image = as_bytes(value["base64_data"])
    return (extension.lower(), image) if image else None


def image_names(name, extensions):
    if len(extensions) == 1:
        return ["%s.result.%s" % (name, extensions[0])]
    return ["%s.result-%d.%s" % (name, i + 1, extension) for i, extension in enumerate(extensions)]


class Unfit(Exception):
    """The value has no exact likeness in JSON."""


def fit(value, depth=MAX_DEPTH):
    """value made of what JSON can write."""
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if isinstance(value, float):
        value = float(value)
        return value if value - value == 0 else repr(value)  # nan and inf as text, as the service does
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
    """(JSON as bytes, whether it says it all)."""
    import json
    exact = True
    try:
        text = json.dumps(fit(value), ensure_ascii=False)
    except (Unfit, RecursionError, ValueError):
        exact = False
        try:
            text = repr(value)
        except Exception as error:
            text = "<%s object: its repr() raised %s>" % (type(value).__name__, type(error).__name__)
        text = json.dumps(text, ensure_ascii=False)
    # Half of a surrogate pair is no character: U+FFFD instead.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode(), exact


# --- what is left in the folder, and beside the script

def write(path, data):
    """Whole, or not at all; in a folder that the script may have removed."""
    try:
        file = open(path + ".new", "wb")
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        file = open(path + ".new", "wb")
    with file:
        file.write(data)
    os.replace(path + ".new", path)


def read_json(path):
    import json
    try:
        with open(path, "rb") as file:
            return json.loads(file.read())
    except (OSError, ValueError):
        return {}


def read_text(path):
    try:
        with open(path, "rb") as file:
            return file.read(4096).decode("utf-8", "replace")
    except OSError:
        return None


def size(path):
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


class Kept:
    """An output of the script. Who removes its name does not get rid of it: there is a copy then, which
    grows as it does."""

    def __init__(self, path):
        self.path = path
        self.file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.copy = None
        self.length = 0  # of the copy

    def look_after(self):
        """Whether there is a copy, that needs to be brought up to date again."""
        if not is_at(self.path, self.file if self.copy is None else self.copy):
            self.close_copy()
            os.makedirs(os.path.dirname(self.path), 0o700, exist_ok=True)
            self.copy = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            self.length = 0
        while self.copy is not None:
            data = os.pread(self.file, 1 << 20, self.length)
            if not data:
                return True
            self.length += os.write(self.copy, data)
        return False

    def close_copy(self):
        if self.copy is not None:
            os.close(self.copy)
        self.copy = None

    def close(self):
        self.close_copy()
        os.close(self.file)


def is_at(path, fd):
    """Whether the open file has that name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except OSError:
        return False


def finish(folder, script, keep, status):
    """Completes the status of a run that is over, places its outputs, and says that it is over."""
    import json
    captured = read_json(os.path.join(folder, "images.json"))
    result = os.path.join(folder, "result")
    if not os.path.exists(result):
        write(result, b"null\n")
    images = captured.get("images", [])
    notes = [status.get("message"), captured.get("message")]
    if keep:
        try:
            place(folder, script, images)
        except OSError as error:
            notes.append("outputs could not be placed beside the script: %s" % one_line(error))
    status.update(images=images, message="; ".join(note for note in notes if note) or None,
                  stdout_bytes=size(os.path.join(folder, "out")),
                  stderr_bytes=size(os.path.join(folder, "err")), result_bytes=size(result))
    write(os.path.join(folder, "status.json"), json.dumps(status).encode())


def place(folder, script, images):
    """Puts the outputs beside the script, each replaced whole; images of earlier runs go."""
    directory, name = os.path.split(script)
    wanted = {"out": name + ".stdout", "err": name + ".stderr", "result": name + ".result"}
    wanted.update((image["file"], image["name"]) for image in images)
    for stale in stale_images(directory, name):
        if stale not in wanted.values():
            os.unlink(os.path.join(directory, stale))
    for source, target in wanted.items():
        copy = os.path.join(folder, "placing")
        try:
            os.link(os.path.join(folder, source), copy)
        except OSError:
            import shutil
            shutil.copyfile(os.path.join(folder, source), copy)
        os.replace(copy, os.path.join(directory, target))


def stale_images(directory, name):
    start = name + ".result"
    for found in os.listdir(directory):
        middle, dot, extension = found[len(start):].rpartition(".")
        numbered = middle[:1] == "-" and middle[1:].isdigit()
        if found.startswith(start) and dot and extension in EXTENSIONS and (not middle or numbered):
            yield found


# --- the supervisor

class Supervisor:
    def __init__(self, folder, script, timeout, keep, label):
        self.folder, self.script, self.timeout, self.keep = folder, script, timeout, keep
        self.label = label
        self.state = None  # why we ended it, if we did
        self.kill_at = None

    def fork(self, arguments, notice, lock):
        """In the script's process this does not return."""
        import signal
        import time
        self.signal, self.time = signal, time
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
        self.started = time.monotonic()
        ready, steady = os.pipe()
        self.child = os.fork()
        if self.child:
            self.prepare(lock)
            os.close(ready)
            os.close(steady)
            return
        os.setpgid(0, 0)
        os.close(lock)
        os.close(notice)
        os.close(steady)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        run_process(Run(self.folder, self.script, arguments, self.label), ready)

    def prepare(self, lock):
        """Before the script itself starts."""
        try:
            os.setpgid(self.child, self.child)
        except OSError:
            pass  # it was faster
        self.adopts = adopt_orphans()
        self.lock = lock
        self.kept = [Kept(self.path(name)) for name in ("out", "err")]
        write(self.path("pid"), b"%d" % os.getpid())

    def path(self, name):
        return os.path.join(self.folder, name)

    def watch(self):
        """Until the script is over: its wait status."""
        signal, time = self.signal, self.time
        stop_at = self.started + self.timeout if self.timeout else None
        while True:
            self.stop_if_asked()
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == self.child:
                return status
            if pid:
                continue  # one of its orphans
            now = time.monotonic()
            if self.kill_at is not None and now >= self.kill_at:
                self.send(signal.SIGKILL)
                self.kill_at = now + 1
            elif self.state is None and stop_at is not None and now >= stop_at:
                self.stop("timed-out")
            moments = [now + (COPY_EVERY if self.look_after_folder() else LOOK_EVERY), self.kill_at,
                       stop_at if self.state is None else None]
            until = min(at for at in moments if at is not None)
            signal.sigtimedwait({signal.SIGCHLD, signal.SIGTERM}, max(0, until - time.monotonic()))

    def look_after_folder(self):
        """Puts back what the script removed of it. Whether its outputs are copies by now."""
        try:
            if not all([not kept.look_after() for kept in self.kept]):
                self.put_back()
                return True
        except OSError:
            return True  # no room, at present
        return False

    def put_back(self):
        if not os.path.exists(self.path("pid")):
            write(self.path("pid"), b"%d" % os.getpid())
        if not os.path.exists(self.path("harness.py")):
            write(self.path("harness.py"), b"")  # from it watch.py knows that there is a supervisor
        if not is_at(self.path("lock"), self.lock):
            os.close(self.lock)
            self.lock = take_lock(self.folder)

    def stop_if_asked(self):
        if self.state is None and os.path.exists(os.path.join(self.folder, "stop")):
            self.stop(read_text(os.path.join(self.folder, "stop")) or "canceled")

    def stop(self, state):
        self.state = state
        self.kill_at = self.time.monotonic() + KILL_AFTER
        self.send(self.signal.SIGINT)

    def send(self, number):
        try:
            os.killpg(self.child, number)
        except OSError:
            pass

    def end(self, status):
        """Ends what the script left behind, and tells how it went."""
        milliseconds = int((self.time.monotonic() - self.started) * 1000)
        self.send(self.signal.SIGKILL)
        self.kill_strays()
        self.look_after_folder()
        code = os.waitstatus_to_exitcode(status)
        state, message = "succeeded" if code == 0 else "failed", None
        if self.state == "timed-out":
            state, message, exit_code = self.state, "timed out after %g s" % self.timeout, 124
        elif self.state:
            state, message, exit_code = "canceled", "Canceled", 130
        elif code < 0:
            exit_code = 128 - code
            message = "killed by %s" % self.signal.Signals(-code).name if -code < 65 else "killed"
            if -code == self.signal.SIGKILL:
                message += " (out of memory, most likely)"
        else:
            exit_code = code
            message = read_text(os.path.join(self.folder, "error")) if code else None
        finish(self.folder, self.script, self.keep, {
            "state": state, "exit_code": exit_code, "milliseconds": milliseconds, "message": message})

    def kill_strays(self):
        """Processes that left the script's process group. All of them descend from here; where that
        could not be brought about, they are known by their mark, if they kept it."""
        mark = b"ACAFS_JOB=" + os.path.basename(self.folder).encode()
        until = self.time.monotonic() + STRAYS_MAX
        while self.time.monotonic() < until:
            found = descendants(os.getpid()) if self.adopts else others_marked(mark)
            for pid in found:
                try:
                    os.kill(pid, self.signal.SIGKILL)
                except OSError:
                    pass
            self.reap()
            if not found:
                return
            self.time.sleep(0.005)  # for those that were forking

    def reap(self):
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass


def adopt_orphans():
    """From now on orphans among our descendants become our children, as they otherwise would those of
    process 1; whether that is so."""
    try:
        import ctypes
        return ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    except Exception:
        return False


def numbers(directory):
    try:
        return [int(name) for name in os.listdir(directory) if name.isdigit()]
    except OSError:
        return []


def descendants(ancestor):
    children = {}
    for pid in numbers("/proc"):
        children.setdefault(parent(pid), []).append(pid)
    found, generation = [], children.get(ancestor, [])
    while generation:
        found += generation
        generation = [pid for each in generation for pid in children.get(each, [])]
    return found


def parent(pid):
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return None


def others_marked(mark):
    return [pid for pid in numbers("/proc") if pid != os.getpid() and marked(pid, mark)]


def marked(pid, mark):
    try:
        with open("/proc/%d/environ" % pid, "rb") as file:
            return mark in file.read().split(b"\0")
    except OSError:
        return False


def take_lock(folder):
    import fcntl
    lock = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def main(notice, timeout, keep, label, script, *arguments):
    """notice: a descriptor that closes when the run is over; timeout in seconds, 0 for none."""
    folder = os.path.dirname(os.path.abspath(__file__))
    notice = int(notice)
    lock = take_lock(folder)
    if os.fork():
        os._exit(0)
    supervisor = Supervisor(folder, script, float(timeout), keep == "1", label)
    supervisor.fork(arguments, notice, lock)
    supervisor.end(supervisor.watch())
    if os.path.exists(os.path.join(folder, "abandoned")):
        import shutil
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


# --- in the session's own kernel

def in_kernel(folder, script, arguments, keep, label="", code=None):
    """Runs the script where the session's variables are; they stay. What there is to say when it
    was not run, else None. A second call for the same folder fails at the mkdir()."""
    import shutil
    import signal
    if code is None and not os.path.isfile(script):
        return "missing"
    # An interrupt must not leave this half done: only the script itself is to meet it.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        os.mkdir(folder, 0o700)
        lock = take_lock(folder)
        try:
            if code is not None:
                write(script, code)
            write(os.path.join(folder, "pid"), b"%d" % os.getpid())
            borrow_kernel(Run(folder, script, arguments, label), keep)
        finally:
            os.close(lock)
        if os.path.exists(os.path.join(folder, "abandoned")):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        signal.signal(signal.SIGINT, handler)
    return None


def borrow_kernel(run, keep):
    """Runs, and puts everything but the script's own variables back as it was."""
    import time
    names = sys.modules["__main__"].__dict__
    before = (sys.argv, list(sys.path), os.getcwd(), sys.stdout, sys.stderr, list(sys.meta_path))
    file_before = names.get("__file__", names)
    pyplot = sys.modules.get("matplotlib.pyplot")
    show_before = getattr(pyplot, "show", None)
    started = time.monotonic()
    streams = [Diverted(1, os.path.join(run.folder, "out")), Diverted(2, os.path.join(run.folder, "err"))]
    kept = [Kept(os.path.join(run.folder, name)) for name in ("out", "err")]
    try:
        sys.stdout, sys.stderr = (stream.text for stream in streams)
        state, code, message = run_here(run, names, pyplot)
    finally:
        sys.argv, sys.path[:], _, sys.stdout, sys.stderr, sys.meta_path[:] = before
        try:
            os.chdir(before[2])
        except OSError:
            pass
        for stream in streams:
            stream.restore()
        for output in kept:
            try:
                output.look_after()
            except OSError:
                pass  # no room
            output.close()
        pyplot = sys.modules.get("matplotlib.pyplot")
        if show_before is not None:
            pyplot.show = show_before
        elif pyplot is not None and getattr(pyplot, "show", None) == run.show:
            pyplot.show = lambda *_, **__: None
        if file_before is names:
            names.pop("__file__", None)
        else:
            names["__file__"] = file_before
    finish(run.folder, run.script, keep, {"state": state, "exit_code": code, "message": message,
                                          "milliseconds": int((time.monotonic() - started) * 1000)})


def run_here(run, names, pyplot):
    """(state, exit code, message) of a script run in this process's namespace."""
    import signal
    value, failure, code, message = None, None, 0, None
    try:
        sys.path.insert(0, run.prepare())
        if pyplot is not None:
            pyplot.show = run.show
        names["__file__"] = run.script
        if run.label:
            del names["__file__"]
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if os.path.exists(os.path.join(run.folder, "stop")):
                raise KeyboardInterrupt  # asked for before we could hear it
            value = run.execute(names)
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    except SystemExit as end:
        code = exit_status(end.code)
    except BaseException as error:
        failure, code, message = error, 1, one_line(error)
    if failure is not None:
        import linecache
        import traceback
        linecache.checkcache()
        trace = without_own_frames(failure.__traceback__)
        traceback.print_exception(type(failure), failure.with_traceback(trace), trace)
    run.capture(value, not code)
    stopped = read_text(os.path.join(run.folder, "stop"))
    if stopped:  # however it took the interrupt
        timed_out = stopped == "timed-out"
        return stopped, 124 if timed_out else 130, "timed out" if timed_out else "Canceled"
    return "succeeded" if code == 0 else "failed", code, message


class Diverted:
    """A standard descriptor that leads to a file for a while, and a text stream on it."""

    def __init__(self, fd, path):
        import io
        self.fd, self.saved = fd, os.dup(fd)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        os.dup2(file, fd)
        os.close(file)
        self.text = io.TextIOWrapper(open(fd, "wb", closefd=False), encoding="utf-8",
                                     errors="strict" if fd == 1 else "backslashreplace", line_buffering=True)

    def restore(self):
        try:
            self.text.flush()
        except (OSError, ValueError):
            pass
        os.dup2(self.saved, self.fd)
        os.close(self.saved)


if __name__ == "__main__":
    main(*sys.argv[1:])
