"""How content comes to a reader: what is asked of the server, counted at a proxy, and what never is."""

import hashlib
import os
import random
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import proxy as faults
from support.wait import wait_for

pytestmark = pytest.mark.session

CONTENT = "GET files/{name}/content"
FILL = ("import os, random\nos.makedirs('/mnt/data/d', exist_ok=True)\n"
        "for n in range({count}):\n with open(f'/mnt/data/d/f{{n:03}}', 'wb') as file:\n"
        "  x = file.write(random.Random(n).randbytes({size}))\n")


def content(n, size):
    return random.Random(n).randbytes(size)


@pytest.fixture
def many(mounts, proxy, tcp_pool, session):
    """A mount, cold, of a session with files d/f000… of 4 KiB."""
    def make(count=60, size=4096, **how):
        tcp_pool.run(session, FILL.format(count=count, size=size))
        return mounts(session=session, proxy=proxy, **how)
    return make


def ahead(mount):
    return mount.status()["counters"]["downloads_ahead"]


def names_asked(proxy):
    return {re.search(r"files/([^/]+)/content", request.path).group(1)
            for request in proxy.requests if request.kind == "files/{name}/content"}


@pytest.mark.parametrize("order", [sorted, list], ids=["by name", "as listed"])
def test_the_next_files_come_before_they_are_asked_for(many, proxy, order):
    mount = many()
    names = order(os.listdir(mount / "d"))
    for name in names[:10]:
        assert (mount / "d" / name).read_bytes() == content(int(name[1:]), 4096)
    wait_for(lambda: names_asked(proxy) >= set(names[:20]), what="files fetched ahead")
    for name in names[10:]:
        assert (mount / "d" / name).read_bytes() == content(int(name[1:]), 4096)
    assert ahead(mount) >= 40
    assert proxy.count(CONTENT) == 60, "each file is fetched once"


def test_readers_in_parallel_make_a_pattern_too(many, proxy):
    mount = many()
    with ThreadPoolExecutor(4) as readers:
        found = list(readers.map(lambda n: (mount / f"d/f{n:03}").read_bytes(), range(60)))
    assert found == [content(n, 4096) for n in range(60)]
    assert proxy.count(CONTENT) == 60
    assert ahead(mount) > 0


def test_no_pattern_nothing_ahead(many, proxy):
    mount = many()
    order = [n * 23 % 60 for n in range(20)]  # 0, 23, 46, 9, …
    for n in order:
        assert (mount / f"d/f{n:03}").read_bytes() == content(n, 4096)
    assert ahead(mount) == 0
    assert proxy.count(CONTENT) == 20


def test_what_is_asked_for_goes_first(many, proxy, tcp_pool, session):
    tcp_pool.write(session, "wanted", b"now")
    mount = many(options=["max-transfers=4"])
    late = threading.Event()
    proxy.rule(lambda request: re.search(r"f0(0[6-9]|[1-5]\d)/content", request.path), _until(late))
    for n in range(6):
        (mount / f"d/f{n:03}").read_bytes()
    wait_for(lambda: names_asked(proxy) & {f"f{n:03}" for n in range(6, 60)}, what="files on their way")
    assert (mount / "wanted").read_bytes() == b"now"
    late.set()
    assert (mount / "d/f007").read_bytes() == content(7, 4096)


@pytest.mark.parametrize("order", [(99, 80, 90), (55, 40, 50)], ids=["broken", "passed over"])
def test_given_up_when_the_pattern_breaks(many, proxy, order):
    size = 300 << 10  # shorter ones are let come
    mount = many(100, size)
    late = threading.Event()
    proxy.rule(lambda request: re.search(r"f00[6-9]/content", request.path), _until(late))
    for n in range(6):
        (mount / f"d/f{n:03}").read_bytes()
    wait_for(lambda: names_asked(proxy) >= {"f006", "f007"}, what="files on their way")
    for n in order:
        (mount / f"d/f{n:03}").read_bytes()
    late.set()
    for n in range(6, 8):
        assert (mount / f"d/f{n:03}").read_bytes() == content(n, size)
    asked = [request.path for request in proxy.requests if request.kind == "files/{name}/content"]
    for n in range(6, 8):
        assert sum(path.endswith(f"f{n:03}/content") for path in asked) == 2, "was on its way yet"


def _until(event):
    def act(exchange):
        while not event.wait(0.05):
            exchange.pause(0)
        exchange.forward()
    return act


def test_not_more_than_the_cache_holds(many):
    mount = many(count=20, size=500_000, options=["cache-size=4M"])
    for n in range(20):
        assert (mount / f"d/f{n:03}").read_bytes() == content(n, 500_000)
        assert mount.status()["cache"]["bytes"] <= 4 << 20
    assert ahead(mount) > 0


# --- within a file

MB = 1_000_000


@pytest.fixture
def big(mounts, proxy, tcp_pool, session):
    tcp_pool.run(session, "import random\nwith open('/mnt/data/big', 'wb') as file:\n"
                 " for n in range(30):\n  x = file.write(random.Random(n).randbytes(1_000_000))\n")
    return mounts(session=session, proxy=proxy), b"".join(content(n, MB) for n in range(30))


def no_ranges(exchange):
    exchange._head = re.sub(rb"(?i)\r\nrange:[^\r]*", b"", exchange._head)
    exchange.forward()


def test_the_end_of_a_file_needs_not_all_of_it(big):
    mount, data = big
    with open(mount / "big", "rb") as file:
        file.seek(-4, os.SEEK_END)
        assert file.read() == data[-4:]
    assert mount.status()["counters"]["bytes_in"] < 5 * MB


def test_a_seek_overtakes_the_download(big, proxy):
    mount, data = big
    late = threading.Event()

    def slow(exchange):
        """The first two megabytes, and the rest when the test says so."""
        given = 0

        def relay(piece):
            nonlocal given
            given += len(piece)
            while given > 2 * MB and not late.wait(0.05):
                exchange.pause(0)
            exchange.send(piece)
        exchange.forward(relay=relay)
    proxy.rule(lambda request: request.kind.endswith("content") and "range" not in request.headers, slow)
    with open(mount / "big", "rb", buffering=0) as file:
        assert file.read(100) == data[:100]
        file.seek(20 * MB)
        assert file.read(1000) == data[20 * MB:20 * MB + 1000]
        late.set()
    assert (mount / "big").read_bytes() == data


def test_without_ranges_a_seek_waits_for_the_stream(big, proxy):
    mount, data = big
    proxy.rule(CONTENT, no_ranges)
    with open(mount / "big", "rb", buffering=0) as file:
        assert os.pread(file.fileno(), 1000, 25 * MB) == data[25 * MB:25 * MB + 1000]
        assert os.pread(file.fileno(), 1000, 3 * MB) == data[3 * MB:3 * MB + 1000]
    assert (mount / "big").read_bytes() == data
    assert proxy.count(CONTENT) <= 2


def test_pieces_in_any_order_by_many(big):
    mount, data = big
    order = random.Random(5)
    pieces = [(order.randrange(30 * MB), order.randrange(1, 300_000)) for _ in range(120)]
    file = os.open(mount / "big", os.O_RDONLY)
    try:
        with ThreadPoolExecutor(4) as readers:
            for (at, size), piece in zip(pieces, readers.map(lambda p: os.pread(file, p[1], p[0]), pieces)):
                assert piece == data[at:at + size], (at, size)
    finally:
        os.close(file)
    assert hashlib.sha256((mount / "big").read_bytes()).digest() == hashlib.sha256(data).digest()


def test_readers_share_a_download(big, proxy):
    mount, data = big
    with ThreadPoolExecutor(8) as readers:
        found = list(readers.map(lambda _: (mount / "big").read_bytes(), range(8)))
    assert all(whole == data for whole in found)
    assert proxy.count(CONTENT) == 1


def test_pieces_are_of_one_version(big, proxy, tcp_pool, session):
    """Replaced between two pieces: the later one is not added to the earlier."""
    mount, data = big
    with open(mount / "big", "rb", buffering=0) as file:
        assert os.pread(file.fileno(), 10, 29 * MB) == data[29 * MB:29 * MB + 10]
        tcp_pool.run(session, "import os, time\nwith open('/mnt/data/big', 'r+b') as file:\n"
                     " x = file.write(b'\\0' * 30_000_000)\nos.utime('/mnt/data/big', (1, 1))")
        assert os.pread(file.fileno(), 10, 15 * MB) == bytes(10)
    mount.control("refresh")
    assert (mount / "big").read_bytes() == bytes(30 * MB)


def test_a_broken_download_is_gone_on_with(big, proxy):
    mount, data = big
    proxy.rule(CONTENT, faults.cut_body(2 * MB), times=1)
    assert (mount / "big").read_bytes() == data


def test_unchanged_content_stays_in_the_page_cache(big):
    mount, data = big
    assert (mount / "big").read_bytes() == data
    hits = mount.status()["counters"]["cache_hits"]
    assert (mount / "big").read_bytes() == data
    counters = mount.status()["counters"]
    assert (counters["cache_hits"], counters["downloads"]) == (hits + 1, 1)
