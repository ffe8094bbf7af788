// SPDX-License-Identifier: GPL-2.0-only
/*
 * The host's events lose nothing, and gain nothing, from mediated guests.
 *
 * The oracle is the host's own user mode: between two points of one task's
 * code, the number of instructions and branches it executes in user mode is the same
 * every time, whatever the kernel and any guest do in between.  So it must be
 * the same when the guest in between runs a little, runs much, has its counters off, has
 * all of them on and overflowing, and when no guest runs at all.
 *
 *  - exclude_guest events of this task, counting instructions and branches, alone
 *    and in a group, over many thousand switches of the PMU: exact
 *  - sampling every N instructions: all samples that are due, none lost, and none
 *    of the guest
 *  - a guest's PMIs are not the host's, and the host's are not the guest's: VPMI and
 *    the guest's own count agree
 */
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/perf_event.h>

#include "mediated_pmu.h"

enum {
	GUEST_IDLE,
	GUEST_SHORT,
	GUEST_LONG,
	GUEST_PMI,
	NR_GUESTS,
};

static const char * const guest_names[] = {
	[GUEST_IDLE]	= "with its PMU idle",
	[GUEST_SHORT]	= "with all counters on",
	[GUEST_LONG]	= "running for long",
	[GUEST_PMI]	= "taking PMIs",
};

/* Written by the host while the guest is out */
static int guest_kind;
static uint32_t guest_pmis;

static void handle_pmi(struct ex_regs *regs)
{
	WRITE_ONCE(guest_pmis, guest_pmis + 1);
	wrmsr(pmu.global_status_clear, pmu.counters);
	x2apic_write_reg(APIC_LVTPC, PMI_VECTOR);
	x2apic_write_reg(APIC_EOI, 0);
}

static void set_up_guest(int kind)
{
	int i, flags;

	reset_pmu();
	if (kind == GUEST_IDLE)
		return;

	for_each_counter(i) {
		flags = kind == GUEST_PMI && !i ? PMI : 0;
		select_event(i, pmu.instructions, KERNEL | USER | flags);
	}
	wrmsr(pmu.global_ctrl, pmu.counters);
}

static void guest_code(void)
{
	int kind = GUEST_IDLE;
	uint32_t loops;

	x2apic_enable();
	x2apic_write_reg(APIC_LVTPC, PMI_VECTOR);
	reset_pmu();
	asm volatile("sti");

	for (;;) {
		GUEST_UCALL_NONE();

		if (kind != READ_ONCE(guest_kind)) {
			kind = READ_ONCE(guest_kind);
			set_up_guest(kind);
		}

		/* The overflow comes in the loop, while the counter is on. */
		if (kind == GUEST_PMI)
			write_counter(0, -500);

		loops = kind == GUEST_SHORT ? 10 : 5000;
		asm volatile("1: dec %0\n\t"
			     "jnz 1b\n\t"
			     : "+r"(loops) : : "cc");
	}
}

static int open_event(uint64_t config, int group, uint64_t period)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_HARDWARE,
		.config = config,
		.size = sizeof(attr),
		.disabled = group < 0,
		.exclude_guest = 1,
		.exclude_kernel = 1,
		.exclude_hv = 1,
		.sample_period = period,
		.sample_type = period ? PERF_SAMPLE_IP : 0,
		.wakeup_events = period ? 1 << 30 : 0,
		.read_format = PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING,
	};
	int fd = syscall(__NR_perf_event_open, &attr, 0, -1, group, 0);

	TEST_ASSERT(fd >= 0, "perf_event_open failed: %s", strerror(errno));
	return fd;
}

static uint64_t read_event(int fd)
{
	uint64_t value[3];

	TEST_ASSERT(read(fd, value, sizeof(value)) == sizeof(value), "Can't read an event");
	TEST_ASSERT(value[1] && value[1] == value[2],
		    "Enabled for %lu ns, running for %lu ns", value[1], value[2]);
	return value[0];
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

static void group_ioctl(int fd, unsigned long request)
{
	TEST_ASSERT(!ioctl(fd, request, PERF_IOC_FLAG_GROUP), "ioctl failed: %s",
		    strerror(errno));
}

struct counts {
	uint64_t insns;
	uint64_t branches;
};

/* With no guest at all: the same, but the file descriptor is none. */
static struct counts count(struct kvm_vcpu *vcpu, int times, bool group)
{
	struct counts c;
	int insns, branches;

	insns = open_event(PERF_COUNT_HW_INSTRUCTIONS, -1, 0);
	branches = open_event(PERF_COUNT_HW_BRANCH_INSTRUCTIONS, group ? insns : -1, 0);

	if (!group)
		group_ioctl(branches, PERF_EVENT_IOC_ENABLE);
	group_ioctl(insns, PERF_EVENT_IOC_ENABLE);
	switch_often(vcpu, times);
	group_ioctl(insns, PERF_EVENT_IOC_DISABLE);
	if (!group)
		group_ioctl(branches, PERF_EVENT_IOC_DISABLE);

	c.insns = read_event(insns);
	c.branches = read_event(branches);
	close(branches);
	close(insns);
	return c;
}

static void set_guest(struct kvm_vcpu *vcpu, int kind)
{
	guest_kind = kind;
	sync_global_to_guest(vcpu->vm, guest_kind);
	vcpu_run(vcpu);
}

#define SWITCHES	2000

static void test_counting(struct kvm_vcpu *vcpu, bool group)
{
	struct kvm_vcpu none = { .fd = -1 };
	struct counts without, with;
	int kind, n;

	without = count(&none, SWITCHES, group);
	pr_info("Counting%s: %lu instructions, %lu branches\n", group ? " in a group" : "",
		without.insns, without.branches);

	/* About what the code above says, to see that it's this what is counted */
	TEST_ASSERT(without.insns - SWITCHES * (5 + 1 + 50 * 2 + 2) < 1000,
		    "%lu instructions are not those of the code", without.insns);
	TEST_ASSERT(without.branches - SWITCHES * (50 + 1) < SWITCHES + 1000,
		    "%lu branches are not those of the code", without.branches);

	for (kind = 0; kind < NR_GUESTS; kind++) {
		set_guest(vcpu, kind);
		for (n = 0; n < 3; n++) {
			with = count(vcpu, SWITCHES, group);
			TEST_ASSERT(with.insns == without.insns,
				    "Guest %s: %lu instructions in the host, %lu without the guest",
				    guest_names[kind], with.insns, without.insns);
			TEST_ASSERT(with.branches == without.branches,
				    "Guest %s: %lu branches in the host, %lu without the guest",
				    guest_names[kind], with.branches, without.branches);
		}
	}
}

#define PERIOD	10007

static uint64_t count_samples(struct kvm_vcpu *vcpu, uint64_t *insns)
{
	const size_t size = 64 * PAGE_SIZE;
	struct perf_event_mmap_page *page;
	uint64_t head, tail, samples = 0;
	struct perf_event_header *h;
	char *data;
	int fd;

	fd = open_event(PERF_COUNT_HW_INSTRUCTIONS, -1, PERIOD);
	page = mmap(NULL, size + PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	TEST_ASSERT(page != MAP_FAILED, "mmap failed: %s", strerror(errno));

	group_ioctl(fd, PERF_EVENT_IOC_ENABLE);
	switch_often(vcpu, SWITCHES);
	group_ioctl(fd, PERF_EVENT_IOC_DISABLE);
	*insns = read_event(fd);

	data = (char *)page + page->data_offset;
	head = page->data_head;
	TEST_ASSERT(head < size, "The ring buffer has wrapped");
	for (tail = 0; tail < head; tail += h->size) {
		h = (void *)(data + tail);
		TEST_ASSERT(h->type == PERF_RECORD_SAMPLE, "Unexpected record of type %u", h->type);
		TEST_ASSERT((h->misc & PERF_RECORD_MISC_CPUMODE_MASK) == PERF_RECORD_MISC_USER,
			    "A sample that isn't of user mode: misc 0x%x", h->misc);
		samples++;
	}

	munmap(page, size + PAGE_SIZE);
	close(fd);
	return samples;
}

static void test_sampling(struct kvm_vcpu *vcpu)
{
	uint64_t samples, insns;
	int kind;

	for (kind = 0; kind < NR_GUESTS; kind++) {
		set_guest(vcpu, kind);
		samples = count_samples(vcpu, &insns);
		TEST_ASSERT(samples == insns / PERIOD,
			    "Guest %s: %lu samples of %lu", guest_names[kind], samples,
			    insns / PERIOD);
	}
}

/* The line of VPMI in /proc/interrupts, all CPUs */
static uint64_t read_vpmi(void)
{
	char line[1024], *p, *end;
	uint64_t value, sum = 0;
	bool found = false;
	FILE *f;

	f = fopen("/proc/interrupts", "r");
	TEST_ASSERT(f, "Can't open /proc/interrupts");
	while (fgets(line, sizeof(line), f)) {
		p = strstr(line, "VPMI:");
		if (!p)
			continue;

		found = true;
		for (p += 5;; p = end) {
			value = strtoull(p, &end, 10);
			if (p == end)
				break;
			sum += value;
		}
	}
	fclose(f);
	TEST_ASSERT(found, "/proc/interrupts has no VPMI");
	return sum;
}

static void test_pmis(struct kvm_vcpu *vcpu)
{
	uint64_t host, insns;
	uint32_t guest;

	/* The host samples at the same time. */
	set_guest(vcpu, GUEST_PMI);
	sync_global_from_guest(vcpu->vm, guest_pmis);
	guest = guest_pmis;
	host = read_vpmi();
	count_samples(vcpu, &insns);
	host = read_vpmi() - host;
	sync_global_from_guest(vcpu->vm, guest_pmis);
	guest = guest_pmis - guest;

	TEST_ASSERT(guest == SWITCHES, "%u PMIs in the guest, not %u", guest, SWITCHES);
	TEST_ASSERT(host == guest, "%lu VPMIs in the host, %u PMIs in the guest", host, guest);

	/* And none when the guest has no overflow */
	set_guest(vcpu, GUEST_SHORT);
	sync_global_from_guest(vcpu->vm, guest_pmis);
	guest = guest_pmis;
	host = read_vpmi();
	count_samples(vcpu, &insns);
	sync_global_from_guest(vcpu->vm, guest_pmis);
	TEST_ASSERT_EQ(guest_pmis, guest);
	TEST_ASSERT_EQ(read_vpmi(), host);
}

int main(int argc, char *argv[])
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	pmu_require_mediated();

	pmu_init();
	kvm_pin_this_task_to_pcpu(0);

	vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	pmu_sync(vm);
	vm_install_exception_handler(vm, PMI_VECTOR, handle_pmi);
	vcpu_run(vcpu);

	test_counting(vcpu, false);
	test_counting(vcpu, true);
	test_sampling(vcpu);
	test_pmis(vcpu);

	kvm_vm_free(vm);
	return 0;
}
