/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the tests of the mediated PMU share: the guest's PMU as a table of
 * registers, so that a test has no branches on the vendor, access to a counter by
 * its number, and a block of code whose events are known to the last one.
 *
 * A counter's number is its bit in global control: general-purpose counters start
 * at 0, fixed counters at 32.
 */
#ifndef SELFTEST_KVM_MEDIATED_PMU_H
#define SELFTEST_KVM_MEDIATED_PMU_H

#include "apic.h"
#include "pmu.h"
#include "processor.h"

#define FIXED_BASE	32

#ifndef APIC_LVTPC
#define APIC_LVTPC	0x340
#endif

#ifndef MSR_CORE_PERF_GLOBAL_STATUS_SET
#define MSR_CORE_PERF_GLOBAL_STATUS_SET	0x391
#endif

#define PMI_VECTOR	0x35

/*
 * One set of addresses of the general-purpose counters.  A register may have
 * more than one: a narrow one sign-extends the lower 32 bits of what is written
 * and ignores the others, a wide one takes all bits of the counter's width and
 * faults on others.
 */
struct pmu_gp_range {
	uint32_t base;
	uint32_t stride;
	bool narrow;
};

struct pmu {
	uint32_t nr_gp;
	uint32_t nr_fixed;
	uint32_t gp_width;
	uint32_t fixed_width;

	/* ranges[0] is the one to use when it doesn't matter. */
	uint32_t nr_ranges;
	struct pmu_gp_range ranges[2];
	uint32_t eventsel;
	uint32_t eventsel_stride;
	uint32_t fixed_counter;
	uint32_t fixed_ctrl;
	uint32_t global_ctrl;
	uint32_t global_status;
	uint32_t global_status_clear;

	/* All counters, by their bits in global control. */
	uint64_t counters;

	uint64_t instructions;
	uint64_t branches;

	/* Delivery of a PMI masks the APIC's entry. */
	bool masks_lvtpc;
};

/* Host and guest have a copy each: use pmu_sync() after changing the host's. */
static struct pmu pmu;

static inline void pmu_init_intel(uint32_t nr_gp, uint32_t nr_fixed, bool full_width)
{
	uint32_t gp_width = kvm_cpu_property(X86_PROPERTY_PMU_GP_COUNTERS_BIT_WIDTH);
	uint32_t fixed_width = kvm_cpu_property(X86_PROPERTY_PMU_FIXED_COUNTERS_BIT_WIDTH);

	pmu = (struct pmu) {
		.nr_gp			= nr_gp,
		.nr_fixed		= nr_fixed,
		.gp_width		= gp_width,
		.fixed_width		= fixed_width,
		.nr_ranges		= full_width ? 2 : 1,
		.ranges			= {
			{ MSR_IA32_PERFCTR0, 1, true },
			{ MSR_IA32_PMC0, 1, false },
		},
		.eventsel		= MSR_P6_EVNTSEL0,
		.eventsel_stride	= 1,
		.fixed_counter		= MSR_CORE_PERF_FIXED_CTR0,
		.fixed_ctrl		= MSR_CORE_PERF_FIXED_CTR_CTRL,
		.global_ctrl		= MSR_CORE_PERF_GLOBAL_CTRL,
		.global_status		= MSR_CORE_PERF_GLOBAL_STATUS,
		.global_status_clear	= MSR_CORE_PERF_GLOBAL_OVF_CTRL,
		.counters		= GENMASK_ULL(nr_gp - 1, 0),
		.instructions		= INTEL_ARCH_INSTRUCTIONS_RETIRED,
		.branches		= INTEL_ARCH_BRANCHES_RETIRED,
		.masks_lvtpc		= true,
	};

	if (nr_fixed)
		pmu.counters |= GENMASK_ULL(FIXED_BASE + nr_fixed - 1, FIXED_BASE);

	if (full_width) {
		pmu.ranges[0] = (struct pmu_gp_range) { MSR_IA32_PMC0, 1, false };
		pmu.ranges[1] = (struct pmu_gp_range) { MSR_IA32_PERFCTR0, 1, true };
	}
}

/* What the tests are about; everything they use of the PMU, they check here. */
static inline void pmu_require_mediated(void)
{
	TEST_REQUIRE(get_kvm_param_bool("enable_mediated_pmu"));

	TEST_REQUIRE(host_cpu_is_intel);
	TEST_REQUIRE(kvm_cpu_property(X86_PROPERTY_PMU_VERSION) >= 2);
	TEST_REQUIRE(kvm_pmu_has(X86_PMU_FEATURE_INSNS_RETIRED));
	TEST_REQUIRE(kvm_pmu_has(X86_PMU_FEATURE_BRANCH_INSNS_RETIRED));
}

/* All that KVM offers. */
static inline void pmu_init(void)
{
	bool full_width = kvm_cpu_has(X86_FEATURE_PDCM) &&
			  kvm_get_feature_msr(MSR_IA32_PERF_CAPABILITIES) & PMU_CAP_FW_WRITES;

	pmu_init_intel(kvm_cpu_property(X86_PROPERTY_PMU_NR_GP_COUNTERS),
		       kvm_cpu_property(X86_PROPERTY_PMU_NR_FIXED_COUNTERS), full_width);
}

#define pmu_sync(vm) sync_global_to_guest(vm, pmu)

static inline int next_counter(int i)
{
	while (i < 64 && !(pmu.counters & BIT_ULL(i)))
		i++;
	return i;
}

#define for_each_counter(i)	\
	for ((i) = next_counter(0); (i) < 64; (i) = next_counter((i) + 1))

static inline bool is_fixed(int i)
{
	return i >= FIXED_BASE;
}

static inline uint64_t counter_mask(int i)
{
	return GENMASK_ULL((is_fixed(i) ? pmu.fixed_width : pmu.gp_width) - 1, 0);
}

static inline uint32_t counter_msr(int i)
{
	if (is_fixed(i))
		return pmu.fixed_counter + i - FIXED_BASE;

	return pmu.ranges[0].base + i * pmu.ranges[0].stride;
}

static inline uint32_t eventsel_msr(int i)
{
	return pmu.eventsel + i * pmu.eventsel_stride;
}

static inline uint32_t rdpmc_index(int i)
{
	return is_fixed(i) ? (i - FIXED_BASE) | INTEL_RDPMC_FIXED : i;
}

static inline uint64_t rdpmc(uint32_t index)
{
	uint32_t eax, edx;

	asm volatile("rdpmc" : "=a"(eax), "=d"(edx) : "c"(index));
	return eax | (uint64_t)edx << 32;
}

static inline uint64_t read_counter(int i)
{
	return rdpmc(rdpmc_index(i));
}

/* For values that fit into 31 bits, or are negative and fit into 32. */
static inline void write_counter(int i, int64_t value)
{
	if (is_fixed(i) || !pmu.ranges[0].narrow)
		value &= counter_mask(i);

	wrmsr(counter_msr(i), value);
}

enum {
	KERNEL	= BIT(0),
	USER	= BIT(1),
	PMI	= BIT(2),
};

/* Select what a counter counts, 0 for nothing; a fixed one has its own event. */
static inline void select_event(int i, uint64_t event, int flags)
{
	uint64_t value;

	if (is_fixed(i)) {
		value = rdmsr(pmu.fixed_ctrl) & ~FIXED_PMC_CTRL(i - FIXED_BASE, 0xfull);
		value |= FIXED_PMC_CTRL(i - FIXED_BASE,
					(flags & KERNEL ? FIXED_PMC_KERNEL : 0) |
					(flags & USER ? FIXED_PMC_USER : 0) |
					(flags & PMI ? FIXED_PMC_ENABLE_PMI : 0));
		wrmsr(pmu.fixed_ctrl, value);
		return;
	}

	value = flags ? event | ARCH_PERFMON_EVENTSEL_ENABLE |
			(flags & KERNEL ? ARCH_PERFMON_EVENTSEL_OS : 0) |
			(flags & USER ? ARCH_PERFMON_EVENTSEL_USR : 0) |
			(flags & PMI ? ARCH_PERFMON_EVENTSEL_INT : 0) : 0;
	wrmsr(eventsel_msr(i), value);
}

static inline void reset_pmu(void)
{
	int i;

	wrmsr(pmu.global_ctrl, 0);
	for_each_counter(i) {
		select_event(i, 0, 0);
		write_counter(i, 0);
	}
	wrmsr(pmu.global_status_clear, pmu.counters);
}

/*
 * The measured block.  It begins with the WRMSR to global control that turns
 * counters on, which isn't counted, and ends with the one that turns them off,
 * which is: a write takes effect on the instructions that follow it.
 *
 *   1		mov
 *   LOOPS * 3	nop, dec, jnz (branch)
 *   3		xor, xor, wrmsr
 */
#define BLOCK_LOOPS	10
#define BLOCK_INSNS	(1 + BLOCK_LOOPS * 3 + 3)
#define BLOCK_BRANCHES	BLOCK_LOOPS

static __always_inline void run_block(uint64_t counters)
{
	uint32_t eax = counters, edx = counters >> 32;

	asm volatile("wrmsr\n\t"
		     "mov $" __stringify(BLOCK_LOOPS) ", %%esi\n\t"
		     "1: nop\n\t"
		     "dec %%esi\n\t"
		     "jnz 1b\n\t"
		     "xor %%eax, %%eax\n\t"
		     "xor %%edx, %%edx\n\t"
		     "wrmsr\n\t"
		     : "+a"(eax), "+d"(edx)
		     : "c"(pmu.global_ctrl)
		     : "esi", "cc", "memory");
}

/* Run until the guest is done, failing with its message if it says so. */
static inline void run_vcpu(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	do {
		vcpu_run(vcpu);
		switch (get_ucall(vcpu, &uc)) {
		case UCALL_ABORT:
			REPORT_GUEST_ASSERT(uc);
			break;
		case UCALL_PRINTF:
			REPORT_GUEST_PRINTF(uc);
			break;
		case UCALL_SYNC:
		case UCALL_DONE:
			break;
		default:
			TEST_FAIL("Unexpected ucall %lu, exit reason %s", uc.cmd,
				  exit_reason_str(vcpu->run->exit_reason));
		}
	} while (uc.cmd == UCALL_PRINTF);
}

#endif /* SELFTEST_KVM_MEDIATED_PMU_H */
