// SPDX-License-Identifier: GPL-2.0-only
/*
 * A guest counts on when its CPU is taken from it.
 *
 * The guest counts a block of known instructions, again and again, and checks all
 * its counters after each.  Meanwhile the CPU that it runs on goes offline and
 * online again; or, with -s, the whole machine is suspended, as far as
 * /sys/power/pm_test takes it.  The counts stay exact, and the host's do, too.
 * With -s a guest's PMU that was left in the registers is evicted, where its CPU
 * goes down.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sys/ioctl.h>

#include "mediated_pmu.h"
#include "mediated_pmu_event.h"

#define CPU1_ONLINE	"/sys/devices/system/cpu/cpu1/online"
#define PM_TEST		"/sys/power/pm_test"
#define PM_STATE	"/sys/power/state"

#define LOOPS		100000
#define INSNS		LOOP_INSNS(LOOPS, 1)
#define BRANCHES	LOOPS

static uint32_t rounds;
static uint32_t hold, holds;
static uint32_t stop;

/* Counters count all the time, so that an exit leaves them in the hardware. */
static void count_while_held(void)
{
	wrmsr(pmu.global_ctrl, pmu.counters);
	WRITE_ONCE(holds, 1);
	while (READ_ONCE(hold))
		cpu_relax();
	WRITE_ONCE(holds, 0);
	wrmsr(pmu.global_ctrl, 0);
}

static void guest_code(void)
{
	uint64_t count, wanted;
	int i;

	while (!READ_ONCE(stop)) {
		reset_pmu();
		for_each_counter(i)
			select_event(i, i % 2 ? pmu.branches : pmu.instructions, KERNEL);
		RUN_LOOP(pmu.counters, LOOPS, "nop\n\t");
		for_each_counter(i) {
			/* Other fixed counters count cycles. */
			if (i > FIXED_BASE)
				continue;
			count = read_counter(i);
			wanted = !is_fixed(i) && i % 2 ? BRANCHES : INSNS;
			__GUEST_ASSERT(count == wanted, "Counter %d: wanted %lu, got %lu", i,
				       wanted, count);
		}
		WRITE_ONCE(rounds, rounds + 1);
		if (READ_ONCE(hold))
			count_while_held();
	}
	GUEST_DONE();
}

static void *vcpu_thread(void *vcpu)
{
	run_vcpu(vcpu);
	return NULL;
}

static struct kvm_vm *vm;

/* The next round that is a whole one */
static void wait_for_rounds(void)
{
	uint32_t *now = addr_gva2hva(vm, (vm_vaddr_t)&rounds);
	uint32_t then = READ_ONCE(*now);

	while (READ_ONCE(*now) - then < 2)
		usleep(1000);
}

static void move_to(pthread_t thread, int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	TEST_ASSERT(!pthread_setaffinity_np(thread, sizeof(set), &set), "Can't move the vCPU");
}

static void write_or_fail(const char *path, const char *value)
{
	TEST_ASSERT(write_file(path, value), "Can't write %s to %s: %s", value, path,
		    strerror(errno));
}

#define TIMES	5

static void test_offline(pthread_t thread)
{
	int i;

	for (i = 0; i < TIMES; i++) {
		move_to(thread, 1);
		wait_for_rounds();
		write_or_fail(CPU1_ONLINE, "0");
		wait_for_rounds();
		write_or_fail(CPU1_ONLINE, "1");
		pr_info("CPU 1 was offline\n");
	}
	move_to(thread, 1);
	wait_for_rounds();
}

static const char * const levels[] = { "devices", "processors", "core" };

static void suspend_to(const char *level)
{
	write_or_fail(PM_TEST, level);
	write_or_fail(PM_STATE, "mem");
}

static void test_suspend(pthread_t thread)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(levels); i++) {
		move_to(thread, i % 2);
		wait_for_rounds();
		suspend_to(levels[i]);
		pr_info("Suspended, %s\n", levels[i]);
		wait_for_rounds();
	}
	write_or_fail(PM_TEST, "none");
}

/* Returns when the guest does so. */
static void set_hold(uint32_t value)
{
	uint32_t *now = addr_gva2hva(vm, (vm_vaddr_t)&holds);

	hold = value;
	sync_global_to_guest(vm, hold);
	while (READ_ONCE(*now) != value)
		usleep(1000);
}

/*
 * pm_test leaves the registers as they are, unlike sleep.  That a CPU that goes down
 * takes the guest's PMU out of them shows in the statistics only.
 */
static void test_eviction(pthread_t thread, int stats)
{
	uint64_t evictions[ARRAY_SIZE(levels)];
	int i;

	if (has_watchdog_events()) {
		pr_info("Not tested, the watchdog's events are in the way: evictions\n");
		return;
	}

	/* The first level stops no CPU. */
	for (i = 1; i < ARRAY_SIZE(levels); i++) {
		move_to(thread, i % 2);
		set_hold(1);

		evictions[i] = read_stat(stats, "pmu_evictions");
		suspend_to(levels[i]);
		evictions[i] = read_stat(stats, "pmu_evictions") - evictions[i];
		pr_info("Suspended, %s: %lu evictions\n", levels[i], evictions[i]);

		set_hold(0);
		wait_for_rounds();
	}
	write_or_fail(PM_TEST, "none");

	for (i = 1; i < ARRAY_SIZE(levels); i++)
		TEST_ASSERT(evictions[i], "%s: a CPU went down with a guest's PMU in its registers",
			    levels[i]);
}

static void help(const char *name, int status)
{
	printf("usage: %s [-s]\n"
	       " -s: suspend the machine instead of taking a CPU offline\n", name);
	exit(status);
}

int main(int argc, char *argv[])
{
	struct kvm_vcpu *vcpu;
	uint64_t host_insns;
	bool suspend = false;
	pthread_t thread;
	int opt, stats;

	while ((opt = getopt(argc, argv, "hs")) != -1) {
		if (opt == 's')
			suspend = true;
		else
			help(argv[0], opt == 'h' ? KSFT_PASS : KSFT_FAIL);
	}

	pmu_require_mediated();
	TEST_REQUIRE(!getuid());
	__TEST_REQUIRE(!access(CPU1_ONLINE, W_OK), "CPU 1 can't be taken offline");
	__TEST_REQUIRE(!suspend || !access(PM_TEST, W_OK), "There is no " PM_TEST);

	pin_self_to_cpu(0);
	host_insns = count_as_host();

	vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	pmu_sync(vm);
	stats = vcpu_get_stats_fd(vcpu);
	TEST_ASSERT(!pthread_create(&thread, NULL, vcpu_thread, vcpu), "pthread_create failed");

	if (suspend) {
		test_suspend(thread);
		test_eviction(thread, stats);
	} else {
		test_offline(thread);
	}

	stop = 1;
	sync_global_to_guest(vm, stop);
	pthread_join(thread, NULL);
	close(stats);

	TEST_ASSERT_EQ(count_as_host(), host_insns);
	kvm_vm_free(vm);
	TEST_ASSERT_EQ(count_as_host(), host_insns);
	return 0;
}
