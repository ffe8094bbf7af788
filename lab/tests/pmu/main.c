// SPDX-License-Identifier: GPL-2.0-only
/*
 * The PMU's test kernel: what is needed to run at all, and the tests of
 * counters, their registers and their interrupts.
 *
 * The emulated PMU is what all other tests of the project believe, so it is
 * tested against numbers that come from the architecture's definitions and
 * from counting instructions in start.S, by a program that shares nothing
 * with Linux, which could make the same mistake as the emulator.
 */
#include "pmu.h"

/* What run puts at this address: a name, whether costs are on, the costs */
struct task {
	char name[16];
	u32 costs_on, entry, exit, wrmsr_pmu, rdmsr_pmu, rdpmc, wrmsr_apic, interrupt, wrmsr, rdmsr;
};
static const struct task *const task = (void *)0x200000;

static const struct profile profiles[] = {
	{ "spr", 0, 8, 4, 0, 1, 0x08300805, 0x8604, 0xb000 },
	{ "skx", 0, 4, 3, 1, 0, 0x07300404, 0x0603, 0x3005 },
	{ "zen4", 1, 6, 0, 0, 0, 0, 0, 0 },
};
const struct profile *profile;
u32 status_msr, reset_msr, set_msr;

/* unit mask << 8 | select; 0: not there */
static const struct {
	const char *name;
	u64 intel, amd;
} events[EVENTS] = {
	[CYCLES]	= { "cycles", 0x3c, 0x76 },
	[REF_CYCLES]	= { "ref-cycles", 0x13c, 0x100000120 },
	[INSTRUCTIONS]	= { "instructions", 0xc0, 0xc0 },
	[BRANCHES]	= { "branches", 0xc4, 0xc2 },
	[MISPREDICTS]	= { "mispredicts", 0xc5, 0xc3 },
	[LOADS]		= { "loads", 0x81d0, 0x129 },
	[STORES]	= { "stores", 0x82d0, 0x229 },
	[LOADS_STORES]	= { "loads and stores", 0x83d0, 0x429 },
	[CACHE_REFS]	= { "cache references", 0x4f2e, 0xff60 },
	[CACHE_MISSES]	= { "cache misses", 0x412e, 0x964 },
	[SLOTS]		= { "slots", 0x1a4, 0 },
};

/*
 * The run's frame
 */

static u32 number, failed;

void check(const char *what, const char *part, u64 got, u64 want)
{
	if (got != want) {
		failed++;
		print("not ");
	}
	print("ok ");
	print_number(++number, 10);
	print(" - ");
	print(what);
	print(": ");
	print(part);
	if (got != want) {
		print(" # got 0x");
		print_number(got, 16);
		print(", not 0x");
		print_number(want, 16);
	}
	print("\n");
}

/*
 * Registers
 */

static u64 read_cr4(void)
{
	u64 value;

	asm volatile("mov %%cr4, %0" : "=r"(value));
	return value;
}

static void write_cr4(u64 value)
{
	asm volatile("mov %0, %%cr4" : : "r"(value) : "memory");
}

u64 select_of(enum event event, u64 flags)
{
	return (profile->amd ? events[event].amd : events[event].intel) | flags;
}

u32 select_msr(int n)
{
	return profile->amd ? 0xc0010200 + 2 * n : SELECT0 + n;
}

u32 counter_msr(int n)
{
	return profile->amd ? 0xc0010201 + 2 * n : FULL_PMC0 + n;
}

u64 all_counters(void)
{
	return BIT(profile->general) - 1 + ((BIT(profile->fixed) - 1) << 32);
}

void program(int n, u64 select, u64 value)
{
	wrmsr(counter_msr(n), value);
	wrmsr(select_msr(n), select);
}

void reset_pmu(void)
{
	wrmsr(global_msr, 0);
	for (int n = 0; n < profile->general; n++)
		program(n, 0, 0);
	if (profile->fixed) {
		wrmsr(FIXED_CTRL, 0);
		for (int n = 0; n < profile->fixed; n++)
			wrmsr(FIXED0 + n, 0);
	}
	wrmsr(DEBUGCTL, 0);
	wrmsr(reset_msr, rdmsr(status_msr));
	wrmsr(LVTPC, MASKED);
	global_on = all_counters();
	pmi_count = 0;
	pmi_rip = 0;
}

/*
 * What counters count
 */

#define ANYTHING	0xffff
static const struct {
	const char *name;
	code_t code;
	u16 want[SLOTS];	/* without what measure() adds */
} codes[] = {
#define CODE(code) #code, code
	/*			   cycles, ref, instr., branches, mispr., loads, stores, both */
	{ CODE(nothing),	 { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 } },
	{ CODE(loop100),	 { 201, 201, 201, 100, 1, 0, 0, 0, 0, 0 } },
	{ CODE(branches),	 { 11, 11, 11, 9, 1, 1, 1, 2, 0, 0 } },
	{ CODE(memory),		 { 6, 6, 6, 0, 0, 4, 3, 6, 0, 0 } },
	{ CODE(repeated),	 { 102, 102, 3, 0, 0, 0, ANYTHING, ANYTHING, 0, 0 } },
	{ CODE(compared),	 { 103, 103, 4, 0, 0, 100, 0, 100, 0, 0 } },
	{ CODE(faulting),	 { 3, 3, 2, 1, 0, ANYTHING, ANYTHING, ANYTHING, 0, 0 } },
	{ CODE(interrupting),	 { 2, 2, 2, 2, 0, ANYTHING, ANYTHING, ANYTHING, 0, 0 } },
	{ CODE(user),		 { 15, 15, 15, 3, 0, ANYTHING, ANYTHING, ANYTHING, 0, 0 } },
	{ CODE(user_syscall),	 { 7, 7, 7, 2, 0, 0, 0, 0, 0, 0 } },
};
static const u16 frame[SLOTS] = { 6, 6, 6, 2, 0, 1, 1, 2, 0, 0 };

static u64 count(int n, u64 select, code_t code)
{
	program(n, select, 0);
	measure(code);
	wrmsr(select_msr(n), 0);
	return rdmsr(counter_msr(n));
}

static void test_events(void)
{
	reset_pmu();
	buffer[0] = 1;
	for (u32 i = 0; i < ARRAY_SIZE(codes); i++) {
		/* the branch predictor and the caches: nothing is noticed unless it is counted */
		for (int warm = 0; warm < 4; warm++) {
			count(0, select_of(MISPREDICTS, USR | OS | EN), codes[i].code);
			count(0, select_of(CACHE_REFS, USR | OS | EN), codes[i].code);
		}
		for (int e = 0; e < SLOTS; e++)
			if (codes[i].want[e] != ANYTHING)
				check(codes[i].name, events[e].name,
				      count((i + e) % profile->general, select_of(e, USR | OS | EN),
					    codes[i].code),
				      codes[i].want[e] + frame[e]);
		if (!select_of(SLOTS, 0) || profile->fixed < 4)
			continue;
		check(codes[i].name, "slots", count(0, select_of(SLOTS, USR | OS | EN), codes[i].code),
		      6 * (codes[i].want[CYCLES] + 6));
	}

	/* 5 lines that no cache has; that both have; that only the second one has */
	line_address = 0x1800000;
	count(0, select_of(CACHE_REFS, OS | EN), lines);	/* line_address itself */
	line_address = 0x1000000;
	check("cold lines", "cache references", count(0, select_of(CACHE_REFS, OS | EN), lines), 5);
	check("warm lines", "cache references", count(0, select_of(CACHE_REFS, OS | EN), lines), 0);
	line_address = 0x1000000 + (2 << 20);
	count(0, select_of(CACHE_REFS, OS | EN), lines);
	line_address = 0x1000000;
	check("evicted lines", "cache misses", count(0, select_of(CACHE_MISSES, OS | EN), lines), 0);
	line_address = 0x1000000 + (2 << 20);
	check("evicted lines", "cache references", count(0, select_of(CACHE_REFS, OS | EN), lines), 5);
	line_address = 0x2100000;
	check("cold lines", "cache misses", count(0, select_of(CACHE_MISSES, OS | EN), lines), 5);

	/* CLFLUSH is no access, and drops a line from both caches */
	check("flushed line", "loads", count(0, select_of(LOADS, OS | EN), flushed), 2 + 1);
	for (int e = CACHE_REFS; e <= CACHE_MISSES; e++) {
		check("flushed line", events[e].name, count(0, select_of(e, OS | EN), flushed), 1);
		check("line that is only flushed", events[e].name,
		      count(0, select_of(e, OS | EN), flushed_only), 0);
		check("flushed again", events[e].name, count(0, select_of(e, OS | EN), flushed), 1);
		check("flushed code", events[e].name,
		      count(0, select_of(e, OS | EN), flushing_itself), 1);
	}
	check("line after its flush", "cache misses",
	      count(0, select_of(CACHE_MISSES, OS | EN), lines), 0);

	/*
	 * Two bits for each branch, which begin at "never".  Of 10 times that
	 * alternate, 5 are predicted.  The loop's branch is learned in two
	 * times, and its end is a surprise each time.
	 */
	check("cold branches", "mispredicts", count(0, select_of(MISPREDICTS, OS | EN), alternating), 5 + 3);
	check("warm branches", "mispredicts", count(0, select_of(MISPREDICTS, OS | EN), alternating), 5 + 1);
	check("warm branches", "mispredicts in user mode",
	      count(0, select_of(MISPREDICTS, USR | EN), alternating), 0);

	/* a counter that no profile's event is selected in */
	check("no event", "count", count(0, 0x55 | USR | OS | EN, loop100), 0);
	check("not enabled", "count", count(0, select_of(INSTRUCTIONS, USR | OS), loop100), 0);
	global_on = all_counters() & ~BIT(1);
	check("not enabled globally", "count", count(1, select_of(INSTRUCTIONS, OS | EN), loop100), 0);
	global_on = BIT(1);
	check("only enabled globally", "count", count(1, select_of(INSTRUCTIONS, OS | EN), loop100), 207);
}

/* System management mode is kernel mode, unless the counters are frozen in it. */
static void test_smm(void)
{
	u64 in_smm;

	reset_pmu();
	in_smm = count(0, select_of(INSTRUCTIONS, OS | EN), smi) - (1 + 6);
	check("SMM", "its instructions are counted", in_smm > 0 && in_smm < 1000, 1);
	check("SMM", "user mode", count(0, select_of(INSTRUCTIONS, USR | EN), smi), 0);
	if (!(profile->capabilities & BIT(12)))
		return;
	wrmsr(DEBUGCTL, BIT(14));
	check("SMM", "frozen", count(0, select_of(INSTRUCTIONS, OS | EN), smi), 1 + 6);
	check("SMM", "frozen, cycles", count(0, select_of(CYCLES, OS | EN), smi), 1 + 6);
	wrmsr(DEBUGCTL, 0);
	check("SMM", "not any more", count(0, select_of(INSTRUCTIONS, OS | EN), smi), in_smm + 1 + 6);
}

static void test_fixed(void)
{
	static const u16 want[] = { 207, 207, 207, 6 * 207 };

	for (int n = 0; n < profile->fixed; n++) {
		static const char *const names[] = { "fixed 0", "fixed 1", "fixed 2", "fixed 3" };

		reset_pmu();
		wrmsr(FIXED_CTRL, 3ul << 4 * n);
		measure(loop100);
		check(names[n], "loop100", rdmsr(FIXED0 + n), want[n]);
		wrmsr(FIXED_CTRL, 2ul << 4 * n);
		wrmsr(FIXED0 + n, 0);
		measure(user);
		check(names[n], "user mode", rdmsr(FIXED0 + n), n == 3 ? 42 : 7);
		wrmsr(FIXED_CTRL, 1ul << 4 * n);
		wrmsr(FIXED0 + n, 0);
		measure(user);
		check(names[n], "kernel mode", rdmsr(FIXED0 + n), n == 3 ? 84 : 14);
		wrmsr(FIXED_CTRL, 0);
		wrmsr(FIXED0 + n, 5);
		measure(loop100);
		check(names[n], "off", rdmsr(FIXED0 + n), 5);
		global_on &= ~BIT(32 + n);
		wrmsr(FIXED_CTRL, 3ul << 4 * n);
		measure(loop100);
		check(names[n], "not enabled globally", rdmsr(FIXED0 + n), 5);
	}

	if (!(profile->capabilities & BIT(15)))
		return;
	reset_pmu();
	global_on |= BIT(48);
	wrmsr(FIXED_CTRL, 3ul << 12);
	wrmsr(METRICS, 0);
	measure(loop100);	/* of 6 slots in a cycle 1 retires */
	check("metrics", "loop100", rdmsr(METRICS), 42 | 213ul << 24);
	wrmsr(METRICS, 0);
	measure(repeated);	/* 9 of 648 */
	check("metrics", "repeated", rdmsr(METRICS), 3 | 252ul << 24);
	wrmsr(METRICS, 0x12345678);
	global_on &= ~BIT(48);
	measure(repeated);
	check("metrics", "not enabled", rdmsr(METRICS), 0x12345678);
}

static void test_modifiers(void)
{
	static const struct {
		const char *name;
		enum event event;
		u64 flags;
		code_t code;
		u32 want;
		int intel;
	} rows[] = {
		{ "user mode: instructions", INSTRUCTIONS, USR, user, 7, 0 },
		{ "kernel mode: instructions", INSTRUCTIONS, OS, user, 14, 0 },
		{ "no mode: instructions", INSTRUCTIONS, 0, user, 0, 0 },
		{ "user mode: branches", BRANCHES, USR, user, 2, 0 },
		{ "kernel mode: branches", BRANCHES, OS, user, 3, 0 },
		{ "user mode: cycles", CYCLES, USR, user, 7, 0 },
		{ "user mode, SYSCALL: instructions", INSTRUCTIONS, USR, user_syscall, 4, 0 },
		{ "kernel mode, SYSCALL: instructions", INSTRUCTIONS, OS, user_syscall, 9, 0 },
		{ "user mode, SYSCALL: branches", BRANCHES, USR, user_syscall, 1, 0 },
		{ "kernel mode, SYSCALL: branches", BRANCHES, OS, user_syscall, 3, 0 },
		/* of 108 cycles 9 retire an instruction: 8 of them before and 1 after 99 that do not */
		{ "mask 1", INSTRUCTIONS, OS | CMASK(1), repeated, 9, 0 },
		{ "mask 2", INSTRUCTIONS, OS | CMASK(2), repeated, 0, 0 },
		{ "inverted, no mask", INSTRUCTIONS, OS | INV, repeated, 9, 0 },
		{ "inverted, mask 1", INSTRUCTIONS, OS | INV | CMASK(1), repeated, 99, 0 },
		{ "inverted, mask 2", INSTRUCTIONS, OS | INV | CMASK(2), repeated, 108, 0 },
		{ "edge", INSTRUCTIONS, OS | EDGE, repeated, 2, 0 },
		{ "edge, mask 1", INSTRUCTIONS, OS | EDGE | CMASK(1), repeated, 2, 0 },
		{ "edge, inverted, mask 1", INSTRUCTIONS, OS | EDGE | INV | CMASK(1), repeated, 1, 0 },
		{ "edge, inverted, no mask", INSTRUCTIONS, OS | EDGE | INV, repeated, 2, 0 },
		{ "edge: branches", BRANCHES, OS | EDGE | CMASK(1), loop100, 101, 0 },
		{ "edge: cycles", CYCLES, OS | EDGE | CMASK(1), loop100, 1, 0 },
		{ "edge: user mode", INSTRUCTIONS, USR | EDGE, user, 1, 0 },
		{ "mask 6: slots", SLOTS, OS | CMASK(6), loop100, 207, 1 },
		{ "mask 7: slots", SLOTS, OS | CMASK(7), loop100, 0, 1 },
	};

	reset_pmu();
	for (u32 i = 0; i < ARRAY_SIZE(rows); i++)
		if (!rows[i].intel || profile->fixed == 4)
			check("modifiers", rows[i].name,
			      count(i % profile->general, select_of(rows[i].event, rows[i].flags | EN),
				    rows[i].code), rows[i].want);
	/* on one thread AnyThread changes nothing */
	if (profile->any_thread)
		check("modifiers", "any thread",
		      count(0, select_of(INSTRUCTIONS, OS | ANY | EN), loop100), 207);
}

/*
 * Registers
 */

static u64 back(u32 msr, u64 value)
{
	if (wrmsr_faults(msr, value))
		return 0xfa017;
	return rdmsr(msr);
}

static void test_intel_registers(void)
{
	int general = profile->general, fixed = profile->fixed;
	int metrics = !!(profile->capabilities & BIT(15)), any = profile->any_thread;
	u64 value;
	const struct {
		const char *name;
		u32 msr;
		u64 value;
		int fault;
	} writes[] = {
		{ "select, bit 32", SELECT0, BIT(32), 1 },
		{ "select, bit 63", SELECT0 + general - 1, BIT(63), 1 },
		{ "select, any thread", SELECT0, ANY, !any },
		{ "select, all others", SELECT0, 0xffdfffff, 0 },
		{ "fixed control, any thread", FIXED_CTRL, 4, !any },
		{ "fixed control, the last counter", FIXED_CTRL, 0xbul << 4 * (fixed - 1), 0 },
		{ "fixed control, beyond it", FIXED_CTRL, 1ul << 4 * fixed, 1 },
		{ "global control, all", global_msr, all_counters(), 0 },
		{ "global control, beyond the general counters", global_msr, BIT(general), 1 },
		{ "global control, beyond the fixed counters", global_msr, BIT(32 + fixed), 1 },
		{ "global control, metrics", global_msr, BIT(48), !metrics },
		{ "global control, bit 63", global_msr, BIT(63), 1 },
		{ "full-width counter, bit 47", FULL_PMC0, BIT(47), 0 },
		{ "full-width counter, bit 48", FULL_PMC0, BIT(48), 1 },
		{ "fixed counter, bit 47", FIXED0, BIT(47), 0 },
		{ "fixed counter, bit 48", FIXED0, BIT(48), 1 },
		{ "status", status_msr, 0, 1 },
		{ "status reset, all", reset_msr, all_counters() | 0xecul << 56, 0 },
		{ "status reset, beyond the counters", reset_msr, BIT(general), 1 },
		{ "status reset, bit 55", reset_msr, BIT(55), 1 },
		{ "status set, all but the last bit", set_msr, all_counters() | 0x6cul << 56, 0 },
		{ "status set, bit 63", set_msr, BIT(63), 1 },
		{ "status set, beyond the fixed counters", set_msr, BIT(32 + fixed), 1 },
		{ "in use", INUSE, 0, 1 },
		{ "capabilities", CAPABILITIES, 0, 1 },
		{ "debug control, bit 2", DEBUGCTL, BIT(2), 1 },
		{ "debug control, freeze on PMI", DEBUGCTL, BIT(12), 0 },
		{ "debug control, freeze in SMM", DEBUGCTL, BIT(14), 0 },
		{ "metrics", METRICS, 0, !metrics },
		{ "absent counter", PMC0 + general, 0, 1 },
		{ "absent full-width counter", FULL_PMC0 + general, 0, 1 },
		{ "absent select", SELECT0 + general, 0, 1 },
		{ "absent fixed counter", FIXED0 + fixed, 0, 1 },
		{ "AMD's counter", 0xc0010201, 0, 1 },
		{ "AMD's global control", 0xc0000301, 0, 1 },
	};
	const struct {
		const char *name;
		u32 msr;
		int fault;
	} reads[] = {
		{ "the last counter", PMC0 + general - 1, 0 },
		{ "absent counter", PMC0 + general, 1 },
		{ "the last full-width counter", FULL_PMC0 + general - 1, 0 },
		{ "absent full-width counter", FULL_PMC0 + general, 1 },
		{ "the last select", SELECT0 + general - 1, 0 },
		{ "absent select", SELECT0 + general, 1 },
		{ "the last fixed counter", FIXED0 + fixed - 1, 0 },
		{ "absent fixed counter", FIXED0 + fixed, 1 },
		{ "metrics", METRICS, !metrics },
		{ "AMD's legacy counter", 0xc0010004, 1 },
		{ "AMD's select", 0xc0010200, 1 },
		{ "AMD's global status", 0xc0000300, 1 },
	};

	for (u32 i = 0; i < ARRAY_SIZE(writes); i++) {
		reset_pmu();
		check("WRMSR faults", writes[i].name, wrmsr_faults(writes[i].msr, writes[i].value),
		      writes[i].fault);
	}
	reset_pmu();
	for (u32 i = 0; i < ARRAY_SIZE(reads); i++)
		check("RDMSR faults", reads[i].name, rdmsr_faults(reads[i].msr, &value), reads[i].fault);

	reset_pmu();
	check("reads back", "select", back(SELECT0 + 1, 0xffdfffff), 0xffd7ffff);
	check("reads back", "fixed control", back(FIXED_CTRL, 0xbul << 4 * (fixed - 1)),
	      0xbul << 4 * (fixed - 1));
	check("reads back", "global control", back(global_msr, all_counters()), all_counters());
	wrmsr(global_msr, 0);
	wrmsr(SELECT0 + 1, 0);
	check("reads back", "a counter's low half", back(PMC0 + 1, 0x7fffffff), 0x7fffffff);
	check("reads back", "a counter's sign", back(PMC0 + 1, 0x80000001), 0xffff80000001);
	check("reads back", "a counter, high half ignored", back(PMC0 + 1, 0xabcd00000002), 2);
	check("reads back", "a full-width counter", back(FULL_PMC0 + 1, 0x123456789abc), 0x123456789abc);
	check("reads back", "a full-width counter by its old name", rdmsr(PMC0 + 1), 0x123456789abc);
	check("reads back", "a fixed counter", back(FIXED0 + 1, 0xfedcba987654), 0xfedcba987654);
	check("reads back", "capabilities", rdmsr(CAPABILITIES), profile->capabilities);

	reset_pmu();
	wrmsr(set_msr, all_counters() | BIT(62));
	check("status", "set", rdmsr(status_msr), all_counters() | BIT(62));
	check("status", "the register that sets reads 0", rdmsr(set_msr), 0);
	wrmsr(reset_msr, BIT(1) | BIT(32));
	check("status", "reset", rdmsr(status_msr), (all_counters() | BIT(62)) & ~(BIT(1) | BIT(32)));
	check("status", "the register that resets reads 0", rdmsr(reset_msr), 0);

	reset_pmu();
	check("in use", "nothing", rdmsr(INUSE), 0);
	wrmsr(SELECT0 + 2, select_of(INSTRUCTIONS, 0));
	wrmsr(FIXED_CTRL, 0x30);
	check("in use", "two counters", rdmsr(INUSE), BIT(2) | BIT(33));
	wrmsr(FIXED_CTRL, 0xb0);
	check("in use", "with an interrupt", rdmsr(INUSE), BIT(2) | BIT(33) | BIT(63));
}

static void test_amd_registers(void)
{
	u64 value;

	reset_pmu();
	for (int n = 0; n < 4; n++) {
		wrmsr(counter_msr(n), 0x1000 + n);
		check("legacy names", "counter", rdmsr(0xc0010004 + n), 0x1000 + n);
		wrmsr(0xc0010000 + n, select_of(INSTRUCTIONS, OS));
		check("legacy names", "select", rdmsr(select_msr(n)), select_of(INSTRUCTIONS, OS));
	}
	check("RDMSR faults", "the last counter", rdmsr_faults(counter_msr(5), &value), 0);
	check("RDMSR faults", "absent counter", rdmsr_faults(counter_msr(6), &value), 1);
	check("RDMSR faults", "absent select", rdmsr_faults(select_msr(6), &value), 1);
	check("RDMSR faults", "absent legacy counter", rdmsr_faults(0xc0010008, &value), 1);
	check("RDMSR faults", "Intel's global control", rdmsr_faults(0x38f, &value), 1);
	check("RDMSR faults", "Intel's fixed counter", rdmsr_faults(FIXED0, &value), 1);
	check("RDMSR faults", "Intel's counter", rdmsr_faults(PMC0, &value), 1);
	check("RDMSR faults", "Intel's select", rdmsr_faults(SELECT0, &value), 1);
	check("WRMSR faults", "absent counter", wrmsr_faults(counter_msr(6), 0), 1);
	check("WRMSR faults", "absent select", wrmsr_faults(select_msr(6), 0), 1);

	reset_pmu();
	check("reserved bits", "select", back(select_msr(1), ~0ul & ~EN), 0x30fff97ffff);
	check("reserved bits", "counter", back(counter_msr(1), ~0ul), BIT(48) - 1);
	check("reserved bits", "global control", back(global_msr, ~0ul), 0x3f);
	wrmsr(global_msr, 0);
	check("reserved bits", "debug control", back(DEBUGCTL, BIT(12) | BIT(20)), BIT(12));

	reset_pmu();
	wrmsr(set_msr, ~0ul);
	check("status", "set", rdmsr(status_msr), 0x3f | 3ul << 58);
	wrmsr(status_msr, 0);
	check("status", "read only", rdmsr(status_msr), 0x3f | 3ul << 58);
	wrmsr(reset_msr, BIT(1) | BIT(59));
	check("status", "reset", rdmsr(status_msr), 0x3d | BIT(58));
	check("status", "the register that resets reads 0", rdmsr(reset_msr), 0);
	check("status", "the register that sets reads 0", rdmsr(set_msr), 0);
}

static void test_rdpmc(void)
{
	int general = profile->general, fixed = profile->fixed;
	u64 value;

	reset_pmu();
	wrmsr(counter_msr(general - 1), 0x123456789abc);
	check("RDPMC", "the last counter's fault", rdpmc_faults(general - 1, &value), 0);
	check("RDPMC", "the last counter", value, 0x123456789abc);
	check("RDPMC faults", "absent counter", rdpmc_faults(general, &value), 1);
	check("RDPMC faults", "absent fixed counter", rdpmc_faults(BIT(30) + fixed, &value), 1);
	check("RDPMC faults", "metrics", rdpmc_faults(BIT(29), &value), fixed < 4);
	check("RDPMC faults", "fast read", rdpmc_faults(BIT(31), &value), 1);
	if (fixed) {
		wrmsr(FIXED0 + fixed - 1, 0xba9876543210);
		check("RDPMC", "the last fixed counter's fault", rdpmc_faults(BIT(30) + fixed - 1, &value), 0);
		check("RDPMC", "the last fixed counter", value, 0xba9876543210);
	}
	if (fixed == 4) {
		wrmsr(METRICS, 0x11223344);
		check("RDPMC", "metrics", (rdpmc_faults(BIT(29), &value), value), 0x11223344);
	}

	user_read = 0;
	measure(user_rdpmc);
	check("RDPMC in user mode", "CR4.PCE clear", user_read, 0);
	write_cr4(read_cr4() | BIT(8));
	measure(user_rdpmc);
	check("RDPMC in user mode", "CR4.PCE set", user_read, 1);
	write_cr4(read_cr4() & ~BIT(8));
}

static void cpuid(u32 leaf, u32 *a, u32 *b, u32 *c, u32 *d)
{
	asm volatile("cpuid" : "=a"(*a), "=b"(*b), "=c"(*c), "=d"(*d) : "a"(leaf), "c"(0));
}

static void test_cpuid(void)
{
	u32 a, b, c, d;

	cpuid(1, &a, &b, &c, &d);
	check("CPUID 1", "x2APIC", c >> 21 & 1, 1);
	if (profile->amd) {
		cpuid(0x80000001, &a, &b, &c, &d);
		check("CPUID 80000001", "core counters", c >> 23 & 1, 1);
		cpuid(0x8000001f, &a, &b, &c, &d);
		check("CPUID 8000001F", "no encrypted memory", a | b, 0);
		cpuid(0x80000022, &a, &b, &c, &d);
		check("CPUID 80000022", "version 2", a, 1);
		check("CPUID 80000022", "counters", b & 15, profile->general);
	} else {
		check("CPUID 1", "capabilities", c >> 15 & 1, 1);
		cpuid(10, &a, &b, &c, &d);
		check("CPUID 10", "version, general counters, events", a, profile->version);
		check("CPUID 10", "events that are absent", b, 0);
		check("CPUID 10", "bitmap of fixed counters", c, profile->fixed == 4 ? 15 : 0);
		check("CPUID 10", "fixed counters", d, profile->edx);
	}
}

/*
 * Overflow.  The counter wraps k instructions after it is enabled: the first
 * one is the call, the second sets the loop up.
 */

static u64 rip_after(u32 k)
{
	return (u64)(k % 2 ? loop_jnz : loop_dec);
}

static void overflow_at(int n, u32 k, u64 flags, code_t code)
{
	program(n, select_of(INSTRUCTIONS, OS | EN | flags), BIT(48) - k);
	measure(code);
	wrmsr(select_msr(n), 0);
}

static void test_overflow(void)
{
	int lvt_masks = !profile->amd, general = profile->general;

	for (int n = 0; n < general; n++) {
		u32 k = 2 + n;

		reset_pmu();
		wrmsr(LVTPC, NMI);
		overflow_at(n, k, INT, loop100);
		check("overflow, NMI", "interrupts", pmi_count, 1);
		check("overflow, NMI", "interrupted instruction", pmi_rip, rip_after(k));
		check("overflow, NMI", "status", rdmsr(status_msr), BIT(n));
		check("overflow, NMI", "counter", rdmsr(counter_msr(n)), 207 + 6 - k);
		check("overflow, NMI", "LVT entry", rdmsr(LVTPC), NMI | (lvt_masks ? MASKED : 0));
	}
	for (int n = 0; n < profile->fixed; n++) {
		u32 k = n == 3 ? 6 * 4 : 4;	/* slots come by six */

		reset_pmu();
		wrmsr(LVTPC, NMI);
		wrmsr(FIXED_CTRL, 0x9ul << 4 * n);
		wrmsr(FIXED0 + n, BIT(48) - k);
		measure(loop100);
		check("overflow of a fixed counter", "interrupts", pmi_count, 1);
		check("overflow of a fixed counter", "interrupted instruction", pmi_rip, rip_after(4));
		check("overflow of a fixed counter", "status", rdmsr(status_msr), BIT(32 + n));
	}

	reset_pmu();
	wrmsr(LVTPC, NMI);
	overflow_at(0, 4, 0, loop100);
	check("overflow, no interrupt asked for", "interrupts", pmi_count, 0);
	check("overflow, no interrupt asked for", "status", rdmsr(status_msr), 1);

	reset_pmu();
	overflow_at(0, 4, INT, loop100);
	check("overflow, LVT entry masked", "interrupts", pmi_count, 0);
	check("overflow, LVT entry masked", "status", rdmsr(status_msr), 1);

	reset_pmu();
	wrmsr(LVTPC, NMI);
	overflow_at(0, 208, INT, loop100);
	check("one less than an overflow", "status", rdmsr(status_msr), 0);
	check("one less than an overflow", "counter", rdmsr(counter_msr(0)), BIT(48) - 1);
	overflow_at(0, 207, INT, loop100);
	check("overflow in the disabling WRMSR", "status", rdmsr(status_msr), 1);
	check("overflow in the disabling WRMSR", "interrupts", pmi_count, 1);
	check("overflow in the disabling WRMSR", "interrupted instruction", pmi_rip, (u64)measure_end + 2);

	/* twice, in the same run */
	reset_pmu();
	wrmsr(LVTPC, NMI);
	program(0, select_of(INSTRUCTIONS, OS | INT | EN), BIT(48) - 4);
	program(1, select_of(INSTRUCTIONS, OS | INT | EN), BIT(48) - 50);
	measure(loop100);
	check("two overflows", "status", rdmsr(status_msr), 3);
	check("two overflows", "interrupts", pmi_count, lvt_masks ? 1 : 2);

	/* a write that leaves the counter at its end is no overflow */
	reset_pmu();
	program(0, select_of(INSTRUCTIONS, OS | INT | EN), BIT(48) - 1);
	wrmsr(counter_msr(0), 0);
	measure(nothing);
	check("written past the end", "status", rdmsr(status_msr), 0);

	/* a fixed interrupt */
	reset_pmu();
	wrmsr(LVTPC, PMI_VECTOR);
	asm volatile("sti; nop");
	overflow_at(0, 5, INT, loop100);
	asm volatile("cli");
	check("overflow, fixed interrupt", "interrupts", pmi_count, 1);
	check("overflow, fixed interrupt", "interrupted instruction", pmi_rip, rip_after(5));
	check("overflow, fixed interrupt", "counter", rdmsr(counter_msr(0)), 207 + 14 - 5);
	check("overflow, fixed interrupt", "LVT entry", rdmsr(LVTPC), PMI_VECTOR | (lvt_masks ? MASKED : 0));
	reset_pmu();
	wrmsr(LVTPC, PMI_VECTOR);
	overflow_at(0, 5, INT, loop100);
	check("overflow, fixed interrupt, IF clear", "interrupts", pmi_count, 0);
	asm volatile("sti; nop; cli");
	check("overflow, fixed interrupt, IF set later", "interrupts", pmi_count, 1);

	/* freeze; the counter that wraps has nothing in it, the other one what came before */
	reset_pmu();
	wrmsr(DEBUGCTL, BIT(12));
	program(1, select_of(INSTRUCTIONS, OS | EN), 0);
	overflow_at(0, 5, INT, loop100);
	check("freeze on PMI", "counter", rdmsr(counter_msr(0)), 0);
	check("freeze on PMI", "other counter", rdmsr(counter_msr(1)), 5);
	check("freeze on PMI", "status", rdmsr(status_msr), BIT(59) | 1);
	measure(loop100);
	check("freeze on PMI", "still frozen", rdmsr(counter_msr(1)), 5);
	wrmsr(reset_msr, BIT(59));
	measure(loop100);
	check("freeze on PMI", "not any more", rdmsr(counter_msr(1)), 5 + 207);
	reset_pmu();
	wrmsr(DEBUGCTL, BIT(12));
	overflow_at(0, 5, 0, loop100);
	check("freeze on PMI", "no interrupt, no freeze", rdmsr(status_msr), 1);

	/* other events overflow to the instruction, too */
	reset_pmu();
	wrmsr(LVTPC, NMI);
	program(0, select_of(BRANCHES, OS | INT | EN), BIT(48) - 2);
	measure(loop100);
	check("overflow of branches", "interrupted instruction", pmi_rip, (u64)loop_dec);
	/* the IRET before them belongs to kernel mode */
	reset_pmu();
	wrmsr(LVTPC, NMI);
	program(0, select_of(BRANCHES, USR | INT | EN), BIT(48) - 1);
	measure(user);
	check("overflow of user mode's branches", "interrupted instruction", pmi_rip, (u64)user_jumped);
	reset_pmu();
	wrmsr(LVTPC, NMI);
	program(0, select_of(STORES, OS | INT | EN), BIT(48) - 1);
	measure(loop100);
	check("overflow of stores", "interrupted instruction", pmi_rip, (u64)loop100);
	reset_pmu();
	wrmsr(LVTPC, NMI);
	program(0, select_of(BRANCHES, OS | EDGE | CMASK(1) | INT | EN), BIT(48) - 2);
	measure(loop100);
	check("overflow of edges", "interrupted instruction", pmi_rip, (u64)loop_dec);
}

/*
 * Costs: cycles beyond one for each instruction.  The WRMSR that ends the
 * measurement is always one.
 */

static void read_pmu(void) { rdmsr(select_msr(1)); }
static void write_pmu(void) { wrmsr(select_msr(1), 0); }
static void read_other(void) { rdmsr(0xc0000082); }
static void write_other(void) { wrmsr(0xc0000102, 0); }
static void write_apic(void) { wrmsr(LVTPC, NMI); }
static void read_counter(void)
{
	u64 value;

	rdpmc_faults(1, &value);
}

static u64 cost_of(code_t code)
{
	program(3, select_of(CYCLES, OS | EN), 0);
	program(2, select_of(INSTRUCTIONS, OS | EN), 0);
	measure(code);
	return rdmsr(counter_msr(3)) - rdmsr(counter_msr(2)) - task->wrmsr_pmu;
}

static void test_costs(void)
{
	reset_pmu();
	check("costs", "none", cost_of(loop100), 0);
	check("costs", "RDMSR of the PMU", cost_of(read_pmu), task->rdmsr_pmu);
	check("costs", "WRMSR of the PMU", cost_of(write_pmu), task->wrmsr_pmu);
	check("costs", "RDMSR", cost_of(read_other), task->rdmsr);
	check("costs", "WRMSR", cost_of(write_other), task->wrmsr);
	check("costs", "WRMSR of the APIC", cost_of(write_apic), task->wrmsr_apic);
	check("costs", "RDPMC", cost_of(read_counter), task->rdpmc);
	wrmsr(LVTPC, NMI);
	program(0, select_of(INSTRUCTIONS, OS | INT | EN), BIT(48) - 9);
	check("costs", "interrupt", cost_of(loop100), task->interrupt);
	check("costs", "the interrupt came", pmi_count, 1);
	reset_pmu();

	/* what entry and exit cost passes in the host */
	guests_init();
	program(3, select_of(CYCLES, OS | EN), 0);
	program(2, select_of(INSTRUCTIONS, OS | EN), 0);
	control.load_guest = control.load_host = !profile->amd;
	control.host_global = before = 12;
	if (profile->amd) {
		wrmsr(select_msr(3), select_of(CYCLES, OS | EN | HOST));
		wrmsr(select_msr(2), select_of(INSTRUCTIONS, OS | EN | HOST));
	}
	run_guest(0, loop100);
	check("costs", "entry and exit", rdmsr(counter_msr(3)) - rdmsr(counter_msr(2)),
	      task->entry + task->exit + task->wrmsr_pmu);
}

/*
 * Start
 */

void main(void)
{
	set_up();
	for (u32 i = 0; i < ARRAY_SIZE(profiles); i++)
		if (same(profiles[i].name, task->name))
			profile = &profiles[i];
	if (!profile) {
		print("Bail out! unknown profile\n");
		end(98);
	}
	global_msr = profile->amd ? 0xc0000301 : 0x38f;
	status_msr = profile->amd ? 0xc0000300 : 0x38e;
	reset_msr = profile->amd ? 0xc0000302 : 0x390;
	set_msr = profile->amd ? 0xc0000303 : 0x391;

	check("after reset", "global control", rdmsr(global_msr), BIT(profile->general) - 1);
	check("after reset", "status", rdmsr(status_msr), 0);
	if (task->costs_on) {
		test_costs();
	} else {
		test_cpuid();
		test_events();
		test_smm();
		test_fixed();
		test_modifiers();
		if (profile->amd)
			test_amd_registers();
		else
			test_intel_registers();
		test_rdpmc();
		test_overflow();
		guests_init();
		if (profile->amd)
			test_svm();
		else
			test_vmx();
		test_audit();
	}
	print("1..");
	print_number(number, 10);
	print("\n");
	end(failed ? 1 : 0);
}
