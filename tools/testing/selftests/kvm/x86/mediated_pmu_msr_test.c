// SPDX-License-Identifier: GPL-2.0-only
/*
 * The registers of a mediated PMU, as the guest and as user space see them.
 *
 * As the guest sees them, for different numbers of counters in its CPUID:
 *
 *  - every one of the 64 bits of each control register: the guest's PMU has it, and
 *    it is read back, or the write changes nothing, and faults unless it's AMD's;
 *    while the PMU is in memory, and while it is in the hardware
 *  - a counter, selector or RDPMC index that the guest's CPUID doesn't have
 *    faults, whether the hardware has it or not; with version 0 of Intel's PMU, all
 *    of them do; with a CPUID that has more than the hardware, those that the
 *    hardware doesn't have
 *  - PEBS, DS, LBR, PERF_METRICS, off-core response and what else isn't offered
 *    faults, isn't announced in CPUID or PERF_CAPABILITIES, and user space can't
 *    announce it there
 *  - freezing on PMI, tracing and recording branches can't be switched on in
 *    DEBUGCTL
 *
 * As user space sees them, while the guest's counters count:
 *
 *  - KVM_GET_MSRS returns what the guest would read
 *  - what KVM_SET_MSRS has set is what the guest reads next, and counts on from
 *  - KVM_SET_MSRS refuses reserved bits, and changes nothing then
 *  - a vCPU that was saved in mid-count continues in another VM as if nothing
 *    had happened
 *  - INIT leaves the PMU as it is, which goes on counting
 *  - with -r: a vCPU that was saved on a host with mediated PMUs continues on one with
 *    emulated PMUs, and the other way round
 */
#include <getopt.h>

#include "mediated_pmu.h"

/*
 * Registers of the hardware's PMU that a guest doesn't get, whatever its CPUID,
 * nor those of the other vendor.
 */
static const uint32_t absent_msrs[] = {
	0x1a6, 0x1a7,			/* off-core response */
	0x1c8, 0x1c9,			/* LBR_SELECT, LBR_TOS */
	0x30c, 0x30d, 0x30e, 0x30f,	/* fixed counters 3 to 6 */
	0x329,				/* PERF_METRICS */
	0x391,				/* GLOBAL_STATUS_SET */
	0x392,				/* GLOBAL_INUSE */
	0x3f1, 0x3f2,			/* PEBS_ENABLE, PEBS_DATA_CFG */
	0x3f6, 0x3f7,			/* PEBS_LD_LAT, PEBS_FRONTEND */
	0x600,				/* DS_AREA */
	0x680, 0x69f, 0x6c0, 0x6df,	/* LBR from and to */
	0xdc0,				/* LBR_INFO */
	0x1309, 0x14c1,			/* reload of fixed and of GP counters */
	0x14ce, 0x14cf,			/* ARCH_LBR_CTL, ARCH_LBR_DEPTH */
	0x1900, 0x1901, 0x1980, 0x1981,	/* v6 names of counters and selectors */
	0xc000010e, 0xc000010f,		/* LBR_SELECT, DBG_EXTN_CFG */
	0xc001020c, 0xc001020d,		/* a seventh counter of AMD's */
	0xc0010230, 0xc0010231,		/* of AMD's last-level cache */
	0xc0010240, 0xc0010241,		/* of AMD's northbridge */
	0xc0010800, 0xc0010801,		/* of AMD's memory controllers */
	0xc0011030, 0xc0011033,		/* IBS_FETCH_CTL, IBS_OP_CTL */
};

#define X86_FEATURE_DS		KVM_X86_CPU_FEATURE(0x1, 0, EDX, 21)
#define X86_FEATURE_DTES64	KVM_X86_CPU_FEATURE(0x1, 0, ECX, 2)
#define X86_FEATURE_ARCH_LBR	KVM_X86_CPU_FEATURE(0x7, 0, EDX, 19)

/* What KVM's PMU can have at most, and where the search for absent ones ends */
#define MAX_GP		8
#define MAX_FIXED	3
#define MAX_AMD_GP	6

static bool has_tsx;

static uint8_t reserved_vector(void)
{
	return pmu.ignores_reserved ? 0 : GP_VECTOR;
}

static void assert_bits(uint32_t msr, uint64_t valid, uint64_t unknown, const char *name)
{
	uint64_t value, before = rdmsr(msr);
	uint8_t vector;
	int bit;

	for (bit = 0; bit < 64; bit++) {
		if (unknown & BIT_ULL(bit))
			continue;

		vector = wrmsr_safe(msr, BIT_ULL(bit));
		value = rdmsr(msr);

		if (pmu.ignores_reserved) {
			__GUEST_ASSERT(!vector && value == (valid & BIT_ULL(bit)),
				       "%s (0x%x), bit %d: vector %u, read back 0x%lx",
				       name, msr, bit, vector, value);
			wrmsr(msr, before);
		} else if (valid & BIT_ULL(bit)) {
			__GUEST_ASSERT(!vector, "%s (0x%x), bit %d: unexpected vector %u",
				       name, msr, bit, vector);
			__GUEST_ASSERT(value == BIT_ULL(bit),
				       "%s (0x%x), bit %d: read back 0x%lx",
				       name, msr, bit, value);
			wrmsr(msr, before);
		} else {
			__GUEST_ASSERT(vector == GP_VECTOR,
				       "%s (0x%x), reserved bit %d: wanted #GP, got vector %u",
				       name, msr, bit, vector);
			__GUEST_ASSERT(value == before,
				       "%s (0x%x), reserved bit %d: changed 0x%lx to 0x%lx",
				       name, msr, bit, before, value);
		}
	}

	/* All valid ones at once, and with one that isn't */
	wrmsr(msr, valid);
	GUEST_ASSERT_EQ(rdmsr(msr), valid);
	for (bit = 0; bit < 64; bit++) {
		if ((valid | unknown) & BIT_ULL(bit))
			continue;

		value = pmu.ignores_reserved ? valid | BIT_ULL(bit) : BIT_ULL(bit);
		vector = wrmsr_safe(msr, value);
		__GUEST_ASSERT(vector == reserved_vector() && rdmsr(msr) == valid,
			       "%s (0x%x), reserved bit %d on top of 0x%lx: vector %u, 0x%lx",
			       name, msr, bit, valid, vector, rdmsr(msr));
	}
	wrmsr(msr, before);
}

static void assert_absent(uint32_t msr)
{
	const uint64_t values[] = { 0, 1, -1ull };
	uint64_t value;
	uint8_t vector;
	int i;

	vector = rdmsr_safe(msr, &value);
	__GUEST_ASSERT(vector == GP_VECTOR, "RDMSR of 0x%x: wanted #GP, got vector %u, value 0x%lx",
		       msr, vector, value);

	for (i = 0; i < ARRAY_SIZE(values); i++) {
		vector = wrmsr_safe(msr, values[i]);
		__GUEST_ASSERT(vector == GP_VECTOR,
			       "WRMSR of 0x%lx to 0x%x: wanted #GP, got vector %u",
			       values[i], msr, vector);
	}
}

static void assert_rdpmc(uint32_t index, bool exists)
{
	uint64_t value;
	uint8_t vector = rdpmc_safe(index, &value);

	__GUEST_ASSERT(vector == (exists ? 0 : GP_VECTOR),
		       "RDPMC of 0x%x: wanted %s, got vector %u, value 0x%lx",
		       index, exists ? "a value" : "#GP", vector, value);
}

/* No overflow and no bit of the status is in the way of the next test. */
static void assert_status_registers(void)
{
	uint64_t expected;
	uint8_t vector;
	int bit;

	for (bit = 0; bit < 64; bit++) {
		/* ToPA PMI: there if KVM gives guests Intel PT */
		if (bit == 55 && !pmu.ignores_reserved)
			continue;

		vector = wrmsr_safe(pmu.global_status, BIT_ULL(bit));
		__GUEST_ASSERT(vector == reserved_vector(),
			       "GLOBAL_STATUS, bit %d: got vector %u", bit, vector);
		GUEST_ASSERT_EQ(rdmsr(pmu.global_status), 0);

		if (pmu.global_status_set) {
			vector = wrmsr_safe(pmu.global_status_set, BIT_ULL(bit));
			__GUEST_ASSERT(!vector, "GLOBAL_STATUS_SET, bit %d: got vector %u",
				       bit, vector);
			GUEST_ASSERT_EQ(rdmsr(pmu.global_status_set), 0);

			expected = pmu.status_bits & BIT_ULL(bit);
			__GUEST_ASSERT(rdmsr(pmu.global_status) == expected,
				       "GLOBAL_STATUS_SET, bit %d: the status is 0x%lx",
				       bit, rdmsr(pmu.global_status));
		}

		vector = wrmsr_safe(pmu.global_status_clear, BIT_ULL(bit));
		__GUEST_ASSERT(vector == (pmu.status_bits & BIT_ULL(bit) ? 0 : reserved_vector()),
			       "Clearing the status, bit %d: got vector %u", bit, vector);
		GUEST_ASSERT_EQ(rdmsr(pmu.global_status_clear), 0);
		GUEST_ASSERT_EQ(rdmsr(pmu.global_status), 0);
	}
}

static void assert_absent_counters(void)
{
	int i;

	if (host_cpu_is_amd) {
		for (i = pmu.nr_gp; i < MAX_AMD_GP; i++) {
			assert_absent(MSR_F15H_PERF_CTL0 + 2 * i);
			assert_absent(MSR_F15H_PERF_CTR0 + 2 * i);
			if (i >= 4)
				continue;
			assert_absent(MSR_K7_EVNTSEL0 + i);
			assert_absent(MSR_K7_PERFCTR0 + i);
		}
		return;
	}

	/* The first two are there, but do nothing, on any CPU. */
	for (i = pmu.nr_gp; i < MAX_GP; i++) {
		assert_absent(MSR_IA32_PMC0 + i);
		if (i < 2)
			continue;
		assert_absent(MSR_IA32_PERFCTR0 + i);
		assert_absent(MSR_P6_EVNTSEL0 + i);
	}
	for (i = pmu.nr_fixed; i < MAX_FIXED; i++)
		assert_absent(MSR_CORE_PERF_FIXED_CTR0 + i);
}

/*
 * A PMU that has counted lately is in the hardware, where some registers need no
 * exit; one that has not is in KVM's memory.
 */
static void be_in_hardware(void)
{
	select_event(0, pmu.instructions, KERNEL);
	run_block(BIT_ULL(0));
	reset_pmu();
}

static void assert_registers(void)
{
	const uint64_t fixed_field = FIXED_PMC_KERNEL | FIXED_PMC_USER | FIXED_PMC_ENABLE_PMI;
	uint64_t fixed_ctrl = 0, value;
	uint8_t vector;
	int i, bit;

	for (i = 0; i < pmu.nr_gp; i++)
		assert_bits(eventsel_msr(i), pmu.eventsel_bits,
			    has_tsx ? BIT_ULL(32) | BIT_ULL(33) : 0, "event selector");

	for (i = 0; i < pmu.nr_fixed; i++)
		fixed_ctrl |= FIXED_PMC_CTRL(i, fixed_field);
	if (pmu.fixed_ctrl)
		assert_bits(pmu.fixed_ctrl, fixed_ctrl, 0, "FIXED_CTR_CTRL");
	assert_bits(pmu.global_ctrl, pmu.counters, 0, "GLOBAL_CTRL");

	assert_status_registers();

	/* Full-width counters: bits that they don't have */
	for_each_counter(i) {
		write_counter(i, 0x55);
		if (!is_fixed(i) && pmu.ranges[0].narrow)
			continue;

		for (bit = 0; bit < 64; bit++) {
			if (counter_mask(i) & BIT_ULL(bit))
				continue;

			vector = wrmsr_safe(counter_msr(i), 0x55 | BIT_ULL(bit));
			__GUEST_ASSERT(vector == reserved_vector(),
				       "Counter %d, bit %d: got vector %u",
				       i, bit, vector);
			GUEST_ASSERT_EQ(read_counter(i), 0x55);
		}
	}

	/* Counters that aren't there */
	assert_absent_counters();
	for (i = 0; i < ARRAY_SIZE(absent_msrs); i++)
		assert_absent(absent_msrs[i]);

	for (i = 0; i < 64; i++) {
		assert_rdpmc(i, i < pmu.nr_gp);
		assert_rdpmc(INTEL_RDPMC_FIXED | i, i < pmu.nr_fixed);
		assert_rdpmc(INTEL_RDPMC_METRICS | i, false);
		assert_rdpmc(INTEL_RDPMC_FAST | i, false);
	}
	for (bit = 6; bit < 32; bit++) {
		const uint32_t index = BIT(bit);

		if (index == INTEL_RDPMC_FIXED)
			continue;

		/* KVM has VMware's clocks at 0x10000 when RDPMC is intercepted. */
		if (index != 0x10000)
			assert_rdpmc(index, false);
		assert_rdpmc(index | INTEL_RDPMC_FIXED, false);
	}
	assert_rdpmc(-1u, false);

	if (this_cpu_has(X86_FEATURE_PDCM)) {
		value = rdmsr(MSR_IA32_PERF_CAPABILITIES);
		__GUEST_ASSERT(!(value & ~PMU_CAP_FW_WRITES),
			       "PERF_CAPABILITIES is 0x%lx, only full-width writes are offered",
			       value);
		vector = wrmsr_safe(MSR_IA32_PERF_CAPABILITIES, value);
		GUEST_ASSERT_EQ(vector, GP_VECTOR);
	}

	/* PEBS and BTS unavailable */
	GUEST_ASSERT_EQ(rdmsr(MSR_IA32_MISC_ENABLE) & (BIT(11) | BIT(12)), BIT(11) | BIT(12));

	/*
	 * All but single-stepping on branches, bus lock detection, and RTM
	 * debugging; on AMD, the last branch and the CPU's pins.
	 */
	for (bit = 0; bit < 64; bit++) {
		if (bit == 1 || bit == 2 || (has_tsx && bit == 15) ||
		    (host_cpu_is_amd && bit <= 5))
			continue;

		wrmsr_safe(MSR_IA32_DEBUGCTLMSR, BIT_ULL(bit));
		GUEST_ASSERT_EQ(rdmsr(MSR_IA32_DEBUGCTLMSR), 0);
	}
}

static void guest_registers(void)
{
	reset_pmu();
	assert_registers();
	be_in_hardware();
	assert_registers();

	/* None of that keeps the counters from counting. */
	reset_pmu();
	select_event(0, pmu.instructions, KERNEL);
	run_block(BIT_ULL(0));
	GUEST_ASSERT_EQ(read_counter(0), BLOCK_INSNS);

	GUEST_DONE();
}

/* A PMU of version 0 */
static void guest_without_pmu(void)
{
	int i;

	assert_absent_counters();
	for (i = 0; i < ARRAY_SIZE(absent_msrs); i++)
		assert_absent(absent_msrs[i]);
	assert_absent(pmu.fixed_ctrl);
	assert_absent(pmu.global_ctrl);
	assert_absent(pmu.global_status);
	assert_absent(pmu.global_status_clear);
	for (i = 0; i < 64; i++) {
		assert_rdpmc(i, false);
		assert_rdpmc(INTEL_RDPMC_FIXED | i, false);
	}
	GUEST_DONE();
}

static void test_version0(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	pr_info("version 0\n");

	vm = vm_create_with_one_vcpu(&vcpu, guest_without_pmu);
	pmu_init_part(1, 0, true);
	pmu.version = 0;
	pmu_limit_vcpu(vcpu);
	pmu.nr_gp = 0;
	pmu_sync(vm);

	run_vcpu(vcpu);
	kvm_vm_free(vm);
}

static void test_registers(uint32_t nr_gp, uint32_t nr_fixed, bool full_width)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	pr_info("%u general-purpose and %u fixed counters, with%s full-width writes\n",
		nr_gp, nr_fixed, full_width ? "" : "out");

	pmu_init_part(nr_gp, nr_fixed, full_width);

	vm = vm_create_with_one_vcpu(&vcpu, guest_registers);
	pmu_limit_vcpu(vcpu);
	pmu_sync(vm);
	sync_global_to_guest(vm, has_tsx);

	run_vcpu(vcpu);
	kvm_vm_free(vm);
}

/* A CPUID with as many counters as it can have, and as wide ones. */
static void test_boundless(void)
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;

	pr_info("more counters than there are\n");

	vm = vm_create_with_one_vcpu(&vcpu, guest_registers);
	pmu_limit_vcpu(vcpu);
	if (host_cpu_is_amd) {
		vcpu_set_cpuid_property(vcpu, X86_PROPERTY_NR_PERFCTR_CORE, 0xf);
	} else {
		vcpu_set_cpuid_property(vcpu, X86_PROPERTY_PMU_VERSION, 0xff);
		vcpu_set_cpuid_property(vcpu, X86_PROPERTY_PMU_NR_GP_COUNTERS, 0xff);
		vcpu_set_cpuid_property(vcpu, X86_PROPERTY_PMU_NR_FIXED_COUNTERS, 0x1f);
		vcpu_set_cpuid_property(vcpu, X86_PROPERTY_PMU_GP_COUNTERS_BIT_WIDTH, 0xff);
		vcpu_set_cpuid_property(vcpu, X86_PROPERTY_PMU_FIXED_COUNTERS_BIT_WIDTH, 0xff);
		vcpu_set_cpuid_property(vcpu, X86_PROPERTY_PMU_FIXED_COUNTERS_BITMASK, -1u);
	}
	pmu_sync(vm);
	sync_global_to_guest(vm, has_tsx);

	run_vcpu(vcpu);
	kvm_vm_free(vm);
}

/* Everything counts while user space has its turn. */
static struct {
	uint64_t value[64];
	uint64_t status;
	uint64_t global_ctrl;
	uint64_t fixed_ctrl;
	uint64_t eventsel[MAX_GP];
} guest_sees;

static void guest_turns(void)
{
	int i;

	reset_pmu();
	for_each_counter(i) {
		write_counter(i, 0x100 * i);
		select_event(i, pmu.instructions, KERNEL);
	}
	wrmsr(pmu.global_ctrl, pmu.counters);

	for (;;) {
		for_each_counter(i) {
			guest_sees.value[i] = take_turn(i);
			guest_sees.status = rdmsr(pmu.global_status);
			guest_sees.global_ctrl = rdmsr(pmu.global_ctrl);
			if (pmu.nr_fixed)
				guest_sees.fixed_ctrl = rdmsr(pmu.fixed_ctrl);
			if (!is_fixed(i))
				guest_sees.eventsel[i] = rdmsr(eventsel_msr(i));
		}
	}
}

static void wait_for_turn(struct kvm_vcpu *vcpu)
{
	run_to_turn(vcpu);
	sync_global_from_guest(vcpu->vm, guest_sees);
}

/* A counter that counts instructions; other fixed counters count cycles. */
static bool is_exact(int i)
{
	return i <= FIXED_BASE;
}

static void check_value(int i, uint64_t host_saw, const char *what)
{
	uint64_t value = guest_sees.value[i];

	if (is_exact(i))
		TEST_ASSERT(value == ((host_saw + TURN_INSNS) & counter_mask(i)),
			    "Counter %d, %s: after user space's 0x%lx the guest saw 0x%lx, not %d more",
			    i, what, host_saw, value, TURN_INSNS);
	else
		TEST_ASSERT(((value - host_saw) & counter_mask(i)) < 100000 && value != host_saw,
			    "Counter %d, %s: after user space's 0x%lx the guest saw 0x%lx",
			    i, what, host_saw, value);
}

static uint64_t get_counter(struct kvm_vcpu *vcpu, int i)
{
	uint64_t value = vcpu_get_msr(vcpu, counter_msr(i));
	int r;

	if (is_fixed(i))
		return value;

	for (r = 0; r < pmu.nr_ranges; r++) {
		if (counter_alias(i, r))
			TEST_ASSERT_EQ(vcpu_get_msr(vcpu, counter_alias(i, r)), value);
	}
	return value;
}

static void assert_refused(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t valid,
			   uint64_t unknown)
{
	uint64_t before = vcpu_get_msr(vcpu, msr);
	int bit;

	for (bit = 0; bit < 64; bit++) {
		if ((valid | unknown) & BIT_ULL(bit))
			continue;

		/* What the guest's writes do, or a refusal */
		TEST_ASSERT(!_vcpu_set_msr(vcpu, msr, before | BIT_ULL(bit)) ||
			    pmu.ignores_reserved,
			    "KVM_SET_MSRS of MSR 0x%x accepts reserved bit %d", msr, bit);
		TEST_ASSERT_EQ(vcpu_get_msr(vcpu, msr), before);
	}
}

static void test_turns(void)
{
	/* All lengths up to the counters' 48 bits, and about to wrap */
	const uint64_t values[] = {
		0, 0x7fffff00, 0x80000000, 0xffffff00, 0x123400000000, 0x7fffffffff00,
		0x800000000000, 0xfffffffff000, 0xfffffffffffe,
	};
	uint64_t host_saw, status;
	struct kvm_x86_state *state;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int i, n;

	vm = vm_create_with_one_vcpu(&vcpu, guest_turns);
	pmu_limit_vcpu(vcpu);
	pmu_sync(vm);

	wait_for_turn(vcpu);

	/* Read */
	for (n = 0; n < 3; n++) {
		for_each_counter(i) {
			host_saw = get_counter(vcpu, i);
			TEST_ASSERT(host_saw > 0x100 * i, "Counter %d is 0x%lx", i, host_saw);
			TEST_ASSERT_EQ(get_counter(vcpu, i), host_saw);
			wait_for_turn(vcpu);
			check_value(i, host_saw, "read");

			TEST_ASSERT_EQ(vcpu_get_msr(vcpu, pmu.global_ctrl), guest_sees.global_ctrl);
			if (pmu.nr_fixed)
				TEST_ASSERT_EQ(vcpu_get_msr(vcpu, pmu.fixed_ctrl),
					       guest_sees.fixed_ctrl);
			if (!is_fixed(i))
				TEST_ASSERT_EQ(vcpu_get_msr(vcpu, eventsel_msr(i)),
					       guest_sees.eventsel[i]);
		}
	}

	/* Write; a counter that wraps must set its status bit, and no other. */
	for (n = 0; n < ARRAY_SIZE(values); n++) {
		for_each_counter(i) {
			uint64_t value = values[n] & counter_mask(i);
			bool wraps = value == counter_mask(i) - 1;

			vcpu_set_msr(vcpu, pmu.global_status, 0);
			vcpu_set_msr(vcpu, counter_msr(i), value);
			wait_for_turn(vcpu);
			check_value(i, value, "written");

			status = wraps ? BIT_ULL(i) : 0;
			if (is_exact(i))
				TEST_ASSERT_EQ(guest_sees.status & BIT_ULL(i), status);
			TEST_ASSERT_EQ(vcpu_get_msr(vcpu, pmu.global_status) & BIT_ULL(i),
				       guest_sees.status & BIT_ULL(i));
		}
	}

	/* The status register, each bit */
	for_each_counter(i) {
		vcpu_set_msr(vcpu, pmu.global_status, BIT_ULL(i));
		wait_for_turn(vcpu);
		TEST_ASSERT_EQ(guest_sees.status, BIT_ULL(i));
		TEST_ASSERT_EQ(vcpu_get_msr(vcpu, pmu.global_status), BIT_ULL(i));
	}
	/* And all, also what can't be set in hardware; the guest goes once around. */
	for_each_counter(i) {
		vcpu_set_msr(vcpu, pmu.global_status, pmu.status_bits);
		wait_for_turn(vcpu);
		TEST_ASSERT_EQ(guest_sees.status & pmu.counters, pmu.counters);
	}
	vcpu_set_msr(vcpu, pmu.global_status, 0);

	/* Off and on again, in each of the control registers */
	for_each_counter(i) {
		uint64_t eventsel = 0, fixed_ctrl = 0;

		if (pmu.nr_fixed)
			fixed_ctrl = vcpu_get_msr(vcpu, pmu.fixed_ctrl);

		host_saw = get_counter(vcpu, i);
		vcpu_set_msr(vcpu, pmu.global_ctrl, pmu.counters & ~BIT_ULL(i));
		wait_for_turn(vcpu);
		TEST_ASSERT_EQ(guest_sees.value[i], host_saw);
		TEST_ASSERT_EQ(guest_sees.global_ctrl, pmu.counters & ~BIT_ULL(i));
		TEST_ASSERT_EQ(get_counter(vcpu, i), host_saw);
		vcpu_set_msr(vcpu, pmu.global_ctrl, pmu.counters);
		/*
		 * A counter that is written in the same turn must not be on yet, as
		 * the emulator's audit sees.
		 */
		vcpu_set_msr(vcpu, counter_msr(i), host_saw);

		/* The guest is at its next counter: go once around. */
		for (n = 1; n < pmu.nr_gp + pmu.nr_fixed; n++)
			wait_for_turn(vcpu);

		host_saw = get_counter(vcpu, i);
		if (is_fixed(i)) {
			vcpu_set_msr(vcpu, pmu.fixed_ctrl,
				     fixed_ctrl & ~FIXED_PMC_CTRL(i - FIXED_BASE, 0xfull));
		} else {
			eventsel = vcpu_get_msr(vcpu, eventsel_msr(i));
			vcpu_set_msr(vcpu, eventsel_msr(i), 0);
		}
		wait_for_turn(vcpu);
		TEST_ASSERT_EQ(guest_sees.value[i], host_saw);
		if (is_fixed(i)) {
			vcpu_set_msr(vcpu, pmu.fixed_ctrl, fixed_ctrl);
		} else {
			TEST_ASSERT_EQ(guest_sees.eventsel[i], 0);
			vcpu_set_msr(vcpu, eventsel_msr(i), eventsel);
		}
	}

	/* Reserved bits */
	assert_refused(vcpu, pmu.global_ctrl, pmu.counters, 0);
	assert_refused(vcpu, pmu.global_status, pmu.status_bits,
		       host_cpu_is_intel ? BIT_ULL(55) : 0);
	for (i = 0; i < pmu.nr_gp; i++)
		assert_refused(vcpu, eventsel_msr(i), pmu.eventsel_bits,
			       has_tsx ? BIT_ULL(32) | BIT_ULL(33) : 0);

	/* To another VM, at each of the turns */
	for_each_counter(i) {
		uint64_t other = get_counter(vcpu, 0);

		host_saw = get_counter(vcpu, i);
		state = vcpu_save_state(vcpu);
		kvm_vm_release(vm);

		vcpu = vm_recreate_with_one_vcpu(vm);
		vcpu_load_state(vcpu, state);
		kvm_x86_state_cleanup(state);

		TEST_ASSERT_EQ(get_counter(vcpu, i), host_saw);
		TEST_ASSERT_EQ(get_counter(vcpu, 0), other);
		wait_for_turn(vcpu);
		check_value(i, host_saw, "moved to another VM");
	}

	kvm_vm_free(vm);
}

/* Of the guest's PMU as user space sees it */
static struct {
	uint64_t counter[64];
	uint64_t eventsel[MAX_GP];
	uint64_t fixed_ctrl;
	uint64_t global_ctrl;
	uint64_t global_status;
} user_sees;

static void look_at_pmu(struct kvm_vcpu *vcpu, typeof(user_sees) *seen)
{
	int i;

	memset(seen, 0, sizeof(*seen));
	for_each_counter(i) {
		seen->counter[i] = get_counter(vcpu, i);
		if (!is_fixed(i))
			seen->eventsel[i] = vcpu_get_msr(vcpu, eventsel_msr(i));
	}
	if (pmu.nr_fixed)
		seen->fixed_ctrl = vcpu_get_msr(vcpu, pmu.fixed_ctrl);
	seen->global_ctrl = vcpu_get_msr(vcpu, pmu.global_ctrl);
	seen->global_status = vcpu_get_msr(vcpu, pmu.global_status);
}

static void assert_pmu_unchanged(struct kvm_vcpu *vcpu, const char *what)
{
	typeof(user_sees) now;
	int i;

	look_at_pmu(vcpu, &now);
	for_each_counter(i) {
		TEST_ASSERT(now.counter[i] == user_sees.counter[i],
			    "%s has changed counter %d from 0x%lx to 0x%lx",
			    what, i, user_sees.counter[i], now.counter[i]);
		if (!is_fixed(i))
			TEST_ASSERT_EQ(now.eventsel[i], user_sees.eventsel[i]);
	}
	TEST_ASSERT_EQ(now.fixed_ctrl, user_sees.fixed_ctrl);
	TEST_ASSERT_EQ(now.global_ctrl, user_sees.global_ctrl);
	TEST_ASSERT_EQ(now.global_status, user_sees.global_status);
}

/* The address at which a CPU begins after INIT, below the base of CS */
#define INIT_RIP	0xfff0

static void test_init(void)
{
	struct kvm_x86_state *state;
	struct kvm_vcpu_events init;
	struct kvm_mp_state mp_state;
	struct kvm_vcpu *vcpu;
	struct kvm_regs regs;
	struct kvm_vm *vm;
	int i;

	vm = vm_create_with_one_vcpu(&vcpu, guest_turns);
	pmu_limit_vcpu(vcpu);
	pmu_sync(vm);
	wait_for_turn(vcpu);

	for_each_counter(i) {
		vcpu_set_msr(vcpu, pmu.global_status, BIT_ULL(i));
		look_at_pmu(vcpu, &user_sees);
		state = vcpu_save_state(vcpu);

		/* A pending INIT takes effect when user space looks, at the latest. */
		init = state->events;
		init.flags |= KVM_VCPUEVENT_VALID_SMM;
		init.smi.latched_init = true;
		vcpu_events_set(vcpu, &init);
		vcpu_mp_state_get(vcpu, &mp_state);
		vcpu_regs_get(vcpu, &regs);
		TEST_ASSERT_EQ(regs.rip, INIT_RIP);
		assert_pmu_unchanged(vcpu, "INIT");

		/* All but the MSRs of the PMU are as before. */
		vcpu_sregs_set(vcpu, &state->sregs);
		vcpu_xcrs_set(vcpu, &state->xcrs);
		vcpu_xsave_set(vcpu, state->xsave);
		vcpu_events_set(vcpu, &state->events);
		vcpu_mp_state_set(vcpu, &state->mp_state);
		vcpu_regs_set(vcpu, &state->regs);
		kvm_x86_state_cleanup(state);

		wait_for_turn(vcpu);
		check_value(i, user_sees.counter[i], "after INIT");
		TEST_ASSERT_EQ(guest_sees.status, BIT_ULL(i));
	}

	kvm_vm_free(vm);
}

static void reload_kvm(const char *program, bool mediated)
{
	char command[PATH_MAX];

	snprintf(command, sizeof(command), "%s %c", program, mediated ? 'Y' : 'N');
	TEST_ASSERT(!system(command), "'%s' failed", command);
	TEST_ASSERT_EQ(get_kvm_param_bool("enable_mediated_pmu"), mediated);
}

/* The VM goes from one kind of host to the other, while it counts. */
static void test_reload(const char *program)
{
	struct kvm_x86_state *state;
	struct kvm_vcpu *vcpu;
	bool mediated = true;
	struct kvm_vm *vm;
	int i, n;

	vm = vm_create_with_one_vcpu(&vcpu, guest_turns);
	pmu_limit_vcpu(vcpu);
	pmu_sync(vm);
	wait_for_turn(vcpu);

	for (n = 0; n < 4; n++) {
		for_each_counter(i)
			wait_for_turn(vcpu);

		vcpu_set_msr(vcpu, pmu.global_status, n % 2 ? pmu.counters : 0);
		look_at_pmu(vcpu, &user_sees);
		state = vcpu_save_state(vcpu);
		kvm_vm_release(vm);

		mediated = !mediated;
		reload_kvm(program, mediated);

		/* Capabilities first: changing them later would reset the PMU. */
		vcpu = vm_recreate_with_one_vcpu(vm);
		pmu_limit_vcpu(vcpu);
		vcpu_load_state(vcpu, state);
		kvm_x86_state_cleanup(state);
		assert_pmu_unchanged(vcpu, mediated ? "A host with mediated PMUs" :
						      "A host with emulated PMUs");

		for_each_counter(i) {
			uint64_t host_saw = get_counter(vcpu, i);

			wait_for_turn(vcpu);
			TEST_ASSERT_EQ(guest_sees.status, user_sees.global_status);
			TEST_ASSERT_EQ(guest_sees.global_ctrl, user_sees.global_ctrl);
			if (!is_fixed(i))
				TEST_ASSERT_EQ(guest_sees.eventsel[i], user_sees.eventsel[i]);

			/* An emulated PMU isn't that exact. */
			if (mediated)
				check_value(i, host_saw, "on another host");
			else
				TEST_ASSERT(guest_sees.value[i] - host_saw < 100000 &&
					    guest_sees.value[i] != host_saw,
					    "Counter %d went from 0x%lx to 0x%lx",
					    i, host_saw, guest_sees.value[i]);
		}
	}

	kvm_vm_free(vm);
}

/* What KVM offers, and gives a vCPU that nobody has configured */
static void test_offer(void)
{
	const uint64_t valid = PMU_CAP_FW_WRITES;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int bit;

	TEST_ASSERT(!kvm_cpu_has(X86_FEATURE_DS), "KVM offers DS");
	TEST_ASSERT(!kvm_cpu_has(X86_FEATURE_DTES64), "KVM offers DTES64");
	TEST_ASSERT(!kvm_cpu_has(X86_FEATURE_ARCH_LBR), "KVM offers architectural LBR");
	if (!kvm_cpu_has(X86_FEATURE_PDCM))
		return;

	TEST_ASSERT_EQ(kvm_get_feature_msr(MSR_IA32_PERF_CAPABILITIES) & ~valid, 0);

	vm = vm_create_with_one_vcpu(&vcpu, guest_registers);
	TEST_ASSERT_EQ(vcpu_get_msr(vcpu, MSR_IA32_PERF_CAPABILITIES) & ~valid, 0);
	for (bit = 0; bit < 64; bit++)
		TEST_ASSERT(valid & BIT_ULL(bit) ||
			    !_vcpu_set_msr(vcpu, MSR_IA32_PERF_CAPABILITIES, BIT_ULL(bit)),
			    "KVM_SET_MSRS accepts bit %d of PERF_CAPABILITIES", bit);
	kvm_vm_free(vm);
}

static void help(const char *name)
{
	printf("usage: %s [-r PROGRAM]\n\n"
	       " -r PROGRAM: only move a VM between hosts with mediated and emulated PMUs;\n"
	       "    PROGRAM Y|N reloads KVM with enable_mediated_pmu=Y|N.\n",
	       name);
}

int main(int argc, char *argv[])
{
	const char *reload = NULL;
	uint32_t nr_gp, nr_fixed;
	bool full_width;
	int opt;

	while ((opt = getopt(argc, argv, "hr:")) != -1) {
		switch (opt) {
		case 'r':
			reload = optarg;
			break;
		case 'h':
		default:
			help(argv[0]);
			exit(opt == 'h' ? 0 : 1);
		}
	}

	pmu_require_mediated();

	nr_gp = pmu.nr_gp;
	nr_fixed = pmu.nr_fixed;
	full_width = pmu_has_full_width();
	TEST_REQUIRE(nr_gp >= 3);
	TEST_ASSERT(nr_gp <= MAX_GP && nr_fixed <= MAX_FIXED,
		    "KVM offers %u general-purpose and %u fixed counters", nr_gp, nr_fixed);

	if (reload) {
		test_reload(reload);
		return 0;
	}

	/*
	 * What KVM makes of the two bits for transactions depends on the host's
	 * CPU; all other bits are known.
	 */
	has_tsx = this_cpu_has(X86_FEATURE_HLE) || this_cpu_has(X86_FEATURE_RTM);

	test_offer();
	test_registers(nr_gp, nr_fixed, full_width);
	test_registers(nr_gp - 1, nr_fixed, full_width);
	test_registers(2, nr_fixed, full_width);
	test_registers(1, nr_fixed, full_width);
	if (full_width && host_cpu_is_intel)
		test_registers(nr_gp, nr_fixed, false);
	if (nr_fixed) {
		test_registers(nr_gp, nr_fixed - 1, full_width);
		test_registers(2, 1, full_width);
		test_registers(nr_gp, 0, full_width);
	}
	if (host_cpu_is_intel)
		test_version0();

	pmu_init_part(nr_gp, nr_fixed, full_width);
	test_boundless();
	test_turns();
	test_init();

	return 0;
}
