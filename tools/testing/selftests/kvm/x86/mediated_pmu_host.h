/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The host's side of tests of the mediated PMU: events that exclude guests, and code
 * of the host that enters a guest, of which every instruction in user mode is known.
 */
#ifndef SELFTEST_KVM_MEDIATED_PMU_HOST_H
#define SELFTEST_KVM_MEDIATED_PMU_HOST_H

#include <sys/ioctl.h>

#include "mediated_pmu.h"
#include "mediated_pmu_event.h"

enum {
	OF_TASK,
	OF_CPU,
	OF_CGROUP,
};

struct mode {
	const char *name;
	int of;
	bool group;
	bool pinned;
	/* Instructions from one sample to the next */
	uint64_t period;
	bool kernel;
};

static int cpu;
static int cgroup = -1;

static inline int open_attr(struct perf_event_attr *attr, int of, int group)
{
	pid_t pid = of == OF_TASK ? 0 : of == OF_CPU ? -1 : cgroup;

	return open_perf_event(attr, pid, of == OF_TASK ? -1 : cpu, group,
			       of == OF_CGROUP ? PERF_FLAG_PID_CGROUP : 0);
}

static inline int open_event(const struct mode *mode, uint64_t config, int group)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_HARDWARE,
		.config = config,
		.size = sizeof(attr),
		.disabled = group < 0,
		.pinned = mode->pinned && group < 0,
		.exclude_guest = 1,
		.exclude_kernel = !mode->kernel,
		.exclude_hv = 1,
		.sample_period = mode->period,
		.sample_type = mode->period ? PERF_SAMPLE_IP : 0,
		.wakeup_events = mode->period ? 1 << 30 : 0,
		.read_format = PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING,
	};

	return open_attr(&attr, mode->of, group);
}

struct reading {
	uint64_t value;
	uint64_t enabled;
	uint64_t running;
};

static inline struct reading read_all(int fd)
{
	struct reading r;

	TEST_ASSERT(read(fd, &r, sizeof(r)) == sizeof(r), "Can't read an event");
	return r;
}

static inline uint64_t read_running(int fd)
{
	struct reading r = read_all(fd);

	/* A cgroup's time starts when it is scheduled in next. */
	TEST_ASSERT(r.value && r.enabled == r.running,
		    "%lu, enabled for %lu ns, running for %lu ns", r.value, r.enabled,
		    r.running);
	return r.value;
}

/* The measured part of the host: always the same instructions. */
static noinline void switch_often(struct kvm_vcpu *vcpu, int times)
{
	int fd = vcpu->fd;

	asm volatile("1:\n\t"
		     "mov %[ioctl], %%eax\n\t"
		     "mov %[fd], %%edi\n\t"
		     "mov %[run], %%esi\n\t"
		     "xor %%edx, %%edx\n\t"
		     "syscall\n\t"
		     "mov $50, %%ecx\n\t"
		     "2: dec %%ecx\n\t"
		     "jnz 2b\n\t"
		     "dec %[times]\n\t"
		     "jnz 1b\n\t"
		     : [times]"+r"(times)
		     : [ioctl]"i"(__NR_ioctl), [fd]"r"(fd), [run]"i"(KVM_RUN)
		     : "rax", "rcx", "rdx", "rsi", "rdi", "r11", "cc", "memory");
}

/* Instructions and branches of one turn of it */
#define SWITCH_INSNS	(5 + 1 + 50 * 2 + 2)
#define SWITCH_BRANCHES	(1 + 50 + 1)

static int switches = 250;

static inline void group_ioctl(int fd, unsigned long request)
{
	TEST_ASSERT(!ioctl(fd, request, PERF_IOC_FLAG_GROUP), "ioctl failed: %s",
		    strerror(errno));
}

struct counts {
	uint64_t insns;
	uint64_t branches;
};

/* With no guest at all: the same, but the file descriptor is none. */
static struct kvm_vcpu no_vcpu = { .fd = -1 };

static inline struct counts count(struct kvm_vcpu *vcpu, const struct mode *mode)
{
	struct counts c;
	int insns, branches;

	insns = open_event(mode, PERF_COUNT_HW_INSTRUCTIONS, -1);
	branches = open_event(mode, PERF_COUNT_HW_BRANCH_INSTRUCTIONS, mode->group ? insns : -1);

	if (!mode->group)
		group_ioctl(branches, PERF_EVENT_IOC_ENABLE);
	group_ioctl(insns, PERF_EVENT_IOC_ENABLE);
	switch_often(vcpu, switches);
	group_ioctl(insns, PERF_EVENT_IOC_DISABLE);
	if (!mode->group)
		group_ioctl(branches, PERF_EVENT_IOC_DISABLE);

	c.insns = read_running(insns);
	c.branches = read_running(branches);
	close(branches);
	close(insns);
	return c;
}

#endif /* SELFTEST_KVM_MEDIATED_PMU_HOST_H */
