// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mediated PMU, generic part.
 *
 * While a guest owns the PMU hardware, host events on that CPU are stopped.
 * That is what an event with exclude_guest asks for anyway; an event without
 * it asks to count the guest, and would silently count nothing.  So the two
 * exclude each other.  An event of a CPU counts any guest that runs there: it
 * and VMs with a mediated PMU can't exist at the same time.  An event of a task
 * counts a guest only if that task runs a vCPU, and is of no concern to
 * anybody else's VM: it and such a vCPU can't share a task.
 *
 * A trace of instructions doesn't know exclude_guest, and interrupts through
 * the same entry of the local APIC as the PMU does.  It always counts guests.
 *
 * Events that kernel code opened for itself, i.e. the hard-lockup detector's,
 * watch the host, and are stopped like any other.
 */
#include <linux/atomic.h>
#include <linux/export.h>
#include <linux/perf_event.h>
#include <linux/perf_mediated.h>
#include <linux/printk.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/static_call.h>

/* VMs with a mediated PMU; events of CPUs that count guests.  One is empty. */
static DEFINE_SPINLOCK(mediated_lock);
static unsigned int nr_mediated_vms;
static LIST_HEAD(cpu_events);

static void log_obstacle(struct perf_event *event, const char *what, int id)
{
	struct task_struct *owner;

	guard(rcu)();

	/* Not known before the event's file is, and no more after its exit. */
	owner = READ_ONCE(event->owner);
	pr_warn_ratelimited("perf: an event (type %u, config %#llx) of %s %d, opened by %s, counts guests, which keeps a mediated PMU from being used; close it, or open it with exclude_guest\n",
			    event->attr.type, event->attr.config, what, id,
			    IS_ERR_OR_NULL(owner) ? "?" : owner->comm);
}

/**
 * perf_create_mediated_pmu - announce a VM that uses a mediated PMU
 *
 * Each successful call must be paired with perf_release_mediated_pmu(), when
 * no vCPU of the VM can run any more.  Process context.
 *
 * Return: 0, or -EBUSY if events of CPUs exist that want to count guests; the
 * log tells one of them, at a limited rate.
 */
int perf_create_mediated_pmu(void)
{
	struct perf_event *event;

	guard(spinlock)(&mediated_lock);

	event = list_first_entry_or_null(&cpu_events, struct perf_event,
					 mediated_entry);
	if (event) {
		log_obstacle(event, "CPU", event->cpu);
		return -EBUSY;
	}

	nr_mediated_vms++;
	return 0;
}
EXPORT_SYMBOL_GPL(perf_create_mediated_pmu);

/**
 * perf_release_mediated_pmu - undo one perf_create_mediated_pmu()
 *
 * Process context.
 */
void perf_release_mediated_pmu(void)
{
	guard(spinlock)(&mediated_lock);

	if (!WARN_ON_ONCE(!nr_mediated_vms))
		nr_mediated_vms--;
}
EXPORT_SYMBOL_GPL(perf_release_mediated_pmu);

static bool perf_event_counts_guests(struct perf_event *event)
{
	if (!(event->pmu->capabilities & PERF_PMU_CAP_MEDIATED_VPMU) ||
	    !is_default_overflow_handler(event))
		return false;

	return !event->attr.exclude_guest ||
	       event->pmu->capabilities & PERF_PMU_CAP_ITRACE;
}

static void log_obstacle_of_task(void)
{
	struct perf_event_context *ctx;
	struct perf_event *event;

	guard(rcu)();

	ctx = rcu_dereference(current->perf_event_ctxp);
	if (!ctx)
		return;

	list_for_each_entry_rcu(event, &ctx->event_list, event_entry) {
		if (event->attach_state & PERF_ATTACH_COUNTS_GUESTS) {
			log_obstacle(event, "task", task_pid_nr(current));
			return;
		}
	}
}

/**
 * perf_mediated_enter_task - the current task is about to run a vCPU of such a VM
 *
 * To be called each time.  From the first time on, and until the task exits,
 * no event can be opened on it that would count its guest.  Process context.
 *
 * Return: 0, or -EBUSY if there is such an event; the log tells it, at a limited
 * rate.
 */
int perf_mediated_enter_task(void)
{
	if (likely(atomic_read(&current->perf_mediated) > 0))
		return 0;

	if (atomic_inc_unless_negative(&current->perf_mediated))
		return 0;

	log_obstacle_of_task();
	return -EBUSY;
}
EXPORT_SYMBOL_GPL(perf_mediated_enter_task);

/* -EOPNOTSUPP makes the perf tool try again with exclude_guest. */
int perf_mediated_admit_event(struct perf_event *event)
{
	if (!perf_event_counts_guests(event))
		return 0;

	if (event->attach_state & PERF_ATTACH_TASK) {
		/* Positive if the task runs vCPUs, else minus the number of events. */
		if (!atomic_dec_unless_positive(&event->hw.target->perf_mediated))
			return -EOPNOTSUPP;
	} else {
		guard(spinlock)(&mediated_lock);

		if (nr_mediated_vms)
			return -EOPNOTSUPP;

		list_add(&event->mediated_entry, &cpu_events);
	}

	event->attach_state |= PERF_ATTACH_COUNTS_GUESTS;
	return 0;
}

/* Also reached for events that were never admitted, hence the flag. */
void perf_mediated_dismiss_event(struct perf_event *event)
{
	if (!(event->attach_state & PERF_ATTACH_COUNTS_GUESTS))
		return;

	if (event->attach_state & PERF_ATTACH_TASK) {
		atomic_inc(&event->hw.target->perf_mediated);
	} else {
		guard(spinlock)(&mediated_lock);
		list_del(&event->mediated_entry);
	}
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
