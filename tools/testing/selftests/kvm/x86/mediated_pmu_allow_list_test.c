// SPDX-License-Identifier: GPL-2.0-only
/*
 * The safe allow-list of tools/kvm/pmu_event_filter, installed with
 * KVM_SET_PMU_EVENT_FILTER, is all that a guest can count.
 *
 * The guest tries all events of its vendor: those in the list count, the
 * architectural ones exactly, and so do the fixed counters that the list allows;
 * each other event reads 0.  Without the filter others count as well, or the test
 * would show nothing.
 */
#include "mediated_pmu.h"
#include "../../../../kvm/pmu_event_filter/allow_list.h"

#define BRANCHES_AT_RANDOM	200

/* Results, for the host */
static struct {
	uint64_t tried;
	uint64_t others;
} shared;

/* A load and a store in each round: who counts memory has something to count. */
static __always_inline void run_memory(uint64_t counters)
{
	RUN_LOOP(counters, BLOCK_LOOPS, "orl $0, (%%rsp)\n\t");
}

/* No predictor is always right about these. */
static void run_branches(uint64_t counters)
{
	uint32_t random = 1;
	int i;

	wrmsr(pmu.global_ctrl, counters);
	for (i = 0; i < BRANCHES_AT_RANDOM; i++) {
		random = random * 1664525 + 1013904223;
		asm volatile("test %0, %0\n\t"
			     "js 1f\n\t"
			     "nop\n\t"
			     "1:\n\t" : : "r"(random) : "cc");
	}
	wrmsr(pmu.global_ctrl, 0);
}

/* Unit masks are all tried for event selects of 8 bits, else a bit at a time. */
static uint64_t next_event(uint64_t event)
{
	uint64_t umask = event >> 8 & 0xff, high = event & (0xfull << 32);

	if (!high || umask < 2)
		umask++;
	else
		umask = umask == 0x80 ? 0xff : umask << 1;

	if (umask <= 0xff && (event >> 8 & 0xff) != 0xff)
		return (event & ~0xff00ull) | umask << 8;

	event = (event & 0xff) + 1;
	if (event <= 0xff)
		return high | event;
	return high + BIT_ULL(32);
}

static bool last_event(uint64_t event)
{
	return event >= (pmu.nr_fixed ? BIT_ULL(32) : BIT_ULL(36));
}

static const struct pmu_allowed_event *find_allowed(const struct pmu_allow_list *list,
						    uint64_t event)
{
	uint32_t i;

	for (i = 0; i < list->nr_events; i++) {
		if (pmu_allowed_encoding(&list->events[i]) == event)
			return &list->events[i];
	}
	return NULL;
}

static void check_count(const struct pmu_allow_list *list, bool filtered,
			uint64_t event, uint64_t count)
{
	const struct pmu_allowed_event *allowed = find_allowed(list, event);

	shared.tried++;
	if (event == pmu.instructions)
		GUEST_ASSERT_EQ(count, BLOCK_INSNS);
	else if (event == pmu.branches)
		GUEST_ASSERT_EQ(count, BLOCK_BRANCHES);
	else if (!allowed && filtered)
		__GUEST_ASSERT(!count, "Event 0x%lx counts, and is not in the list", event);
	else if (!allowed)
		shared.others += !!count;
}

static void try_all_events(const struct pmu_allow_list *list, bool filtered)
{
	uint64_t event = 0, batch[64];
	int i, n;

	while (!last_event(event)) {
		for (n = 0; n < pmu.nr_gp && !last_event(event); n++) {
			batch[n] = event;
			select_event(n, event, KERNEL);
			write_counter(n, 0);
			event = next_event(event);
		}

		run_memory(GENMASK_ULL(n - 1, 0));
		for (i = 0; i < n; i++)
			check_count(list, filtered, batch[i], rdmsr(counter_msr(i)));
	}
	reset_pmu();
}

static void try_allowed(const struct pmu_allow_list *list)
{
	uint64_t count;
	uint32_t i;

	for (i = 0; i < list->nr_events; i++) {
		select_event(0, pmu_allowed_encoding(&list->events[i]), KERNEL);
		write_counter(0, 0);
		run_branches(BIT(0));
		__GUEST_ASSERT(rdmsr(counter_msr(0)), "%s do not count",
			       list->events[i].name);
	}

	for (i = 0; i < pmu.nr_fixed; i++) {
		reset_pmu();
		select_event(FIXED_BASE + i, 0, KERNEL);
		run_memory(BIT_ULL(FIXED_BASE + i));
		count = rdmsr(counter_msr(FIXED_BASE + i));
		if (!i)
			GUEST_ASSERT_EQ(count, BLOCK_INSNS);
		GUEST_ASSERT_EQ(!!count, !!(list->fixed_counters & BIT(i)));
	}
}

static void guest_code(const struct pmu_allow_list *list, bool filtered)
{
	reset_pmu();
	try_all_events(list, filtered);
	try_allowed(list);
	GUEST_DONE();
}

static void test_list(const struct pmu_allow_list *list, bool filtered)
{
	struct kvm_pmu_event_filter *filter;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	pmu_sync(vm);
	vcpu_args_set(vcpu, 2, list, (uint64_t)filtered);

	if (filtered) {
		filter = pmu_build_filter(list);
		TEST_ASSERT(filter, "No memory for the filter");
		vm_ioctl(vm, KVM_SET_PMU_EVENT_FILTER, filter);
		free(filter);
	}

	run_vcpu(vcpu);
	sync_global_from_guest(vm, shared);
	kvm_vm_free(vm);

	pr_info("%s the filter %lu of %lu events count that are not in the list\n",
		filtered ? "With" : "Without", shared.others, shared.tried);
}

int main(int argc, char *argv[])
{
	const struct pmu_allow_list *list = &pmu_allow_lists[host_cpu_is_amd];

	pmu_require_mediated();
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_PMU_EVENT_FILTER));
	TEST_ASSERT(!strcmp(list->vendor, host_cpu_is_amd ? "AuthenticAMD" : "GenuineIntel"),
		    "The list is for %s", list->vendor);

	test_list(list, false);
	TEST_ASSERT(shared.others, "Without the filter nothing else counts, either");

	test_list(list, true);

	return 0;
}
