// SPDX-License-Identifier: GPL-2.0-only
/*
 * host-oracle SELECTOR GLOBAL_CTRL TIMES, the first two as hexadecimal MSR indices.
 *
 * Runs in the emulated host: what perf counts in the host's user mode while a guest
 * that counts is entered TIMES times, between two lab marks; then the same with
 * a guest that is never entered.  For each, and for an event of this task and one of its CPU,
 * a line: NAME INSTRUCTIONS BRANCHES.
 *
 * The guest is a loop of one OUT, in real mode.
 */
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include <linux/perf_event.h>

#include "../prog/mark.h"
#include "../prog/vm.h"

#define MEMORY		0x10000
#define CODE		0x1000
#define COUNT_ALL	0x4300c0	/* instructions, in all modes */

static int open_event(uint64_t config, int of_cpu, int group)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_HARDWARE,
		.config = config,
		.size = sizeof(attr),
		.disabled = group < 0,
		.exclude_guest = 1,
		.exclude_kernel = 1,
		.read_format = PERF_FORMAT_GROUP,
	};
	int fd = syscall(__NR_perf_event_open, &attr, of_cpu ? -1 : 0, of_cpu ? 0 : -1, group, 0);

	if (fd < 0)
		err(1, "perf_event_open");
	return fd;
}

static void measure(struct vm *vm, const char *name, int of_cpu, long times)
{
	char begin[32], end[32];
	uint64_t counts[3];
	int leader;
	long n;

	/* What is counted outside of the marks must be the same for each name. */
	snprintf(begin, sizeof(begin), "%s-begin", name);
	snprintf(end, sizeof(end), "%s-end", name);

	leader = open_event(PERF_COUNT_HW_INSTRUCTIONS, of_cpu, -1);
	open_event(PERF_COUNT_HW_BRANCH_INSTRUCTIONS, of_cpu, leader);

	ioctl(leader, PERF_EVENT_IOC_ENABLE, PERF_IOC_FLAG_GROUP);
	mark(begin);
	for (n = 0; n < times; n++) {
		if (ioctl(vm->vcpu, KVM_RUN, 0) || vm->run->exit_reason != KVM_EXIT_IO)
			errx(1, "unexpected exit reason %u", vm->run->exit_reason);
	}
	mark(end);
	ioctl(leader, PERF_EVENT_IOC_DISABLE, PERF_IOC_FLAG_GROUP);

	if (read(leader, counts, sizeof(counts)) != sizeof(counts) || counts[0] != 2)
		errx(1, "can't read an event");
	printf("%s %llu %llu\n", name, (unsigned long long)counts[1],
	       (unsigned long long)counts[2]);
}

int main(int argc, char **argv)
{
	static const uint8_t guest[] = { 0xe6, 0x99, 0xeb, 0xfc };	/* 1: out; jmp 1b */
	struct vm vm;
	long times;

	if (argc != 4)
		errx(2, "usage: host-oracle SELECTOR GLOBAL_CTRL TIMES");
	times = atol(argv[3]);

	vm = create_vm(MEMORY);
	memcpy(vm.memory + CODE, guest, sizeof(guest));
	set_real_mode(&vm, CODE, (struct kvm_regs) {});
	set_msr(&vm, strtoul(argv[1], NULL, 16), COUNT_ALL);
	set_msr(&vm, strtoul(argv[2], NULL, 16), 1);

	/* The first time loads pages, and what is written is buffered. */
	measure(&vm, "warm", 0, 2);
	measure(&vm, "task-none", 0, 0);
	measure(&vm, "task", 0, times);
	measure(&vm, "cpu-none", 1, 0);
	measure(&vm, "cpu", 1, times);
	return 0;
}
