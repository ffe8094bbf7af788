/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Events of the host's, which tests of the mediated PMU have beside their VMs.
 */
#ifndef SELFTEST_KVM_MEDIATED_PMU_EVENT_H
#define SELFTEST_KVM_MEDIATED_PMU_EVENT_H

#include <sys/syscall.h>

#include <linux/perf_event.h>

#include "kvm_util.h"

/* Instructions of the host's user mode, never of a guest; to be enabled */
static inline struct perf_event_attr user_instructions(void)
{
	return (struct perf_event_attr) {
		.type = PERF_TYPE_HARDWARE,
		.config = PERF_COUNT_HW_INSTRUCTIONS,
		.size = sizeof(struct perf_event_attr),
		.disabled = 1,
		.exclude_guest = 1,
		.exclude_kernel = 1,
		.exclude_hv = 1,
	};
}

/* The arguments are perf_event_open()'s; an event that can't be had is a failure. */
static inline int open_perf_event(struct perf_event_attr *attr, pid_t pid, int cpu, int group,
				  unsigned long flags)
{
	int fd = syscall(__NR_perf_event_open, attr, pid, cpu, group, flags);

	TEST_ASSERT(fd >= 0, "perf_event_open failed: %s", strerror(errno));
	return fd;
}

static inline uint64_t read_event(int fd)
{
	uint64_t value;

	TEST_ASSERT(read(fd, &value, sizeof(value)) == sizeof(value), "Can't read an event");
	return value;
}

/* The same number of instructions every time, of this task */
static noinline uint64_t __maybe_unused count_as_host(void)
{
	struct perf_event_attr attr = user_instructions();
	int fd = open_perf_event(&attr, 0, -1, -1, 0), i;
	uint64_t value;

	ioctl(fd, PERF_EVENT_IOC_ENABLE, 0);
	for (i = 0; i < 1000; i++)
		asm volatile("nop");
	ioctl(fd, PERF_EVENT_IOC_DISABLE, 0);
	value = read_event(fd);
	close(fd);
	return value;
}

#endif /* SELFTEST_KVM_MEDIATED_PMU_EVENT_H */
