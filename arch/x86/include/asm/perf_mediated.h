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

/*
 * A guest PMU that may own the hardware of one CPU at a time: @cpu, or -1.
 * @evict saves what only the hardware knows, turns off global control and clears
 * selectors and overflow status.  @counters are those that the guest has, with the
 * bits that they have in global control.
 */
struct perf_mediated_guest {
	void	(*evict)(struct perf_mediated_guest *guest);
	int	cpu;
	u64	counters;
};

/* AMD's: NMIs that come late are the PMU's, for a while after the last overflow. */
int amd_pmu_adjust_nmi_window(int handled);

#ifdef CONFIG_PERF_GUEST_MEDIATED_PMU

/* For the hypervisor. */
bool perf_mediated_claim(struct perf_mediated_guest *guest);
bool perf_mediated_park(struct perf_mediated_guest *guest);
void perf_mediated_yield(struct perf_mediated_guest *guest);
void perf_mediated_evict(void);
void perf_mediated_evict_guest(struct perf_mediated_guest *guest);

/* For the x86 PMU driver: what it must not touch while a guest is the owner. */
DECLARE_PER_CPU(struct perf_mediated_guest *, perf_mediated_owner);

static __always_inline bool perf_mediated_guest_owns_pmu(void)
{
	return this_cpu_read(perf_mediated_owner);
}

int perf_mediated_nmi(void);
void x86_pmu_init_mediated(struct pmu *pmu);

#else

static __always_inline bool perf_mediated_guest_owns_pmu(void)
{
	return false;
}

static inline void perf_mediated_evict(void) { }

static inline int perf_mediated_nmi(void)
{
	return 0;
}

static inline void x86_pmu_init_mediated(struct pmu *pmu) { }

#endif /* CONFIG_PERF_GUEST_MEDIATED_PMU */

#endif /* _ASM_X86_PERF_MEDIATED_H */
