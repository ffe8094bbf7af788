/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mediated PMU: a hypervisor gives the PMU hardware to its guests while they
 * run.  This is the part that every architecture shares: who may use the PMU
 * at the same time (admission), and the path of a guest's PMI from the
 * architecture's interrupt handler to the hypervisor.
 */
#ifndef _LINUX_PERF_MEDIATED_H
#define _LINUX_PERF_MEDIATED_H

#include <linux/sched.h>

struct perf_event;
struct perf_event_context;

#ifdef CONFIG_PERF_GUEST_MEDIATED_PMU

int perf_create_mediated_pmu(void);
void perf_release_mediated_pmu(void);
int perf_mediated_enter_task(void);

void perf_register_guest_pmi_handler(void (*handler)(void));
void perf_unregister_guest_pmi_handler(void);
void perf_handle_guest_pmi(void);

int perf_mediated_admit_event(struct perf_event *event,
			      struct perf_event_context *ctx);
void perf_mediated_inherit_event(struct perf_event *event);
void perf_mediated_dismiss_event(struct perf_event *event,
				 struct perf_event_context *ctx);

/* A vCPU isn't inherited. */
static inline void perf_mediated_init_task(struct task_struct *child)
{
	child->perf_runs_guest = false;
}

#else

static inline int perf_mediated_admit_event(struct perf_event *event,
					    struct perf_event_context *ctx)
{
	return 0;
}

static inline void perf_mediated_inherit_event(struct perf_event *event) { }
static inline void perf_mediated_dismiss_event(struct perf_event *event,
					       struct perf_event_context *ctx) { }
static inline void perf_mediated_init_task(struct task_struct *child) { }

#endif /* CONFIG_PERF_GUEST_MEDIATED_PMU */

#endif /* _LINUX_PERF_MEDIATED_H */
