// SPDX-License-Identifier: GPL-2.0-only
/*
 * vmm IMAGE MACHINE PROGRAMS > RESULTS: runs the interpreter of PMU programs in a guest
 *
 * The guest has all of the PMU that KVM offers, and a local APIC.  MACHINE and
 * PROGRAMS are put into its memory, as on the bare machine; the output is what that
 * writes to the lab's port.  On request of a program it has its PMU read or restored,
 * sleeps, or has another event filter.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"

#define IMAGE		0x400000
#define SERIAL		0x3f8

static int vm, vcpu;
static struct kvm_run *state;
static void *memory;
static const struct machine *machine;

static int need(int r, const char *what)
{
	if (r < 0)
		err(1, "%s", what);
	return r;
}

static void load(const char *path, unsigned long address)
{
	int fd = need(open(path, O_RDONLY), path);
	ssize_t n;

	while ((n = read(fd, memory + address, MEMORY - address)) > 0)
		address += n;
	need(n, path);
	close(fd);
}

static void set_cpuid(int kvm)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[100];
	} cpuid = { .head.nent = 100 };

	need(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), "KVM_GET_SUPPORTED_CPUID");
	need(ioctl(vcpu, KVM_SET_CPUID2, &cpuid), "KVM_SET_CPUID2");
}

/* As the boot protocol has it: 32-bit, flat, no paging */
static void set_registers(void)
{
	struct kvm_segment code = {
		.limit = ~0u, .selector = 8, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1,
	};
	struct kvm_segment data = code;
	struct kvm_sregs sregs;
	struct kvm_regs regs = { .rip = IMAGE, .rflags = 2 };

	data.type = 3;
	data.selector = 16;
	need(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	/* Not the 16-bit one of reset, with which long mode is a #GP */
	sregs.tr.type = 11;
	sregs.cr0 |= 1;
	need(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
	need(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

static void create(void)
{
	struct kvm_userspace_memory_region region = { .memory_size = MEMORY };
	int kvm = need(open("/dev/kvm", O_RDWR), "/dev/kvm");

	vm = need(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
	need(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000), "KVM_SET_TSS_ADDR");
	need(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");

	memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		err(1, "mmap");
	region.userspace_addr = (unsigned long)memory;
	need(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");

	vcpu = need(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
	state = mmap(NULL, need(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE"),
		     PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (state == MAP_FAILED)
		err(1, "mmap");
	set_cpuid(kvm);
	set_registers();
}

/* Controls last, so that nothing counts before it has its value */
static struct {
	struct kvm_msrs head;
	struct kvm_msr_entry entries[32];
} msrs;

static void add_msrs(unsigned int first, unsigned int nr, unsigned int stride)
{
	for (unsigned int i = 0; i < nr; i++)
		msrs.entries[msrs.head.nmsrs++].index = first + i * stride;
}

static void list_msrs(void)
{
	if (machine->amd) {
		add_msrs(0xc0010201, machine->general, 2);
		add_msrs(0xc0010200, machine->general, 2);
		add_msrs(0xc0000300, 2, 1);
		return;
	}
	add_msrs(0x4c1, machine->general, 1);
	add_msrs(0x309, machine->fixed, 1);
	add_msrs(0x186, machine->general, 1);
	add_msrs(0x38d, 3, 1);
}

static void access_msrs(unsigned long request, const char *name)
{
	int r = need(ioctl(vcpu, request, &msrs), name);

	if (r != msrs.head.nmsrs)
		errx(1, "%s refuses MSR 0x%x", name, msrs.entries[r].index);
}

static void handle_exit(unsigned int kind)
{
	if (kind == EXIT_READ || kind == EXIT_RESTORE)
		access_msrs(KVM_GET_MSRS, "KVM_GET_MSRS");
	if (kind == EXIT_RESTORE)
		access_msrs(KVM_SET_MSRS, "KVM_SET_MSRS");
	if (kind == EXIT_SLEEP)
		usleep(1000);
}

static void set_filter(unsigned int value)
{
	struct {
		struct kvm_pmu_event_filter head;
		unsigned long events[2];
	} filter = {
		.head.action = value & FILTER_DENY ? KVM_PMU_EVENT_DENY : KVM_PMU_EVENT_ALLOW,
		.head.fixed_counter_bitmap = value >> FILTER_FIXED_SHIFT,
	};

	if (value & FILTER_INSTRUCTIONS)
		filter.events[filter.head.nevents++] = EVENT_INSTRUCTIONS;
	if (value & FILTER_BRANCHES)
		filter.events[filter.head.nevents++] = EVENT_BRANCHES(machine->amd);
	need(ioctl(vm, KVM_SET_PMU_EVENT_FILTER, &filter), "KVM_SET_PMU_EVENT_FILTER");
}

/* False at the end */
static int handle_io(void)
{
	unsigned char *data = (unsigned char *)state + state->io.data_offset;
	unsigned int value = *data;

	if (state->io.size == 4)
		memcpy(&value, data, 4);

	switch (state->io.port) {
	case PORT_END:
		return 0;
	case PORT_EXIT:
		handle_exit(value);
		return 1;
	case PORT_FILTER:
		set_filter(value);
		return 1;
	/* If it has died, it says why. */
	case SERIAL:
		fputc(value, stderr);
		return 1;
	case SERIAL + 5:
		*data = 0x60;
		return 1;
	case SERIAL + 3:
		return 1;
	}
	errx(1, "unexpected access to port 0x%x", state->io.port);
}

int main(int argc, char **argv)
{
	const struct result *results;

	if (argc != 4)
		errx(2, "usage: vmm IMAGE MACHINE PROGRAMS > RESULTS");

	create();
	load(argv[1], IMAGE);
	load(argv[2], MACHINE);
	load(argv[3], PROGRAMS);
	machine = memory + MACHINE;
	results = memory + RESULTS;
	list_msrs();

	do {
		need(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
		if (state->exit_reason != KVM_EXIT_IO)
			errx(1, "unexpected exit %u", state->exit_reason);
	} while (handle_io());

	if (fwrite(results, sizeof(*results), results->value, stdout) != results->value ||
	    fflush(stdout))
		err(1, "stdout");
	return 0;
}
