"""The file calls of acapool, in both shapes."""

import email.utils
import hashlib
import http.client
import json
import os
import re
import socket
import threading
import time
import urllib.parse

import pytest

from clients.server import OLD, VERSION, Server, form, wait_until

NEW = ["2024-10-02-preview", "2025-02-02-preview", "2025-10-02-preview"]
LIMIT = 128 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("pool")) as it:
        yield it


@pytest.fixture
def session(server):
    it = server.session()
    yield it
    it.call("DELETE", "session")


# --- the new shape

@pytest.mark.parametrize("version", NEW)
def test_up_list_down_delete(session, version):
    assert session.list(version=version) == []
    up = session.put("a.txt", b"content", version=version)
    assert up.status == 200
    entry = up.json()
    listed = session.list(version=version)
    assert listed == [entry]
    assert (entry["name"], entry["type"], entry["sizeInBytes"]) == ("a.txt", "file", 7)
    assert entry["contentType"] == "text/plain; charset=utf-8"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", entry["lastModifiedAt"])
    assert ("directory" in entry) == (version == VERSION)
    assert session.call("GET", "files/a.txt", version=version).json() == entry
    down = session.get("a.txt", version=version)
    assert (down.status, down.body, down.headers["Content-Length"]) == (200, b"content", "7")
    gone = session.call("DELETE", "files/a.txt", version=version)
    assert (gone.status, gone.body) == (204, b"")
    assert session.list(version=version) == []
    for again in (session.get("a.txt", version=version), session.call("GET", "files/a.txt", version=version),
                  session.call("DELETE", "files/a.txt", version=version)):
        assert again.status == 404 and again.headers["x-ms-error-code"] == again.code


def test_the_time_is_the_files_own(session):
    session.run("import os; open('a', 'w').close(); os.utime('a', ns=(0, 1722961282123456789))")
    assert session.list()[0]["lastModifiedAt"] == "2024-08-06T16:21:22.123456789Z"
    assert session.get("a").headers["Last-Modified"] == "Tue, 06 Aug 2024 16:21:22 GMT"


def test_an_empty_file_and_a_binary_one(session):
    every = bytes(range(256)) * 257
    assert session.put("empty").status == 200 and session.put("every", every).status == 200
    assert session.get("empty").body == b"" and session.get("every").body == every
    assert [entry["sizeInBytes"] for entry in session.list()] == [0, len(every)]


def test_content_that_looks_like_a_boundary(session):
    body, kind = form("tricky", b"\r\n--x\r\n--" + b"\r\n" * 1000 + b"--\r\n\r\n--")
    assert session.call("POST", "files", body, {"Content-Type": kind}).status == 200
    assert session.get("tricky").body == b"\r\n--x\r\n--" + b"\r\n" * 1000 + b"--\r\n\r\n--"


def test_directories_are_made_on_the_way(session):
    assert session.put("deep.txt", b"x", path="one/two three/日本/a/b/c/d/e").json()["directory"] == \
        "one/two three/日本/a/b/c/d/e"
    assert [(e["name"], e["type"]) for e in session.list()] == [("one", "directory")]
    assert session.names(path="one") == ["two three"]
    assert session.names(path="/one/two three/") == ["日本"]
    assert session.get("deep.txt", path="one/two three/日本/a/b/c/d/e").body == b"x"
    assert session.run("open('/mnt/data/one/two three/日本/a/b/c/d/e/deep.txt').read()") == "x"
    assert session.run("open('one/two three/日本/new', 'w').write('x')") == 1
    assert session.call("DELETE", "files/deep.txt", path="one/two three/日本/a/b/c/d/e").status == 204


def test_a_recursive_list_is_flat_and_relative(session):
    for path, name in (("", "top"), ("a", "in a"), ("a/b", "in b"), ("c", "in c")):
        session.put(name, b"1", path=path)
    assert [(e["directory"], e["name"]) for e in session.list(recursive="true")] == [
        ("", "a"), ("a", "b"), ("a/b", "in b"), ("a", "in a"), ("", "c"), ("c", "in c"), ("", "top")]
    assert [(e["directory"], e["name"]) for e in session.list(path="a", recursive="true")] == [
        ("", "b"), ("b", "in b"), ("", "in a")]
    assert len(session.list(recursive="false")) == 3
    assert len(session.list(recursive="true", version="2025-02-02-preview")) == 3


def test_a_directory_that_is_not_there(session):
    answer = session.call("GET", "files", path="nowhere")
    assert answer.status == 404 and answer.code
    assert session.get("x", path="nowhere").status == 404
    session.put("file")
    assert session.call("GET", "files", path="file").status == 404
    assert session.put("x", path="file").status == 404


def test_deleting_directories(session):
    session.put("f", path="full")
    session.run("import os; os.mkdir('empty')")
    assert session.call("DELETE", "files/empty").status == 204
    assert session.call("DELETE", "files/full").status == 409
    assert session.names() == ["full"]


def test_a_directory_is_no_file(session):
    session.put("x", path="d")
    assert session.get("d").status == 400
    assert session.put("d", b"x").status == 400
    assert session.call("GET", "files/d").json()["type"] == "directory"


def test_overwriting_is_whole_and_modes_let_code_work(session):
    session.put("a", b"x" * 1000)
    session.put("a", b"short")
    assert session.get("a").body == b"short"
    assert session.run("import os, stat; oct(os.stat('a').st_mode & 0o777)") == "0o777"
    assert session.run("open('a', 'a').write('!'); os.rename('a', 'b'); open('b').read()") == "short!"
    session.put("x", path="made/here")
    assert session.run("os.rename('made/here', 'moved'); os.rmdir('made'); os.listdir('moved')") == ["x"]


def test_a_reader_sees_the_old_file_or_the_new_one(session):
    session.put("a", b"0" * 300_000)
    session.run("import threading\nseen = set(); stop = False\ndef look():\n    while not stop:\n"
                "        data = open('a', 'rb').read(); seen.add((len(data), len(set(data))))\n"
                "t = threading.Thread(target=look); t.start()")
    for n in range(30):
        session.put("a", b"%d" % (n % 10) * 300_000)
    assert session.run("stop = True; t.join(); sorted(seen)") == [[300_000, 1]]
    assert session.names() == ["a"]


@pytest.mark.parametrize("name", [
    "with space", "100%", "%41", "a#b", "x&y=z;,@$^(1)", "é", "日本語.txt", "n" * 255, "index.html", "-rf", ".hidden", "a%2Fb",
    "a..b", "e\u0301"])
def test_names_are_kept_and_decoded_once(session, name):
    assert session.put(name, b"x").json()["name"] == name
    assert session.names() == [name]
    assert session.get(name).body == b"x"
    assert session.run("import os; os.listdir()") == [name]
    assert session.call("DELETE", f"files/{urllib.parse.quote(name, safe='')}").status == 204


@pytest.mark.parametrize("name", ["a~", "x:y", "a+b", "a!", "it's", "[x]", "{x}", "a*", "a?", "a<", "a>", "a|b", "back`tick",
                                  "a\\b", "a\x01b", ".", "..", "a\u0085b", "n" * 256, "日" * 86])
def test_names_that_are_refused(session, name):
    quoted = urllib.parse.quote(name, safe="")
    for method, path in (("GET", f"files/{quoted}"), ("GET", f"files/{quoted}/content"), ("DELETE", f"files/{quoted}")):
        answer = session.call(method, path)
        assert (answer.status, answer.code) == (400, "FileNameInvalid"), (method, path)
    if '"' not in name and "\\" not in name and "\x01" not in name:
        assert session.put(name).code == "FileNameInvalid"
    assert session.names() == []


def test_the_words_of_a_refusal(session):
    answer = session.put("a~")
    assert answer.json() == {"error": {
        "code": "FileNameInvalid",
        "message": "File Name 'a~' is invalid because 'filename cannot contain any reserved file path characters'."}}
    answer = session.call("GET", "files", path="a.b")
    assert answer.json()["error"]["message"] == \
        "File Path '/a.b' is invalid because 'path cannot contain any reserved file path characters'."


@pytest.mark.parametrize("path", ["v1.2", ".git", "..", "a/../b", "../../etc", "a+b/c", "a~", "d" * 256, "x" * 4097])
def test_directories_that_are_refused(session, path):
    for answer in (session.call("GET", "files", path=path), session.put("x", path=path), session.get("x", path=path)):
        assert (answer.status, answer.code) == (400, "FilePathInvalid")
    assert session.names() == []


@pytest.mark.parametrize("name", ["a%2Fb", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%00", "a%00b", "%ff", "%c0%ae"])
def test_escapes_that_lead_nowhere(session, name):
    session.put("a")
    answer = session.server.raw("GET", f"/files/{name}/content?api-version={VERSION}&identifier={session.identifier}")
    assert answer.status == 400


def test_the_base_name_counts(session):
    for sent in ("/mnt/data/x", "../../x", "a/b/x"):
        assert session.put(sent, sent.encode()).json()["name"] == "x"
    assert session.get("x").body == b"a/b/x"


def test_what_code_made_is_shown_but_not_reached_by_bad_names(session):
    session.run("import os; os.makedirs('.git/refs.d'); open('.git/config', 'w').write('x'); open('a~', 'w').close()")
    assert [(e["directory"], e["name"]) for e in session.list(recursive="true")] == [
        ("", ".git"), (".git", "config"), (".git", "refs.d"), ("", "a~")]
    assert session.get("config", path=".git").status == 400


def test_names_that_are_no_text_are_left_out(session):
    session.run("open(b'\\xff\\xfe', 'w').close(); open('fine', 'w').close()")
    assert session.names() == ["fine"]


def test_many_files(session):
    session.run("for n in range(5000): open(f'f{n:04}', 'w').close()")
    assert session.names() == [f"f{n:04}" for n in range(5000)]


def test_very_deep_directories_do_not_hurt(session):
    session.run("import os\nfor n in range(3000):\n    os.mkdir('d'); os.chdir('d')\nos.chdir('/mnt/data')")
    assert 1 < len(session.list(recursive="true")) <= 3000


# --- symlinks and other traps that code can lay

TRAPS = """
import os
os.symlink('/etc/passwd', 'file-link')
os.symlink('/etc', 'dir-link')
os.symlink('..', 'up')
os.symlink('/mnt/data', 'here')
os.symlink('nothing', 'dangling')
os.mkfifo('pipe')
import socket; s = socket.socket(socket.AF_UNIX); s.bind('socket')
os.mkdir('real'); os.symlink('../../..', 'real/out')
"""


def test_symlinks_and_special_files(session):
    session.run(TRAPS)
    assert [(e["directory"], e["name"]) for e in session.list(recursive="true")] == [("", "real")]
    for name in ("file-link", "dir-link", "up", "dangling"):
        answer = session.get(name)
        assert (answer.status, answer.code) == (400, "ERR_SYMLINK_NOT_ALLOWED")
        assert session.call("GET", f"files/{name}").status == 400
    for path in ("dir-link", "up", "here", "real/out", "real/out/etc"):
        assert session.get("passwd", path=path).code == "ERR_SYMLINK_NOT_ALLOWED"
        assert session.call("GET", "files", path=path).code == "ERR_SYMLINK_NOT_ALLOWED"
        assert session.put("planted", b"x", path=path).code == "ERR_SYMLINK_NOT_ALLOWED"
        assert session.call("DELETE", "files/passwd", path=path).code == "ERR_SYMLINK_NOT_ALLOWED"
    for name in ("pipe", "socket"):
        assert session.get(name).status == 400
    assert not os.path.exists("/etc/planted") and not os.path.exists("/planted")


def test_an_upload_replaces_a_symlink_not_its_target(session):
    session.run("import os; open('target', 'w').write('mine'); os.symlink('target', 'link')")
    assert session.put("link", b"new").status == 200
    assert session.get("target").body == b"mine" and session.get("link").body == b"new"
    assert session.call("DELETE", "files/link").status == 204
    session.run("os.symlink('target', 'link')")
    assert session.call("DELETE", "files/link").status == 204
    assert session.names() == ["target"]


def test_a_race_of_directory_and_symlink_never_leads_out(session):
    """Code swaps a directory and a symlink to / as fast as it can while files are asked for through it."""
    session.run("import os, threading\nos.mkdir('a'); os.mkdir('a/etc'); open('a/etc/hostname', 'w').write('inside')\n"
                "os.symlink('/', 'b'); stop = False\nimport ctypes\n"
                "def swap():\n    while not stop: ctypes.CDLL(None).renameat2(-100, b'a', -100, b'b', 2)\n"
                "t = threading.Thread(target=swap); t.start()")
    seen = set()
    for _ in range(300):
        answer = session.get("hostname", path="a/etc")
        seen.add((answer.status, answer.body if answer.status == 200 else answer.code))
        session.put("planted", b"x", path="a/etc")
    session.run("stop = True; t.join()")
    assert seen <= {(200, b"inside"), (400, "ERR_SYMLINK_NOT_ALLOWED"), (404, "ERR_FILE_NOT_FOUND")}
    assert not os.path.exists("/etc/planted")


# --- conditions and ranges

@pytest.fixture
def digits(session):
    session.put("digits", b"0123456789")
    return session


@pytest.mark.parametrize("range_, body, part", [
    ("bytes=0-3", b"0123", "bytes 0-3/10"), ("bytes=4-", b"456789", "bytes 4-9/10"), ("bytes=-3", b"789", "bytes 7-9/10"),
    ("bytes=9-9", b"9", "bytes 9-9/10"), ("bytes=5-99999999999999999", b"56789", "bytes 5-9/10"),
    ("bytes=-100", b"0123456789", "bytes 0-9/10"), ("bytes= 2-3 ", b"23", "bytes 2-3/10")])
def test_ranges(digits, range_, body, part):
    answer = digits.get("digits", {"Range": range_})
    assert (answer.status, answer.body, answer.headers["Content-Range"]) == (206, body, part)
    assert answer.headers["Accept-Ranges"] == "bytes" and answer.headers["Last-Modified"]


@pytest.mark.parametrize("range_", ["bytes=3-1", "bytes=", "bytes=a-b", "lines=1-2", "bytes=1-2,4-5", "bytes=-", "bytes=1",
                                    "bytes=99999999999999999999999-", "bytes=1-2x"])
def test_ranges_that_are_none_mean_the_whole(digits, range_):
    answer = digits.get("digits", {"Range": range_})
    assert (answer.status, answer.body) == (200, b"0123456789")
    assert answer.headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize("range_", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_ranges_outside(digits, range_):
    answer = digits.get("digits", {"Range": range_})
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */10")


def test_conditions(digits):
    modified = digits.get("digits").headers["Last-Modified"]
    when = email.utils.parsedate_to_datetime(modified).timestamp()
    before, after = (email.utils.formatdate(when + d, usegmt=True) for d in (-1, 1))
    status = lambda **headers: digits.get("digits", {k.replace("_", "-"): v for k, v in headers.items()}).status  # noqa: E731
    assert status(If_Modified_Since=modified) == 304
    assert status(If_Modified_Since=after) == 304
    assert status(If_Modified_Since=before) == 200
    assert status(If_Modified_Since="yesterday") == 200
    assert status(If_Unmodified_Since=modified) == 200
    assert status(If_Unmodified_Since=before) == 412
    assert status(If_Range=modified, Range="bytes=1-2") == 206
    assert status(If_Range=before, Range="bytes=1-2") == 200
    assert status(If_Range='"etag"', Range="bytes=1-2") == 200
    old_style = time.strftime("%A, %d-%b-%y %H:%M:%S GMT", time.gmtime(when))
    assert status(If_Modified_Since=old_style) == 304


def test_head(digits):
    answer = digits.call("HEAD", "files/digits/content")
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", "10")
    assert digits.call("HEAD", "files/nothing/content").status == 404


# --- uploads, hostile and large

def test_forms_that_are_none(session):
    kind = "multipart/form-data; boundary=bound"
    whole, good = form("a", b"x")
    for body, type_ in ((b"", kind), (b"--bound\r\n", kind), (b"nonsense", kind), (b"{}", "application/json"), (whole, None),
                        (whole[:-10], good), (b"--bound--\r\n", kind), (b"file=x", "application/x-www-form-urlencoded"),
                        (whole, "multipart/form-data")):
        answer = session.call("POST", "files", body, {"Content-Type": type_} if type_ else {})
        assert answer.status == 400, (body, type_)
    body, kind = form("a", b"x", field="other")
    assert session.call("POST", "files", body, {"Content-Type": kind}).status == 400
    body = b'--bound\r\nContent-Disposition: form-data; name="file"\r\n\r\nno name\r\n--bound--\r\n'
    assert session.call("POST", "files", body, {"Content-Type": kind}).status == 400
    assert session.names() == []


def test_only_the_first_file_counts(session):
    body = b"".join(b'--bound\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n\r\n%s\r\n' % part for part in (
        (b"other", b"o", b"x"), (b"file", b"first", b"1" * 100_000), (b"file", b"second", b"2" * 100_000))) + b"--bound--\r\n"
    answer = session.call("POST", "files", body, {"Content-Type": "multipart/form-data; boundary=bound"})
    assert (answer.status, answer.json()["name"]) == (200, "first")
    assert session.names() == ["first"] and session.get("first").body == b"1" * 100_000


class Pieces:
    """An upload of `size` bytes that exists nowhere as a whole."""

    def __init__(self, name, size):
        whole, self.kind = form(name, b"@@")
        self.head, self.tail = whole.split(b"@@")
        self.size = size
        self.sum = hashlib.sha256()
        self.length = len(self.head) + size + len(self.tail)

    def __iter__(self):
        yield self.head
        block = os.urandom(1 << 20)
        for at in range(0, self.size, len(block)):
            piece = block[:self.size - at]
            self.sum.update(piece)
            yield piece
        yield self.tail


def send(session, pieces, chunked=False):
    headers = {"Content-Type": pieces.kind}
    if not chunked:
        headers["Content-Length"] = str(pieces.length)
    connection = session.server.connection(120)
    try:
        connection.request("POST", session.target("files"), pieces, headers, encode_chunked=chunked)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def peak(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


@pytest.mark.parametrize("chunked", [False, True])
def test_a_hundred_megabytes_in_constant_memory(session, chunked):
    session.list()
    before = peak(session.server.process.pid)
    pieces = Pieces("big", 100 << 20)
    status, _ = send(session, pieces, chunked)
    assert status == 200
    connection = session.server.connection(120)
    connection.request("GET", session.target("files/big/content"))
    response = connection.getresponse()
    down = hashlib.sha256()
    while piece := response.read(1 << 20):
        down.update(piece)
    connection.close()
    assert down.hexdigest() == pieces.sum.hexdigest()
    assert peak(session.server.process.pid) - before < 8 << 20


def test_the_limit_is_128_megabytes(session):
    assert send(session, Pieces("largest", LIMIT))[0] == 200
    status, body = send(session, Pieces("larger", LIMIT + 1))
    assert status == 413 and json.loads(body)["error"]["code"] == "FileTooLarge"
    assert session.names() == ["largest"]


def test_an_upload_that_breaks_off_leaves_nothing(session):
    session.put("a", b"as it was")
    pieces = Pieces("a", 1 << 20)
    body = b"".join(pieces)
    connection = session.server.connection()
    connection.putrequest("POST", session.target("files"))
    connection.putheader("Content-Type", pieces.kind)
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders()
    connection.send(body[:500_000])
    assert session.get("a").body == b"as it was"
    connection.close()
    assert session.get("a").body == b"as it was" and session.names() == ["a"]
    wait_until(lambda: not temporaries(session.server), 10, "its temporary file going")


def temporaries(server):
    import glob
    fds = glob.glob(f"/proc/{server.process.pid}/fd/*")
    found = []
    for fd in fds:
        try:
            found.append(os.readlink(fd))
        except OSError:
            pass
    return [path for path in found if "/incoming/" in path]


def test_expect_100_continue(session):
    """curl asks first when a file is larger than 1 MB; who is refused need not send."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(str(session.server.path))
    sock.sendall(f"POST {session.target('files', path='v1.2')} HTTP/1.1\r\nHost: x\r\nContent-Type: {form('a', b'')[1]}\r\n"
                 f"Content-Length: 900000000\r\nExpect: 100-continue\r\n\r\n".encode())
    assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
    sock.close()
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(str(session.server.path))
    sock.sendall(b"POST /files?identifier=test&api-version=1999 HTTP/1.1\r\nHost: x\r\nContent-Length: 900000000\r\n"
                 b"Expect: 100-continue\r\n\r\n")
    assert sock.recv(100).startswith(b"HTTP/1.1 400 ")
    sock.close()


def test_uploads_side_by_side(session):
    contents = {f"f{n}": os.urandom(200_000 + n) for n in range(16)}
    threads = [threading.Thread(target=session.put, args=item) for item in contents.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {name: session.get(name).body for name in session.names()} == contents


def test_a_file_that_shrinks_while_it_is_sent(session):
    session.run("open('big', 'wb').write(b'x' * (64 << 20)); None")
    connection = session.server.connection()
    connection.request("GET", session.target("files/big/content"))
    response = connection.getresponse()
    assert response.status == 200
    session.run("import os; os.truncate('big', 10)")
    with pytest.raises(http.client.IncompleteRead):
        response.read()
    connection.close()
    assert session.get("big").body == b"x" * 10


# --- the old shape

@pytest.mark.parametrize("version", [OLD, "2024-08-02-preview"])
def test_old_shape(session, version):
    body, kind = form("/mnt/data/test 1.txt", b"sixteen bytes 16")
    up = session.call("POST", "files/upload", body, {"Content-Type": kind}, version=version)
    assert up.status == 200
    entry = up.json()["value"][0]["properties"]
    assert (entry["filename"], entry["size"]) == ("test 1.txt", 16)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z", entry["lastModifiedTime"])
    assert up.json()["$id"] == "1" and entry["$id"]
    listed = session.call("GET", "files", version=version).json()
    assert [v["properties"]["filename"] for v in listed["value"]] == ["test 1.txt"]
    assert session.call("GET", "files/test%201.txt", version=version).json()["value"][0]["properties"]["size"] == 16
    for path in ("files/content/test%201.txt", "files/content//mnt/data/test%201.txt", "files/content/%2Fmnt%2Fdata%2Ftest%201.txt"):
        assert session.call("GET", path, version=version).body == b"sixteen bytes 16", path
    gone = session.call("DELETE", "files/test%201.txt", version=version)
    assert (gone.status, gone.json()) == (200, {"message": "file deleted successfully"})
    assert session.call("GET", "files/content/test%201.txt", version=version).status == 404
    assert session.call("GET", "files", version=version).json()["value"] == []


def test_the_old_list_is_flat(session):
    session.put("in", path="d")
    session.put("top")
    assert [v["properties"]["filename"] for v in session.call("GET", "files", version=OLD).json()["value"]] == ["top"]


@pytest.mark.parametrize("path", ["files/content/../../etc/passwd", "files/content/%2e%2e/%2e%2e/etc/passwd",
                                  "files/content/a~", "files/content/..%2fx", "files/content/up/etc/passwd"])
def test_the_old_shape_leads_nowhere_either(session, path):
    session.run("import os; os.symlink('/', 'up')")
    assert session.server.raw("GET", f"/{path}?api-version={OLD}&identifier={session.identifier}").status == 400
