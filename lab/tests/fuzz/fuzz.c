// SPDX-License-Identifier: GPL-2.0-only
/*
 * The interpreter of PMU programs, which runs on the bare emulated CPU and in a
 * guest, the same bytes.
 *
 * Its own instructions are counted, too, while counters are on: what it executes may
 * depend on the program and on what was seen, but on nothing else.  Hence, as long as the
 * two machines answer the same, they have executed the same.
 */
#include "fuzz.h"
#include "pmu.h"

static const struct machine *const machine = (void *)MACHINE;
static const struct op *const ops = (void *)PROGRAMS;
/* The first one is their number. */
static struct result *result = (struct result *)RESULTS + 1;

u32 status_msr, reset_msr;
static u32 selector, selector_stride, counter, counter_stride;

static void outl(u16 port, u32 value)
{
	asm volatile("outl %0, %1" : : "a"(value), "d"(port) : "memory");
}

/* What is measured, besides start.S's: exits, which count for the guest */
void exits(void);
asm(".globl exits\n"
    "exits: pushq %rbx\n"
    "	xorl %eax, %eax\n"
    "	cpuid\n"
    "	movl $0x1b, %ecx\n"
    "	rdmsr\n"
    "	xorl %eax, %eax\n"
    "	xorl %ecx, %ecx\n"
    "	cpuid\n"
    "	movl $0, %eax\n"
    "	outl %eax, $0x98\n"
    "	popq %rbx\n"
    "	ret\n");

static const code_t codes[] = {
	nothing, loop100, branches, memory, repeated, compared, faulting, interrupting,
	user, user_syscall, exits,
};

static u32 op_number;

static void saw(u16 kind, u16 which, u64 value)
{
	*result++ = (struct result) { op_number, kind, which, value };
}

/*
 * The bare machine has no event filter.  Instead, global control hides the
 * counters there that the filter denies: "hidden" is 0 in a guest.
 */
static u32 filter;
static u64 view, hidden;

static int is_denied(u32 bits)
{
	return !(filter & bits) == !(filter & FILTER_DENY);
}

static u64 denied_counters(void)
{
	u64 event, denied = 0;

	for (u32 i = 0; i < machine->general; i++) {
		event = rdmsr(selector + i * selector_stride) & EVENT_MASK(machine->amd);
		if (is_denied(event == EVENT_INSTRUCTIONS ? FILTER_INSTRUCTIONS :
			      event == EVENT_BRANCHES(machine->amd) ? FILTER_BRANCHES : 0))
			denied |= BIT(i);
	}
	for (u32 i = 0; i < machine->fixed; i++)
		if (is_denied(BIT(FILTER_FIXED_SHIFT + i)))
			denied |= BIT(32 + i);
	return denied;
}

static void set_global(void)
{
	wrmsr(global_msr, view & ~hidden);
}

static void find_hidden(void)
{
	hidden = denied_counters() & -(u64)machine->bare;
}

static int is_control(u32 msr)
{
	return msr == FIXED_CTRL || msr - selector < machine->general * selector_stride ||
	       (machine->amd && msr - 0xc0010000 < 4);
}

static int write_msr(u32 msr, u64 value)
{
	int fault;

	if (msr == global_msr) {
		fault = wrmsr_faults(msr, value & ~hidden);
		if (!fault)
			view = value & all_counters();
		return fault;
	}
	if (filter == NO_FILTER || !is_control(msr))
		return wrmsr_faults(msr, value);

	/* What it denies depends on the event. */
	wrmsr(global_msr, 0);
	fault = wrmsr_faults(msr, value);
	find_hidden();
	set_global();
	return fault;
}

static void set_filter(u32 value)
{
	wrmsr(global_msr, 0);
	filter = value;
	outl(PORT_FILTER, value);
	find_hidden();
	set_global();
}

u64 all_counters(void)
{
	return BIT(machine->general) - 1 + ((BIT(machine->fixed) - 1) << 32);
}

static void dump(void)
{
	u64 value;

	for (u32 i = 0; i < machine->general; i++) {
		rdpmc_faults(i, &value);
		saw(SAW_COUNTER, i, value);
	}
	for (u32 i = 0; i < machine->fixed; i++) {
		rdpmc_faults(BIT(30) + i, &value);
		saw(SAW_COUNTER, 32 + i, value);
	}
	saw(SAW_STATUS, 0, rdmsr(status_msr));
	saw(SAW_LVTPC, 0, rdmsr(LVTPC));
	saw(SAW_PMIS, 0, pmi_count);
	saw(SAW_PMI_RIP, 0, pmi_rip);
}

static void reset(void)
{
	wrmsr(global_msr, 0);
	wrmsr(LVTPC, MASKED);
	for (u32 i = 0; i < machine->general; i++) {
		wrmsr(selector + i * selector_stride, 0);
		wrmsr(counter + i * counter_stride, 0);
	}
	if (machine->fixed)
		wrmsr(FIXED_CTRL, 0);
	for (u32 i = 0; i < machine->fixed; i++)
		wrmsr(FIXED0 + i, 0);
	wrmsr(reset_msr, rdmsr(status_msr));

	view = 0;
	set_filter(NO_FILTER);
	asm volatile("sti; nop; cli");
	pmi_count = 0;
	pmi_rip = 0;
}

static void run(const struct op *op)
{
	u64 value = 0;
	int fault;

	switch (op->op) {
	case OP_START:
		dump();
		reset();
		break;
	case OP_WRMSR:
		saw(SAW_FAULT, 0, write_msr(op->arg, op->value));
		break;
	case OP_RDMSR:
		fault = rdmsr_faults(op->arg, &value);
		saw(SAW_FAULT, 0, fault);
		saw(SAW_VALUE, 0, op->arg == global_msr ? value | (view & hidden) : value);
		break;
	case OP_RDPMC:
		fault = rdpmc_faults(op->arg, &value);
		saw(SAW_FAULT, 0, fault);
		saw(SAW_VALUE, 0, value);
		break;
	case OP_RUN:
		global_on = op->value & ~hidden;
		view = 0;
		measure(codes[op->arg]);
		dump();
		break;
	case OP_CODE:
		codes[op->arg]();
		dump();
		break;
	case OP_FLAG:
		if (op->arg)
			asm volatile("sti; nop");
		else
			asm volatile("cli");
		break;
	case OP_EXIT:
		outl(PORT_EXIT, op->arg);
		break;
	case OP_FILTER:
		set_filter(op->arg);
		break;
	}
}

/* CPUID's answers aren't needed: who starts the machine knows what it is. */
void main(void)
{
	set_up();

	global_msr = machine->amd ? 0xc0000301 : 0x38f;
	status_msr = machine->amd ? 0xc0000300 : 0x38e;
	reset_msr = machine->amd ? 0xc0000302 : 0x390;
	selector = machine->amd ? 0xc0010200 : SELECT0;
	selector_stride = machine->amd ? 2 : 1;
	counter = machine->amd ? 0xc0010201 : FULL_PMC0;
	counter_stride = machine->amd ? 2 : 1;

	reset();
	for (op_number = 0; op_number < machine->nr_ops; op_number++)
		if (!ops[op_number].guest_only || !machine->bare)
			run(&ops[op_number]);

	/* To a hypervisor each byte is an exit; it finds them in memory. */
	((struct result *)RESULTS)->value = result - (struct result *)RESULTS;
	if (machine->bare)
		asm volatile("rep outsb" : : "d"((u16)PORT_RESULTS), "S"(RESULTS),
			     "c"((u64)result - RESULTS) : "memory");
	for (;;)
		outl(PORT_END, 0);
}
