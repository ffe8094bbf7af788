/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mediated PMU: what KVM keeps of it for each vCPU, besides the guest's registers.
 * See arch/x86/kvm/mediated_pmu.c.
 */
#ifndef _ASM_X86_KVM_MEDIATED_PMU_H
#define _ASM_X86_KVM_MEDIATED_PMU_H

#include <linux/bits.h>
#include <linux/types.h>

#include <asm/perf_mediated.h>

/*
 * What the hardware and memory know of a mediated PMU.  A bit for each counter,
 * numbered as in global control, and one for the overflow status.
 */
#define KVM_MEDIATED_PMU_STATUS		BIT_ULL(63)

struct kvm_mediated_pmu {
	struct perf_mediated_guest guest;
	/* The guest has a counter enabled, or had one since it last slept. */
	bool claims;
	/* It has slept with none enabled: claim nothing when intercepts follow. */
	bool unclaim;
	/* The vCPU is in its run loop, and its PMU in the hardware. */
	bool loaded;
	/* For whom the selectors in the hardware are: L1, L2, or both. */
	u8 mode_hw;
	/* Registers may be newer than memory; IRQs must be off to look. */
	u64 hw_newer;
	/* Memory is newer than registers, if these hold the guest PMU at all. */
	u64 mem_newer;
	u64 selector_newer;
};

#endif /* _ASM_X86_KVM_MEDIATED_PMU_H */
