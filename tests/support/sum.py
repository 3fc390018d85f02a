"""Adds up test results: sum.py FILE…, each a testlog.json of meson or a JUnit XML of pytest.

Prints what failed and was skipped, and last the line "N passed, N failed"; the exit status says
whether all is well. A file that is missing is a failure: its tests never got so far."""

import json
import re
import sys
import xml.etree.ElementTree as tree
from pathlib import Path


def of_meson(path):
    """Counts the cases inside each cmocka program; a program that crashed is one failure more."""
    for line in path.read_text().splitlines():
        test = json.loads(line)
        said = (test.get("stdout") or "") + (test.get("stderr") or "")
        ran = sum(map(int, re.findall(r"\[==========\] (?:\S+: )?(\d+) test\(s\) run\.", said)))
        failed = re.findall(r"\[  FAILED  \] (?!\S*: ?\d+ test|\d+ test)(\S+)$", said, re.M)
        failed = sorted(set(failed))
        name = test["name"].split(" / ")[-1]
        if test["result"] == "SKIP":
            yield "skipped", name, ""
            continue
        for case in failed:
            yield "failed", f"{name}: {case}", ""
        if test["result"] != "OK" and not failed:
            yield "failed", name, test["result"].lower()
        passed = max(ran - len(failed), 1 if test["result"] == "OK" else 0)
        for _ in range(passed):
            yield "passed", name, ""


def of_pytest(path):
    """A test whose teardown fails comes as two cases, and has failed."""
    worst = {}
    for case in tree.parse(path).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        for child in case:
            if child.tag in ("failure", "error"):
                text = (child.get("message") or "").strip()
                worst[name] = ("failed", text.splitlines()[0] if text else "")
            elif child.tag == "skipped" and worst.get(name, ("passed",))[0] == "passed":
                worst[name] = ("skipped", child.get("message") or "")
        worst.setdefault(name, ("passed", ""))
    for name, (result, why) in worst.items():
        yield result, name, why


def main(files):
    results = []
    for file in map(Path, files):
        if not file.exists():
            results.append(("failed", file.stem, "ended before it had results"))
        elif file.suffix == ".xml":
            results += of_pytest(file)
        else:
            results += of_meson(file)
    for wanted in ("skipped", "failed"):
        for result, name, why in results:
            if result == wanted:
                print(f"{result}: {name}" + (f" ({why[:200]})" if why else ""))
    passed, failed = (sum(1 for result in results if result[0] == kind) for kind in ("passed", "failed"))
    if passed + failed == 0:
        print("nothing ran")
    print(f"{passed} passed, {failed} failed")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
