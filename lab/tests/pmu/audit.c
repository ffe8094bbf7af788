// SPDX-License-Identifier: GPL-2.0-only
/*
 * Programs that break the audit's rules, and programs that are close to it
 * but do not.  Each is between two marks, the first of which has the numbers
 * of the rules that have to fire, and no others: run compares them with what
 * the emulator says that it found.
 */
#include "pmu.h"

static u64 select;		/* of a guest's counter */

/* A guest that can read counter 0, and a host that has nothing in the PMU */
static void start(const char *name)
{
	reset_pmu();
	guests_init();
	trap_all_msrs();
	trap_msr(counter_msr(0), 0, 0);
	control.rdpmc_exits = 1;
	control.load_guest = control.load_host = !profile->amd;
	select = select_of(INSTRUCTIONS, OS | EN | (profile->amd ? GUEST : 0));
	mark(name);
}

/* Global control is the guest's while it runs: SVM does not switch it */
static u32 enter(int which, u64 global, code_t code)
{
	control.guest_global = global;
	if (profile->amd)
		before = global;
	return run_guest(which, code);
}

static void stop(void)
{
	mark("end");
	reset_pmu();
}

/* Host code; no more than one counter at a time */
static void count_in_host(int n)
{
	u64 on = global_on;

	wrmsr(select_msr(n), select_of(INSTRUCTIONS, OS | EN));
	global_on = BIT(n);
	measure(loop100);
	global_on = on;
	wrmsr(select_msr(n), 0);
}

/* Between two guests, the first of which has used the counter */
static void write_with_global_on(void)
{
	program(0, select, 0);
	enter(0, 1, loop100);
	wrmsr(global_msr, 3);
	wrmsr(counter_msr(0), 7);
	wrmsr(select_msr(0), select);
}

static void next_stretch(void)
{
	user();
}

static void call_user(void)
{
	measure(user);
}

static void read_guest_counter(void)
{
	rdmsr(counter_msr(0));
}

static void clean(void)
{
	start("0 guest's counter");
	program(0, select, 5);
	enter(0, 1, loop100);
	wrmsr(select_msr(0), 0);
	call_user();
	program(0, select, 7);
	enter(0, 1, read_guest_counter);
	wrmsr(select_msr(0), 0);
	stop();

	start("0 host before and after");
	count_in_host(0);
	call_user();
	program(0, select, 5);
	enter(0, 1, loop100);
	program(0, 0, 0);
	count_in_host(0);
	stop();

	start("0 two guests");
	program(0, select, 5);
	enter(0, 1, loop100);
	program(0, select, 9);
	enter(1, 1, loop100);
	wrmsr(select_msr(0), 0);
	stop();

	start("0 guest's own guest");
	program(0, select, 5);
	enter(2, 1, profile->amd ? guest_vmrun : guest_vmlaunch);
	enter(3, 1, loop100);
	wrmsr(select_msr(0), 0);
	stop();

	/* what the host counts in a guest that has no PMU of its own */
	start("0 emulated PMU");
	trap_all_msrs();
	program(0, select_of(INSTRUCTIONS, OS | EN), 0);
	before = control.guest_global = control.host_global = 1;
	run_guest(0, loop100);
	run_guest(1, loop100);
	stop();

	/* the guest cannot read it */
	start("0 host's counter is off");
	count_in_host(1);
	next_stretch();
	enter(0, 0, loop100);
	stop();

	/* counts, and interrupts the guest */
	start("0 guest's interrupt");
	wrmsr(LVTPC, PMI_VECTOR);
	program(0, select | INT, BIT(48) - 4);
	control.interrupt_exits = 1;
	enter(0, 1, loop100);
	wrmsr(select_msr(0), 0);
	asm volatile("sti; nop; cli");
	stop();

	start("0 host's overflow, an NMI");
	wrmsr(LVTPC, NMI);
	program(0, select_of(INSTRUCTIONS, OS | EN | INT), BIT(48) - 4);
	measure(loop100);
	program(0, 0, 0);
	stop();

	start("0 host's overflow, reset");
	trap_msr(status_msr, 0, 0);
	program(0, select_of(INSTRUCTIONS, OS | EN), BIT(48) - 4);
	measure(loop100);
	program(0, 0, 0);
	wrmsr(reset_msr, 1);
	enter(0, 0, loop100);
	stop();

	/* VMX turns global control off */
	if (profile->amd) {
		start("0 guest's own control, global on");
		write_with_global_on();
		enter(0, 3, loop100);
		wrmsr(select_msr(0), 0);
		stop();
	}

	start("0 RDPMC exits");
	count_in_host(1);
	next_stretch();
	enter(0, 0, loop100);
	stop();
}

static void test_counters(void)
{
	/* I1: SVM has no control for it, a guest's counter has the guest-only bit */
	start(profile->amd ? "134 on after the exit" :
			     "1 on after the exit");
	program(0, profile->amd ? select_of(INSTRUCTIONS, OS | EN) : select, 0);
	control.host_global = 1;
	enter(0, 1, loop100);
	stop();

	start(profile->amd ? "134 on before the entry" :
			     "13 on before the entry");
	next_stretch();
	program(0, select_of(INSTRUCTIONS, OS | EN), 0);
	before = 1;
	enter(0, 1, loop100);
	wrmsr(select_msr(0), 0);
	stop();

	/* I2 */
	start("2 another counter is on");
	program(1, select, 0);
	enter(0, 2, loop100);
	wrmsr(select_msr(1), 0);
	stop();

	start(profile->amd ? "24 host's counter stays on" :
			     "2 host's counter stays on");
	program(1, select_of(INSTRUCTIONS, OS | EN), 0);
	global_on = 2;
	measure(loop100);
	next_stretch();
	enter(0, 2, loop100);
	stop();

	/* I3 */
	start("3 host's count, by RDMSR");
	count_in_host(0);
	next_stretch();
	enter(0, 0, loop100);
	stop();

	start("3 another guest's count");
	program(0, select, 0);
	enter(0, 1, loop100);
	enter(1, 0, loop100);
	wrmsr(select_msr(0), 0);
	stop();

	start("3 host's count, by RDPMC");
	count_in_host(1);
	next_stretch();
	control.rdpmc_exits = 0;
	enter(0, 0, loop100);
	stop();

	start("3 host's overflow");
	trap_msr(status_msr, 0, 0);
	program(0, select_of(INSTRUCTIONS, OS | EN), BIT(48) - 4);
	measure(loop100);
	program(0, 0, 0);
	enter(0, 0, loop100);
	stop();
}

static void test_controls(void)
{
	/* I4 */
	if (profile->any_thread) {
		start("4 any thread");
		program(0, select | ANY, 0);
		enter(0, 1, loop100);
		wrmsr(select_msr(0), 0);
		stop();
	}
	if (profile->fixed == 4) {
		start("4 metrics");
		program(0, select, 0);
		enter(0, 1 | BIT(48), loop100);
		wrmsr(select_msr(0), 0);
		stop();
	}
	if (profile->amd) {
		start("4 host-only");
		program(0, select_of(INSTRUCTIONS, USR | EN | GUEST | HOST), 0);
		enter(0, 1, loop100);
		wrmsr(select_msr(0), 0);
		stop();
	}
	start("4 freeze on PMI");
	program(0, select, 0);
	if (profile->amd)
		wrmsr(DEBUGCTL, BIT(12));
	control.load_debugctl = !profile->amd;
	control.guest_debugctl = BIT(12);
	enter(0, 1, loop100);
	wrmsr(select_msr(0), 0);
	stop();

	/* I5 */
	start("5 LVT entry masked");
	program(0, select | INT, BIT(48) - 4);
	enter(0, 1, loop100);
	wrmsr(select_msr(0), 0);
	stop();

	start("5 LVT entry is an NMI");
	wrmsr(LVTPC, NMI);
	program(0, select | INT, BIT(48) - 4);
	control.nmi_exits = 1;
	enter(0, 1, loop100);
	wrmsr(select_msr(0), 0);
	stop();

	/* the vector is the one of "guest's interrupt" above */
	start("5 host uses the guest's vector");
	wrmsr(LVTPC, PMI_VECTOR);
	program(0, select_of(INSTRUCTIONS, OS | EN | INT), BIT(48) - 4);
	measure(loop100);
	program(0, 0, 0);
	asm volatile("sti; nop; cli");
	stop();

	/* I6 */
	start("6 counter cleared, global on");
	program(0, select, 0);
	enter(0, 1, loop100);
	wrmsr(global_msr, 2);
	wrmsr(counter_msr(0), 0);
	wrmsr(global_msr, 0);
	wrmsr(select_msr(0), 0);
	stop();

	start("6 control cleared, global on");
	program(0, select, 0);
	enter(0, 1, loop100);
	wrmsr(global_msr, 2);
	wrmsr(select_msr(0), 0);
	wrmsr(global_msr, 0);
	stop();

	if (profile->amd) {
		start("6 another guest's control, global on");
		write_with_global_on();
		enter(1, 3, loop100);
		wrmsr(select_msr(0), 0);
		stop();
	}

	start("6 counter loaded, global on");
	next_stretch();
	wrmsr(global_msr, 2);
	wrmsr(counter_msr(0), 7);
	wrmsr(global_msr, 0);
	wrmsr(select_msr(0), select);
	enter(0, 1, loop100);
	wrmsr(select_msr(0), 0);
	stop();

	start("6 control loaded, global on");
	next_stretch();
	wrmsr(counter_msr(0), 7);
	wrmsr(global_msr, 2);
	wrmsr(select_msr(0), select);
	wrmsr(global_msr, 0);
	enter(0, 1, loop100);
	wrmsr(select_msr(0), 0);
	stop();
}

void test_audit(void)
{
	clean();
	test_counters();
	test_controls();
}
