// SPDX-License-Identifier: GPL-2.0-only
/*
 * The hard-lockup watchdog keeps watching a host that runs mediated guests.
 *
 * It is an event of each CPU that overflows after so many cycles of the host's.
 * It neither keeps a VM from having a PMU, nor is it in its way: while the guest
 * runs it is stopped, and nothing of its period is lost or gained by that, however often the
 * PMU is exchanged.  The oracle is a counter of cycles next to it, which is read
 * by a tracepoint whenever an NMI was handled.
 *
 * With -l the host locks up instead, in the task that runs the vCPU, while the
 * guest's PMU has state to be exchanged.  The watchdog has to find out, which ends the
 * test in one way or another; see kernel.hardlockup_panic.
 */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "mediated_pmu.h"
#include "mediated_pmu_event.h"

#define THRESHOLD	"/proc/sys/kernel/watchdog_thresh"
#define TRACEPOINT	"/sys/kernel/tracing/events/nmi/nmi_handler/id"
#define LOCKUP		"/sys/kernel/debug/provoke-crash/DIRECT"

static int cpu;

static void guest_code(void)
{
	uint32_t loops;
	int i;

	reset_pmu();
	for_each_counter(i)
		select_event(i, pmu.instructions, KERNEL | USER);
	wrmsr(pmu.global_ctrl, pmu.counters);

	for (;;) {
		GUEST_UCALL_NONE();
		loops = 20000;
		asm volatile("1: dec %0\n\t"
			     "jnz 1b\n\t"
			     : "+r"(loops) : : "cc");
	}
}

struct sample {
	struct perf_event_header header;
	uint64_t nr;
	uint64_t hits;
	uint64_t cycles;
};

struct meter {
	int nmis;
	int cycles;
	struct perf_event_mmap_page *page;
	uint64_t tail;
	uint64_t last;
};

#define BUFFER_SIZE	(64 * PAGE_SIZE)

static int open_event(uint32_t type, uint64_t config, int group)
{
	struct perf_event_attr attr = {
		.type = type,
		.config = config,
		.size = sizeof(attr),
		.exclude_guest = type == PERF_TYPE_HARDWARE,
		.pinned = group < 0,
		.sample_period = type == PERF_TYPE_TRACEPOINT,
		.sample_type = type == PERF_TYPE_TRACEPOINT ? PERF_SAMPLE_READ : 0,
		.read_format = PERF_FORMAT_GROUP,
		.wakeup_events = type == PERF_TYPE_TRACEPOINT ? 1 << 30 : 0,
	};

	return open_perf_event(&attr, -1, cpu, group, 0);
}

static struct meter start_meter(void)
{
	struct meter m = {};

	m.nmis = open_event(PERF_TYPE_TRACEPOINT, read_number(TRACEPOINT), -1);
	m.cycles = open_event(PERF_TYPE_HARDWARE, PERF_COUNT_HW_CPU_CYCLES, m.nmis);
	m.page = mmap(NULL, BUFFER_SIZE + PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, m.nmis, 0);
	TEST_ASSERT(m.page != MAP_FAILED, "mmap failed: %s", strerror(errno));
	return m;
}

static void stop_meter(struct meter *m)
{
	munmap(m->page, BUFFER_SIZE + PAGE_SIZE);
	close(m->cycles);
	close(m->nmis);
}

static uint64_t read_cycles(struct meter *m)
{
	uint64_t values[3];

	TEST_ASSERT(read(m->nmis, values, sizeof(values)) == sizeof(values),
		    "Can't read an event");
	return values[2];
}

/* Shorter than any period, longer than it takes to handle an NMI */
#define ONE_NMI	10000000

/*
 * Wait for as many NMIs, for at most @limit of the host's cycles.  Returns these cycles
 * at the last one.  An NMI has several handlers.
 */
static uint64_t wait_for_nmis(struct kvm_vcpu *vcpu, struct meter *m, int nr, uint64_t limit)
{
	uint64_t begin = read_cycles(m);
	struct sample *s;
	int nmis = 0;

	while (nmis < nr) {
		TEST_ASSERT(read_cycles(m) - begin < limit, "%d NMIs in %lu cycles, not %d",
			    nmis, limit, nr);

		if (vcpu)
			vcpu_run(vcpu);

		for (; m->tail < m->page->data_head; m->tail += s->header.size) {
			s = (void *)m->page + m->page->data_offset + m->tail;
			TEST_ASSERT(s->header.type == PERF_RECORD_SAMPLE &&
				    s->header.size == sizeof(*s),
				    "Unexpected record of type %u", s->header.type);
			if (!m->last || s->cycles - m->last > ONE_NMI)
				nmis++;
			m->last = s->cycles;
		}
	}
	return m->last;
}

#define NMIS	2

static void test_period(struct kvm_vcpu *vcpu)
{
	uint64_t alone, with, difference;
	struct meter m = start_meter();

	/* A second at whatever frequency: at most 10 GHz */
	alone = wait_for_nmis(NULL, &m, 1, 10000000000ull);
	alone = wait_for_nmis(NULL, &m, 1, 10000000000ull) - alone;
	with = m.last;
	with = wait_for_nmis(vcpu, &m, NMIS, 2 * NMIS * alone) - with;
	stop_meter(&m);

	pr_info("An NMI after %lu cycles, %u with the guest after %lu\n", alone, NMIS, with);

	/* Where in an instruction the overflow comes makes a difference, but only once. */
	difference = with > NMIS * alone ? with - NMIS * alone : NMIS * alone - with;
	TEST_ASSERT(difference < alone / 1000,
		    "The watchdog takes %lu cycles for %u periods of %lu", with, NMIS, alone);
	TEST_ASSERT(read_number(NMI_WATCHDOG) == 1, "The watchdog was switched off");
}

static void help(const char *name, int status)
{
	printf("usage: %s [-l]\n"
	       " -l: lock up the host, by LKDTM, and have the watchdog find out\n", name);
	exit(status);
}

int main(int argc, char *argv[])
{
	int watchdog, threshold, opt, i;
	bool lock_up = false;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	while ((opt = getopt(argc, argv, "hl")) != -1) {
		if (opt == 'l')
			lock_up = true;
		else
			help(argv[0], opt == 'h' ? KSFT_PASS : KSFT_FAIL);
	}

	pmu_require_mediated();
	TEST_REQUIRE(!getuid());

	cpu = pin_to_last_cpu();

	watchdog = read_number(NMI_WATCHDOG);
	threshold = read_number(THRESHOLD);
	if (!lock_up)
		write_number(NMI_WATCHDOG, 1);
	write_number(THRESHOLD, 1);

	vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	pmu_sync(vm);
	for (i = 0; i < 100; i++)
		vcpu_run(vcpu);

	if (lock_up) {
		__TEST_REQUIRE(!access(LOCKUP, W_OK), "There is no " LOCKUP);
		write_file(LOCKUP, "HARDLOCKUP");
		TEST_FAIL("The host is still here");
	}

	test_period(vcpu);

	kvm_vm_free(vm);
	write_number(THRESHOLD, threshold);
	write_number(NMI_WATCHDOG, watchdog);
	return 0;
}
