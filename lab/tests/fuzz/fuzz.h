/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the interpreter, its two machines and the driver, run, have in common.
 */
#ifndef FUZZ_H
#define FUZZ_H

/* Physical addresses: the machine's description, the programs, and what they saw */
#define MACHINE		0x200000
#define PROGRAMS	0x1000000
#define RESULTS		0x2000000
#define MEMORY		0x4000000

struct machine {
	unsigned int amd, general, fixed;
	/* Nobody does what a program asks of its hypervisor. */
	unsigned int bare;
	unsigned int nr_ops;
};

enum {
	OP_START, OP_WRMSR, OP_RDMSR, OP_RDPMC, OP_RUN, OP_CODE, OP_FLAG, OP_EXIT, OP_FILTER,
};

struct op {
	unsigned char op;
	/* Not on the bare machine, where the answer is another one */
	unsigned char guest_only;
	unsigned short unused;
	unsigned int arg;
	unsigned long value;
};

/* Kinds of observations */
enum {
	SAW_FAULT, SAW_VALUE, SAW_COUNTER, SAW_STATUS, SAW_LVTPC, SAW_PMIS, SAW_PMI_RIP,
};

struct result {
	/* The number of the op in all programs */
	unsigned int op;
	unsigned short kind, which;
	unsigned long value;
};

/*
 * Ports: the bare machine's results go to the lab's first one, the end of the run to the
 * second; of the other two the hypervisor takes orders.
 */
#define PORT_RESULTS	0x1ab0
#define PORT_END	0x1ab4
#define PORT_EXIT	0x98
#define PORT_FILTER	0x9c

enum { EXIT_NOTHING, EXIT_READ, EXIT_RESTORE, EXIT_SLEEP };

/* An event filter as a number: what it does, with which events and fixed counters */
#define FILTER_DENY		1
#define FILTER_INSTRUCTIONS	2
#define FILTER_BRANCHES		4
#define FILTER_FIXED_SHIFT	8
#define NO_FILTER		FILTER_DENY

#define EVENT_MASK(amd)		((amd) ? 0xf0000fffful : 0xfffful)
#define EVENT_INSTRUCTIONS	0xc0
#define EVENT_BRANCHES(amd)	((amd) ? 0xc2 : 0xc4)

#endif
