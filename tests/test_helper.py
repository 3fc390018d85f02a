"""src/session/helper.py by itself: each operation on a directory of the test's own."""

import base64
import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

HELPER = Path(__file__).resolve().parent.parent / "src/session/helper.py"


class Helper:
    def __init__(self, root):
        self.names = {"__name__": "acafs_helper"}
        exec(compile(HELPER.read_text(), str(HELPER), "exec"), self.names)
        self.root = root
        self.names["ROOT"] = str(root)

    def run(self, *requests):
        self.names["room"][:] = [self.names["ROOM"]]  # as in a new execution
        answer = json.loads(base64.b64decode(self.names["run"](json.dumps(requests).encode(), "n0nce")))
        assert answer["nonce"] == "n0nce" and len(answer["results"]) == len(requests)
        return answer["results"]

    def ok(self, op, **members):
        result = self.run({"op": op, **members})[0]
        assert "ok" in result, result
        return result["ok"]

    def error(self, op, **members):
        result = self.run({"op": op, **members})[0]
        assert "ok" not in result, result
        assert result["message"] and "\n" not in result["message"]
        return result["errno"]

    def all(self, op, **members):
        """A listing with what it goes on with."""
        found, after, pages = [], "", 0
        while after is not None:
            page = self.ok(op, after=after, **members)
            found += page["entries"]
            after = page.get("after")
            pages += 1
        return {"entries": found, "pages": pages}


@pytest.fixture
def helper(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    return Helper(root)


STAGE = "acafs-stage-0123456789abcdef"


def b64(data):
    return base64.b64encode(data).decode()


def names(listing):
    return sorted((e.get("directory", ""), e["name"]) for e in listing["entries"])


@pytest.mark.parametrize("path", ["..", "../x", "a/../../x", "/etc", "a//b", "a/", ".", "./a", "a\0b"])
@pytest.mark.parametrize("op", ["mkdir", "rmdir", "unlink", "symlink", "scan", "stat", "get", "put",
                                "expose", "adopt", "join"])
def test_no_operation_leaves_the_root(helper, op, path):
    (helper.root.parent / "x").write_text("outside")
    (helper.root / STAGE).write_text("s")
    assert helper.error(op, path=path, target="t", data="", parts=[], stage=STAGE) == errno.EINVAL
    assert (helper.root.parent / "x").read_text() == "outside"


@pytest.mark.parametrize("op", ["mkdir", "rmdir", "unlink", "put", "adopt"])
def test_the_root_itself_stays(helper, op):
    assert helper.error(op, path="", data="", stage=STAGE) == errno.EINVAL
    assert helper.root.is_dir()


@pytest.mark.parametrize("op", ["mkdir", "rmdir", "unlink", "symlink", "put", "adopt", "join", "rename to",
                                "rename from"])
def test_no_change_follows_a_link_out(helper, op):
    outside = helper.root.parent / "outside"
    (outside / "d").mkdir(parents=True)
    (outside / "f").write_text("kept")
    (helper.root / "link").symlink_to("../outside")
    (helper.root / STAGE).write_text("s")
    (helper.root / "mine").write_text("m")
    for name in ("d", "f", "new", "new/deep"):
        path = "link/" + name
        members = {"path": path, "parents": True, "target": "t", "data": "", "parts": [], "stage": STAGE,
                   "from": "mine" if op == "rename to" else path, "to": path if op == "rename to" else "away"}
        assert helper.error(op.split()[0], **members) == errno.EACCES
    assert sorted(os.listdir(outside)) == ["d", "f"] and (outside / "f").read_text() == "kept"


def test_links_inside_are_followed(helper):
    (helper.root / "real").mkdir()
    (helper.root / "link").symlink_to("real")
    helper.ok("put", path="link/f", data=b64(b"1"))
    assert (helper.root / "real/f").read_bytes() == b"1"
    helper.ok("unlink", path="link")
    assert (helper.root / "real/f").exists()


def test_one_failure_does_not_stop_the_rest(helper):
    a, b, c = helper.run({"op": "mkdir", "path": "d"}, {"op": "mkdir", "path": "d"},
                         {"op": "mkdir", "path": "d/e"})
    assert "ok" in a and b["errno"] == errno.EEXIST and "ok" in c


@pytest.mark.parametrize("request_", [{}, {"op": "none"}, {"op": "mkdir"}, {"op": "mkdir", "path": 1},
                                      {"op": "put", "path": "a", "data": "%"}, [], None, 7])
def test_nonsense_is_refused(helper, request_):
    assert helper.run(request_)[0]["errno"] in (errno.EINVAL, errno.EIO)
    assert not any(helper.root.iterdir())


def test_mkdir_and_rmdir(helper):
    assert helper.error("mkdir", path="a/b") == errno.ENOENT
    helper.ok("mkdir", path="a/b", parents=True, mode=0o750)
    assert stat.S_IMODE((helper.root / "a/b").stat().st_mode) & 0o027 == 0
    assert helper.error("rmdir", path="a") == errno.ENOTEMPTY
    helper.ok("rmdir", path="a/b")
    (helper.root / "f").write_text("")
    assert helper.error("rmdir", path="f") == errno.ENOTDIR
    assert helper.error("unlink", path="a") in (errno.EISDIR, errno.EPERM)


@pytest.fixture(params=["renameat2", "without it"])
def either(request, helper):
    if request.param == "without it":
        helper.names["rename2"] = lambda *_: False
    return helper


def test_rename(either):
    root = either.root
    (root / "a").write_text("a")
    (root / "b").write_text("b")
    assert either.error("rename", **{"from": "a", "to": "b", "how": "keep"}) == errno.EEXIST
    assert (root / "b").read_text() == "b"
    either.ok("rename", **{"from": "a", "to": "b", "how": "swap"})
    assert (root / "a").read_text() == "b" and (root / "b").read_text() == "a"
    either.ok("rename", **{"from": "a", "to": "c", "how": "keep"})
    assert (root / "c").read_text() == "b"
    either.ok("rename", **{"from": "c", "to": "b"})
    assert (root / "b").read_text() == "b"
    for how in ("plain", "keep", "swap"):
        assert either.error("rename", **{"from": "no", "to": "b", "how": how}) == errno.ENOENT
    assert either.error("rename", **{"from": "b", "to": "no", "how": "swap"}) == errno.ENOENT
    assert either.error("rename", **{"from": "b", "to": "x", "how": "odd"}) == errno.EINVAL
    assert os.listdir(root) == ["b"]


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("end", [OSError, KeyboardInterrupt])
def test_an_exchange_in_steps_that_ends_early(helper, monkeypatch, steps, end):
    root = helper.root
    (root / "a").write_text("a")
    (root / "b").write_text("b")
    real, left = os.rename, [steps]

    def rename(old, new):
        """Fails in its stead, or is interrupted after it."""
        left[0] -= 1
        if end is OSError and left[0] == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(old, new)
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(end):
        helper.names["exchange"](str(root / "a"), str(root / "b"))
    there = {path.name: path.read_text() for path in root.iterdir()}
    assert sorted(there.values()) == ["a", "b"]
    assert not any(name.startswith("acafs-stage-") for name in there)
    if end is OSError:
        assert there == {"a": "a", "b": "b"}


def test_put_and_get(helper):
    data = os.urandom(300000)
    entry = helper.ok("put", path="x y/a+b", data=b64(data))
    assert (helper.root / "x y/a+b").read_bytes() == data
    assert entry["size"] == len(data) and entry["type"] == "file" and entry["name"] == "a+b"
    piece = helper.ok("get", path="x y/a+b", offset=5, length=10)
    assert base64.b64decode(piece["data"]) == data[5:15] and piece["size"] == len(data)
    assert helper.ok("get", path="x y/a+b", offset=10**9)["data"] == ""
    assert helper.error("get", path="x y") == errno.EISDIR
    assert helper.error("put", path="x y", data="") == errno.EISDIR
    assert helper.error("put", path="x y/a+b/c", data="") in (errno.ENOTDIR, errno.EEXIST)
    assert names(helper.ok("scan", path="")) == [("", "x y")]  # nothing of ours is left
    assert [p for p in os.listdir(helper.root) if p.startswith("acafs-")] == []


def test_put_keeps_the_mode(helper):
    script = helper.root / "run"
    script.write_text("old")
    script.chmod(0o751)
    helper.ok("put", path="run", data=b64(b"new"))
    assert script.read_text() == "new" and stat.S_IMODE(script.stat().st_mode) == 0o751


def test_get_never_waits_at_a_pipe(helper):
    os.mkfifo(helper.root / "pipe")
    assert helper.error("get", path="pipe") == errno.EOPNOTSUPP


def test_stage_names(helper):
    (helper.root / STAGE).write_text("s")
    assert helper.ok("adopt", path="v1.2/f", stage=STAGE)["size"] == 1
    assert helper.error("adopt", path="g", stage=STAGE) == errno.ENOENT
    for name in ("f", "../f", "acafs-stage-0123456789abcde/", STAGE + "/x", "../" + STAGE):
        assert helper.error("adopt", path="g", stage=name) == errno.EINVAL
        assert helper.error("drop", names=[name]) == errno.EINVAL
        assert helper.error("expose", path="v1.2/f", stage=name) == errno.EINVAL
    (helper.root / "v1.2/l").symlink_to("f")
    for path in ("v1.2/f", "v1.2/f", "v1.2/l"):
        helper.ok("expose", path=path, stage=STAGE)
        assert (helper.root / STAGE).read_text() == "s" and not (helper.root / STAGE).is_symlink()
    helper.ok("drop", names=[STAGE])
    helper.ok("drop", names=[STAGE, STAGE])
    assert os.listdir(helper.root) == ["v1.2"]
    assert (helper.root / "v1.2/f").read_text() == "s"


def test_a_stage_name_may_stand_in_a_directory(helper):
    (helper.root / "d").mkdir()
    (helper.root / "d" / STAGE).write_text("s")
    assert helper.ok("adopt", path="d/f", stage="d/" + STAGE)["name"] == "f"
    assert os.listdir(helper.root / "d") == ["f"]


def test_a_failed_copy_leaves_nothing(helper, monkeypatch):
    (helper.root / "f").write_text("x" * 1000)

    def full(*_, **__):
        (helper.root / STAGE).write_text("half")
        raise OSError(errno.ENOSPC, "full")
    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copyfile", full)
    assert helper.error("expose", path="f", stage=STAGE) == errno.ENOSPC
    assert os.listdir(helper.root) == ["f"]


def test_join(helper):
    parts = ["acafs-part-%016x" % i for i in range(3)]
    for i, part in enumerate(parts):
        (helper.root / part).write_bytes(bytes([i]) * 1000)
    assert helper.ok("join", path="d/whole", parts=parts)["size"] == 3000
    assert (helper.root / "d/whole").read_bytes() == b"".join(bytes([i]) * 1000 for i in range(3))
    assert os.listdir(helper.root) == ["d"]
    assert helper.error("join", path="w", parts=parts) == errno.ENOENT
    assert os.listdir(helper.root) == ["d"]


def test_scan(helper):
    root = helper.root
    (root / "f").write_text("12")
    os.utime(root / "f", ns=(0, 1_700_000_000_123_456_789))
    (root / "d").mkdir()
    (root / "l").symlink_to("f")
    (root / "acafs-job-0123456789abcdef").mkdir()
    os.mkfifo(root / "pipe")
    os.close(os.open(os.fsencode(root) + b"/\xff", os.O_CREAT))
    found = helper.ok("scan", path="")
    assert found["skipped"] == 2
    by_name = {e["name"]: e for e in found["entries"]}
    assert sorted(by_name) == ["d", "f", "l"]
    assert by_name["f"]["mtime"] == "2023-11-14T22:13:20.123456789Z" and by_name["f"]["size"] == 2
    assert by_name["l"]["type"] == "symlink" and by_name["l"]["target"] == "f"
    assert by_name["d"]["type"] == "directory"
    assert helper.error("scan", path="none") == errno.ENOENT
    assert helper.error("scan", path="f") == errno.ENOTDIR


def test_hidden_tells_what_listings_leave_out(helper):
    root = helper.root
    for path in ("plain/deep/f.txt", "v1.2/f", ".git/a/b", "a+b", "ok.txt", "index.html", "100%", "\xe9"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("x")
    (root / "plain/link").symlink_to("..")
    assert names(helper.ok("hidden")) == sorted([
        ("", "v1.2"), ("v1.2", "f"), ("", ".git"), (".git", "a"), (".git/a", "b"), ("", "a+b"),
        ("", "index.html"), ("", "100%"), ("", "\xe9"), ("plain", "link")])
    everything_below = names(helper.ok("hidden", top_only=True))
    assert ("plain/deep", "f.txt") in everything_below and ("", "ok.txt") not in everything_below
    for limit in (1, 2, 3):
        again = helper.all("hidden", limit=limit)
        assert sorted((e["directory"], e["name"]) for e in again["entries"]) == names(helper.ok("hidden"))


def test_long_listings_come_in_pages(helper):
    root = helper.root
    for i in range(40):
        (root / f".d{i % 4}/{'x' * 200}{i % 3}").mkdir(parents=True, exist_ok=True)
        (root / f".d{i % 4}/{'x' * 200}{i % 3}/f+{i}").write_text("")
    helper.names["ROOM"] = 2000
    whole = {os.path.relpath(os.path.join(top, name), root)
             for top, directories, files in os.walk(root) for name in directories + files}
    told = helper.all("hidden")
    paths = [os.path.join(e["directory"], e["name"]) for e in told["entries"]]
    assert len(paths) == len(whole) and set(paths) == whole and told["pages"] > 5
    told = helper.all("scan", path=".d0", limit=2)
    assert [e["name"] for e in told["entries"]] == sorted(os.listdir(root / ".d0")) and told["pages"] == 2


def test_listings_of_one_execution_share_its_room(helper):
    for name in "abc":
        (helper.root / name).write_text("")
    helper.names["ROOM"] = 250  # two of them
    first, second = (r["ok"] for r in helper.run(*[{"op": "scan", "path": ""}] * 2))
    assert [e["name"] for e in first["entries"]] == ["a", "b"] and first["after"] == "b"
    assert second["entries"] == [] and second["after"] == ""


def test_a_tree_of_any_depth(helper):
    top = os.open(helper.root, os.O_RDONLY)
    for i in range(1500):  # far deeper than Python's own recursion
        os.mkdir(".d", dir_fd=top)
        deeper = os.open(".d", os.O_RDONLY, dir_fd=top)
        os.close(top)
        top = deeper
    os.close(top)
    found = helper.all("hidden")
    assert len(found["entries"]) > 1000
    subprocess.run(["rm", "-rf", helper.root], check=True)


def test_stat_and_space(helper):
    (helper.root / "f").write_text("12")
    entry = helper.ok("stat", path="f")
    assert entry["size"] == 2 and entry["type"] == "file"
    assert helper.error("stat", path="g") == errno.ENOENT
    space = helper.ok("space")
    assert 0 <= space["free"] <= space["total"]


def test_symlink(helper):
    helper.ok("symlink", path="l", target="/anywhere/../at all")
    assert os.readlink(helper.root / "l") == "/anywhere/../at all"
    assert helper.error("symlink", path="l", target="x") == errno.EEXIST
    helper.ok("unlink", path="l")
    assert not os.path.lexists(helper.root / "l")


def test_call(helper):
    code = "import os\ndef main(args):\n    return {'sum': sum(args), 'name': __name__}"
    assert helper.ok("call", code=code, args=[1, 2]) == {"sum": 3, "name": "acafs_call"}
    assert helper.error("call", code="def main(a):\n    raise OSError(28, 'full')") == errno.ENOSPC
    assert helper.error("call", code="def main(a):\n    raise SystemExit(3)") == errno.EIO
    assert helper.error("call", code="def main(a):\n    return object()") == errno.EINVAL
    assert helper.error("call", code="syntax error") == errno.EIO
    assert helper.ok("call", code="def main(a):\n    return '\\ud800x'") == "?x"


def expression(helper, *requests):
    """As helper.c sends it."""
    program = HELPER.read_bytes().replace(b'"/mnt/data"', repr(str(helper.root)).encode())
    return ("(lambda d, b, x: (x(b('%s').decode(), d), d['run'](b('%s'), 'n'))[1])({'__name__': 'acafs_helper'}, "
            "__import__('binascii').a2b_base64, __import__('builtins').exec)"
            % (b64(program), b64(json.dumps(requests).encode())))


def test_helper_c_sends_that_expression():
    source = (HELPER.parent / "helper.c").read_text()
    for words in ("(lambda d, b, x: (x(b('%s').decode(), d), d['run'](b('%s'), '%s'))[1])(",
                  "__import__('binascii').a2b_base64", "__import__('builtins').exec"):
        assert words in source


def evaluate(code, before=""):
    script = ("import sys, json\nnames = {}\nsys.path.insert(0, '')\ntext = sys.stdin.read()\n" + before +
              "\nvalue = eval(text, names)\nnames.pop('__builtins__')\n"
              "print(json.dumps([value, sorted(names), sys.path[0]]))")
    out = subprocess.run([sys.executable, "-c", script], input=code, capture_output=True, text=True,
                         check=True, timeout=30)
    value, left, path = json.loads(out.stdout)
    assert path == ""
    return json.loads(base64.b64decode(value))["results"], left


def test_the_expression_leaves_no_name_behind(helper):
    results, left = evaluate(expression(helper, {"op": "probe"},
                                        {"op": "call", "code": "def main(a): return 1"}))
    assert left == [] and results[1] == {"ok": 1}
    probe = results[0]["ok"]
    assert probe["uid"] == os.getuid() and probe["writable"] and probe["exists"]


def test_files_of_the_session_are_no_modules_of_the_helper(helper):
    for name in ("re", "shutil", "ctypes", "base64", "binascii", "stat", "errno", "time"):
        (helper.root / f"{name}.py").write_text("raise SystemExit('not yours')\n")
    (helper.root / "f").write_text("")
    results, _ = evaluate(expression(helper, {"op": "rename", "from": "f", "to": "g", "how": "keep"},
                                     {"op": "stat", "path": "g"}),
                          f"import os; os.chdir({str(helper.root)!r})")
    assert "ok" in results[0] and results[1]["ok"]["name"] == "g"


def test_names_that_user_code_took_do_not_matter(helper):
    before = "names.update(exec=1, open=2, len=3, d=4, b=5, x=6, json=7)\nimport os; os.chdir('/')"
    results, left = evaluate(expression(helper, {"op": "put", "path": "f", "data": ""}), before)
    assert "ok" in results[0] and left == ["b", "d", "exec", "json", "len", "open", "x"]


def test_a_notebook_does_not_keep_ours(helper):
    code, value = expression(helper), helper.names["run"](b"[]", "n")
    space = {"Out": {1: "mine", 2: value, 3: 7}, "In": ["", "'mine'", code, "7"],
             "_1": "mine", "_2": value, "_i2": code, "_i1": "'mine'"}

    class Shell:
        user_ns = space

    class Fake:
        get_ipython = staticmethod(lambda: Shell)
    sys.modules["IPython"] = Fake
    try:
        helper.run()
    finally:
        del sys.modules["IPython"]
    assert space == {"Out": {1: "mine", 3: 7}, "In": ["", "'mine'", "", "7"], "_1": "mine", "_i1": "'mine'"}
