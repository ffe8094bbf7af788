// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mediated PMU: hand this CPU's PMU hardware to a guest, and take it back.
 *
 * The hand-over is made below perf's scheduler.  Claiming stops the counters of
 * the host events that are scheduled in on this CPU and leaves the events as
 * they are, ACTIVE and with both of their times running, which is what events
 * with exclude_guest have always seen of a guest.  Nothing that perf core knows
 * changes, so no lock of perf core is needed.
 *
 * Claim and yield enclose the time in a vCPU's run loop, with IRQs off.  The
 * scheduler and IPIs can't get at the PMU driver in between; NMIs and programs
 * attached to tracepoints can, and meet the gates: the NMI handler, reading an
 * event, and the snapshot of branch records.
 *
 * A guest's PMI arrives by a vector of its own, so that an overflow in the guest
 * is never taken for one of the host's, and the other way round.
 */
#include <linux/irq.h>
#include <linux/perf_event.h>
#include <linux/perf_mediated.h>

#include <asm/apic.h>
#include <asm/hardirq.h>
#include <asm/idtentry.h>
#include <asm/nmi.h>
#include <asm/perf_mediated.h>

#include "perf_event.h"

static const struct mediated_vendor {
	u8	vendor;
	u8	min_version;
	u32	global_ctrl;
	u32	global_status;
} mediated_vendors[] = {
	/* Version 4 is the first whose overflow status can be restored. */
	{
		.vendor		= X86_VENDOR_INTEL,
		.min_version	= 4,
		.global_ctrl	= MSR_CORE_PERF_GLOBAL_CTRL,
		.global_status	= MSR_CORE_PERF_GLOBAL_STATUS,
	},
	{
		.vendor		= X86_VENDOR_AMD,
		.min_version	= 2,
		.global_ctrl	= MSR_AMD64_PERF_CNTR_GLOBAL_CTL,
		.global_status	= MSR_AMD64_PERF_CNTR_GLOBAL_STATUS,
	},
};

static const struct mediated_vendor *mediated_vendor __ro_after_init;

DEFINE_PER_CPU(bool, perf_mediated_guest_owned);
EXPORT_PER_CPU_SYMBOL_GPL(perf_mediated_guest_owned);

/* A host overflow was found at claim whose PMI hasn't arrived yet. */
static DEFINE_PER_CPU(bool, host_pmi_owed);

static void stop_host_events(struct cpu_hw_events *cpuc)
{
	struct perf_event *event;
	int i;

	WARN_ON_ONCE(cpuc->n_added);

	for (i = 0; i < cpuc->n_events; i++) {
		event = cpuc->event_list[i];

		/*
		 * PERF_HES_ARCH keeps a stopped, i.e. a throttled event from
		 * being started, here as in x86_pmu_enable().
		 */
		if (event->hw.state & PERF_HES_STOPPED)
			event->hw.state |= PERF_HES_ARCH;
		else
			x86_pmu_stop(event, PERF_EF_UPDATE);
	}

	/*
	 * The guest will overwrite the control of the fixed counters; don't let
	 * the driver believe that its last value is still there.
	 */
	cpuc->active_fixed_ctrl_val = 0;
}

static void start_host_events(struct cpu_hw_events *cpuc)
{
	struct perf_event *event;
	int i;

	for (i = 0; i < cpuc->n_events; i++) {
		event = cpuc->event_list[i];

		if (!(event->hw.state & PERF_HES_ARCH))
			event->pmu->start(event, PERF_EF_RELOAD);
	}
}

/**
 * perf_mediated_claim - take this CPU's PMU hardware from host perf
 *
 * On return all counting is off, no host event uses the hardware, a PMI raises
 * PERF_GUEST_MEDIATED_PMI_VECTOR, and the caller may write counters, selectors
 * and overflow status.  What host perf left in them is unspecified; the caller
 * must not let a guest see it.  IRQs must be off, and stay off until
 * perf_mediated_yield().  Takes no locks.
 */
void perf_mediated_claim(void)
{
	struct cpu_hw_events *cpuc = this_cpu_ptr(&cpu_hw_events);
	u64 status;

	lockdep_assert_irqs_disabled();
	WARN_ON_ONCE(perf_mediated_guest_owns_pmu());

	/* Reset sets the bits of all GP counters; perf may not have been here. */
	if (!cpuc->enabled)
		wrmsrl(mediated_vendor->global_ctrl, 0);

	/* Host PMIs are handled as usual until the host's events are stopped. */
	perf_pmu_disable(cpuc->pmu);
	stop_host_events(cpuc);

	/*
	 * The PMI of an overflow in the last cycles may still be on its way.
	 * Its event is stopped and up to date, there is nothing left to do for
	 * it; but it must not become an unknown NMI, or the guest's.  It can
	 * arrive at any instruction: expect it first, then find out.
	 */
	__this_cpu_write(host_pmi_owed, true);
	__this_cpu_write(perf_mediated_guest_owned, true);
	rdmsrl(mediated_vendor->global_status, status);
	if (!status)
		__this_cpu_write(host_pmi_owed, false);

	apic_write(APIC_LVTPC, APIC_DM_FIXED | PERF_GUEST_MEDIATED_PMI_VECTOR);
}
EXPORT_SYMBOL_GPL(perf_mediated_claim);

/**
 * perf_mediated_yield - give this CPU's PMU hardware back to host perf
 *
 * The caller has turned off global control, and has left zero in all selectors,
 * counters and in the overflow status.  IRQs must be off.  Takes no locks.
 */
void perf_mediated_yield(void)
{
	struct cpu_hw_events *cpuc = this_cpu_ptr(&cpu_hw_events);

	lockdep_assert_irqs_disabled();
	WARN_ON_ONCE(!perf_mediated_guest_owns_pmu());

	/* Nothing counts: no PMI can be raised while the vector changes. */
	apic_write(APIC_LVTPC, APIC_DM_NMI);
	__this_cpu_write(perf_mediated_guest_owned, false);

	start_host_events(cpuc);
	perf_pmu_enable(cpuc->pmu);
}
EXPORT_SYMBOL_GPL(perf_mediated_yield);

/*
 * An NMI while a guest owns the PMU.  It isn't a PMI, unless a host overflow
 * had been too late to be handled before the claim.
 */
int perf_mediated_nmi(void)
{
	if (!__this_cpu_read(host_pmi_owed))
		return NMI_DONE;

	__this_cpu_write(host_pmi_owed, false);
	return NMI_HANDLED;
}

DEFINE_IDTENTRY_SYSVEC(sysvec_perf_guest_mediated_pmi)
{
	apic_eoi();
	inc_irq_stat(perf_guest_mediated_pmis);

	/* The host's, if it was raised between the last two writes of claim. */
	if (perf_mediated_nmi() == NMI_HANDLED)
		return;

	perf_handle_guest_pmi();
}

/* Announce the capability if the PMU's registers can be exchanged. */
void __init x86_pmu_init_mediated(struct pmu *pmu)
{
	const struct mediated_vendor *v;

	if (cpu_feature_enabled(X86_FEATURE_HYBRID_CPU) || !x86_pmu.apic)
		return;

	for (v = mediated_vendors; v < mediated_vendors + ARRAY_SIZE(mediated_vendors); v++) {
		if (v->vendor != boot_cpu_data.x86_vendor ||
		    v->min_version > x86_pmu.version)
			continue;

		mediated_vendor = v;
		pmu->capabilities |= PERF_PMU_CAP_MEDIATED_VPMU;
	}
}
