"""Clients that others wrote for the service, request for request: their URLs, headers, bodies, and what
they make of the answers. acapool is at once the port with its token and the pool's path that they expect."""

import base64
import json
import re
import subprocess
import urllib.parse
import uuid

import pytest

from clients.server import Server, wait_until

POOL = "/subscriptions/0000-11/resourceGroups/rg/sessionPools/pool"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("pool"), tcp=True) as it:
        yield it


class Client:
    """A client's transport: sends what it is given, raises for what raise_for_status() would."""

    def __init__(self, server, slash=""):
        self.server = server
        self.endpoint = POOL + slash
        self.session = str(uuid.uuid4())
        self.bearer = {"Authorization": f"Bearer {server.token}"}

    def send(self, method, target, body=None, headers=None):
        answer = self.server.raw(method, target, body, {"Accept": "*/*", "Accept-Encoding": "gzip, deflate", "User-Agent": "test",
                                                        **self.bearer, **(headers or {})})
        assert 200 <= answer.status < 300, (answer.status, answer.body)
        return answer

    def post_json(self, target, document, kind="application/json"):
        return self.send("POST", target, json.dumps(document), {"Content-Type": kind}).json()


# --- LangChain: SessionsPythonREPLTool

class LangChain(Client):
    def url(self, path):
        return f"{self.endpoint.rstrip('/')}/{path}?identifier={urllib.parse.quote(self.session)}&api-version=2024-02-02-preview"

    def execute(self, code):
        code = re.sub(r"^(\s|`)*(?i:python)?\s*", "", code)
        code = re.sub(r"(\s|`)*$", "", code)
        return self.post_json(self.url("code/execute"), {"properties": {
            "codeInputType": "inline", "executionType": "synchronous", "code": code}})["properties"]

    def run(self, code):
        properties = self.execute(code)
        result = properties.get("result")
        if isinstance(result, dict) and result.get("type") == "image":
            result.pop("base64_data")
        return json.dumps({"result": result, "stdout": properties.get("stdout"), "stderr": properties.get("stderr")}, indent=2)

    def upload(self, name, content):
        """As requests encodes files=[("file", (name, data, "application/octet-stream"))]."""
        boundary = uuid.uuid4().hex
        body = (f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
                "Content-Type: application/octet-stream\r\n\r\n").encode() + content + f"\r\n--{boundary}--\r\n".encode()
        answer = self.send("POST", self.url("files/upload"), body, {"Content-Type": f"multipart/form-data; boundary={boundary}"})
        properties = answer.json()["value"][0]["properties"]
        return properties["filename"], properties["size"]

    def download(self, name):
        return self.send("GET", self.url(f"files/content/{urllib.parse.quote(name)}")).body

    def list(self):
        return [(entry["properties"]["filename"], entry["properties"]["size"])
                for entry in self.send("GET", self.url("files")).json()["value"]]

    def delete(self):
        self.send("DELETE", f"{self.endpoint}/session?identifier={self.session}&api-version=2025-10-02-preview")


def test_langchain(server):
    tool = LangChain(server)
    assert tool.run("6 * 7") == '{\n  "result": 42,\n  "stdout": "",\n  "stderr": ""\n}'
    assert tool.execute("```python\nprint('hi')\n```")["stdout"] == "hi\n"
    assert tool.execute("x = 5")["status"] == "Success" and tool.execute("x")["result"] == 5
    failed = tool.execute("1/0")
    assert failed["status"] == "Failure" and "ZeroDivisionError" in failed["stderr"]
    assert tool.upload("test 1.csv", b"a,b\n1,2\n") == ("test 1.csv", 8)
    assert tool.list() == [("test 1.csv", 8)]
    assert tool.download("test 1.csv") == b"a,b\n1,2\n"
    assert tool.execute("open('/mnt/data/test 1.csv').read()")["result"] == "a,b\n1,2\n"
    assert json.loads(tool.run("import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()"))["result"] == {
        "type": "image", "format": "png"}
    tool.delete()
    assert tool.list() == []


# --- AutoGen: ACADynamicSessionsCodeExecutor

class AutoGen(Client):
    def url(self, path):
        return f"{self.endpoint}{path}?api-version=2024-02-02-preview&identifier={self.session}"

    def execute(self, *blocks):
        output, code_of_exit = "", 0
        for code in blocks:
            data = self.post_json(self.url("code/execute"), {"properties": {
                "codeInputType": "inline", "executionType": "synchronous", "code": code}})["properties"]
            output += data.get("stderr", "") + data.get("stdout", "")
            if "Success" in data["status"]:
                output += str(data["result"])
            elif "Failure" in data["status"]:
                code_of_exit = 1
        return code_of_exit, output

    def packages(self):
        code, output = self.execute("\nimport pkg_resources\n[d.project_name for d in pkg_resources.working_set]\n")
        assert code == 0, output
        return {package.strip(" '") for package in output.strip("[]").split(",\n")}

    def upload(self, name, content):
        """As aiohttp's FormData writes it."""
        boundary = uuid.uuid4().hex
        body = (f'--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Disposition: form-data; name="file"; '
                f'filename="{name}"\r\n\r\n').encode() + content + f"\r\n--{boundary}--\r\n".encode()
        self.send("POST", self.url("files/upload"), iter([body[:50], body[50:]]),
                  {"Content-Type": f"multipart/form-data; boundary={boundary}"})

    def files(self):
        return [value["properties"]["filename"] for value in self.send("GET", self.url("files")).json()["value"]]


def test_autogen(server):
    executor = AutoGen(server, "/")
    packages = executor.packages()
    assert {"matplotlib", "numpy"} <= packages and all(re.fullmatch(r"[\w.-]+", name) for name in packages)
    assert executor.execute("import os; os.chdir('/mnt/data')") == (0, "")
    assert executor.execute("import sys; print('hello world!')") == (0, "hello world!\n")
    assert executor.execute("a = 100 + 100; print(a)", "print(a + 1)") == (0, "200\n201\n")
    code, output = executor.execute("raise ValueError('no')")
    assert code == 1 and "ValueError: no" in output
    executor.upload("test_1.txt", b"test")
    assert executor.files() == ["test_1.txt"]
    assert executor.execute("with open('test_1.txt') as f: print(f.read())") == (0, "test\n")
    executor.execute("with open('made.txt', 'w') as f: f.write('from inside')")
    assert "made.txt" in executor.files()
    assert executor.send("GET", executor.url("files/content/made.txt")).body == b"from inside"


def test_lines_for_notebooks(server):
    executor = AutoGen(server, "/")
    assert executor.execute("!echo from the shell") == (0, "from the shell\n")
    assert executor.execute("%matplotlib inline\nif True:\n    !echo $((1 + 2))\nprint('%d' % 4)") == (0, "3\n4\n")
    code, output = executor.execute("%unknown magic")
    assert code == 1 and "SyntaxError" in output
    assert executor.execute("x = '''\n!not a command\n'''; print(x)") == (0, "\n!not a command\n\n")


# --- Semantic Kernel, Python

def test_semantic_kernel_python(server):
    client = Client(server, "/")
    url = lambda path: f"{client.endpoint}{path}?identifier={client.session}&api-version=2024-02-02-preview"  # noqa: E731
    result = client.post_json(url("code/execute"), {"properties": {
        "codeInputType": "inline", "executionType": "synchronous", "code": "print('hi')\n5", "timeoutInSeconds": 100}})["properties"]
    assert f"Result:\n{result['result']}Stdout:\n{result['stdout']}Stderr:\n{result['stderr']}" == "Result:\n5Stdout:\nhi\nStderr:\n"
    boundary = uuid.uuid4().hex
    body = (f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="/mnt/data/hello.txt"\r\n'
            f"Content-Type: application/octet-stream\r\n\r\nhello\r\n--{boundary}--\r\n").encode()
    up = client.send("POST", url("files/upload"), body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}).json()
    assert up["value"][0]["properties"]["filename"] == "hello.txt"
    listed = client.send("GET", url("files")).json()["value"]
    assert [(entry["properties"]["filename"], entry["properties"]["size"]) for entry in listed] == [("hello.txt", 5)]
    assert client.send("GET", url("files/content/hello.txt")).body == b"hello"
    assert client.send("GET", url("files/content//mnt/data/hello.txt")).body == b"hello"


# --- Semantic Kernel, .NET

def dotnet_form(name, content):
    """As MultipartFormDataContent writes it: parameters without quotes, and once more as filename*."""
    boundary = str(uuid.uuid4())
    plain = name if name.isascii() else f'"=?utf-8?B?{base64.b64encode(name.encode()).decode()}?="'
    plain = f'"{plain}"' if " " in plain else plain
    body = (f"--{boundary}\r\nContent-Disposition: form-data; name=file; filename={plain}; "
            f"filename*=utf-8''{urllib.parse.quote(name)}\r\n\r\n").encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return body, {"Content-Type": f'multipart/form-data; boundary="{boundary}"'}


@pytest.mark.parametrize("name", ["test-file.txt", "with space.txt", "Zürich.txt", "日本.txt"])
def test_semantic_kernel_dotnet(server, name):
    client = Client(server)
    url = lambda path: f"{client.endpoint}/{path}?identifier={client.session}&api-version=2024-10-02-preview"  # noqa: E731
    result = client.post_json(url("executions"), {"identifier": client.session, "codeInputType": "inline",
                                                  "executionType": "synchronous", "timeoutInSeconds": 100, "code": "6*7"},
                              "application/json; charset=utf-8")
    assert result["status"] == "Succeeded"
    assert (result["result"]["executionResult"], result["result"]["stdout"], result["result"]["stderr"]) == (42, "", "")
    up = client.send("POST", url("files"), *dotnet_form(name, b"some text")).json()
    assert (up["name"], up["sizeInBytes"], up["type"]) == (name, 9, "file") and up["lastModifiedAt"] and up["contentType"]
    listed = client.send("GET", url("files")).json()["value"]
    assert [entry["name"] for entry in listed] == [name]
    assert client.send("GET", url(f"files/{urllib.parse.quote(name)}/content")).body == b"some text"


# --- the documentation's lines, by curl itself

def curl(server, *arguments):
    done = subprocess.run(["curl", "-sS", "--fail-with-body", "-H", f"Authorization: Bearer {server.token}", *arguments],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (done.stderr, done.stdout)
    return done.stdout


def test_curl(server, tmp_path):
    (tmp_path / "data.csv").write_text("a,b\n1,2\n")
    base = server.url + POOL
    old, new = "api-version=2024-02-02-preview&identifier=curl-old", "api-version=2025-10-02-preview&identifier=curl-new"
    ran = json.loads(curl(server, "-X", "POST", f"{base}/code/execute?{old}", "-H", "Content-Type: application/json", "-d",
                          '{"properties": {"codeInputType": "inline", "executionType": "synchronous", "code": "print(\'Hello, world!\')"}}'))
    assert ran["properties"]["stdout"] == "Hello, world!\n" and ran["properties"]["status"] == "Success"
    ran = json.loads(curl(server, f"{base}/executions?{new}", "-H", "Content-Type: application/json", "-d",
                          '{"codeInputType": "inline", "executionType": "synchronous", "code": "print(\'Hello, world!\')"}'))
    assert ran["result"]["stdout"] == "Hello, world!\n"
    up = json.loads(curl(server, "-X", "POST", f"{base}/files/upload?{old}", "-F", f"file=@{tmp_path}/data.csv"))
    assert up["value"][0]["properties"]["filename"] == "data.csv"
    up = json.loads(curl(server, f"{base}/files?{new}&path=in", "-F", f"file=@{tmp_path}/data.csv;type=text/csv"))
    assert (up["name"], up["directory"]) == ("data.csv", "in")
    assert "data.csv" in curl(server, f"{base}/files?{old}") and "data.csv" in curl(server, f"{base}/files?{new}&recursive=true")
    assert curl(server, f"{base}/files/content/data.csv?{old}") == curl(server, f"{base}/files/data.csv/content?{new}&path=in")
    assert curl(server, "-r", "4-6", f"{base}/files/content/data.csv?{old}") == "1,2"
    assert curl(server, "-X", "DELETE", f"{base}/session?{new}") == ""
    big = tmp_path / "big"
    big.write_bytes(b"x" * (3 << 20))  # large enough for curl to ask with Expect: 100-continue
    assert json.loads(curl(server, f"{base}/files?{new}", "-F", f"file=@{big}"))["sizeInBytes"] == 3 << 20


def test_curl_lines_of_the_samples(server, tmp_path):
    """Azure-Samples/container-apps-dynamic-sessions-samples, code-interpreter/*.md, in their order."""
    name = "README2.md"
    (tmp_path / name).write_text("# A title\n")
    json_body = ["-H", "Content-Type: application/json", "-d"]
    query = "api-version=2024-10-02-preview&identifier=test-identifier"
    ran = json.loads(curl(server, "-X", "POST", f"{server.url}/executions?{query}", *json_body, """{
        "identifier": "test-identifier",
        "codeInputType": "inline",
        "executionType": "Synchronous",
        "code": "print(\\"inline-synchronous\\")",
        "timeoutInSeconds": 100
}"""))
    assert ran["status"] == "Succeeded" and ran["result"]["stdout"] == "inline-synchronous\n"
    begun = curl(server, "-D", "-", "-X", "POST", f"{server.url}/executions?{query}", *json_body, """{
        "identifier": "test-identifier",
        "codeInputType": "inline",
        "executionType": "Asynchronous",
        "code": "import time\\ntime.sleep(.2)\\nprint(\\"Hello from async code\\")",
        "timeoutInSeconds": 100
}""")
    assert begun.startswith("HTTP/1.1 202")
    location = re.search(r"(?i)^operation-location: (\S+)", begun, re.M)[1]
    ended = wait_until(lambda: (it := json.loads(curl(server, "-X", "GET", server.url + location)))["status"] == "Succeeded"
                       and it, 20, "the asynchronous execution is over")
    assert ended["result"]["stdout"] == "Hello from async code\n"
    up = json.loads(curl(server, "-X", "POST", "-F", f"file=@{tmp_path}/{name}", f"{server.url}/files?{query}&path=/mnt/data"))
    assert (up["name"], up["sizeInBytes"], up["contentType"]) == (name, 10, "text/markdown; charset=utf-8")
    assert curl(server, "-X", "GET", f"{server.url}/files/{name}/content?{query}") == "# A title\n"
    assert json.loads(curl(server, "-X", "GET", f"{server.url}/files?{query}"))["value"] == [up]
    assert json.loads(curl(server, "-X", "GET", f"{server.url}/files/{name}?{query}")) == up
    assert json.loads(curl(server, f"{server.url}/files?{query}&path=/mnt/data/"))["value"] == [up]
    assert curl(server, "-w", "%{http_code}", "-X", "DELETE", f"{server.url}/files/{name}?{query}") == "204"

    query = "api-version=2024-08-02-preview&identifier=test-identifier"
    ran = json.loads(curl(server, "-X", "POST", f"{server.url}/code/execute?{query}", *json_body, """{
    "properties": {
        "identifier": "test-identifier",
        "codeInputType": "inline",
        "executionType": "Synchronous",
        "code": "import time \\ntime.sleep(.1) \\nprint(\\"Done Sleeping\\")",
        "timeoutInSeconds": 100
    }
}"""))["properties"]
    assert (ran["status"], ran["stdout"], ran["executionResult"]) == ("Success", "Done Sleeping\n", "")
    curl(server, "-X", "POST", "-F", f"file=@{tmp_path}/{name}", f"{server.url}/files/upload?{query}")
    assert curl(server, "-X", "GET", f"{server.url}/files/content/{name}?{query}") == "# A title\n"
    of_list = json.loads(curl(server, "-X", "GET", f"{server.url}/files?{query}"))["value"][0]["properties"]
    of_one = json.loads(curl(server, "-X", "GET", f"{server.url}/files/{name}?{query}"))["value"][0]["properties"]
    assert of_list == of_one and (of_one["filename"], of_one["size"]) == (name, 10)
    assert json.loads(curl(server, "-X", "DELETE", f"{server.url}/files/{name}?{query}")) == {"message": "file deleted successfully"}


def test_curl_lines_of_the_documentation_that_it_has_wrong(server):
    """Its page of 2026 puts the envelope around executions; the service refuses that in these words."""
    answer = server.raw("POST", f"{POOL}/executions?api-version=2025-10-02-preview&identifier=test-identifier",
                        json.dumps({"properties": {"codeInputType": "inline", "executionType": "synchronous", "code": "1"}}),
                        {"Content-Type": "application/json"})
    assert (answer.status, answer.code, answer.headers["x-ms-error-code"]) == (400, "SessionPropertiesMissing", "SessionPropertiesMissing")


def test_the_documented_snippet_for_packages(server):
    answer = LangChain(server).execute("import pkg_resources\n[(d.project_name, d.version) for d in pkg_resources.working_set]")
    assert answer["status"] == "Success" and "('numpy'," in answer["result"]
