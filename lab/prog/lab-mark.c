// SPDX-License-Identifier: GPL-2.0-only
/*
 * lab-mark NAME: has the emulator record all its counts under NAME.
 *
 * The mark is a NOP with an odd displacement that the emulator recognises: it
 * does not exit to a hypervisor, so it works in a guest too, and does nothing
 * on silicon.
 */
#include <stdio.h>

#include "mark.h"

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: lab-mark NAME\n");
		return 120;
	}

	mark(argv[1]);
	return 0;
}
