"""Runs in the session, sent by helper.c: does what the file calls can't. The last thing said is one
JSON string, {"nonce": ..., "results": [{"ok": value} | {"errno": n, "message": text}, ...]}."""
import base64
import ctypes
import errno
import json
import os
import re
import shutil
import stat
import time

ROOT = "/mnt/data"
RESERVED = re.compile(r"acafs-(stage|part|job)-[0-9a-f]{16}")
# What C's session_path_plain() surely calls plain; names beyond are told by "hidden".
PLAIN_DIRECTORY = re.compile(r"(?! )[A-Za-z0-9 _@$&=;,#^()-]+(?<! )")
PLAIN_FILE = re.compile(r"(?! )[A-Za-z0-9 _@$&=;,#^().-]+(?<![ .])")
NOREPLACE, EXCHANGE = 1, 2


def error(number, path=None):
    return OSError(number, os.strerror(number), path)


def below(path):
    """The place of a path in the store; never above the root, by its words."""
    if "\0" in path or path and any(part in ("", ".", "..") for part in path.split("/")):
        raise error(errno.EINVAL, path)
    return os.path.join(ROOT, path) if path else ROOT


def inner(path):
    if not path:
        raise error(errno.EINVAL, path)
    return below(path)


def reserved(name):
    if not RESERVED.fullmatch(name):
        raise error(errno.EINVAL, name)
    return os.path.join(ROOT, name)


def stage():
    return os.path.join(ROOT, "acafs-stage-" + os.urandom(8).hex())


def moment(ns):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + ".%09dZ" % (ns % 10**9)


def describe(name, st, target=None, directory=None):
    """A listing's entry, or None for what a mount can't show."""
    if stat.S_ISREG(st.st_mode):
        entry = {"name": name, "type": "file", "size": st.st_size}
    elif stat.S_ISDIR(st.st_mode):
        entry = {"name": name, "type": "directory"}
    elif stat.S_ISLNK(st.st_mode):
        entry = {"name": name, "type": "symlink", "size": st.st_size, "target": target}
    else:
        return None
    entry.update(mtime=moment(st.st_mtime_ns), mode=stat.S_IMODE(st.st_mode))
    if directory is not None:
        entry["directory"] = directory
    return entry


def described(path):
    st = os.lstat(path)
    target = os.readlink(path) if stat.S_ISLNK(st.st_mode) else None
    entry = describe(os.path.basename(path), st, target)
    if entry is None:
        raise error(errno.EOPNOTSUPP, path)
    entry["age"] = max(0, int(time.time() - st.st_mtime))
    return entry


def look(item, directory=None):
    """The entry of an os.scandir() item; None when it can't be shown or is gone."""
    try:
        st = item.stat(follow_symlinks=False)
        target = os.readlink(item.path) if stat.S_ISLNK(st.st_mode) else None
        (item.name + (target or "")).encode()
    except (OSError, UnicodeEncodeError):
        return None
    return describe(item.name, st, target, directory)


def scan(path, limit):
    entries, skipped = [], 0
    with os.scandir(below(path)) as items:
        for item in items:
            if not path and RESERVED.fullmatch(item.name):
                continue
            entry = look(item)
            if entry:
                entries.append(entry)
            else:
                skipped += 1
            if len(entries) > limit:
                raise error(errno.EOVERFLOW, path)
    return {"entries": entries, "skipped": skipped}


def is_plain(entry, top, plain_parent, top_only):
    if entry["type"] == "symlink" or not plain_parent or top_only and not top:
        return False
    if entry["type"] == "directory":
        return not top_only and bool(PLAIN_DIRECTORY.fullmatch(entry["name"]))
    return bool(PLAIN_FILE.fullmatch(entry["name"])) and entry["name"].lower() != "index.html"


def hidden(top_only, limit):
    entries, skipped, todo = [], 0, [("", True)]
    while todo:
        directory, plain_parent = todo.pop()
        try:
            items = os.scandir(below(directory))
        except OSError:
            continue
        with items:
            for item in items:
                if not directory and RESERVED.fullmatch(item.name):
                    continue
                entry = look(item, directory)
                if not entry:
                    skipped += 1
                    continue
                plain = is_plain(entry, not directory, plain_parent, top_only)
                if not plain:
                    entries.append(entry)
                if entry["type"] == "directory":
                    todo.append((directory + "/" + item.name if directory else item.name, plain))
                if len(entries) > limit:
                    raise error(errno.EOVERFLOW)
    return {"entries": entries, "skipped": skipped}


def parents(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)


def mkdir(path, mode=0o777, parents_too=False):
    if parents_too:
        parents(inner(path))
    os.mkdir(inner(path), mode)


def rename2(old, new, flags):
    """renameat2(); False where the system has none."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    if call(-100, os.fsencode(old), -100, os.fsencode(new), ctypes.c_uint(flags)) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EPERM):
        return False
    raise error(number, new)


def rename(old, new, how):
    old, new = inner(old), inner(new)
    if how == "plain":
        os.rename(old, new)
    elif how == "keep":
        if not rename2(old, new, NOREPLACE):
            os.lstat(old)
            if os.path.lexists(new):
                raise error(errno.EEXIST, new)
            os.rename(old, new)
    elif how == "swap":
        if not rename2(old, new, EXCHANGE):
            os.lstat(old), os.lstat(new)
            aside = stage()
            os.rename(old, aside)
            try:
                os.rename(new, old)
            except OSError:
                os.rename(aside, old)
                raise
            os.rename(aside, new)
    else:
        raise error(errno.EINVAL, how)


def regular(path):
    """Opens a file for reading; never waits at a pipe."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    st = os.fstat(fd)
    if not stat.S_ISREG(st.st_mode):
        os.close(fd)
        raise error(errno.EISDIR if stat.S_ISDIR(st.st_mode) else errno.EOPNOTSUPP, path)
    return os.fdopen(fd, "rb"), st


def get(path, offset=0, length=196608):
    file, st = regular(inner(path))
    with file:
        file.seek(int(offset))
        data = file.read(int(length))
    return {"data": base64.b64encode(data).decode(), "size": st.st_size,
            "mtime": moment(st.st_mtime_ns)}


def settle(source, path):
    """Moves a finished file to its name, which keeps its mode, and describes it."""
    path = inner(path)
    try:
        parents(path)
        try:
            old = os.lstat(path)
            if stat.S_ISREG(old.st_mode):
                os.chmod(source, stat.S_IMODE(old.st_mode))
        except OSError:
            pass  # new, or another's: the mode is no reason to fail
        os.replace(source, path)
    except OSError:
        remove(source)
        raise
    return described(path)


def remove(path):
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def write_aside(chunks):
    """A new file at a stage name with everything of chunks in it."""
    path = stage()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(fd, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
    except BaseException:
        remove(path)
        raise
    return path


def put(path, data):
    inner(path)
    return settle(write_aside([base64.b64decode(data, validate=True)]), path)


def contents(parts):
    """The bytes of the parts, each removed once it was read."""
    for name in parts:
        path = reserved(name)
        with open(path, "rb") as file:
            while True:
                chunk = file.read(1 << 20)
                if not chunk:
                    break
                yield chunk
        remove(path)


def join(parts, path):
    inner(path)
    return settle(write_aside(contents(parts)), path)


def expose(path):
    source, name = inner(path), stage()
    regular(source)[0].close()
    try:
        os.link(source, name)
    except OSError:
        shutil.copyfile(source, name)
    return {"name": os.path.basename(name)}


def drop(name=None, names=()):
    for one in [name] if name else names:
        remove(reserved(one))


def space():
    st = os.statvfs(ROOT)
    return {"total": st.f_blocks * st.f_frsize, "free": st.f_bavail * st.f_frsize}


def illegal():
    raise error(errno.EILSEQ)


def call(code, args=None):
    names = {"__name__": "acafs_call"}
    exec(compile(code, "<acafs>", "exec"), names)
    return names["main"](args)


OPS = {
    "mkdir": lambda r: mkdir(r["path"], r.get("mode", 0o777), r.get("parents", False)),
    "rmdir": lambda r: os.rmdir(inner(r["path"])),
    "unlink": lambda r: os.unlink(inner(r["path"])),
    "rename": lambda r: rename(r["from"], r["to"], r.get("how", "plain")),
    "symlink": lambda r: os.symlink(r["target"], inner(r["path"])),
    "scan": lambda r: scan(r["path"], r.get("limit", 200000)),
    "hidden": lambda r: hidden(r.get("top_only", False), r.get("limit", 200000)),
    "space": lambda r: space(),
    "stat": lambda r: described(inner(r["path"])),
    "get": lambda r: get(r["path"], r.get("offset", 0), r.get("length", 196608)),
    "put": lambda r: put(r["path"], r["data"]),
    "expose": lambda r: expose(r["path"]),
    "drop": lambda r: drop(r.get("name"), r.get("names", ())),
    "adopt": lambda r: settle(reserved(r["stage"]), r["path"]),
    "join": lambda r: join(r["parts"], r["path"]),
    "illegal": lambda r: illegal(),
    "call": lambda r: call(r["code"], r.get("args")),
    "probe": lambda r: {"python": ".".join(map(str, __import__("sys").version_info[:3])),
                        "root": ROOT, "pid": os.getpid()},
}


def one(request):
    try:
        value = OPS[request["op"]](request)
        json.dumps(value)
        return {"ok": value}
    except OSError as e:
        return {"errno": e.errno or errno.EIO, "message": e.strerror or str(e)}
    except (KeyError, TypeError, ValueError) as e:
        number = errno.EINVAL
        message = "%s: %s" % (type(e).__name__, e)
    except BaseException as e:
        number = errno.EIO
        message = "%s: %s" % (type(e).__name__, e)
    return {"errno": number, "message": message[:500]}


def run(requests, nonce):
    """requests: a JSON list, as bytes. Whatever happens to one, the others are done, in order."""
    try:
        os.makedirs(ROOT, exist_ok=True)
    except OSError:
        pass  # each operation says for itself what it lacks
    text = json.dumps({"nonce": nonce, "results": [one(r) for r in json.loads(requests)]})
    if "\\ud" in text:  # half a surrogate pair would be no JSON to others
        clean = json.dumps(json.loads(text), ensure_ascii=False).encode("utf-8", "replace")
        text = json.dumps(json.loads(clean.decode()))
    return text
