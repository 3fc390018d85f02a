"""Runs in the session's own kernel: one cell of a notebook, as Jupyter would run it.

What it prints goes where the harness sends it, of any length. What else there is to see (the value of the last
expression, figures, what is displayed, the exception) is told as outputs of nbformat 4, in steps
{"out", "err", "output"}: how far the two streams were when it came. Where the session's kernel is IPython's,
its formats, its magics and its display() are used."""
import ast
import base64
import builtins
import inspect
import io
import json
import linecache
import os
import pprint
import re
import sys
import traceback
from figures import ImportHook, draw  # embed.py

OWN_FILE = "<acarun>"
MAX_OUTPUTS = 15 << 20  # bytes of JSON that one cell may tell of: the harness has 16 MiB for a value
MAX_STEPS = 10000
MAX_ERROR = 100000
METHODS = (("text/html", "_repr_html_"), ("text/markdown", "_repr_markdown_"), ("text/latex", "_repr_latex_"),
           ("image/svg+xml", "_repr_svg_"), ("image/png", "_repr_png_"), ("image/jpeg", "_repr_jpeg_"),
           ("application/pdf", "_repr_pdf_"), ("application/json", "_repr_json_"),
           ("application/javascript", "_repr_javascript_"))
HOOKED = "matplotlib.pyplot", "IPython.core.display_functions"
MAGIC = re.compile(r"\s*(?:[\w.,\s]+=\s*)?(%%?\w*|!)")


def run_cell(source, number, carry):
    """source, carry: bytes; carry is what this told last time, as JSON. What the harness takes for the value."""
    import signal
    cell = Cell(number, json.loads(carry))
    try:
        cell.run(source.decode())
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # what follows is not the cell's
        cell.restore()
    return cell.told()


class Cell:
    def __init__(self, number, carry):
        self.number, self.carry = number, carry
        self.file = "<cell In[%d]>" % number
        self.steps = []
        self.turn = None  # the stream that was written to last
        self.shown = []  # figures
        self.error = None
        self.shell = ipython()
        self.hooked = []
        self.prepare()

    # --- before and after

    def prepare(self):
        """Where the cell before left off; the harness puts it back for others."""
        try:
            os.chdir(self.carry["cwd"])
        except (KeyError, OSError):
            pass
        sys.path[:] = self.carry.get("path", sys.path)
        self.streams = sys.stdout, sys.stderr = Stream(self, 1), Stream(self, 2)
        self.hook(builtins, "display", self.display)
        if self.shell:
            self.hook(self.shell.display_pub, "publish", self.publish_as_ipython)
            self.hook(self.shell.display_pub, "clear_output", self.clear)
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is not None:
            pyplot.show = self.shower()
        sys.meta_path.insert(0, ImportHook(HOOKED, self.change))

    def change(self, module):
        """Puts our functions into a module that was imported."""
        if module.__name__ == "matplotlib.pyplot":
            module.show = self.shower()
        elif not self.shell:
            # Whoever keeps it calls the display() of the cell that runs then.
            module.display = lambda *values, **how: builtins.display(*values, **how)

    def hook(self, owner, name, function):
        self.hooked.append((owner, name, vars(owner).get(name, self)))
        setattr(owner, name, function)

    def restore(self):
        self.flush()
        for owner, name, before in self.hooked:
            if before is self:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

    def told(self):
        try:
            cwd = os.getcwd()
        except OSError:
            cwd = None
        carry = {"path": [each for each in sys.path if isinstance(each, str)], "flags": self.carry.get("flags", 0)}
        if cwd:
            carry["cwd"] = cwd
        return {"steps": self.told_steps(), "carry": carry, "error": self.error}

    def told_steps(self):
        """The largest outputs are left out when all together are too large."""
        lengths = []
        for step in self.steps:
            step.pop("name", None)
            if "output" in step:
                step["output"] = as_text(step["output"])
                lengths.append((len(json.dumps(step["output"])), step))
        total = sum(length for length, _ in lengths)
        for length, step in sorted(lengths, key=lambda each: -each[0]):
            if total <= MAX_OUTPUTS:
                break
            total -= length
            step["output"] = as_text(left_out("an output of %d bytes; a cell has %d" % (length, MAX_OUTPUTS)))
        return self.steps

    # --- running

    def run(self, source):
        try:
            self.show_value(self.evaluate(source))
            self.show_figures()
        except BaseException as error:
            self.fail(error)

    def evaluate(self, source):
        lines = lines_of(source)
        linecache.cache[self.file] = (len(source), None, lines, self.file)
        tree = self.parse(source)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr) and not silenced(lines, tree.body[-1]):
            last = ast.Expression(tree.body.pop().value)
        self.step(tree, "exec")
        return self.step(last, "eval") if last else None

    def parse(self, source):
        if self.shell:
            source = self.shell.transform_cell(source)
        try:
            return self.compile(source, "exec", ast.PyCF_ONLY_AST)
        except SyntaxError as error:
            # What this magic asks for is so anyway.
            plain = re.sub(r"(?m)^([ \t]*)%matplotlib\b.*$", r"\1pass", source)
            if plain != source:
                return self.parse(plain)
            raise explained(error, source)

    def compile(self, source, mode, flags=0):
        flags |= self.carry.get("flags", 0) | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        return compile(source, self.file, mode, flags, dont_inherit=True)

    def step(self, tree, mode):
        code = self.compile(tree, mode)
        import __future__
        for name in __future__.all_feature_names:  # they hold for the cells that follow
            self.carry["flags"] = self.carry.get("flags", 0) | \
                code.co_flags & getattr(__future__, name).compiler_flag
        value = eval(code, sys.modules["__main__"].__dict__)
        return wait_for(value) if code.co_flags & inspect.CO_COROUTINE else value

    def fail(self, error):
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == OWN_FILE:
            trace = trace.tb_next
        text = "".join(traceback.format_exception(type(error), error.with_traceback(trace), trace))
        if isinstance(error, SyntaxError) and trace is None:
            text = "".join(traceback.format_exception_only(type(error), error))
        name = type(error).__name__
        try:
            message = str(error)
        except Exception:
            message = "?"
        if len(text) > MAX_ERROR:
            text = text[:MAX_ERROR // 2] + "\n[...]\n" + text[-MAX_ERROR // 2:]
        self.error = {"name": name, "message": message[:MAX_ERROR], "traceback": text}
        self.tell({"output_type": "error", "ename": name, "evalue": message[:MAX_ERROR],
                   "traceback": text.rstrip("\n").split("\n")})

    # --- telling

    def flush(self):
        for stream in self.streams:
            try:
                stream.flush()
            except (OSError, ValueError):
                pass

    def mark(self):
        self.flush()
        return {"out": size(1), "err": size(2)}

    def write(self, stream):
        """Before something is written: which stream's turn it was until now."""
        if self.turn not in (None, stream) and len(self.steps) < MAX_STEPS:
            self.steps.append(self.mark())
        self.turn = stream

    def tell(self, output):
        """The step that tells of it."""
        step = self.mark()
        if len(self.steps) <= 2 * MAX_STEPS:
            self.steps.append(step)
        if len(self.steps) == 2 * MAX_STEPS:
            output = left_out("further outputs; a cell has %d" % MAX_STEPS)
        step["output"] = clean(output)
        return step

    def show_value(self, value):
        if value is None:
            return
        builtins._ = value
        data, metadata = self.bundle(value)
        self.tell({"output_type": "execute_result", "execution_count": self.number, "data": data,
                   "metadata": metadata})

    def display(self, *values, raw=False, metadata=None, display_id=None, **_):
        """As IPython's; what it gives back can update what it showed."""
        handle = None
        for value in values:
            data, about = (value, {}) if raw else self.bundle(value)
            step = self.tell({"output_type": "display_data", "data": data, "metadata": {**about, **(metadata or {})}})
            handle = Shown(self, step, display_id)
        return handle if display_id else None

    def publish_as_ipython(self, data, metadata=None, source=None, *, transient=None, update=False, **_):
        name = (transient or {}).get("display_id")
        if update:
            for step in self.steps:
                if name is not None and step.get("name") == name:
                    step["output"].update(clean({"data": data, "metadata": metadata or {}}))
            return
        self.tell({"output_type": "display_data", "data": data, "metadata": metadata or {}})["name"] = name

    def clear(self, wait=False):
        self.steps = [dict(self.mark(), clear=True)]

    def show_figures(self):
        """pyplot.show(), and the end of a cell: displays the open figures and closes them."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        if not hasattr(pyplot, "get_fignums"):
            return
        figures = [pyplot.figure(number) for number in pyplot.get_fignums()]
        try:
            for figure in figures:
                if not any(figure is each for each in self.shown):
                    self.display(figure)
        finally:
            pyplot.close("all")

    def shower(self):
        """A plain function, for pyplot wants to write on it."""
        return lambda *_, **__: self.show_figures()

    # --- formats

    def bundle(self, value):
        """(data by format, metadata by format), as Jupyter has them."""
        if self.shell:
            data, metadata = self.shell.display_formatter.format(value)
            data, metadata = dict(data), dict(metadata)
        else:
            data, metadata = bundle_of(value)
        figure = getattr(sys.modules.get("matplotlib.figure"), "Figure", None)
        if figure is not None and isinstance(value, figure):
            self.shown.append(value)
            data.setdefault("image/png", draw(value))
        return data, metadata


class Stream(io.TextIOWrapper):
    """One of the two outputs, which tells whose turn it is."""

    def __init__(self, cell, fd):
        super().__init__(open(fd, "wb", closefd=False), encoding="utf-8", line_buffering=True,
                         errors="strict" if fd == 1 else "backslashreplace")
        self.cell = cell

    def write(self, text):
        self.cell.write(self)
        return super().write(text)


class Shown:
    """What was displayed under a name."""

    def __init__(self, cell, step, display_id):
        self.cell, self.step, self.display_id = cell, step, display_id

    def update(self, value, **_):
        data, metadata = self.cell.bundle(value)
        self.step["output"].update(clean({"data": data, "metadata": metadata}))


def ipython():
    """The shell of a kernel that is IPython's, else None."""
    shell = getattr(sys.modules.get("IPython.core.interactiveshell"), "InteractiveShell", None)
    return shell.instance() if shell is not None and shell.initialized() else None


def size(fd):
    try:
        return os.fstat(fd).st_size
    except OSError:
        return 0


def wait_for(coroutine):
    import asyncio
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        loop = own_loop(asyncio)
        return loop.run_until_complete(coroutine)
    # The session's kernel runs in a loop itself: in another thread there is none yet.
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def own_loop(asyncio):
    """One that stays, so that tasks of a cell go on in the next that waits."""
    try:
        loop = asyncio.get_event_loop_policy().get_event_loop()
    except RuntimeError:
        loop = None
    if loop is None or loop.is_closed():
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
    return loop


def lines_of(source):
    """As Python counts them, each with its end: traceback's carets are a column off without."""
    return list(io.StringIO(source + "\n", newline=None))


def silenced(lines, last):
    """Whether the last expression is followed by a semicolon: its value is not wanted."""
    if last.end_lineno > len(lines):
        return False
    return lines[last.end_lineno - 1].encode()[last.end_col_offset:].lstrip(b" \t\f")[:1] == b";"


def explained(error, source):
    """A SyntaxError that says so when the line is IPython's, not Python's."""
    lines = lines_of(source)
    line = lines[error.lineno - 1] if error.lineno and error.lineno <= len(lines) else ""
    magic = MAGIC.match(line)
    if not magic:
        return error
    word = magic.group(1)
    what = "shell commands (!)" if word == "!" else "%s: magics" % word
    return SyntaxError("%s are IPython's, and the kernel of this session is plain Python" % what,
                       (error.filename, error.lineno, magic.start(1) + 1, line))


def call(value, name, *arguments):
    method = getattr(type(value), name, None)
    try:
        return method(value, *arguments) if callable(method) else None
    except Exception:
        return None


def bundle_of(value):
    data, metadata = {"text/plain": plain(value)}, {}
    if isinstance(value, type):
        return data, metadata
    for kind, method in METHODS:
        add(data, metadata, kind, call(value, method))
    bundle = call(value, "_repr_mimebundle_")
    if isinstance(bundle, tuple) and len(bundle) == 2:
        metadata.update(bundle[1] if isinstance(bundle[1], dict) else {})
        bundle = bundle[0]
    data.update(bundle if isinstance(bundle, dict) else {})
    return data, metadata


def add(data, metadata, kind, given):
    if isinstance(given, tuple) and len(given) == 2:
        given, metadata[kind] = given
    if given is not None:
        data[kind] = given


def plain(value):
    try:
        if type(value) in (list, dict, tuple, set, frozenset):
            return pprint.pformat(value, width=80, sort_dicts=False)
        return repr(value)
    except Exception as error:
        return "<%s object: its repr() raised %s>" % (type(value).__name__, type(error).__name__)


# --- to the letter of the format

def left_out(what):
    return {"output_type": "display_data", "data": {"text/plain": ["<left out: %s>" % what]}, "metadata": {}}


def as_text(output):
    return json.dumps(output, ensure_ascii=False, indent=1, sort_keys=True)


def clean(output):
    if "data" in output:
        data = {kind: fit(kind, given) for kind, given in output["data"].items() if isinstance(kind, str)}
        output["data"] = {kind: given for kind, given in data.items() if given is not None}
        output["metadata"] = as_json(output["metadata"]) or {}
    return output


def fit(kind, given):
    """None when it can't be told."""
    if isinstance(given, (bytes, bytearray)):
        return base64.b64encode(given).decode()
    if kind == "application/json" or kind.endswith("+json"):
        return as_json(given)
    text = given if isinstance(given, str) else str(given)
    is_text = kind.startswith("text/") or kind in ("image/svg+xml", "application/javascript")
    return text.splitlines(True) if is_text else text


def as_json(value):
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return None
