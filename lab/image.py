# SPDX-License-Identifier: GPL-2.0-only
"""What is in the emulated machine's memory when it starts.

The lab has no disk and no boot loader.  A machine starts with a boot sector,
the protected-mode part of a bzImage, boot_params with the command line, and an
initramfs.  The initramfs is several cpio archives one after the other: the
programs of this system (busybox, QEMU and its libraries), what belongs to the
kernel (modules, perf, selftests), and what one run adds.  The first two change
seldom, so they are kept in build/lab, named by a key over everything that they
are made from.
"""

import fcntl
import glob
import hashlib
import os
import shutil
import stat
import struct
import subprocess
import sys

LAB = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(LAB)
CACHE = os.path.join(ROOT, "build", "lab")

# Physical addresses; below 1 MiB the BIOS is at home.
BOOT_PARAMS = 0x200000
CMDLINE = BOOT_PARAMS + 0x1000

QEMU = "/usr/bin/qemu-system-x86_64"
FIRMWARE = (
    ("/usr/share/seabios/bios-256k.bin", "seabios"),
    ("/usr/share/qemu/linuxboot_dma.bin", "qemu-system-data"),
    ("/usr/share/qemu/kvmvapic.bin", "qemu-system-data"),
)
PROGS = ("kvm-exits", "lab-exit", "lab-kexec", "lab-mark", "lab-measure", "workload")


class Error(Exception):
    """What was wrong: what to do."""


def need(path, package):
    if not os.path.exists(path):
        raise Error(f"{path} is missing: apt-get install {package}")
    return path


def kernel_folder(kind="kernel"):
    """Where scripts/kernel puts what it builds; BASE and DEBUG are Makefile's."""
    name = [kind, os.environ.get("BASE") or "6.12"] + os.environ.get("DEBUG", "").split()
    return os.path.join(ROOT, "build", "-".join(name))


class Cpio:
    """A newc archive with reproducible contents."""

    def __init__(self, path):
        self.f = open(path, "wb")
        self.ino = 0
        self.dirs = {""}
        self.names = set()

    def close(self):
        self._entry("TRAILER!!!", 0, b"")
        self.f.close()

    def _entry(self, name, mode, data):
        self.ino += 1
        name = name.encode() + b"\0"
        head = "070701" + "".join(f"{v:08x}" for v in (
            self.ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0))
        self.f.write(head.encode() + name + bytes(-(110 + len(name)) % 4))
        self.f.write(data)
        self.f.write(bytes(-len(data) % 4))

    def _parents(self, name):
        parent = os.path.dirname(name)
        if parent not in self.dirs:
            self._parents(parent)
            self._entry(parent, stat.S_IFDIR | 0o755, b"")
            self.dirs.add(parent)

    def dir(self, name):
        self._parents(name.strip("/") + "/.")

    def link(self, name, target):
        name = name.strip("/")
        if name not in self.names:
            self._parents(name)
            self._entry(name, stat.S_IFLNK | 0o777, target.encode())
            self.names.add(name)

    def data(self, name, data, mode=0o644):
        name = name.strip("/")
        if name not in self.names:
            self._parents(name)
            self._entry(name, stat.S_IFREG | mode, data)
            self.names.add(name)

    def file(self, name, path):
        with open(path, "rb") as f:
            self.data(name, f.read(), 0o755 if os.access(path, os.X_OK) else 0o644)

    def program(self, name, path):
        """A file, and if it is a dynamic program its shared libraries."""
        self.file(name, path)
        for lib in libraries(path):
            self.file(lib, lib)

    def tree(self, name, path):
        """A file or a folder with all that is in it."""
        if os.path.islink(path):
            self.link(name, os.readlink(path))
        elif os.path.isdir(path):
            self.dir(name)
            for entry in sorted(os.listdir(path)):
                self.tree(f"{name}/{entry}", os.path.join(path, entry))
        else:
            self.program(name, path)


def libraries(path):
    """The shared libraries, loader included, that a program needs."""
    with open(path, "rb") as f:
        ident = f.read(64)
        if ident[:5] != b"\x7fELF\x02":
            return []
        phoff, = struct.unpack_from("<Q", ident, 32)
        phentsize, phnum = struct.unpack_from("<HH", ident, 54)
        f.seek(phoff)
        ph = f.read(phentsize * phnum)
    # PT_INTERP: only a dynamic program has one
    if not any(struct.unpack_from("<I", ph, i * phentsize)[0] == 3 for i in range(phnum)):
        return []
    out = subprocess.run(["ldd", path], capture_output=True, text=True)
    libs = []
    for line in out.stdout.splitlines():
        if "not found" in line:
            raise Error(f"{path}: shared library {line.split()[0]} not found: install it")
        libs += [word for word in line.split() if word.startswith("/")]
    return libs


class Kernel:
    """A bzImage, as Documentation/arch/x86/boot.rst describes it."""

    def __init__(self, path):
        with open(path, "rb") as f:
            self.image = f.read()
        if self.image[0x202:0x206] != b"HdrS":
            raise Error(f"{path} is no bzImage: give the bzImage, not vmlinux")
        version, = struct.unpack_from("<H", self.image, 0x206)
        if version < 0x20a:
            raise Error(f"{path}: boot protocol {version:#x} is too old: 2.10 or later is needed")
        self.protected = self.image[(self.image[0x1f1] + 1) * 512:]
        self.load, = struct.unpack_from("<Q", self.image, 0x258)
        self.init_size, = struct.unpack_from("<I", self.image, 0x260)

    def release(self):
        offset, = struct.unpack_from("<H", self.image, 0x20e)
        return self.image[offset + 0x200:].split(b" ", 1)[0].decode()

    def boot_params(self, cmdline, ramdisk, ramdisk_size):
        cmdline = cmdline.encode() + b"\0"
        limit, = struct.unpack_from("<I", self.image, 0x238)
        if len(cmdline) > limit:
            raise Error(f"the kernel's command line has {len(cmdline)} bytes: {limit} is the limit")
        params = bytearray(CMDLINE - BOOT_PARAMS)
        end = 0x202 + self.image[0x201]
        params[0x1f1:end] = self.image[0x1f1:end]
        params[0x210] = 0xff                        # type_of_loader
        struct.pack_into("<I", params, 0x214, self.load)     # code32_start
        struct.pack_into("<II", params, 0x218, ramdisk, ramdisk_size)
        struct.pack_into("<I", params, 0x228, CMDLINE)
        return bytes(params) + cmdline

    def ramdisk_address(self):
        """The first 2 MiB boundary that unpacking the kernel does not touch."""
        return -(-(self.load + self.init_size) // 0x200000) * 0x200000


def signature(paths):
    """A key that changes when one of the files, or this file, does."""
    h = hashlib.sha256()
    for path in sorted(paths) + [os.path.abspath(__file__)]:
        st = os.stat(path)
        h.update(f"{path} {st.st_size} {st.st_mtime_ns}\n".encode())
    return h.hexdigest()[:16]


def cached(kind, suffix, paths, make):
    """build/lab/KIND-KEY.SUFFIX, made by make(path) if it is not there."""
    os.makedirs(CACHE, exist_ok=True)
    name = os.path.join(CACHE, f"{kind}-{signature(paths)}{suffix}")
    with open(os.path.join(CACHE, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(name):
            make(os.path.join(CACHE, "new"))
            for old in glob.glob(os.path.join(glob.escape(CACHE), f"{kind}-*{suffix}")):
                os.unlink(old)
            os.rename(os.path.join(CACHE, "new"), name)
    return name


def compiler():
    gcc = shutil.which("gcc")
    if not gcc:
        raise Error("gcc is missing: apt-get install gcc")
    return gcc


def sector():
    source = os.path.join(LAB, "boot", "sector.S")

    def make(out):
        subprocess.run([compiler(), "-m32", "-c", f"-DBOOT_PARAMS={BOOT_PARAMS:#x}",
                        "-o", out + ".o", source], check=True)
        subprocess.run(["ld", "-m", "elf_i386", "-Ttext=0x7c00", "--oformat=binary",
                        "-o", out, out + ".o"], check=True)
        os.unlink(out + ".o")

    return cached("sector", ".bin", [source], make)


def prog(name):
    """One of the lab's own programs, built."""
    source, = glob.glob(os.path.join(glob.escape(LAB), "prog", name + ".[cS]"))

    headers = sorted(glob.glob(os.path.join(glob.escape(LAB), "prog", "*.h")))

    flags = ["-nostdlib"] if source.endswith(".S") else ["-O2", "-Wall"]

    def make(out):
        subprocess.run([compiler(), "-static", *flags, "-o", out, source], check=True)

    return cached(name, "", [source, *headers], make)


def system_part():
    """busybox, QEMU and its libraries and firmware, from this system."""
    busybox = need("/usr/bin/busybox", "busybox-static")
    qemu = need(QEMU, "qemu-system-x86")
    firmware = [os.path.realpath(need(path, package)) for path, package in FIRMWARE]
    if libraries(busybox):
        raise Error("busybox is not static: apt-get install busybox-static")

    def make(out):
        cpio = Cpio(out)
        for name in ("proc", "sys", "dev", "tmp", "root", "out", "in"):
            cpio.dir(name)
        cpio.file("bin/busybox", busybox)
        applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
        for applet in applets.stdout.split():
            cpio.link(f"bin/{applet}", "busybox")
        cpio.program("bin/qemu-system-x86_64", qemu)
        for path in firmware:
            cpio.file(f"usr/share/qemu/{os.path.basename(path)}", path)
        cpio.close()

    return cached("system", ".cpio", [busybox, qemu] + firmware + libraries(qemu), make)


def kernel_part(folder, bzimage):
    """The kernel itself, for guests, and what its folder has next to it."""
    files = [bzimage]
    for part in ("modules", "perf", "selftests"):
        for base, _, names in os.walk(os.path.join(folder, part)):
            files += [os.path.join(base, name) for name in names]
    perf = os.path.join(folder, "perf")
    if os.path.exists(perf):
        files.append(perf)

    def make(out):
        cpio = Cpio(out)
        cpio.file("boot/bzImage", bzimage)
        for part, name in (("modules/lib/modules", "lib/modules"), ("perf", "bin/perf"),
                           ("selftests", "selftests")):
            path = os.path.join(folder, part)
            if os.path.exists(path):
                cpio.tree(name, path)
        cpio.close()

    kind = "kernel-" + hashlib.sha256(os.path.abspath(bzimage).encode()).hexdigest()[:8]
    return cached(kind, ".cpio", files, make)


def splats():
    """The patterns in lab/splats."""
    with open(os.path.join(LAB, "splats"), "rb") as f:
        return [line.rstrip(b"\n") for line in f if line.strip() and not line.startswith(b"#")]


def run_part(out, command, inputs):
    """What one run adds: the command, and the files given with --in."""
    cpio = Cpio(out)
    cpio.file("init", os.path.join(LAB, "init"))
    cpio.file("bin/guest-run", os.path.join(LAB, "guest-run"))
    for name in PROGS:
        cpio.file(f"bin/{name}", prog(name))
    cpio.data("lab/splats", b"".join(line + b"\n" for line in splats()))
    cpio.data("lab/command", command.encode())
    for path in inputs:
        cpio.tree("in/" + os.path.basename(os.path.abspath(path)), path)
    cpio.close()


def concatenate(out, parts):
    with open(out, "wb") as f:
        for part in parts:
            with open(part, "rb") as g:
                shutil.copyfileobj(g, f, 1 << 20)
            # The kernel wants each archive to start on four bytes
            f.write(bytes(-f.tell() % 4))
