// SPDX-License-Identifier: GPL-2.0-only
/*
 * KVM_SET_PMU_EVENT_FILTER decides what a mediated PMU counts.
 *
 * In hardware the guest's counters count on their own, so what the filter denies
 * must never get into a selector, however the guest goes about it:
 *
 *  - allow and deny lists, with and without masked events, and the bitmap of
 *    fixed counters: an allowed counter counts exactly, a denied one stands still
 *  - instructions that KVM emulates are under the filter, too
 *  - no bit of an event is ignored; AMD's have four that Intel's have not
 *  - the guest reads back what it wrote to the selectors, denied or not
 *  - the order of the guest's writes makes no difference: control of another
 *    fixed counter, the same value twice; with global control on before, a denied event
 *    doesn't count until it is off either
 *  - a filter that is changed between two runs is in force in the next, and one
 *    that is changed while the guest counts is in force when the ioctl returns
 */
#include <pthread.h>

#include "mediated_pmu.h"

#define SENTINEL	0x10000

/*
 * CPUID exits and is emulated: one counted instruction each.
 *   mov, mov, cpuid, mov, mov, cpuid, mov, xor, xor, wrmsr
 */
#define EXITS_INSNS	10

/* Results of a guest's round, and orders for it. */
static struct {
	uint64_t count[64];
	uint64_t exits_count[64];
	/* While the counters were programmed, if global control was on */
	uint64_t early_count[64];
	uint64_t event[2];
	/* Of the first round that begins with this number of changes to the filter */
	uint64_t first[64];
	uint32_t changes;
	uint32_t seq;
	bool stop;
} shared;

static __always_inline void run_exits(uint64_t counters)
{
	uint32_t eax = counters, edx = counters >> 32, ecx = pmu.global_ctrl;

	asm volatile("wrmsr\n\t"
		     "mov %%ecx, %%esi\n\t"
		     "mov $0, %%eax\n\t"
		     "cpuid\n\t"
		     "mov $0, %%eax\n\t"
		     "mov $0, %%ecx\n\t"
		     "cpuid\n\t"
		     "mov %%esi, %%ecx\n\t"
		     "xor %%eax, %%eax\n\t"
		     "xor %%edx, %%edx\n\t"
		     "wrmsr\n\t"
		     : "+&a"(eax), "+&d"(edx), "+&c"(ecx)
		     : : "ebx", "esi", "cc", "memory");
}

static uint64_t event_of(int i)
{
	return shared.event[i % 2];
}

static uint64_t selector_of(int i)
{
	return event_of(i) | ARCH_PERFMON_EVENTSEL_ENABLE | ARCH_PERFMON_EVENTSEL_OS;
}

static uint64_t all_fixed_ctrl(void)
{
	uint64_t value = 0;
	int i;

	for_each_counter(i) {
		if (is_fixed(i))
			value |= FIXED_PMC_CTRL(i - FIXED_BASE, FIXED_PMC_KERNEL);
	}
	return value;
}

static void assert_guest_view(void)
{
	int i;

	for_each_counter(i) {
		if (!is_fixed(i))
			GUEST_ASSERT_EQ(rdmsr(eventsel_msr(i)), selector_of(i));
	}
	if (pmu.nr_fixed)
		GUEST_ASSERT_EQ(rdmsr(pmu.fixed_ctrl), all_fixed_ctrl());
}

static void set_sentinels(void)
{
	int i;

	for_each_counter(i)
		write_counter(i, SENTINEL + i);
}

/* Of a guest's rounds; LIVE: it selects events while global control is on. */
#define LIVE		3
#define NR_VARIANTS	4

/* Even counters count event[0], odd ones event[1]. */
static void program_counters(int variant)
{
	int i;

	reset_pmu();
	set_sentinels();

	if (variant == LIVE)
		wrmsr(pmu.global_ctrl, pmu.counters);

	for_each_counter(i) {
		select_event(i, event_of(i), KERNEL);

		/* Twice, and once more by way of another event */
		if (variant == 1) {
			select_event(i, event_of(i), KERNEL);
			if (!is_fixed(i)) {
				select_event(i, event_of(i + 1), KERNEL);
				select_event(i, event_of(i), KERNEL);
			}
		}
	}

	/* All fixed counters in one write, then one that changes only the last */
	if (variant == 2 && pmu.nr_fixed) {
		wrmsr(pmu.fixed_ctrl, 0);
		wrmsr(pmu.fixed_ctrl, all_fixed_ctrl());
		wrmsr(pmu.fixed_ctrl, all_fixed_ctrl() ^
				      FIXED_PMC_CTRL(pmu.nr_fixed - 1, FIXED_PMC_USER));
		wrmsr(pmu.fixed_ctrl, all_fixed_ctrl());
	}

	assert_guest_view();

	if (variant == LIVE) {
		wrmsr(pmu.global_ctrl, 0);
		for_each_counter(i)
			shared.early_count[i] = read_counter(i) - SENTINEL - i;
		set_sentinels();
	}
}

static void guest_rounds(void)
{
	int i, variant;

	program_counters(0);

	for (variant = 0;; variant = (variant + 1) % NR_VARIANTS) {
		/*
		 * The first round of a filter keeps what the last one has programmed:
		 * the change of the filter alone must do.
		 */
		if (variant)
			program_counters(variant);
		else
			set_sentinels();

		run_block(pmu.counters);
		for_each_counter(i)
			shared.count[i] = read_counter(i) - SENTINEL - i;

		set_sentinels();
		run_exits(pmu.counters);
		for_each_counter(i)
			shared.exits_count[i] = read_counter(i) - SENTINEL - i;

		assert_guest_view();
		GUEST_SYNC(variant);
	}
}

/* Count until told to stop, and tell how far. Nothing here exits, as RDPMC may. */
static void guest_counting(void)
{
	uint32_t changes, seen = 0;
	int i;

	program_counters(0);
	wrmsr(pmu.global_ctrl, pmu.counters);

	while (!READ_ONCE(shared.stop)) {
		changes = READ_ONCE(shared.changes);
		for_each_counter(i) {
			WRITE_ONCE(shared.count[i], rdmsr(counter_msr(i)));
			if (changes != seen)
				WRITE_ONCE(shared.first[i], shared.count[i]);
		}
		seen = changes;
		WRITE_ONCE(shared.seq, shared.seq + 1);
	}
	GUEST_DONE();
}

struct filter {
	const char *name;
	uint32_t action;
	uint32_t fixed_bitmap;
	uint32_t flags;
	uint32_t nr;
	uint64_t events[4];

	/* Of event[0], event[1], and the fixed counters */
	bool allowed[2];
	uint64_t allowed_fixed;
};

static void set_filter(struct kvm_vm *vm, const struct filter *f)
{
	struct {
		struct kvm_pmu_event_filter head;
		uint64_t events[4];
	} arg = {
		.head = {
			.action = f->action,
			.nevents = f->nr,
			.fixed_counter_bitmap = f->fixed_bitmap,
			.flags = f->flags,
		},
	};

	memcpy(arg.events, f->events, sizeof(f->events));
	vm_ioctl(vm, KVM_SET_PMU_EVENT_FILTER, &arg.head);
}

#define MASKED(select, mask, match, exclude)					\
	KVM_PMU_ENCODE_MASKED_ENTRY(select, mask, match, exclude)

static void check_counts(const struct filter *f, int variant)
{
	const uint64_t block[] = { BLOCK_INSNS, BLOCK_BRANCHES };
	/* The block of exits has no branch. */
	const uint64_t exits[] = { EXITS_INSNS, 0 };
	int i;

	for_each_counter(i) {
		bool allowed = is_fixed(i) ? f->allowed_fixed & BIT(i - FIXED_BASE) :
					     f->allowed[i % 2];
		int e = is_fixed(i) ? 0 : i % 2;

		/* The last one may have had no branch to count. */
		if (variant == LIVE && (!allowed || !e))
			TEST_ASSERT(!!shared.early_count[i] == allowed,
				    "%s, counter %d: %ld while others were programmed",
				    f->name, i, shared.early_count[i]);

		/* Cycles: just some */
		if (i > FIXED_BASE && allowed) {
			TEST_ASSERT(shared.count[i] && shared.exits_count[i],
				    "%s, round %d: allowed counter %d stands still",
				    f->name, variant, i);
			continue;
		}

		TEST_ASSERT(shared.count[i] == (allowed ? block[e] : 0),
			    "%s, round %d, counter %d: wanted %lu, got %ld", f->name,
			    variant, i, allowed ? block[e] : 0ul, shared.count[i]);
		TEST_ASSERT(shared.exits_count[i] == (allowed ? exits[e] : 0),
			    "%s, round %d, counter %d, emulated instructions: wanted %lu, got %ld",
			    f->name, variant, i, allowed ? exits[e] : 0ul,
			    shared.exits_count[i]);
	}
}

static struct kvm_vm *create_vm(struct kvm_vcpu **vcpu, void *guest_code)
{
	struct kvm_vm *vm = vm_create_with_one_vcpu(vcpu, guest_code);

	pmu_sync(vm);
	shared.event[0] = pmu.instructions;
	shared.event[1] = pmu.branches;
	shared.seq = 0;
	sync_global_to_guest(vm, shared);
	return vm;
}

static void test_lists(void)
{
	const uint64_t insns = pmu.instructions, branches = pmu.branches;
	const uint64_t all_fixed = BIT(pmu.nr_fixed) - 1;
	const struct filter no_filter = {
		"deny nothing", KVM_PMU_EVENT_DENY, 0, 0, 0, {},
		{ true, true }, all_fixed
	};
	const struct filter filters[] = {
		{ "deny instructions", KVM_PMU_EVENT_DENY, 0, 0, 1, { insns },
		  { false, true }, all_fixed },
		{ "deny branches", KVM_PMU_EVENT_DENY, 0, 0, 1, { branches },
		  { true, false }, all_fixed },
		{ "deny both", KVM_PMU_EVENT_DENY, 0, 0, 2, { branches, insns },
		  { false, false }, all_fixed },
		{ "deny another unit mask", KVM_PMU_EVENT_DENY, 0, 0, 1, { branches | 0x2000 },
		  { true, true }, all_fixed },
		{ "allow nothing", KVM_PMU_EVENT_ALLOW, 0, 0, 0, {},
		  { false, false }, 0 },
		{ "allow instructions", KVM_PMU_EVENT_ALLOW, 0, 0, 1, { insns },
		  { true, false }, 0 },
		{ "allow branches", KVM_PMU_EVENT_ALLOW, 0, 0, 1, { branches },
		  { false, true }, 0 },
		{ "allow another unit mask", KVM_PMU_EVENT_ALLOW, 0, 0, 1, { branches | 0x2000 },
		  { false, false }, 0 },
		{ "deny another event, bit 32", KVM_PMU_EVENT_DENY, 0, 0, 1,
		  { branches | BIT_ULL(32) }, { true, true }, all_fixed },
		{ "allow another event, bit 35", KVM_PMU_EVENT_ALLOW, 0, 0, 1,
		  { branches | BIT_ULL(35) }, { false, false }, 0 },
		{ "deny fixed 0", KVM_PMU_EVENT_DENY, BIT(0), 0, 0, {},
		  { true, true }, all_fixed & ~BIT(0) },
		{ "deny fixed 1", KVM_PMU_EVENT_DENY, BIT(1), 0, 0, {},
		  { true, true }, all_fixed & ~BIT(1) },
		{ "deny fixed 2", KVM_PMU_EVENT_DENY, BIT(2), 0, 0, {},
		  { true, true }, all_fixed & ~BIT(2) },
		{ "deny all fixed", KVM_PMU_EVENT_DENY, -1u, 0, 0, {},
		  { true, true }, 0 },
		{ "allow fixed 0", KVM_PMU_EVENT_ALLOW, BIT(0), 0, 0, {},
		  { false, false }, all_fixed & BIT(0) },
		{ "allow fixed 2 and branches", KVM_PMU_EVENT_ALLOW, BIT(2), 0, 1, { branches },
		  { false, true }, all_fixed & BIT(2) },
		{ "masked: allow unit mask 0 of branches", KVM_PMU_EVENT_ALLOW, 0,
		  KVM_PMU_EVENT_FLAG_MASKED_EVENTS, 1,
		  { MASKED(branches, 0xff, 0, false) },
		  { false, true }, 0 },
		{ "masked: allow all unit masks but 0", KVM_PMU_EVENT_ALLOW, 0,
		  KVM_PMU_EVENT_FLAG_MASKED_EVENTS, 2,
		  { MASKED(branches, 0, 0, false), MASKED(branches, 0xff, 0, true) },
		  { false, false }, 0 },
		{ "masked: deny all unit masks but 0", KVM_PMU_EVENT_DENY, 0,
		  KVM_PMU_EVENT_FLAG_MASKED_EVENTS, 3,
		  { MASKED(branches, 0, 0, false), MASKED(branches, 0xff, 0, true),
		    MASKED(insns, 0, 0, false) },
		  { false, true }, all_fixed },
	};
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	struct ucall uc;
	int f, round;

	vm = create_vm(&vcpu, guest_rounds);

	/* Before the first filter; then no filter and each filter in turn. */
	for (f = -1; f < (int)(2 * ARRAY_SIZE(filters)); f++) {
		const struct filter *filter = f < 0 || !(f % 2) ? &no_filter : &filters[f / 2];

		if (f >= 0)
			set_filter(vm, filter);

		for (round = 0; round < NR_VARIANTS; round++) {
			vcpu_run(vcpu);
			switch (get_ucall(vcpu, &uc)) {
			case UCALL_SYNC:
				break;
			case UCALL_ABORT:
				pr_info("Filter: %s\n", filter->name);
				REPORT_GUEST_ASSERT(uc);
			default:
				TEST_FAIL("Unexpected ucall %lu", uc.cmd);
			}

			sync_global_from_guest(vm, shared);
			check_counts(filter, round);
		}
	}

	kvm_vm_free(vm);
}

/* Event 0x120, unit mask 1: reference cycles of AMD's, and what is left in eight bits */
#define WIDE_EVENT	(BIT_ULL(32) | 0x120)
#define NARROW_EVENT	0x120

static void guest_wide_event(void)
{
	for (;;) {
		reset_pmu();
		select_event(0, WIDE_EVENT, KERNEL);
		select_event(1, pmu.instructions | BIT_ULL(32), KERNEL);

		write_counter(0, 0);
		run_block(pmu.counters);
		shared.count[0] = read_counter(0);

		write_counter(1, 0);
		run_exits(pmu.counters);
		shared.exits_count[1] = read_counter(1);
		GUEST_SYNC(0);
	}
}

/* An event of AMD's has four more bits: neither of two is taken for the other. */
static void test_wide_event(void)
{
	const struct filter filters[] = {
		{ "deny nothing", KVM_PMU_EVENT_DENY, .allowed = { true } },
		{ "deny the wide event", KVM_PMU_EVENT_DENY, .nr = 1, .events = { WIDE_EVENT } },
		{ "deny the narrow event", KVM_PMU_EVENT_DENY, .nr = 1,
		  .events = { NARROW_EVENT }, .allowed = { true } },
		{ "allow the wide event", KVM_PMU_EVENT_ALLOW, .nr = 1,
		  .events = { WIDE_EVENT }, .allowed = { true } },
		{ "allow the narrow event", KVM_PMU_EVENT_ALLOW, .nr = 1,
		  .events = { NARROW_EVENT } },
	};
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	struct ucall uc;
	int i;

	if (!(pmu.eventsel_bits & BIT_ULL(32)))
		return;

	vm = create_vm(&vcpu, guest_wide_event);
	for (i = 0; i < ARRAY_SIZE(filters); i++) {
		set_filter(vm, &filters[i]);
		vcpu_run(vcpu);
		TEST_ASSERT(get_ucall(vcpu, &uc) == UCALL_SYNC, "Unexpected ucall %lu", uc.cmd);
		sync_global_from_guest(vm, shared);

		TEST_ASSERT(!!shared.count[0] == filters[i].allowed[0],
			    "%s: event 0x120 has counted %lu", filters[i].name, shared.count[0]);
		TEST_ASSERT(!shared.exits_count[1],
			    "%s: %lu emulated instructions counted as another event",
			    filters[i].name, shared.exits_count[1]);
	}
	kvm_vm_free(vm);
}

static void *vcpu_thread(void *vcpu)
{
	pin_to_last_cpu();
	run_vcpu(vcpu);
	return NULL;
}

static void wait_for_guest(typeof(shared) *in_guest)
{
	/* Two complete rounds: all values were read after this was called. */
	uint32_t seq = READ_ONCE(in_guest->seq);

	while (READ_ONCE(in_guest->seq) - seq < 3)
		usleep(1000);
}

static void test_while_counting(void)
{
	const struct filter filters[] = {
		{ "deny nothing", KVM_PMU_EVENT_DENY, 0, 0, 0, {}, { true, true }, 7 },
		{ "deny instructions", KVM_PMU_EVENT_DENY, 1, 0, 1, { pmu.instructions },
		  { false, true }, 6 },
		{ "deny branches", KVM_PMU_EVENT_DENY, 6, 0, 1, { pmu.branches },
		  { true, false }, 1 },
		{ "allow nothing", KVM_PMU_EVENT_ALLOW, 0, 0, 0, {}, { false, false }, 0 },
	};
	typeof(shared) *in_guest;
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	struct kvm_vm *vm;
	int i, f, n;

	vm = create_vm(&vcpu, guest_counting);
	in_guest = addr_gva2hva(vm, (vm_vaddr_t)&shared);

	/* Not where the guest runs, if there is another CPU: it would have to leave. */
	pin_self_to_cpu(0);
	pthread_create(&thread, NULL, vcpu_thread, vcpu);
	wait_for_guest(in_guest);

	for (n = 0; n < 5 * ARRAY_SIZE(filters); n++) {
		f = (n * 3) % ARRAY_SIZE(filters);
		set_filter(vm, &filters[f]);
		/* The ioctl has returned: nothing is counted by the last filter. */
		WRITE_ONCE(in_guest->changes, n + 1);
		wait_for_guest(in_guest);

		for_each_counter(i) {
			bool allowed = is_fixed(i) ?
				filters[f].allowed_fixed & BIT(i - FIXED_BASE) :
				filters[f].allowed[i % 2];
			uint64_t before = READ_ONCE(in_guest->first[i]);
			uint64_t after = READ_ONCE(in_guest->count[i]);

			TEST_ASSERT((after != before) == allowed,
				    "While counting, %s: %s counter %d went from 0x%lx to 0x%lx",
				    filters[f].name, allowed ? "allowed" : "denied", i,
				    before, after);
		}
	}

	WRITE_ONCE(in_guest->stop, true);
	pthread_join(thread, NULL);
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	pmu_require_mediated();
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_PMU_EVENT_FILTER));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_PMU_EVENT_MASKED_EVENTS));

	TEST_REQUIRE(pmu.nr_gp >= 2);

	test_lists();
	test_wide_event();
	test_while_counting();

	return 0;
}
