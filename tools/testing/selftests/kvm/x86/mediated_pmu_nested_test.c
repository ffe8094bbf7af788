// SPDX-License-Identifier: GPL-2.0-only
/*
 * A mediated PMU in a guest that is a hypervisor itself: L1 runs L2, and both
 * have the PMU that KVM has given to L1.
 *
 *  - counts: L1's counters count L1, L2, and the instruction that enters L2, to
 *    the exact instruction and branch
 *  - access: what L1 doesn't intercept, L2 reads and writes as L1 does; what L1
 *    does intercept is one exit to L1, and changes nothing; what the guest's PMU
 *    doesn't have is #GP in L2, too
 *  - control: L2 programs counters which then count exactly, or stand still if the
 *    event filter denies the event; L2 reads back what it wrote
 *  - PMI: an overflow in L2 is one exit to L1, or one PMI in L2, as L1 wants it,
 *    as an interrupt and as an NMI
 *  - VMX: L2 runs with the global control that VM entry has loaded, L1 with the
 *    one that VM exit has loaded; reserved bits fail the entry
 *  - SVM: the bits of a selector for guest only and for host only tell L2 from
 *    L1 while EFER.SVME is on, and one of them alone counts nothing while it is off
 *  - L2 goes on counting in another VM after it was saved in mid-count, and on
 *    another CPU
 */
#include <sched.h>

#include "mediated_pmu.h"
#include "svm_util.h"
#include "vmx.h"

/* Why L2 exits to L1. */
enum l2_exit {
	L2_DONE,
	L2_RDMSR,
	L2_WRMSR,
	L2_RDPMC,
	L2_INTERRUPT,
	L2_NMI,
	L2_FAILED_ENTRY,
};

/* L2 has a stack of its own, and shares all other memory with L1. */
static uint64_t l2_stack[512] __aligned(16);

static struct vmx_pages *vmx;
static bool launched;

static struct svm_test_data *svm;
/* svm->msr has one page, SVM wants two. */
static uint8_t *msrpm;
static uint64_t msrpm_gpa;

/* L2's registers while L1 runs, and L1's while L2 runs */
struct gpr64_regs l2_regs;

#define SWAP_REGS					\
	"xchg %%rax, l2_regs+0x00\n\t"			\
	"xchg %%rcx, l2_regs+0x08\n\t"			\
	"xchg %%rdx, l2_regs+0x10\n\t"			\
	"xchg %%rbx, l2_regs+0x18\n\t"			\
	"xchg %%rbp, l2_regs+0x28\n\t"			\
	"xchg %%rsi, l2_regs+0x30\n\t"			\
	"xchg %%rdi, l2_regs+0x38\n\t"			\
	"xchg %%r8,  l2_regs+0x40\n\t"			\
	"xchg %%r9,  l2_regs+0x48\n\t"			\
	"xchg %%r10, l2_regs+0x50\n\t"			\
	"xchg %%r11, l2_regs+0x58\n\t"			\
	"xchg %%r12, l2_regs+0x60\n\t"			\
	"xchg %%r13, l2_regs+0x68\n\t"			\
	"xchg %%r14, l2_regs+0x70\n\t"			\
	"xchg %%r15, l2_regs+0x78\n\t"

/* Unlike vmlaunch() and vmresume(), for an L2 that is interrupted and goes on */
static void vmx_enter_l2(void)
{
	asm volatile("vmwrite %%rsp, %[host_rsp]\n\t"
		     "lea 2f(%%rip), %%rax\n\t"
		     "vmwrite %%rax, %[host_rip]\n\t"
		     "cmpb $0, %[launched]\n\t"
		     SWAP_REGS
		     "je 1f\n\t"
		     "vmresume\n\t"
		     "ud2\n\t"
		     "1: vmlaunch\n\t"
		     "ud2\n\t"
		     "2:\n\t"
		     SWAP_REGS
		     : : [host_rsp]"r"((uint64_t)HOST_RSP),
			 [host_rip]"r"((uint64_t)HOST_RIP), [launched]"m"(launched)
		     : "rax", "cc", "memory");
	launched = true;
}

static enum l2_exit vmx_exit_reason(void)
{
	const uint32_t reason = vmreadz(VM_EXIT_REASON);

	switch (reason) {
	case EXIT_REASON_VMCALL:
		return L2_DONE;
	case EXIT_REASON_MSR_READ:
		return L2_RDMSR;
	case EXIT_REASON_MSR_WRITE:
		return L2_WRMSR;
	case EXIT_REASON_RDPMC:
		return L2_RDPMC;
	case EXIT_REASON_EXTERNAL_INTERRUPT:
		return L2_INTERRUPT;
	case EXIT_REASON_EXCEPTION_NMI:
		GUEST_ASSERT_EQ(vmreadz(VM_EXIT_INTR_INFO) & 0x7ff, 2 << 8 | NMI_VECTOR);
		return L2_NMI;
	case EXIT_REASON_INVALID_STATE | EXIT_REASON_FAILED_VMENTRY:
		return L2_FAILED_ENTRY;
	default:
		GUEST_FAIL("Unexpected exit of L2, reason 0x%x", reason);
		return L2_DONE;
	}
}

static enum l2_exit svm_exit_reason(void)
{
	const uint32_t code = svm->vmcb->control.exit_code;

	switch (code) {
	case SVM_EXIT_VMMCALL:
		return L2_DONE;
	case SVM_EXIT_MSR:
		return svm->vmcb->control.exit_info_1 ? L2_WRMSR : L2_RDMSR;
	case SVM_EXIT_RDPMC:
		return L2_RDPMC;
	case SVM_EXIT_INTR:
		return L2_INTERRUPT;
	case SVM_EXIT_NMI:
		return L2_NMI;
	default:
		GUEST_FAIL("Unexpected exit of L2, code 0x%x", code);
		return L2_DONE;
	}
}

/* After an exit; to go on behind a RDMSR, WRMSR or RDPMC, skip its two bytes. */
static enum l2_exit resume_l2(int skip)
{
	if (host_cpu_is_intel) {
		vmwrite(GUEST_RIP, vmreadz(GUEST_RIP) + skip);
		vmx_enter_l2();
		return vmx_exit_reason();
	}

	/* Interrupts that L1 intercepts go by L1's IF, those it doesn't by L2's. */
	svm->vmcb->save.rip += skip;
	clgi();
	asm volatile("sti");
	run_guest(svm->vmcb, svm->vmcb_gpa);
	asm volatile("cli");
	stgi();
	return svm_exit_reason();
}

static enum l2_exit run_l2(void *code)
{
	const uint64_t rsp = (uint64_t)&l2_stack[ARRAY_SIZE(l2_stack) - 1];

	if (host_cpu_is_intel) {
		vmwrite(GUEST_RIP, (uint64_t)code);
		vmwrite(GUEST_RSP, rsp);
	} else {
		svm->vmcb->save.rip = (uint64_t)code;
		svm->vmcb->save.rsp = rsp;
	}
	return resume_l2(0);
}

/* L2's way to tell L1 that it's done: neither can go on after it. */
static void l2_done(void)
{
	if (host_cpu_is_intel)
		asm volatile("vmcall");
	else
		asm volatile("vmmcall");
	GUEST_FAIL("L2 was resumed after its end");
}

static void intercept(uint8_t *bitmap, uint32_t bit, bool on)
{
	if (on)
		bitmap[bit / 8] |= BIT(bit % 8);
	else
		bitmap[bit / 8] &= ~BIT(bit % 8);
}

static void intercept_msr(uint32_t msr, bool read, bool write)
{
	uint32_t bit = msr & 0x1fff;

	if (host_cpu_is_intel) {
		GUEST_ASSERT(msr < 0x2000);
		intercept(vmx->msr, bit, read);
		intercept(vmx->msr + 0x800, bit, write);
		return;
	}

	if (msr >= 0xc0010000)
		bit += 0x4000;
	else if (msr >= 0xc0000000)
		bit += 0x2000;
	intercept(msrpm, 2 * bit, read);
	intercept(msrpm, 2 * bit + 1, write);
}

static void vmx_set_control(enum vmcs_field field, uint32_t bits, bool on)
{
	const uint32_t value = vmreadz(field);

	vmwrite(field, on ? value | bits : value & ~bits);
}

static void intercept_rdpmc(bool on)
{
	if (host_cpu_is_intel)
		vmx_set_control(CPU_BASED_VM_EXEC_CONTROL, CPU_BASED_RDPMC_EXITING, on);
	else if (on)
		svm->vmcb->control.intercept |= BIT_ULL(INTERCEPT_RDPMC);
	else
		svm->vmcb->control.intercept &= ~BIT_ULL(INTERCEPT_RDPMC);
}

static void intercept_interrupts(bool on)
{
	const uint64_t svm_bits = BIT_ULL(INTERCEPT_INTR) | BIT_ULL(INTERCEPT_NMI);

	if (host_cpu_is_intel)
		vmx_set_control(PIN_BASED_VM_EXEC_CONTROL,
				PIN_BASED_EXT_INTR_MASK | PIN_BASED_NMI_EXITING, on);
	else if (on)
		svm->vmcb->control.intercept |= svm_bits;
	else
		svm->vmcb->control.intercept &= ~svm_bits;

	if (!host_cpu_is_intel)
		svm->vmcb->control.int_ctl = on ? V_INTR_MASKING_MASK : 0;
}

/* L2 gets a bitmap that intercepts no MSR, and L1's tables. */
static void prepare_l2(void)
{
	if (host_cpu_is_intel) {
		GUEST_ASSERT(prepare_for_vmx_operation(vmx));
		GUEST_ASSERT(load_vmcs(vmx));
		prepare_vmcs(vmx, NULL, NULL);
		vmx_set_control(CPU_BASED_VM_EXEC_CONTROL, CPU_BASED_USE_MSR_BITMAPS, true);
		vmwrite(GUEST_GDTR_BASE, get_gdt().address);
		vmwrite(GUEST_IDTR_BASE, get_idt().address);
	} else {
		generic_svm_setup(svm, NULL, NULL);
		svm->vmcb->control.intercept |= BIT_ULL(INTERCEPT_MSR_PROT);
		svm->vmcb->control.msrpm_base_pa = msrpm_gpa;
	}
}

/*
 * L2's part of what is counted, as run_block(), but without the WRMSRs and with
 * as many loops as L1 wants.  The exit at its end isn't counted.
 */
extern const char l2_block_intel[], l2_block_amd[];
uint32_t l2_loops;

#define DEFINE_L2_BLOCK(name, exit)	\
	asm(name ":\n\t"		\
	    "mov l2_loops, %esi\n\t"	\
	    "1: nop\n\t"		\
	    "dec %esi\n\t"		\
	    "jnz 1b\n\t"		\
	    exit "\n\t"			\
	    "ud2\n")

DEFINE_L2_BLOCK("l2_block_intel", "vmcall");
DEFINE_L2_BLOCK("l2_block_amd", "vmmcall");

#define L2_INSNS	(1 + 3 * l2_loops)
#define L2_BRANCHES	l2_loops

static void *l2_block(void)
{
	return (void *)(host_cpu_is_intel ? l2_block_intel : l2_block_amd);
}

/*
 * What L1 counts besides, from the WRMSR that turns counters on to the one that
 * turns them off: the entry, mov, xor, xor, wrmsr; and a mov before VMRUN.  KVM
 * counts VMRESUME as a branch, and VMRUN as none.
 */
#define L1_INSNS	(host_cpu_is_intel ? 5 : 6)
#define L1_BRANCHES	(host_cpu_is_intel ? 1 : 0)

uint32_t global_ctrl_msr;

/* L2 changes ESI, and leaves all other registers to L1 as they were. */
static void run_block_with_l2(uint64_t counters)
{
	uint32_t eax = counters, edx = counters >> 32, ecx = pmu.global_ctrl;

	global_ctrl_msr = pmu.global_ctrl;

	if (host_cpu_is_intel) {
		vmwrite(GUEST_RIP, (uint64_t)l2_block());
		asm volatile("vmwrite %%rsp, %[host_rsp]\n\t"
			     "lea 1f(%%rip), %%rbx\n\t"
			     "vmwrite %%rbx, %[host_rip]\n\t"
			     "wrmsr\n\t"
			     "vmresume\n\t"
			     "ud2\n\t"
			     "1: mov global_ctrl_msr, %%ecx\n\t"
			     "xor %%eax, %%eax\n\t"
			     "xor %%edx, %%edx\n\t"
			     "wrmsr\n\t"
			     : "+a"(eax), "+c"(ecx), "+d"(edx)
			     : [host_rsp]"r"((uint64_t)HOST_RSP),
			       [host_rip]"r"((uint64_t)HOST_RIP)
			     : "rbx", "rsi", "cc", "memory");
		GUEST_ASSERT_EQ(vmx_exit_reason(), L2_DONE);
	} else {
		svm->vmcb->save.rip = (uint64_t)l2_block();
		asm volatile("wrmsr\n\t"
			     "mov %[vmcb], %%rax\n\t"
			     "vmrun %%rax\n\t"
			     "mov global_ctrl_msr, %%ecx\n\t"
			     "xor %%eax, %%eax\n\t"
			     "xor %%edx, %%edx\n\t"
			     "wrmsr\n\t"
			     : "+a"(eax), "+c"(ecx), "+d"(edx)
			     : [vmcb]"r"(svm->vmcb_gpa)
			     : "rsi", "cc", "memory");
		stgi();
		GUEST_ASSERT_EQ(svm_exit_reason(), L2_DONE);
	}
}

/* A general-purpose counter counts what is asked for, a fixed one its own event. */
static bool can_count(int i, uint64_t event)
{
	return !is_fixed(i) || (i == FIXED_BASE && event == pmu.instructions);
}

static void assert_counter(int i, uint64_t expected, const char *what)
{
	uint64_t count = read_counter(i);

	__GUEST_ASSERT(count == expected, "Counter %d, %s: wanted 0x%lx, got 0x%lx",
		       i, what, expected, count);
}

/* VMRESUME wants an L2 that was launched. */
static void launch_l2(void)
{
	GUEST_ASSERT_EQ(run_l2(l2_done), L2_DONE);
}

static void guest_counts(void)
{
	const uint32_t loops[] = { 10, 10, 1, 1000 };
	int i, n;

	prepare_l2();
	launch_l2();

	for_each_counter(i) {
		for (n = 0; n < ARRAY_SIZE(loops); n++) {
			l2_loops = loops[n];

			if (can_count(i, pmu.instructions)) {
				reset_pmu();
				select_event(i, pmu.instructions, KERNEL);
				run_block_with_l2(BIT_ULL(i));
				assert_counter(i, L1_INSNS + L2_INSNS, "instructions of L1 and L2");
			}
			if (can_count(i, pmu.branches)) {
				reset_pmu();
				select_event(i, pmu.branches, KERNEL);
				run_block_with_l2(BIT_ULL(i));
				assert_counter(i, L1_BRANCHES + L2_BRANCHES,
					       "branches of L1 and L2");
			}

			/* Enabled, but off in global control */
			reset_pmu();
			select_event(i, pmu.instructions, KERNEL);
			run_block_with_l2(pmu.counters & ~BIT_ULL(i));
			assert_counter(i, 0, "off in L1 and L2");
		}
	}

	/* All of them together, and what L2 makes overflow */
	reset_pmu();
	l2_loops = 100;
	for_each_counter(i) {
		select_event(i, pmu.instructions, KERNEL);
		write_counter(i, can_count(i, pmu.instructions) ? -200 : 0);
	}
	run_block_with_l2(pmu.counters);
	for_each_counter(i) {
		if (can_count(i, pmu.instructions))
			assert_counter(i, L1_INSNS + L2_INSNS - 200, "overflow in L2");
	}
	GUEST_ASSERT_EQ(rdmsr(pmu.global_status),
			pmu.counters & (GENMASK_ULL(FIXED_BASE - 1, 0) | BIT_ULL(FIXED_BASE)));

	reset_pmu();
	GUEST_DONE();
}

/* One access for L2 to make; the result isn't changed by L1 if it intercepts. */
static struct {
	enum l2_exit op;
	uint32_t index;
	uint64_t value;
	uint8_t vector;
} l2_does;

static void l2_access(void)
{
	switch (l2_does.op) {
	case L2_RDMSR:
		l2_does.vector = rdmsr_safe(l2_does.index, &l2_does.value);
		break;
	case L2_WRMSR:
		l2_does.vector = wrmsr_safe(l2_does.index, l2_does.value);
		break;
	case L2_RDPMC:
		l2_does.vector = rdpmc_safe(l2_does.index, &l2_does.value);
		break;
	default:
		GUEST_FAIL("Unexpected access %d", l2_does.op);
	}
	l2_done();
}

/* Returns whether it exited to L1, which goes on behind the instruction. */
static bool access_exits(enum l2_exit op, uint32_t index, uint64_t value)
{
	enum l2_exit exit;

	l2_does.op = op;
	l2_does.index = index;
	l2_does.value = value;
	l2_does.vector = 0;

	exit = run_l2(l2_access);
	if (exit == L2_DONE)
		return false;

	__GUEST_ASSERT(exit == op, "L2's access of kind %d to 0x%x: exit of kind %d",
		       op, index, exit);
	GUEST_ASSERT_EQ(resume_l2(2), L2_DONE);
	return true;
}

/* An MSR that L1 has given the value @old, and can be given @new. */
static void check_msr(uint32_t msr, uint64_t old, uint64_t new)
{
	int i;

	for (i = 0; i < 4; i++) {
		const bool intercept_read = i & 1, intercept_write = i & 2;

		wrmsr(msr, old);
		intercept_msr(msr, intercept_read, intercept_write);

		__GUEST_ASSERT(access_exits(L2_RDMSR, msr, 0) == intercept_read,
			       "L2's RDMSR of 0x%x, L1 does%s intercept", msr,
			       intercept_read ? "" : "n't");
		__GUEST_ASSERT(intercept_read || (!l2_does.vector && l2_does.value == old),
			       "L2's RDMSR of 0x%x: wanted 0x%lx, got vector %u, 0x%lx",
			       msr, old, l2_does.vector, l2_does.value);

		__GUEST_ASSERT(access_exits(L2_WRMSR, msr, new) == intercept_write,
			       "L2's WRMSR of 0x%x, L1 does%s intercept", msr,
			       intercept_write ? "" : "n't");
		__GUEST_ASSERT(!l2_does.vector && rdmsr(msr) == (intercept_write ? old : new),
			       "L2's WRMSR of 0x%lx to 0x%x: vector %u, L1 reads 0x%lx",
			       new, msr, l2_does.vector, rdmsr(msr));
	}
	intercept_msr(msr, false, false);
}

/* One that the guest doesn't have.  L1's intercept comes first. */
static void check_absent_msr(uint32_t msr)
{
	GUEST_ASSERT(!access_exits(L2_RDMSR, msr, 0));
	GUEST_ASSERT_EQ(l2_does.vector, GP_VECTOR);
	GUEST_ASSERT(!access_exits(L2_WRMSR, msr, 0));
	GUEST_ASSERT_EQ(l2_does.vector, GP_VECTOR);

	intercept_msr(msr, true, true);
	GUEST_ASSERT(access_exits(L2_RDMSR, msr, 0));
	GUEST_ASSERT(access_exits(L2_WRMSR, msr, 0));
	intercept_msr(msr, false, false);
}

static void check_rdpmc(uint32_t index, bool exists, uint64_t expected)
{
	intercept_rdpmc(false);
	GUEST_ASSERT(!access_exits(L2_RDPMC, index, 0));
	if (exists)
		__GUEST_ASSERT(!l2_does.vector && l2_does.value == expected,
			       "L2's RDPMC of 0x%x: wanted 0x%lx, got vector %u, 0x%lx",
			       index, expected, l2_does.vector, l2_does.value);
	else
		GUEST_ASSERT_EQ(l2_does.vector, GP_VECTOR);

	/* The exit comes before the #GP on Intel, and should come after it on AMD. */
	if (!exists && !host_cpu_is_intel)
		return;

	intercept_rdpmc(true);
	GUEST_ASSERT(access_exits(L2_RDPMC, index, 0));
	intercept_rdpmc(false);
}

static void check_accesses(void)
{
	uint64_t value;
	int i, r;

	for_each_counter(i) {
		write_counter(i, 0x1000 + i);
		check_rdpmc(rdpmc_index(i), true, 0x1000 + i);

		if (is_fixed(i)) {
			check_msr(counter_msr(i), 0x2000 + i, 0x3000 + i);
			continue;
		}
		for (r = 0; r < pmu.nr_ranges; r++) {
			if (counter_alias(i, r))
				check_msr(counter_alias(i, r), 0x2000 + i, 0x3000 + i);
		}
		check_msr(eventsel_msr(i), pmu.instructions, pmu.branches);
	}
	if (pmu.fixed_ctrl)
		check_msr(pmu.fixed_ctrl, 0, FIXED_PMC_CTRL(0, FIXED_PMC_USER));
	check_msr(pmu.global_ctrl, 0, pmu.counters);
	check_msr(pmu.global_ctrl, pmu.counters, BIT_ULL(0));

	/* The status: read only, and set by an overflow */
	reset_pmu();
	select_event(0, pmu.instructions, KERNEL);
	write_counter(0, -1);
	run_block(BIT_ULL(0));
	value = rdmsr(pmu.global_status);
	GUEST_ASSERT_EQ(value, BIT_ULL(0));
	GUEST_ASSERT(!access_exits(L2_RDMSR, pmu.global_status, 0));
	GUEST_ASSERT_EQ(l2_does.value, value);
	intercept_msr(pmu.global_status_clear, true, true);
	GUEST_ASSERT(access_exits(L2_WRMSR, pmu.global_status_clear, value));
	GUEST_ASSERT_EQ(rdmsr(pmu.global_status), value);
	intercept_msr(pmu.global_status_clear, false, false);
	GUEST_ASSERT(!access_exits(L2_WRMSR, pmu.global_status_clear, value));
	GUEST_ASSERT_EQ(rdmsr(pmu.global_status), 0);
	reset_pmu();

	check_rdpmc(pmu.nr_gp, false, 0);
	check_rdpmc(INTEL_RDPMC_FIXED | pmu.nr_fixed, false, 0);
	if (host_cpu_is_intel) {
		check_absent_msr(MSR_CORE_PERF_FIXED_CTR0 + pmu.nr_fixed);
		check_absent_msr(MSR_IA32_PEBS_ENABLE);
	} else {
		check_absent_msr(MSR_F15H_PERF_CTR0 + 2 * pmu.nr_gp);
	}
}

/* With the PMU in memory, and with it in the hardware */
static void guest_accesses(void)
{
	prepare_l2();

	reset_pmu();
	check_accesses();

	select_event(0, pmu.instructions, KERNEL);
	run_block(BIT_ULL(0));
	reset_pmu();
	check_accesses();

	GUEST_DONE();
}

static bool branches_denied;

/* In L2; all that is written is KVM's business alone. */
static void l2_counts(void)
{
	const uint64_t selector = pmu.branches | ARCH_PERFMON_EVENTSEL_ENABLE |
				  ARCH_PERFMON_EVENTSEL_OS;
	int i;

	for_each_counter(i) {
		if (can_count(i, pmu.instructions)) {
			reset_pmu();
			select_event(i, pmu.instructions, KERNEL);
			run_block(BIT_ULL(i));
			assert_counter(i, BLOCK_INSNS, "instructions of L2");
		}
		if (can_count(i, pmu.branches)) {
			reset_pmu();
			select_event(i, pmu.branches, KERNEL);
			GUEST_ASSERT_EQ(rdmsr(eventsel_msr(i)), selector);
			run_block(BIT_ULL(i));
			assert_counter(i, branches_denied ? 0 : BLOCK_BRANCHES,
				       "branches of L2");
			GUEST_ASSERT_EQ(rdmsr(eventsel_msr(i)), selector);
		}
	}
	l2_done();
}

static void guest_control(void)
{
	prepare_l2();
	GUEST_ASSERT_EQ(run_l2(l2_counts), L2_DONE);
	GUEST_DONE();
}

static struct {
	uint32_t count;
	uint32_t nmis;
} seen;

static bool use_nmi;
static bool l1_intercepts;
static int pmi_counter;

static void handle_pmi(struct ex_regs *regs)
{
	seen.count++;
	if (regs->vector == NMI_VECTOR)
		seen.nmis++;
	else
		x2apic_write_reg(APIC_EOI, 0);
}

static void let_interrupts_in(void)
{
	asm volatile("sti; nop; cli");
}

static void l2_overflows(void)
{
	if (!l1_intercepts)
		asm volatile("sti");
	run_block(BIT_ULL(pmi_counter));
	if (!l1_intercepts) {
		let_interrupts_in();
		GUEST_ASSERT_EQ(seen.count, 1);
	}
	l2_done();
}

static void guest_pmi(void)
{
	const enum l2_exit pmi_exit = use_nmi ? L2_NMI : L2_INTERRUPT;
	/* VM exit has consumed an NMI; anything else is L1's to take. */
	const uint32_t taken = use_nmi && l1_intercepts && host_cpu_is_intel ? 0 : 1;
	int i;

	prepare_l2();
	x2apic_enable();
	intercept_interrupts(l1_intercepts);

	for_each_counter(i) {
		reset_pmu();
		select_event(i, pmu.instructions, KERNEL | PMI);
		write_counter(i, can_count(i, pmu.instructions) ? -(BLOCK_INSNS / 2) : -1);
		x2apic_write_reg(APIC_LVTPC, use_nmi ? APIC_DM_NMI : PMI_VECTOR);
		memset(&seen, 0, sizeof(seen));
		pmi_counter = i;

		if (l1_intercepts) {
			GUEST_ASSERT_EQ(run_l2(l2_overflows), pmi_exit);
			GUEST_ASSERT_EQ(rdmsr(pmu.global_status), BIT_ULL(i));
			GUEST_ASSERT_EQ(rdmsr(pmu.global_ctrl), BIT_ULL(i));

			/* Back to where NMIs aren't blocked any more */
			if (use_nmi && host_cpu_is_intel)
				asm volatile("mov %%ss, %%eax\n\t"
					     "mov %%rsp, %%rcx\n\t"
					     "push %%rax\n\t"
					     "push %%rcx\n\t"
					     "pushf\n\t"
					     "mov %%cs, %%eax\n\t"
					     "push %%rax\n\t"
					     "lea 1f(%%rip), %%rax\n\t"
					     "push %%rax\n\t"
					     "iretq\n\t"
					     "1:\n\t"
					     : : : "rax", "rcx", "cc", "memory");
			let_interrupts_in();
			GUEST_ASSERT_EQ(seen.count, taken);
			GUEST_ASSERT_EQ(resume_l2(0), L2_DONE);
		} else {
			GUEST_ASSERT_EQ(run_l2(l2_overflows), L2_DONE);
		}

		let_interrupts_in();
		GUEST_ASSERT_EQ(seen.count, taken);
		GUEST_ASSERT_EQ(seen.nmis, use_nmi ? taken : 0);
		GUEST_ASSERT_EQ(rdmsr(pmu.global_status), BIT_ULL(i));
	}
	GUEST_DONE();
}

static uint64_t l2_global_ctrl;

static void l2_reads_global_ctrl(void)
{
	l2_global_ctrl = rdmsr(pmu.global_ctrl);
	l2_done();
}

#define VMXERR_INVALID_HOST_STATE	8

static void guest_vmx_global_ctrl(void)
{
	const uint64_t l2_counter = BIT_ULL(1), l1_counter = BIT_ULL(0);
	const uint32_t loops[] = { 1, 100, 5000 };
	int i, n;

	prepare_l2();
	launch_l2();

	vmx_set_control(VM_ENTRY_CONTROLS, VM_ENTRY_LOAD_IA32_PERF_GLOBAL_CTRL, true);
	vmx_set_control(VM_EXIT_CONTROLS, VM_EXIT_LOAD_IA32_PERF_GLOBAL_CTRL, true);
	vmwrite(GUEST_IA32_PERF_GLOBAL_CTRL, l2_counter);
	vmwrite(HOST_IA32_PERF_GLOBAL_CTRL, l1_counter);

	reset_pmu();
	GUEST_ASSERT_EQ(run_l2(l2_reads_global_ctrl), L2_DONE);
	GUEST_ASSERT_EQ(l2_global_ctrl, l2_counter);
	GUEST_ASSERT_EQ(rdmsr(pmu.global_ctrl), l1_counter);

	/* Each counter counts its own, and nothing of the other. */
	for (n = 0; n < ARRAY_SIZE(loops); n++) {
		l2_loops = loops[n];
		reset_pmu();
		select_event(0, pmu.instructions, KERNEL);
		select_event(1, pmu.instructions, KERNEL);
		run_block_with_l2(l1_counter);
		assert_counter(0, L1_INSNS, "global control of L1");
		assert_counter(1, L2_INSNS, "global control of L2");

		/* Off in L1 until VM exit switches it on */
		reset_pmu();
		select_event(0, pmu.instructions, KERNEL);
		select_event(1, pmu.instructions, KERNEL);
		run_block_with_l2(0);
		assert_counter(0, L1_INSNS - 1, "global control loaded by VM exit");
		assert_counter(1, L2_INSNS, "global control loaded by VM entry");
	}

	/* Only one of the two: what isn't loaded stays. */
	vmx_set_control(VM_EXIT_CONTROLS, VM_EXIT_LOAD_IA32_PERF_GLOBAL_CTRL, false);
	reset_pmu();
	GUEST_ASSERT_EQ(run_l2(l2_reads_global_ctrl), L2_DONE);
	GUEST_ASSERT_EQ(l2_global_ctrl, l2_counter);
	GUEST_ASSERT_EQ(rdmsr(pmu.global_ctrl), l2_counter);

	vmx_set_control(VM_ENTRY_CONTROLS, VM_ENTRY_LOAD_IA32_PERF_GLOBAL_CTRL, false);
	vmx_set_control(VM_EXIT_CONTROLS, VM_EXIT_LOAD_IA32_PERF_GLOBAL_CTRL, true);
	reset_pmu();
	GUEST_ASSERT_EQ(run_l2(l2_reads_global_ctrl), L2_DONE);
	GUEST_ASSERT_EQ(l2_global_ctrl, 0);
	GUEST_ASSERT_EQ(rdmsr(pmu.global_ctrl), l1_counter);
	vmx_set_control(VM_ENTRY_CONTROLS, VM_ENTRY_LOAD_IA32_PERF_GLOBAL_CTRL, true);

	/* What the guest doesn't have can't be loaded. */
	for (i = 0; i < 64; i++) {
		if (pmu.counters & BIT_ULL(i))
			continue;

		wrmsr(pmu.global_ctrl, 0);
		vmwrite(GUEST_IA32_PERF_GLOBAL_CTRL, BIT_ULL(i));
		GUEST_ASSERT_EQ(run_l2(l2_done), L2_FAILED_ENTRY);
		vmwrite(GUEST_IA32_PERF_GLOBAL_CTRL, l2_counter);

		wrmsr(pmu.global_ctrl, 0);
		vmwrite(HOST_IA32_PERF_GLOBAL_CTRL, BIT_ULL(i));
		GUEST_ASSERT(vmresume());
		GUEST_ASSERT_EQ(vmreadz(VM_INSTRUCTION_ERROR), VMXERR_INVALID_HOST_STATE);
		GUEST_ASSERT_EQ(rdmsr(pmu.global_ctrl), 0);
		vmwrite(HOST_IA32_PERF_GLOBAL_CTRL, l1_counter);
	}

	reset_pmu();
	GUEST_DONE();
}

/*
 * A write to EFER counts in the mode that it ends.
 *
 *   before	mov, mov, mov, wrmsr
 *   after	10 nop, mov, xor, xor, wrmsr
 */
#define BEFORE_EFER_INSNS	4
#define AFTER_EFER_INSNS	14

static void run_block_with_efer(uint64_t counters, uint64_t before, uint64_t after)
{
	uint32_t eax = counters, edx = counters >> 32, ecx = pmu.global_ctrl;

	wrmsr(MSR_EFER, before);
	asm volatile("wrmsr\n\t"
		     "mov $" __stringify(MSR_EFER) ", %%ecx\n\t"
		     "mov %[low], %%eax\n\t"
		     "mov %[high], %%edx\n\t"
		     "wrmsr\n\t"
		     ".fill 10, 1, 0x90\n\t"
		     "mov %[ctrl], %%ecx\n\t"
		     "xor %%eax, %%eax\n\t"
		     "xor %%edx, %%edx\n\t"
		     "wrmsr\n\t"
		     : "+&a"(eax), "+&d"(edx), "+&c"(ecx)
		     : [low]"r"((uint32_t)after), [high]"r"((uint32_t)(after >> 32)),
		       [ctrl]"r"(pmu.global_ctrl)
		     : "cc", "memory");
}

static void guest_svm_host_guest_only(void)
{
	const uint64_t guest_only = AMD_EVENTSEL_GUEST_ONLY;
	const uint64_t host_only = AMD_EVENTSEL_HOST_ONLY;
	const struct {
		uint64_t bits;
		bool l1, l2, svm_off;
	} modes[] = {
		{ 0, true, true, true },
		{ guest_only, false, true, false },
		{ host_only, true, false, false },
		{ guest_only | host_only, true, true, true },
	};
	uint64_t selector, svm_off, svm_on;
	int i, m;

	prepare_l2();
	l2_loops = 20;
	svm_on = rdmsr(MSR_EFER);
	svm_off = svm_on & ~EFER_SVME;

	for_each_counter(i) {
		for (m = 0; m < ARRAY_SIZE(modes); m++) {
			reset_pmu();
			selector = pmu.instructions | ARCH_PERFMON_EVENTSEL_ENABLE |
				   ARCH_PERFMON_EVENTSEL_OS | modes[m].bits;
			wrmsr(eventsel_msr(i), selector);
			GUEST_ASSERT_EQ(rdmsr(eventsel_msr(i)), selector);

			run_block_with_l2(BIT_ULL(i));
			assert_counter(i, (modes[m].l1 ? L1_INSNS : 0) +
					  (modes[m].l2 ? L2_INSNS : 0), "L1 and L2");

			write_counter(i, 0);
			run_block(BIT_ULL(i));
			assert_counter(i, modes[m].l1 ? BLOCK_INSNS : 0, "L1 alone");

			write_counter(i, 0);
			run_block_with_efer(BIT_ULL(i), svm_on, svm_off);
			assert_counter(i, (modes[m].l1 ? BEFORE_EFER_INSNS : 0) +
					  (modes[m].svm_off ? AFTER_EFER_INSNS : 0),
				       "SVM turned off");

			write_counter(i, 0);
			run_block(BIT_ULL(i));
			assert_counter(i, modes[m].svm_off ? BLOCK_INSNS : 0,
				       "not a hypervisor");

			write_counter(i, 0);
			run_block_with_efer(BIT_ULL(i), svm_off, svm_on);
			assert_counter(i, (modes[m].svm_off ? BEFORE_EFER_INSNS : 0) +
					  (modes[m].l1 ? AFTER_EFER_INSNS : 0),
				       "SVM turned on");
		}
	}
	reset_pmu();
	GUEST_DONE();
}

static uint64_t seen_by_l2;

static void l2_takes_turns(void)
{
	for (;;)
		seen_by_l2 = take_turn(0);
}

static void guest_turns(void)
{
	prepare_l2();

	reset_pmu();
	select_event(0, pmu.instructions, KERNEL);
	wrmsr(pmu.global_ctrl, BIT_ULL(0));
	run_l2(l2_takes_turns);
	GUEST_FAIL("L2 exited to L1");
}

static struct kvm_vm *create_vm(struct kvm_vcpu **vcpu, void *guest_code)
{
	struct kvm_vm *vm = vm_create_with_one_vcpu(vcpu, guest_code);
	vm_vaddr_t gva, pages;

	pmu_sync(vm);
	sync_global_to_guest(vm, use_nmi);
	sync_global_to_guest(vm, l1_intercepts);
	sync_global_to_guest(vm, branches_denied);

	if (host_cpu_is_intel) {
		vcpu_alloc_vmx(vm, &gva);
		write_guest_global(vm, vmx, (void *)gva);
	} else {
		vcpu_alloc_svm(vm, &gva);
		write_guest_global(vm, svm, (void *)gva);
		pages = vm_vaddr_alloc_pages(vm, 2);
		memset(addr_gva2hva(vm, pages), 0, 2 * PAGE_SIZE);
		write_guest_global(vm, msrpm, (void *)pages);
		write_guest_global(vm, msrpm_gpa, addr_gva2gpa(vm, pages));
	}

	vm_install_exception_handler(vm, PMI_VECTOR, handle_pmi);
	vm_install_exception_handler(vm, NMI_VECTOR, handle_pmi);
	return vm;
}

static void run_guest_code(void *guest_code)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	vm = create_vm(&vcpu, guest_code);
	run_vcpu(vcpu);
	kvm_vm_free(vm);
}

static void deny_branches(struct kvm_vm *vm)
{
	struct {
		struct kvm_pmu_event_filter head;
		uint64_t events[1];
	} filter = {
		.head = { .action = KVM_PMU_EVENT_DENY, .nevents = 1 },
		.events = { pmu.branches },
	};

	vm_ioctl(vm, KVM_SET_PMU_EVENT_FILTER, &filter.head);
}

static void test_filter(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	branches_denied = true;
	vm = create_vm(&vcpu, guest_control);
	deny_branches(vm);
	run_vcpu(vcpu);
	kvm_vm_free(vm);
	branches_denied = false;
}

static void go_to_another_cpu(void)
{
	int cpu = sched_getcpu(), i;
	cpu_set_t set;

	for (i = 1; i < CPU_SETSIZE; i++) {
		CPU_ZERO(&set);
		CPU_SET((cpu + i) % CPU_SETSIZE, &set);
		if (!sched_setaffinity(0, sizeof(set), &set))
			return;
	}
	pr_info("Not tested for want of a second CPU: moving\n");
}

/* L2 has its turns in a VM that is moved to another CPU, or replaced by another. */
static void test_turns(void)
{
	struct kvm_x86_state *state;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	uint64_t host_saw = 0, guest_saw;
	int n;

	vm = create_vm(&vcpu, guest_turns);

	for (n = 0; n < 10; n++) {
		run_to_turn(vcpu);
		if (n) {
			guest_saw = *(uint64_t *)addr_gva2hva(vm, (vm_vaddr_t)&seen_by_l2);
			TEST_ASSERT(guest_saw == host_saw + TURN_INSNS,
				    "After user space's 0x%lx L2 saw 0x%lx, not %d more",
				    host_saw, guest_saw, TURN_INSNS);
		}

		host_saw = vcpu_get_msr(vcpu, counter_msr(0));
		TEST_ASSERT(host_saw, "The counter stands still");

		if (n % 2) {
			go_to_another_cpu();
			continue;
		}

		state = vcpu_save_state(vcpu);
		TEST_ASSERT(state->nested.hdr.vmx.vmcs12_pa != -1ull &&
			    state->nested.flags & KVM_STATE_NESTED_GUEST_MODE,
			    "The vCPU isn't in L2");
		kvm_vm_release(vm);
		vcpu = vm_recreate_with_one_vcpu(vm);
		vcpu_load_state(vcpu, state);
		kvm_x86_state_cleanup(state);
		TEST_ASSERT_EQ(vcpu_get_msr(vcpu, counter_msr(0)), host_saw);
	}

	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	int mode;

	pmu_require_mediated();
	TEST_REQUIRE(kvm_cpu_has(host_cpu_is_intel ? X86_FEATURE_VMX : X86_FEATURE_SVM));
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_NESTED_STATE));

	TEST_REQUIRE(pmu.nr_gp >= 2);

	run_guest_code(guest_counts);
	run_guest_code(guest_accesses);
	run_guest_code(guest_control);
	test_filter();

	for (mode = 0; mode < 4; mode++) {
		use_nmi = mode & 1;
		l1_intercepts = mode & 2;
		run_guest_code(guest_pmi);
	}

	if (host_cpu_is_intel)
		run_guest_code(guest_vmx_global_ctrl);
	else
		run_guest_code(guest_svm_host_guest_only);

	test_turns();
	return 0;
}
