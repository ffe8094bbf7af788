// SPDX-License-Identifier: GPL-2.0-only
/*
 * kvm-exits STATE...: run a guest whose exits are known, one kind of them at a
 * time, with a lab mark (lab/README.md) before and after each.  lab/bench-exits
 * tells what happened in between.
 *
 *   idle      the guest's PMU counts nothing
 *   active    all its counters count, but the one that can count instructions only
 *   +event    behind one of these: the host has an event on the CPU
 *
 * Each state has a guest of its own.  It runs in 32-bit mode with large pages: marks
 * work there, and the PMU's registers are the same as in any other mode.
 */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include <linux/perf_event.h>

#include "vm.h"

/* How often the guest exits in each way */
#define EXITS		22

#define MEMORY		0x10000
#define CODE		0x1000
/* On a page that the guest has touched, or marks find nothing there */
#define NAME		0x1f00
#define DATA		0x2000
#define TABLE		0x3000
#define GDT		0x4000
#define IDT		0x5000
#define PAGES		0x6000
#define STACK		0x8000
#define MMIO		0xd0000000
#define PORT		0x99

#define CODE_SELECTOR	0x08
#define DATA_SELECTOR	0x10

#define TIMER_VECTOR	0x30
#define TIMER_NS	20000000
#define PMI_VECTOR	0x31

#define X2APIC_EOI	0x80b
#define X2APIC_SVR	0x80f
#define X2APIC_LVTT	0x832
#define X2APIC_LVTPC	0x834
#define X2APIC_TMICT	0x838
#define X2APIC_TDCR	0x83e

#define EVENTSEL_USER	0x010000
#define EVENTSEL_INT	0x100000
#define EVENTSEL_ON	0x430000	/* enabled, in user and kernel mode */
#define CYCLES_INTEL	0x3c
#define CYCLES_AMD	0x76
#define INSTRUCTIONS	0xc0		/* the same on both */

/* What the guest's code finds at DATA */
struct data {
	uint32_t pmis;
	uint32_t counter;
	uint32_t global_ctrl;
	uint32_t global_status;
	uint32_t global_status_clear;
	uint32_t counters_low, counters_high;
};

#define STR_(x)		#x
#define STR(x)		STR_(x)
#define FIELD(n)	STR(DATA) " + 4 * " STR(n)
#define MARK		".byte 0x0f, 0x1f, 0x80, 0x4c, 0x41, 0x42, 0x31\n"

/*
 * EBP: how often.  Each ends with OUT.  EDI points to the mark's name.
 *
 * write_table	EBP MSRs from the table at ESI
 * exit_msr	MSR ECX: EDX in the upper, alternately EAX and ESI in the lower half
 * exit_pmi	from the write that makes a counter overflow soon to the return from a
 *		handler that does what perf's does
 */
asm(".section .rodata\n"
    ".code32\n"
    "guest:\n"
    "write_table:\n"
    "	movl (%esi), %ecx\n"
    "	movl 4(%esi), %eax\n"
    "	movl 8(%esi), %edx\n"
    "	wrmsr\n"
    "	addl $12, %esi\n"
    "	decl %ebp\n"
    "	jnz write_table\n"
    "	outb %al, $" STR(PORT) "\n"

    "exit_cpuid:\n"
    "	xorl %eax, %eax\n"
	MARK
    "	cpuid\n"
	MARK
    "	decl %ebp\n"
    "	jnz exit_cpuid\n"
    "	outb %al, $" STR(PORT) "\n"

    "exit_mmio:\n"
	MARK
    "	movb %al, " STR(MMIO) "\n"
	MARK
    "	decl %ebp\n"
    "	jnz exit_mmio\n"
    "	outb %al, $" STR(PORT) "\n"

    "exit_msr:\n"
	MARK
    "	wrmsr\n"
	MARK
    "	xchgl %esi, %eax\n"
    "	decl %ebp\n"
    "	jnz exit_msr\n"
    "	outb %al, $" STR(PORT) "\n"

    "exit_hlt:\n"
    "	movl $" STR(X2APIC_TMICT) ", %ecx\n"
    "	movl $" STR(TIMER_NS) ", %eax\n"
    "	xorl %edx, %edx\n"
    "	wrmsr\n"
	MARK
    "	sti\n"
    "	hlt\n"
    "	cli\n"
    "	decl %ebp\n"
    "	jnz exit_hlt\n"
    "	outb %al, $" STR(PORT) "\n"

    "handle_timer:\n"
	MARK
    "	movl $" STR(X2APIC_EOI) ", %ecx\n"
    "	xorl %eax, %eax\n"
    "	xorl %edx, %edx\n"
    "	wrmsr\n"
    "	iret\n"

    "exit_pmi:\n"
    "	movl " FIELD(1) ", %ecx\n"
    "	movl $-30, %eax\n"
    "	movl $0xffff, %edx\n"
    "	movl " FIELD(0) ", %esi\n"
    "	wrmsr\n"
	MARK
    "	sti\n"
    "1:	cmpl %esi, " FIELD(0) "\n"
    "	je 1b\n"
	MARK
    "	cli\n"
    "	decl %ebp\n"
    "	jnz exit_pmi\n"
    "	outb %al, $" STR(PORT) "\n"

    "handle_pmi:\n"
    "	movl " FIELD(2) ", %ecx\n"
    "	xorl %eax, %eax\n"
    "	xorl %edx, %edx\n"
    "	wrmsr\n"
    "	movl " FIELD(3) ", %ecx\n"
    "	rdmsr\n"
    "	movl " FIELD(4) ", %ecx\n"
    "	wrmsr\n"
    "	movl " FIELD(1) ", %ecx\n"
    "	movl $0x80000000, %eax\n"
    "	movl $0xffff, %edx\n"
    "	wrmsr\n"
    "	movl $" STR(X2APIC_LVTPC) ", %ecx\n"
    "	movl $" STR(PMI_VECTOR) ", %eax\n"
    "	xorl %edx, %edx\n"
    "	wrmsr\n"
    "	movl " FIELD(2) ", %ecx\n"
    "	movl " FIELD(5) ", %eax\n"
    "	movl " FIELD(6) ", %edx\n"
    "	wrmsr\n"
    "	movl $" STR(X2APIC_EOI) ", %ecx\n"
    "	xorl %eax, %eax\n"
    "	xorl %edx, %edx\n"
    "	wrmsr\n"
    "	incl " FIELD(0) "\n"
    "	iret\n"
    "guest_end:\n"
    ".code64\n"
    ".previous\n");

extern const char guest[], guest_end[];
extern const char write_table[], exit_cpuid[], exit_mmio[], exit_msr[], exit_hlt[], exit_pmi[];
extern const char handle_timer[], handle_pmi[];

/* The guest's PMU, as CPUID has it; none if there are no counters. */
static struct pmu {
	uint32_t nr;
	uint32_t counter, eventsel, stride;
	uint32_t fixed_ctrl;
	uint32_t global_ctrl, global_status, global_status_clear;
	uint32_t cycles;
	uint64_t counters;
} pmu;

static struct vm vm;

static void find_pmu(const struct kvm_cpuid2 *cpuid)
{
	uint32_t i;

	for (i = 0; i < cpuid->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &cpuid->entries[i];

		if (e->function == 0xa && e->eax & 0xff) {
			pmu = (struct pmu) {
				.nr = e->eax >> 8 & 0xff, .stride = 1,
				.counter = 0xc1, .eventsel = 0x186, .fixed_ctrl = 0x38d,
				.global_status = 0x38e, .global_ctrl = 0x38f,
				.global_status_clear = 0x390, .cycles = CYCLES_INTEL,
			};
			/* Fixed counters 1 and 2 count cycles, the first one instructions. */
			pmu.counters = ((1ull << pmu.nr) - 1) | 6ull << 32;
		}
		if (e->function == 0x80000022 && e->eax & 1) {
			pmu = (struct pmu) {
				.nr = e->ebx & 0xf, .stride = 2,
				.counter = 0xc0010201, .eventsel = 0xc0010200,
				.global_status = 0xc0000300, .global_ctrl = 0xc0000301,
				.global_status_clear = 0xc0000302, .cycles = CYCLES_AMD,
			};
			pmu.counters = (1ull << pmu.nr) - 1;
		}
	}
}

static void set_gate(int vector, const char *handler)
{
	uint64_t offset = CODE + (handler - guest);

	((uint64_t *)(vm.memory + IDT))[vector] =
		offset | CODE_SELECTOR << 16 | 0x8e0000000000 | (offset >> 16) << 48;
}

static void set_sregs(void)
{
	struct kvm_segment code = { .limit = ~0, .selector = CODE_SELECTOR, .type = 0xb,
				    .present = 1, .db = 1, .s = 1, .g = 1 };
	struct kvm_segment data = code;
	struct kvm_sregs sregs;

	data.selector = DATA_SELECTOR;
	data.type = 0x3;

	if (ioctl(vm.vcpu, KVM_GET_SREGS, &sregs))
		err(1, "KVM_GET_SREGS");
	sregs.cr0 |= 1 | 1u << 31;	/* PE, PG */
	sregs.cr4 |= 0x10;		/* PSE */
	sregs.cr3 = PAGES;
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.gdt.base = GDT;
	sregs.gdt.limit = 0x17;
	sregs.idt.base = IDT;
	sregs.idt.limit = 0x7ff;
	sregs.apic_base |= 0xc00;	/* x2APIC mode */
	if (ioctl(vm.vcpu, KVM_SET_SREGS, &sregs))
		err(1, "KVM_SET_SREGS");
}

static void create_guest(void)
{
	vm = create_vm(MEMORY);
	find_pmu(vm.cpuid);
	memcpy(vm.memory + CODE, guest, guest_end - guest);
	memcpy(vm.memory + GDT, (uint64_t []) { 0, 0x00cf9b000000ffff, 0x00cf93000000ffff }, 24);
	((uint32_t *)(vm.memory + PAGES))[0] = 0xe3;
	((uint32_t *)(vm.memory + PAGES))[MMIO >> 22] = MMIO | 0xe3;
	set_gate(TIMER_VECTOR, handle_timer);
	set_gate(PMI_VECTOR, handle_pmi);
	*(struct data *)(vm.memory + DATA) = (struct data) {
		.counter = pmu.counter,
		.global_ctrl = pmu.global_ctrl,
		.global_status = pmu.global_status,
		.global_status_clear = pmu.global_status_clear,
		.counters_low = pmu.counters,
		.counters_high = pmu.counters >> 32,
	};
	set_sregs();
}

static void run_guest(const char *code, struct kvm_regs regs)
{
	regs.rip = CODE + (code - guest);
	regs.rsp = STACK;
	regs.rdi = NAME;
	regs.rflags = 2;
	if (ioctl(vm.vcpu, KVM_SET_REGS, &regs))
		err(1, "KVM_SET_REGS");

	do {
		if (ioctl(vm.vcpu, KVM_RUN, 0))
			err(1, "KVM_RUN");
	} while (vm.run->exit_reason == KVM_EXIT_MMIO);

	if (vm.run->exit_reason != KVM_EXIT_IO || vm.run->io.port != PORT)
		errx(1, "unexpected exit reason %u", vm.run->exit_reason);
}

static void measure(const char *state, const char *kind, const char *code, struct kvm_regs regs)
{
	/* A mark's name has at most 31 characters. */
	snprintf((char *)vm.memory + NAME, 32, "%s %s", state, kind);
	regs.rbp = EXITS;
	run_guest(code, regs);
}

struct entry {
	uint32_t msr, low, high;
};

static void write_msrs(const struct entry *entries, int nr)
{
	memcpy(vm.memory + TABLE, entries, nr * sizeof(*entries));
	run_guest(write_table, (struct kvm_regs) { .rsi = TABLE, .rbp = nr });
}

static void set_up_apic(void)
{
	const struct entry entries[] = {
		{ .msr = X2APIC_SVR, .low = 0x1ff },
		{ .msr = X2APIC_TDCR, .low = 0xb },
		{ .msr = X2APIC_LVTT, .low = TIMER_VECTOR },
		{ .msr = X2APIC_LVTPC, .low = PMI_VECTOR },
	};

	write_msrs(entries, 4);
}

static void turn_all_on(void)
{
	struct entry entries[32] = {};
	int nr = 0;
	uint32_t i;

	for (i = 0; i < pmu.nr; i++) {
		entries[nr].msr = pmu.eventsel + i * pmu.stride;
		entries[nr++].low = EVENTSEL_ON | pmu.cycles;
	}
	if (pmu.fixed_ctrl) {
		entries[nr].msr = pmu.fixed_ctrl;
		entries[nr++].low = 0x330;
	}
	entries[nr].msr = pmu.global_ctrl;
	entries[nr].low = pmu.counters;
	entries[nr++].high = pmu.counters >> 32;

	write_msrs(entries, nr);
}

/* Counter 0, which raises PMIs; when is known to the instruction */
static void count_instructions(void)
{
	const struct entry entries[] = {
		{ .msr = pmu.eventsel, .low = EVENTSEL_ON | EVENTSEL_INT | INSTRUCTIONS },
	};

	write_msrs(entries, 1);
}

static int open_event(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_HARDWARE,
		.config = PERF_COUNT_HW_CPU_CYCLES,
		.size = sizeof(attr),
		.exclude_guest = 1,
	};
	int fd = syscall(__NR_perf_event_open, &attr, -1, 0, -1, 0);

	if (fd < 0)
		err(1, "perf_event_open");
	return fd;
}

static void measure_all(const char *state)
{
	bool active = !strncmp(state, "active", 6);
	uint32_t on = active ? EVENTSEL_ON : 0;
	const char *event = state + (active ? 6 : 4);
	int fd = -1;

	if ((!active && strncmp(state, "idle", 4)) || (*event && strcmp(event, "+event")))
		errx(2, "unknown state %s: give idle or active, or one of them with +event", state);

	create_guest();
	if (active && !pmu.nr)
		errx(1, "the guest has no PMU");
	if (*event)
		fd = open_event();

	set_up_apic();
	if (active)
		turn_all_on();

	measure(state, "cpuid", exit_cpuid, (struct kvm_regs) {});
	measure(state, "hlt", exit_hlt, (struct kvm_regs) {});
	measure(state, "mmio", exit_mmio, (struct kvm_regs) {});
	if (pmu.nr) {
		measure(state, "selector", exit_msr, (struct kvm_regs) {
			.rcx = pmu.eventsel + pmu.stride,
			.rax = (on | pmu.cycles) ^ EVENTSEL_USER, .rsi = on | pmu.cycles,
		});
		measure(state, "global-ctrl", exit_msr, (struct kvm_regs) {
			.rcx = pmu.global_ctrl,
			.rax = 1, .rsi = (uint32_t)pmu.counters, .rdx = pmu.counters >> 32,
		});
	}
	if (active) {
		count_instructions();
		measure(state, "counted", exit_cpuid, (struct kvm_regs) {});
		measure(state, "pmi", exit_pmi, (struct kvm_regs) {});
	}

	if (fd >= 0)
		close(fd);
	destroy_vm(&vm);
}

int main(int argc, char **argv)
{
	if (argc < 2)
		errx(2, "usage: kvm-exits idle|active[+event]...");

	while (*++argv)
		measure_all(*argv);
	return 0;
}
