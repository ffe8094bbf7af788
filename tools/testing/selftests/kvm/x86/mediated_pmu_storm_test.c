// SPDX-License-Identifier: GPL-2.0-only
/*
 * A guest that does nothing but take PMIs is a nuisance to itself only.
 *
 * The guest's handler leaves the counter one short of an overflow, so that the next
 * instruction raises the next PMI, for ever; its interrupted code hardly gets
 * anywhere.  Meanwhile, on the same CPU:
 *
 *  - a host task gets its share of the CPU, and executes the same instructions
 *    as without the guest, to the last one
 *  - its own sampling event is not throttled, and takes each sample that is due
 *  - what the guest does is accounted to it: VPMI, the statistics of the vCPU and
 *    the guest's own count agree
 *  - the host's NMIs are those of its own events
 *  - the host's memory doesn't grow
 */
#include <fcntl.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#include "mediated_pmu.h"
#include "mediated_pmu_event.h"

static uint32_t guest_pmis;
static uint32_t guest_stop;

static void rearm(void)
{
	wrmsr(pmu.global_status_clear, BIT_ULL(0));
	write_counter(0, -1);
}

/* The counter is on all the time: it overflows before this is over. */
static void handle_pmi(struct ex_regs *regs)
{
	WRITE_ONCE(guest_pmis, guest_pmis + 1);
	if (READ_ONCE(guest_stop)) {
		wrmsr(pmu.global_ctrl, 0);
		wrmsr(pmu.global_status_clear, BIT_ULL(0));
		x2apic_write_reg(APIC_EOI, 0);
		return;
	}

	x2apic_write_reg(APIC_EOI, 0);
	x2apic_write_reg(APIC_LVTPC, PMI_VECTOR);
	rearm();
}

static void guest_code(void)
{
	x2apic_enable();
	x2apic_write_reg(APIC_LVTPC, PMI_VECTOR);
	reset_pmu();
	GUEST_SYNC(0);

	select_event(0, pmu.instructions, KERNEL | USER | PMI);
	rearm();
	asm volatile("sti");
	wrmsr(pmu.global_ctrl, BIT_ULL(0));
	while (!READ_ONCE(guest_stop))
		asm volatile("nop");
	asm volatile("cli");
	wrmsr(pmu.global_ctrl, 0);
	GUEST_DONE();
}

static int cpu;

static void *vcpu_thread(void *vcpu)
{
	pin_self_to_cpu(cpu);
	run_vcpu(vcpu);
	return NULL;
}

#define PERIOD	10007

/* About a hundred thousand instructions */
#define LOOPS	50000

static noinline void work(int turns)
{
	int loops;

	do {
		loops = LOOPS;
		asm volatile("1: dec %0\n\t"
			     "jnz 1b\n\t"
			     : "+r"(loops) : : "cc");
	} while (--turns);
}

struct counts {
	uint64_t insns;
	uint64_t samples;
	/* Seconds and nanoseconds of this thread's, in one number */
	uint64_t cpu_time;
};

static uint64_t cpu_time(pthread_t thread)
{
	struct timespec ts;
	clockid_t clock;

	TEST_ASSERT(!pthread_getcpuclockid(thread, &clock) && !clock_gettime(clock, &ts),
		    "Can't read the time of a thread");
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

static struct counts count(int turns)
{
	struct perf_event_attr attr = user_instructions();
	struct perf_event_mmap_page *page;
	struct perf_event_header *h;
	uint64_t due = (uint64_t)turns * LOOPS * 2 / PERIOD;
	size_t size = 64 * PAGE_SIZE;
	struct counts c = {};
	uint64_t tail;
	int fd;

	while (size < 2 * due * (sizeof(*h) + 8))
		size *= 2;

	attr.sample_period = PERIOD;
	attr.sample_type = PERF_SAMPLE_IP;
	attr.wakeup_events = 1 << 30;
	fd = open_perf_event(&attr, 0, -1, -1, 0);
	page = mmap(NULL, size + PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	TEST_ASSERT(page != MAP_FAILED, "mmap failed: %s", strerror(errno));

	c.cpu_time = cpu_time(pthread_self());
	ioctl(fd, PERF_EVENT_IOC_ENABLE, 0);
	work(turns);
	ioctl(fd, PERF_EVENT_IOC_DISABLE, 0);
	c.cpu_time = cpu_time(pthread_self()) - c.cpu_time;

	c.insns = read_event(fd);
	for (tail = 0; tail < page->data_head; tail += h->size) {
		h = (void *)page + page->data_offset + tail;
		TEST_ASSERT(h->type == PERF_RECORD_SAMPLE, "A record of type %u%s", h->type,
			    h->type == PERF_RECORD_THROTTLE ? ", the event is throttled" : "");
		c.samples++;
	}

	munmap(page, size + PAGE_SIZE);
	close(fd);
	return c;
}

/* A line of /proc/interrupts, the CPU's column */
static uint64_t read_interrupts(const char *name)
{
	uint64_t value = 0;
	char line[1024], *p;
	bool found = false;
	FILE *f;
	int i;

	f = fopen("/proc/interrupts", "r");
	TEST_ASSERT(f, "Can't open /proc/interrupts");
	while (fgets(line, sizeof(line), f)) {
		p = line + strspn(line, " ");
		if (strncmp(p, name, strlen(name)) || p[strlen(name)] != ':')
			continue;

		found = true;
		p += strlen(name) + 1;
		for (i = 0; i <= cpu; i++)
			value = strtoull(p, &p, 10);
	}
	fclose(f);
	TEST_ASSERT(found, "/proc/interrupts has no %s", name);
	return value;
}

/*
 * What the kernel has allocated and can't reclaim, in KiB.  Pages that are cached
 * come and go, so that what is available says nothing about a few of them.
 */
static long read_used(void)
{
	static const char * const names[] = {
		"SUnreclaim", "KernelStack", "PageTables", "VmallocUsed", "Percpu",
	};
	long value, used = 0;
	char line[128];
	FILE *f;
	int i, n = 0;

	f = fopen("/proc/meminfo", "r");
	TEST_ASSERT(f, "Can't open /proc/meminfo");
	while (fgets(line, sizeof(line), f)) {
		for (i = 0; i < ARRAY_SIZE(names); i++) {
			if (strncmp(line, names[i], strlen(names[i])) ||
			    sscanf(line + strlen(names[i]), ": %ld", &value) != 1)
				continue;
			used += value;
			n++;
		}
	}
	fclose(f);
	TEST_ASSERT(n == ARRAY_SIZE(names), "Can't read /proc/meminfo");
	return used;
}

/* Each measurement maps a buffer, for which the kernel keeps page tables. */
#define MEMORY_MARGIN	256

static struct kvm_vm *create_vm(struct kvm_vcpu **vcpu)
{
	struct kvm_vm *vm = vm_create_with_one_vcpu(vcpu, guest_code);

	pmu_sync(vm);
	vm_install_exception_handler(vm, PMI_VECTOR, handle_pmi);
	run_vcpu(*vcpu);
	return vm;
}

static void test_storm(int turns)
{
	uint64_t vpmis, nmis, time, pmis;
	struct counts without, with;
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	struct kvm_vm *vm;
	long used;

	vm = create_vm(&vcpu);

	without = count(turns);
	TEST_ASSERT(without.samples == without.insns / PERIOD,
		    "%lu samples of %lu without the guest", without.samples,
		    without.insns / PERIOD);

	used = read_used();
	vpmis = read_interrupts("VPMI");
	nmis = read_interrupts("NMI");
	pthread_create(&thread, NULL, vcpu_thread, vcpu);
	/* The storm begins when the first PMI is there. */
	while (!READ_ONCE(*(uint32_t *)addr_gva2hva(vm, (vm_vaddr_t)&guest_pmis)))
		usleep(1000);

	time = cpu_time(thread);
	with = count(turns);
	time = cpu_time(thread) - time;
	nmis = read_interrupts("NMI") - nmis;
	used = read_used() - used;

	guest_stop = 1;
	sync_global_to_guest(vm, guest_stop);
	pthread_join(thread, NULL);
	guest_stop = 0;
	sync_global_from_guest(vm, guest_pmis);
	vpmis = read_interrupts("VPMI") - vpmis;
	pmis = vcpu_read_stat(vcpu, "pmu_pmis");

	pr_info("%u PMIs, %lu samples; the guest ran for %lu ms, the host's task for %lu ms; %ld KiB\n",
		guest_pmis, with.samples, time / 1000000, with.cpu_time / 1000000, used);

	TEST_ASSERT(with.insns == without.insns,
		    "%lu instructions in the host, %lu without the guest", with.insns,
		    without.insns);
	TEST_ASSERT(with.samples == without.samples,
		    "%lu samples in the host, %lu without the guest", with.samples,
		    without.samples);

	/* Two tasks of the same weight share the CPU evenly, give or take a tick. */
	TEST_ASSERT(time > with.cpu_time / 2 && with.cpu_time > time / 2,
		    "The guest ran for %lu ns, the host's task for %lu ns", time, with.cpu_time);

	/* It is a storm: one each millisecond is what slow hosts make of it. */
	TEST_ASSERT(guest_pmis > time / 1000000, "%u PMIs in %lu ms", guest_pmis, time / 1000000);
	TEST_ASSERT(vpmis == guest_pmis, "%lu VPMIs in the host, %u PMIs in the guest", vpmis,
		    guest_pmis);
	TEST_ASSERT(pmis == guest_pmis, "pmu_pmis is %lu, %u PMIs in the guest", pmis, guest_pmis);

	/* The watchdog has one now and then. */
	TEST_ASSERT(nmis >= with.samples && nmis - with.samples <= 2 + time / NSEC_PER_SEC,
		    "%lu NMIs for %lu samples", nmis, with.samples);

	TEST_ASSERT(used < MEMORY_MARGIN, "The host has %ld KiB less memory", used);
	kvm_vm_free(vm);
}

#define CPU_TIME "/proc/sys/kernel/perf_cpu_time_max_percent"

static void help(const char *name, int status)
{
	printf("usage: %s [-f | -t turns]\n"
	       " -f: run the guest only, for ever\n"
	       " -t: how much the host's task does meanwhile, in 100000 instructions (default: 200)\n",
	       name);
	exit(status);
}

int main(int argc, char *argv[])
{
	int opt, limit, turns = 200;
	struct kvm_vcpu *vcpu;
	bool for_ever = false;

	while ((opt = getopt(argc, argv, "fht:")) != -1) {
		if (opt == 'f')
			for_ever = true;
		else if (opt == 't')
			turns = atoi_positive("Number of turns", optarg);
		else
			help(argv[0], opt == 'h' ? KSFT_PASS : KSFT_FAIL);
	}

	pmu_require_mediated();
	TEST_REQUIRE(!getuid());

	cpu = pin_to_last_cpu();

	if (for_ever) {
		create_vm(&vcpu);
		run_vcpu(vcpu);
		TEST_FAIL("The guest has come to an end");
	}

	/* Or perf takes fewer samples if they take long. */
	limit = read_number(CPU_TIME);
	write_number(CPU_TIME, 0);

	test_storm(turns);

	write_number(CPU_TIME, limit);
	return 0;
}
