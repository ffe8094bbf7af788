# SPDX-License-Identifier: GPL-2.0-only
"""The emulator's statistics (lab/README.md): what happened between two marks."""

import json

# MSRs of the core PMU, of both vendors: counters, selectors, controls, status
PMU = {f"{msr:#x}" for first, last in (
    (0xc1, 0xc8), (0x4c1, 0x4c8), (0x186, 0x18d), (0x309, 0x30c), (0x329, 0x329),
    (0x38d, 0x392), (0x3f1, 0x3f2),
    (0xc0000300, 0xc0000303), (0xc0010000, 0xc0010007), (0xc0010200, 0xc001020b))
    for msr in range(first, last + 1)}

# The PMU's entry in the x2APIC
LVTPC = "0x834"


def difference(before, after):
    """Of two objects with counts: those that have changed, by how much."""
    return {key: n - before.get(key, 0) for key, n in after.items() if n != before.get(key, 0)}


def marks(path):
    """[(name, SNAPSHOT)] in the order in which they were made"""
    with open(path, encoding="utf-8") as f:
        return [(mark["name"], mark["counts"]) for mark in json.load(f)["marks"]]
