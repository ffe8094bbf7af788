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
#include <stdio.h>
#include <string.h>

#include "../prog/mark.h"
#include "../prog/vm.h"

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

static struct vm vm;

static void run_guest(void)
{
	if (ioctl(vm.vcpu, KVM_RUN, 0))
		err(1, "KVM_RUN");
	if (vm.run->exit_reason != KVM_EXIT_IO)
		errx(1, "unexpected exit reason %u", vm.run->exit_reason);
}

/* Once before the first mark, for what happens the first time only. */
static void measure(const char *name, const char *code, struct kvm_regs regs, int faults)
{
	volatile uint16_t *seen = (void *)(vm.memory + FAULTS);
	char text[32];

	regs.rsp = CODE;
	regs.rbp = 2;
	set_real_mode(&vm, CODE + (code - guest), regs);
	run_guest();

	*seen = 0;
	regs.rbp = ACCESSES;
	set_real_mode(&vm, CODE + (code - guest), regs);
	snprintf(text, sizeof(text), "%s-begin", name);
	mark(text);
	run_guest();
	snprintf(text, sizeof(text), "%s-end", name);
	mark(text);
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
		set_msr(&vm, index, value);
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

	vm = create_vm(MEMORY);
	memcpy(vm.memory + CODE, guest, guest_end - guest);
	/* CS is 0. */
	*(uint32_t *)(vm.memory + IVT_GP) = CODE + (on_gp - guest);

	while (fgets(line, sizeof(line), stdin))
		do_line(line);
	return 0;
}
