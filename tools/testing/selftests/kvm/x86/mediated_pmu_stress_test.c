// SPDX-License-Identifier: GPL-2.0-only
/*
 * All that makes a mediated PMU change hands, at the same time.
 *
 * Four guests count what they do, and each of their counts is exact:
 *
 *  - a loop with exits to user space, where the host reads the counters, and a
 *    long loop without any
 *  - a long loop in which one counter overflows: exactly one PMI
 *
 * Meanwhile
 *
 *  - their vCPUs are moved from CPU to CPU
 *  - VMs are destroyed and created; the VM that stays has its event filter
 *    changed, which denies branches at times, but never instructions
 *  - events that exclude guests are opened and closed, of CPUs and of tasks, vCPUs
 *    included, some of which sample; those that count a known block are exact
 *  - CPUs go offline and online
 *
 * Without the last one if there is one CPU only, or none that can be taken offline.
 */
#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <sys/ioctl.h>

#include <linux/perf_event.h>

#include "mediated_pmu.h"

#define EXITS		12
#define SPINS		50000

/* A value to start from that tells whose it is */
#define START(guest, i)	(0x5aull << 24 | (uint64_t)(guest) << 20 | (i) << 12)

enum {
	EXITING,
	SPINNING,
	SAMPLING,
	NR_KINDS,
};

/* What a round counts; with PMIs their handler as well, found out while it's calm. */
static struct {
	uint64_t insns;
	uint64_t branches;
} rounds[NR_KINDS] = {
	[EXITING]  = { LOOP_INSNS(EXITS, 1), EXITS },
	[SPINNING] = { LOOP_INSNS(SPINS, 0), SPINS },
};

/* The VM's filter may deny branches and cycles. */
static int filtered;

static uint32_t pmis;

static void handle_pmi(struct ex_regs *regs)
{
	GUEST_ASSERT_EQ(rdmsr(pmu.global_status), BIT(0));
	wrmsr(pmu.global_status_clear, BIT(0));
	x2apic_write_reg(APIC_LVTPC, PMI_VECTOR);
	x2apic_write_reg(APIC_EOI, 0);
	pmis++;
}

static bool counts_branches(int i)
{
	return !is_fixed(i) && i % 2;
}

/* Counter 0 overflows in the middle of the loop. */
static uint64_t start_of(int kind, int guest, int i)
{
	return kind == SAMPLING && !i ? -(uint64_t)SPINS & counter_mask(i) : START(guest, i);
}

static void run_round(int kind)
{
	uint32_t eax, ebx, ecx, edx;

	switch (kind) {
	case EXITING:
		RUN_LOOP(pmu.counters, EXITS, "out %%al, $" __stringify(PORT) "\n\t");
		break;
	case SPINNING:
		RUN_LOOP(pmu.counters, SPINS, "");
		break;
	case SAMPLING:
		pmis = 0;
		asm volatile("sti");
		RUN_LOOP(pmu.counters, SPINS, "");
		cpuid(0, &eax, &ebx, &ecx, &edx);
		asm volatile("cli");
		GUEST_ASSERT_EQ(pmis, 1);
		break;
	}
}

static void check_counters(int kind, int guest)
{
	uint64_t count, expected;
	int i;

	for_each_counter(i) {
		count = (read_counter(i) - start_of(kind, guest, i)) & counter_mask(i);
		expected = counts_branches(i) ? rounds[kind].branches : rounds[kind].insns;

		/* Cycles have no exact number. */
		if (i > FIXED_BASE)
			__GUEST_ASSERT((count || filtered) && count < 1ul << 32,
				       "Guest %d, counter %d: %ld cycles", guest, i, count);
		else if (filtered && counts_branches(i))
			__GUEST_ASSERT(count <= expected,
				       "Guest %d, counter %d: at most %lu branches, got %ld",
				       guest, i, expected, count);
		else
			__GUEST_ASSERT(count == expected,
				       "Guest %d, kind %d, counter %d: wanted %lu, got %ld",
				       guest, kind, i, expected, count);
	}
	GUEST_ASSERT_EQ(rdmsr(pmu.global_status), 0);
}

static void guest_main(int kind, int guest)
{
	int i;

	x2apic_enable();
	x2apic_write_reg(APIC_LVTPC, PMI_VECTOR);

	for (;;) {
		reset_pmu();
		for_each_counter(i) {
			write_counter(i, start_of(kind, guest, i));
			select_event(i, counts_branches(i) ? pmu.branches : pmu.instructions,
				     kind == SAMPLING && !i ? KERNEL | PMI : KERNEL);
		}

		run_round(kind);

		if (!rounds[kind].insns) {
			rounds[kind].insns = read_counter(2) - START(guest, 2);
			rounds[kind].branches = read_counter(1) - START(guest, 1);
		}
		check_counters(kind, guest);
		GUEST_SYNC(0);
	}
}

static uint32_t seed = 1;
static int nr_cpus;
static bool done;

static struct guest_random_state random_state(int thread)
{
	return new_guest_random_state(seed * 100 + thread);
}

/* At least low, less than high */
static uint32_t pick(struct guest_random_state *random, uint32_t low, uint32_t high)
{
	return low + guest_random_u32(random) % (high - low);
}

static void move_to(pthread_t thread, int cpu)
{
	cpu_set_t set;
	int r;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	r = pthread_setaffinity_np(thread, sizeof(set), &set);
	/* The CPU may be offline. */
	TEST_ASSERT(!r || r == EINVAL, "pthread_setaffinity_np: %s", strerror(r));
}

static int open_event(uint64_t config, uint64_t period, pid_t pid, int cpu)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_HARDWARE,
		.config = config,
		.size = sizeof(attr),
		.sample_period = period,
		.read_format = PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING,
		.disabled = !period && cpu < 0,
		.exclude_guest = 1,
		.exclude_kernel = cpu < 0,
		.exclude_hv = 1,
	};

	return syscall(__NR_perf_event_open, &attr, pid, cpu, -1, 0);
}

static uint64_t read_event(int fd, bool always_running)
{
	uint64_t values[3];

	TEST_ASSERT(read(fd, values, sizeof(values)) == sizeof(values), "Can't read an event");
	TEST_ASSERT(!always_running || values[1] == values[2],
		    "An event was enabled for %lu ns, and on the PMU for %lu",
		    values[1], values[2]);
	return values[0];
}

/* The same instructions in user mode every time */
static noinline uint64_t count_as_host(void)
{
	int fd = open_event(PERF_COUNT_HW_INSTRUCTIONS, 0, 0, -1), i;
	uint64_t value;

	TEST_ASSERT(fd >= 0, "perf_event_open failed: %s", strerror(errno));
	ioctl(fd, PERF_EVENT_IOC_ENABLE, 0);
	for (i = 0; i < 100000; i++)
		asm volatile("nop");
	ioctl(fd, PERF_EVENT_IOC_DISABLE, 0);
	value = read_event(fd, true);
	close(fd);
	return value;
}

static uint64_t host_insns;

#define NR_WORKERS	4

/* Each runs a vCPU: two share the VM that stays, the others have one VM after another. */
static struct worker {
	pthread_t thread;
	pid_t tid;
	int number;
	int kind;
	struct kvm_vcpu *vcpu;
	struct guest_random_state random;
	uint32_t nr_rounds;
	uint32_t nr_vms;
} workers[NR_WORKERS];

static struct kvm_vm *lasting_vm;

static void add_vcpu(struct kvm_vm *vm, struct worker *w)
{
	w->vcpu = vm_vcpu_add(vm, w->number, guest_main);
	vcpu_args_set(w->vcpu, 2, w->kind, w->number);
}

static struct kvm_vm *create_vm(uint32_t nr_vcpus)
{
	struct kvm_vm *vm = vm_create(nr_vcpus);

	vm_install_exception_handler(vm, PMI_VECTOR, handle_pmi);
	pmu_sync(vm);
	sync_global_to_guest(vm, rounds);
	return vm;
}

static void read_registers(struct worker *w, int n)
{
	uint64_t value, expected;
	int i;

	for_each_counter(i) {
		value = vcpu_get_msr(w->vcpu, counter_msr(i));
		/* mov, and for each exit its OUT, DEC and JNZ; this one isn't complete. */
		expected = START(w->number, i) + 1 + 3 * n;
		TEST_ASSERT(i > FIXED_BASE || counts_branches(i) || value == expected,
			    "Counter %d at exit %d: wanted 0x%lx, got 0x%lx", i, n,
			    expected, value);
	}
	TEST_ASSERT_EQ(vcpu_get_msr(w->vcpu, pmu.global_ctrl), pmu.counters);
}

static void do_something(struct worker *w, int n)
{
	switch (pick(&w->random, 0, 8)) {
	case 0:
		read_registers(w, n);
		break;
	case 1:
		sched_yield();
		break;
	case 2:
		usleep(pick(&w->random, 1, 1000));
		break;
	case 3:
		move_to(w->thread, pick(&w->random, 0, nr_cpus));
		break;
	}
}

static void run_rounds(struct worker *w, int nr)
{
	int n;

	while (nr-- && !READ_ONCE(done)) {
		for (n = 0; run_to_exit(w->vcpu); n++)
			do_something(w, n);
		TEST_ASSERT(n == (w->kind == EXITING ? EXITS : 0), "%d exits", n);
		w->nr_rounds++;
	}
}

static void *worker_thread(void *arg)
{
	struct worker *w = arg;
	struct kvm_vm *vm;

	WRITE_ONCE(w->tid, gettid());

	while (!READ_ONCE(done)) {
		if (w->vcpu && w->vcpu->vm == lasting_vm) {
			run_rounds(w, 1000);
			continue;
		}

		w->kind = pick(&w->random, 0, NR_KINDS);
		vm = create_vm(1);
		add_vcpu(vm, w);
		run_rounds(w, pick(&w->random, 1, 30));
		kvm_vm_free(vm);
		w->vcpu = NULL;
		w->nr_vms++;
	}
	return NULL;
}

static void *mover_thread(void *arg)
{
	struct guest_random_state random = random_state(10);
	uint32_t *nr = arg;

	while (!READ_ONCE(done)) {
		move_to(workers[pick(&random, 0, NR_WORKERS)].thread, pick(&random, 0, nr_cpus));
		(*nr)++;
		usleep(pick(&random, 100, 3000));
	}
	return NULL;
}

/* Its own, whose count is known */
static void *own_event_thread(void *arg)
{
	struct guest_random_state random = random_state(11);
	uint32_t *nr = arg;
	uint64_t value;

	while (!READ_ONCE(done)) {
		move_to(pthread_self(), pick(&random, 0, nr_cpus));
		value = count_as_host();
		TEST_ASSERT(value == host_insns,
			    "%lu instructions in the host, %lu while it's calm", value, host_insns);
		(*nr)++;
		usleep(pick(&random, 100, 3000));
	}
	return NULL;
}

/*
 * Of CPUs and of the vCPUs' tasks.  Few at a time, so that each always finds a
 * counter: other events share them, and must not be multiplexed.
 */
#define NR_EVENTS	3

static void *event_thread(void *arg)
{
	static const uint32_t configs[] = { PERF_COUNT_HW_INSTRUCTIONS, PERF_COUNT_HW_CPU_CYCLES };
	struct guest_random_state random = random_state(12);
	uint64_t value, last[NR_EVENTS];
	int fds[NR_EVENTS], i;
	uint32_t *nr = arg;
	pid_t tid;

	for (i = 0; i < NR_EVENTS; i++)
		fds[i] = -1;

	while (!READ_ONCE(done)) {
		i = pick(&random, 0, NR_EVENTS);
		if (fds[i] >= 0) {
			value = read_event(fds[i], false);
			TEST_ASSERT(value >= last[i], "An event went from %lu back to %lu",
				    last[i], value);
			last[i] = value;
			if (guest_random_bool(&random)) {
				close(fds[i]);
				fds[i] = -1;
			}
		} else {
			tid = -1;
			if (pick(&random, 0, 3) == 0)
				tid = READ_ONCE(workers[pick(&random, 0, NR_WORKERS)].tid);
			fds[i] = open_event(configs[pick(&random, 0, 2)],
					    guest_random_bool(&random) ? 20011 : 0, tid,
					    tid < 0 ? pick(&random, 0, nr_cpus) : -1);
			TEST_ASSERT(fds[i] >= 0 || errno == ENODEV, "perf_event_open failed: %s",
				    strerror(errno));
			last[i] = 0;
			if (fds[i] >= 0) {
				ioctl(fds[i], PERF_EVENT_IOC_ENABLE, 0);
				(*nr)++;
			}
		}
		usleep(pick(&random, 100, 5000));
	}

	for (i = 0; i < NR_EVENTS; i++) {
		if (fds[i] >= 0)
			close(fds[i]);
	}
	return NULL;
}

static void *filter_thread(void *arg)
{
	struct guest_random_state random = random_state(13);
	struct {
		struct kvm_pmu_event_filter head;
		uint64_t events[1];
	} filter = {};
	uint32_t *nr = arg;

	while (!READ_ONCE(done)) {
		/* Nothing denied; branches denied; all but instructions denied */
		filter.head.nevents = pick(&random, 0, 2);
		filter.events[0] = pmu.branches;
		filter.head.action = KVM_PMU_EVENT_DENY;
		filter.head.fixed_counter_bitmap = guest_random_bool(&random) ? BIT(1) : 0;
		if (pick(&random, 0, 3) == 0) {
			filter.head.nevents = 1;
			filter.events[0] = pmu.instructions;
			filter.head.action = KVM_PMU_EVENT_ALLOW;
			filter.head.fixed_counter_bitmap = BIT(0);
		}
		vm_ioctl(lasting_vm, KVM_SET_PMU_EVENT_FILTER, &filter.head);
		(*nr)++;
		usleep(pick(&random, 100, 5000));
	}
	return NULL;
}

static void cpu_online_path(char *path, size_t size, int cpu)
{
	snprintf(path, size, "/sys/devices/system/cpu/cpu%d/online", cpu);
}

static void *hotplug_thread(void *arg)
{
	struct guest_random_state random = random_state(14);
	uint32_t *nr = arg;
	char path[64];

	while (!READ_ONCE(done)) {
		cpu_online_path(path, sizeof(path), pick(&random, 1, nr_cpus));
		TEST_ASSERT(write_file(path, "0"), "%s: can't go offline", path);
		usleep(pick(&random, 1000, 20000));
		TEST_ASSERT(write_file(path, "1"), "%s: can't go online", path);
		(*nr)++;
		usleep(pick(&random, 1000, 20000));
	}
	return NULL;
}

static struct disturber {
	const char *what;
	void *(*run)(void *arg);
	pthread_t thread;
	uint32_t nr;
} disturbers[] = {
	{ "moves", mover_thread },
	{ "events that count a known block", own_event_thread },
	{ "other events", event_thread },
	{ "filters", filter_thread },
	{ "CPUs offline and online", hotplug_thread },
};

static bool can_unplug(void)
{
	char path[64];
	int cpu;

	for (cpu = 1; cpu < nr_cpus; cpu++) {
		cpu_online_path(path, sizeof(path), cpu);
		if (access(path, W_OK))
			return false;
	}
	return nr_cpus > 1;
}

/* What has no number to compare with is found out before the stress begins. */
static void calibrate(void)
{
	struct worker calm = { .number = 5, .kind = SAMPLING };
	struct kvm_vm *vm = create_vm(1);

	add_vcpu(vm, &calm);
	run_rounds(&calm, 2);
	sync_global_from_guest(vm, rounds);
	kvm_vm_free(vm);
	TEST_ASSERT(rounds[SAMPLING].insns > rounds[SPINNING].insns &&
		    rounds[SAMPLING].branches >= rounds[SPINNING].branches,
		    "%lu instructions with a PMI", rounds[SAMPLING].insns);

	host_insns = count_as_host();
}

static void create_lasting_vm(void)
{
	lasting_vm = create_vm(2);
	filtered = true;
	sync_global_to_guest(lasting_vm, filtered);
	filtered = false;

	workers[0].kind = EXITING;
	add_vcpu(lasting_vm, &workers[0]);
	workers[1].kind = SAMPLING;
	add_vcpu(lasting_vm, &workers[1]);
}

static void start(pthread_t *thread, void *(*run)(void *arg), void *arg)
{
	TEST_ASSERT(!pthread_create(thread, NULL, run, arg), "pthread_create failed");
}

static void stress(int seconds)
{
	struct disturber *d;
	struct worker *w;
	int i;

	for (i = 0; i < NR_WORKERS; i++) {
		workers[i].number = i;
		workers[i].random = random_state(i);
	}
	create_lasting_vm();

	for (w = workers; w < workers + NR_WORKERS; w++) {
		start(&w->thread, worker_thread, w);
		while (!READ_ONCE(w->tid))
			usleep(100);
	}
	for (d = disturbers; d < disturbers + ARRAY_SIZE(disturbers); d++) {
		if (d->run != hotplug_thread || can_unplug())
			start(&d->thread, d->run, &d->nr);
		else
			pr_info("Not tested, CPUs can't go offline: %s\n", d->what);
	}

	sleep(seconds);
	WRITE_ONCE(done, true);

	for (d = disturbers; d < disturbers + ARRAY_SIZE(disturbers); d++) {
		if (!d->thread)
			continue;
		pthread_join(d->thread, NULL);
		pr_info("%u %s\n", d->nr, d->what);
		TEST_ASSERT(d->nr, "No %s", d->what);
	}
	for (w = workers; w < workers + NR_WORKERS; w++) {
		pthread_join(w->thread, NULL);
		pr_info("vCPU %d: %u rounds, %u VMs\n", w->number, w->nr_rounds, w->nr_vms);
		TEST_ASSERT(w->nr_rounds, "vCPU %d has counted nothing", w->number);
	}
	kvm_vm_free(lasting_vm);
	TEST_ASSERT_EQ(count_as_host(), host_insns);
}

static void help(const char *name)
{
	printf("usage: %s [-s seconds] [-r seed]\n", name);
	exit(KSFT_FAIL);
}

int main(int argc, char *argv[])
{
	int seconds = 2, opt;

	while ((opt = getopt(argc, argv, "s:r:h")) != -1) {
		switch (opt) {
		case 's':
			seconds = atoi_positive("Number of seconds", optarg);
			break;
		case 'r':
			seed = atoi_non_negative("Seed", optarg);
			break;
		default:
			help(argv[0]);
		}
	}

	pmu_require_mediated();
	TEST_REQUIRE(!getuid());

	TEST_REQUIRE(pmu.nr_gp >= 3);
	nr_cpus = sysconf(_SC_NPROCESSORS_ONLN);

	calibrate();
	pr_info("%d seconds on %d CPUs, seed %u\n", seconds, nr_cpus, seed);
	stress(seconds);
	return 0;
}
