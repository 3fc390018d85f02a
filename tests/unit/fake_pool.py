"""A session pool with faults, for test_session.c: fake_pool.py DIRECTORY. Files live in
DIRECTORY/data; DIRECTORY/rules.json is read at each request; each request is a line of
DIRECTORY/log. Says its port on standard output and ends with its standard input."""
import base64
import json
import os
import re
import shutil
import sys
import threading
import time
import urllib.parse
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOP = sys.argv[1]
DATA = os.path.join(TOP, "data")
VERSIONS = ["2025-10-02-preview", "2025-02-02-preview", "2024-10-02-preview", "2024-02-02-preview"]
OLD = "2024-02-02-preview"
lock = threading.Lock()
seen = {}      # how often a fault struck
finished = {}  # operation id -> answer


def rules():
    try:
        with open(os.path.join(TOP, "rules.json")) as file:
            return json.load(file)
    except FileNotFoundError:
        return {}


def strikes(name):
    """Whether a fault that is to happen N times still is to happen."""
    with lock:
        seen[name] = seen.get(name, 0) + 1
        return seen[name] <= rules().get(name, 0)


def run(code):
    def moved(match):
        program = base64.b64decode(match[1]).decode()
        program = program.replace('ROOT = "/mnt/data"', "ROOT = %r" % DATA)
        return "b('%s').decode()" % base64.b64encode(program.encode()).decode()
    names = {}
    value = eval(re.sub(r"b\('([A-Za-z0-9+/=]+)'\)\.decode\(\)", moved, code, count=1), names)
    assert set(names) == {"__builtins__"}, "the helper left a name behind"
    return value


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each body waits 40 ms for the head to be acknowledged

    def log_message(self, *_):
        pass

    def send(self, status, value=None, headers=(), body=None):
        if body is None:
            body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        for name in ("x-ms-session-guid", "x-ms-session-etag", "x-ms-new-allocation",
                     "api-supported-versions"):
            if name in rules():
                self.send_header(name, rules()[name])
        for name, text in headers:
            self.send_header(name, text)
        if "Content-Length" not in dict(headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True  # a canceled call

    def fail(self, status, code):
        self.send(status, {"error": {"code": code, "message": "no: " + code}})

    def note(self, line):
        with lock, open(os.path.join(TOP, "log"), "a") as log:
            log.write(line + "\n")

    def handle_one(self, method):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        self.note("%s %s" % (method, self.path))
        version = query.get("api-version")
        if version not in rules().get("versions", VERSIONS):
            return self.fail(400, rules().get("refusal", "SessionRequestNotSupported"))
        parts = [urllib.parse.unquote(p) for p in url.path.strip("/").split("/")]
        assert parts[0] == "pool"
        if parts[-1] in ("listSessions", "getSession") or parts[1:] == ["session"] and "identifiers" in rules():
            return self.about_pool(method, "/".join(parts[1:]), query)
        assert query["identifier"] == "test|session", query
        return self.route(method, parts[1:], query, body, version == OLD)

    def about_pool(self, method, what, query):
        """What the pool has: rules "identifiers", by the calls of "forms" alone."""
        form = method + " " + what + " " + query["api-version"]
        if not any(form.startswith(known) for known in rules().get("forms", [""])):
            return self.fail(400, "SessionRequestNotSupported")
        have = rules().get("identifiers", [])
        if not what.endswith("listSessions"):
            return self.send(200, {"etag": "e1"}) if query["identifier"] in have else \
                self.fail(400, "SessionWithIdentifierNotFound")
        assert "identifier" not in query, query
        page, start = rules().get("page", 10**6), int(query.get("skip", 0))
        answer = {"value" if method == "POST" else "sessions": [{"identifier": name} for name in have[start:start + page]]}
        if start + page < len(have) or rules().get("endless"):
            link = "/pool/%s?api-version=%s&skip=%d" % (what, query["api-version"], start + page)
            answer["nextLink"] = link if rules().get("relative") else "http://" + self.headers["Host"] + link
            if rules().get("endless"):
                answer["nextLink"] = answer["nextLink"].replace("skip=", "skip=0&n=")
        if rules().get("evil"):
            answer["nextLink"] = "http://127.0.0.1:1/listSessions"
        return self.send(200, answer)

    def route(self, method, parts, query, body, old):
        content = len(parts) == 3 and "files" in parts[:1]
        if rules().get("ignore_path") or content and rules().get("ignore_content_path"):
            query.pop("path", None)
        where = os.path.join(DATA, query.get("path", "")).rstrip("/")
        if parts == (["code", "execute"] if old else ["executions"]):
            return self.execute(json.loads(body), old)
        if parts[0] == "executions":
            return self.look(parts[1])
        if parts[0] == "session":
            return self.send(204) if method == "DELETE" else self.send(
                200, {"etag": rules().get("etag", "e1"), "expireAt": "2030-01-01T00:00:00Z"})
        if parts == ["files"] and method == "GET":
            return self.list(where, query, old)
        if method == "POST":
            return self.upload(where, body, old)
        name = parts[2] if old and content else parts[1]
        if name in rules().get("redirect", ()):
            return self.send(301, headers=[("Location", "/elsewhere")])
        if name in rules().get("refuse", ()):
            return self.fail(400, "FileNameInvalid")
        path = os.path.join(where, name)
        if not os.path.exists(path) or os.path.islink(path):
            return self.fail(404, "FileNotFound")
        if method == "DELETE":
            self.remove(path)
            if strikes("drop_delete"):
                self.close_connection = True
                return None
            return self.send(204)
        if not content:
            entry = self.describe(path, old)
            return self.send(200, {"value": [entry]} if old else entry)
        return self.content(path) if os.path.isfile(path) else self.fail(400, "NotAFile")

    def remove(self, path):
        if os.path.isdir(path):
            shutil.rmtree(path)  # what a directory's DELETE takes with it is nowhere said
        else:
            os.unlink(path)

    def describe(self, path, old, directory=""):
        st = os.lstat(path)
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(st.st_mtime))
        name = os.path.basename(path)
        if old:
            return {"properties": {"filename": name, "size": st.st_size, "lastModifiedTime": when}}
        return {"name": name, "type": "directory" if os.path.isdir(path) else "file",
                "sizeInBytes": st.st_size, "lastModifiedAt": when,
                **({} if rules().get("top_only") else {"directory": directory})}

    def list(self, where, query, old):
        found = []
        for top, directories, files in os.walk(where):
            relative = os.path.relpath(top, where).replace(".", "", 1) if top == where else \
                os.path.relpath(top, where)
            for name in sorted(directories + files):
                path = os.path.join(top, name)
                if not os.path.islink(path) and not (old and os.path.isdir(path)):
                    found.append(self.describe(path, old, relative))
            if query.get("recursive") != "true" or rules().get("top_only"):
                break
        page, start = rules().get("page", 10**6), int(query.get("skip", 0))
        answer = {"value": found[start:start + page]}
        if start + page < len(found):
            answer["nextLink"] = "http://%s%s&skip=%d" % (
                self.headers["Host"], re.sub("&skip=.*", "", self.path), start + page)
        if rules().get("evil"):
            answer["nextLink"] = "http://127.0.0.1:1/files"
        self.send(200, answer)

    def upload(self, where, body, old):
        if len(body) > rules().get("limit", 1 << 27):
            return self.send(413)
        head = b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n"
        part = BytesParser().parsebytes(head + body).get_payload()[0]
        assert part.get_param("name", header="Content-Disposition") == "file"
        if part.get_filename() in rules().get("refuse", ()):
            return self.fail(400, "FileNameInvalid")
        if rules().get("lose_path") and where != DATA:
            where = os.path.join(TOP, "lost")
        os.makedirs(where, exist_ok=True)
        path = os.path.join(where, os.path.basename(part.get_filename()))
        with open(path, "wb") as file:
            file.write(part.get_payload(decode=True))
        answer = self.describe(path, old)
        self.note("has " + os.path.basename(path))
        time.sleep(rules().get("slow_files", 0))
        return self.send(200, {"value": [answer]} if old else answer)

    def content(self, path):
        with open(path, "rb") as file:
            data = file.read()
        headers = [("Last-Modified", self.date_time_string(int(os.stat(path).st_mtime)))]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        status = 200
        if asked and not rules().get("no_ranges"):
            start = int(asked[1])
            if start >= len(data):
                return self.send(416)
            headers.append(("Content-Range", "bytes %d-%d/%d" % (start, len(data) - 1, len(data))))
            data, status = data[start:], 206
        self.note("gives " + os.path.basename(path))
        time.sleep(rules().get("slow_files", 0))
        if strikes("cut"):
            headers.append(("Content-Length", str(len(data))))
            data = data[:len(data) // 2]
            self.close_connection = True
        return self.send(status, headers=headers, body=data)

    def execute(self, body, old):
        envelope = "properties" in body
        if envelope != rules().get("envelope", old) or rules().get("old_only") and not old:
            return self.fail(400, "SessionPropertiesMissing")
        body = body.get("properties", body)
        for option in ("useEmptyKernel", "outputStreamsMaxLength"):
            if option in body and option in rules().get("refused_options", ()):
                return self.fail(400, "SessionRequestValidationFailed")
        if strikes("busy"):
            return self.send(429, {"code": "Busy", "message": "busy"}, [("Retry-After", "0")])
        if rules().get("no_execute"):
            return self.send(500, {"message": "broken"})
        time.sleep(rules().get("slow", 0))
        outcome = {"stdout": "", "stderr": "", "executionTimeInMilliseconds": 1}
        status = "Succeeded"
        if strikes("unheard"):  # broken before it was done
            self.close_connection = True
            return None
        with lock:
            try:
                result = run(body["code"])
            except Exception as e:
                result, status, outcome["stderr"] = "", "Failed", "Traceback\n%r\n" % e
        if rules().get("quote"):
            result = json.dumps(result)
        if rules().get("repr"):
            result = repr(result)
        if envelope:
            words = {"Succeeded": "Success", "Failed": "Failure"}
            return self.send(200, {"properties": dict(outcome, status=words[status], result=result)})
        id = self.headers.get("operation-id", "op")
        if rules().get("own_id"):
            id = "the-pool's-own-%d" % len(finished)
        answer = {"id": id, "status": status, "result": dict(outcome, executionResult=result)}
        if not rules().get("forgets"):
            finished[id] = answer
        if strikes("drop"):
            self.close_connection = True
            return None
        if strikes("gateway"):
            return self.send(504, {"message": "the gateway is tired"})
        if rules().get("running"):
            return self.send(202, {"id": id, "status": "Running"})
        return self.send(200, answer)

    def look(self, id):
        if id not in finished:
            return self.fail(404, "NoExecution")
        if strikes("running"):
            return self.send(200, {"id": id, "status": "Running"})
        return self.send(200, finished[id])

    def do_GET(self):
        self.handle_one("GET")

    def do_POST(self):
        self.handle_one("POST")

    def do_DELETE(self):
        self.handle_one("DELETE")


os.makedirs(DATA, exist_ok=True)
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_address[1], flush=True)
sys.stdin.read()
