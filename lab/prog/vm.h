/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A VM with one vCPU and one piece of memory at address 0, as the lab's programs
 * have it.  What fails ends the program with a message.
 */
#ifndef LAB_VM_H
#define LAB_VM_H

#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/kvm.h>

struct vm {
	int kvm;
	int fd;
	int vcpu;
	int run_size;
	struct kvm_run *run;
	size_t memory_size;
	uint8_t *memory;
	/* What KVM supports, which is the vCPU's, too */
	struct kvm_cpuid2 *cpuid;
};

static inline void *vm_mmap(size_t size, int flags, int fd)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | flags, fd, 0);

	if (p == MAP_FAILED)
		err(1, "mmap");
	return p;
}

/* size: the memory's, in bytes, a multiple of a page */
static inline struct vm create_vm(size_t size)
{
	struct kvm_userspace_memory_region region = { .memory_size = size };
	struct vm vm = { .memory_size = size };

	vm.kvm = open("/dev/kvm", O_RDWR);
	if (vm.kvm < 0)
		err(1, "/dev/kvm");
	vm.fd = ioctl(vm.kvm, KVM_CREATE_VM, 0);
	if (vm.fd < 0)
		err(1, "KVM_CREATE_VM");
	if (ioctl(vm.fd, KVM_SET_TSS_ADDR, 0xfffbd000) || ioctl(vm.fd, KVM_CREATE_IRQCHIP, 0))
		err(1, "KVM_CREATE_IRQCHIP");

	vm.memory = vm_mmap(size, MAP_ANONYMOUS, -1);
	region.userspace_addr = (uintptr_t)vm.memory;
	if (ioctl(vm.fd, KVM_SET_USER_MEMORY_REGION, &region))
		err(1, "KVM_SET_USER_MEMORY_REGION");

	vm.vcpu = ioctl(vm.fd, KVM_CREATE_VCPU, 0);
	if (vm.vcpu < 0)
		err(1, "KVM_CREATE_VCPU");
	vm.run_size = ioctl(vm.kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (vm.run_size < 0)
		err(1, "KVM_GET_VCPU_MMAP_SIZE");
	vm.run = vm_mmap(vm.run_size, 0, vm.vcpu);

	vm.cpuid = calloc(1, sizeof(*vm.cpuid) + 256 * sizeof(vm.cpuid->entries[0]));
	if (!vm.cpuid)
		err(1, "calloc");
	vm.cpuid->nent = 256;
	if (ioctl(vm.kvm, KVM_GET_SUPPORTED_CPUID, vm.cpuid) ||
	    ioctl(vm.vcpu, KVM_SET_CPUID2, vm.cpuid))
		err(1, "KVM_SET_CPUID2");
	return vm;
}

static inline void destroy_vm(struct vm *vm)
{
	free(vm->cpuid);
	munmap(vm->run, vm->run_size);
	munmap(vm->memory, vm->memory_size);
	close(vm->vcpu);
	close(vm->fd);
	close(vm->kvm);
}

static inline void set_msr(struct vm *vm, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} arg = {
		.head = { .nmsrs = 1 },
		.entry = { .index = index, .data = value },
	};

	if (ioctl(vm->vcpu, KVM_SET_MSRS, &arg) != 1)
		errx(1, "KVM_SET_MSRS refuses 0x%llx in 0x%x", (unsigned long long)value, index);
}

/* Continue at an address below 64 KiB, in real mode; CS and DS are 0. */
static inline void set_real_mode(struct vm *vm, uint64_t rip, struct kvm_regs regs)
{
	struct kvm_sregs sregs;

	regs.rip = rip;
	regs.rflags = 2;
	if (ioctl(vm->vcpu, KVM_SET_REGS, &regs))
		err(1, "KVM_SET_REGS");

	if (ioctl(vm->vcpu, KVM_GET_SREGS, &sregs))
		err(1, "KVM_GET_SREGS");
	sregs.cs.base = sregs.cs.selector = 0;
	sregs.ds.base = sregs.ds.selector = 0;
	if (ioctl(vm->vcpu, KVM_SET_SREGS, &sregs))
		err(1, "KVM_SET_SREGS");
}

#endif /* LAB_VM_H */
