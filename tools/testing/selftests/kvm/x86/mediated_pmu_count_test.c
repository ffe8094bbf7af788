// SPDX-License-Identifier: GPL-2.0-only
/*
 * A guest's PMU counts the guest's events, all of them and nothing else.
 *
 * With a block of code of which every instruction and branch is known, on every
 * general-purpose and every fixed counter that the guest has:
 *
 *  - counters: what is written is what is read, with RDPMC and with RDMSR at
 *    each of the counter's addresses; narrow writes are sign-extended, bits
 *    above the width fault, or are ignored on AMD; a stopped counter keeps its value
 *  - counts: instructions and branches are exact, on each counter alone and on
 *    all of them together; the WRMSR that enables a counter isn't counted, the one
 *    that disables it is
 *  - gates: a counter that is off, in its own or in global control, stands still
 *  - privilege: user and kernel mode are told apart to the instruction
 *  - overflow: the status bit is set if and only if the counter has wrapped, to the
 *    exact event, and is cleared by the write to the clearing register
 *  - PMI: one overflow raises exactly one PMI, as an interrupt and as an NMI, with
 *    the APIC in either mode, with interrupts on and off; the APIC's entry is
 *    masked by it; no PMI without the counter's interrupt flag, none while
 *    the APIC's entry is masked, and none is kept for later
 *
 * All of it with and without the full-width addresses of the counters, which
 * on AMD are the only ones; with few counters; and with counters that are
 * narrower than the hardware's, which AMD can't announce.
 *
 * A PMU of version 1 has no global control and no status: its counters count from the
 * write to their selector that enables them to the one that disables them, and
 * each overflow is a PMI.
 */
#include "mediated_pmu.h"

static void assert_counter(int i, uint64_t expected, const char *what)
{
	uint64_t count = read_counter(i);

	__GUEST_ASSERT(count == expected, "Counter %d, %s: wanted 0x%lx, got 0x%lx",
		       i, what, expected, count);
}

static void assert_status(uint64_t expected, const char *what)
{
	uint64_t status = rdmsr(pmu.global_status);

	__GUEST_ASSERT(status == expected, "Overflow status, %s: wanted 0x%lx, got 0x%lx",
		       what, expected, status);
}

/* A general-purpose counter counts what is asked for, a fixed one its own event. */
static bool can_count(int i, uint64_t event)
{
	return !is_fixed(i) || (i == FIXED_BASE && event == pmu.instructions);
}

static void assert_value(int i, uint64_t expected, uint64_t written, uint32_t msr)
{
	uint64_t value;
	int r;

	value = read_counter(i);
	__GUEST_ASSERT(value == expected,
		       "Counter %d: wrote 0x%lx to MSR 0x%x, RDPMC wants 0x%lx, got 0x%lx",
		       i, written, msr, expected, value);

	if (is_fixed(i)) {
		value = rdmsr(counter_msr(i));
		__GUEST_ASSERT(value == expected,
			       "Counter %d: wrote 0x%lx, RDMSR wants 0x%lx, got 0x%lx",
			       i, written, expected, value);
		return;
	}

	for (r = 0; r < pmu.nr_ranges; r++) {
		uint32_t alias = counter_alias(i, r);

		if (!alias)
			continue;

		value = rdmsr(alias);
		__GUEST_ASSERT(value == expected,
			       "Counter %d: wrote 0x%lx to MSR 0x%x, RDMSR of 0x%x wants 0x%lx, got 0x%lx",
			       i, written, msr, alias, expected, value);
	}
}

static void guest_counters(void)
{
	/* Each is different in its halves, so that none is mistaken for another. */
	const uint64_t wide[] = { 0, -1ull, 0x123456789abcull, 0x800000000001ull };
	const uint64_t narrow[] = {
		0, 0x7fffffff, 0x80000000, 0xffffffff,
		0x1234567800000001ull, 0x12345678c0000001ull, 0xfffffffe7ffffffeull,
	};
	uint64_t value, expected;
	uint8_t vector;
	uint32_t msr;
	int i, j, r;

	reset_pmu();

	for_each_counter(i) {
		for (r = 0; r < pmu.nr_ranges; r++) {
			if (is_fixed(i)) {
				if (r)
					break;
				msr = counter_msr(i);
			} else {
				msr = counter_alias(i, r);
				if (!msr)
					break;
			}

			if (!is_fixed(i) && pmu.ranges[r].narrow) {
				for (j = 0; j < ARRAY_SIZE(narrow); j++) {
					wrmsr(msr, narrow[j]);
					assert_value(i, (int32_t)narrow[j] & counter_mask(i),
						     narrow[j], msr);
				}
				continue;
			}

			for (j = 0; j < ARRAY_SIZE(wide); j++) {
				value = wide[j] & counter_mask(i);
				wrmsr(msr, value);
				assert_value(i, value, value, msr);
			}

			if (is_fixed(i))
				continue;

			if (pmu.ignores_reserved) {
				wrmsr(msr, ~counter_mask(i) | value);
				assert_value(i, value, ~counter_mask(i) | value, msr);
				continue;
			}

			/* The last value has survived if nothing was written. */
			for (j = pmu.gp_width; j < 64; j++) {
				vector = wrmsr_safe(msr, BIT_ULL(j));
				__GUEST_ASSERT(vector == GP_VECTOR,
					       "WRMSR of bit %d to MSR 0x%x: wanted #GP, got vector %u",
					       j, msr, vector);
			}
			assert_value(i, value, value, msr);
		}

		if (pmu.nr_ranges == 1 && !is_fixed(i) && pmu.ranges[0].narrow) {
			vector = rdmsr_safe(MSR_IA32_PMC0 + i, &value);
			__GUEST_ASSERT(vector == GP_VECTOR,
				       "RDMSR of 0x%x: wanted #GP, got vector %u",
				       MSR_IA32_PMC0 + i, vector);
			vector = wrmsr_safe(MSR_IA32_PMC0 + i, 1);
			__GUEST_ASSERT(vector == GP_VECTOR,
				       "WRMSR of 0x%x: wanted #GP, got vector %u",
				       MSR_IA32_PMC0 + i, vector);
		}
	}

	/* A value of its own in every counter, and all of them still there. */
	for_each_counter(i)
		write_counter(i, 0x1000 + i);
	for_each_counter(i) {
		expected = 0x1000 + i;
		assert_value(i, expected, expected, counter_msr(i));
	}

	GUEST_DONE();
}

static void guest_counts(void)
{
	const struct {
		uint64_t event;
		uint64_t count;
		const char *name;
	} events[] = {
		{ pmu.instructions, BLOCK_INSNS, "instructions" },
		{ pmu.branches, BLOCK_BRANCHES, "branches" },
	};
	uint32_t eax, ecx, edx;
	uint64_t cycles, count;
	int i, j, e;

	for (e = 0; e < ARRAY_SIZE(events); e++) {
		/* Each alone, from 0 and from a value that is not */
		for_each_counter(i) {
			if (!can_count(i, events[e].event))
				continue;

			reset_pmu();
			select_event(i, events[e].event, KERNEL);
			run_block(BIT_ULL(i));
			assert_counter(i, events[e].count, events[e].name);
			GUEST_ASSERT_EQ(rdmsr(counter_msr(i)), events[e].count);

			run_block(BIT_ULL(i));
			assert_counter(i, 2 * events[e].count, events[e].name);

			write_counter(i, 0x7fffff00);
			run_block(BIT_ULL(i));
			assert_counter(i, 0x7fffff00 + events[e].count, events[e].name);

			for_each_counter(j) {
				if (j != i)
					assert_counter(j, 0, "not in use");
			}
			assert_status(0, "nothing has overflowed");
		}
	}

	/* All together, neighbours counting different events */
	reset_pmu();
	for_each_counter(i)
		select_event(i, events[i % 2].event, KERNEL);
	run_block(pmu.counters);
	for_each_counter(i) {
		if (is_fixed(i))
			continue;
		assert_counter(i, events[i % 2].count, events[i % 2].name);
	}
	if (pmu.nr_fixed)
		assert_counter(FIXED_BASE, BLOCK_INSNS, "all counters on");

	/* Cycles have no exact number, but there are some, and time doesn't go back. */
	for_each_counter(i) {
		if (!is_fixed(i) || i == FIXED_BASE)
			continue;

		reset_pmu();
		select_event(i, 0, KERNEL);
		run_block(BIT_ULL(i));
		cycles = read_counter(i);
		__GUEST_ASSERT(cycles, "Counter %d didn't count cycles", i);
		assert_counter(i, cycles, "stopped");
		run_block(BIT_ULL(i));
		__GUEST_ASSERT(read_counter(i) > cycles, "Counter %d didn't go on", i);
	}

	/*
	 * From the enabling WRMSR to RDPMC: MOV and INVLPG, which is there to
	 * serialize.  After that: MOV, XOR, XOR, MOV, WRMSR and RDPMC itself.
	 */
	for_each_counter(i) {
		if (!can_count(i, pmu.instructions))
			continue;

		reset_pmu();
		select_event(i, pmu.instructions, KERNEL);
		eax = BIT_ULL(i);
		edx = BIT_ULL(i) >> 32;
		ecx = pmu.global_ctrl;
		asm volatile("wrmsr\n\t"
			     "mov %[index], %%ecx\n\t"
			     "invlpg (%%rsp)\n\t"
			     "rdpmc\n\t"
			     "mov %%eax, %%esi\n\t"
			     "xor %%eax, %%eax\n\t"
			     "xor %%edx, %%edx\n\t"
			     "mov %[ctrl], %%ecx\n\t"
			     "wrmsr\n\t"
			     "mov %%esi, %%eax\n\t"
			     : "+&a"(eax), "+&d"(edx), "+&c"(ecx)
			     : [ctrl]"r"(pmu.global_ctrl), [index]"r"(rdpmc_index(i))
			     : "esi", "cc", "memory");
		count = eax;
		__GUEST_ASSERT(count == 2,
			       "Counter %d, the enabling WRMSR isn't counted: wanted 2, got %lu",
			       i, count);
		assert_counter(i, 2 + 6, "the disabling WRMSR is counted");
	}

	GUEST_DONE();
}

static void guest_gates(void)
{
	int i, j;

	for_each_counter(i) {
		/* On by itself, off in global control; and the other way round */
		reset_pmu();
		for_each_counter(j) {
			write_counter(j, 0x100 + j);
			select_event(j, pmu.instructions, KERNEL);
		}
		run_block(pmu.counters & ~BIT_ULL(i));
		assert_counter(i, 0x100 + i, "off in global control");

		reset_pmu();
		for_each_counter(j) {
			write_counter(j, 0x100 + j);
			select_event(j, pmu.instructions, j == i ? 0 : KERNEL);
		}
		run_block(pmu.counters);
		assert_counter(i, 0x100 + i, "not enabled");

		for_each_counter(j) {
			if (j != i && can_count(j, pmu.instructions))
				assert_counter(j, 0x100 + j + BLOCK_INSNS, "the other one is off");
		}

		/* Only this one, and only the mode that doesn't run */
		reset_pmu();
		for_each_counter(j)
			select_event(j, pmu.instructions, KERNEL);
		run_block(BIT_ULL(i));
		for_each_counter(j) {
			if (j != i)
				assert_counter(j, 0, "another one is on");
		}

		reset_pmu();
		select_event(i, pmu.instructions, USER);
		run_block(BIT_ULL(i));
		assert_counter(i, 0, "user mode only");
	}

	/* Nothing is on: nothing counts, whatever runs. */
	reset_pmu();
	for_each_counter(i)
		select_event(i, pmu.instructions, KERNEL | USER);
	run_block(0);
	for_each_counter(i)
		assert_counter(i, 0, "global control is 0");

	GUEST_DONE();
}

/*
 * To user mode and back.  SYSRET and SYSCALL need no descriptors, and change the
 * mode in the middle of an instruction: which side counts them is the CPU's
 * choice, but both sides together count each of them once.
 *
 *   kernel	lea, mov, mov, xor, xor, wrmsr
 *   user	loops * (dec, jnz)
 *   either	sysret, syscall
 */
#define USER_KERNEL_INSNS	6
#define USER_INSNS_PER_LOOP	2
#define USER_EITHER_INSNS	2

static noinline void run_user_block(uint64_t counters, uint32_t loops)
{
	uint32_t eax = counters, edx = counters >> 32, ecx = pmu.global_ctrl;

	/* SYSCALL's way back, then what is counted */
	asm volatile("mov %%eax, %%r8d\n\t"
		     "mov %%edx, %%r9d\n\t"
		     "mov %%ecx, %%edi\n\t"
		     "lea 2f(%%rip), %%rax\n\t"
		     "mov %%rax, %%rdx\n\t"
		     "shr $32, %%rdx\n\t"
		     "mov $" __stringify(MSR_LSTAR) ", %%ecx\n\t"
		     "wrmsr\n\t"
		     "mov %%r8d, %%eax\n\t"
		     "mov %%r9d, %%edx\n\t"
		     "mov %%edi, %%ecx\n\t"

		     "wrmsr\n\t"
		     "lea 1f(%%rip), %%rcx\n\t"
		     "mov $2, %%r11d\n\t"
		     "sysretq\n\t"
		     "1: dec %[loops]\n\t"
		     "jnz 1b\n\t"
		     "syscall\n\t"
		     "2: mov %%edi, %%ecx\n\t"
		     "xor %%eax, %%eax\n\t"
		     "xor %%edx, %%edx\n\t"
		     "wrmsr\n\t"
		     : "+a"(eax), "+d"(edx), "+c"(ecx), [loops]"+S"(loops)
		     : : "rdi", "r8", "r9", "r11", "cc", "memory");
}

/* More than enough for the function */
#define USER_CODE_SIZE	512

static uint64_t count_user_block(int i, uint64_t event, int flags, uint32_t loops)
{
	reset_pmu();
	select_event(i, event, flags);
	run_user_block(BIT_ULL(i), loops);
	return read_counter(i);
}

static void guest_privilege(void)
{
	const uint32_t less = 10, more = 30;
	uint64_t user, kernel, both;
	int i;

	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
	wrmsr(MSR_STAR, (uint64_t)0x1b << 48 | (uint64_t)0x8 << 32);
	wrmsr(MSR_SYSCALL_MASK, 0);

	for_each_counter(i) {
		if (!can_count(i, pmu.instructions))
			continue;

		user = count_user_block(i, pmu.instructions, USER, less);
		kernel = count_user_block(i, pmu.instructions, KERNEL, less);
		both = count_user_block(i, pmu.instructions, USER | KERNEL, less);

		__GUEST_ASSERT(both == USER_KERNEL_INSNS + USER_EITHER_INSNS +
				       less * USER_INSNS_PER_LOOP,
			       "Counter %d, both modes: wanted %u, got %lu", i,
			       USER_KERNEL_INSNS + USER_EITHER_INSNS +
			       less * USER_INSNS_PER_LOOP, both);
		__GUEST_ASSERT(user + kernel == both,
			       "Counter %d: %lu in user mode and %lu in kernel mode are not %lu",
			       i, user, kernel, both);
		__GUEST_ASSERT(user >= less * USER_INSNS_PER_LOOP &&
			       kernel >= USER_KERNEL_INSNS,
			       "Counter %d: %lu in user mode, %lu in kernel mode",
			       i, user, kernel);

		GUEST_ASSERT_EQ(count_user_block(i, pmu.instructions, USER, more),
				user + (more - less) * USER_INSNS_PER_LOOP);
		GUEST_ASSERT_EQ(count_user_block(i, pmu.instructions, KERNEL, more), kernel);

		if (!can_count(i, pmu.branches))
			continue;

		user = count_user_block(i, pmu.branches, USER, less);
		kernel = count_user_block(i, pmu.branches, KERNEL, less);
		GUEST_ASSERT_EQ(count_user_block(i, pmu.branches, USER, more),
				user + more - less);
		GUEST_ASSERT_EQ(count_user_block(i, pmu.branches, KERNEL, more), kernel);
	}

	GUEST_DONE();
}

static void guest_overflow(void)
{
	const struct {
		uint64_t event;
		uint64_t count;
	} events[] = {
		{ pmu.instructions, BLOCK_INSNS },
		{ pmu.branches, BLOCK_BRANCHES },
	};
	int i, e;

	for (e = 0; e < ARRAY_SIZE(events); e++) {
		for_each_counter(i) {
			if (!can_count(i, events[e].event))
				continue;

			/* The last event but one, the last one, and one too few */
			reset_pmu();
			assert_status(0, "after reset");
			select_event(i, events[e].event, KERNEL);
			write_counter(i, -(int64_t)(events[e].count - 1));
			run_block(BIT_ULL(i));
			assert_counter(i, 1, "one more than to overflow");
			assert_status(BIT_ULL(i), "one more than to overflow");

			reset_pmu();
			assert_status(0, "cleared");
			select_event(i, events[e].event, KERNEL);
			write_counter(i, -(int64_t)events[e].count);
			run_block(BIT_ULL(i));
			assert_counter(i, 0, "just enough to overflow");
			assert_status(BIT_ULL(i), "just enough to overflow");

			reset_pmu();
			select_event(i, events[e].event, KERNEL);
			write_counter(i, -(int64_t)(events[e].count + 1));
			run_block(BIT_ULL(i));
			assert_counter(i, counter_mask(i), "one less than to overflow");
			assert_status(0, "one less than to overflow");
		}
	}

	/* All together; then clear one status bit after the other. */
	reset_pmu();
	for_each_counter(i) {
		select_event(i, events[i % 2].event, KERNEL);
		write_counter(i, -1);
	}
	run_block(pmu.counters);
	assert_status(pmu.counters, "all have overflowed");
	for_each_counter(i) {
		wrmsr(pmu.global_status_clear, BIT_ULL(i));
		assert_status(pmu.counters & GENMASK_ULL(63, i) & ~BIT_ULL(i), "cleared in turn");
	}

	/* A write of 0 clears nothing, and what was cleared stays so. */
	reset_pmu();
	select_event(0, pmu.instructions, KERNEL);
	write_counter(0, -1);
	run_block(BIT_ULL(0));
	wrmsr(pmu.global_status_clear, 0);
	assert_status(BIT_ULL(0), "nothing was cleared");
	wrmsr(pmu.global_status_clear, BIT_ULL(0));
	run_block(BIT_ULL(0));
	assert_status(0, "cleared, and no new overflow");

	GUEST_DONE();
}

/* What the PMI's handler has seen. */
static struct {
	uint32_t count;
	uint32_t nmis;
	uint32_t lvtpc;
	uint64_t status;
} seen;

static bool use_x2apic;
static bool use_nmi;

static uint32_t apic_read(unsigned int reg)
{
	return use_x2apic ? x2apic_read_reg(reg) : xapic_read_reg(reg);
}

static void apic_write(unsigned int reg, uint32_t value)
{
	if (use_x2apic)
		x2apic_write_reg(reg, value);
	else
		xapic_write_reg(reg, value);
}

static uint32_t lvtpc_entry(void)
{
	return use_nmi ? APIC_DM_NMI : PMI_VECTOR;
}

/* Be ready for the next PMI, as a real handler; else leave all as it was found. */
static bool rearm;

static void handle_pmi(struct ex_regs *regs)
{
	seen.count++;
	seen.status = pmu.global_status ? rdmsr(pmu.global_status) : 0;
	seen.lvtpc = apic_read(APIC_LVTPC);

	if (rearm) {
		wrmsr(pmu.global_status_clear, seen.status);
		apic_write(APIC_LVTPC, lvtpc_entry());
	}

	if (regs->vector == NMI_VECTOR)
		seen.nmis++;
	else
		apic_write(APIC_EOI, 0);
}

/* Take interrupts for long enough that a PMI which is on its way arrives. */
static void let_pmis_in(void)
{
	uint32_t eax, ebx, ecx, edx;
	int i;

	for (i = 0; i < 20; i++) {
		asm volatile("sti; nop; cli");
		cpuid(0, &eax, &ebx, &ecx, &edx);
	}
}

static void prepare_pmi(void)
{
	let_pmis_in();
	reset_pmu();
	apic_write(APIC_LVTPC, lvtpc_entry());
	memset(&seen, 0, sizeof(seen));
}

static void assert_pmis(int i, uint32_t count, const char *what)
{
	let_pmis_in();
	__GUEST_ASSERT(seen.count == count, "Counter %d, %s: wanted %u PMIs, got %u",
		       i, what, count, seen.count);
	__GUEST_ASSERT(seen.nmis == (use_nmi ? count : 0),
		       "Counter %d, %s: %u of %u PMIs were NMIs",
		       i, what, seen.nmis, seen.count);
}

static void guest_pmi(void)
{
	const uint32_t masked = pmu.masks_lvtpc ? APIC_LVT_MASKED : 0;
	int i, n;

	if (use_x2apic)
		x2apic_enable();
	else
		xapic_enable();

	for_each_counter(i) {
		const bool exact = can_count(i, pmu.instructions);

		/* One overflow; NMIs are taken in the block and are counted. */
		prepare_pmi();
		select_event(i, pmu.instructions, KERNEL | PMI);
		write_counter(i, exact ? -(int64_t)BLOCK_INSNS : -1);
		run_block(BIT_ULL(i));
		assert_pmis(i, 1, "one overflow");
		GUEST_ASSERT_EQ(seen.status, BIT_ULL(i));
		GUEST_ASSERT_EQ(seen.lvtpc, lvtpc_entry() | masked);
		GUEST_ASSERT_EQ(apic_read(APIC_LVTPC), lvtpc_entry() | masked);
		if (exact && !use_nmi)
			assert_counter(i, 0, "interrupts were off");

		/* It stays at one after all is ready for the next. */
		wrmsr(pmu.global_status_clear, BIT_ULL(i));
		apic_write(APIC_LVTPC, lvtpc_entry());
		run_block(BIT_ULL(i));
		assert_pmis(i, 1, "no new overflow");
		assert_status(0, "no new overflow");

		/* The next one */
		write_counter(i, -1);
		run_block(BIT_ULL(i));
		assert_pmis(i, 2, "a second overflow");

		/* One for each overflow, with a handler that is ready for more */
		prepare_pmi();
		rearm = true;
		select_event(i, pmu.instructions, KERNEL | PMI);
		for (n = 1; n <= 3; n++) {
			write_counter(i, exact ? -(int64_t)(BLOCK_INSNS - n) : -1);
			run_block(BIT_ULL(i));
			assert_pmis(i, n, "one after the other");
			GUEST_ASSERT_EQ(seen.status, BIT_ULL(i));
			assert_status(0, "cleared by the handler");
		}
		rearm = false;

		/* With interrupts on, in the middle of the block */
		prepare_pmi();
		select_event(i, pmu.instructions, KERNEL | PMI);
		write_counter(i, exact ? -(int64_t)(BLOCK_INSNS / 2) : -1);
		asm volatile("sti");
		run_block(BIT_ULL(i));
		asm volatile("cli");
		assert_pmis(i, 1, "interrupts on");
		assert_status(BIT_ULL(i), "interrupts on");

		/* One event less: no overflow, no PMI */
		if (exact) {
			prepare_pmi();
			select_event(i, pmu.instructions, KERNEL | PMI);
			write_counter(i, -(int64_t)(BLOCK_INSNS + 1));
			run_block(BIT_ULL(i));
			assert_pmis(i, 0, "no overflow");
			assert_counter(i, counter_mask(i), "no overflow");
		}

		/*
		 * An overflow that wants no PMI, by the block's first instruction,
		 * and by its last one, which KVM emulates
		 */
		for (n = 0; n <= exact; n++) {
			prepare_pmi();
			select_event(i, pmu.instructions, KERNEL);
			write_counter(i, n ? -(int64_t)BLOCK_INSNS : -1);
			run_block(BIT_ULL(i));
			assert_pmis(i, 0, "without the interrupt flag");
			assert_status(BIT_ULL(i), "without the interrupt flag");
			GUEST_ASSERT_EQ(apic_read(APIC_LVTPC), lvtpc_entry());
		}

		/* One that finds the APIC's entry masked is lost. */
		prepare_pmi();
		apic_write(APIC_LVTPC, lvtpc_entry() | APIC_LVT_MASKED);
		select_event(i, pmu.instructions, KERNEL | PMI);
		write_counter(i, -1);
		run_block(BIT_ULL(i));
		assert_pmis(i, 0, "masked");
		assert_status(BIT_ULL(i), "masked");
		apic_write(APIC_LVTPC, lvtpc_entry());
		assert_pmis(i, 0, "no longer masked");
	}

	/* All in the same block: the first PMI masks the entry, the status has all. */
	prepare_pmi();
	for_each_counter(i) {
		select_event(i, pmu.instructions, KERNEL | PMI);
		write_counter(i, -1);
	}
	run_block(pmu.counters);
	if (pmu.masks_lvtpc)
		assert_pmis(0, 1, "all have overflowed");
	assert_status(pmu.counters, "all have overflowed");

	GUEST_DONE();
}

static void assert_absent(uint32_t msr)
{
	uint64_t value;

	GUEST_ASSERT_EQ(rdmsr_safe(msr, &value), GP_VECTOR);
	GUEST_ASSERT_EQ(wrmsr_safe(msr, 0), GP_VECTOR);
}

static noinline uint64_t count_of_loop(int i)
{
	uint64_t before = read_counter(i);

	asm volatile("mov $100, %%ecx\n\t"
		     "1: dec %%ecx\n\t"
		     "jnz 1b\n\t"
		     : : : "ecx", "cc");
	return read_counter(i) - before;
}

static void guest_version1(void)
{
	const struct {
		uint64_t event;
		uint64_t count;
	} events[] = {
		{ pmu.instructions, BLOCK_INSNS },
		{ pmu.branches, BLOCK_BRANCHES },
	};
	const uint64_t flags = ARCH_PERFMON_EVENTSEL_ENABLE | ARCH_PERFMON_EVENTSEL_OS;
	const uint32_t global_ctrl = host_cpu_is_amd ? MSR_AMD64_PERF_CNTR_GLOBAL_CTL :
						       MSR_CORE_PERF_GLOBAL_CTRL;
	uint64_t count;
	int i, e, n;

	x2apic_enable();

	/* That's what both vendors have in common of version 2. */
	assert_absent(global_ctrl - 1);
	assert_absent(global_ctrl);
	assert_absent(global_ctrl + 1);
	if (!host_cpu_is_amd) {
		assert_absent(MSR_CORE_PERF_FIXED_CTR0);
		assert_absent(MSR_CORE_PERF_FIXED_CTR_CTRL);
	}

	for_each_counter(i) {
		/* The block begins and ends with writes to the selector instead. */
		pmu.global_ctrl = eventsel_msr(i);

		for (e = 0; e < ARRAY_SIZE(events); e++) {
			memset(&seen, 0, sizeof(seen));
			x2apic_write_reg(APIC_LVTPC, PMI_VECTOR);
			write_counter(i, 0);
			run_block(events[e].event | flags);
			assert_counter(i, events[e].count, "version 1");
			assert_counter(i, events[e].count, "stopped");

			/* Nothing but the selector turns it off. */
			select_event(i, events[e].event, KERNEL);
			count = count_of_loop(i);
			x2apic_write_reg(APIC_LVTPC, PMI_VECTOR);
			GUEST_ASSERT_EQ(count_of_loop(i), count);
			GUEST_ASSERT(count >= 100);
			select_event(i, 0, 0);

			/* One event less than to overflow, and one after the other */
			write_counter(i, -(int64_t)(events[e].count + 1));
			run_block(events[e].event | flags | ARCH_PERFMON_EVENTSEL_INT);
			assert_pmis(i, 0, "version 1, no overflow");
			assert_counter(i, counter_mask(i), "version 1, no overflow");

			for (n = 1; n <= 3; n++) {
				write_counter(i, -(int64_t)(events[e].count - n));
				run_block(events[e].event | flags | ARCH_PERFMON_EVENTSEL_INT);
				assert_pmis(i, n, "version 1");
				assert_counter(i, n, "version 1, overflow");
				x2apic_write_reg(APIC_LVTPC, PMI_VECTOR);
			}
		}
	}

	GUEST_DONE();
}

static void allow_user_mode(struct kvm_vm *vm)
{
	uint64_t start = (uint64_t)run_user_block, addr;
	int level;

	for (addr = start & PAGE_MASK; addr < start + USER_CODE_SIZE; addr += PAGE_SIZE) {
		for (level = PG_LEVEL_4K; level <= (int)vm->pgtable_levels; level++)
			*__vm_get_page_table_entry(vm, addr, &level) |= PTE_USER_MASK;
	}
}

static void run_guest(void *guest_code)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	vm = vm_create_with_one_vcpu(&vcpu, guest_code);

	pmu_limit_vcpu(vcpu);
	pmu_sync(vm);
	sync_global_to_guest(vm, use_x2apic);
	sync_global_to_guest(vm, use_nmi);

	allow_user_mode(vm);
	virt_pg_map(vm, APIC_DEFAULT_GPA, APIC_DEFAULT_GPA);
	vm_install_exception_handler(vm, PMI_VECTOR, handle_pmi);
	vm_install_exception_handler(vm, NMI_VECTOR, handle_pmi);

	run_vcpu(vcpu);
	kvm_vm_free(vm);
}

static void run_all(void)
{
	int mode;

	run_guest(guest_counters);
	run_guest(guest_counts);
	run_guest(guest_gates);
	run_guest(guest_privilege);
	run_guest(guest_overflow);

	for (mode = 0; mode < 4; mode++) {
		use_x2apic = mode & 1;
		use_nmi = mode & 2;
		run_guest(guest_pmi);
	}
}

static void run_part(uint32_t nr_gp, uint32_t nr_fixed, bool full_width, uint32_t width)
{
	pmu_init_part(nr_gp, nr_fixed, full_width);
	if (width) {
		pmu.gp_width = width;
		pmu.fixed_width = width;
	}

	pr_info("%u general-purpose and %u fixed counters of %u bits, with%s full-width writes\n",
		nr_gp, nr_fixed, pmu.gp_width, pmu_has_full_width() ? "" : "out");
	run_all();
}

static void run_version1(uint32_t nr_gp, bool k7_only)
{
	pr_info("%u counters of version 1\n", nr_gp);
	use_x2apic = true;
	use_nmi = false;
	pmu_init_version1(nr_gp, k7_only);
	run_guest(guest_version1);
}

int main(int argc, char *argv[])
{
	uint32_t nr_gp, nr_fixed;
	bool full_width;

	pmu_require_mediated();

	nr_gp = pmu.nr_gp;
	nr_fixed = pmu.nr_fixed;
	full_width = pmu_has_full_width();
	TEST_REQUIRE(nr_gp >= 2);

	run_part(nr_gp, nr_fixed, full_width, 0);
	run_part(2, nr_fixed ? 1 : 0, full_width, 0);
	if (host_cpu_is_intel && full_width) {
		run_part(nr_gp, nr_fixed, false, 0);
		run_part(2, nr_fixed, true, 40);
		run_part(2, nr_fixed, false, 32);
	}

	run_version1(nr_gp, false);
	if (host_cpu_is_amd)
		run_version1(4, true);

	return 0;
}
