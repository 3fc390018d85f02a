"""The mount as its users meet it: ordinary tools, which know nothing of sessions."""

import hashlib
import os
import stat

import pytest

pytestmark = pytest.mark.usefixtures("folder")


def test_write_list_and_read(sh):
    assert sh("echo hello > a.txt; ls; cat a.txt") == "a.txt\nhello\n"


def test_ls_l_says_what_it_should(folder, sh):
    sh("printf 12345 > a; mkdir d; ln -s a s")
    listing = sh("ls -l --time-style=+%s")
    modes = {line.split()[-1 if "->" not in line else -3]: line.split()[0] for line in
             listing.splitlines()[1:]}
    assert modes == {"a": "-rw-r--r--", "d": "drwxr-xr-x", "s": "lrwxrwxrwx"}
    assert " 5 " in next(line for line in listing.splitlines() if line.endswith(" a"))


def test_ls_l_complains_about_nothing(folder):
    from support.process import run
    (folder / "a").write_text("a")
    assert run(["ls", "-la", folder]).stderr == ""


def test_append_and_overwrite(sh):
    sh("echo one > a; echo two >> a; echo three >> a")
    assert sh("cat a") == "one\ntwo\nthree\n"
    sh("echo new > a")
    assert sh("cat a; stat -c %s a") == "new\n4\n"


def test_cp_a_keeps_tree_modes_times_and_links(folder, sh, tmp_path):
    source = tmp_path / "tree"
    (source / "deep/er").mkdir(parents=True)
    (source / "plain.txt").write_text("plain")
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)
    (source / "deep/er/secret").write_text("s")
    (source / "deep/er/secret").chmod(0o600)
    (source / "link").symlink_to("deep/er/secret")
    os.utime(source / "plain.txt", (1_000_000_000, 1_000_000_000))
    sh(f"cp -a {source} .")
    look = "find . -printf '%P %y %m %s %T@ %l\\n' | sed -E '/ d /s/ [0-9]+ ([0-9.]+ )$/ \\1/' | sort"
    assert sh(f"cd tree; {look}") == sh(f"cd {source}; {look}")
    sh(f"diff -r {source} tree")
    sh("cp -a tree again; diff -r tree again")


def test_mv_a_file(sh):
    sh("echo x > a; mv a b; test ! -e a; mkdir d; mv b d/; test ! -e b")
    assert sh("cat d/b") == "x\n"


def test_mv_over_a_file(sh):
    sh("echo old > a; echo new > b; mv -f b a; test ! -e b")
    assert sh("cat a; ls") == "new\na\n"


def test_mv_a_directory_with_all_in_it(sh):
    sh("mkdir -p d/sub; echo 1 > d/one; echo 2 > d/sub/two; mv d e; test ! -e d")
    assert sh("cat e/one e/sub/two; find . -type f | sort") == "1\n2\n./e/one\n./e/sub/two\n"
    sh("echo 3 >> e/sub/two; mkdir f; mv e f/")
    assert sh("cat f/e/sub/two") == "2\n3\n"


def test_mv_over_a_directory(folder, sh):
    sh("mkdir -p a empty full; touch a/x full/y")
    os.rename(folder / "a", folder / "empty")
    assert sh("ls empty") == "x\n"
    with pytest.raises(OSError) as error:
        os.rename(folder / "empty", folder / "full")
    assert error.value.errno == 39  # ENOTEMPTY
    assert sh("ls empty full") == "empty:\nx\n\nfull:\ny\n"


def test_mv_a_directory_into_itself_is_refused(folder):
    (folder / "d/e").mkdir(parents=True)
    with pytest.raises(OSError) as error:
        os.rename(folder / "d", folder / "d/e/d")
    assert error.value.errno == 22  # EINVAL


def test_rm_r(sh):
    sh("mkdir -p d/a/b/c; for i in 1 2 3; do echo $i > d/a/f$i; echo $i > d/a/b/c/g$i; done; rm -r d")
    assert sh("ls -A") == ""


def test_mkdir_and_rmdir(folder, sh):
    sh("mkdir -p a/b/c/d/e; rmdir a/b/c/d/e; rmdir a/b/c/d; test -d a/b/c; mkdir a/b/x")
    with pytest.raises(FileExistsError):
        os.mkdir(folder / "a/b")
    with pytest.raises(OSError) as error:
        os.rmdir(folder / "a")
    assert error.value.errno == 39
    with pytest.raises(FileNotFoundError):
        os.mkdir(folder / "nowhere/x")
    assert sh("cd a/b; ls") == "c\nx\n"


def test_touch(sh):
    sh("touch new; test -f new; test ! -s new; touch -d '2001-02-03 04:05:06 UTC' new")
    assert sh("stat -c %Y new") == "981173106\n"
    sh("echo x > new")
    assert int(sh("stat -c %Y new")) > 1_500_000_000
    sh("touch -d @1234567890.5 new; touch -r new other")
    assert sh("stat -c %.1Y new other") == "1234567890.5\n1234567890.5\n"
    sh("mkdir d; touch -d @1000000000 d")
    assert sh("stat -c %Y d") == "1000000000\n"


def test_chmod_and_run(sh):
    sh("printf '#!/bin/sh\\necho ran $1\\n' > x.sh; chmod +x x.sh")
    assert sh("./x.sh well; stat -c %a x.sh") == "ran well\n755\n"
    sh("chmod 600 x.sh; mkdir d; chmod 700 d")
    assert sh("stat -c %a x.sh d") == "600\n700\n"


def test_modes_follow_the_umask(sh):
    assert sh("umask 077; touch f; mkdir d; stat -c %a f d") == "600\n700\n"
    assert sh("umask 002; touch g; mkdir e; stat -c %a g e") == "664\n775\n"


def test_chown_to_oneself(sh):
    sh("touch f; chown $(id -u):$(id -g) f")
    assert sh("stat -c %u:%g f") == f"{os.getuid()}:{os.getgid()}\n"


def test_truncate(folder, sh):
    sh("printf 0123456789 > a; truncate -s 4 a")
    assert sh("cat a") == "0123"
    sh("truncate -s 10000 a")
    assert (folder / "a").read_bytes() == b"0123" + bytes(9996)
    sh("truncate -s 0 a; test ! -s a; truncate -s 3 fresh")
    assert (folder / "fresh").read_bytes() == bytes(3)


def test_symlinks(folder, sh):
    sh("echo x > a; ln -s a s; ln -s nowhere dangling; mkdir d; ln -s ../a d/up; ln -s /etc abs")
    assert sh("readlink s dangling d/up abs; cat s d/up") == "a\nnowhere\n../a\n/etc\nx\nx\n"
    with pytest.raises(FileNotFoundError):
        (folder / "dangling").read_text()
    sh("mv s t; readlink t; rm t; test -e a; ln -sfn nowhere2 dangling")
    assert sh("readlink dangling; stat -c %s dangling") == "nowhere2\n8\n"
    assert stat.S_ISLNK(os.lstat(folder / "dangling").st_mode)


def test_rsync_twice(sh, tmp_path):
    source = tmp_path / "src"
    for name, text in [("a.txt", "a"), ("d/b.txt", "b" * 5000), ("d/e/c d.txt", ""), (".hidden", "h")]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    (source / "link").symlink_to("a.txt")
    os.utime(source / "a.txt", (1_111_111_111, 1_111_111_111))
    sh(f"rsync -a {source}/ copy/; diff -r {source} copy")
    assert sh(f"rsync -ai {source}/ copy/") == ""
    (source / "d/b.txt").write_text("changed")
    assert sh(f"rsync -ai {source}/ copy/").split()[-1] == "d/b.txt"
    sh(f"rsync -a --delete --exclude=d {source}/ copy/; rsync -a copy/ back/; diff -r copy back")


def test_tar_there_and_back(sh):
    sh("mkdir -p t/u; for i in $(seq 20); do head -c $((i * 1000)) /dev/zero | tr '\\0' $((i % 10)) > t/u/f$i; done")
    sh("ln -s u/f1 t/l; chmod 640 t/u/f2; touch -d @1200000000 t/u/f3")
    sh("tar czf t.tgz t; mkdir x; tar xzf t.tgz -C x; diff -r --no-dereference t x/t")
    assert sh("stat -c %a x/t/u/f2; stat -c %Y x/t/u/f3; readlink x/t/l") == "640\n1200000000\nu/f1\n"


@pytest.mark.limit(120)
def test_git(sh):
    sh("""git init -q repo; cd repo
          git config user.name Me; git config user.email me@example.invalid
          mkdir src; echo 'print(1)' > src/a.py; echo read > README.md
          git add .; git commit -qm first""")
    assert sh("cd repo; git status --porcelain; git log --oneline | wc -l; git fsck 2>&1") == "1\n"
    sh("cd repo; echo more >> README.md; git mv src/a.py src/b.py; git commit -qam second")
    assert sh("cd repo; git log --format=%s; git status --porcelain") == "second\nfirst\n"
    sh("git clone -q repo clone; diff repo/README.md clone/README.md; cd clone; git checkout -q HEAD~1")
    assert sh("cat clone/README.md; cat clone/src/a.py; cat repo/.git/HEAD") == \
        "read\nprint(1)\nref: refs/heads/master\n"
    sh("cd repo; git gc -q; git branch side; git stash list; git fsck")


def test_sqlite(sh):
    sh("""sqlite3 a.db 'create table t(n integer primary key, s text)'
          sqlite3 a.db "insert into t(s) values('one'),('two')" """)
    assert sh("sqlite3 a.db 'select * from t'") == "1|one\n2|two\n"
    sh("""sqlite3 a.db <<< "begin; insert into t(s) select s from t; update t set s = s || '!' where n > 2; commit" """)
    assert sh("sqlite3 a.db 'select count(*), max(s) from t; pragma integrity_check'") == "4|two!\nok\n"
    sh("sqlite3 a.db 'delete from t; vacuum'; test ! -e a.db-journal")


def test_sed_in_place(sh):
    sh("printf 'a\\nb\\n' > f; chmod 640 f; sed -i s/b/c/ f; sed -i.bak s/a/A/ f")
    assert sh("cat f f.bak; stat -c %a f; ls") == "A\nc\na\nc\n640\nf\nf.bak\n"


def test_vim_saves(sh):
    sh("printf 'one\\ntwo\\n' > f; vim.tiny -u NONE -es -c '%s/two/2/' -c wq f")
    assert sh("cat f") == "one\n2\n"
    sh("vim.tiny -u NONE -es -c 'set backup writebackup backupcopy=no backupskip=' -c '%s/one/1/' -c wq f")
    assert sh("cat f f~") == "1\n2\none\n2\n"


def test_an_editors_save(folder):
    """Write beside it, fsync, rename over it, fsync the directory."""
    (folder / "doc").write_text("old")
    for n in range(5):
        handle = os.open(folder / ".doc.tmp", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(handle, b"version %d" % n)
        os.fsync(handle)
        os.close(handle)
        os.rename(folder / ".doc.tmp", folder / "doc")
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(directory)
        os.close(directory)
        assert (folder / "doc").read_text() == f"version {n}"
    assert os.listdir(folder) == ["doc"]


def test_dd_seeks(folder, sh):
    sh("head -c 100000 /dev/zero > f")
    sh("printf MIDDLE | dd of=f bs=1 seek=50000 conv=notrunc status=none")
    sh("printf END | dd of=f oflag=append conv=notrunc status=none")
    content = (folder / "f").read_bytes()
    assert len(content) == 100003
    assert content[50000:50006] == b"MIDDLE" and content[-3:] == b"END"
    assert sh("dd if=f bs=1 skip=50000 count=6 status=none") == "MIDDLE"
    sh("printf far | dd of=sparse bs=1 seek=1000000 status=none")
    assert (folder / "sparse").stat().st_size == 1000003


def test_dd_fsync(sh):
    sh("dd if=/dev/urandom of=f bs=64k count=20 conv=fsync status=none; dd if=f of=g bs=17 status=none; cmp f g")


def test_pipes_find_grep_sort(sh):
    sh("mkdir d; for i in 3 1 2; do echo line $i > d/$i.txt; done; cat d/*.txt | sort > all; grep -c line all")
    assert sh("find . -name '*.txt' | sort | xargs cat") == "line 1\nline 2\nline 3\n"
    assert sh("grep -rl 'line 2' . | sort") == "./all\n./d/2.txt\n"
    assert sh("du -sb --apparent-size all | cut -f1; wc -l < all") == "21\n3\n"


def test_a_python_package_runs_from_it(sh):
    sh("mkdir pkg; echo 'X = 6 * 7' > pkg/__init__.py; echo 'from pkg import X; print(X)' > main.py")
    assert sh("/usr/bin/python3 main.py; /usr/bin/python3 main.py") == "42\n42\n"


def test_checksums_of_odd_sizes(folder, sh):
    for size in (1, 4095, 4096, 4097, 131071, 131072, 131073, 1 << 20, (1 << 20) + 1):
        data = os.urandom(size)
        (folder / "f").write_bytes(data)
        assert sh("sha256sum f").split()[0] == hashlib.sha256(data).hexdigest(), size


def test_patch_and_diff(sh):
    sh("printf 'a\\nb\\nc\\n' > f; cp f g; echo d >> g; diff -u f g > p || true; patch -s f p; cmp f g")


def test_df(sh):
    blocks = sh("df -B1 --output=size,avail . | tail -1").split()
    assert int(blocks[0]) > 0 and int(blocks[1]) >= 0


def test_zip_in_place_with_python(sh):
    sh("""echo data > a; /usr/bin/python3 - <<'END'
import zipfile
with zipfile.ZipFile('z.zip', 'w') as z:
    z.write('a')
with zipfile.ZipFile('z.zip', 'a') as z:
    z.writestr('b', 'more')
assert zipfile.ZipFile('z.zip').namelist() == ['a', 'b']
END""")
