# SPDX-License-Identifier: GPL-2.0-only
"""What fetch, tree, refresh, series and lint have in common.

It alone knows which bases there are, where things are kept, what the exit
statuses mean and how git is called so that nobody's personal configuration
changes the outcome.
"""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import typing

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# One meaning each in all scripts that use this file.
ERROR, USAGE, NETWORK, CHECKSUM, SPACE, MISSING, UNUSABLE = range(1, 8)
HOOK, UNSAVED, SERIES, LINT = range(8, 12)

EXIT_STATUS = """\
exit status:
  0  done
  1  anything not listed here
  2  wrong arguments
  3  the network or the Debian archive cannot be reached
  4  a file has the wrong checksum
  5  no space left
  6  a file or program is missing
  7  KERNEL= or BOCHS= cannot be used
  8  a hook does not apply
  9  there are changes that would be lost
 10  patches/ and the new files do not fit together
 11  lint found something
"""


class Base(typing.NamedTuple):
    """A kernel that the series is made for."""
    package: str = ""   # Debian package that holds the source, or
    pool: str = ""      # a file in the pool of the Debian archive
    sha256: str = ""
    renames: tuple = ()     # (folder in this repository, folder in the base)
    config: tuple = ()      # fragments of lab/config that the base needs


BASES = {
    "6.12": Base(
        package="linux-source-6.12",
        renames=(("tools/testing/selftests/kvm/x86/",
                  "tools/testing/selftests/kvm/x86_64/"),),
        config=("sched-debug",)),
    "6.18": Base(
        pool="pool/main/l/linux/linux_6.18.15.orig.tar.xz",
        sha256="fdf4c4d487c95b17a41cb38003faef86669e532a44fe702eb31a3390b6a60cca",
        config=("kvm-ioapic",)),
    "6.19": Base(
        pool="pool/main/l/linux/linux_6.19.11.orig.tar.xz",
        sha256="e19d838c34519b050dd48334c673b07f4089d56449b453e6d1d04460e0667fa6",
        config=("kvm-ioapic",)),
}
DEFAULT_BASE = "6.12"

BOCHS_POOL = "pool/main/b/bochs/bochs_3.0+dfsg.orig.tar.xz"
BOCHS_SHA256 = "78f6c73d4a6472d5130a87ab9dc306d02c7c71ed8e25b3a8ef642e2a7acd282b"


class Failure(Exception):
    """Ends the script with one clear line: what was wrong: what to do."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


def program():
    return os.path.basename(sys.argv[0])


def say(text):
    print(f"{program()}: {text}", file=sys.stderr, flush=True)


def run_main(main):
    """Call main() and turn what it raises into a line and an exit status."""
    try:
        sys.exit(main())
    except Failure as failure:
        for line in str(failure).splitlines():
            say(line)
        sys.exit(failure.status)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            say(f"no space left writing {error.filename or 'a file'}: "
                "free some and run it again")
            sys.exit(SPACE)
        raise


def cache(*parts):
    """A folder below the cache, made if it is not there."""
    top = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = os.path.join(top, "mediated-pmu", *parts)
    os.makedirs(path, exist_ok=True)
    return path


def base_named(name):
    if name not in BASES:
        raise Failure(USAGE, f"unknown BASE '{name}': use one of "
                      + ", ".join(BASES))
    return BASES[name]


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def need_space(folder, size):
    free = shutil.disk_usage(folder).free
    if free < size:
        raise Failure(SPACE, f"{free >> 20} MB free in {folder}, "
                      f"{(size >> 20) + 1} MB needed: free some")


# ---- git -------------------------------------------------------------------

# git as everybody has it: no personal or system configuration, no variables
# of a git command that may be calling us.
GIT_ENV = {name: value for name, value in os.environ.items()
           if not name.startswith("GIT_")}
GIT_ENV.update(GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_SYSTEM="/dev/null",
               LC_ALL="C", TZ="UTC")

# What diffs in this repository look like, whoever makes them.
DIFF = ("--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "-U3",
        "--src-prefix=a/", "--dst-prefix=b/", "--diff-algorithm=myers",
        "--indent-heuristic", "--inter-hunk-context=0", "--binary",
        "--full-index")


def git_try(repo, *args, data=None, env=None):
    """Run git in repo; return the finished process, whatever its status."""
    return subprocess.run(
        ("git", "-C", repo, "-c", "core.quotePath=false",
         "-c", "core.autocrlf=false", "-c", "gc.auto=0", "-c",
         "advice.detachedHead=false", "--literal-pathspecs", *args),
        input=data, stdin=None if data is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**GIT_ENV, **(env or {})}, check=False)


def git(repo, *args, data=None, env=None):
    """Run git in repo; return what it printed, as bytes."""
    done = git_try(repo, *args, data=data, env=env)
    if done.returncode:
        text = done.stderr.decode(errors="replace").strip()
        if "No space left" in text:
            raise Failure(SPACE, f"no space left in {repo}: free some and run "
                          "it again")
        raise Failure(ERROR, f"git {args[0]} failed in {repo}: "
                      + text.replace("\n", " / "))
    return done.stdout


def git_line(repo, *args, **kwargs):
    return os.fsdecode(git(repo, *args, **kwargs)).strip()
