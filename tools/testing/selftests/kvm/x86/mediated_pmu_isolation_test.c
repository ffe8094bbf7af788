// SPDX-License-Identifier: GPL-2.0-only
/*
 * A mediated PMU counts one guest, and shows its counters to nobody else.
 *
 *  - Exits: however the guest leaves for the host, and whatever the host does
 *    meanwhile in user mode and in the kernel, nothing of it is in the
 *    guest's counts: instructions, branches and cycles for kernel mode, for
 *    user mode and for both.  The kinds of exit: to user space by port and by
 *    memory, CPUID, hypercall, an intercepted MSR, one that KVM handles without
 *    leaving its run loop, a page fault of KVM's, and being preempted.
 *  - Guests: VMs that take turns on one CPU, with a value of its own in each
 *    counter and a selection of its own; each finds what it left there.
 *    A VM with fewer counters faults on those it lacks, and one without a PMU
 *    on all.
 *  - Host: a task that may use RDPMC in user mode never reads a guest's counters.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <setjmp.h>
#include <sys/ioctl.h>

#include "mediated_pmu.h"
#include "mediated_pmu_event.h"

#define MMIO_GPA	0xd0000000ull
#define MMIO_GVA	0xd0000000ull

/* Fresh memory, a page fault of KVM's for each page */
#define NR_PAGES	64
static uint8_t pages[NR_PAGES][PAGE_SIZE] __aligned(PAGE_SIZE);

/*
 * The block with exits: ROUNDS times the instruction that exits, with those that
 * set it up.  ESI counts the rounds.
 *
 *   before	mov
 *   each	setup, exit, dec, jnz (branch)
 *   after	mov, xor, xor, wrmsr
 */
#define ROUNDS		20
#define EXITS_INSNS(setup) (1 + ROUNDS * (1 + (setup) + 2) + 4)
#define EXITS_BRANCHES	ROUNDS

#define RUN_EXITS(counters, exit, inputs...)				\
do {									\
	uint64_t __counters = (counters);				\
	uint32_t __eax = __counters, __edx = __counters >> 32;		\
	uint32_t __ecx = pmu.global_ctrl;				\
									\
	asm volatile("wrmsr\n\t"					\
		     "mov $" __stringify(ROUNDS) ", %%esi\n\t"		\
		     "1: " exit "\n\t"					\
		     "dec %%esi\n\t"					\
		     "jnz 1b\n\t"					\
		     "mov %[ctrl], %%ecx\n\t"				\
		     "xor %%eax, %%eax\n\t"				\
		     "xor %%edx, %%edx\n\t"				\
		     "wrmsr\n\t"					\
		     : "+&a"(__eax), "+&d"(__edx), "+&c"(__ecx)		\
		     : [ctrl]"r"(pmu.global_ctrl), ##inputs		\
		     : "rbx", "rsi", "cc", "memory");			\
} while (0)

enum {
	EXIT_PORT,
	EXIT_MMIO,
	EXIT_CPUID,
	EXIT_HYPERCALL,
	EXIT_MSR,
	EXIT_FASTPATH,
	EXIT_FAULT,
	EXIT_PREEMPTED,
	NR_EXITS,
};

/* Long enough to be preempted by the scheduler's tick */
#define SPINS	200000

static const struct {
	const char *name;
	uint32_t insns;
	uint32_t branches;
} exits[] = {
	[EXIT_PORT]	 = { "port",	  EXITS_INSNS(0), EXITS_BRANCHES },
	[EXIT_MMIO]	 = { "MMIO",	  EXITS_INSNS(0), EXITS_BRANCHES },
	[EXIT_CPUID]	 = { "CPUID",	  EXITS_INSNS(2), EXITS_BRANCHES },
	[EXIT_HYPERCALL] = { "hypercall", EXITS_INSNS(1), EXITS_BRANCHES },
	[EXIT_MSR]	 = { "MSR",	  EXITS_INSNS(1), EXITS_BRANCHES },
	[EXIT_FASTPATH]	 = { "fast path", EXITS_INSNS(3), EXITS_BRANCHES },
	[EXIT_FAULT]	 = { "fault",	  EXITS_INSNS(2), EXITS_BRANCHES },
	/* mov, and SPINS times dec and jnz (branch), instead of one instruction */
	[EXIT_PREEMPTED] = { "preempted", EXITS_INSNS(2 * SPINS),
			     EXITS_BRANCHES + ROUNDS * SPINS },
};

static void run_exits(int kind, uint64_t counters)
{
	switch (kind) {
	case EXIT_PORT:
		RUN_EXITS(counters, "out %%al, $" __stringify(PORT));
		break;
	case EXIT_MMIO:
		RUN_EXITS(counters, "mov %[gva], %%eax", [gva]"m"(*(uint32_t *)MMIO_GVA));
		break;
	case EXIT_CPUID:
		RUN_EXITS(counters, "xor %%eax, %%eax\n\txor %%ecx, %%ecx\n\tcpuid");
		break;
	case EXIT_HYPERCALL:
		/* KVM_HC_VAPIC_POLL_IRQ does nothing. */
		if (host_cpu_is_amd)
			RUN_EXITS(counters, "mov $1, %%eax\n\tvmmcall");
		else
			RUN_EXITS(counters, "mov $1, %%eax\n\tvmcall");
		break;
	case EXIT_MSR:
		/* MISC_ENABLE */
		RUN_EXITS(counters, "mov $0x1a0, %%ecx\n\trdmsr");
		break;
	case EXIT_FASTPATH:
		/* TSC_DEADLINE, never */
		RUN_EXITS(counters,
			  "mov $0x6e0, %%ecx\n\txor %%eax, %%eax\n\txor %%edx, %%edx\n\twrmsr");
		break;
	case EXIT_FAULT:
		RUN_EXITS(counters,
			  "mov %%esi, %%eax\n\tshl $12, %%eax\n\tmovb $1, (%[pages], %%rax)",
			  [pages]"r"(pages));
		break;
	case EXIT_PREEMPTED:
		RUN_EXITS(counters,
			  "mov $" __stringify(SPINS) ", %%eax\n\t2: dec %%eax\n\tjnz 2b");
		break;
	}
}

static int exit_kind;

/* Host user space runs in user mode, the guest doesn't: flags shows who was counted. */
static void guest_exits(void)
{
	const int flags[] = { KERNEL, USER, KERNEL | USER };
	uint64_t count, expected;
	int i, f, e;

	x2apic_enable();
	/* TSC deadline mode, masked */
	x2apic_write_reg(APIC_LVTT, APIC_LVT_MASKED | APIC_LVT_TIMER_TSCDEADLINE | 0x40);

	for (f = 0; f < ARRAY_SIZE(flags); f++) {
		reset_pmu();
		for_each_counter(i)
			select_event(i, i % 2 ? pmu.branches : pmu.instructions, flags[f]);

		run_exits(exit_kind, pmu.counters);

		for_each_counter(i) {
			e = is_fixed(i) ? 0 : i % 2;
			count = read_counter(i);
			expected = e ? exits[exit_kind].branches : exits[exit_kind].insns;
			if (!(flags[f] & KERNEL))
				expected = 0;

			/* Cycles: none is exact too. */
			if (i > FIXED_BASE && expected) {
				__GUEST_ASSERT(count, "%s, counter %d stands still",
					       exits[exit_kind].name, i);
				continue;
			}

			__GUEST_ASSERT(count == expected,
				       "%s, counter %d, modes %d: wanted %lu, got %lu",
				       exits[exit_kind].name, i, flags[f], expected, count);
		}
		GUEST_SYNC(f);
	}

	GUEST_DONE();
}

/* What the host does while the guest is out: user mode, and kernel mode. */
static void be_busy(void)
{
	int i;

	for (i = 0; i < 1000; i++)
		asm volatile("nop");
	sched_yield();
}

static bool stop;
static uint64_t turns_in_the_way;

static void *be_in_the_way(void *unused)
{
	pin_self_to_cpu(0);
	while (!READ_ONCE(stop)) {
		be_busy();
		WRITE_ONCE(turns_in_the_way, turns_in_the_way + 1);
	}
	return NULL;
}

static void test_exits(int kind)
{
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	struct kvm_vm *vm;
	struct ucall uc;
	int nr = 0;

	pr_info("Exits: %s\n", exits[kind].name);
	exit_kind = kind;

	vm = vm_create_with_one_vcpu(&vcpu, guest_exits);
	pmu_sync(vm);
	sync_global_to_guest(vm, exit_kind);
	virt_pg_map(vm, MMIO_GVA, MMIO_GPA);

	stop = false;
	if (kind == EXIT_PREEMPTED)
		pthread_create(&thread, NULL, be_in_the_way, NULL);

	for (;;) {
		uint64_t turns = READ_ONCE(turns_in_the_way);

		vcpu_run(vcpu);
		be_busy();

		if (vcpu->run->exit_reason == KVM_EXIT_MMIO) {
			TEST_ASSERT_EQ(vcpu->run->mmio.phys_addr, MMIO_GPA);
			nr++;
			continue;
		}

		TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
		if (vcpu->run->io.port == PORT) {
			nr++;
			continue;
		}

		switch (get_ucall(vcpu, &uc)) {
		case UCALL_SYNC:
			TEST_ASSERT(kind != EXIT_PREEMPTED ||
				    READ_ONCE(turns_in_the_way) != turns,
				    "The guest was not preempted");
			/* The pages are new again. */
			if (kind == EXIT_FAULT)
				madvise(addr_gva2hva(vm, (vm_vaddr_t)pages), sizeof(pages),
					MADV_DONTNEED);
			continue;
		case UCALL_ABORT:
			REPORT_GUEST_ASSERT(uc);
		case UCALL_DONE:
			break;
		default:
			TEST_FAIL("Unexpected ucall %lu", uc.cmd);
		}
		break;
	}

	if (kind == EXIT_PORT || kind == EXIT_MMIO)
		TEST_ASSERT_EQ(nr, 3 * ROUNDS);

	if (kind == EXIT_PREEMPTED) {
		WRITE_ONCE(stop, true);
		pthread_join(thread, NULL);
	}
	kvm_vm_free(vm);
}

/*
 * A value that nobody counts to: the VM's number in the upper half, the turn
 * and the counter below.
 */
#define SENTINEL_MARK	0x5a00
#define SENTINEL(vm, turn, i)						\
	((uint64_t)(SENTINEL_MARK | (vm)) << 32 | (uint64_t)(turn) << 8 | (i))

static bool is_sentinel(uint64_t value)
{
	return (value >> 32 & 0xff00) == SENTINEL_MARK;
}

static uint32_t vm_number;

static void guest_takes_turns(void)
{
	const uint64_t event = vm_number % 2 ? pmu.branches : pmu.instructions;
	uint32_t turn;
	uint64_t value;
	uint8_t vector;
	int i;

	/* Nothing is left of those who were here before. */
	for_each_counter(i)
		GUEST_ASSERT_EQ(read_counter(i), 0);

	for (turn = 0;; turn++) {
		reset_pmu();
		for_each_counter(i) {
			wrmsr(counter_msr(i), SENTINEL(vm_number, turn, i));
			if ((i ^ vm_number) & 1)
				select_event(i, event, KERNEL | USER);
		}

		/* Globally off in one turn, on for the exit in the next */
		if (turn % 2)
			wrmsr(pmu.global_ctrl, pmu.counters);
		GUEST_SYNC(turn);
		wrmsr(pmu.global_ctrl, 0);

		for_each_counter(i) {
			value = read_counter(i);
			if (turn % 2 && (i ^ vm_number) & 1) {
				/* Some of the guest's own, for getting there and back */
				value -= SENTINEL(vm_number, turn, i);
				__GUEST_ASSERT(value && value < 100000,
					       "VM %u, turn %u, counter %d: %lu more",
					       vm_number, turn, i, value);
				continue;
			}
			__GUEST_ASSERT(value == SENTINEL(vm_number, turn, i),
				       "VM %u, turn %u, counter %d: wanted 0x%lx, got 0x%lx",
				       vm_number, turn, i, SENTINEL(vm_number, turn, i), value);
		}

		/* Whatever index, a value of this VM's or a fault */
		for (i = 0; i < 32; i++) {
			vector = rdpmc_safe(i, &value);
			__GUEST_ASSERT(vector == (pmu.counters & BIT_ULL(i) ? 0 : GP_VECTOR),
				       "VM %u: RDPMC of %d: vector %u, value 0x%lx",
				       vm_number, i, vector, value);
			vector = rdpmc_safe(i | INTEL_RDPMC_FIXED, &value);
			__GUEST_ASSERT(vector == (pmu.counters >> 32 & BIT_ULL(i) ? 0 : GP_VECTOR),
				       "VM %u: RDPMC of fixed %d: vector %u, value 0x%lx",
				       vm_number, i, vector, value);
		}
	}
}

static void guest_without_pmu(void)
{
	uint64_t value;
	int i;

	for (;;) {
		for (i = 0; i < 32; i++) {
			GUEST_ASSERT_EQ(rdpmc_safe(i, &value), GP_VECTOR);
			GUEST_ASSERT_EQ(rdpmc_safe(i | INTEL_RDPMC_FIXED, &value), GP_VECTOR);
		}
		for_each_counter(i) {
			if (counter_msr(i) > MSR_P6_PERFCTR1)
				GUEST_ASSERT_EQ(rdmsr_safe(counter_msr(i), &value), GP_VECTOR);
		}
		GUEST_ASSERT_EQ(rdmsr_safe(pmu.global_status, &value), GP_VECTOR);
		GUEST_ASSERT_EQ(rdmsr_safe(pmu.global_ctrl, &value), GP_VECTOR);
		/* These exist on any CPU, and read 0. */
		for (i = 0; i < 2; i++) {
			GUEST_ASSERT_EQ(rdmsr(MSR_P6_PERFCTR0 + i), 0);
			GUEST_ASSERT_EQ(rdmsr(MSR_K7_PERFCTR0 + i), 0);
		}

		GUEST_SYNC(0);
	}
}

/* User-mode RDPMC for this task: an event with a mapped page allows it. */
static int allow_rdpmc(void)
{
	struct perf_event_mmap_page *page;
	struct perf_event_attr attr = user_instructions();
	int fd;

	attr.disabled = 0;
	fd = open_perf_event(&attr, 0, -1, -1, 0);
	page = mmap(NULL, PAGE_SIZE, PROT_READ, MAP_SHARED, fd, 0);
	TEST_ASSERT(page != MAP_FAILED, "mmap failed: %s", strerror(errno));
	__TEST_REQUIRE(page->cap_user_rdpmc, "RDPMC in user mode is not allowed");
	return fd;
}

static sigjmp_buf faulted;

static void on_fault(int sig)
{
	siglongjmp(faulted, 1);
}

static bool rdpmc_as_host(uint32_t index, uint64_t *value)
{
	if (sigsetjmp(faulted, 1))
		return false;

	*value = rdpmc(index);
	return true;
}

/* An index without a counter faults; without any counter, nothing is tested. */
static void scan_as_host(void)
{
	uint64_t value;
	int i, nr = 0;

	for (i = 0; i < 64; i++) {
		if (!rdpmc_as_host(i % 32 | (i & 32 ? INTEL_RDPMC_FIXED : 0), &value))
			continue;

		nr++;
		TEST_ASSERT(!is_sentinel(value), "RDPMC of %s%d in the host reads a guest's 0x%lx",
			    i & 32 ? "fixed " : "", i % 32, value);
	}
	TEST_ASSERT(nr >= pmu.nr_gp + pmu.nr_fixed, "Only %d counters can be read", nr);
}

static struct kvm_vm *create_turn_vm(struct kvm_vcpu **vcpu, uint32_t number,
				     uint32_t nr_gp, uint32_t nr_fixed)
{
	struct pmu whole = pmu;
	struct kvm_vm *vm;

	vm = vm_create_with_one_vcpu(vcpu, guest_takes_turns);
	vm_number = number;
	sync_global_to_guest(vm, vm_number);

	pmu_init_part(nr_gp, nr_fixed, pmu_has_full_width());
	pmu_limit_vcpu(*vcpu);
	pmu_sync(vm);
	pmu = whole;
	return vm;
}

static void run_turn(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);
	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		break;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("Unexpected ucall %lu, exit reason %s", uc.cmd,
			  exit_reason_str(vcpu->run->exit_reason));
	}
}

#define NR_VMS	4

static void test_turns(void)
{
	struct kvm_vcpu *vcpu[NR_VMS];
	struct kvm_vm *vm[NR_VMS];
	int n, v, fd;

	vm[0] = create_turn_vm(&vcpu[0], 0, pmu.nr_gp, pmu.nr_fixed);
	vm[1] = create_turn_vm(&vcpu[1], 1, pmu.nr_gp, pmu.nr_fixed);
	vm[2] = create_turn_vm(&vcpu[2], 2, 2, pmu.nr_fixed ? 1 : 0);

	vm[3] = vm_create(1);
	vm_enable_cap(vm[3], KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE);
	vcpu[3] = vm_vcpu_add(vm[3], 0, guest_without_pmu);
	pmu_sync(vm[3]);

	fd = allow_rdpmc();
	signal(SIGSEGV, on_fault);

	/* In turn, then in other orders and more than once in a row */
	for (n = 0; n < 200; n++) {
		v = n < 100 ? n % NR_VMS : (n * n / 3) % NR_VMS;
		run_turn(vcpu[v]);
		scan_as_host();
	}

	signal(SIGSEGV, SIG_DFL);
	close(fd);
	for (v = 0; v < NR_VMS; v++)
		kvm_vm_free(vm[v]);
}

static void *turns_thread(void *vcpu)
{
	int n;

	pin_self_to_cpu(0);
	for (n = 0; n < 200; n++) {
		run_turn(vcpu);
		sched_yield();
	}
	return NULL;
}

/* The same by two threads, for the scheduler's order */
static void test_threads(void)
{
	struct kvm_vcpu *vcpu[2];
	struct kvm_vm *vm[2];
	pthread_t thread[2];
	int v;

	for (v = 0; v < 2; v++) {
		vm[v] = create_turn_vm(&vcpu[v], v, pmu.nr_gp, pmu.nr_fixed);
		pthread_create(&thread[v], NULL, turns_thread, vcpu[v]);
	}
	for (v = 0; v < 2; v++) {
		pthread_join(thread[v], NULL);
		kvm_vm_free(vm[v]);
	}
}

int main(int argc, char *argv[])
{
	int kind;

	pmu_require_mediated();

	TEST_REQUIRE(pmu.nr_gp >= 2);

	pin_self_to_cpu(0);

	for (kind = 0; kind < NR_EXITS; kind++)
		test_exits(kind);
	test_turns();
	test_threads();

	return 0;
}
