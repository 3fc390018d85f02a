"""Every credential against fakes on loopback: the requests as documented, the order of the chain, the
words for what went wrong, the life of a token, and that no secret shows anywhere."""

import base64
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.parse
from pathlib import Path

import pytest

from fake_authority import Certificates, Fake, Silent, answer, closed_port, now, token
from support import process
from support.wait import wait_for

DRIVER = process.BUILD / "tests/unit/credential_driver"
RESOURCE = "https://dynamicsessions.io"
SCOPE = RESOURCE + "/.default"
TENANT = "11111111-2222-3333-4444-555555555555"
CLIENT = "66666666-7777-8888-9999-000000000000"
NAMES = ["EnvironmentCredential", "WorkloadIdentityCredential", "ManagedIdentityCredential",
         "AzureCliCredential", "AzureDeveloperCliCredential"]
SECRET = "s3cret~with+odd/chars&=%"


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def jwt(**claims):
    part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
    return f"{part({'alg': 'none'})}.{part(claims)}.c2lnbmF0dXJl"


class Driver:
    def __init__(self, folder, env, options):
        self.log = folder / f"driver-{time.monotonic_ns()}.log"
        arguments = [DRIVER] + [f"{name}={value}" for name, value in options.items()]
        with open(self.log, "wb") as sink:
            self.process = subprocess.Popen([os.fspath(part) for part in arguments], env=env,
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=sink, text=True, cwd=folder)
        hello = self.process.stdout.readline()
        self.refused = "" if hello else self.said()

    def said(self):
        return self.log.read_text(errors="replace")

    def post(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def reply(self):
        line = self.process.stdout.readline()
        assert line, f"the driver ended: {self.said()}"
        return json.loads(line)

    def do(self, command):
        self.post(command)
        return self.reply()

    def get(self, count=1):
        return self.do(f"get {count}")

    def gives(self, text, count=1):
        reply = self.get(count)
        assert reply["sums"] == [digest(text)] * count, (reply, self.said())
        return self

    def fails(self):
        """The whole text of the failure."""
        reply = self.get()
        assert not reply["sums"] and reply["errs"] != ["0"], reply
        self.errno = reply["errs"][0]
        self.line = reply["why"]
        return self.do("status")["why"]

    def clock(self, seconds):
        self.do(f"clock {seconds}")

    def links(self):
        return {link["name"]: (link["state"], link["reason"]) for link in self.do("status")["links"]}

    def close(self):
        self.process.stdin.close()
        try:
            code = self.process.wait(15)
        finally:
            self.process.kill()
            self.process.stdout.close()
        alarms = process.alarms(self.log)
        assert not alarms, alarms
        assert code == (1 if self.refused else 0), self.said()


class Bench:
    """Makes drivers and fakes for one test, and ends them."""

    def __init__(self, folder, certificates):
        self.folder, self.certificates = folder, certificates
        self.tools = folder / "tools"
        self.tools.mkdir()
        self.ends = []
        self.nowhere = closed_port()

    def fake(self, *answers, **how):
        it = Fake(*answers, **how)
        self.ends.append(it)
        return it

    def silent(self):
        it = Silent()
        self.ends.append(it)
        return it

    def environment(self, **env):
        settings = {"HOME": self.folder, "PATH": self.tools, "TZ": "Europe/Berlin",
                    "AZURE_POD_IDENTITY_AUTHORITY_HOST": self.nowhere,
                    "SSL_CERT_FILE": self.certificates.ca.certificate}
        return process.environment(**{**settings, **env})

    def driver(self, env=None, **options):
        it = Driver(self.folder, self.environment(**(env or {})), options)
        self.ends.insert(0, it)
        return it

    def tool(self, name, script):
        """A program in PATH that notes how it was called and then runs `script`."""
        notes = self.folder / f"{name}.called"
        path = self.tools / name
        path.write_text(f"""#!/bin/bash
{{ printf '%s\\n' "$#" "$@"; printf 'cwd %s\\n' "$PWD"; printf 'stdin %s\\n' "$(/bin/readlink /proc/self/fd/0)"
/usr/bin/env; }} >> '{notes}'
printf 'call\\n' >> '{notes}.count'
{script}
""")
        path.chmod(0o755)
        return notes

    def calls(self, name):
        count = self.folder / f"{name}.called.count"
        return len(count.read_text().splitlines()) if count.exists() else 0

    def close(self):
        for it in self.ends:
            it.close()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def bench(tmp_path, certificates):
    it = Bench(tmp_path, certificates)
    yield it
    it.close()


def principal(fake, **more):
    return {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": CLIENT, "AZURE_AUTHORITY_HOST": fake.url,
            **more}


def with_secret(fake, **more):
    return principal(fake, AZURE_CLIENT_SECRET=SECRET, **more)


# --- service principals

def test_client_secret(bench):
    fake = bench.fake(token("T1"))
    bench.driver(with_secret(fake)).gives("T1")
    (request,) = fake.requests
    assert request.method == "POST"
    assert request.target == f"/{TENANT}/oauth2/v2.0/token"
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert sorted(request.form) == [("client_id", CLIENT), ("client_secret", SECRET),
                                    ("grant_type", "client_credentials"), ("scope", SCOPE)]
    assert "authorization" not in request.headers


def test_client_secret_over_tls(bench, certificates):
    """A real https authority, trusted through its CA; and one that nobody vouches for is refused."""
    fake = bench.fake(token("T1"), tls=certificates.server())
    bench.driver(with_secret(fake)).gives("T1")
    stranger = bench.fake(token("T2"), tls=certificates.self_signed("stranger"))
    driver = bench.driver(with_secret(stranger))
    assert "certificate" in driver.fails()
    assert not stranger.requests


def test_secret_from_a_file(bench):
    fake = bench.fake(token("T1", expires_in=600), token("T2"))
    secret = bench.folder / "secret"
    secret.write_text("one\n")
    secret.chmod(0o600)
    driver = bench.driver(principal(fake), client_secret_file="secret").gives("T1")
    secret.write_text("two\n")
    driver.clock(601)
    driver.gives("T2")
    assert [r.members["client_secret"] for r in fake.requests] == ["one", "two"]
    assert "may read" not in driver.said()


def test_secret_from_systemd_credentials(bench):
    """A relative name is one of $CREDENTIALS_DIRECTORY first."""
    fake = bench.fake(token("T1"))
    folder = bench.folder / "credentials"
    folder.mkdir()
    (folder / "azure").write_text("from-systemd")
    (bench.folder / "azure").write_text("from-here")
    bench.driver(principal(fake, CREDENTIALS_DIRECTORY=folder), client_secret_file="azure").gives("T1")
    assert fake.requests[0].members["client_secret"] == "from-systemd"


def test_a_secret_that_others_may_read_is_used_with_a_warning(bench):
    fake = bench.fake(token("T1"))
    secret = bench.folder / "secret"
    secret.write_text("one")
    secret.chmod(0o644)
    driver = bench.driver(principal(fake), client_secret_file=secret).gives("T1")
    assert re.search(rf"{secret}: .*every user may read it", driver.said())


def test_a_token_file_that_others_may_read_is_warned_of_once(bench):
    path = bench.folder / "token"
    path.write_text("T1")
    path.chmod(0o644)
    driver = bench.driver(token_file=path)
    for _ in range(10):
        driver.gives("T1")
    assert driver.said().count("every user may read it") == 1


@pytest.mark.parametrize("what, reason", [
    ("missing", "No such file"), ("empty", "empty"), ("directory", "not a regular file"),
    ("fifo", "not a regular file"), ("huge", "too large")])
def test_a_secret_file_that_can_not_be_used(bench, what, reason):
    path = bench.folder / "secret"
    if what == "empty":
        path.touch()
    elif what == "directory":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "huge":
        path.write_bytes(b"x" * 100_000)
    driver = bench.driver(principal(bench.fake()), client_secret_file=path)
    text = driver.fails()
    assert f"EnvironmentCredential: failed: {path}: " in text and reason in text


def b64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def check_assertion(request, pair, certificates, chain=None):
    members = request.members
    assert set(members) == {"client_id", "client_assertion_type", "client_assertion", "grant_type", "scope"}
    assert members["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    assert (members["client_id"], members["scope"]) == (CLIENT, SCOPE)
    assert members["grant_type"] == "client_credentials"
    head, body, signature = members["client_assertion"].split(".")
    assert "=" not in members["client_assertion"]
    header, claims = json.loads(b64(head)), json.loads(b64(body))
    der = certificates.der(pair.certificate)
    assert header["alg"] == "PS256" and header["typ"] == "JWT"
    assert b64(header["x5t#S256"]) == hashlib.sha256(der).digest()
    assert b64(header["x5t"]) == hashlib.sha1(der).digest()
    assert [base64.b64decode(one) for one in header.get("x5c", [])] == (chain or [])
    assert claims["aud"] == f"http://{request.headers['host']}{request.path}"
    assert claims["iss"] == claims["sub"] == CLIENT
    assert claims["jti"] and claims["nbf"] <= now() + 1 and 0 < claims["exp"] - claims["nbf"] <= 600
    assert certificates.verifies(pair, f"{head}.{body}".encode(), b64(signature))
    return claims


def join(target, *parts):
    target.write_bytes(b"".join(Path(part).read_bytes() for part in parts))
    target.chmod(0o600)
    return target


def test_client_certificate_pem(bench, certificates):
    pair = certificates.signed("client")
    fake = bench.fake(token("T1", expires_in=600), token("T2"))
    path = join(bench.folder / "client.pem", pair.key, pair.certificate)
    driver = bench.driver(principal(fake, AZURE_CLIENT_CERTIFICATE_PATH=path)).gives("T1")
    driver.clock(601)
    driver.gives("T2")
    first = check_assertion(fake.requests[0], pair, certificates)
    head, body, _ = fake.requests[1].members["client_assertion"].split(".")
    assert json.loads(b64(body))["jti"] != first["jti"]


def test_client_certificate_chain(bench, certificates):
    """The leaf is the one that belongs to the key, wherever it stands in the file."""
    pair = certificates.signed("client")
    fake = bench.fake(token("T1"))
    path = join(bench.folder / "client.pem", certificates.ca.certificate, pair.certificate, pair.key)
    bench.driver(principal(fake, AZURE_CLIENT_CERTIFICATE_PATH=path,
                           AZURE_CLIENT_SEND_CERTIFICATE_CHAIN="true")).gives("T1")
    chain = [certificates.der(pair.certificate), certificates.der(certificates.ca.certificate)]
    check_assertion(fake.requests[0], pair, certificates, chain)


@pytest.mark.parametrize("order", ["root middle leaf", "leaf root middle", "middle leaf root"])
@pytest.mark.parametrize("kind", ["pem", "pkcs12"])
def test_client_certificate_chain_goes_upwards(bench, certificates, order, kind):
    """Each certified by the next, however the file has them."""
    middle = certificates.signed("middle", "basicConstraints=critical,CA:TRUE")
    leaf = certificates.signed("client", by=middle)
    parts = {"root": certificates.ca.certificate, "middle": middle.certificate, "leaf": leaf.certificate}
    path = join(bench.folder / "client.pem", *(parts[part] for part in order.split()), leaf.key)
    if kind == "pkcs12":
        certificates.openssl("pkcs12", "-export", "-in", path, "-inkey", leaf.key, "-passout", "pass:",
                             "-out", bench.folder / "client.pfx")
        path = bench.folder / "client.pfx"
    fake = bench.fake(token("T1"))
    bench.driver(principal(fake, AZURE_CLIENT_CERTIFICATE_PATH=path), send_certificate_chain=1).gives("T1")
    check_assertion(fake.requests[0], leaf, certificates,
                    [certificates.der(parts[part]) for part in ("leaf", "middle", "root")])


def test_client_certificate_encrypted_pem(bench, certificates):
    pair = certificates.signed("client")
    fake = bench.fake(token("T1"))
    locked = bench.folder / "locked.key"
    certificates.openssl("pkcs8", "-topk8", "-in", pair.key, "-out", locked, "-passout", "pass:opensesame")
    path = join(bench.folder / "client.pem", locked, pair.certificate)
    env = principal(fake, AZURE_CLIENT_CERTIFICATE_PATH=path)
    bench.driver({**env, "AZURE_CLIENT_CERTIFICATE_PASSWORD": "opensesame"}).gives("T1")
    check_assertion(fake.requests[0], pair, certificates)
    assert "needs a password" in bench.driver(env).fails()
    wrong = bench.driver({**env, "AZURE_CLIENT_CERTIFICATE_PASSWORD": "wrongword"}).fails()
    assert "no private key that its password opens" in wrong and "wrongword" not in wrong


@pytest.mark.parametrize("options, password", [
    ([], "opensesame"), ([], ""), (["-legacy", "-certpbe", "PBE-SHA1-RC2-40"], "opensesame"),
    (["-keypbe", "PBE-SHA1-3DES", "-certpbe", "PBE-SHA1-3DES", "-macalg", "sha1"], "opensesame")])
def test_client_certificate_pkcs12(bench, certificates, options, password):
    pair = certificates.signed("client")
    fake = bench.fake(token("T1"))
    path = bench.folder / "client.pfx"
    certificates.openssl("pkcs12", "-export", *options, "-inkey", pair.key, "-in", pair.certificate,
                         "-certfile", certificates.ca.certificate, "-passout", f"pass:{password}",
                         "-out", path)
    word = bench.folder / "password"
    word.write_text(password + "\n")
    options = {"certificate_password_file": word} if password else {}
    bench.driver(principal(fake, AZURE_CLIENT_CERTIFICATE_PATH=path), send_certificate_chain=1,
                 **options).gives("T1")
    chain = [certificates.der(pair.certificate), certificates.der(certificates.ca.certificate)]
    check_assertion(fake.requests[0], pair, certificates, chain)


def test_client_certificates_that_can_not_be_used(bench, certificates):
    fake = bench.fake()
    pair = certificates.signed("client")
    curve = certificates.self_signed("curve", ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"))
    locked = bench.folder / "locked.pfx"
    certificates.openssl("pkcs12", "-export", "-inkey", pair.key, "-in", pair.certificate,
                         "-passout", "pass:opensesame", "-out", locked)
    junk = bench.folder / "junk"
    junk.write_bytes(bytes(range(256)) * 8)
    cases = [
        (junk, "neither PEM nor PKCS#12"),
        (locked, "needs a password"),
        (pair.key, "holds no certificate"),
        (pair.certificate, "holds no private key"),
        (join(bench.folder / "alien.pem", pair.key, certificates.ca.certificate),
         "no certificate that belongs to its private key"),
        (join(bench.folder / "curve.pem", curve.key, curve.certificate), "not RSA"),
        (bench.folder / "missing.pem", "No such file"),
    ]
    for path, reason in cases:
        text = bench.driver(principal(fake, AZURE_CLIENT_CERTIFICATE_PATH=path)).fails()
        assert f"EnvironmentCredential: failed: {path}: " in text and reason in text, text
    assert not fake.requests


def test_workload_identity_reads_its_file_each_time(bench):
    fake = bench.fake(token("T1", expires_in=600), token("T2"))
    path = bench.folder / "federated"
    path.write_text("eyJmZWRlcmF0ZWQ.one.x\n")
    path.chmod(0o600)
    driver = bench.driver(principal(fake, AZURE_FEDERATED_TOKEN_FILE=path)).gives("T1")
    path.write_text("eyJmZWRlcmF0ZWQ.two.x")
    driver.clock(601)
    driver.gives("T2")
    for request, assertion in zip(fake.requests, ["eyJmZWRlcmF0ZWQ.one.x", "eyJmZWRlcmF0ZWQ.two.x"]):
        assert request.method == "POST" and request.target == f"/{TENANT}/oauth2/v2.0/token"
        assert sorted(request.form) == [
            ("client_assertion", assertion),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_id", CLIENT), ("grant_type", "client_credentials"), ("scope", SCOPE)]
    assert driver.links()["WorkloadIdentityCredential"][0] == "chosen"
    assert driver.links()["EnvironmentCredential"] == (
        "skipped", "not set: AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH")


def test_refused_secret_ends_the_chain(bench):
    """Set up but refused: no other credential is asked, and the text says what the authority said."""
    bench.tool("az", "exit 9")
    fake = bench.fake(answer(401, {
        "error": "invalid_client", "error_codes": [7000215], "correlation_id": "c0ffee-1",
        "error_description": f"AADSTS7000215: Invalid client secret {SECRET}.\r\nTrace ID: 42"}))
    driver = bench.driver(with_secret(fake))
    text = driver.fails()
    assert "HTTP 401 invalid_client: AADSTS7000215: Invalid client secret ****." in text
    assert "correlation id c0ffee-1" in text and "Trace ID" not in text
    assert SECRET not in text + driver.said() + driver.line
    assert "EnvironmentCredential is set up" in text and driver.errno == "EACCES"
    assert driver.links()["AzureCliCredential"] == ("untried", None)
    assert not bench.calls("az") and len(fake.requests) == 1


def test_a_refusal_that_says_the_request_back(bench):
    """The secret is hidden as it was sent, too."""
    fake = bench.fake(lambda r: answer(400, {"error": "invalid", "error_description": "got " + r.body}))
    driver = bench.driver(with_secret(fake))
    text = driver.fails() + driver.said()
    assert "client_secret=****" in text
    assert SECRET not in text and urllib.parse.quote(SECRET, safe="") not in text


@pytest.mark.parametrize("wrong, reason", [
    ("authority", "self-signed certificate"), ("host", "does not match|no alternative .* name matches"),
    ("date", "expired"), ("plain", "wrong version number")])
def test_an_authority_that_is_not_the_one(bench, certificates, wrong, reason):
    """Nothing is sent to it."""
    if wrong == "plain":
        fake = bench.fake(token("T1"))
    else:
        fake = bench.fake(token("T1"), tls={
            "authority": lambda: certificates.self_signed("stranger"),
            "host": lambda: certificates.signed("other", "subjectAltName=DNS:other.example"),
            "date": lambda: certificates.signed("old", "subjectAltName=IP:127.0.0.1", days=-1)}[wrong]())
    env = with_secret(fake, AZURE_AUTHORITY_HOST=fake.url.replace("http:", "https:"))
    line = bench.driver(env, retries=0).fails().splitlines()[1]
    assert re.search(reason, line) and "no answer from the authority" in line
    assert not fake.requests


def test_redirects_are_not_followed(bench):
    other = bench.fake(token("T1"))
    fake = bench.fake(answer(307, headers={"Location": other.url + "/steal"}))
    assert "redirect" in bench.driver(with_secret(fake)).fails()
    assert not other.requests


@pytest.mark.parametrize("body, reason", [
    ("junk", "not JSON"), ("[]", "not JSON"), ("", "not JSON"),
    ('{"expires_in":3600}', "no token"), ('{"access_token":"","expires_in":1}', "no token"),
    ('{"access_token":["x"],"expires_in":1}', "no token"),
    ('{"access_token":"a b","expires_in":1}', "no token"),
    ('{"access_token":"a\\r\\nX: y","expires_in":1}', "no token"),
    ('{"access_token":"x"}', "when the token expires"),
    ('{"access_token":"x","expires_in":"soon"}', "when the token expires"),
    ('{"access_token":"x","expires_in":-5}', "when the token expires"),
    ('{"access_token":"x","expires_in":1e300}', "when the token expires"),
    ('{"access_token":"x","expires_in":9,"token_type":"pop"}', "no bearer token"),
    ("[" * 100000, "not JSON"), ("x" * 400_000, "an answer of more than")],
    ids=range(15))
def test_answers_that_are_no_tokens(bench, body, reason):
    fake = bench.fake(answer(200, text=body))
    assert re.search(reason, bench.driver(with_secret(fake)).fails())


def test_authority_that_fails_for_a_moment_is_asked_again(bench):
    fake = bench.fake(answer(503), answer(500), token("T1"))
    bench.driver(with_secret(fake)).gives("T1")
    assert len(fake.requests) == 3


def test_authority_that_is_away(bench):
    """Not EACCES: the mount goes on with what it has, as without the pool."""
    driver = bench.driver({"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": CLIENT,
                           "AZURE_CLIENT_SECRET": SECRET, "AZURE_AUTHORITY_HOST": closed_port()})
    assert "no answer from the authority" in driver.fails()
    assert driver.errno == "EHOSTUNREACH"


@pytest.mark.parametrize("authority", [
    "http://login.microsoftonline.com", "ftp://login.microsoftonline.com",
    "https://user:word@login.microsoftonline.com", "https://login.microsoftonline.com?x=1",
    "http://127.0.0.1.evil.example", "https://", "file:///etc/passwd"])
def test_authorities_that_are_refused(bench, authority):
    driver = bench.driver({"AZURE_AUTHORITY_HOST": authority})
    assert "AZURE_AUTHORITY_HOST" in driver.refused


@pytest.mark.parametrize("spelling", [
    "https://login.microsoftonline.us", "login.microsoftonline.us", "HTTPS://login.microsoftonline.us/",
    " https://login.microsoftonline.us// ", "login.microsoftonline.us:443\n"])
def test_spellings_of_an_authority(bench, spelling):
    proxy = bench.fake(answer(502))
    bench.driver(with_secret(proxy, AZURE_AUTHORITY_HOST=spelling, https_proxy=proxy.url),
                 retries=0).fails()
    assert {request.target for request in proxy.requests} == {"login.microsoftonline.us:443"}


def test_loopback_of_the_sixth_version(bench):
    """Plain http is allowed there, and no proxy is asked."""
    fake = bench.fake(token("T1"), host="::1")
    away = {"http_proxy": bench.nowhere, "https_proxy": bench.nowhere, "all_proxy": bench.nowhere}
    bench.driver(with_secret(fake, **away)).gives("T1")
    bench.driver({"AZURE_POD_IDENTITY_AUTHORITY_HOST": fake.url, **away}).gives("T1")
    bench.driver({"IDENTITY_ENDPOINT": fake.url, "IDENTITY_HEADER": "h", **away}).gives("T1")


@pytest.mark.parametrize("tenant", ["../x", "a/b", "a b", "a?b", "..", "-x", "x\ny"])
def test_tenants_that_are_refused(bench, tenant):
    assert "AZURE_TENANT_ID" in bench.driver({"AZURE_TENANT_ID": tenant}).refused


# --- managed identities

def test_app_service(bench):
    fake = bench.fake(answer(document={"access_token": "T1", "expires_on": str(now() + 3600),
                                       "token_type": "Bearer", "resource": RESOURCE, "client_id": CLIENT}))
    env = {"IDENTITY_ENDPOINT": fake.url + "/msi/token", "IDENTITY_HEADER": "header-secret"}
    bench.driver(env).gives("T1")
    bench.driver({**env, "AZURE_CLIENT_ID": CLIENT}).gives("T1")
    bench.driver(env, client_id="/subscriptions/s/resourceGroups/g/x").gives("T1")
    bench.driver(env, client_id="object:" + CLIENT).gives("T1")
    plain = [("api-version", "2019-08-01"), ("resource", RESOURCE)]
    assert [r.query for r in fake.requests] == [
        plain, plain + [("client_id", CLIENT)],
        plain + [("mi_res_id", "/subscriptions/s/resourceGroups/g/x")],
        plain + [("principal_id", CLIENT)]]
    for request in fake.requests:
        assert (request.method, request.path) == ("GET", "/msi/token")
        assert "X-IDENTITY-HEADER" in request.header_names
        assert request.headers["x-identity-header"] == "header-secret"
        assert "metadata" not in request.headers and not request.body


@pytest.mark.parametrize("shape", ["{:%m/%d/%Y %H:%M:%S} +00:00", "{:%m/%d/%Y %I:%M:%S %p} +00:00"])
def test_app_service_dates(bench, shape):
    import datetime
    end = datetime.datetime.fromtimestamp(now() + 5000, datetime.timezone.utc)
    fake = bench.fake(answer(document={"access_token": "T1", "expires_on": shape.format(end)}))
    driver = bench.driver({"IDENTITY_ENDPOINT": fake.url, "IDENTITY_HEADER": "h"}).gives("T1")
    assert driver.do("status")["expires_at"] == int(end.timestamp())


def test_service_fabric_pins_the_certificate(bench, certificates):
    """Nobody vouches for its certificate: the thumbprint alone does."""
    pair = certificates.self_signed("fabric")
    thumbprint = hashlib.sha1(certificates.der(pair.certificate)).hexdigest().upper()
    fake = bench.fake(token("T1", expires_on=now() + 3600), tls=pair)
    env = {"IDENTITY_ENDPOINT": fake.url + "/metadata/identity/oauth2/token",
           "IDENTITY_HEADER": "fabric-secret", "IDENTITY_SERVER_THUMBPRINT": thumbprint}
    bench.driver(env).gives("T1")
    (request,) = fake.requests
    assert request.method == "GET" and request.path == "/metadata/identity/oauth2/token"
    assert request.query == [("api-version", "2019-07-01-preview"), ("resource", RESOURCE)]
    assert "Secret" in request.header_names and request.headers["secret"] == "fabric-secret"
    assert "x-identity-header" not in request.headers
    for wrong in ["0" * 40, thumbprint[:-1], "", thumbprint + "0"]:
        driver = bench.driver({**env, "IDENTITY_SERVER_THUMBPRINT": wrong or "none"})
        assert "certificate" in driver.fails()
    # A certificate that a known authority signed is no better when it is another one.
    signed = bench.fake(token("T2"), tls=certificates.server())
    driver = bench.driver({**env, "IDENTITY_ENDPOINT": signed.url})
    assert "certificate" in driver.fails()
    assert len(fake.requests) == 1 and not signed.requests
    # Without a thumbprint it is App Service's way, where such a certificate counts for nothing.
    del env["IDENTITY_SERVER_THUMBPRINT"]
    assert "certificate" in bench.driver(env).fails()


def arc(bench, key, text="arc-key", final=None):
    def say(request):
        if "authorization" not in request.headers:
            return answer(401, headers={"WWW-Authenticate": f"Basic realm={key}"})
        good = request.headers["authorization"] == f"Basic {text}"
        return final or (token("T1") if good else answer(401))
    fake = bench.fake(say)
    folder = bench.folder / "arc"
    folder.mkdir(exist_ok=True)
    env = {"IDENTITY_ENDPOINT": fake.url + "/metadata/identity/oauth2/token",
           "IMDS_ENDPOINT": fake.url}
    return fake, folder, env


def test_azure_arc(bench):
    folder = bench.folder / "arc"
    fake, folder, env = arc(bench, folder / "n1.key")
    (folder / "n1.key").write_text("arc-key\n")
    bench.driver(env, arc_directory=folder).gives("T1")
    first, second = fake.requests
    for request in (first, second):
        assert (request.method, request.path) == ("GET", "/metadata/identity/oauth2/token")
        assert request.query == [("api-version", "2019-11-01"), ("resource", RESOURCE)]
        assert request.headers["metadata"] == "true"
    assert "authorization" not in first.headers
    assert second.headers["authorization"] == "Basic arc-key"


@pytest.mark.parametrize("realm", [
    "/etc/shadow", "{arc}/../outside.key", "{arc}/sub/n1.key", "{arc}/n1.txt", "{arc}/.key", "{arc}",
    "{arc}x/n1.key", "n1.key", "", '"', "{arc}//n1.key", "{arc}/" + "n" * 600 + ".key"])
def test_azure_arc_keys_elsewhere_are_not_read(bench, realm):
    folder = bench.folder / "arc"
    fake, folder, env = arc(bench, realm.format(arc=folder))
    (bench.folder / "outside.key").write_text("arc-key")
    (folder / "sub").mkdir()
    for name in ["sub/n1.key", "n1.txt", ".key", "n1.key"]:
        (folder / name).write_text("arc-key")
    text = bench.driver(env, arc_directory=folder).fails()
    assert "ManagedIdentityCredential: failed: Azure Arc" in text and "refused" in text
    assert len(fake.requests) == 1


@pytest.mark.parametrize("content, reason", [
    (b"k" * 4097, "too large"), (b"", "empty"), (b"two words", "holds no key"),
    (b"x\r\nEvil: 1", "holds no key"), (None, "No such file")])
def test_azure_arc_keys_that_are_none(bench, content, reason):
    fake, folder, env = arc(bench, bench.folder / "arc" / "n1.key")
    if content is not None:
        (folder / "n1.key").write_bytes(content)
    assert reason in bench.driver(env, arc_directory=folder).fails()
    assert len(fake.requests) == 1


def test_azure_arc_challenges_once(bench):
    fake, folder, env = arc(bench, bench.folder / "arc" / "n1.key", text="another")
    (folder / "n1.key").write_text("arc-key-secret")
    text = bench.driver(env, arc_directory=folder).fails()
    assert "HTTP 401" in text and "arc-key-secret" not in text
    assert len(fake.requests) == 2


def test_azure_arc_has_no_user_assigned_identities(bench):
    fake, folder, env = arc(bench, "x")
    text = bench.driver({**env, "AZURE_CLIENT_ID": CLIENT}).fails()
    assert "Azure Arc has no user-assigned identity" in text and "unset AZURE_CLIENT_ID" in text
    assert not fake.requests


def test_cloud_shell(bench):
    fake = bench.fake(token("T1", expires_on=str(now() + 3600)))
    bench.driver({"MSI_ENDPOINT": fake.url + "/oauth2/token"}).gives("T1")
    (request,) = fake.requests
    assert (request.method, request.target) == ("POST", "/oauth2/token")
    assert request.form == [("resource", RESOURCE)]
    assert request.headers["metadata"] == "true"
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"


def test_azure_ml(bench):
    fake = bench.fake(answer(document={"access_token": "T1", "expires_on": now() + 3600}))
    env = {"MSI_ENDPOINT": fake.url + "/msi", "MSI_SECRET": "ml-secret"}
    bench.driver({**env, "AZURE_CLIENT_ID": CLIENT}).gives("T1")
    bench.driver(env).gives("T1")
    first, second = fake.requests
    assert (first.method, first.path) == ("GET", "/msi")
    assert first.query == [("api-version", "2017-09-01"), ("resource", RESOURCE), ("clientid", CLIENT)]
    assert second.query == first.query[:2]
    assert "secret" in first.header_names and first.headers["secret"] == "ml-secret"
    assert "metadata" not in first.headers


def test_azure_ml_names_its_identity(bench):
    fake = bench.fake(token("T1"))
    env = {"MSI_ENDPOINT": fake.url, "MSI_SECRET": "ml-secret", "DEFAULT_IDENTITY_CLIENT_ID": "its-own"}
    bench.driver(env).gives("T1")
    bench.driver({**env, "AZURE_CLIENT_ID": CLIENT}).gives("T1")
    assert [request.query[2] for request in fake.requests] == [("clientid", "its-own"), ("clientid", CLIENT)]


def test_imds(bench):
    fake = bench.fake(answer(400, {"error": "invalid_request", "error_description": "Required metadata header not specified"}),
                      answer(document={"access_token": "T1", "client_id": CLIENT, "expires_in": "86399",
                                       "expires_on": str(now() + 600), "resource": RESOURCE,
                                       "token_type": "Bearer"}), token("T2"))
    driver = bench.driver({"AZURE_POD_IDENTITY_AUTHORITY_HOST": fake.url + "/"}).gives("T1")
    assert abs(driver.do("status")["expires_at"] - now() - 600) <= 2
    probe, request = fake.requests
    assert "metadata" not in probe.headers
    for one in (probe, request):
        assert (one.method, one.path) == ("GET", "/metadata/identity/oauth2/token")
        assert one.query == [("api-version", "2018-02-01"), ("resource", RESOURCE)]
    assert request.headers["metadata"] == "true"
    driver.clock(601)
    driver.gives("T2")
    assert len(fake.requests) == 3, "the probe is for once"


@pytest.mark.parametrize("client, member", [
    (CLIENT, ("client_id", CLIENT)), ("object:" + CLIENT, ("object_id", CLIENT)),
    ("/subscriptions/s/x", ("msi_res_id", "/subscriptions/s/x"))])
def test_imds_user_assigned(bench, client, member):
    fake = bench.fake(token("T1"))
    bench.driver({"AZURE_POD_IDENTITY_AUTHORITY_HOST": fake.url}, kind="ManagedIdentityCredential",
                 client_id=client).gives("T1")
    (request,) = fake.requests  # asked for by name: no probe
    assert request.query[2] == member and request.headers["metadata"] == "true"


def test_imds_is_asked_again(bench):
    fake = bench.fake(answer(400), answer(404, {"error": "not_found"}), answer(410), answer(429),
                      answer(500), answer(503), token("T1"))
    driver = bench.driver({"AZURE_POD_IDENTITY_AUTHORITY_HOST": fake.url}, imds_backoff_ms=10).gives("T1")
    assert len(fake.requests) == 7
    waits = [int(ms) for ms in re.findall(r"asking again in (\d+) ms", driver.said())]
    assert waits == [10, 20, 40, 80, 160]


def test_imds_gives_up_after_five_more(bench):
    fake = bench.fake(answer(500, {"error": "server_error", "error_description": "no luck"}))
    driver = bench.driver({"AZURE_POD_IDENTITY_AUTHORITY_HOST": fake.url}, imds_backoff_ms=2)
    text = driver.fails()
    assert "ManagedIdentityCredential: failed: IMDS" in text and "no luck" in text
    assert len(fake.requests) == 1 + 6 and driver.errno == "EIO"


@pytest.mark.parametrize("kind, errno", [("managed-identity", "EHOSTUNREACH"), (None, "EACCES")])
def test_imds_that_is_not_there(bench, kind, errno):
    """Of a machine that is said to have an identity that is a passing trouble; of another it means that there is none."""
    how = {"kind": kind} if kind else {}
    driver = bench.driver({"AZURE_POD_IDENTITY_AUTHORITY_HOST": "http://127.0.0.1:1"}, imds_backoff_ms=2, **how)
    driver.fails()
    assert driver.errno == errno


def test_imds_starts_at_800_ms(bench):
    fake = bench.fake(answer(400), answer(404, {"error": "x"}), token("T1"))
    start = time.monotonic()
    driver = bench.driver({"AZURE_POD_IDENTITY_AUTHORITY_HOST": fake.url}).gives("T1")
    assert time.monotonic() - start >= 0.8 and "again in 800 ms" in driver.said()


def test_imds_that_is_silent_costs_a_second(bench):
    bench.tool("az", f"""echo '{{"accessToken":"T1","expires_on":{now() + 3600}}}'""")
    silent = bench.silent()
    driver = bench.driver({"AZURE_POD_IDENTITY_AUTHORITY_HOST": silent.url})
    start = time.monotonic()
    driver.gives("T1")
    assert 0.9 <= time.monotonic() - start < 2
    state, reason = driver.links()["ManagedIdentityCredential"]
    assert state == "skipped" and "no answer within 1 s" in reason


@pytest.mark.parametrize("reply, reason", [
    (answer(400, {"error": "invalid_request", "error_description": "Identity not found"}),
     "no identity is assigned to this machine: HTTP 400 invalid_request: Identity not found"),
    (answer(404, text="<html>another cloud"), "no managed identity service at"),
    (answer(403, {"error": "A socket operation was attempted to an unreachable network"}),
     "no managed identity service at"),
    (answer(403, text="denied by the gateway"), "no managed identity service at"),
    (answer(200, text="<html>please log in"), "no managed identity service at"),
    (answer(302, headers={"Location": "http://127.0.0.1:1/"}), "no managed identity service at")])
def test_imds_without_an_identity_passes_on(bench, reply, reason):
    bench.tool("az", f"""echo '{{"accessToken":"T1","expires_on":{now() + 3600}}}'""")
    fake = bench.fake(reply)
    driver = bench.driver({"AZURE_POD_IDENTITY_AUTHORITY_HOST": fake.url}, imds_backoff_ms=1).gives("T1")
    state, why = driver.links()["ManagedIdentityCredential"]
    assert state == "skipped" and reason in why
    assert len(fake.requests) <= 1 + 3, "another cloud's 404 is no reason to wait for half a minute"


def test_imds_names_the_identity_it_lacks(bench):
    fake = bench.fake(answer(400, {"error": "invalid_request", "error_description": "Identity not found"}))
    text = bench.driver({"AZURE_POD_IDENTITY_AUTHORITY_HOST": fake.url, "AZURE_CLIENT_ID": CLIENT}).fails()
    assert f"the identity {CLIENT} is not assigned to this machine" in text


def test_metadata_services_are_never_asked_through_a_proxy(bench):
    proxy = bench.fake(answer(502))
    fake = bench.fake(token("T1"))
    away = {"http_proxy": proxy.url, "https_proxy": proxy.url, "all_proxy": proxy.url,
            "no_proxy": "nothing.example"}
    bench.driver({"AZURE_POD_IDENTITY_AUTHORITY_HOST": fake.url, **away}).gives("T1")
    bench.driver({"IDENTITY_ENDPOINT": fake.url, "IDENTITY_HEADER": "h", **away}).gives("T1")
    bench.driver(with_secret(fake, **away)).gives("T1")  # loopback
    assert not proxy.requests


def test_the_authority_is_asked_through_the_proxy(bench):
    proxy = bench.fake(answer(502))
    driver = bench.driver({"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": CLIENT,
                           "AZURE_CLIENT_SECRET": SECRET, "https_proxy": proxy.url,
                           "AZURE_AUTHORITY_HOST": "https://login.authority.invalid"}, retries=0)
    driver.fails()
    assert proxy.requests
    for request in proxy.requests:
        assert (request.method, request.target) == ("CONNECT", "login.authority.invalid:443")
        assert SECRET not in request.body


@pytest.mark.parametrize("proxy", [
    "http://me:pr0xyw0rd@127.0.0.1:1", "http://me:pr0xyw0rd@nowhere.invalid", "socks9://me:pr0xyw0rd@nowhere.invalid"])
def test_a_proxys_password_is_not_told(bench, proxy):
    driver = bench.driver({"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": CLIENT, "AZURE_CLIENT_SECRET": SECRET,
                           "AZURE_AUTHORITY_HOST": "https://login.authority.invalid", "https_proxy": proxy},
                          retries=0)
    text = driver.fails()
    assert "no answer from the authority" in text and "pr0xyw0rd" not in text + driver.said()


@pytest.mark.parametrize("variable, hosts", [
    ("no_proxy", "other.invalid,login.authority.invalid"), ("NO_PROXY", "*")])
def test_no_proxy_is_honoured(bench, variable, hosts):
    proxy = bench.fake(answer(502))
    driver = bench.driver({"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": CLIENT,
                           "AZURE_CLIENT_SECRET": SECRET, "https_proxy": proxy.url, variable: hosts,
                           "AZURE_AUTHORITY_HOST": "https://login.authority.invalid"}, retries=0)
    assert "resolve" in driver.fails() and not proxy.requests


@pytest.mark.parametrize("endpoint", ["http://login.example.com/msi", "http://8.8.8.8/msi"])
def test_plain_http_to_the_world_is_refused(bench, endpoint):
    text = bench.driver({"IDENTITY_ENDPOINT": endpoint, "IDENTITY_HEADER": "h"}).fails()
    assert "plain http://" in text


def test_headers_can_not_be_smuggled(bench):
    fake = bench.fake(token("T1"))
    text = bench.driver({"IDENTITY_ENDPOINT": fake.url, "IDENTITY_HEADER": "h\r\nEvil: 1"}).fails()
    assert "can't stand in a header" in text and not fake.requests


# --- developers' tools

AZ = ["account", "get-access-token", "--output", "json", "--resource", RESOURCE]
AZD = ["auth", "token", "--output", "json", "--no-prompt", "--scope", SCOPE]


def notes(path):
    lines = path.read_text().splitlines()
    count = int(lines[0])
    return lines[1:1 + count], lines[1 + count:]


def test_azure_cli(bench):
    called = bench.tool("az", f"""echo '{{"accessToken":"T1","expiresOn":"2001-01-01 00:00:00.000000","expires_on":{now() + 3600}}}'""")
    driver = bench.driver({"AZURE_TENANT_ID": TENANT}).gives("T1")
    arguments, rest = notes(called)
    assert arguments == AZ
    assert f"cwd {os.path.realpath('/bin')}" in rest and "stdin /dev/null" in rest and "AZURE_CORE_NO_COLOR=true" in rest
    assert driver.links()["AzureCliCredential"][0] == "chosen"
    assert abs(driver.do("status")["expires_at"] - now() - 3600) <= 2


def test_azure_cli_tenant_and_local_time(bench):
    """expiresOn is local time, here Berlin's, with or without a fraction."""
    end = now() + 5000
    local = time.strftime
    os.environ["TZ"], before = "Europe/Berlin", os.environ.get("TZ")
    time.tzset()
    text = local("%Y-%m-%d %H:%M:%S", time.localtime(end))
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()
    for fraction in (".000123", ""):
        called = bench.tool("az", f"""echo '{{"accessToken":"T1","expiresOn":"{text}{fraction}"}}'""")
        called.unlink(missing_ok=True)
        driver = bench.driver(tenant_id="contoso.onmicrosoft.com").gives("T1")
        assert notes(called)[0] == AZ + ["--tenant", "contoso.onmicrosoft.com"]
        assert driver.do("status")["expires_at"] == end


def test_azure_developer_cli(bench):
    end = now() + 3600
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end))
    called = bench.tool("azd", f"""echo '{{"token":"T1","expiresOn":"{stamp}"}}'""")
    driver = bench.driver(tenant_id=TENANT).gives("T1")
    assert notes(called)[0] == AZD + ["--tenant-id", TENANT]
    assert driver.do("status")["expires_at"] == end
    assert driver.links()["AzureCliCredential"] == (
        "skipped", "the Azure CLI (az) is not installed, or not in PATH")


@pytest.mark.parametrize("script, state, reason", [
    ("echo \"ERROR: Please run 'az login' to setup account.\" >&2; exit 1", "skipped",
     "az is not logged in: run `az login`"),
    ("echo 'ERROR: it broke' >&2; exit 3", "failed", "az ended with 3: ERROR: it broke"),
    ("exit 3", "failed", "az ended with 3"),
    ("kill -9 $$", "failed", "killed by a signal"),
    ("echo junk", "failed", "az ran, but its output is not JSON"),
    ("echo '{}'", "failed", "az ran, but its output holds no token"),
    ("echo '{\"accessToken\":\"x\"}'", "failed", "does not say when the token expires"),
    ("echo '{\"accessToken\":\"x\",\"expiresOn\":\"tomorrow\"}'", "failed", "does not say when"),
    ("/usr/bin/head -c 1000000 /dev/zero", "failed", "far more than a token"),
    ("/usr/bin/head -c 1000000 /dev/zero >&2", "failed", "far more than a token"),
    ("printf '\\033[31mred\\007' >&2; exit 1", "failed", "az ended with 1: ?[31mred?")])
def test_azure_cli_that_gives_nothing(bench, script, state, reason):
    """Whatever az does, azd is asked next."""
    bench.tool("az", script)
    bench.tool("azd", """echo '{"token":"T2","expiresOn":"2030-01-01T00:00:00Z"}'""")
    driver = bench.driver().gives("T2")
    got, why = driver.links()["AzureCliCredential"]
    assert (got, reason in why) == (state, True), why
    assert driver.links()["AzureDeveloperCliCredential"][0] == "chosen"


def test_what_entra_refused_a_tool_is_told(bench):
    """It also says to log in again; but why, and with which scope, matters more."""
    bench.tool("az", """echo "ERROR: AADSTS50076: you must use multi-factor authentication.
To re-authenticate, please run: az login --scope X" >&2; exit 1""")
    bench.tool("azd", r"""echo '{"type":"consoleMessage","timestamp":"2025","data":{"message":"\nERROR: AADSTS70043: expired. Run `azd auth login`.\n"}}' >&2
exit 1""")
    driver = bench.driver()
    driver.fails()
    links = driver.links()
    assert links["AzureCliCredential"] == ("failed", "az ended with 1: ERROR: AADSTS50076: you must use "
                                           "multi-factor authentication. To re-authenticate, please run: az login --scope X")
    assert links["AzureDeveloperCliCredential"] == (
        "failed", "azd ended with 1: ERROR: AADSTS70043: expired. Run `azd auth login`.")


def test_azure_cli_prints_a_token_in_an_error(bench):
    secret = jwt(sub="x", padding="y" * 60)
    opaque = "Zm9v" * 20
    bench.tool("az", f"""echo 'oops {{"accessToken": "short-one", "x": 1}} {secret} then {opaque}.' >&2; exit 1""")
    driver = bench.driver()
    text = driver.fails() + driver.said() + json.dumps(driver.do("status"))
    assert '"accessToken": "****"' in driver.fails()
    assert not any(word in text for word in (secret, "short-one", opaque))


def test_azure_cli_that_prints_a_token_and_fails(bench):
    secret = jwt(sub="x")
    bench.tool("az", f"""echo '{{"accessToken":"{secret}","expiresOn":"junk"}}'""")
    driver = bench.driver()
    assert secret not in driver.fails() + driver.said()


@pytest.mark.limit(90)
def test_azure_cli_that_hangs_is_killed_with_its_children(bench):
    pids = bench.folder / "pids"
    bench.tool("az", f"/bin/sleep 1000 & echo $! $$ > {pids}.new; /bin/mv {pids}.new {pids}; wait")
    driver = bench.driver(kind="azure-cli")
    driver.post("get 1")
    wait_for(pids.exists, what="az runs")
    driver.post("status")  # the loop goes on meanwhile
    start = time.monotonic()
    assert driver.reply()["refreshing"] is True
    reply = driver.reply()
    assert 8 < time.monotonic() - start < 14
    assert "no answer within 10 s" in reply["why"]
    for pid in pids.read_text().split():
        wait_for(lambda: not running(pid), what=f"{pid} is gone")


def running(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_tool_still_running_at_the_end_is_killed(bench):
    pids = bench.folder / "pids"
    bench.tool("az", f"/bin/sleep 1000 & echo $! $$ > {pids}.new; /bin/mv {pids}.new {pids}; wait")
    driver = bench.driver(kind="azure-cli")
    driver.post("get 1")
    wait_for(pids.exists, what="az runs")
    bench.ends.remove(driver)
    driver.close()
    for pid in pids.read_text().split():
        wait_for(lambda: not running(pid), what=f"{pid} is gone")


def test_a_child_that_stays_behind_does_not_hold_us_up(bench):
    """az leaves a process that reports telemetry and holds its pipes open."""
    pid = bench.folder / "pid"
    bench.tool("az", f"""/bin/sleep 30 & echo $! > {pid}
echo '{{"accessToken":"T1","expires_on":{now() + 3600}}}'""")
    start = time.monotonic()
    try:
        bench.driver().gives("T1")
        assert time.monotonic() - start < 5
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)


def test_tools_see_no_secrets(bench):
    """Nor does /proc/PID/environ of ours show them, once they were taken over."""
    env = {"AZURE_CLIENT_SECRET": "secret-one", "AZURE_CLIENT_CERTIFICATE_PASSWORD": "secret-two",
           "MSI_SECRET": "secret-three", "AZURE_PASSWORD": "secret-four", "IDENTITY_HEADER": "secret-five"}
    called = bench.tool("az", f"""echo '{{"accessToken":"T1","expires_on":{now() + 3600}}}'""")
    driver = bench.driver(env).gives("T1")
    ours = Path(f"/proc/{driver.process.pid}/environ").read_bytes()
    arguments, rest = notes(called)
    assert any(line.startswith("HOME=") for line in rest)
    assert not [line for line in rest if "secret-" in line]
    assert b"secret-one" not in ours and b"secret-three" not in ours and b"secret-five" not in ours


def test_programs_are_found_by_absolute_parts_of_path_only(bench):
    bench.tool("az", "exit 0")
    driver = bench.driver({"PATH": "tools:.::"}, kind="azure-cli")
    assert "not installed" in driver.fails() and not bench.calls("az")


# --- the chain

def test_nothing_is_set_up(bench):
    driver = bench.driver()
    text = driver.fails()
    lines = text.splitlines()
    assert lines[0] == f"no token for {RESOURCE}:"
    assert [line.split(":")[0].strip() for line in lines[1:6]] == NAMES
    assert all(": skipped: " in line for line in lines[1:6])
    for word in ["az login", "azd auth login", "AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET",
                 "AZURE_CLIENT_CERTIFICATE_PATH", "managed identity", "ACAFS_TOKEN"]:
        assert word in "\n".join(lines[6:]), word
    assert driver.errno == "EACCES" and "login-check" in driver.line
    for line in lines:
        assert line in driver.said(), "the log has it all"
    status = driver.do("status")
    assert [link["name"] for link in status["links"]] == NAMES
    assert all(link["reason"] in text for link in status["links"])


def everything(bench):
    """All five set up: whoever is asked first answers."""
    authority, metadata = bench.fake(token("authority")), bench.fake(token("metadata"))
    federated = bench.folder / "federated"
    federated.write_text("assertion")
    bench.tool("az", f"""echo '{{"accessToken":"az","expires_on":{now() + 3600}}}'""")
    bench.tool("azd", """echo '{"token":"azd","expiresOn":"2030-01-01T00:00:00Z"}'""")
    return with_secret(authority, AZURE_FEDERATED_TOKEN_FILE=federated,
                       AZURE_POD_IDENTITY_AUTHORITY_HOST=metadata.url), authority


def test_order(bench):
    env, authority = everything(bench)
    for name, missing, text in [
            (NAMES[0], None, "authority"), (NAMES[1], "AZURE_CLIENT_SECRET", "authority"),
            (NAMES[2], "AZURE_TENANT_ID", "metadata"),
            (NAMES[3], "AZURE_POD_IDENTITY_AUTHORITY_HOST", "az"), (NAMES[4], None, "azd")]:
        if missing:
            env[missing] = bench.nowhere if "HOST" in missing else None
        if name == NAMES[4]:
            (bench.tools / "az").unlink()
        driver = bench.driver(env).gives(text)
        states = {link: state for link, (state, _) in driver.links().items()}
        at = NAMES.index(name)
        assert [states[link] for link in NAMES] == ["skipped"] * at + ["chosen"] + ["untried"] * (4 - at)
        assert driver.do("status")["in_use"] == name
    assert [dict(r.form).get("client_assertion") for r in authority.requests] == [None, "assertion"]


@pytest.mark.parametrize("word, text", [
    ("EnvironmentCredential", "authority"), ("workloadidentitycredential", "authority"),
    ("MANAGEDIDENTITYCREDENTIAL", "metadata"), ("AzureCliCredential", "az"),
    ("azuredevelopercliCredential", "azd"), (" AzureCliCredential ", "az"), ("prod", "authority"), ("dev", "az"), ("DEV", "az")])
def test_selection_by_variable(bench, word, text):
    env, _ = everything(bench)
    driver = bench.driver({**env, "AZURE_TOKEN_CREDENTIALS": word}).gives(text)
    if len(word) > 4:
        taking_part = [name for name, (state, why) in driver.links().items()
                       if "left out" not in (why or "")]
        assert [name.lower() for name in taking_part] == [word.strip().lower()]


@pytest.mark.parametrize("word, text", [
    ("environment", "authority"), ("workload-identity", "authority"), ("managed-identity", "metadata"),
    ("azure-cli", "az"), ("azd", "azd"), ("dev", "az"), ("default", "authority")])
def test_selection_by_option(bench, word, text):
    env, _ = everything(bench)
    # The option goes before the variable.
    other = "EnvironmentCredential" if word == "default" else "AzureDeveloperCliCredential"
    bench.driver({**env, "AZURE_TOKEN_CREDENTIALS": other}, kind=word).gives(text)


def test_prod_leaves_out_the_tools(bench):
    bench.tool("az", "exit 0")
    driver = bench.driver({"AZURE_TOKEN_CREDENTIALS": "prod"})
    text = driver.fails()
    assert "AzureCliCredential: left out by AZURE_TOKEN_CREDENTIALS" in text
    assert not bench.calls("az")


@pytest.mark.parametrize("word", ["production", "AzurePowerShellCredential", "x" * 500])
def test_selection_of_nothing_known(bench, word):
    refused = bench.driver({"AZURE_TOKEN_CREDENTIALS": word}).refused
    assert "AZURE_TOKEN_CREDENTIALS" in refused and all(name in refused for name in NAMES)


def test_a_named_credential_speaks_for_itself(bench):
    driver = bench.driver(kind="environment")
    driver.fails()
    assert driver.line.startswith("EnvironmentCredential: not set: AZURE_TENANT_ID")


def test_the_first_that_gives_is_kept(bench):
    """When az is no longer logged in, nobody looks for another identity behind the user's back."""
    bench.tool("az", f"""[ -e {bench.folder}/out ] && {{ echo "run az login" >&2; exit 1; }}
echo '{{"accessToken":"T1","expires_on":{now() + 600}}}'""")
    bench.tool("azd", """echo '{"token":"azd","expiresOn":"2030-01-01T00:00:00Z"}'""")
    driver = bench.driver().gives("T1")
    (bench.folder / "out").touch()
    driver.clock(601)
    text = driver.fails()
    assert "AzureCliCredential: skipped: az is not logged in" in text and not bench.calls("azd")
    assert driver.line == "AzureCliCredential: az is not logged in: run `az login`"
    (bench.folder / "out").unlink()
    driver.clock(-601 + 10)
    driver.gives("T1")


def test_failures_are_held_for_a_moment(bench):
    """A mount in trouble does not run az for every read."""
    bench.tool("az", "exit 1")
    driver = bench.driver(kind="azure-cli")
    for _ in range(20):
        driver.fails()
    assert bench.calls("az") == 1
    driver.clock(6)
    driver.fails()
    assert bench.calls("az") == 2
    assert driver.said().count("az ended with 1") == 1, "and the log says it once"


def test_failures_that_differ_in_an_id_only_do_not_fill_the_log(bench):
    fake = bench.fake(lambda r: answer(401, {"error": "x", "error_description": f"AADSTS1: no. Trace ID: {len(fake.requests)}"}))
    driver = bench.driver(with_secret(fake))
    for _ in range(10):
        driver.fails()
        driver.clock(6)
    assert len(fake.requests) == 10 and driver.said().count("no token for") == 1
    driver.clock(10)
    driver.fails()
    assert driver.said().count("no token for") == 2 and "Trace ID: 11" in driver.said()


# --- tokens as they are

def test_acafs_token(bench):
    env, authority = everything(bench)
    driver = bench.driver({**env, "ACAFS_TOKEN": "handed-over"}).gives("handed-over")
    assert driver.do("status")["in_use"] == "ACAFS_TOKEN" and not authority.requests
    assert b"handed-over" not in Path(f"/proc/{driver.process.pid}/environ").read_bytes()
    driver.do("refuse")
    assert "the pool refused this token" in driver.fails() and not authority.requests


@pytest.mark.parametrize("text", ["a b", "a\nX: y", "ä", " "])
def test_acafs_token_that_is_none(bench, text):
    refused = bench.driver({"ACAFS_TOKEN": text}).refused
    assert "ACAFS_TOKEN: not a token" in refused


def test_token_file(bench):
    path = bench.folder / "token"
    path.write_text("one\n")
    path.chmod(0o600)
    driver = bench.driver(token_file="token").gives("one")
    path.write_text("two\n")
    driver.gives("two")
    path.unlink()
    assert f"{path}: No such file" in driver.fails()
    path.write_text("three words here")
    assert "not a token" in driver.fails()
    path.write_text(jwt(exp=now() + 99))
    driver.gives(path.read_text())
    assert abs(driver.do("status")["expires_at"] - now() - 99) <= 2


def test_none(bench):
    driver = bench.driver({"ACAFS_TOKEN": "x"}, kind="none")
    assert driver.get()["none"]
    pool = bench.fake(answer(200))
    assert driver.do(f"call {pool.url}/files 1")["statuses"] == [200]
    assert "authorization" not in pool.requests[0].headers


def test_token_without_one(bench):
    assert "ACAFS_TOKEN" in bench.driver(kind="token").refused


# --- the life of a token

@pytest.mark.parametrize("more", [
    {"expires_in": 3600}, {"expires_in": "3600"}, {"expires_in": 1, "expires_on": "+3600"},
    {"expires_in": 1, "expires_on": "+3600", "as": int}])
def test_expiry_as_number_and_string(bench, more):
    end = now() + 3600
    if "expires_on" in more:
        more = {**more, "expires_on": more.get("as", str)(end)}
    more.pop("as", None)
    fake = bench.fake(token("T1", **more))
    driver = bench.driver(with_secret(fake)).gives("T1")
    assert abs(driver.do("status")["expires_at"] - end) <= 3


def test_one_refresh_for_fifty(bench):
    gate = threading.Event()
    reply = token("T1")
    reply["delay"] = gate
    fake = bench.fake(reply)
    driver = bench.driver(with_secret(fake))
    driver.post("get 50")
    wait_for(lambda: fake.requests, what="the authority is asked")
    gate.set()
    assert driver.reply()["sums"] == [digest("T1")] * 50
    driver.gives("T1", 50)
    assert len(fake.requests) == 1


def test_one_failure_for_fifty(bench):
    fake = bench.fake(answer(400, {"error": "x"}))
    reply = bench.driver(with_secret(fake)).get(50)
    assert reply["errs"] == ["EACCES"] * 50 and len(fake.requests) == 1


def test_those_who_no_longer_wait_are_not_told(bench):
    fake = bench.fake(token("T1"))
    driver = bench.driver(with_secret(fake))
    driver.do("cancel 20")  # 7 and 20 have no common factor: each once
    driver.gives("T1")
    assert len(fake.requests) == 1, "their refresh is the next one's"


def test_one_refresh_for_fifty_requests_to_the_pool(bench):
    """Also when those that wait hold all places for transfers."""
    fake, pool = bench.fake(token("T1")), bench.fake(answer(200))
    driver = bench.driver(with_secret(fake))
    reply = driver.do(f"call {pool.url}/files 50")
    assert reply["statuses"] == [200] * 50
    assert len(fake.requests) == 1 and len(pool.requests) == 50
    assert {r.headers["authorization"] for r in pool.requests} == {"Bearer T1"}


def test_reuse_until_five_minutes_before_the_end(bench):
    fake = bench.fake(token("T1"), token("T2"))
    driver = bench.driver(with_secret(fake)).gives("T1")
    driver.clock(3600 - 300 - 10)
    driver.gives("T1", 10)
    assert len(fake.requests) == 1
    driver.clock(12)
    driver.gives("T1", 10)  # nobody waits: the old one is good
    wait_for(lambda: not driver.do("status")["refreshing"], what="the refresh is over")
    driver.gives("T2")
    assert len(fake.requests) == 2


def test_a_clock_past_the_end_causes_one_refresh(bench):
    fake = bench.fake(token("T1"), token("T2"))
    driver = bench.driver(with_secret(fake)).gives("T1")
    driver.clock(3601)
    driver.gives("T2", 50)
    assert len(fake.requests) == 2


def test_a_clock_that_is_ahead_does_not_fetch_for_every_request(bench):
    fake = bench.fake(lambda r: token(f"T{len(fake.requests)}", expires_in=None, expires_on=now() + 3600))
    driver = bench.driver(with_secret(fake))
    driver.clock(7200)
    for _ in range(20):
        driver.gives("T1")
    assert len(fake.requests) == 1 and "is it right?" in driver.said()
    driver.clock(31)
    driver.gives("T2")


def test_refresh_in(bench):
    fake = bench.fake(token("T1", expires_in=86400, refresh_in="3600"), token("T2"))
    driver = bench.driver(with_secret(fake)).gives("T1")
    driver.clock(3590)
    driver.gives("T1")
    assert len(fake.requests) == 1
    driver.clock(12)
    driver.gives("T1")
    wait_for(lambda: not driver.do("status")["refreshing"], what="the refresh is over")
    driver.gives("T2")
    assert len(fake.requests) == 2


def test_a_failed_early_refresh_harms_nobody(bench):
    fake = bench.fake(token("T1"), answer(400, {"error": "x"}))
    driver = bench.driver(with_secret(fake)).gives("T1")
    driver.clock(3400)
    driver.gives("T1")
    idle = lambda: not driver.do("status")["refreshing"]
    wait_for(idle, what="the refresh is over")
    driver.gives("T1", 20)
    assert len(fake.requests) == 2 and "no new token yet" in driver.said()
    driver.clock(29)
    driver.gives("T1")
    assert len(fake.requests) == 2, "not again within 30 s"
    driver.clock(2)
    driver.gives("T1")
    wait_for(lambda: len(fake.requests) == 3, what="but after them")
    wait_for(idle, what="the refresh is over")
    driver.clock(200)
    assert "HTTP 400" in driver.fails(), "the end of the old one is the end"


def test_those_who_join_a_refresh_wait_for_it(bench):
    gate = threading.Event()
    slow = token("T2")
    slow["delay"] = gate
    fake = bench.fake(token("T1"), slow)
    driver = bench.driver(with_secret(fake)).gives("T1")
    driver.clock(3400)
    driver.gives("T1")
    wait_for(lambda: len(fake.requests) == 2, what="the refresh is under way")
    driver.clock(300)
    driver.post("get 5")  # the old one is over: they wait for the refresh under way
    gate.set()
    assert driver.reply()["sums"] == [digest("T2")] * 5
    assert len(fake.requests) == 2


def test_401_causes_one_new_token_and_one_retry(bench):
    fake = bench.fake(token("old"), token("new"))
    pool = bench.fake(lambda r: answer(200 if r.headers["authorization"] == "Bearer new" else 401))
    driver = bench.driver(with_secret(fake))
    assert driver.do(f"call {pool.url}/files 1")["statuses"] == [200]
    assert [r.headers["authorization"] for r in pool.requests] == ["Bearer old", "Bearer new"]
    assert len(fake.requests) == 2


def test_401_for_many_causes_one_new_token(bench):
    fake = bench.fake(token("old"), token("new"))
    pool = bench.fake(lambda r: answer(200 if r.headers["authorization"] == "Bearer new" else 401))
    driver = bench.driver(with_secret(fake)).gives("old")
    assert driver.do(f"call {pool.url}/files 50")["statuses"] == [200] * 50
    assert len(fake.requests) == 2


def test_a_pool_that_refuses_everything_does_not_wear_out_the_authority(bench):
    fake, pool = bench.fake(lambda r: token(f"T{len(fake.requests)}")), bench.fake(answer(401))
    driver = bench.driver(with_secret(fake))
    for _ in range(20):
        assert driver.do(f"call {pool.url}/files 1")["statuses"] == [401]
    assert len(fake.requests) == 1 + 4
    driver.clock(31)
    driver.do(f"call {pool.url}/files 1")
    assert len(fake.requests) == 1 + 4 + 1


def test_401_for_good(bench):
    fake, pool = bench.fake(token("T1")), bench.fake(answer(401))
    driver = bench.driver(with_secret(fake))
    assert driver.do(f"call {pool.url}/files 1")["statuses"] == [401]
    assert len(pool.requests) == 2 and len(fake.requests) == 2


# --- nothing secret is left lying about

def memory(pid):
    """All that a process may write to, its pages that no core dump has included."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb") as mem:
        for line in maps:
            span, mode = line.split()[:2]
            if not mode.startswith("rw"):
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            mem.seek(start)
            try:
                yield line.rstrip(), mem.read(end - start)
            except OSError:
                pass  # a guard page


def sanitized():
    """A sanitizer's allocator keeps what is freed, as it should; and its shadow is terabytes."""
    return b"__asan_init" in DRIVER.read_bytes()


def pieces(secret):
    """A secret that was overwritten but for some bytes is still a find."""
    data = secret.encode()
    return [data[i:i + 16] for i in range(0, len(data) - 15, 16)]


def finds(secret, images):
    return [(where, piece) for where, image in images for piece in pieces(secret) if piece in image]


def long_secret(tag):
    return tag + base64.urlsafe_b64encode(os.urandom(900)).decode().rstrip("=")


def test_nothing_is_left_of_a_dropped_token(bench, certificates):
    """Through TLS, JSON, retries and many requests: when the token is dropped it is gone from memory; and
    of the secret, which is needed for the next, no core image has a trace."""
    tls = certificates.server()
    text, secret = long_secret("tok-"), long_secret("sec-")
    gate = threading.Event()
    waits = answer(503)
    waits["delay"] = gate
    # The second token never comes, so that the search finds the process as the first one left it.
    authority = bench.fake(answer(503), token(text, expires_in=3600), waits, tls=tls)
    pool = bench.fake(answer(500), answer(200, text="x" * 50_000), tls=tls)
    driver = bench.driver({"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": CLIENT,
                           "AZURE_CLIENT_SECRET": secret, "AZURE_AUTHORITY_HOST": authority.url})
    pid = driver.process.pid
    assert driver.do(f"call {pool.url}/files 1")["statuses"] == [200]
    assert driver.do(f"call {pool.url}/files 20")["statuses"] == [200] * 20
    driver.gives(text, 3)
    assert sanitized() or finds(text, memory(pid)), "the search finds what is there"
    driver.do("refuse")
    if not sanitized():
        assert not finds(text, memory(pid))
    assert secret not in driver.said() and text not in driver.said()
    for name in ("cmdline", "environ"):
        shown = Path(f"/proc/{pid}/{name}").read_bytes()
        assert not finds(secret, [(name, shown)]) and not finds(text, [(name, shown)])
    status = json.dumps(driver.do("status"))
    assert secret not in status and text not in status
    if shutil.which("gcore") and not sanitized():
        done = process.run(["gcore", "-o", bench.folder / "core", str(pid)], check=False)
        if "not permitted" in done.stdout + done.stderr:
            pytest.skip("gcore may not look into other processes here (kernel.yama.ptrace_scope)")
        image = Path(f"{bench.folder}/core.{pid}").read_bytes()
        assert len(image) > 100_000 and b"credential_driver" in image
        assert not finds(text, [("core", image)]) and not finds(secret, [("core", image)])
    gate.set()


def test_nothing_is_left_of_what_tools_and_files_gave(bench):
    first, second, key = long_secret("az-"), long_secret("fed-"), long_secret("arc-")
    bench.tool("az", f"""echo '{{"accessToken":"{first}","expires_on":{now() + 3600}}}'""")
    driver = bench.driver(kind="azure-cli").gives(first)
    driver.do("refuse")
    path = bench.folder / "token"
    path.write_text(second)
    other = bench.driver(token_file=path).gives(second)
    other.do("refuse")
    fake, folder, env = arc(bench, bench.folder / "arc" / "n1.key", text=key)
    (folder / "n1.key").write_text(key)
    third = bench.driver(env, arc_directory=folder).gives("T1")
    if not sanitized():
        assert not finds(first, memory(driver.process.pid))
        assert not finds(second, memory(other.process.pid))
        assert not finds(key, memory(third.process.pid))


def test_acafs_token_leaves_the_environment(bench):
    text = long_secret("given-")
    driver = bench.driver({"ACAFS_TOKEN": text}).gives(text)
    driver.do("refuse")
    if not sanitized():
        assert not finds(text, memory(driver.process.pid))


# --- the same as Azure's own library

AZURES = """
import json, sys
from azure.identity import DefaultAzureCredential
skip = {f"exclude_{name}_credential": True for name in
        ("shared_token_cache", "visual_studio_code", "powershell", "developer_cli", "interactive_browser")}
skip.update({f"exclude_{name}_credential": True for name in sys.argv[2:]})
# The fake is no authority that Microsoft knows; the keyword was renamed in later versions.
token = DefaultAzureCredential(instance_discovery=False, disable_instance_discovery=True,
                               **skip).get_token(sys.argv[1])
print(json.dumps([token.token, token.expires_on]))
"""

IMPLIED = {"client_info"}  # MSAL asks for an id of the client's account, which service principals lack
TELLING = ["metadata", "secret", "x-identity-header", "authorization", "content-type"]


def normal(request):
    """What of a request a service looks at."""
    form = {name: value for name, value in request.form if name not in IMPLIED}
    if "." in form.get("client_assertion", "") and form["client_assertion"].count(".") == 2:
        head, body, _ = form["client_assertion"].split(".")
        claims = json.loads(b64(body))
        form["client_assertion"] = {
            "x5t": json.loads(b64(head)).get("x5t", "").rstrip("="),
            **{name: claims.get(name) for name in ("aud", "iss", "sub")},
            "names": sorted(claims)}
    headers = {name: request.headers[name].split(";")[0] for name in TELLING
               if name in request.headers and not (name == "content-type" and not request.form)}
    return (request.method, request.path, sorted(request.query), form, headers)


def asked_by_both(bench, fake, env, skip=(), **options):
    """The requests of Azure's library and ours, without what only discovers the authority."""
    pytest.importorskip("azure.identity")
    env = bench.environment(REQUESTS_CA_BUNDLE=bench.certificates.ca.certificate,
                            PYTHONPATH=os.environ.get("PYTHONPATH"),
                            AZURE_IDENTITY_DISABLE_CP1="true",  # we answer no claims challenges
                            **env)
    theirs = process.run(["/usr/bin/python3", "-c", AZURES, SCOPE, *skip], env=env)
    count = len(fake.requests)
    given = json.loads(theirs.stdout)
    driver = Driver(bench.folder, env, options)
    bench.ends.insert(0, driver)
    driver.gives(given[0])
    assert abs(driver.do("status")["expires_at"] - given[1]) <= 30
    relevant = lambda requests: [normal(r) for r in requests if ".well-known" not in r.path]
    return relevant(fake.requests[:count]), relevant(fake.requests[count:])


def entra(bench, certificates):
    fake = None

    def say(request):
        if ".well-known" in request.path:
            base = f"{fake.url}/{TENANT}"
            return answer(document={"token_endpoint": base + "/oauth2/v2.0/token", "issuer": base + "/v2.0",
                                    "authorization_endpoint": base + "/oauth2/v2.0/authorize"})
        return token("T1")
    fake = bench.fake(say, tls=certificates.server())
    return fake


def test_as_azures_library_secret(bench, certificates):
    fake = entra(bench, certificates)
    theirs, ours = asked_by_both(bench, fake, with_secret(fake))
    assert theirs == ours and len(ours) == 1


def test_as_azures_library_certificate(bench, certificates):
    fake = entra(bench, certificates)
    pair = certificates.signed("client")
    path = join(bench.folder / "client.pem", pair.key, pair.certificate)
    theirs, ours = asked_by_both(bench, fake, principal(fake, AZURE_CLIENT_CERTIFICATE_PATH=path))
    for form in (theirs[0][3], ours[0][3]):
        # MSAL adds when it was issued; Entra ID asks for nbf, which old MSAL leaves out.
        form["client_assertion"]["names"] = sorted(set(form["client_assertion"]["names"]) - {"iat", "nbf"})
    assert theirs == ours and len(ours) == 1


def test_as_azures_library_workload_identity(bench, certificates):
    fake = entra(bench, certificates)
    path = bench.folder / "federated"
    path.write_text("an-assertion")
    theirs, ours = asked_by_both(bench, fake, principal(fake, AZURE_FEDERATED_TOKEN_FILE=path))
    assert theirs == ours and len(ours) == 1


@pytest.mark.parametrize("client", [None, CLIENT])
@pytest.mark.parametrize("host", ["app service", "service fabric", "cloud shell", "azure ml", "imds"])
def test_as_azures_library_managed_identity(bench, certificates, host, client):
    say = lambda r: answer(document={"access_token": "T1", "expires_on": str(now() + 3600),
                                     "token_type": "Bearer", "resource": RESOURCE})
    fabric = certificates.self_signed("fabric")
    fake = bench.fake(say, tls=fabric if host == "service fabric" else None)
    env = {
        "app service": {"IDENTITY_ENDPOINT": fake.url + "/msi/token", "IDENTITY_HEADER": "h"},
        "service fabric": {"IDENTITY_ENDPOINT": fake.url + "/x", "IDENTITY_HEADER": "h",
                           "IDENTITY_SERVER_THUMBPRINT": hashlib.sha1(certificates.der(fabric.certificate)).hexdigest()},
        "cloud shell": {"MSI_ENDPOINT": fake.url + "/oauth2/token"},
        "azure ml": {"MSI_ENDPOINT": fake.url + "/x", "MSI_SECRET": "s"},
        "imds": {"AZURE_POD_IDENTITY_AUTHORITY_HOST": fake.url},
    }[host]
    theirs, ours = asked_by_both(bench, fake, {**env, "AZURE_CLIENT_ID": client})
    if host == "imds":
        assert "metadata" not in ours[0][4] and ours[0][:4] == ours[1][:4]
        ours = ours[1:]  # the probe, which Azure's library leaves out where a host is named
    assert theirs == ours and len(ours) == 1


def test_as_azures_library_arc(bench):
    fake, folder, env = arc(bench, bench.folder / "arc" / "n1.key")
    (folder / "n1.key").write_text("arc-key")
    say = fake.answers[0]
    fake.answers[0] = lambda r: say(r) if "authorization" not in r.headers else answer(
        document={"access_token": "T1", "expires_on": str(now() + 3600), "resource": RESOURCE})
    theirs, ours = asked_by_both(bench, fake, env, arc_directory=folder)
    assert theirs == ours and len(ours) == 2


def test_as_azures_library_cli(bench):
    called = bench.tool("az", f"""echo '{{"accessToken":"T1","expiresOn":"2030-01-01 00:00:00.000000"}}'""")
    asked_by_both(bench, bench.fake(), {"PATH": f"{bench.tools}:/usr/bin:/bin"},
                  skip=["managed_identity"])
    lines = called.read_text().splitlines()
    calls = [lines[i + 1:i + 7] for i, line in enumerate(lines) if line == "6"]
    assert calls == [AZ, AZ]
    assert bench.calls("az") == 2
