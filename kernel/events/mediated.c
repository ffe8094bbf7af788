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
 * Events that kernel code opened for itself, as the hard-lockup detector does,
 * watch the host.  They are admitted without a question, and are stopped like
 * any other.
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

/*
 * VMs with a mediated PMU, or events of CPUs that count guests: one is empty.  The
 * same goes for a task's perf_runs_guest and its context's nr_counts_guests.
 */
static DEFINE_SPINLOCK(mediated_lock);
static unsigned int nr_mediated_vms;
static LIST_HEAD(cpu_events);

static void log_obstacle(struct perf_event *event, const char *what, int id)
{
	struct task_struct *owner;

	guard(rcu)();

	/* Not known before the event has a file, and no more after its exit. */
	owner = READ_ONCE((event->parent ?: event)->owner);
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
	int ret = 0;

	spin_lock(&mediated_lock);
	event = list_first_entry_or_null(&cpu_events, struct perf_event,
					 mediated_entry);
	if (event) {
		log_obstacle(event, "CPU", event->cpu);
		ret = -EBUSY;
	} else {
		nr_mediated_vms++;
	}
	spin_unlock(&mediated_lock);

	return ret;
}
EXPORT_SYMBOL_GPL(perf_create_mediated_pmu);

/**
 * perf_release_mediated_pmu - undo one perf_create_mediated_pmu()
 *
 * Process context.
 */
void perf_release_mediated_pmu(void)
{
	spin_lock(&mediated_lock);
	if (!WARN_ON_ONCE(!nr_mediated_vms))
		nr_mediated_vms--;
	spin_unlock(&mediated_lock);
}
EXPORT_SYMBOL_GPL(perf_release_mediated_pmu);

static bool perf_event_counts_guests(struct perf_event *event)
{
	if (!(event->pmu->capabilities & PERF_PMU_CAP_MEDIATED_VPMU))
		return false;

	return !event->attr.exclude_guest ||
	       event->pmu->capabilities & PERF_PMU_CAP_ITRACE;
}

static void log_obstacle_of_task(struct perf_event_context *ctx)
{
	struct perf_event *event;

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
	struct perf_event_context *ctx;
	int ret = 0;

	if (likely(current->perf_runs_guest))
		return 0;

	guard(rcu)();

	spin_lock(&mediated_lock);
	/* Not marked __rcu.  If it's swapped meanwhile, then for one with the same events. */
	ctx = READ_ONCE(current->perf_event_ctxp);
	if (ctx && atomic_read(&ctx->nr_counts_guests)) {
		log_obstacle_of_task(ctx);
		ret = -EBUSY;
	} else {
		current->perf_runs_guest = true;
	}
	spin_unlock(&mediated_lock);

	return ret;
}
EXPORT_SYMBOL_GPL(perf_mediated_enter_task);

/*
 * Under ctx->mutex, after the permission to open @event in @ctx was checked: who
 * hasn't got it must not stand in anybody's way.  -EOPNOTSUPP makes the perf
 * tool try again with exclude_guest.
 */
int perf_mediated_admit_event(struct perf_event *event,
			      struct perf_event_context *ctx)
{
	if (!perf_event_counts_guests(event))
		return 0;

	spin_lock(&mediated_lock);
	if (ctx->task ? ctx->task->perf_runs_guest : nr_mediated_vms) {
		spin_unlock(&mediated_lock);
		return -EOPNOTSUPP;
	}

	if (ctx->task)
		atomic_inc(&ctx->nr_counts_guests);
	else
		list_add(&event->mediated_entry, &cpu_events);

	event->attach_state |= PERF_ATTACH_COUNTS_GUESTS;
	spin_unlock(&mediated_lock);

	return 0;
}

/* The child is being forked, and runs nothing.  No lock, for the sake of fork. */
void perf_mediated_inherit_event(struct perf_event *event)
{
	/* Not by the parent's flag, which goes when the parent's task exits. */
	if (!perf_event_counts_guests(event))
		return;

	atomic_inc(&event->ctx->nr_counts_guests);
	event->attach_state |= PERF_ATTACH_COUNTS_GUESTS;
}

/* Also reached for events that were never admitted, hence the flag. */
void perf_mediated_dismiss_event(struct perf_event *event,
				 struct perf_event_context *ctx)
{
	if (!(event->attach_state & PERF_ATTACH_COUNTS_GUESTS))
		return;

	event->attach_state &= ~PERF_ATTACH_COUNTS_GUESTS;

	if (event->attach_state & PERF_ATTACH_TASK) {
		atomic_dec(&ctx->nr_counts_guests);
	} else {
		spin_lock(&mediated_lock);
		list_del(&event->mediated_entry);
		spin_unlock(&mediated_lock);
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
