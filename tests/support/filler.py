"""Files for the benchmark whose content follows from their names. This text also runs in a session."""

import hashlib
import os
import random

BLOCK = 1 << 20


def blocks(folder, name, size):
    source = random.Random(f"{folder}/{name}")
    for at in range(0, size, BLOCK):
        yield source.randbytes(min(BLOCK, size - at))


def names(count):
    return [f"f{n:04}" for n in range(count)]


def fill(root, folder, count, size):
    os.makedirs(f"{root}/{folder}", exist_ok=True)
    for name in names(count):
        with open(f"{root}/{folder}/{name}", "wb") as file:
            file.writelines(blocks(folder, name, size))


def digest(folder, count, size):
    """Of all the files' content, one after another."""
    whole = hashlib.sha256()
    for name in names(count):
        for block in blocks(folder, name, size):
            whole.update(block)
    return whole.hexdigest()


def found(root, folder):
    """The same of what is there; and how many files that are."""
    whole = hashlib.sha256()
    present = sorted(os.listdir(f"{root}/{folder}")) if os.path.isdir(f"{root}/{folder}") else []
    for name in present:
        with open(f"{root}/{folder}/{name}", "rb") as file:
            while block := file.read(BLOCK):
                whole.update(block)
    return [len(present), whole.hexdigest()]
