# SPDX-License-Identifier: GPL-2.0-only
"""A kernel's source, wherever it comes from, as a commit in a git tree.

A tarball is unpacked once, into a bare repository in the cache.
"""

import glob
import hashlib
import os
import re
import shutil
import subprocess
import tarfile

import patchset
from common import (ERROR, GIT_ENV, ROOT, SPACE, UNUSABLE, Failure, cache, git,
                    git_line, git_try, need_space, say, sha256_of)


def files_of_folder(top):
    """(path, mode, data) of all files in a folder."""
    for folder, folders, names in os.walk(top):
        for name in names + folders:
            full = os.path.join(folder, name)
            path = os.path.relpath(full, top)
            if os.path.islink(full):
                yield path, "120000", os.fsencode(os.readlink(full))
            elif os.path.isfile(full):
                mode = "100755" if os.stat(full).st_mode & 0o100 else "100644"
                with open(full, "rb") as file:
                    yield path, mode, file.read()


def files_of_tarball(path):
    """(path, mode, data) of all files in a tarball, less its top folder."""
    if path.endswith(".deb"):
        commands = [("dpkg-deb", "--fsys-tarfile", path),
                    ("tar", "-xO", "--wildcards", "./usr/src/linux-*.tar.xz"),
                    ("xz", "-dc")]
    else:
        tools = {".xz": "xz", ".gz": "gzip", ".tgz": "gzip", ".bz2": "bzip2",
                 ".zst": "zstd"}
        tool = tools.get(os.path.splitext(path)[1])
        commands = [(tool, "-dc", path) if tool else ("cat", path)]

    processes = []
    stream = None
    for command in commands:
        process = subprocess.Popen(command, stdin=stream or subprocess.DEVNULL,
                                   stdout=subprocess.PIPE)
        if stream:
            stream.close()
        stream = process.stdout
        processes.append(process)
    unreadable = Failure(UNUSABLE, f"{path} cannot be unpacked: name another "
                         "source with KERNEL=")
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=1 << 20) as tar:
            for entry in tar:
                name = entry.name[2:] if entry.name.startswith("./") \
                    else entry.name
                name = name.partition("/")[2]
                if not name or entry.isdir() or entry.name.startswith("pax_"):
                    continue
                if entry.issym():
                    yield name, "120000", os.fsencode(entry.linkname)
                elif entry.isfile():
                    mode = "100755" if entry.mode & 0o100 else "100644"
                    yield name, mode, tar.extractfile(entry).read()
                else:
                    raise Failure(UNUSABLE, f"{path}: {entry.name} is neither "
                                  "file nor link: unpack it and name the "
                                  "folder with KERNEL=")
        while stream.read(1 << 20):
            pass
    except (tarfile.TarError, EOFError) as error:
        raise unreadable from error
    finally:
        stream.close()
        statuses = [process.wait() for process in processes]
    if any(statuses):
        raise unreadable


def import_files(repo, files):
    """Make a commit without parent from files; return it."""
    version = {}
    seen = False
    process = subprocess.Popen(
        ("git", "-C", repo, "-c", "pack.compression=1", "fast-import",
         "--quiet", "--force", "--depth=0"), stdin=subprocess.PIPE,
        stderr=subprocess.PIPE, env=GIT_ENV)
    write = process.stdin.write
    try:
        # The message needs the version, which is known once the Makefile was
        # seen, so the files come as marks of blobs first.
        tree = []
        for mark, (path, mode, data) in enumerate(files, 1):
            if path == ".gitignore":
                # Debian's ignores everything, a new file of ours, too.
                data = re.sub(rb"^(/\*|!/debian/)\n", b"", data, flags=re.M)
            write(b"blob\nmark :%d\ndata %d\n%s\n" % (mark, len(data), data))
            tree.append((mode, mark, path))
            if path == "Makefile":
                version = dict(re.findall(
                    rb"^(VERSION|PATCHLEVEL|SUBLEVEL) = (\d+)$", data, re.M))
            if mark % 20000 == 0:
                say(f"importing: {mark} files")
        seen = len(version) == 3
        if seen:
            name = b".".join(version[part] for part in
                             (b"VERSION", b"PATCHLEVEL", b"SUBLEVEL"))
            message = b"Linux " + name + b"\n"
            write(b"commit refs/heads/base\nauthor base <base> %d +0000\n"
                  b"committer base <base> %d +0000\ndata %d\n%s"
                  % (patchset.DATE, patchset.DATE, len(message), message))
            for mode, mark, path in tree:
                quoted = os.fsencode(path).replace(b"\\", b"\\\\") \
                    .replace(b'"', b'\\"').replace(b"\n", b"\\n")
                write(b'M %s :%d "%s"\n' % (mode.encode(), mark, quoted))
    except BrokenPipeError:
        pass
    finally:
        try:
            process.stdin.close()
        except BrokenPipeError:
            pass
        errors = process.stderr.read().decode(errors="replace").strip()
        process.stderr.close()
        status = process.wait()
    if re.search("Out of diskspace|No space left", errors):
        raise Failure(SPACE, f"no space left in {repo}: free some and run it "
                      "again")
    if status:
        raise Failure(ERROR, "git fast-import failed: "
                      + errors.replace("\n", " / "))
    if not seen:
        raise Failure(UNUSABLE, "the source has no Makefile with a version: "
                      "name a kernel's top folder or its tarball with KERNEL=")
    return git_line(repo, "rev-parse", "base")


class Source:
    """The base's source, as fetch found it; KERNEL= doesn't count if pinned."""

    def __init__(self, base, pinned=False):
        env = dict(os.environ)
        if pinned:
            env.pop("KERNEL", None)
        done = subprocess.run((os.path.join(ROOT, "scripts", "fetch"),
                               "kernel", "--base", base), env=env,
                              stdout=subprocess.PIPE, check=False)
        if done.returncode:
            # fetch has said why.
            raise SystemExit(done.returncode)
        self.path = os.fsdecode(done.stdout).strip()
        self.is_git = os.path.isdir(self.path) and (
            git_try(self.path, "rev-parse", "--show-cdup").stdout == b"\n")
        if self.is_git:
            if git(self.path, "status", "--porcelain",
                   "--untracked-files=no").strip():
                raise Failure(UNUSABLE, f"KERNEL={self.path} has uncommitted "
                              "changes: commit or stash them")
            self.key = "git " + git_line(self.path, "rev-parse", "HEAD")
        elif os.path.isdir(self.path):
            if os.path.exists(os.path.join(self.path, ".config")):
                raise Failure(UNUSABLE, f"KERNEL={self.path} has been built "
                              "in: run make mrproper there")
            self.key = "folder " + self.fingerprint()
        else:
            self.key = "sha256 " + sha256_of(self.path)

    def fingerprint(self):
        """Changes when a file in the folder does."""
        total = hashlib.sha256(os.fsencode(self.path))
        for folder, folders, names in os.walk(self.path):
            folders.sort()
            for name in sorted(names):
                full = os.path.join(folder, name)
                stat = os.lstat(full)
                total.update(os.fsencode(f"{full}\0{stat.st_mode} "
                                         f"{stat.st_size} {stat.st_mtime_ns}\0"))
        return total.hexdigest()

    def describe(self):
        """One line that says exactly which source this is."""
        if self.path.endswith(".deb"):
            done = subprocess.run(
                ("dpkg-deb", "-W", "--showformat", "${Package} ${Version}",
                 self.path), stdout=subprocess.PIPE, text=True, check=False)
            name = done.stdout.strip()
        else:
            name = os.path.basename(self.path)
        return f"{name}, {self.key}"

    def put_into(self, repo):
        """Bring the base into a git repository; return its commit."""
        if not self.is_git and os.path.isfile(self.path):
            # Linking the pack is faster than fetching it, and as safe.
            pack = os.path.join(self.cached(), "objects", "pack")
            for name in os.listdir(pack):
                target = os.path.join(repo, ".git/objects/pack", name)
                if os.path.exists(target):
                    continue
                try:
                    os.link(os.path.join(pack, name), target)
                except OSError:
                    shutil.copyfile(os.path.join(pack, name), target)
        if self.is_git:
            git(repo, "fetch", "-q", "--depth=1", "--no-tags",
                f"file://{self.path}", "+HEAD:refs/heads/base")
        elif os.path.isdir(self.path):
            return import_files(repo, files_of_folder(self.path))
        else:
            git(repo, "fetch", "-q", "--no-tags", self.cached(),
                "+base:refs/heads/base")
        return git_line(repo, "rev-parse", "base")

    def cached(self):
        """A bare repository with the tarball's content, made once."""
        final = os.path.join(cache("bases"), self.key.split()[1] + ".git")
        if not os.path.isdir(final):
            need_space(cache(), 3 * os.path.getsize(self.path))
            for old in glob.glob(os.path.join(cache("bases"), "tmp-*")):
                if not alive(old):
                    shutil.rmtree(old)
            temporary = os.path.join(cache("bases"), f"tmp-{os.getpid()}")
            os.mkdir(temporary)
            try:
                git(temporary, "init", "-q", "--bare")
                say(f"unpacking {os.path.basename(self.path)} (once)")
                import_files(temporary, files_of_tarball(self.path))
                try:
                    os.rename(temporary, final)
                except OSError:
                    if not os.path.isdir(final):
                        raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return final


def alive(path):
    """Whether the process that names a temporary folder still runs."""
    return os.path.exists("/proc/" + path.rpartition("-")[2])
