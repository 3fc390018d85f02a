"""`.acafs/metrics` as Prometheus reads it."""

import re

import pytest

from support.proxy import answer

pytestmark = pytest.mark.session

LINE = re.compile(r'(\w+)(?:\{([^}]*)\})? (\S+)')


def read(mount):
    """{name: {labels: value}}, after checking that every line is one of the format's."""
    found, types = {}, {}
    for line in (mount / ".acafs/metrics").read_text().splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert name not in types
            types[name] = kind
        elif not line.startswith("# HELP "):
            name, labels, value = LINE.fullmatch(line).groups()
            base = re.sub(r"_(bucket|sum|count)$", "", name) if name not in types else name
            assert base in types, f"{name} has no type"
            found.setdefault(name, {})[labels or ""] = float(value)
    return found


def test_requests_are_counted_by_kind_and_result(mount):
    (mount / "a").write_text("x" * 1000)
    mount.sync()
    with pytest.raises(FileNotFoundError):
        (mount / "none").read_text()
    metrics = read(mount)
    results = metrics["acafs_http_results_total"]
    assert results['kind="upload",result="ok"'] >= 1 and results['kind="list",result="ok"'] >= 1
    assert sum(results.values()) == metrics["acafs_http_requests_total"][""]
    assert metrics["acafs_sent_bytes_total"][""] >= 1000
    assert metrics["acafs_pending_files"][""] == 0


def test_failures_are_told_apart(mounts, proxy):
    mount = mounts(proxy=proxy, options=["max-retries=0", "attr-timeout=0"])
    proxy.rule("GET files", answer(429, {"Retry-After": "0"}))
    with pytest.raises(OSError):
        (mount / "b").read_text()
    assert read(mount)["acafs_http_results_total"]['kind="list",result="throttled"'] >= 1


def test_times_are_a_histogram(mount):
    (mount / "a").write_text("x")
    mount.sync()
    metrics = read(mount)
    for kind in ("upload", "list", "download", "execute", "token"):
        buckets = [value for labels, value in metrics["acafs_http_duration_seconds_bucket"].items()
                   if f'kind="{kind}"' in labels]
        count = metrics["acafs_http_duration_seconds_count"][f'kind="{kind}"']
        assert buckets == sorted(buckets) and buckets[-1] == count
        results = metrics["acafs_http_results_total"]
        assert count == sum(value for labels, value in results.items() if f'kind="{kind}"' in labels)
