// SPDX-License-Identifier: GPL-2.0-only
/*
 * A guest's PMU stays in the hardware after VM exit until somebody else needs it,
 * and neither the guest nor anybody else can tell.
 *
 * A guest counts a block of known instructions with exits to user space in its
 * midst.  Its counts are exact, whatever the host does at each of the exits:
 *
 *  - nothing
 *  - run the vCPU on another CPU; also while it is in the guest
 *  - run another vCPU, of the same VM or of another one, that counts as well; one
 *    whose PMU is idle and whose registers keep their values all the same; one
 *    of a VM without a PMU, which has no access to what is parked
 *  - open, read and close host events, of the task and of the CPU, whose counts
 *    are exact as well
 *  - read and write the vCPU's registers, on its CPU or from a thread on another
 *  - let a task look at all counters with RDPMC, one that may always, one that may from
 *    then on, and the vCPU's own: none is the guest's
 *  - take the CPU offline, and online again
 *  - destroy the vCPU; the next VM on that CPU finds nothing of it
 *
 * The vCPU's statistics say how often the hardware changed hands, and why.
 *
 * And a guest that turns its counters on and off all the time loses no count, as
 * does one that is preempted while nothing counts.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "mediated_pmu.h"
#include "mediated_pmu_event.h"

/* The block with exits */
#define EXITS		12
#define EXITS_INSNS	LOOP_INSNS(EXITS, 1)
#define EXITS_BRANCHES	EXITS

/* Of exit n, whose OUT is not complete before the vCPU runs again. */
#define INSNS_AT(n)	(1 + (n) * 3)
#define BRANCHES_AT(n)	(n)

static __always_inline void run_exits(uint64_t counters)
{
	RUN_LOOP(counters, EXITS, "out %%al, $" __stringify(PORT) "\n\t");
}

/* Long enough to be moved to another CPU */
#define SPINS		2000000
#define SPINS_INSNS	LOOP_INSNS(SPINS, 0)

static __always_inline void run_spins(uint64_t counters)
{
	RUN_LOOP(counters, SPINS, "");
}

/* A value to start from that tells whose it is: nobody counts that far. */
#define MARK		0x5a
#define START(guest, i)	((uint64_t)MARK << 24 | (uint64_t)(guest) << 20 | (i) << 12)

static bool is_marked(uint64_t value)
{
	return value >> 24 == MARK;
}

/* Set by the host for each guest; vCPU n of a VM is guest number + n. */
static int number;

/* What user space adds to all counters in each round. */
static uint64_t bonus;

static bool counts_branches(int i)
{
	return !is_fixed(i) && i % 2;
}

static void set_up_counters(int guest)
{
	int i;

	reset_pmu();
	for_each_counter(i) {
		write_counter(i, START(guest, i));
		select_event(i, counts_branches(i) ? pmu.branches : pmu.instructions, KERNEL);
	}
}

static void check_counters(int guest, uint64_t insns, uint64_t branches, uint64_t added)
{
	uint64_t count, expected;
	int i;

	for_each_counter(i) {
		count = read_counter(i) - START(guest, i) - added;
		expected = counts_branches(i) ? branches : insns;

		/* Cycles have no exact number. */
		if (i > FIXED_BASE)
			__GUEST_ASSERT(count && count < 1ul << 32,
				       "Guest %d, counter %d: %ld cycles", guest, i, count);
		else
			__GUEST_ASSERT(count == expected,
				       "Guest %d, counter %d: wanted %lu, got %ld",
				       guest, i, expected, count);
	}
	GUEST_ASSERT_EQ(rdmsr(pmu.global_status), 0);
}

/* While one counter counts, all others can be seen in the hardware. */
static void check_nothing_inherited(void)
{
	int i;

	select_event(0, pmu.instructions, KERNEL);
	wrmsr(pmu.global_ctrl, BIT_ULL(0));
	for_each_counter(i) {
		if (i)
			GUEST_ASSERT_EQ(read_counter(i), 0);
	}
	GUEST_ASSERT_EQ(rdmsr(pmu.global_status), 0);
	GUEST_ASSERT(read_counter(0) < 10000);
	wrmsr(pmu.global_ctrl, 0);
}

static void guest_counting(int vcpu)
{
	int guest = number + vcpu;

	check_nothing_inherited();
	for (;;) {
		set_up_counters(guest);
		run_exits(pmu.counters);
		check_counters(guest, EXITS_INSNS, EXITS_BRANCHES, READ_ONCE(bonus));
		GUEST_SYNC(0);
	}
}

static void guest_spinning(int vcpu)
{
	for (;;) {
		set_up_counters(number);
		run_spins(pmu.counters);
		check_counters(number, SPINS_INSNS, SPINS, 0);
		GUEST_SYNC(0);
	}
}

#define TOGGLES	300

static void guest_toggling(int vcpu)
{
	int n;

	for (;;) {
		set_up_counters(number);
		for (n = 0; n < TOGGLES; n++) {
			run_block(pmu.counters);
			if (!(n % (TOGGLES / EXITS)))
				asm volatile("out %%al, $" __stringify(PORT) : : "a"(0));
		}
		check_counters(number, TOGGLES * BLOCK_INSNS, TOGGLES * BLOCK_BRANCHES, 0);
		GUEST_SYNC(0);
	}
}

/*
 * Global control is left on when the last counter is disabled, and the vCPU is
 * preempted like that.  What KVM then emulates counts nothing, until a counter is
 * enabled both ways.
 */
static void guest_falling_idle(int vcpu)
{
	uint32_t eax, ebx, ecx, edx, spins;
	int i;

	for (;;) {
		set_up_counters(number);
		run_block(pmu.counters);
		for_each_counter(i)
			select_event(i, 0, 0);
		wrmsr(pmu.global_ctrl, pmu.counters);

		spins = SPINS;
		asm volatile("1: dec %0\n\t"
			     "jnz 1b\n\t"
			     : "+r"(spins) : : "cc");

		cpuid(0, &eax, &ebx, &ecx, &edx);
		wrmsr(pmu.global_ctrl, 0);
		for_each_counter(i)
			select_event(i, counts_branches(i) ? pmu.branches : pmu.instructions,
				     KERNEL);
		cpuid(0, &eax, &ebx, &ecx, &edx);
		run_block(pmu.counters);
		check_counters(number, 2 * BLOCK_INSNS, 2 * BLOCK_BRANCHES, 0);
		GUEST_SYNC(0);
	}
}

/* Each register can be written and read, and nothing ever counts. */
static void guest_idle(int vcpu)
{
	uint64_t round;
	int i;

	reset_pmu();
	for (round = 0;; round++) {
		for_each_counter(i) {
			write_counter(i, START(number, i) + round);
			/* Enabled by itself, not in global control */
			select_event(i, pmu.instructions, KERNEL);
		}
		run_block(0);
		asm volatile("out %%al, $" __stringify(PORT) : : "a"(0));

		for_each_counter(i) {
			GUEST_ASSERT_EQ(read_counter(i), START(number, i) + round);
			GUEST_ASSERT_EQ(rdmsr(counter_msr(i)), START(number, i) + round);
		}
		GUEST_ASSERT_EQ(rdmsr(pmu.global_ctrl), 0);
		GUEST_ASSERT_EQ(rdmsr(pmu.global_status), 0);
	}
}

static void guest_without_pmu(int vcpu)
{
	uint64_t value;
	int i;

	for (;;) {
		for_each_counter(i)
			GUEST_ASSERT_EQ(rdpmc_safe(rdpmc_index(i), &value), GP_VECTOR);
		GUEST_ASSERT_EQ(rdmsr_safe(counter_msr(2), &value), GP_VECTOR);
		GUEST_ASSERT_EQ(rdmsr_safe(pmu.global_ctrl, &value), GP_VECTOR);
		asm volatile("out %%al, $" __stringify(PORT) : : "a"(0));
	}
}

static struct kvm_vm *create_vm(int guest, int nr_vcpus, struct kvm_vcpu **vcpu, void *code)
{
	struct kvm_vm *vm = vm_create(nr_vcpus);
	int i;

	if (code == guest_without_pmu)
		vm_enable_cap(vm, KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE);

	for (i = 0; i < nr_vcpus; i++) {
		vcpu[i] = vm_vcpu_add(vm, i, code);
		vcpu_args_set(vcpu[i], 1, i);
	}

	number = guest;
	bonus = 0;
	pmu_sync(vm);
	sync_global_to_guest(vm, number);
	sync_global_to_guest(vm, bonus);
	return vm;
}

static int nr_cpus;

static void pin_to(int cpu)
{
	pin_self_to_cpu(cpu % nr_cpus);
}

typedef void (*action_t)(struct kvm_vcpu *vcpu, int n);

static void do_nothing(struct kvm_vcpu *vcpu, int n)
{
}

static void move(struct kvm_vcpu *vcpu, int n)
{
	pin_to(n);
}

/* Stay where it is now and then. */
static void move_sometimes(struct kvm_vcpu *vcpu, int n)
{
	pin_to(n / 3);
}

static struct kvm_vcpu *other_vcpu;

static void run_other(struct kvm_vcpu *vcpu, int n)
{
	run_to_exit(other_vcpu);
}

static void move_and_run_other(struct kvm_vcpu *vcpu, int n)
{
	pin_to(n);
	run_to_exit(other_vcpu);
	if (n % 3)
		pin_to(n + 1);
}

static int open_event(uint64_t config, bool of_task)
{
	struct perf_event_attr attr = user_instructions();

	attr.config = config;
	attr.disabled = of_task;
	return open_perf_event(&attr, of_task ? 0 : -1, of_task ? -1 : sched_getcpu(), -1, 0);
}

static uint64_t host_insns;
static int cpu_event = -1;

/*
 * A task's event at each exit; one of the CPU is there from one exit to the next, in
 * Intel's fixed counters in turn with the general-purpose ones.
 */
static void count_in_host(struct kvm_vcpu *vcpu, int n)
{
	uint64_t value = count_as_host();

	TEST_ASSERT(value == host_insns,
		    "With a parked guest PMU: %lu instructions in the host, %lu without it",
		    value, host_insns);

	if (cpu_event >= 0) {
		TEST_ASSERT(read_event(cpu_event), "The event of the CPU stands still");
		close(cpu_event);
		cpu_event = -1;
	} else if (n % 4 == 1) {
		cpu_event = open_event(n % 8 == 1 ? PERF_COUNT_HW_INSTRUCTIONS :
						    PERF_COUNT_HW_BRANCH_INSTRUCTIONS, false);
	}
}

static uint64_t expected_at(struct kvm_vcpu *vcpu, int i, int n)
{
	return START(number + vcpu->id, i) + bonus +
	       (counts_branches(i) ? BRANCHES_AT(n) : INSNS_AT(n));
}

static void read_registers(struct kvm_vcpu *vcpu, int n)
{
	uint64_t value;
	int i;

	for_each_counter(i) {
		value = vcpu_get_msr(vcpu, counter_msr(i));
		TEST_ASSERT(i > FIXED_BASE || value == expected_at(vcpu, i, n),
			    "Counter %d at exit %d: wanted 0x%lx, got 0x%lx", i, n,
			    expected_at(vcpu, i, n), value);
		/* Other fixed counters count cycles. */
		TEST_ASSERT(is_marked(value) || i > FIXED_BASE, "Counter %d is 0x%lx", i, value);
	}
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, pmu.global_ctrl), pmu.counters);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, pmu.global_status), 0);
}

#define BONUS	100

/* One exit's bonus; all of it has to be there in the end. */
static void write_registers(struct kvm_vcpu *vcpu, int n)
{
	int i;

	read_registers(vcpu, n);
	for_each_counter(i)
		vcpu_set_msr(vcpu, counter_msr(i), vcpu_get_msr(vcpu, counter_msr(i)) + BONUS);
	bonus += BONUS;
	read_registers(vcpu, n);
}

static struct {
	struct kvm_vcpu *vcpu;
	action_t action;
	int n;
	int cpu;
} remote;

static void *remote_thread(void *unused)
{
	pin_to(remote.cpu);
	remote.action(remote.vcpu, remote.n);
	return NULL;
}

static void do_remotely(action_t action, struct kvm_vcpu *vcpu, int n)
{
	pthread_t thread;

	remote = (typeof(remote)) { vcpu, action, n, sched_getcpu() + 1 };
	pthread_create(&thread, NULL, remote_thread, NULL);
	pthread_join(thread, NULL);
}

static void read_remotely(struct kvm_vcpu *vcpu, int n)
{
	do_remotely(read_registers, vcpu, n);
}

static void write_remotely(struct kvm_vcpu *vcpu, int n)
{
	do_remotely(write_registers, vcpu, n);
}

static sigjmp_buf faulted;

static void on_fault(int sig)
{
	siglongjmp(faulted, 1);
}

static void look_at_counters(void)
{
	sighandler_t before = signal(SIGSEGV, on_fault);
	static int i, nr;
	uint64_t value;

	nr = 0;
	for (i = 0; i < 64; i++) {
		if (sigsetjmp(faulted, 1))
			continue;
		value = rdpmc(i % 32 | (i & 32 ? INTEL_RDPMC_FIXED : 0));
		nr++;
		TEST_ASSERT(!is_marked(value), "A task reads the guest's 0x%lx", value);
	}
	signal(SIGSEGV, before);
	TEST_ASSERT(nr >= pmu.nr_gp + pmu.nr_fixed, "Only %d counters can be read", nr);
}

/* Its mapping sets CR4.PCE wherever this task runs, where nothing is counted, too. */
static void *map_event_of_cpu1(void)
{
	struct perf_event_attr attr = user_instructions();
	int fd = open_perf_event(&attr, 0, 1, -1, 0);
	void *page = mmap(NULL, PAGE_SIZE, PROT_READ, MAP_SHARED, fd, 0);

	TEST_ASSERT(page != MAP_FAILED, "mmap failed: %s", strerror(errno));
	close(fd);
	return page;
}

/* The vCPU's task itself, for one exit at a time */
static void look_itself(struct kvm_vcpu *vcpu, int n)
{
	static void *page;

	if (page) {
		look_at_counters();
		munmap(page, PAGE_SIZE);
		page = NULL;
	} else if (n % 4 == 0) {
		page = map_event_of_cpu1();
	}
}

/* On the same CPU, where that task has no event */
static void look_in_other_task(int n, bool map)
{
	int status;
	pid_t pid;

	if (n % 4)
		return;

	pid = fork();
	TEST_ASSERT(pid >= 0, "fork failed");
	if (!pid) {
		if (map)
			map_event_of_cpu1();
		look_at_counters();
		_exit(0);
	}
	TEST_ASSERT(waitpid(pid, &status, 0) == pid && !status, "The other task failed");
}

static void let_others_look(struct kvm_vcpu *vcpu, int n)
{
	look_in_other_task(n, false);
}

static void let_others_map(struct kvm_vcpu *vcpu, int n)
{
	look_in_other_task(n, true);
}

#define CPU1_ONLINE	"/sys/devices/system/cpu/cpu1/online"
#define RDPMC_POLICY	"/sys/bus/event_source/devices/cpu/rdpmc"

/* Parked on CPU 1, which goes; there again when it is back. */
static void unplug(struct kvm_vcpu *vcpu, int n)
{
	switch (n % 4) {
	case 0:
		pin_to(1);
		break;
	case 1:
		pin_to(0);
		TEST_ASSERT(write_file(CPU1_ONLINE, "0"), "Can't take CPU 1 offline");
		break;
	case 2:
		TEST_ASSERT(write_file(CPU1_ONLINE, "1"), "Can't take CPU 1 online");
		break;
	}
}

#define ROUNDS	4

static void run_rounds(struct kvm_vcpu *vcpu, action_t action, const char *what)
{
	int round, n;

	pr_info("At the exits: %s\n", what);
	for (round = 0; round < ROUNDS; round++) {
		pin_to(0);
		bonus = 0;
		for (n = 0; run_to_exit(vcpu); n++) {
			action(vcpu, n);
			sync_global_to_guest(vcpu->vm, bonus);
		}
		TEST_ASSERT(n == EXITS, "%d exits, not %u", n, EXITS);
	}

	if (cpu_event >= 0)
		close(cpu_event);
	cpu_event = -1;
	pin_to(0);
}

static void test_exits(void)
{
	struct kvm_vcpu *vcpu[2], *others[4];
	struct kvm_vm *vm, *other[4];
	int i;

	pin_to(0);
	host_insns = count_as_host();

	vm = create_vm(1, 2, vcpu, guest_counting);
	other[0] = create_vm(3, 1, &others[0], guest_counting);
	other[1] = create_vm(4, 1, &others[1], guest_idle);
	other[2] = create_vm(5, 1, &others[2], guest_without_pmu);
	other[3] = create_vm(6, 1, &others[3], guest_toggling);
	number = 1;

	run_rounds(vcpu[0], do_nothing, "nothing");
	run_rounds(vcpu[0], read_registers, "read registers");
	run_rounds(vcpu[0], write_registers, "write registers");
	run_rounds(vcpu[0], count_in_host, "host events");

	other_vcpu = vcpu[1];
	run_rounds(vcpu[0], run_other, "another vCPU");
	other_vcpu = others[0];
	run_rounds(vcpu[0], run_other, "another VM");
	other_vcpu = others[1];
	run_rounds(vcpu[0], run_other, "an idle VM");
	other_vcpu = others[2];
	run_rounds(vcpu[0], run_other, "a VM without a PMU");
	other_vcpu = others[3];
	run_rounds(vcpu[0], run_other, "a VM that toggles global control");

	if (!access(RDPMC_POLICY, W_OK)) {
		int policy = read_number(RDPMC_POLICY);

		write_number(RDPMC_POLICY, 2);
		run_rounds(vcpu[0], let_others_look, "another task's RDPMC");
		write_number(RDPMC_POLICY, policy);
	} else {
		pr_info("Not tested, can't write " RDPMC_POLICY "\n");
	}

	if (nr_cpus > 1) {
		run_rounds(vcpu[0], let_others_map, "RDPMC of a task with an event elsewhere");
		run_rounds(vcpu[0], look_itself, "RDPMC of the vCPU's own task");
		run_rounds(vcpu[0], move, "move");
		run_rounds(vcpu[0], move_sometimes, "move sometimes");
		run_rounds(vcpu[0], read_remotely, "read registers from another CPU");
		run_rounds(vcpu[0], write_remotely, "write registers from another CPU");
		for (i = 0; i < 4; i++) {
			other_vcpu = others[i];
			run_rounds(vcpu[0], move_and_run_other, "move, and another VM");
		}
		if (!access(CPU1_ONLINE, W_OK))
			run_rounds(vcpu[0], unplug, "CPU offline and online");
		else
			pr_info("Not tested, CPU 1 can't go offline: unplugging\n");
	} else {
		pr_info("Not tested for want of a second CPU: moving\n");
	}

	kvm_vm_free(vm);
	for (i = 0; i < 4; i++)
		kvm_vm_free(other[i]);
}

static bool stop;

struct mover {
	pthread_t target;
	uint32_t moves;
};

static void *mover_thread(void *arg)
{
	struct mover *mover = arg;
	cpu_set_t set;

	while (!READ_ONCE(stop)) {
		CPU_ZERO(&set);
		CPU_SET(mover->moves % nr_cpus, &set);
		TEST_ASSERT(!pthread_setaffinity_np(mover->target, sizeof(set), &set),
			    "Can't move the vCPU");
		WRITE_ONCE(mover->moves, mover->moves + 1);
		usleep(2000);
	}
	return NULL;
}

static void test_moved_while_running(void)
{
	struct mover mover = { .target = pthread_self() };
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	struct kvm_vm *vm;
	uint32_t before;
	int round;

	pr_info("While it runs: move\n");
	vm = create_vm(1, 1, &vcpu, guest_spinning);

	pthread_create(&thread, NULL, mover_thread, &mover);
	for (round = 0; round < 3; round++) {
		before = READ_ONCE(mover.moves);
		TEST_ASSERT(!run_to_exit(vcpu), "Unexpected exit");
		TEST_ASSERT(READ_ONCE(mover.moves) - before >= 2, "The vCPU was not moved");
	}
	WRITE_ONCE(stop, true);
	pthread_join(thread, NULL);
	kvm_vm_free(vm);
}

static void test_toggling(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int n;

	pr_info("Toggle global control\n");
	vm = create_vm(1, 1, &vcpu, guest_toggling);
	for (n = 0; run_to_exit(vcpu); n++)
		pin_to(n / 2);
	TEST_ASSERT(n == EXITS, "%d exits, not %u", n, EXITS);
	pin_to(0);
	kvm_vm_free(vm);
}

static uint32_t turns_in_the_way;

static void *be_in_the_way(void *unused)
{
	pin_to(0);
	while (!READ_ONCE(stop))
		WRITE_ONCE(turns_in_the_way, turns_in_the_way + 1);
	return NULL;
}

static void test_falling_idle(void)
{
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	struct kvm_vm *vm;
	uint32_t before;
	int round;

	pr_info("Preempted with global control on\n");
	pin_to(0);
	vm = create_vm(1, 1, &vcpu, guest_falling_idle);
	pthread_create(&thread, NULL, be_in_the_way, NULL);
	for (round = 0; round < 3; round++) {
		before = READ_ONCE(turns_in_the_way);
		TEST_ASSERT(!run_to_exit(vcpu), "Unexpected exit");
		TEST_ASSERT(READ_ONCE(turns_in_the_way) != before, "The guest wasn't preempted");
	}
	WRITE_ONCE(stop, true);
	pthread_join(thread, NULL);
	stop = false;
	kvm_vm_free(vm);
}

/* Parked on CPU 0 when it goes, there or from another CPU */
static void test_destroyed(int from)
{
	struct kvm_vcpu *vcpu[2];
	struct kvm_vm *vm;
	int n, guest;

	pr_info("Destroy on CPU %d\n", from % nr_cpus);
	for (guest = 0; guest < 4; guest++) {
		pin_to(0);
		vm = create_vm(guest, 2, vcpu, guest_counting);
		for (n = 0; n < 3; n++) {
			TEST_ASSERT(run_to_exit(vcpu[0]), "The round has ended");
			if (guest % 2)
				TEST_ASSERT(run_to_exit(vcpu[1]), "The round has ended");
		}
		pin_to(from);
		kvm_vm_free(vm);
		pin_to(0);
		TEST_ASSERT_EQ(count_as_host(), host_insns);
	}
}

struct stats {
	uint64_t claims;
	uint64_t yields;
	uint64_t evictions;
};

static struct stats read_stats(struct kvm_vcpu *vcpu)
{
	return (struct stats) {
		.claims = vcpu_read_stat(vcpu, "pmu_claims"),
		.yields = vcpu_read_stat(vcpu, "pmu_yields"),
		.evictions = vcpu_read_stat(vcpu, "pmu_evictions"),
	};
}

/* What has come to the vCPU's statistics since the last time, at the same place */
static struct stats new_stats(struct kvm_vcpu *vcpu, struct stats *last)
{
	struct stats now = read_stats(vcpu), new = {
		.claims = now.claims - last->claims,
		.yields = now.yields - last->yields,
		.evictions = now.evictions - last->evictions,
	};

	*last = now;
	return new;
}

#define ASSERT_NEW_STATS(vcpu, last, ...)						\
do {											\
	struct stats __new = new_stats(vcpu, last), __wanted = { __VA_ARGS__ };		\
											\
	TEST_ASSERT(!memcmp(&__new, &__wanted, sizeof(__new)),				\
		    "%lu claims, %lu yields, %lu evictions, wanted %lu, %lu, %lu",	\
		    __new.claims, __new.yields, __new.evictions,			\
		    __wanted.claims, __wanted.yields, __wanted.evictions);		\
} while (0)

static void next_exit(struct kvm_vcpu *vcpu)
{
	TEST_ASSERT(run_to_exit(vcpu), "The round has ended");
}

static void test_statistics(void)
{
	struct stats last = {}, others_last = {}, new;
	struct kvm_vcpu *vcpu, *other;
	struct kvm_vm *vm, *other_vm;
	int event;

	if (has_watchdog_events()) {
		pr_info("Not tested, the watchdog's events are in the way: statistics\n");
		return;
	}

	pr_info("Statistics\n");
	pin_to(0);
	vm = create_vm(1, 1, &vcpu, guest_counting);
	other_vm = create_vm(2, 1, &other, guest_counting);

	ASSERT_NEW_STATS(vcpu, &last);
	/* It is parked now; if it was preempted before it counted, it was evicted. */
	next_exit(vcpu);
	new = new_stats(vcpu, &last);
	TEST_ASSERT(new.claims == new.evictions + 1 && !new.yields,
		    "%lu claims, %lu yields, %lu evictions", new.claims, new.yields,
		    new.evictions);

	/* Parked, and the same vCPU enters again */
	next_exit(vcpu);
	ASSERT_NEW_STATS(vcpu, &last);

	/* The host has an event: each exit yields, those for the host's timer, too. */
	event = open_event(PERF_COUNT_HW_INSTRUCTIONS, false);
	ASSERT_NEW_STATS(vcpu, &last, .evictions = 1);
	next_exit(vcpu);
	new = new_stats(vcpu, &last);
	TEST_ASSERT(new.claims && new.claims == new.yields && !new.evictions,
		    "%lu claims, %lu yields, %lu evictions", new.claims, new.yields,
		    new.evictions);
	close(event);
	next_exit(vcpu);
	ASSERT_NEW_STATS(vcpu, &last, .claims = 1);

	/* Another vCPU counts on the same CPU. */
	next_exit(other);
	new_stats(other, &others_last);
	ASSERT_NEW_STATS(vcpu, &last, .evictions = 1);
	next_exit(vcpu);
	ASSERT_NEW_STATS(vcpu, &last, .claims = 1);
	ASSERT_NEW_STATS(other, &others_last, .evictions = 1);

	if (nr_cpus > 1) {
		pin_to(1);
		next_exit(vcpu);
		ASSERT_NEW_STATS(vcpu, &last, .claims = 1, .evictions = 1);
		pin_to(0);
	}

	kvm_vm_free(vm);
	kvm_vm_free(other_vm);
}

int main(int argc, char *argv[])
{
	pmu_require_mediated();
	TEST_REQUIRE(!getuid());

	TEST_REQUIRE(pmu.nr_gp >= 3);
	nr_cpus = sysconf(_SC_NPROCESSORS_ONLN);

	test_toggling();
	test_falling_idle();
	test_exits();
	test_destroyed(0);
	test_destroyed(1);
	test_statistics();
	/* Last: it leaves the task wherever the mover has put it. */
	if (nr_cpus > 1)
		test_moved_while_running();

	return 0;
}
