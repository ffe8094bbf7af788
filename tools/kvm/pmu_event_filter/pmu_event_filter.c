// SPDX-License-Identifier: GPL-2.0-only
/*
 * An example of how KVM_SET_PMU_EVENT_FILTER is used, and a way to use it with a
 * VMM that has no option for it: preloaded into the VMM, it limits each VM that
 * the VMM creates to the events of allow_list.h.
 *
 *   LD_PRELOAD=./pmu_event_filter.so qemu-system-x86_64 -accel kvm ...
 *
 * A VM that cannot be limited is not created.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "allow_list.h"

static int (*next_ioctl)(int fd, unsigned long request, void *arg);

static const struct pmu_allow_list *find_list(void)
{
	unsigned int eax, vendor[3];
	size_t i;

	if (!__get_cpuid(0, &eax, &vendor[0], &vendor[2], &vendor[1]))
		return NULL;

	for (i = 0; i < ARRAY_SIZE(pmu_allow_lists); i++) {
		if (!memcmp(pmu_allow_lists[i].vendor, vendor, sizeof(vendor)))
			return &pmu_allow_lists[i];
	}
	return NULL;
}

static int set_filter(int vm_fd)
{
	const struct pmu_allow_list *list = find_list();
	struct kvm_pmu_event_filter *filter;
	int ret;

	if (!list) {
		fprintf(stderr, "pmu_event_filter: no list for this CPU's vendor: add one\n");
		errno = ENOTSUP;
		return -1;
	}

	filter = pmu_build_filter(list);
	ret = filter ? next_ioctl(vm_fd, KVM_SET_PMU_EVENT_FILTER, filter) : -1;
	if (ret)
		fprintf(stderr, "pmu_event_filter: KVM_SET_PMU_EVENT_FILTER: %s\n",
			strerror(errno));
	free(filter);
	return ret;
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list args;
	void *arg;
	int ret;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);

	if (!next_ioctl)
		next_ioctl = dlsym(RTLD_NEXT, "ioctl");

	ret = next_ioctl(fd, request, arg);
	if (request == KVM_CREATE_VM && ret >= 0 && set_filter(ret)) {
		int error = errno;

		close(ret);
		errno = error;
		return -1;
	}
	return ret;
}
