// SPDX-License-Identifier: GPL-2.0-only
/*
 * Nothing that a guest or its user space does to a mediated PMU harms the host.
 *
 * One VM after the other is given a CPUID whose PMU makes no sense: any version,
 * number and width of counters and bitmap of events, in the leaves of both vendors.
 * Its guest does random operations:
 *
 *  - writes random values to any register that has to do with the PMU of any CPU, the
 *    guest's or not: counters at all their addresses, selectors, global control and
 *    status, PEBS, DS, LBR, PT, IBS, off-core response, PERF_METRICS, DEBUGCTL; and reads them
 *  - RDPMC of random indices
 *  - enables counters that are about to overflow, with any entry of the APIC for
 *    PMIs, and takes the PMIs, or doesn't
 *
 * and so does its user space, with KVM_SET_MSRS, KVM_GET_MSRS, event filters and
 * another CPUID.
 *
 * The host must not notice, see its log, and
 *
 *  - its own events are exact: instructions and branches that the host's code has in user
 *    mode are those that it has when no guest runs
 *  - its registers that no guest is offered are as they were, at each of the VM's exits
 *    to user space
 *  - the guest goes on: each operation either does something, or it is a #GP
 */
#include <fcntl.h>
#include <getopt.h>

#include "mediated_pmu_host.h"

/* Operations of the guest in a turn, turns in a measurement, measurements of a VM */
#define OPS		25
#define TURNS		10
#define MEASUREMENTS	4
#define VM_OPS		(OPS * TURNS * MEASUREMENTS)

static const struct msr_range {
	uint32_t first;
	uint32_t nr;
} msr_ranges[] = {
	{ 0xc1, 16 },			/* PERFCTR */
	{ 0x186, 16 },			/* EVNTSEL */
	{ 0x1a0, 1 },			/* MISC_ENABLE */
	{ 0x1a6, 2 },			/* off-core response */
	{ 0x1c8, 2 },			/* LBR_SELECT, LBR_TOS */
	{ 0x1d9, 1 },			/* DEBUGCTL */
	{ 0x1db, 4 },			/* last branch and exception */
	{ 0x309, 8 },			/* fixed counters */
	{ 0x329, 1 },			/* PERF_METRICS */
	{ 0x345, 1 },			/* PERF_CAPABILITIES */
	{ 0x38d, 6 },			/* FIXED_CTR_CTRL, GLOBAL_* */
	{ 0x3f1, 2 },			/* PEBS_ENABLE, PEBS_DATA_CFG */
	{ 0x3f6, 2 },			/* PEBS_LD_LAT, PEBS_FRONTEND */
	{ 0x4c1, 16 },			/* PERFCTR, full width */
	{ 0x560, 2 }, { 0x570, 3 },	/* PT */
	{ 0x580, 8 },			/* PT's address ranges */
	{ 0x600, 1 },			/* DS_AREA */
	{ 0x680, 32 }, { 0x6c0, 32 },	/* LBR from and to */
	{ 0xdc0, 32 },			/* LBR_INFO */
	{ 0x1200, 32 },			/* architectural LBR_INFO */
	{ 0x1309, 8 }, { 0x14c1, 16 },	/* reload of fixed and of GP counters */
	{ 0x14ce, 2 },			/* ARCH_LBR_CTL, ARCH_LBR_DEPTH */
	{ 0x1500, 32 }, { 0x1600, 32 },	/* architectural LBR from and to */
	{ 0x1900, 64 }, { 0x1980, 32 },	/* version 6: counters and their controls */
	{ 0xc000010e, 2 },		/* LBR_SELECT, DBG_EXTN_CFG */
	{ 0xc0000300, 4 },		/* PerfMonV2 */
	{ 0xc0010000, 8 },		/* K7's selectors and counters */
	{ 0xc0010200, 16 },		/* the core's */
	{ 0xc0010230, 12 },		/* of the last-level cache */
	{ 0xc0010240, 8 },		/* of the northbridge */
	{ 0xc0010300, 32 },		/* LBR */
	{ 0xc0010800, 16 },		/* of the memory controllers */
	{ 0xc0011030, 14 },		/* IBS */
};

/* Registers of the host that keep their values whatever a guest's PMU does */
static const uint32_t host_msrs[] = {
	0x1a0, 0x1a6, 0x1a7, 0x1c8, 0x1d9, 0x3f1, 0x3f2, 0x3f6, 0x3f7, 0x570, 0x600,
	0x14ce, 0x14cf, 0xc000010e, 0xc000010f, 0xc0011030, 0xc0011033, 0xc001103a,
};

/* Written by the guest, but for the seed */
static struct {
	uint32_t seed;
	uint32_t ops;
	uint32_t faults;
	uint32_t pmis;
} shared;

static uint32_t pick(struct guest_random_state *random, uint32_t nr)
{
	return guest_random_u32(random) % nr;
}

static uint32_t random_msr(struct guest_random_state *random)
{
	const struct msr_range *range = &msr_ranges[pick(random, ARRAY_SIZE(msr_ranges))];

	return range->first + pick(random, range->nr);
}

static int random_counter(struct guest_random_state *random)
{
	int i = pick(random, pmu.nr_gp + pmu.nr_fixed);

	return i < pmu.nr_gp ? i : FIXED_BASE + i - pmu.nr_gp;
}

static uint64_t random_value(struct guest_random_state *random)
{
	switch (pick(random, 8)) {
	case 0:
		return 0;
	case 1:
		return -1ull;
	case 2:
		return BIT_ULL(pick(random, 64));
	case 3:
		return ~BIT_ULL(pick(random, 64));
	case 4:
		return pmu.counters;
	case 5:
		return guest_random_u32(random);
	case 6:
		return (guest_random_bool(random) ? pmu.instructions : pmu.branches) |
		       (guest_random_u64(random) & 0xfffff0000);
	default:
		return guest_random_u64(random);
	}
}

static uint32_t random_rdpmc_index(struct guest_random_state *random)
{
	static const uint32_t flags[] = {
		0, 0, INTEL_RDPMC_FIXED, INTEL_RDPMC_METRICS, INTEL_RDPMC_FAST, 0xc0000000, 0x10000,
	};

	if (pick(random, 4))
		return flags[pick(random, ARRAY_SIZE(flags))] | pick(random, 40);

	return guest_random_u32(random);
}

/* Most of the time one that raises a PMI here; never one that ends the guest. */
static uint32_t random_lvtpc(struct guest_random_state *random)
{
	switch (pick(random, 6)) {
	case 0:
		return APIC_LVT_MASKED | PMI_VECTOR;
	case 1:
		return APIC_DM_NMI;
	case 2:
		return 32 + pick(random, 224);
	case 3:
		/* Vectors that can't be delivered */
		return pick(random, 16);
	default:
		return PMI_VECTOR;
	}
}

static void handle_nmi(struct ex_regs *regs)
{
	shared.pmis++;
}

static void handle_pmi(struct ex_regs *regs)
{
	shared.pmis++;
	if (shared.pmis % 2)
		wrmsr_safe(pmu.global_status_clear, pmu.counters);
	if (shared.pmis % 4)
		x2apic_write_reg(APIC_LVTPC, PMI_VECTOR);
	x2apic_write_reg(APIC_EOI, 0);
}

static uint8_t select_random_event(struct guest_random_state *random, int i)
{
	uint64_t value;

	if (is_fixed(i))
		return wrmsr_safe(pmu.fixed_ctrl, guest_random_u32(random) & 0xbbbb);

	value = guest_random_bool(random) ? pmu.instructions : pmu.branches;
	value |= ARCH_PERFMON_EVENTSEL_ENABLE | ARCH_PERFMON_EVENTSEL_OS;
	if (guest_random_bool(random))
		value |= ARCH_PERFMON_EVENTSEL_INT;

	return wrmsr_safe(eventsel_msr(i), value);
}

/* A counter that counts, and overflows soon; what the guest doesn't have is a #GP. */
static uint8_t start_counter(struct guest_random_state *random, int i)
{
	uint64_t value = -(uint64_t)pick(random, 500) & counter_mask(i);
	uint8_t vector;

	vector = wrmsr_safe(counter_msr(i), value);
	vector |= select_random_event(random, i);
	value = guest_random_bool(random) ? pmu.counters : BIT_ULL(i);
	vector |= wrmsr_safe(pmu.global_ctrl, value);

	return vector;
}

static uint8_t do_random_op(struct guest_random_state *random)
{
	int i = random_counter(random);
	uint32_t eax, ebx, ecx, edx;
	uint64_t value;

	switch (pick(random, 16)) {
	case 0 ... 4:
		return wrmsr_safe(random_msr(random), random_value(random));
	case 5:
		return rdmsr_safe(random_msr(random), &value);
	case 6:
		return rdpmc_safe(random_rdpmc_index(random), &value);
	case 7:
		return rdpmc_safe(rdpmc_index(i), &value);
	case 8:
		return select_random_event(random, i);
	case 9 ... 10:
		return start_counter(random, i);
	case 11:
		x2apic_write_reg(APIC_LVTPC, random_lvtpc(random));
		return 0;
	case 12:
		if (guest_random_bool(random))
			asm volatile("sti");
		else
			asm volatile("cli");
		return 0;
	case 13:
		/* On AMD, what counts when depends on it. */
		if (host_cpu_is_amd)
			return wrmsr_safe(MSR_EFER, rdmsr(MSR_EFER) ^ EFER_SVME);
		return wrmsr_safe(pmu.global_status_clear, random_value(random));
	case 14:
		__cpuid(pick(random, 2) ? 0xa : 0x80000022, 0, &eax, &ebx, &ecx, &edx);
		return 0;
	default:
		for (i = pick(random, 100); i; i--)
			cpu_relax();
		return 0;
	}
}

static void guest_code(void)
{
	struct guest_random_state random = new_guest_random_state(shared.seed);
	uint8_t vector;
	int i;

	x2apic_enable();
	x2apic_write_reg(APIC_LVTPC, PMI_VECTOR);
	asm volatile("sti");

	for (;;) {
		for (i = 0; i < OPS; i++) {
			vector = do_random_op(&random);
			GUEST_ASSERT(!vector || vector == GP_VECTOR);
			/* Not as a vector: exceptions don't save its registers. */
			WRITE_ONCE(shared.faults, shared.faults + !!vector);
			WRITE_ONCE(shared.ops, shared.ops + 1);
		}
		asm volatile("out %%al, $" __stringify(PORT) : : "a"(0));
	}
}

/* One kind of counters may be narrower than the hardware's, the other not. */
static bool mixed_widths;

/* All that a leaf of CPUID can say of a PMU, and the widths and numbers at the limits */
static void randomize_entry(struct kvm_cpuid_entry2 *entry, struct guest_random_state *random)
{
	const uint8_t numbers[] = { 0, 1, 2, 3, 4, 6, 7, 8, 9, 15, 16, 31, 32, 64, 255 };
	const uint8_t narrow[] = { 0, 1, 16, 31, 32, 40, 47 }, wide[] = { 48, 48, 63, 64, 255 };

	uint8_t gp_width, fixed_width;
	bool is_narrow;

	switch (entry->function) {
	case 0xa:
		is_narrow = !pick(random, 4);
		gp_width = is_narrow ? narrow[pick(random, ARRAY_SIZE(narrow))] :
				       wide[pick(random, ARRAY_SIZE(wide))];
		is_narrow ^= mixed_widths && guest_random_bool(random);
		fixed_width = is_narrow ? narrow[pick(random, ARRAY_SIZE(narrow))] :
					  wide[pick(random, ARRAY_SIZE(wide))];
		entry->eax = pick(random, 8) | numbers[pick(random, ARRAY_SIZE(numbers))] << 8 |
			     gp_width << 16 | pick(random, 256) << 24;
		entry->ebx = pick(random, 2) ? 0 : guest_random_u32(random);
		entry->ecx = guest_random_u32(random);
		entry->edx = pick(random, 32) | fixed_width << 5 |
			     (guest_random_u32(random) & ~0x1fffu);
		break;
	case 0x14:
	case 0x1c:
	case 0x23:
		entry->eax = guest_random_u32(random);
		entry->ebx = guest_random_u32(random);
		entry->ecx = guest_random_u32(random);
		entry->edx = guest_random_u32(random);
		break;
	case 0x80000022:
		entry->eax = pick(random, 4) ? entry->eax | 1 : guest_random_u32(random);
		entry->ebx = numbers[pick(random, ARRAY_SIZE(numbers))] |
			     (guest_random_u32(random) & ~0xffu);
		entry->ecx = guest_random_u32(random);
		break;
	case 0x1:
		/* DTES64, PDCM, DS */
		entry->ecx ^= guest_random_u32(random) & (BIT(2) | BIT(15));
		entry->edx ^= guest_random_u32(random) & BIT(21);
		break;
	case 0x7:
		/* HLE, RTM, PT; architectural LBR */
		if (!entry->index) {
			entry->ebx ^= guest_random_u32(random) & (BIT(4) | BIT(11) | BIT(25));
			entry->edx ^= guest_random_u32(random) & BIT(19);
		}
		break;
	case 0x80000001:
		/* Counters of the core, IBS, counters of northbridge and last-level cache */
		entry->ecx ^= guest_random_u32(random) & (BIT(10) | BIT(23) | BIT(24) | BIT(28));
		break;
	}
}

static bool set_random_cpuid(struct kvm_vcpu *vcpu, struct guest_random_state *random)
{
	const uint32_t leaves[] = { 0xa, 0x14, 0x1c, 0x23, 0x80000022 };
	const struct kvm_cpuid2 *supported = kvm_get_supported_cpuid();
	struct kvm_cpuid2 *cpuid;
	int i, j;

	cpuid = allocate_kvm_cpuid2(supported->nent + ARRAY_SIZE(leaves));
	memcpy(cpuid->entries, supported->entries, supported->nent * sizeof(cpuid->entries[0]));
	cpuid->nent = supported->nent;

	for (i = 0; i < ARRAY_SIZE(leaves); i++) {
		for (j = 0; j < cpuid->nent; j++) {
			if (cpuid->entries[j].function == leaves[i])
				break;
		}
		if (j == cpuid->nent)
			cpuid->entries[cpuid->nent++].function = leaves[i];
	}
	for (i = 0; i < cpuid->nent; i++)
		randomize_entry(&cpuid->entries[i], random);

	free(vcpu->cpuid);
	vcpu->cpuid = cpuid;
	return !__vcpu_set_cpuid(vcpu);
}

static void access_random_msr(struct kvm_vcpu *vcpu, struct guest_random_state *random)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msrs = {
		.head.nmsrs = 1,
		.entry.index = random_msr(random),
		.entry.data = random_value(random),
	};
	unsigned long request = guest_random_bool(random) ? KVM_SET_MSRS : KVM_GET_MSRS;
	int r = ioctl(vcpu->fd, request, &msrs);

	TEST_ASSERT(r == 0 || r == 1, "Access to MSR 0x%x: %s", msrs.entry.index,
		    strerror(errno));
}

static void set_random_filter(struct kvm_vm *vm, struct guest_random_state *random)
{
	struct {
		struct kvm_pmu_event_filter head;
		uint64_t events[300];
	} filter = {
		.head.action = pick(random, 3),
		.head.nevents = pick(random, 302),
		.head.fixed_counter_bitmap = guest_random_u32(random),
		.head.flags = pick(random, 3),
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(filter.events); i++)
		filter.events[i] = random_value(random);

	/* Most aren't valid; one that is doesn't stay. */
	ioctl(vm->fd, KVM_SET_PMU_EVENT_FILTER, &filter);
	if (guest_random_bool(random))
		return;

	filter.head = (struct kvm_pmu_event_filter) { .action = KVM_PMU_EVENT_DENY };
	vm_ioctl(vm, KVM_SET_PMU_EVENT_FILTER, &filter.head);
}

static void do_random_user_ops(struct kvm_vcpu *vcpu, struct guest_random_state *random)
{
	int i;

	for (i = 0; i < OPS; i++)
		access_random_msr(vcpu, random);
	set_random_filter(vcpu->vm, random);

	/* Too late, unless it is the same. */
	if (!pick(random, 8))
		set_random_cpuid(vcpu, random);
}

struct host_msr {
	bool exists;
	uint64_t value;
};

static void read_host_msrs(struct host_msr *msrs)
{
	char path[32];
	int i, fd;

	snprintf(path, sizeof(path), "/dev/cpu/%d/msr", cpu);
	fd = open(path, O_RDONLY);
	TEST_ASSERT(fd >= 0, "Can't open %s: %s", path, strerror(errno));
	for (i = 0; i < ARRAY_SIZE(host_msrs); i++)
		msrs[i].exists = pread(fd, &msrs[i].value, 8, host_msrs[i]) == 8;
	close(fd);
}

static void assert_host_msrs(const struct host_msr *before, uint32_t seed)
{
	struct host_msr now[ARRAY_SIZE(host_msrs)] = {};
	int i;

	read_host_msrs(now);
	for (i = 0; i < ARRAY_SIZE(host_msrs); i++)
		TEST_ASSERT(now[i].exists == before[i].exists && now[i].value == before[i].value,
			    "Seed %u: the host's MSR 0x%x was 0x%lx, is 0x%lx", seed,
			    host_msrs[i], before[i].value, now[i].value);
}

/* In a group, hence at the same time: always the same */
static const struct mode mode = { .group = true };

static struct counts without;

static void measure(struct kvm_vcpu *vcpu, bool beside_events, uint32_t seed)
{
	struct counts with;

	if (!beside_events) {
		switch_often(vcpu, switches);
		return;
	}

	with = count(vcpu, &mode);
	TEST_ASSERT(with.insns == without.insns && with.branches == without.branches,
		    "Seed %u: %lu instructions and %lu branches of the host, %lu and %lu without the guest",
		    seed, with.insns, with.branches, without.insns, without.branches);
}

static struct {
	uint32_t ops;
	uint32_t faults;
	uint32_t pmis;
	uint32_t vms;
	uint32_t refused;
} total;

static void run_vm(uint32_t seed)
{
	struct guest_random_state random = new_guest_random_state(seed);
	struct host_msr before[ARRAY_SIZE(host_msrs)] = {};
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int i;

	read_host_msrs(before);
	vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	vm_install_exception_handler(vm, NMI_VECTOR, handle_nmi);
	for (i = 32; i < 256; i++)
		vm_install_exception_handler(vm, i, handle_pmi);
	while (!set_random_cpuid(vcpu, &random))
		total.refused++;
	_vcpu_set_msr(vcpu, MSR_IA32_PERF_CAPABILITIES, random_value(&random));

	memset(&shared, 0, sizeof(shared));
	shared.seed = seed;
	sync_global_to_guest(vm, shared);
	pmu_sync(vm);

	for (i = 1; i <= MEASUREMENTS; i++) {
		measure(vcpu, guest_random_bool(&random), seed);

		assert_on_unhandled_exception(vcpu);
		sync_global_from_guest(vm, shared);
		TEST_ASSERT(vcpu->run->exit_reason == KVM_EXIT_IO && vcpu->run->io.port == PORT &&
			    shared.ops == i * OPS * TURNS,
			    "Seed %u: exit %u (%s) after %u operations, not %u", seed,
			    vcpu->run->exit_reason, exit_reason_str(vcpu->run->exit_reason),
			    shared.ops, i * OPS * TURNS);
		assert_host_msrs(before, seed);
		do_random_user_ops(vcpu, &random);
	}

	kvm_vm_free(vm);
	assert_host_msrs(before, seed);

	total.ops += shared.ops;
	total.faults += shared.faults;
	total.pmis += shared.pmis;
	total.vms++;
}

static void help(const char *name, int status)
{
	printf("usage: %s [-n operations] [-s seed] [-w]\n"
	       " -n: how many operations guests do, in VMs that do %d each (default: 20000)\n"
	       " -s: the first VM's seed, the next one's is one more (default: 1)\n"
	       " -w: one kind of counters may be as wide as the hardware's, the other not\n",
	       name, VM_OPS);
	exit(status);
}

int main(int argc, char *argv[])
{
	uint32_t seed = 1, ops = 20000;
	int opt;

	while ((opt = getopt(argc, argv, "hn:s:w")) != -1) {
		if (opt == 'n')
			ops = atoi_positive("Number of operations", optarg);
		else if (opt == 's')
			seed = atoi_positive("Seed", optarg);
		else if (opt == 'w')
			mixed_widths = true;
		else
			help(argv[0], opt == 'h' ? KSFT_PASS : KSFT_FAIL);
	}

	pmu_require_mediated();
	TEST_REQUIRE(!getuid());
	TEST_REQUIRE(!access("/dev/cpu/0/msr", R_OK));

	cpu = pin_to_last_cpu();

	switches = TURNS;
	without = count(&no_vcpu, &mode);
	TEST_ASSERT(without.insns - TURNS * SWITCH_INSNS < 1000,
		    "%lu instructions are not those of the code", without.insns);

	while (total.ops < ops) {
		run_vm(seed + total.vms);
		if (total.vms % 100 == 0)
			pr_info("%u operations\n", total.ops);
	}

	pr_info("%u operations in %u VMs: %u #GPs, %u PMIs; %u CPUIDs refused\n",
		total.ops, total.vms, total.faults, total.pmis, total.refused);

	/* It isn't all in vain. */
	TEST_ASSERT(total.faults > total.ops / 10 && total.faults < total.ops * 9 / 10,
		    "%u of %u operations were #GPs", total.faults, total.ops);
	TEST_ASSERT(total.pmis > total.vms, "%u PMIs in %u VMs", total.pmis, total.vms);

	return 0;
}
