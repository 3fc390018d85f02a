"""Sessions of acapool: who may, which call there is, how sessions come and go; and the program itself."""

import glob
import json
import os
import re
import signal
import socket
import stat
import subprocess
import threading
import time

import pytest

from clients.server import ACAPOOL, OLD, VERSION, Server, Session, UnixConnection, wait_until

VERSIONS = "2024-02-02-preview, 2024-08-02-preview, 2024-10-02-preview, 2025-02-02-preview, 2025-10-02-preview"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("pool")) as it:
        yield it


@pytest.fixture(scope="module")
def tcp(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("tcp"), tcp=True) as it:
        yield it


@pytest.fixture
def session(server):
    it = server.session()
    yield it
    it.call("DELETE", "session")


# --- who may

@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic {}", "{}", "Bearer {}x", "Bearer {} x"])
def test_a_port_wants_the_token(tcp, header):
    headers = {} if header is None else {"Authorization": header.format(tcp.token)}
    connection = tcp.connection()
    connection.request("GET", f"/files?api-version={VERSION}&identifier=test", headers=headers)
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (401, b"")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    connection.close()


def test_a_token_is_random_and_opens(tcp):
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", tcp.url) and re.fullmatch(r"[0-9a-f]{64}", tcp.token)
    assert tcp.session().list() == []
    assert tcp.raw("GET", f"/files?api-version={VERSION}&identifier=test",
                   headers={"Authorization": f"bearer {tcp.token}"}).status == 200


def test_an_upload_without_a_token_is_refused_and_read(tcp):
    answer = tcp.raw("POST", f"/files?api-version={VERSION}&identifier=test", b"x" * (20 << 20),
                     {"Authorization": "Bearer no", "Content-Type": "multipart/form-data; boundary=x"})
    assert answer.status == 401


def test_a_port_listens_on_loopback_only(tcp):
    with open("/proc/net/tcp") as table:
        port = int(tcp.url.rsplit(":", 1)[1])
        listening = [line.split()[1] for line in table if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")]
    assert listening == [f"0100007F:{port:04X}"]


def test_a_token_file(tmp_path):
    token = tmp_path / "token"
    token.write_text("open-sesame\n")
    token.chmod(0o600)
    with Server(tmp_path / "p", "--token-file", token, tcp=True) as it:
        assert it.said == [it.url]
        target = f"/files?api-version={VERSION}&identifier=test"
        assert it.raw("GET", target, headers={"Authorization": "Bearer open-sesame"}).status == 200
        assert it.raw("GET", target).status == 401
        with open(f"/proc/{it.process.pid}/cmdline") as line:
            assert "sesame" not in line.read()
    assert "sesame" not in it.errors()


def test_a_socket_is_private(server):
    assert stat.S_IMODE(os.stat(server.path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(server.path.parent).st_mode) == 0o700
    assert server.said == [f"unix:{server.path}"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")
def test_a_socket_is_for_its_owner_even_where_others_reach_it(tmp_path):
    with Server(tmp_path) as it:
        for path in [it.path, *it.path.parents]:
            os.chmod(path, 0o777 if path == it.path else os.stat(path).st_mode | 0o011)
        seen = subprocess.run(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", it.path,
                               f"http://localhost/files?api-version={VERSION}&identifier=test"],
                              capture_output=True, text=True, user=65534, group=65534)
        assert seen.stdout == "403"


# --- which call

@pytest.mark.parametrize("version, code", [("2023-08-01-preview", "InvalidApiVersion"), ("", "InvalidApiVersion"),
                                           ("2024-09-01", "InvalidApiVersion"), (None, "MissingApiVersionParameter")])
def test_versions_that_are_none(server, version, code):
    answer = server.raw("GET", "/files?identifier=test" + ("" if version is None else f"&api-version={version}"))
    assert (answer.status, answer.code, answer.headers["api-supported-versions"]) == (400, code, VERSIONS)


@pytest.mark.parametrize("method, path, version", [
    ("POST", "code/execute", VERSION), ("POST", "executions", OLD), ("GET", "files/a/content/b", VERSION), ("PUT", "files/a", VERSION),
    ("GET", "session", "2024-10-02-preview"), ("DELETE", "session", OLD), ("GET", "listSessions", "2024-10-02-preview"),
    ("GET", "metadata", OLD), ("POST", "files/upload", VERSION), ("GET", "nothing", VERSION), ("PATCH", "session", VERSION),
    ("GET", "executions", VERSION), ("POST", "", VERSION)])
def test_calls_that_a_version_does_not_have(session, method, path, version):
    answer = session.call(method, path, b"{}" if method == "POST" else None, version=version)
    assert (answer.status, answer.code) == (400, "SessionRequestNotSupported")


@pytest.mark.parametrize("prefix", ["/subscriptions/s-1/resourceGroups/my group/sessionPools/pool",
                                    "/SUBSCRIPTIONS/s/resourcegroups/g/SessionPools/p/", "//"])
def test_a_pools_own_path_in_front(session, prefix):
    target = prefix.replace(" ", "%20") + session.target("files")
    assert session.server.raw("GET", target).json()["value"] == []


@pytest.mark.parametrize("target", ["/files?api-version=%", "/%zz?api-version=x", "/a%00b", "/?" + "&".join("abcdefg" * 30),
                                    "/" + "a/" * 100, "/files?identifier=%00"])
def test_malformed_targets(server, target):
    assert server.raw("GET", target).status == 400


@pytest.mark.parametrize("identifier", ["abc", "x" * 129, "a b c d", "a/b/c/d", "ab\u00e9cd", "a'b'c", "", "../../x"])
def test_identifiers_that_are_none(server, identifier):
    answer = Session(server, identifier).call("GET", "files")
    assert (answer.status, answer.code) == (400, "SessionRequestValidationFailed")


@pytest.mark.parametrize("identifier", ["test", "x" * 128, "a|b-c&d^e%f$g#h(i){j}[k];<l>", "with_line", "%41%42"])
def test_identifiers_of_every_kind(server, identifier):
    it = Session(server, identifier)
    it.put("a")
    assert it.call("GET", "session").json()["identifier"] == identifier
    assert it.call("DELETE", "session").status == 204


def test_no_identifier(server):
    assert server.raw("GET", f"/files?api-version={VERSION}").status == 400


def test_hello(server):
    assert server.raw("GET", "/").json()["name"] == "acapool"


# --- sessions

def test_a_session_comes_with_the_first_data_call(session):
    answer = session.call("GET", "session")
    assert answer.status == 404 and answer.code == "SessionWithIdentifierNotFound"
    first = session.call("GET", "files")
    assert first.headers["x-ms-new-allocation"] == "true"
    assert session.call("GET", "files").headers["x-ms-new-allocation"] == "false"
    info = session.call("GET", "session")
    assert info.json()["etag"] == info.headers["x-ms-session-etag"] == first.headers["x-ms-session-guid"]
    assert set(info.json()) == {"identifier", "etag", "createdAt", "lastAccessedAt", "expireAt"}
    assert info.json()["createdAt"] < info.json()["lastAccessedAt"] < info.json()["expireAt"]


@pytest.mark.parametrize("version", ["2025-02-02-preview", VERSION])
def test_deleting_a_session(session, version):
    session.put("a", b"x")
    session.run("x = 1")
    etag = session.call("GET", "session").json()["etag"]
    gone = session.call("DELETE", "session", version=version)
    assert (gone.status, gone.body) == (204, b"")
    again = session.call("DELETE", "session", version=version)
    assert (again.status, again.code) == (404, "NoSessionFoundError")
    assert session.call("GET", "session").status == 404
    assert session.list() == [] and session.get("a").status == 404
    assert session.run("'x' in globals()") is False
    assert session.call("GET", "session").json()["etag"] != etag


def test_sessions_do_not_see_each_other(server):
    one, two = server.session(), server.session()
    one.put("a", b"one")
    one.run("x = 1; open('/tmp/t', 'w').write('one')")
    assert two.list() == [] and two.run("'x' in globals()") is False
    assert two.run("import os; os.path.exists('/tmp/t'), os.listdir('/mnt')") == [False, ["data"]]
    assert one.get("a").body == b"one"


def test_the_cooldown_ends_what_nobody_uses(tmp_path):
    with Server(tmp_path, "--cooldown", "2") as server:
        used, unused = server.session(), server.session()
        used.put("a")
        unused.put("a")
        unused.run("import subprocess; p = subprocess.Popen(['sleep', '2718'], start_new_session=True); None")
        wait_until(lambda: sleeping(2718), 10, "the process of its own")
        started = time.monotonic()
        etag = used.call("GET", "session").json()["etag"]
        while time.monotonic() - started < 4.5:
            assert used.names() == ["a"]
            time.sleep(.2)
        assert used.call("GET", "session").json()["etag"] == etag
        assert unused.call("GET", "session").status == 404
        wait_until(lambda: not sleeping(2718), 10, "its processes ending")
        assert unused.list() == []


def sleeping(seconds):
    found = []
    for line in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(line, "rb") as file:
                if file.read() == b"sleep\0%d\0" % seconds:
                    found.append(line)
        except OSError:
            pass
    return found


def test_a_running_execution_keeps_its_session(tmp_path):
    with Server(tmp_path, "--cooldown", "1") as server:
        session = server.session()
        assert session.run("import time; x = 5; time.sleep(3.5); x") == 5
        assert session.run("x") == 5


def test_too_many_sessions(tmp_path):
    with Server(tmp_path, "--max-sessions", "2") as server:
        first, second, third = (server.session() for _ in range(3))
        first.put("a")
        second.put("a")
        answer = third.call("GET", "files")
        assert (answer.status, answer.headers["x-ms-error-code"]) == (429, "SessionsCountExceedsLimit")
        assert answer.json() == {"code": "SessionsCountExceedsLimit", "message":
                                 "The request sessions count is '1'. There are already '2' active sessions and the "
                                 "maximum active sessions count is '2'."}
        assert third.put("a", b"x" * (1 << 20)).status == 429
        assert first.names() == ["a"]
        first.call("DELETE", "session")
        assert third.list() == []


def test_lists_of_sessions(tmp_path):
    with Server(tmp_path) as server:
        sessions = [Session(server, f"session-{n:03}") for n in range(305)]
        for each in sessions:
            each.list()
        seen, target = [], f"/listSessions?api-version={VERSION}"
        pages = 0
        while target:
            page = server.raw("GET", target).json()
            seen += [each["identifier"] for each in page["sessions"]]
            target = page["nextLink"]
            pages += 1
        assert seen == [each.identifier for each in sessions] and pages == 2
        page = server.raw("POST", f"/.management/listSessions?api-version={VERSION}&skip=300", b"").json()
        assert (page["count"], page["nextLink"]) == (5, None)
        assert set(page["value"][0]) == {"identifier", "etag", "createdAt", "lastAccessedAt", "expiresAt"}


def test_management(session):
    missing = session.call("POST", ".management/getSession", b"", version="2025-02-02-preview")
    assert (missing.status, missing.code) == (400, "SessionWithIdentifierNotFound")
    session.put("a")
    found = session.call("POST", ".management/getSession", b"", version="2025-02-02-preview").json()
    assert found["identifier"] == session.identifier and found["expiresAt"] > found["lastAccessedAt"]
    stopped = session.call("POST", ".management/stopSession", b"", version="2025-02-02-preview")
    assert stopped.status == 200 and session.identifier.encode() in stopped.body
    assert session.call("POST", ".management/stopSession", b"").status == 400


def test_metadata(server):
    answer = server.raw("GET", f"/metadata?api-version={VERSION}").json()
    assert answer["runtimes"][0]["name"] == "Python" and re.match(r"3\.\d+", answer["runtimes"][0]["version"])
    assert "matplotlib" in [package["name"] for package in answer["preInstalledPackages"]]
    assert answer["createdAt"] and answer["lastUpdatedAt"] and answer["jupyterKernel"]["name"]


# --- the program

def refuses(*arguments, **how):
    done = subprocess.run([ACAPOOL, *arguments], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, **how)
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("acapool: "), done
    return done.returncode, lines[0]


@pytest.mark.parametrize("arguments", [
    ["--nonsense"], ["--cooldown"], ["--cooldown", "0"], ["--cooldown", "x"], ["--listen", "0.0.0.0:80"], ["--listen", "127.0.0.1"],
    ["--listen", "127.0.0.1:99999"], ["--memory", "1"], ["--disk", "much"], ["--processes", "1"], ["--max-sessions", "0"],
    ["--log-level", "loud"], ["extra"], ["--ready-fd", "1"], ["--execution-timeout", "-3"], ["--socket", ""],
    ["--socket", "/tmp/x", "--token-file", "y"]])
def test_bad_usage(arguments):
    code, line = refuses(*arguments)
    assert code == 64
    assert any(part.lstrip("-") in line for part in arguments if part)


@pytest.mark.parametrize("where", ["0.0.0.0:8080", "[::1]:80", "127.0.0.1", ":80"])
def test_only_loopback_is_listened_on(where):
    code, line = refuses("--listen", where)
    assert code == 64 and f"--listen {where}: want 127.0.0.1:PORT: nothing but loopback" in line


def test_places_that_can_not_be_served(tmp_path, server, tcp):
    assert refuses("--socket", server.path)[1].endswith("another pool serves this socket: Address already in use")
    assert "in use" in refuses("--listen", tcp.url.removeprefix("http://"))[1]
    os.mkdir(tmp_path / "open")
    os.chmod(tmp_path / "open", 0o755)
    assert "chmod 700" in refuses("--socket", tmp_path / "open/pool.sock")[1]
    assert "No such file" in refuses("--listen", "127.0.0.1:0", "--token-file", tmp_path / "none")[1]
    (tmp_path / "empty").touch(mode=0o600)
    assert "does not hold one token" in refuses("--listen", "127.0.0.1:0", "--token-file", tmp_path / "empty")[1]
    assert "No such file" in refuses("--listen", "127.0.0.1:0", "--data", tmp_path / "none")[1]
    assert refuses("--socket", str(tmp_path / ("x" * 120)))[0] == 69


def test_without_bubblewrap_it_does_not_start(tmp_path):
    code, line = refuses("--socket", tmp_path / "s/x", env={"PATH": str(tmp_path)})
    assert code == 69 and "bubblewrap" in line and "--no-sandbox" in line


def test_help_and_version():
    done = subprocess.run([ACAPOOL, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("acapool [OPTION") and "--no-sandbox" in done.stdout and not done.stderr
    assert re.match(r"acapool \d", subprocess.run([ACAPOOL, "--version"], capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_with_work_under_way(tmp_path, signal_):
    data = tmp_path / "data"
    data.mkdir()
    server = Server(tmp_path / "p", "--data", data)
    with server:
        session = server.session()
        session.put("a", b"x")
        session.run("import time, subprocess; subprocess.Popen(['sleep', '1618'], start_new_session=True); None")
        session.call("POST", "executions", {"code": "while True: pass", "executionType": "Asynchronous"})
        answers = []
        busy = threading.Thread(target=lambda: answers.append(session.execute("open('here', 'w').close(); time.sleep(60)")))
        busy.start()
        wait_until(lambda: sleeping(1618) and "here" in session.names(), 20, "it to run")
        began = time.monotonic()
        server.process.send_signal(signal_)
        assert server.process.wait(20) == 0
        assert time.monotonic() - began < 10
        busy.join(10)
    assert answers[0]["status"] == "Canceled"
    assert not sleeping(1618) and os.listdir(data) == [] and not server.path.exists()


def test_killed_it_takes_its_sandboxes_along_and_the_next_one_cleans_up(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    server = Server(tmp_path / "p", "--data", data)
    session = server.session()
    session.run("import subprocess; subprocess.Popen(['sleep', '1414'], start_new_session=True); None")
    wait_until(lambda: sleeping(1414), 10, "the process of its own")
    server.process.kill()
    server.process.wait()
    server.process.stdout.close()
    wait_until(lambda: not sleeping(1414), 10, "its sandboxes ending")
    left = os.listdir(data)
    assert len(left) == 1
    os.utime(data / left[0], (0, 0))
    with Server(tmp_path / "p", "--data", data) as again:
        assert again.session().list() == []
        assert left[0] not in os.listdir(data)
    assert os.listdir(data) == []


def test_idle_exit(tmp_path):
    server = Server(tmp_path, "--idle-exit", "1", "--cooldown", "1")
    with server:
        session = server.session()
        session.put("a")
        began = time.monotonic()
        while time.monotonic() - began < 3:
            assert session.names() == ["a"]
            time.sleep(.1)
        assert server.process.wait(15) == 0
    assert not server.path.exists()


def test_daemon(tmp_path):
    path = tmp_path / "d/pool.sock"
    done = subprocess.run([ACAPOOL, "--socket", path, "--daemon"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, f"unix:{path}\n"), done
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        pid = int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], "little")
    try:
        connection = UnixConnection(path)
        connection.request("GET", f"/files?api-version={VERSION}&identifier=test")
        assert json.loads(connection.getresponse().read())["value"] == []
        connection.close()
        assert os.getsid(pid) == pid and os.readlink(f"/proc/{pid}/fd/1") == "/dev/null"
        again = subprocess.run([ACAPOOL, "--socket", path, "--daemon"], capture_output=True, text=True, timeout=30)
        assert again.returncode == 69 and "another pool" in again.stderr
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not path.exists(), 20, "its end")


def test_data_that_only_root_reaches(tmp_path):
    """As root, sessions run as users of their own; a closed directory above the data does not matter."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with Server(tmp_path / "p", "--data", closed) as server:
        session = server.session()
        session.put("a", b"x")
        assert session.run("open('a').read()") == "x"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount")
def test_what_is_unmounted_is_let_go(tmp_path):
    """Sandboxes keep no mount of this machine alive that was there when they started."""
    point = tmp_path / "disk"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "acapool-test", point], check=True)
    try:
        with Server(tmp_path / "p") as server:
            assert server.session().run("6 * 7") == 42
            subprocess.run(["umount", point], check=True)
            assert [path for path in glob.glob("/proc/[0-9]*/mountinfo") if mentions(path, point)] == []
    finally:
        subprocess.run(["umount", "-lq", point], check=False)


def mentions(path, text):
    try:
        with open(path, errors="replace") as file:
            return str(text) in file.read()
    except OSError:  # it ended
        return False


def test_many_requests_on_one_connection(server):
    session = server.session()
    connection = server.connection()
    for n in range(50):
        connection.request("GET", session.target("files"))
        assert connection.getresponse().read()
        connection.request("POST", session.target("nothing"), b"x" * 1000)
        assert connection.getresponse().read()
    connection.close()


def test_bytes_that_are_no_http(server):
    for junk in (b"\0" * 1000, b"GET\r\n\r\n", b"\x16\x03\x01" * 50, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20000 + b"\r\n",
                 b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n\r\n"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(server.path))
            try:
                sock.sendall(junk)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
            except OSError:
                pass
    assert server.session().list() == []
