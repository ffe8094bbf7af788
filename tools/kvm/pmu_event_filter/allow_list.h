/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A safe allow-list for KVM_SET_PMU_EVENT_FILTER: events that a guest can count
 * and learn about nobody but itself.  Each counts what the guest has retired, or
 * the time in which it ran.
 *
 * Left out, and 0 in the guest, is everything else, because it tells about
 *  - what is shared with other guests and the host: last-level cache, memory,
 *    offcore requests, uncore
 *  - what has been executed speculatively and was not retired, hence about data
 *    that the guest cannot read
 *  - the sibling thread, with which a core's units and cycles are shared
 */
#ifndef PMU_ALLOW_LIST_H
#define PMU_ALLOW_LIST_H

#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#ifndef ARRAY_SIZE
#define ARRAY_SIZE(array)	(sizeof(array) / sizeof((array)[0]))
#endif

struct pmu_allowed_event {
	uint16_t select;
	uint8_t umask;
	const char *name;
	const char *reason;
};

struct pmu_allow_list {
	/* As CPUID has it */
	const char *vendor;
	const struct pmu_allowed_event *events;
	uint32_t nr_events;
	/* A bit each */
	uint32_t fixed_counters;
};

static const struct pmu_allowed_event pmu_allowed_intel[] = {
	{ 0xc0, 0x00, "instructions",	"retired by the guest, exact" },
	{ 0xc4, 0x00, "branches",	"retired by the guest, exact" },
	{ 0xc5, 0x00, "branch-misses",	"of branches that it retired; their time tells as much" },
	{ 0x3c, 0x00, "cycles",		"while the guest runs; the TSC tells as much" },
	{ 0x3c, 0x01, "ref-cycles",	"while the guest runs; the TSC tells as much" },
};

static const struct pmu_allowed_event pmu_allowed_amd[] = {
	{ 0xc0, 0x00, "instructions",	"retired by the guest, exact" },
	{ 0xc2, 0x00, "branches",	"retired by the guest, exact" },
	{ 0xc3, 0x00, "branch-misses",	"of branches that it retired; their time tells as much" },
	{ 0x76, 0x00, "cycles",		"while the guest runs; the TSC tells as much" },
	{ 0x120, 0x01, "ref-cycles",	"while the guest runs; the TSC tells as much" },
};

static const struct pmu_allow_list pmu_allow_lists[] = {
	{
		.vendor		= "GenuineIntel",
		.events		= pmu_allowed_intel,
		.nr_events	= ARRAY_SIZE(pmu_allowed_intel),
		/* instructions, cycles, reference cycles */
		.fixed_counters	= 1 << 0 | 1 << 1 | 1 << 2,
	}, {
		.vendor		= "AuthenticAMD",
		.events		= pmu_allowed_amd,
		.nr_events	= ARRAY_SIZE(pmu_allowed_amd),
	},
};

/* As in a selector: bits 11:8 of AMD's event selects are its bits 35:32. */
static inline uint64_t pmu_allowed_encoding(const struct pmu_allowed_event *event)
{
	return (event->select & 0xff) | (uint64_t)event->umask << 8 |
	       (uint64_t)(event->select >> 8) << 32;
}

/* The ioctl's argument, NULL if there is no memory for it; to be freed */
static inline struct kvm_pmu_event_filter *pmu_build_filter(const struct pmu_allow_list *list)
{
	struct kvm_pmu_event_filter *filter;
	uint32_t i;

	filter = calloc(1, sizeof(*filter) + list->nr_events * sizeof(filter->events[0]));
	if (!filter)
		return NULL;

	filter->action = KVM_PMU_EVENT_ALLOW;
	filter->fixed_counter_bitmap = list->fixed_counters;
	filter->nevents = list->nr_events;
	for (i = 0; i < list->nr_events; i++)
		filter->events[i] = pmu_allowed_encoding(&list->events[i]);
	return filter;
}

#endif /* PMU_ALLOW_LIST_H */
