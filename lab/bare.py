# SPDX-License-Identifier: GPL-2.0-only
"""Programs that run on the emulated CPU without a kernel."""

import os
import subprocess

import image
from image import ROOT

PMU = os.path.join(ROOT, "lab", "tests", "pmu")
LOAD = 0x400000         # as in lab/tests/pmu/image.lds
PARAMS = image.BOOT_PARAMS
EMULATOR = os.path.join(ROOT, "build", "emulator", "bochs")


def build(flat, sources):
    """The program as one flat image that runs at LOAD, in 32-bit protected mode; flat.elf has its
    symbols."""
    subprocess.run(
        [image.compiler(), "-m64", "-O2", "-Wall", "-Werror", "-ffreestanding", "-fno-pic", "-no-pie",
         "-mno-red-zone", "-mgeneral-regs-only", "-fno-stack-protector", "-fcf-protection=none",
         "-fno-asynchronous-unwind-tables", "-nostdlib", "-static", "-mcmodel=small",
         "-Wl,--build-id=none", "-Wl,--no-warn-rwx-segments", "-Wl,-z,max-page-size=4096",
         "-I", PMU, "-T", os.path.join(PMU, "image.lds"), "-o", flat + ".elf", *sources], check=True)
    subprocess.run(["objcopy", "-O", "binary", flat + ".elf", flat], check=True)


def emulate(tmp, cpu, flat, params, limit, audit="off", costs=True, data=None, emulator=EMULATOR):
    """Run the program with params at PARAMS, and data, a file and its address.

    Its verdict, console, out (what it wrote to the lab's ports) and stats are files in tmp then.
    Returns what became of the emulator, or None if it took longer than limit seconds.
    """
    folder = os.path.join(ROOT, "build", "emulator")
    for name in ("verdict", "console", "out", "stats"):
        open(os.path.join(tmp, name), "wb").close()
    with open(image.sector(), "rb") as f:
        floppy = f.read().ljust(1474560, b"\0")
    params = bytearray(params.ljust(4096, b"\0"))
    params[0x214:0x218] = LOAD.to_bytes(4, "little")     # code32_start
    for name, content in (("floppy", floppy), ("params", params)):
        with open(os.path.join(tmp, name), "wb") as f:
            f.write(content)
    data = f"optramimage3: file={data[0]}, address={data[1]:#x}" if data else ""
    with open(os.path.join(tmp, "bochsrc"), "w", encoding="utf-8") as f:
        f.write(f"""\
lab: profile={cpu}, stats={tmp}/stats, out={tmp}/out, verdict={tmp}/verdict, audit={audit}, costs={"on" if costs else "off"}
cpu: count=1, reset_on_triple_fault=0
memory: guest=64, host=64
romimage: file={folder}/BIOS-bochs-latest
vgaromimage: file={folder}/VGABIOS-lgpl-latest
optramimage1: file={flat}, address={LOAD:#x}
optramimage2: file={tmp}/params, address={PARAMS:#x}
{data}
floppya: 1_44={tmp}/floppy, status=inserted, write_protected=1
boot: floppy
com1: enabled=1, mode=file, dev={tmp}/console
clock: sync=none, time0=946684800
display_library: nogui
log: {tmp}/log
panic: action=fatal
error: action=ignore
info: action=ignore
""")
    try:
        return subprocess.run([emulator, "-q", "-f", os.path.join(tmp, "bochsrc")], cwd=tmp,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return None
