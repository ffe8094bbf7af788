// SPDX-License-Identifier: GPL-2.0-only
/*
 * Guests of the PMU's test kernel, under VMX and SVM, and the tests of what
 * entries and exits do to the PMU.  A guest runs one function of this program
 * in the host's address space and mode; then it exits by VMCALL or VMMCALL.
 */
#include "pmu.h"

#define PAGE __attribute__((aligned(4096)))

struct control control;
u64 exit_info;
u8 msr_bitmap[8192] PAGE;
static u8 vmxon[4096] PAGE, controls[4][4096] PAGE, save_area[4096] PAGE, iopm[12288] PAGE;
static u64 stacks[4][512] PAGE;

/* VMX's MSR lists */
static struct {
	u32 msr, zero;
	u64 value;
} entry_list[2] PAGE, store_list[2] PAGE, exit_list[2] PAGE;

extern char vmx_exited[], guest_end[], guest_end_svm[], gdt[], tss[];
int vmx_enter(void);
int svm_enter(void *vmcb);

#define SVM_CODE_VMMCALL	0x81
#define VMX_VMCALL		18
#define GUEST_STATE		0x80000021
#define GUEST_MSR_LIST		0x80000022

static u64 cr(int n)
{
	u64 value;

	if (n == 0)
		asm volatile("mov %%cr0, %0" : "=r"(value));
	else if (n == 3)
		asm volatile("mov %%cr3, %0" : "=r"(value));
	else
		asm volatile("mov %%cr4, %0" : "=r"(value));
	return value;
}

static u64 table_base(int interrupts)
{
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) table;

	if (interrupts)
		asm volatile("sidt %0" : "=m"(table));
	else
		asm volatile("sgdt %0" : "=m"(table));
	return table.base;
}

/* Read and write exits of an MSR: VMX has 4 bitmaps, SVM 2 bits for each */
static void set_bit(u32 bit, int on)
{
	msr_bitmap[bit / 8] &= ~BIT(bit % 8);
	msr_bitmap[bit / 8] |= on << bit % 8;
}

void trap_msr(u32 msr, int read, int write)
{
	u32 n = msr & 0x1fff;

	if (profile->amd) {
		u32 area = msr >= 0xc0010000 ? 0x1000 : msr >= 0xc0000000 ? 0x800 : 0;

		set_bit(area * 8 + n * 2, read);
		set_bit(area * 8 + n * 2 + 1, write);
	} else {
		set_bit((msr >= 0xc0000000 ? 0x2000 : 0) + n, read);
		set_bit((msr >= 0xc0000000 ? 0x6000 : 0x4000) + n, write);
	}
}

void trap_all_msrs(void)
{
	for (u32 n = 0; n < sizeof(msr_bitmap); n++)
		msr_bitmap[n] = 0xff;
}

static void clear(void *p, u32 n)
{
	for (u8 *b = p; n--; b++)
		*b = 0;
}

void guests_init(void)
{
	control = (struct control){ 0 };
	clear(msr_bitmap, sizeof(msr_bitmap));
	before = 0;
	if (profile->amd) {
		wrmsr(0xc0000080, rdmsr(0xc0000080) | BIT(12));
		wrmsr(0xc0010117, (u64)save_area);
		return;
	}
	if (cr(4) & BIT(13))
		return;
	if (!(rdmsr(0x3a) & 1))
		wrmsr(0x3a, 5);
	asm volatile("mov %0, %%cr4" : : "r"(cr(4) | BIT(13)));
	*(u32 *)vmxon = rdmsr(0x480);
	u64 address = (u64)vmxon;
	asm volatile("vmxon %0" : : "m"(address) : "cc");
}

static u64 *guest_stack(int which)
{
	u64 *stack = &stacks[which][510];

	*stack = (u64)(profile->amd ? guest_end_svm : guest_end);
	return stack;
}

static void vmwrite(u64 field, u64 value)
{
	asm volatile("vmwrite %1, %0" : : "r"(field), "rm"(value) : "cc");
}

static u64 vmread(u64 field)
{
	u64 value;

	asm volatile("vmread %1, %0" : "=rm"(value) : "r"(field) : "cc");
	return value;
}

#define F_GUEST_DEBUGCTL	0x2802
#define F_GUEST_GLOBAL		0x2808
#define F_GUEST_RIP		0x681e

static u32 run_vmx(int which, code_t code)
{
	static const u16 zero[] = {
		0x4004, 0x4006, 0x4008, 0x400a, 0x4016, 0x6000, 0x6002, 0x6004, 0x6006,
		0x800 + 8, 0x800 + 10, 0x800 + 12, 0x4808, 0x480a, 0x480c, 0x4824, 0x4826, 0x482a,
		0x6806, 0x6808, 0x680a, 0x680c, 0x680e, 0x6810, 0x6812, 0x6822, 0x6824, 0x6826,
		0xc08, 0xc0a, 0x4c00, 0x6c06, 0x6c08, 0x6c10, 0x6c12,
	};
	u64 address = (u64)controls[which], reason;
	struct control *c = &control;

	clear(controls[which], 4096);
	*(u32 *)controls[which] = rdmsr(0x480);
	asm volatile("vmclear %0; vmptrld %0" : : "m"(address) : "cc", "memory");
	for (u32 i = 0; i < ARRAY_SIZE(zero); i++)
		vmwrite(zero[i], 0);

	vmwrite(0x4000, (u32)rdmsr(0x48d) | c->interrupt_exits | c->nmi_exits << 3);
	vmwrite(0x4002, (u32)rdmsr(0x48e) | c->rdpmc_exits << 11 | !c->no_bitmap << 28);
	vmwrite(0x400c, (u32)rdmsr(0x48f) | BIT(9) | c->load_host << 12 | c->ack << 15 |
		c->save_debugctl << 2 | c->save << 30);
	vmwrite(0x4012, (u32)rdmsr(0x490) | BIT(9) | c->load_guest << 13 | c->load_debugctl << 2);
	vmwrite(0x2004, (u64)msr_bitmap);
	vmwrite(0x2006, (u64)store_list);
	vmwrite(0x2008, (u64)exit_list);
	vmwrite(0x200a, (u64)entry_list);
	vmwrite(0x400e, c->store_list);
	vmwrite(0x4010, c->exit_list);
	vmwrite(0x4014, c->entry_list);
	vmwrite(0x2800, ~0ul);
	vmwrite(F_GUEST_DEBUGCTL, c->guest_debugctl);
	vmwrite(F_GUEST_GLOBAL, c->guest_global);
	vmwrite(0x2c04, c->host_global);

	for (u32 n = 0; n < 8; n += 2) {	/* ES, CS, SS, DS */
		vmwrite(0x800 + n, n == 2 ? 8 : 0x10);
		vmwrite(0xc00 + n, n == 2 ? 8 : 0x10);
		vmwrite(0x4800 + n, ~0u);
		vmwrite(0x4814 + n, n == 2 ? 0xa09b : 0xc093);
	}
	for (u32 n = 8; n < 14; n += 2)		/* FS, GS, LDTR: unusable */
		vmwrite(0x4814 + n, 0x10000);
	vmwrite(0x80e, 0x40);
	vmwrite(0xc0c, 0x40);
	vmwrite(0x480e, 0x67);
	vmwrite(0x4822, 0x8b);
	vmwrite(0x6814, (u64)tss);
	vmwrite(0x6c0a, (u64)tss);
	vmwrite(0x4810, 0x4f);
	vmwrite(0x4812, 0xfff);
	vmwrite(0x6816, table_base(0));
	vmwrite(0x6c0c, table_base(0));
	vmwrite(0x6818, table_base(1));
	vmwrite(0x6c0e, table_base(1));
	vmwrite(0x6800, cr(0));
	vmwrite(0x6802, cr(3));
	vmwrite(0x6804, cr(4));
	vmwrite(0x6c00, cr(0));
	vmwrite(0x6c02, cr(3));
	vmwrite(0x6c04, cr(4));
	vmwrite(0x681a, 0x400);
	vmwrite(0x681c, (u64)guest_stack(which));
	vmwrite(F_GUEST_RIP, (u64)code);
	vmwrite(0x6820, 2 | c->rflags);
	vmwrite(0x6c16, (u64)vmx_exited);

	if (vmx_enter())
		return ENTRY_FAILED + vmread(0x4400);
	exit_info = vmread(0x4404);
	reason = vmread(0x4402);
	if (reason == 0)			/* NMIs are blocked until an IRET */
		asm volatile("int $0x81");
	return reason;
}

static u32 run_svm(int which, code_t code)
{
	u8 *vmcb = controls[which];
	struct control *c = &control;
	struct {
		u16 selector, flags;
		u32 limit;
		u64 base;
	} *segment = (void *)(vmcb + 0x400);

	clear(vmcb, 4096);
	*(u32 *)(vmcb + 0x0c) = c->interrupt_exits | c->nmi_exits << 1 | c->rdpmc_exits << 15 |
				!c->no_bitmap << 28;
	*(u32 *)(vmcb + 0x10) = 3;		/* VMRUN, VMMCALL */
	*(u64 *)(vmcb + 0x40) = (u64)iopm;
	*(u64 *)(vmcb + 0x48) = (u64)msr_bitmap;
	*(u32 *)(vmcb + 0x58) = which + 1;	/* ASID */
	*(u32 *)(vmcb + 0x60) = BIT(24);	/* RFLAGS.IF masks the guest's interrupts only */
	for (u32 n = 0; n < 4; n++) {		/* ES, CS, SS, DS */
		segment[n].selector = n == 1 ? 8 : 0x10;
		segment[n].flags = n == 1 ? 0xa9b : 0xc93;
		segment[n].limit = ~0u;
	}
	segment[6].limit = 0x4f;
	segment[6].base = table_base(0);
	segment[8].limit = 0xfff;
	segment[8].base = table_base(1);
	*(u64 *)(vmcb + 0x4d0) = rdmsr(0xc0000080);
	*(u64 *)(vmcb + 0x548) = cr(4);
	*(u64 *)(vmcb + 0x550) = cr(3);
	*(u64 *)(vmcb + 0x558) = cr(0);
	*(u64 *)(vmcb + 0x560) = 0x400;
	*(u64 *)(vmcb + 0x568) = 0xffff0ff0;
	*(u64 *)(vmcb + 0x570) = 2 | c->rflags;
	*(u64 *)(vmcb + 0x578) = (u64)code;
	*(u64 *)(vmcb + 0x5d8) = (u64)guest_stack(which);
	svm_enter(vmcb);
	exit_info = *(u64 *)(vmcb + 0x78);
	return *(u32 *)(vmcb + 0x70);
}

static u64 guest_rip(void)
{
	return profile->amd ? *(u64 *)(controls[0] + 0x578) : vmread(F_GUEST_RIP);
}

u32 run_guest(int which, code_t code)
{
	return profile->amd ? run_svm(which, code) : run_vmx(which, code);
}

/*
 * What guests do; their results are in buffer
 */

static u32 msr_to_access;
static void guest_reads(void) { buffer[0] = rdmsr(msr_to_access); }
static void guest_writes(void) { wrmsr(msr_to_access, 3); }
static void guest_reads_counter(void) { buffer[1] = rdpmc_faults(1, &buffer[0]); }
static void guest_reads_absent_counter(void) { buffer[1] = rdpmc_faults(99, &buffer[0]); }

static void fresh(void)
{
	reset_pmu();
	guests_init();
	buffer[0] = buffer[1] = 0;
}

/* The rules of both */
static void test_guest_accesses(u32 end, u32 read_exit, u32 write_exit, u32 rdpmc_exit)
{
	u32 msrs[] = { counter_msr(1), select_msr(0), status_msr, global_msr };
	static const char *const names[] = { "counter", "select", "status", "global control" };

	for (u32 i = 0; i < ARRAY_SIZE(msrs); i++) {
		msr_to_access = msrs[i];
		fresh();
		trap_msr(msrs[i], 1, 0);
		check("MSR bitmap, reads exit", names[i], run_guest(0, guest_reads), read_exit);
		if (i != 2)
			check("MSR bitmap, writes do not", names[i], run_guest(0, guest_writes), end);
		fresh();
		trap_msr(msrs[i], 0, 1);
		check("MSR bitmap, writes exit", names[i], run_guest(0, guest_writes), write_exit);
		check("MSR bitmap, reads do not", names[i], run_guest(0, guest_reads), end);
		trap_all_msrs();
		trap_msr(msrs[i], 0, 0);
		check("MSR bitmap, all others exit", names[i], run_guest(0, guest_reads), end);
	}
	fresh();
	wrmsr(counter_msr(1), 0x123456789abc);
	msr_to_access = counter_msr(1);
	check("guest reads a counter", "exit", run_guest(0, guest_reads), end);
	check("guest reads a counter", "value", buffer[0], 0x123456789abc);
	check("guest writes a counter", "exit", run_guest(0, guest_writes), end);
	check("guest writes a counter", "value", rdmsr(counter_msr(1)), 3);

	fresh();
	wrmsr(counter_msr(1), 0x123456789abc);
	check("guest uses RDPMC", "exit", run_guest(0, guest_reads_counter), end);
	check("guest uses RDPMC", "value", buffer[0], 0x123456789abc);
	check("guest uses RDPMC", "absent counter's exit", run_guest(0, guest_reads_absent_counter), end);
	check("guest uses RDPMC", "absent counter's fault", buffer[1], 1);
	control.rdpmc_exits = 1;
	check("RDPMC exits", "exit", run_guest(0, guest_reads_counter), rdpmc_exit);
}

static void test_guest_interrupts(u32 end, u32 nmi_exit, u32 interrupt_exit)
{
	u64 select = select_of(INSTRUCTIONS, OS | EN | INT | (profile->amd ? GUEST : 0));

	for (int exits = 0; exits < 2; exits++) {
		const char *what = exits ? "NMI in a guest, exits" : "NMI in a guest, does not exit";

		fresh();
		wrmsr(LVTPC, NMI);
		program(0, select, BIT(48) - 4);
		before = profile->amd;
		control.load_guest = control.load_host = !profile->amd;
		control.guest_global = 1;
		control.nmi_exits = exits;
		/* call's place is taken by nothing: the guest starts in the loop's function */
		check(what, "exit", run_guest(0, loop100), exits ? nmi_exit : end);
		check(what, "status", rdmsr(status_msr), 1);
		/* SVM leaves the NMI pending, and the host gets it; VMX consumes it */
		check(what, "interrupts", pmi_count, !exits || profile->amd);
		if (exits)
			check(what, "guest RIP", guest_rip(), (u64)loop_jnz);
		else
			check(what, "interrupted instruction", pmi_rip, (u64)loop_jnz);
		check(what, "counter", rdmsr(counter_msr(0)), exits ? 0 : 202 + 6 - 4);
	}

	/* the guest's RFLAGS.IF does not keep an interrupt from exiting */
	for (int flag = 0; flag < 2; flag++) {
		const char *what = flag ? "interrupt exits, IF set" : "interrupt exits, IF clear";

		fresh();
		wrmsr(LVTPC, PMI_VECTOR);
		program(0, select, BIT(48) - 4);
		before = profile->amd;
		control.load_guest = control.load_host = !profile->amd;
		control.guest_global = 1;
		control.interrupt_exits = 1;
		control.rflags = flag << 9;
		check(what, "exit", run_guest(0, loop100), interrupt_exit);
		check(what, "guest RIP", guest_rip(), (u64)loop_jnz);
		check(what, "interrupts before IF is set", pmi_count, 0);
		asm volatile("sti; nop; cli");
		check(what, "interrupts", pmi_count, 1);
	}

	fresh();
	wrmsr(LVTPC, PMI_VECTOR);
	program(0, select, BIT(48) - 4);
	before = profile->amd;
	control.load_guest = control.load_host = !profile->amd;
	control.guest_global = 1;
	control.rflags = BIT(9);
	check("interrupt in a guest", "exit", run_guest(0, loop100), end);
	check("interrupt in a guest", "interrupts", pmi_count, 1);
	check("interrupt in a guest", "interrupted instruction", pmi_rip, (u64)loop_jnz);
	check("interrupt in a guest", "counter", rdmsr(counter_msr(0)), 202 + 14 - 4);
}

static u64 counted(u64 on_before, u64 guest, u64 host)
{
	u64 select = select_of(INSTRUCTIONS, OS | EN);

	reset_pmu();
	program(0, select, 0);
	program(1, select, 0);
	before = on_before;
	control.guest_global = guest;
	control.host_global = host;
	if (run_guest(0, loop100) != VMX_VMCALL)
		return 0xbad;
	return rdmsr(counter_msr(0)) | rdmsr(counter_msr(1)) << 32;
}

/* in the guest 202; in the host VMLAUNCH and the 4 after the exit */
static void test_global_control(void)
{
	const char *what = "GLOBAL_CTRL, instructions counted";

	fresh();
	check(what, "not loaded", counted(1, 0, 0), 1 + 202 + 4);
	control.load_guest = 1;
	check(what, "loaded at entry", counted(0, 1, 0), 202 + 4);
	check(what, "loaded at entry, 0", counted(1, 0, 0), 1);
	check(what, "loaded at entry, another", counted(1, 2, 0), 1 | 206ul << 32);
	control.load_host = 1;
	check(what, "loaded at both", counted(0, 1, 0), 202);
	check(what, "loaded at both, for both", counted(0, 1, 1), 202 + 4);
	check(what, "loaded at both, swapped", counted(1, 2, 1), (1 + 4) | 202ul << 32);
	control.load_guest = 0;
	check(what, "loaded at exit, 0", counted(1, 0, 0), 1 + 202);
	check(what, "loaded at exit, another", counted(1, 0, 2), (1 + 202) | 4ul << 32);
}

static void test_entry_checks(void)
{
	u64 bad = BIT(profile->general);

	fresh();
	control.load_guest = 1;
	control.guest_global = bad;
	check("VM entry", "guest GLOBAL_CTRL reserved", run_guest(0, nothing), GUEST_STATE);
	control.guest_global = BIT(48);
	check("VM entry", "guest GLOBAL_CTRL metrics", run_guest(0, nothing),
	      profile->fixed == 4 ? VMX_VMCALL : GUEST_STATE);
	control.guest_global = bad;
	control.load_guest = 0;
	check("VM entry", "guest GLOBAL_CTRL reserved, not loaded", run_guest(0, nothing), VMX_VMCALL);
	fresh();
	control.load_host = 1;
	control.host_global = BIT(32 + profile->fixed);
	check("VM entry", "host GLOBAL_CTRL reserved", run_guest(0, nothing), ENTRY_FAILED + 8);
	control.load_host = 0;
	check("VM entry", "host GLOBAL_CTRL reserved, not loaded", run_guest(0, nothing), VMX_VMCALL);
	fresh();
	control.load_debugctl = 1;
	control.guest_debugctl = BIT(2);
	check("VM entry", "guest DEBUGCTL reserved", run_guest(0, nothing), GUEST_STATE);
	control.load_debugctl = 0;
	check("VM entry", "guest DEBUGCTL reserved, not loaded", run_guest(0, nothing), VMX_VMCALL);
	check("capability", "entry loads GLOBAL_CTRL", rdmsr(0x490) >> (32 + 13) & 1, 1);
	check("capability", "exit loads GLOBAL_CTRL", rdmsr(0x48f) >> (32 + 12) & 1, 1);
	check("capability", "exit saves GLOBAL_CTRL", rdmsr(0x48f) >> (32 + 30) & 1, profile->saves);
}

static void test_saved(void)
{
	msr_to_access = global_msr;
	fresh();
	control.load_guest = control.load_host = control.save = 1;
	if (!profile->saves) {
		check("exit saves GLOBAL_CTRL", "control absent", run_guest(0, guest_writes), ENTRY_FAILED + 7);
		control.save = 0;
	} else {
		check("exit saves GLOBAL_CTRL", "exit", run_guest(0, guest_writes), VMX_VMCALL);
		check("exit saves GLOBAL_CTRL", "value", vmread(F_GUEST_GLOBAL), 3);
		control.save = 0;
	}
	control.guest_global = 5;
	run_guest(0, guest_writes);
	check("exit does not save GLOBAL_CTRL", "value", vmread(F_GUEST_GLOBAL), 5);

	msr_to_access = DEBUGCTL;
	fresh();
	control.load_debugctl = 1;
	control.guest_debugctl = BIT(12);
	wrmsr(DEBUGCTL, BIT(1));
	run_guest(0, guest_reads);
	check("DEBUGCTL", "loaded at entry", buffer[0], BIT(12));
	check("DEBUGCTL", "cleared at exit", rdmsr(DEBUGCTL), 0);
	check("DEBUGCTL", "not saved", vmread(F_GUEST_DEBUGCTL), BIT(12));
	wrmsr(DEBUGCTL, BIT(1));
	control.load_debugctl = 0;
	control.save_debugctl = 1;
	run_guest(0, guest_reads);
	check("DEBUGCTL", "not loaded", buffer[0], BIT(1));
	check("DEBUGCTL", "saved at exit", vmread(F_GUEST_DEBUGCTL), BIT(1));
}

static void test_lists(void)
{
	fresh();
	msr_to_access = counter_msr(1);
	control.entry_list = 2;
	entry_list[0].msr = counter_msr(1);
	entry_list[0].value = 0x1111;
	entry_list[1].msr = select_msr(0);
	entry_list[1].value = select_of(INSTRUCTIONS, OS | EN);
	control.store_list = 2;
	store_list[0].msr = counter_msr(0);
	store_list[1].msr = counter_msr(1);
	store_list[0].value = store_list[1].value = 0;
	control.exit_list = 1;
	exit_list[0].msr = counter_msr(0);
	exit_list[0].value = 0x2222;
	control.load_guest = control.load_host = 1;
	control.guest_global = 1;
	check("MSR lists", "exit", run_guest(0, loop100), VMX_VMCALL);
	check("MSR lists", "stored at exit, counted", store_list[0].value, 202);
	check("MSR lists", "stored at exit, loaded at entry", store_list[1].value, 0x1111);
	check("MSR lists", "loaded at exit", rdmsr(counter_msr(0)), 0x2222);
	check("MSR lists", "select", rdmsr(select_msr(0)), select_of(INSTRUCTIONS, OS | EN));
	entry_list[1].value = BIT(32);
	check("MSR lists", "reserved bit at entry", run_guest(0, loop100), GUEST_MSR_LIST);
	entry_list[1].msr = SELECT0 + profile->general;
	entry_list[1].value = 0;
	check("MSR lists", "absent register at entry", run_guest(0, loop100), GUEST_MSR_LIST);
}

void test_vmx(void)
{
	test_global_control();
	test_entry_checks();
	test_saved();
	test_lists();
	test_guest_accesses(VMX_VMCALL, 31, 32, 15);
	fresh();
	control.no_bitmap = 1;
	msr_to_access = counter_msr(0);
	check("no MSR bitmap", "reads exit", run_guest(0, guest_reads), 31);
	check("no MSR bitmap", "writes exit", run_guest(0, guest_writes), 32);
	test_guest_interrupts(VMX_VMCALL, 0, 1);

	fresh();
	wrmsr(LVTPC, PMI_VECTOR);
	program(0, select_of(INSTRUCTIONS, OS | EN | INT), BIT(48) - 4);
	control.load_guest = control.load_host = control.interrupt_exits = control.ack = 1;
	control.guest_global = 1;
	check("interrupt acknowledged by the exit", "exit", run_guest(0, loop100), 1);
	check("interrupt acknowledged by the exit", "vector", exit_info, BIT(31) | PMI_VECTOR);
	wrmsr(0x80b, 0);
	asm volatile("sti; nop; cli");
	check("interrupt acknowledged by the exit", "interrupts", pmi_count, 0);
}

void test_svm(void)
{
	static const struct {
		const char *name;
		u64 flags;
		code_t code;
		u32 want, without;	/* SVM enabled and used; not enabled */
	} rows[] = {
		/* in the host MOV, VMRUN and the 4 after the exit */
		{ "guest", OS | GUEST, loop100, 202, 0 },
		{ "host", OS | HOST, loop100, 6, 0 },
		{ "guest and host", OS | GUEST | HOST, loop100, 208, 207 },
		{ "neither", OS, loop100, 208, 207 },
		{ "guest, user mode", USR | GUEST, user, 7, 0 },
		{ "host, user mode", USR | HOST, user, 0, 0 },
		{ "guest, kernel mode", OS | GUEST, user, 9, 0 },
	};

	for (u32 i = 0; i < ARRAY_SIZE(rows); i++) {
		fresh();
		program(i % 6, select_of(INSTRUCTIONS, rows[i].flags | EN), 0);
		before = BIT(i % 6);
		check("guests and the host", rows[i].name, run_guest(0, rows[i].code), SVM_CODE_VMMCALL);
		check("instructions", rows[i].name, rdmsr(counter_msr(i % 6)), rows[i].want);
		wrmsr(0xc0000080, rdmsr(0xc0000080) & ~BIT(12));
		wrmsr(counter_msr(i % 6), 0);
		measure(rows[i].code);
		check("instructions without SVM", rows[i].name, rdmsr(counter_msr(i % 6)), rows[i].without);
	}
	test_guest_accesses(SVM_CODE_VMMCALL, 0x7c, 0x7c, 0x6f);
	fresh();
	trap_all_msrs();
	control.no_bitmap = 1;
	msr_to_access = counter_msr(0);
	check("no MSR intercepts", "read", run_guest(0, guest_reads), SVM_CODE_VMMCALL);
	control.no_bitmap = 0;
	run_guest(0, guest_reads);
	check("MSR intercepts", "of a read", exit_info, 0);
	run_guest(0, guest_writes);
	check("MSR intercepts", "of a write", exit_info, 1);
	test_guest_interrupts(SVM_CODE_VMMCALL, 0x61, 0x60);
}
