// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mediated PMU, generic part.
 *
 * While a guest owns the PMU hardware, host events on that CPU are stopped.
 * That is what an event with exclude_guest asks for anyway; an event without
 * it asks to count the guest, and would silently count nothing.  So the two
 * exclude each other: a VM with a mediated PMU can't be created while such an
 * event exists, and such an event can't be opened while such a VM exists.
 *
 * An event of a task counts a guest only if that task runs a vCPU, and is of no
 * concern to anybody else's VM.  Events that kernel code opened for itself,
 * i.e. the hard-lockup detector's, watch the host, and are stopped like any
 * other.
 */
#include <linux/atomic.h>
#include <linux/export.h>
#include <linux/perf_event.h>
#include <linux/perf_mediated.h>
#include <linux/printk.h>
#include <linux/rcupdate.h>
#include <linux/static_call.h>

/*
 * The number of VMs with a mediated PMU if positive, of host events that are
 * incompatible with them if negative.  One variable, as the two must be tested
 * against each other atomically.
 */
static atomic_t mediated_users = ATOMIC_INIT(0);

/**
 * perf_create_mediated_pmu - announce a VM that uses a mediated PMU
 *
 * Each successful call must be paired with perf_release_mediated_pmu(), when
 * no vCPU of the VM can run any more.  Takes no locks; any context.
 *
 * Return: 0, or -EBUSY if host events exist that want to count guests.
 */
int perf_create_mediated_pmu(void)
{
	if (atomic_inc_unless_negative(&mediated_users))
		return 0;

	pr_warn_ratelimited("perf: %d system-wide event(s) count guests and block mediated PMUs; close them, or open them with exclude_guest\n",
			    -atomic_read(&mediated_users));
	return -EBUSY;
}
EXPORT_SYMBOL_GPL(perf_create_mediated_pmu);

/**
 * perf_release_mediated_pmu - undo one perf_create_mediated_pmu()
 */
void perf_release_mediated_pmu(void)
{
	WARN_ON_ONCE(atomic_dec_if_positive(&mediated_users) < 0);
}
EXPORT_SYMBOL_GPL(perf_release_mediated_pmu);

static bool perf_event_counts_guests(struct perf_event *event)
{
	return event->pmu->capabilities & PERF_PMU_CAP_MEDIATED_VPMU &&
	       !event->attr.exclude_guest &&
	       !(event->attach_state & PERF_ATTACH_TASK) &&
	       is_default_overflow_handler(event);
}

/* -EOPNOTSUPP makes the perf tool try again with exclude_guest. */
int perf_mediated_admit_event(struct perf_event *event)
{
	if (!perf_event_counts_guests(event))
		return 0;

	if (!atomic_dec_unless_positive(&mediated_users))
		return -EOPNOTSUPP;

	event->attach_state |= PERF_ATTACH_COUNTS_GUESTS;
	return 0;
}

/* Also reached for events that were never admitted, hence the flag. */
void perf_mediated_dismiss_event(struct perf_event *event)
{
	if (event->attach_state & PERF_ATTACH_COUNTS_GUESTS)
		atomic_inc(&mediated_users);
}

DEFINE_STATIC_CALL_NULL(perf_guest_pmi, perf_handle_guest_pmi);

/**
 * perf_register_guest_pmi_handler - receive the PMIs of mediated guests
 * @handler: called in hard IRQ context, on the CPU whose guest PMU overflowed
 *
 * There is one hypervisor at a time, hence one handler.  May sleep.
 */
void perf_register_guest_pmi_handler(void (*handler)(void))
{
	WARN_ON_ONCE(static_call_query(perf_guest_pmi));
	static_call_update(perf_guest_pmi, handler);
}
EXPORT_SYMBOL_GPL(perf_register_guest_pmi_handler);

/**
 * perf_unregister_guest_pmi_handler - the handler is about to go away
 *
 * When this returns, the handler isn't running anywhere.  May sleep.
 */
void perf_unregister_guest_pmi_handler(void)
{
	static_call_update(perf_guest_pmi, NULL);
	synchronize_rcu();
}
EXPORT_SYMBOL_GPL(perf_unregister_guest_pmi_handler);

/* From the architecture's interrupt handler. */
void perf_handle_guest_pmi(void)
{
	static_call_cond(perf_guest_pmi)();
}
