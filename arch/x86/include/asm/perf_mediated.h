/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mediated PMU, x86: who owns this CPU's PMU hardware, host perf or a guest.
 * See arch/x86/events/mediated.c.
 */
#ifndef _ASM_X86_PERF_MEDIATED_H
#define _ASM_X86_PERF_MEDIATED_H

#include <linux/percpu.h>
#include <linux/types.h>

struct pmu;

#ifdef CONFIG_PERF_GUEST_MEDIATED_PMU

/* For the hypervisor. */
void perf_mediated_claim(void);
void perf_mediated_yield(void);

/* For the x86 PMU driver: what it must not touch while a guest is the owner. */
DECLARE_PER_CPU(bool, perf_mediated_guest_owned);

static __always_inline bool perf_mediated_guest_owns_pmu(void)
{
	return this_cpu_read(perf_mediated_guest_owned);
}

int perf_mediated_nmi(void);
void x86_pmu_init_mediated(struct pmu *pmu);

#else

static __always_inline bool perf_mediated_guest_owns_pmu(void)
{
	return false;
}

static inline int perf_mediated_nmi(void)
{
	return 0;
}

static inline void x86_pmu_init_mediated(struct pmu *pmu) { }

#endif /* CONFIG_PERF_GUEST_MEDIATED_PMU */

#endif /* _ASM_X86_PERF_MEDIATED_H */
