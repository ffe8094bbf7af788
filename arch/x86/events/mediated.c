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
 * Ownership works as it does for the FPU.  While a vCPU is in its run loop its
 * guest PMU is running on this CPU, with IRQs off.  When it leaves the loop and
 * the host has events here, it yields to them.  If not, it is parked: its
 * counters have stopped at VM exit, and its state stays in the registers until
 * somebody else needs them.  Then it is evicted, by the host's driver about to
 * enable events, by another guest PMU, or by the vCPU itself if it is going to
 * run on another CPU.  The drivers of Intel PT and BTS evict it for the local
 * APIC's entry, which they share with the PMU.
 *
 * NMIs and programs attached to tracepoints can get at the PMU driver while a
 * guest is the owner.  They meet the gates: the NMI handler, reading an event,
 * and the snapshot of branch records.
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
#include <asm/perf_mediated.h>

#include "perf_event.h"

static const struct mediated_vendor {
	u8	vendor;
	u8	min_version;
	bool	late_nmis;
	u32	global_ctrl;
	u32	global_status;
	u64	pmi_status;
} mediated_vendors[] = {
	/* Version 4 is the first whose overflow status can be restored. */
	{
		.vendor		= X86_VENDOR_INTEL,
		.min_version	= 4,
		.global_ctrl	= MSR_CORE_PERF_GLOBAL_CTRL,
		.global_status	= MSR_CORE_PERF_GLOBAL_STATUS,
		.pmi_status	= GLOBAL_STATUS_BUFFER_OVF |
				  BIT_ULL(GLOBAL_STATUS_PERF_METRICS_OVF_BIT),
	},
	/* Two counters that overflow together can raise another NMI much later. */
	{
		.vendor		= X86_VENDOR_AMD,
		.min_version	= 2,
		.late_nmis	= true,
		.global_ctrl	= MSR_AMD64_PERF_CNTR_GLOBAL_CTL,
		.global_status	= MSR_AMD64_PERF_CNTR_GLOBAL_STATUS,
	},
};

static const struct mediated_vendor *mediated_vendor __ro_after_init;

DEFINE_PER_CPU(struct perf_mediated_guest *, perf_mediated_owner);
EXPORT_PER_CPU_SYMBOL_GPL(perf_mediated_owner);

/* The owner's vCPU is in its run loop; else the owner is parked. */
static DEFINE_PER_CPU(bool, guest_running);

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
		 * being started, here as in x86_pmu_enable().  Its counter is
		 * its own still, perf may read it before starting it again.
		 */
		if (!(event->hw.state & PERF_HES_STOPPED)) {
			x86_pmu_stop(event, PERF_EF_UPDATE);
			continue;
		}
		event->hw.state |= PERF_HES_ARCH;
		if (!(event->hw.state & PERF_HES_UPTODATE))
			static_call(x86_pmu_update)(event);
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
		else if (!(event->hw.state & PERF_HES_UPTODATE))
			static_call(x86_pmu_set_period)(event);
	}
}

static void take_from_host(struct perf_mediated_guest *guest)
{
	struct cpu_hw_events *cpuc = this_cpu_ptr(&cpu_hw_events);
	u64 active = *(u64 *)cpuc->active_mask;
	int enabled = cpuc->enabled;
	u64 status;

	/*
	 * Host PMIs are handled as usual until the host's events are stopped,
	 * but must not enable the PMU again.
	 */
	cpuc->enabled = 0;
	barrier();

	/* Reset sets the bits of all GP counters; perf may not have been here. */
	if (enabled)
		x86_pmu.disable_all();
	else
		wrmsrq(mediated_vendor->global_ctrl, 0);

	stop_host_events(cpuc);

	/*
	 * The PMI of an overflow in the last cycles may still be on its way.
	 * Its event is stopped and up to date, there is nothing left to do for
	 * it; but it must not become an unknown NMI, or the guest's.  It can
	 * arrive at any instruction: expect it first, then find out.
	 */
	this_cpu_write(host_pmi_owed, true);
	this_cpu_write(perf_mediated_owner, guest);
	barrier();
	rdmsrq(mediated_vendor->global_status, status);
	if (!(status & (active | mediated_vendor->pmi_status)))
		this_cpu_write(host_pmi_owed, false);

	/* From here on the gates are closed. */
	barrier();
	cpuc->enabled = enabled;

	apic_write(APIC_LVTPC, APIC_DM_FIXED | PERF_GUEST_MEDIATED_PMI_VECTOR);
}

/* Selectors and status were cleared, counters still hold what a guest counted. */
static void give_to_host(void)
{
	/* Nothing counts: no PMI can be raised while the vector changes. */
	apic_write(APIC_LVTPC, APIC_DM_NMI);
	this_cpu_write(perf_mediated_owner, NULL);
	barrier();

	/* Clear counters before a task may use RDPMC, which few ever do. */
	if (cr4_read_shadow() & X86_CR4_PCE)
		perf_clear_dirty_counters();
}

static void mark_dirty(struct perf_mediated_guest *guest)
{
	struct cpu_hw_events *cpuc = this_cpu_ptr(&cpu_hw_events);

	*(u64 *)cpuc->dirty |= guest->counters;
}

/* Saves the owner's state and clears the registers; they have an owner still. */
static void evict_owner(void)
{
	struct perf_mediated_guest *owner = __this_cpu_read(perf_mediated_owner);

	WARN_ON_ONCE(in_nmi());
	WARN_ON_ONCE(owner->cpu != smp_processor_id());

	owner->evict(owner);
	mark_dirty(owner);

	/* Its state is in memory; pairs with perf_mediated_evict_guest(). */
	smp_store_release(&owner->cpu, -1);
}

/**
 * perf_mediated_claim - make a guest PMU the owner of this CPU's PMU hardware
 * @guest: the guest PMU; its vCPU is about to run on this CPU
 *
 * On return nothing counts in host mode, no host event uses the hardware, and a PMI
 * raises PERF_GUEST_MEDIATED_PMI_VECTOR.  The caller may write counters,
 * selectors and overflow status until it calls perf_mediated_park(); IRQs must be
 * off, and stay off until then.  Takes no locks.
 *
 * Return: true if the registers still hold what @guest left in them when it was
 * parked.  If false, their content is unspecified, and no guest may see it.
 */
bool perf_mediated_claim(struct perf_mediated_guest *guest)
{
	struct perf_mediated_guest *owner = __this_cpu_read(perf_mediated_owner);

	lockdep_assert_irqs_disabled();
	WARN_ON_ONCE(__this_cpu_read(guest_running));

	if (owner != guest) {
		WARN_ON_ONCE(guest->cpu != -1);

		if (owner) {
			evict_owner();
			__this_cpu_write(perf_mediated_owner, guest);
		} else {
			take_from_host(guest);
		}
		guest->cpu = smp_processor_id();
	}

	__this_cpu_write(guest_running, true);

	return owner == guest;
}
EXPORT_SYMBOL_GPL(perf_mediated_claim);

/* Whoever comes here for another guest than the one that runs has lost track. */
static bool is_running(struct perf_mediated_guest *guest)
{
	return !WARN_ON_ONCE(!__this_cpu_read(guest_running) ||
			     __this_cpu_read(perf_mediated_owner) != guest);
}

/**
 * perf_mediated_park - the owner's vCPU has left its run loop
 * @guest: the owner
 *
 * The owner's counters must have stopped.  IRQs must be off.  Takes no locks.
 *
 * Return: true if the guest PMU is parked.  If false, the host has events that
 * wait for this CPU's hardware, or the current task may read it with RDPMC: the
 * caller must save the guest's state, clear the registers, and call
 * perf_mediated_yield(), before it turns IRQs on.
 */
bool perf_mediated_park(struct perf_mediated_guest *guest)
{
	lockdep_assert_irqs_disabled();

	if (!is_running(guest))
		return true;

	/* A task that comes to use RDPMC later evicts, see cr4_update_pce_mm(). */
	if (__this_cpu_read(cpu_hw_events.n_events) ||
	    cr4_read_shadow() & X86_CR4_PCE)
		return false;

	__this_cpu_write(guest_running, false);
	return true;
}
EXPORT_SYMBOL_GPL(perf_mediated_park);

/**
 * perf_mediated_yield - give this CPU's PMU hardware back to the host's events
 * @guest: the owner, which perf_mediated_park() has not parked
 *
 * The caller has turned off global control, and has left zero in all selectors and
 * in the overflow status.  IRQs must be off.  Takes no locks.
 */
void perf_mediated_yield(struct perf_mediated_guest *guest)
{
	struct cpu_hw_events *cpuc = this_cpu_ptr(&cpu_hw_events);
	int enabled = cpuc->enabled;

	lockdep_assert_irqs_disabled();

	if (!is_running(guest))
		return;

	__this_cpu_write(guest_running, false);
	guest->cpu = -1;
	mark_dirty(guest);

	/* As in x86_pmu_enable(), events are started before the PMU is. */
	cpuc->enabled = 0;
	barrier();
	give_to_host();
	start_host_events(cpuc);

	cpuc->enabled = enabled;
	barrier();
	if (enabled)
		x86_pmu.enable_all(0);
}
EXPORT_SYMBOL_GPL(perf_mediated_yield);

/**
 * perf_mediated_evict - have no guest PMU parked on this CPU
 *
 * On return host perf is the owner, and no host task can read the guest's counts.
 * Any context but NMI; not while the owner's vCPU is in its run loop.
 */
void perf_mediated_evict(void)
{
	guard(irqsave)();

	if (!perf_mediated_guest_owns_pmu() ||
	    WARN_ON_ONCE(__this_cpu_read(guest_running)))
		return;

	evict_owner();
	give_to_host();
}
EXPORT_SYMBOL_GPL(perf_mediated_evict);

static void evict_this_guest(void *guest)
{
	if (__this_cpu_read(perf_mediated_owner) == guest)
		perf_mediated_evict();
}

/**
 * perf_mediated_evict_guest - have a guest PMU's state in memory
 * @guest: the guest PMU; its vCPU isn't in its run loop, and can't get there
 *
 * On return @guest owns nothing on any CPU.  IRQs must be on.
 */
void perf_mediated_evict_guest(struct perf_mediated_guest *guest)
{
	int cpu;

	/* Pairs with evict_owner(), on a CPU that needn't wait for this one. */
	cpu = smp_load_acquire(&guest->cpu);
	if (cpu != -1)
		smp_call_function_single(cpu, evict_this_guest, guest, 1);
}
EXPORT_SYMBOL_GPL(perf_mediated_evict_guest);

/*
 * An NMI while a guest owns the PMU.  It isn't a PMI, unless a host overflow
 * had been too late to be handled before the claim.
 */
int perf_mediated_nmi(void)
{
	int handled = __this_cpu_read(host_pmi_owed);

	__this_cpu_write(host_pmi_owed, false);

	/* More may follow, for a while after the last overflow. */
	if (IS_ENABLED(CONFIG_CPU_SUP_AMD) && mediated_vendor->late_nmis)
		return amd_pmu_adjust_nmi_window(handled);

	return handled;
}

DEFINE_IDTENTRY_SYSVEC(sysvec_perf_guest_mediated_pmi)
{
	apic_eoi();
	inc_irq_stat(perf_guest_mediated_pmis);

	/* Intel's APIC masks the entry on delivery; a parked owner keeps it. */
	if (perf_mediated_guest_owns_pmu())
		apic_write(APIC_LVTPC, APIC_DM_FIXED | PERF_GUEST_MEDIATED_PMI_VECTOR);

	/*
	 * If it's the host's, raised between the last two writes of claim, then the
	 * guest's overflow status tells so, unless the guest has a PMI to come, too.
	 */
	perf_handle_guest_pmi();
}

/* Announce the capability if the PMU's registers can be exchanged. */
void __init x86_pmu_init_mediated(struct pmu *pmu)
{
	const struct mediated_vendor *v;

	/* With TSX force abort a counter is the microcode's, unless perf needs it. */
	if (cpu_feature_enabled(X86_FEATURE_HYBRID_CPU) || !x86_pmu.apic ||
	    x86_pmu.flags & PMU_FL_TFA)
		return;

	for (v = mediated_vendors; v < mediated_vendors + ARRAY_SIZE(mediated_vendors); v++) {
		if (v->vendor != boot_cpu_data.x86_vendor ||
		    v->min_version > x86_pmu.version)
			continue;

		mediated_vendor = v;
		pmu->capabilities |= PERF_PMU_CAP_MEDIATED_VPMU;
	}
}
