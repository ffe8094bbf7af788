# SPDX-License-Identifier: GPL-2.0-only
"""The series as this repository stores it, and as commits in a kernel tree.

A step of the series is a folder patches/NNNN-name with

  message     the commit message, written once for all bases, followed by one
              'New-file: path' line for each new file that the step adds
  hooks.diff  the step's hooks, what it changes in files that the bases have
  BASE.diff   the same for the files whose hooks are others on this base; a
              'diff --git' line alone if it needs no hook in that file
  new.diff    what the step changes in new files that an earlier step added

The new files themselves are in the repository's top-level folders, at the path
they have in the kernel, as the last step leaves them.  What they are before
the last step follows by taking back the new.diff of the later steps.  They are
the same on all bases; a base that calls a folder by another name has that in
common.BASES.  A file that one base alone needs is a hook: its diff adds it.

Everything here happens in git's object store and a temporary index.  No file
of the kernel tree or of the repository is written.
"""

import codecs
import contextlib
import fcntl
import hashlib
import json
import os
import re
import subprocess
import tempfile
import typing

from common import (BASES, DIFF, ERROR, GIT_ENV, HOOK, ROOT, SERIES, UNSAVED, Failure,
                    git, git_line, git_try, say)

# Folders of this repository that hold new files of the kernel.  The kernel has
# others, which cannot be used since the repository has its own of that name.
KERNEL_FOLDERS = ("Documentation", "arch", "block", "crypto", "drivers", "fs",
                  "include", "init", "io_uring", "ipc", "kernel", "lib", "mm",
                  "net", "rust", "samples", "security", "sound", "tools", "usr",
                  "virt")

# What an editor or patch leaves behind is no new file.
LEFTOVER = re.compile(r"~$|\.(orig|rej|swp)$")

# Commits made from the same input are the same, so their date is fixed.
DATE = 1767225600

Files = typing.Dict[str, typing.Tuple[str, str]]    # path: (mode, blob)


class Step(typing.NamedTuple):
    folder: str         # NNNN-name
    author: bytes       # Name <mail>
    message: bytes      # without New-file lines
    added: tuple        # paths of New-file lines
    hooks: bytes        # diff of files that the base has
    changed: bytes      # diff of new files
    sources: dict       # name of the diff that a file's hooks were read from
    message_file: bytes     # the message file as it is

    @property
    def subject(self):
        return os.fsdecode(self.message.split(b"\n", 1)[0])


# ---- the tree's folder -------------------------------------------------------

BRANCH = "mediated-pmu"


def tree_folder(base):
    return os.path.join(ROOT, "build", f"linux-{base}")


@contextlib.contextmanager
def locked(path):
    """Keep other runs of these scripts off a tree."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another run that uses {os.path.relpath(path)}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_state(path):
    """What tree and refresh remember about a tree."""
    try:
        with open(os.path.join(path, ".git/mediated-pmu.json"),
                  encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        raise Failure(UNSAVED, f"{os.path.relpath(path)} was not made by "
                      "make tree: move it away") from None


def write_state(path, state):
    name = os.path.join(path, ".git/mediated-pmu.json")
    with open(name + ".new", "w", encoding="utf-8") as file:
        json.dump(state, file, indent=1)
    os.rename(name + ".new", name)


def check_clean(path):
    """Fail if the tree holds anything that is in no commit."""
    shown = os.path.relpath(path)
    for name in ("rebase-merge", "rebase-apply", "CHERRY_PICK_HEAD",
                 "MERGE_HEAD"):
        if os.path.exists(os.path.join(path, ".git", name)):
            raise Failure(UNSAVED, f"{shown} is in the middle of a rebase, "
                          "merge or cherry-pick: finish it first")
    status = git(path, "status", "--porcelain", "-z").split(b"\0")[0]
    if status:
        raise Failure(UNSAVED, f"{shown} has uncommitted changes "
                      f"({os.fsdecode(status[3:])}): commit them there first, "
                      "or git stash -u")
    ignored = git(path, "ls-files", "-o", "-i", "--exclude-standard",
                  "-z").split(b"\0")
    for name in ignored:
        if re.search(rb"(?<!\.mod)\.([chS]|rst)$", name) \
                and b"/generated/" not in name:
            raise Failure(UNSAVED, f"{shown}: {os.fsdecode(name)} is ignored "
                          "by git: git add -f it, or remove it")


# ---- patches/ --------------------------------------------------------------

def identity():
    """Name and mail of whoever uses this repository; None if git doesn't know."""
    done = subprocess.run(("git", "-C", ROOT, "var", "GIT_AUTHOR_IDENT"),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          check=False)
    return None if done.returncode else re.match(rb".*>", done.stdout).group()


def own_identity():
    """The same where it cannot be done without."""
    known = identity()
    if not known:
        raise Failure(ERROR, "git does not know who you are: git config "
                      "--global user.name 'Your Name', and user.email")
    return known


def sign_as(repo, who):
    """Make commits in a tree those of who."""
    name, mail = re.fullmatch(r"(.*?) <(.*)>", os.fsdecode(who)).groups()
    git(repo, "config", "user.name", name)
    git(repo, "config", "user.email", mail)


def default_author(message):
    """Who signed a patch off first wrote it."""
    found = re.search(rb"^Signed-off-by: (.*<.*>)$", message, re.M)
    return found.group(1) if found else own_identity()


def split_message(data):
    """Take the New-file lines off the end of a message."""
    lines = data.rstrip(b"\n").split(b"\n")
    added = []
    while lines and (not lines[-1].strip()
                     or lines[-1].startswith(b"New-file:")):
        line = lines.pop()
        if line.strip():
            added.append(os.fsdecode(line.split(b":", 1)[1].strip()))
    return b"\n".join(lines) + b"\n", tuple(sorted(added))


def parse_message(data):
    """Split a message file into author, commit message and new files."""
    message, added = split_message(data)
    author = None
    if message.startswith(b"From: "):
        author, message = message[6:].split(b"\n", 1)
        message = message.lstrip(b"\n")
    return author or default_author(message), message, added


def format_message(author, message, added):
    """The reverse of parse_message()."""
    head = b""
    if author != default_author(message):
        head = b"From: " + author + b"\n\n"
    tail = b"".join(b"New-file: " + os.fsencode(path) + b"\n"
                    for path in sorted(added))
    last = message.rstrip(b"\n").split(b"\n\n")[-1].split(b"\n")
    if tail and not (b"\n\n" in message
                     and all(re.match(rb"[\w-]+: ", line) for line in last)):
        tail = b"\n" + tail
    return head + message + tail


def read_file(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


COMMON = "hooks"


def read_diffs(folder):
    """A step's hooks as they are stored: {base or COMMON: {path: diff}}."""
    return {name[:-len(".diff")]: files_of(read_file(os.path.join(folder, name)))
            for name in os.listdir(folder)
            if name.endswith(".diff") and name != "new.diff"}


def write_diffs(folder, diffs, base):
    """The reverse.  Where only other bases have hooks, this one says so."""
    for name, files in diffs.items():
        path = os.path.join(folder, name + ".diff")
        if files or (name == base and not diffs.get(COMMON)
                     and any(diffs.values())):
            with open(path, "wb") as file:
                file.write(b"".join(files[key] for key in sorted(files)))
        elif os.path.exists(path) and (name == base or diffs.get(COMMON)):
            os.unlink(path)


def no_hook(path):
    """What says that a base needs no hook in a file, others do."""
    return os.fsencode(f"diff --git a/{path} b/{path}\n")


def is_none(diff):
    return diff.count(b"\n") == 1


def read_steps(base, top=os.path.join(ROOT, "patches"), complete=True):
    """The steps of the series in patches/, in order."""
    steps = []
    names = sorted(os.listdir(top)) if os.path.isdir(top) else []
    for name in names:
        folder = os.path.join(top, name)
        if not os.path.isdir(folder):
            continue
        if not re.fullmatch(r"\d{4}-[A-Za-z0-9._-]+", name):
            raise Failure(SERIES, f"patches/{name}: a step is called "
                          "NNNN-name: rename or remove it")
        data = read_file(os.path.join(folder, "message"))
        if not data or not data.strip():
            raise Failure(SERIES, f"patches/{name}: has no message: write "
                          "one, or remove the folder")
        diffs = read_diffs(folder)
        if diffs and complete and base not in diffs and COMMON not in diffs:
            raise Failure(SERIES, f"patches/{name}: has hooks, but none for "
                          f"Linux {base}: put them into {base}.diff (start "
                          f"with a copy of {min(diffs)}.diff; empty if it "
                          "needs none), or make rebase FROM=")
        hooks = {**diffs.get(COMMON, {}), **diffs.get(base, {})}
        author, message, added = parse_message(data)
        steps.append(Step(
            name, author, message, added,
            b"".join(hooks[path] for path in sorted(hooks)
                     if not is_none(hooks[path])),
            read_file(os.path.join(folder, "new.diff")) or b"",
            {path: (base if path in diffs.get(base, {}) else COMMON) + ".diff"
             for path in hooks}, data))
    return steps


def read_new_files(repo):
    """The new files in the repository's top-level folders, as blobs."""
    paths = []
    for top in KERNEL_FOLDERS:
        for folder, folders, names in os.walk(os.path.join(ROOT, top)):
            names += [name for name in folders
                      if os.path.islink(os.path.join(folder, name))]
            paths += [os.path.relpath(os.path.join(folder, name), ROOT)
                      for name in names if not LEFTOVER.search(name)]
    files = {}
    for path in sorted(paths):
        full = os.path.join(ROOT, path)
        if os.path.islink(full):
            mode, data = "120000", os.fsencode(os.readlink(full))
        else:
            mode = "100755" if os.stat(full).st_mode & 0o100 else "100644"
            data = read_file(full)
        files[path] = (mode, git_line(repo, "hash-object", "-w", "--stdin",
                                      data=data))
    return files


# ---- paths -----------------------------------------------------------------

def tree_path(path, base):
    """Where a new file of this repository is in the tree of a base."""
    for ours, theirs in BASES[base].renames:
        if path.startswith(ours):
            return theirs + path[len(ours):]
    return path


def repo_path(path, base):
    """Where a new file in the tree of a base is in this repository."""
    for ours, theirs in BASES[base].renames:
        if path.startswith(theirs):
            return ours + path[len(theirs):]
        if path.startswith(ours):
            raise Failure(SERIES, f"{path}: Linux {base} calls this folder "
                          f"{theirs}: move the file there")
    if path.split("/")[0] not in KERNEL_FOLDERS:
        raise Failure(SERIES, f"{path}: a new file cannot be there since the "
                      "repository uses that place itself: move it to one of "
                      + ", ".join(KERNEL_FOLDERS))
    return path


# ---- trees -----------------------------------------------------------------

class Index:
    """A temporary index in a kernel tree's repository."""

    def __init__(self, repo, path):
        self.repo = repo
        self.env = {"GIT_INDEX_FILE": path}

    def read(self, tree=None):
        self.git("read-tree", tree or "--empty")

    def git(self, *args, data=None):
        return git(self.repo, *args, data=data, env=self.env)

    def update(self, before, after):
        """Make the difference between two sets of files."""
        lines = [f"0 {'0' * 40}\t{path}" for path in before
                 if path not in after]
        lines += [f"{mode} {blob}\t{path}"
                  for path, (mode, blob) in after.items()
                  if before.get(path) != (mode, blob)]
        if lines:
            self.git("update-index", "-z", "--index-info",
                     data=os.fsencode("\0".join(lines) + "\0"))

    def files(self):
        files = {}
        for line in self.git("ls-files", "-s", "-z").split(b"\0")[:-1]:
            meta, path = line.split(b"\t", 1)
            mode, blob, _ = meta.decode().split(" ")
            files[os.fsdecode(path)] = (mode, blob)
        return files

    def apply(self, diff, *options):
        """Apply a diff as it is, without fuzz; return whether it did."""
        if not diff.strip():
            return True
        return not git_try(self.repo, "apply", "--cached", "--whitespace=nowarn",
                           *options, "-", data=diff, env=self.env).returncode

    def write(self):
        return self.git("write-tree").decode().strip()


@contextlib.contextmanager
def temporary_index(repo):
    git_dir = git_line(repo, "rev-parse", "--absolute-git-dir")
    with tempfile.TemporaryDirectory(dir=git_dir, prefix="index-") as folder:
        yield Index(repo, os.path.join(folder, "index"))


def tree_files(repo, tree):
    """All paths in a tree."""
    names = git(repo, "ls-tree", "-r", "-z", "--name-only", tree)
    return set(os.fsdecode(names).split("\0")[:-1])


def paths_of(diff):
    """What a diff touches: {path: whether the diff adds the file}."""
    paths = {}
    path = None
    in_header = False
    for line in diff.split(b"\n"):
        if line.startswith(b"diff --git "):
            # Renames are never written, so both names are the same.
            name = line[len(b"diff --git "):]
            if name.startswith(b'"'):
                name = name[:(len(name) - 1) // 2].strip(b'"')
                name = codecs.escape_decode(name)[0]
            else:
                name = name[:(len(name) - 1) // 2]
            path = os.fsdecode(name[2:])
            paths[path] = False
            in_header = True
        elif line.startswith((b"@@", b"GIT binary patch")):
            in_header = False
        elif in_header and line.startswith(b"new file mode"):
            paths[path] = True
    return paths


def files_of(text):
    """What a diff does in each file: {path: its part}."""
    parts = {}
    for part in re.split(rb"^(?=diff --git )", text, flags=re.M):
        if part.startswith(b"diff --git "):
            parts[next(iter(paths_of(part)))] = part
        elif part.strip():
            raise Failure(SERIES, "a diff does not start with 'diff --git': "
                          + os.fsdecode(part.split(b"\n", 1)[0]))
    return parts


def diff(repo, before, after, paths=None):
    """The difference of two trees, the same for everybody: without the index
    lines, which say nothing that the hunks do not (unless it is binary)."""
    if paths is not None and not paths:
        return b""
    text = git(repo, "diff-tree", "-r", "-p", *DIFF, before, after, "--",
               *(paths or ()))
    lines = text.split(b"\n")
    kept = [line for number, line in enumerate(lines)
            if not (re.match(rb"index [0-9a-f]{40}\.\.", line)
                    and lines[number + 1:number + 2] != [b"GIT binary patch"])]
    return b"\n".join(kept)


# ---- patches/ to commits ---------------------------------------------------

def new_file_states(repo, steps, files):
    """The new files after each step, from what they are after the last."""
    states = [None] * len(steps)
    with temporary_index(repo) as index:
        index.read()
        index.update({}, files)
        for number in reversed(range(len(steps))):
            step = steps[number]
            states[number] = after = index.files()
            for path in step.added:
                if path not in after:
                    raise Failure(SERIES, f"patches/{step.folder}: New-file: "
                                  f"{path}: there is no such file: create it, "
                                  "or remove the line")
            index.update(after, {path: entry for path, entry in after.items()
                                 if path not in step.added})
            if not index.apply(step.changed, "-R"):
                raise Failure(SERIES, f"patches/{step.folder}/new.diff is not "
                              "in the new files as they are: edit new files "
                              "that change over steps in the tree, then make "
                              "refresh")
        left = sorted(index.files())
    if left:
        raise Failure(SERIES, f"{left[0]}: no step adds it: put 'New-file: "
                      f"{left[0]}' at the end of a step's message (or move "
                      "the file, if it is none of the kernel's)")
    return states


def commit(repo, tree, parent, author, message, number):
    name, mail = re.fullmatch(rb"(.*?)\s*<(.*)>", author).groups()
    date = f"{DATE + number} +0000"
    env = {f"GIT_{who}_{what}": value
           for who in ("AUTHOR", "COMMITTER")
           for what, value in (("NAME", os.fsdecode(name)),
                               ("EMAIL", os.fsdecode(mail)), ("DATE", date))}
    return git_line(repo, "commit-tree", tree, "-p", parent, "-F", "-",
                    data=message, env=env)


def build(repo, base, base_commit, steps, files, place=None):
    """Make the commits of the series; return them.  The new files are where
    the base has their folders, or where another base (place) has them."""
    place = place or base
    states = new_file_states(repo, steps, files)
    in_base = tree_files(repo, base_commit)
    all_new = set().union(*states) if states else set()
    for path in sorted(all_new):
        if tree_path(path, place) in in_base:
            raise Failure(SERIES, f"{path}: Linux {base} already has this "
                          "file: a change to it belongs into a hook")

    commits = []
    before = {}
    with temporary_index(repo) as index:
        index.read(base_commit)
        parent = base_commit
        for number, (step, state) in enumerate(zip(steps, states), 1):
            for path in paths_of(step.hooks):
                if path in {tree_path(new, place) for new in all_new}:
                    raise Failure(SERIES, f"patches/{step.folder}/"
                                  f"{step.sources[path]}: {path} is a new file: "
                                  "changes to it belong into new.diff (edit it "
                                  "in the tree, then make refresh)")
            if not index.apply(step.hooks):
                raise Failure(HOOK, "\n".join(
                    misfits(repo, parent, step, base)))
            after = {tree_path(path, place): entry
                     for path, entry in state.items()}
            index.update(before, after)
            parent = commit(repo, index.write(), parent, step.author,
                            step.message, number)
            commits.append(parent)
            before = after
    return commits


def misfits(repo, parent, step, base):
    """Say which hunks of a step do not apply, a line each."""
    lines = []
    for path, part in files_of(step.hooks).items():
        name = f"patches/{step.folder}/{step.sources[path]}"
        hunks = re.findall(rb"^@@ .*$", part, re.M)
        with tempfile.TemporaryDirectory() as folder:
            done = git_try(repo, "cat-file", "blob", f"{parent}:{path}")
            if done.returncode == 0:
                full = os.path.join(folder, path)
                os.makedirs(os.path.dirname(full), exist_ok=True)
                with open(full, "wb") as file:
                    file.write(done.stdout)
            elif b"\nnew file mode" not in part:
                lines.append(f"{name}: {path}: Linux {base} has no such file")
                continue
            done = subprocess.run(
                ("git", "apply", "--reject", "--whitespace=nowarn", "-"),
                cwd=folder, input=part,
                env={**GIT_ENV,
                     "GIT_CEILING_DIRECTORIES": os.path.dirname(folder)},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        if done.returncode == 0:
            continue
        rejected = re.findall(rb"^Rejected hunk #(\d+)", done.stderr, re.M)
        if not rejected:
            reason = done.stderr.decode(errors="replace").strip()
            lines.append(f"{name}: {path}: does not apply: "
                         + reason.replace("\n", " / "))
        for number in map(int, rejected):
            hunk = hunks[number - 1].decode(errors="replace") \
                if number <= len(hunks) else "?"
            lines.append(f"{name}: {path}: hunk {number} of {len(hunks)} does "
                         f"not apply: {hunk}")
    if not lines:
        lines.append(f"patches/{step.folder}: does not apply")
    lines[-1] += f": adapt it to this Linux {base}"
    return lines


def digest(repo, commits):
    """What a run of commits holds, whoever made them and when."""
    total = hashlib.sha256()
    for name in commits:
        head, message = git(repo, "cat-file", "commit", name).split(b"\n\n", 1)
        author = re.search(rb"^author (.*>)", head, re.M).group(1)
        total.update(b"\0".join((head.split(b"\n")[0], author,
                                 message.rstrip(b"\n"))) + b"\0")
    return total.hexdigest()
