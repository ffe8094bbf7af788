// SPDX-License-Identifier: GPL-2.0-only
/*
 * Runs in the emulated host: a guest makes the accesses to registers that standard
 * input lists, a number of times each, with a lab mark before and after.
 *
 *	set MSR VALUE				by user space, once
 *	NAME rdmsr|rdpmc INDEX ok|gp		by the guest
 *	NAME wrmsr INDEX VALUE VALUE ok|gp	the same, the values in turn
 *
 * "gp": each access must raise #GP; "ok": none may.
 *
 * The guest is a few instructions in real mode, where the PMU's registers are the
 * same as in any other.
 */
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/kvm.h>

/* Keep in step with register-exits. */
#define ACCESSES	20

#define CODE		0x1000
#define MEMORY		0x10000
#define FAULTS		0x800
#define IVT_GP		(4 * 13)

/*
 * EBP: how often; EDI: the index; EDX: the upper half, ESI and EBX: the lower ones
 * in turn.  All three instructions have two bytes, which on_gp skips.
 */
asm(".section .rodata\n"
    ".code16\n"
    "guest:\n"
    "read_msr:\n"
    "	movl %edi, %ecx\n"
    "	rdmsr\n"
    "	decl %ebp\n"
    "	jnz read_msr\n"
    "	outb %al, $0x99\n"
    "read_pmc:\n"
    "	movl %edi, %ecx\n"
    "	rdpmc\n"
    "	decl %ebp\n"
    "	jnz read_pmc\n"
    "	outb %al, $0x99\n"
    "write_msr:\n"
    "	movl %edi, %ecx\n"
    "	movl %esi, %eax\n"
    "	wrmsr\n"
    "	xchgl %esi, %ebx\n"
    "	decl %ebp\n"
    "	jnz write_msr\n"
    "	outb %al, $0x99\n"
    "on_gp:\n"
    "	pushw %bp\n"
    "	movw %sp, %bp\n"
    "	addw $2, 2(%bp)\n"
    "	incw 0x800\n"
    "	popw %bp\n"
    "	iret\n"
    "guest_end:\n"
    ".code64\n"
    ".previous\n");

extern const char guest[], guest_end[];
extern const char read_msr[], read_pmc[], write_msr[], on_gp[];

static uint8_t *memory;
static struct kvm_run *run;
static int vcpu;

static void mark(const char *name, const char *when)
{
	char text[32];

	snprintf(text, sizeof(text), "%s-%s", name, when);
	asm volatile(".byte 0x0f, 0x1f, 0x80, 0x4c, 0x41, 0x42, 0x31"
		     : : "D"(text) : "memory");
}

static void set_regs(const char *code, struct kvm_regs regs)
{
	struct kvm_sregs sregs;

	regs.rip = CODE + (code - guest);
	regs.rflags = 2;
	if (ioctl(vcpu, KVM_SET_REGS, &regs))
		err(1, "KVM_SET_REGS");

	if (ioctl(vcpu, KVM_GET_SREGS, &sregs))
		err(1, "KVM_GET_SREGS");
	sregs.cs.base = sregs.cs.selector = 0;
	sregs.ds.base = sregs.ds.selector = 0;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs))
		err(1, "KVM_SET_SREGS");
}

static void run_guest(void)
{
	if (ioctl(vcpu, KVM_RUN, 0))
		err(1, "KVM_RUN");
	if (run->exit_reason != KVM_EXIT_IO)
		errx(1, "unexpected exit reason %u", run->exit_reason);
}

static void create_guest(void)
{
	struct kvm_userspace_memory_region region = { .memory_size = MEMORY };
	struct kvm_cpuid2 *cpuid;
	int kvm, vm;

	kvm = open("/dev/kvm", O_RDWR);
	if (kvm < 0)
		err(1, "/dev/kvm");
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		err(1, "KVM_CREATE_VM");
	if (ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000) || ioctl(vm, KVM_CREATE_IRQCHIP, 0))
		err(1, "KVM_CREATE_IRQCHIP");

	memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		err(1, "mmap");
	memcpy(memory + CODE, guest, guest_end - guest);
	region.userspace_addr = (uintptr_t)memory;
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
		err(1, "KVM_SET_USER_MEMORY_REGION");

	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0)
		err(1, "KVM_CREATE_VCPU");
	run = mmap(NULL, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE,
		   MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED)
		err(1, "mmap");

	cpuid = calloc(1, sizeof(*cpuid) + 256 * sizeof(cpuid->entries[0]));
	if (!cpuid)
		err(1, "calloc");
	cpuid->nent = 256;
	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid) || ioctl(vcpu, KVM_SET_CPUID2, cpuid))
		err(1, "KVM_SET_CPUID2");
	free(cpuid);
}

static void set_msr(uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} arg = {
		.head = { .nmsrs = 1 },
		.entry = { .index = index, .data = value },
	};

	if (ioctl(vcpu, KVM_SET_MSRS, &arg) != 1)
		errx(1, "KVM_SET_MSRS refuses 0x%llx in 0x%x", (unsigned long long)value, index);
}

/* Once before the first mark, for what happens the first time only. */
static void measure(const char *name, const char *code, struct kvm_regs regs, int faults)
{
	volatile uint16_t *seen = (void *)(memory + FAULTS);

	regs.rsp = CODE;
	regs.rbp = 2;
	set_regs(code, regs);
	run_guest();

	*seen = 0;
	regs.rbp = ACCESSES;
	set_regs(code, regs);
	mark(name, "begin");
	run_guest();
	mark(name, "end");
	if (*seen != faults)
		errx(1, "%s: %u #GP, wanted %u", name, *seen, faults);
}

static void do_line(const char *line)
{
	unsigned long long value = 0, other = 0;
	char name[20], op[6], result[3];
	const char *code;
	uint32_t index;

	if (sscanf(line, "set %x %llx", &index, &value) == 2) {
		set_msr(index, value);
		return;
	}
	if (sscanf(line, "%19s wrmsr %x %llx %llx %2s", name, &index, &value, &other, result) == 5)
		code = write_msr;
	else if (sscanf(line, "%19s %5s %x %2s", name, op, &index, result) != 4)
		errx(2, "not an access: %s", line);
	else if (!strcmp(op, "rdmsr"))
		code = read_msr;
	else if (!strcmp(op, "rdpmc"))
		code = read_pmc;
	else
		errx(2, "not an access: %s", line);

	if (value >> 32 != other >> 32)
		errx(2, "only the lower half may differ: %s", line);

	measure(name, code, (struct kvm_regs) {
		.rdi = index, .rsi = (uint32_t)value, .rbx = (uint32_t)other, .rdx = value >> 32,
	}, strcmp(result, "gp") ? 0 : ACCESSES);
}

int main(void)
{
	char line[100];

	create_guest();
	/* CS is 0. */
	*(uint32_t *)(memory + IVT_GP) = CODE + (on_gp - guest);

	while (fgets(line, sizeof(line), stdin))
		do_line(line);
	return 0;
}
