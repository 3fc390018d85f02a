"""Entra ID and the metadata services of Azure's hosts, on loopback: they write down what they are
asked and answer as the test says."""

import http.server
import json
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse


class Request:
    def __init__(self, handler, body):
        parts = urllib.parse.urlsplit(handler.path)
        self.method = handler.command
        self.target = handler.path
        self.path = parts.path
        self.query = urllib.parse.parse_qsl(parts.query, keep_blank_values=True)
        self.headers = {name.lower(): value for name, value in handler.headers.items()}
        self.header_names = list(handler.headers.keys())
        self.body = body.decode()
        self.form = urllib.parse.parse_qsl(self.body, keep_blank_values=True)

    @property
    def members(self):
        return dict(self.form)

    def __repr__(self):
        return f"{self.method} {self.target}"


def answer(status=200, document=None, headers=None, text=None, delay=None):
    """What a Fake says to one request."""
    return {"status": status, "headers": headers or {}, "delay": delay,
            "body": text if text is not None else json.dumps(document or {})}


def token(text="fake-token", expires_in=3600, **more):
    return answer(document={"token_type": "Bearer", "access_token": text, "expires_in": expires_in, **more})


class Fake:
    """A server whose n-th answer is the n-th of `answers`, the last one for all that follow. An
    answer may be a function of the Request. `delay` is an Event to wait for before answering."""

    def __init__(self, *answers, tls=None, host="127.0.0.1"):
        self.answers = list(answers) or [token()]
        self.requests = []
        self.lock = threading.Lock()
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def handle_any(self):
                length = int(self.headers.get("Content-Length") or 0)
                request = Request(self, self.rfile.read(length))
                with fake.lock:
                    fake.requests.append(request)
                    say = fake.answers[0] if len(fake.answers) == 1 else fake.answers.pop(0)
                if callable(say):
                    say = say(request)
                if say["delay"]:
                    say["delay"].wait(30)
                body = say["body"].encode()
                try:
                    self.send_response(say["status"])
                    for name, value in say["headers"].items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass  # the asker gave up

            do_GET = do_POST = do_CONNECT = handle_any

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

            def handle_error(self, *_):
                pass

        self.host = f"[{host}]" if ":" in host else host
        self.server = Server((host, 0), Handler)
        self.scheme = "http"
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.certificate, tls.key)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True,
                                                     do_handshake_on_connect=False)
            self.scheme = "https"
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    @property
    def url(self):
        return f"{self.scheme}://{self.host}:{self.port}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Certificates:
    """A certificate authority of our own, and what it signs, made with the openssl command."""

    class Pair:
        def __init__(self, certificate, key):
            self.certificate, self.key = certificate, key

    def __init__(self, folder):
        self.folder = folder
        self.ca = self._make("ca", ["-subj", "/CN=acafs tests"])

    def openssl(self, *arguments):
        done = subprocess.run(["openssl", *map(str, arguments)], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, done.stdout.decode()
        return done.stdout

    def _make(self, name, options, kind=("-newkey", "rsa:2048")):
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        self.openssl("req", "-x509", *kind, "-nodes", "-days", 2, "-keyout", key, "-out",
                     certificate, *options)
        return self.Pair(certificate, key)

    def self_signed(self, name, kind=("-newkey", "rsa:2048")):
        return self._make(name, ["-subj", f"/CN={name}"], kind)

    def signed(self, name, *extensions, by=None, days=2):
        by = by or self.ca
        key, certificate = self.folder / f"{name}.key", self.folder / f"{name}.crt"
        request, settings = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        self.openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request,
                     "-subj", f"/CN={name}")
        settings.write_text("\n".join(extensions) or "basicConstraints=CA:FALSE")
        self.openssl("x509", "-req", "-in", request, "-CA", by.certificate, "-CAkey", by.key,
                     "-CAcreateserial", "-days", days, "-extfile", settings, "-out", certificate)
        return self.Pair(certificate, key)

    def server(self):
        return self.signed("server", "subjectAltName=IP:127.0.0.1,DNS:localhost")

    def verifies(self, pair, text, signature):
        """Whether it is a PS256 signature (RFC 7518, 3.5) by that pair."""
        key, file, proof = (self.folder / f"verify.{end}" for end in ("pub", "text", "sig"))
        self.openssl("x509", "-in", pair.certificate, "-noout", "-pubkey", "-out", key)
        file.write_bytes(text)
        proof.write_bytes(signature)
        return b"Verified OK" in self.openssl(
            "dgst", "-sha256", "-verify", key, "-sigopt", "rsa_padding_mode:pss", "-sigopt",
            "rsa_pss_saltlen:digest", "-sigopt", "rsa_mgf1_md:sha256", "-signature", proof, file)

    def der(self, certificate):
        return self.openssl("x509", "-in", certificate, "-outform", "DER")


def closed_port():
    """An address of this machine where nobody answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


class Silent:
    """A port that takes connections and says nothing."""

    def __init__(self):
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(16)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def close(self):
        self.socket.close()


def now():
    return int(time.time())
