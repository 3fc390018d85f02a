"""src/session/helper.py by itself: each operation on a directory of the test's own."""

import base64
import errno
import json
import os
import stat
import subprocess
import sys
import time
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
        answer = json.loads(self.names["run"](json.dumps(requests).encode(), "n0nce"))
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


@pytest.fixture
def helper(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    return Helper(root)


def b64(data):
    return base64.b64encode(data).decode()


def names(listing):
    return sorted((e.get("directory", ""), e["name"]) for e in listing["entries"])


@pytest.mark.parametrize("path", ["..", "../x", "a/../../x", "/etc", "a//b", "a/", ".", "./a", "a\0b"])
@pytest.mark.parametrize("op", ["mkdir", "rmdir", "unlink", "symlink", "scan", "stat", "get", "put",
                                "expose", "adopt", "join"])
def test_no_operation_leaves_the_root(helper, op, path):
    (helper.root.parent / "x").write_text("outside")
    (helper.root / "acafs-stage-0123456789abcdef").write_text("s")
    assert helper.error(op, path=path, target="t", data="", parts=[],
                        stage="acafs-stage-0123456789abcdef") == errno.EINVAL
    assert (helper.root.parent / "x").read_text() == "outside"


@pytest.mark.parametrize("op", ["mkdir", "rmdir", "unlink", "put", "adopt"])
def test_the_root_itself_stays(helper, op):
    assert helper.error(op, path="", data="", stage="acafs-stage-0123456789abcdef") == errno.EINVAL
    assert helper.root.is_dir()


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
    stage = "acafs-stage-0123456789abcdef"
    (helper.root / stage).write_text("s")
    assert helper.ok("adopt", path="v1.2/f", stage=stage)["size"] == 1
    assert helper.error("adopt", path="g", stage=stage) == errno.ENOENT
    for name in ("f", "../f", "acafs-stage-0123456789abcde/", "acafs-stage-0123456789abcdef/x"):
        assert helper.error("adopt", path="g", stage=name) == errno.EINVAL
        assert helper.error("drop", name=name) == errno.EINVAL
    exposed = helper.ok("expose", path="v1.2/f")["name"]
    assert (helper.root / exposed).read_text() == "s"
    helper.ok("drop", name=exposed)
    helper.ok("drop", names=[exposed, exposed])
    assert os.listdir(helper.root) == ["v1.2"]


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
    assert helper.error("scan", path="", limit=2) == errno.EOVERFLOW
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
    assert helper.error("hidden", limit=3) == errno.EOVERFLOW


def test_stat_and_space(helper):
    (helper.root / "f").write_text("12")
    entry = helper.ok("stat", path="f")
    assert entry["size"] == 2 and 0 <= entry["age"] < 60
    os.utime(helper.root / "f", (0, time.time() - 1000))
    assert helper.ok("stat", path="f")["age"] >= 999
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


def test_the_expression_leaves_no_name_behind(helper):
    """As helper.c sends it, in an interpreter of its own."""
    requests = json.dumps([{"op": "probe"}, {"op": "call", "code": "def main(a): return 1"}])
    code = ("(lambda d, b: (exec(b('%s').decode(), d), d['run'](b('%s'), 'n'))[1])("
            "{'__name__': 'acafs_helper'}, __import__('base64').b64decode)"
            % (b64(HELPER.read_bytes().replace(b'"/mnt/data"', repr(str(helper.root)).encode())),
               b64(requests.encode())))
    script = ("import sys, json\nnames = {}\nvalue = eval(sys.stdin.read(), names)\n"
              "names.pop('__builtins__')\nprint(json.dumps([value, sorted(names)]))")
    out = subprocess.run([sys.executable, "-c", script], input=code, capture_output=True, text=True,
                         check=True, timeout=30)
    value, left = json.loads(out.stdout)
    assert left == [] and json.loads(value)["results"][1] == {"ok": 1}
