"""The machine that the package is installed on: see tests/package, which tells in the environment where
the package is (ACAFS_DEB), the base system (ACAFS_BASE), and which mirror of Debian serves it."""

import os
from pathlib import Path

import pytest

from support import process
from support.machine import Machine

if "ACAFS_DEB" not in os.environ:
    collect_ignore_glob = ["*"]


@pytest.fixture(scope="session")
def package():
    return Path(os.environ["ACAFS_DEB"])


@pytest.fixture(scope="session")
def machine(tmp_path_factory, package):
    """One for all tests, which are an administrator's days with it: they come in the order of the file."""
    folder = tmp_path_factory.mktemp("machine")
    process.run(["cp", "-a", os.environ["ACAFS_BASE"], folder / "root"])
    it = Machine(folder / "root", folder / "boot.log")
    it.download(package)
    it.boot()
    yield it
    it.kill()
