// SPDX-License-Identifier: GPL-2.0-only
/*
 * lab-exit STATUS < DATA: ends the machine it runs on, and says how it went.
 *
 * The verdict does not travel on the console, where any program could forge or
 * garble it.  DATA (a compressed tar) goes to one I/O port, byte by byte, and
 * STATUS to another, which stops the machine.  The emulator has a device at
 * these ports; for a guest, lab/guest-run has QEMU put one there.  A guest's
 * port I/O is intercepted by its hypervisor, so it never reaches the
 * emulator's.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/io.h>
#include <termios.h>
#include <unistd.h>

#define PORT_DATA	0x1ab0
#define PORT_STATUS	0x1ab4

int main(int argc, char **argv)
{
	static char buf[65536];
	ssize_t n;

	if (argc != 2) {
		fprintf(stderr, "usage: lab-exit STATUS < DATA\n");
		return 120;
	}

	if (ioperm(PORT_DATA, 8, 1)) {
		perror("lab-exit: ioperm");
		return 120;
	}

	while ((n = read(0, buf, sizeof(buf))) > 0)
		outsb(PORT_DATA, buf, n);
	if (n < 0) {
		perror("lab-exit: read");
		return 120;
	}

	/* What was printed is still on its way through a slow serial port */
	tcdrain(2);

	outl(strtoul(argv[1], NULL, 0), PORT_STATUS);

	fprintf(stderr, "lab-exit: still running: no lab device at port %#x\n", PORT_STATUS);
	return 120;
}
