/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the tests of the mediated PMU share: the guest's PMU as a table of
 * registers, so that a test has no branches on the vendor, access to a counter by
 * its number, and a block of code whose events are known to the last one.
 *
 * A counter's number is its bit in global control: general-purpose counters start
 * at 0, fixed counters at 32.
 */
#ifndef SELFTEST_KVM_MEDIATED_PMU_H
#define SELFTEST_KVM_MEDIATED_PMU_H

#include <fcntl.h>

#include "apic.h"
#include "pmu.h"
#include "processor.h"

#define FIXED_BASE	32

#ifndef APIC_LVTPC
#define APIC_LVTPC	0x340
#endif

#ifndef MSR_CORE_PERF_GLOBAL_STATUS_SET
#define MSR_CORE_PERF_GLOBAL_STATUS_SET	0x391
#endif

#ifndef X86_PROPERTY_NR_PERFCTR_CORE
#define X86_PROPERTY_NR_PERFCTR_CORE	KVM_X86_CPU_PROPERTY(0x80000022, 0, EBX, 0, 3)
#endif

#ifndef X86_FEATURE_PERFCTR_CORE
#define X86_FEATURE_PERFCTR_CORE	KVM_X86_CPU_FEATURE(0x80000001, 0, ECX, 23)
#endif

#ifndef X86_FEATURE_PERFMON_V2
#define X86_FEATURE_PERFMON_V2	KVM_X86_CPU_FEATURE(0x80000022, 0, EAX, 0)
#endif

#ifndef MSR_AMD64_PERF_CNTR_GLOBAL_STATUS_SET
#define MSR_AMD64_PERF_CNTR_GLOBAL_STATUS_SET	0xc0000303
#endif

/* A selector's bits of AMD's; there if the guest can be a hypervisor. */
#define AMD_EVENTSEL_GUEST_ONLY		BIT_ULL(40)
#define AMD_EVENTSEL_HOST_ONLY		BIT_ULL(41)

#define PMI_VECTOR	0x35

/*
 * One set of addresses of the general-purpose counters.  A counter may have
 * more than one: a narrow one sign-extends the lower 32 bits of what is written
 * and ignores the others, a wide one takes all bits of the counter's width and
 * treats others as reserved.
 */
struct pmu_gp_range {
	uint32_t base;
	uint32_t stride;
	uint32_t nr;
	bool narrow;
};

struct pmu {
	uint32_t version;
	uint32_t nr_gp;
	uint32_t nr_fixed;
	uint32_t gp_width;
	uint32_t fixed_width;

	/* ranges[0] is the one to use when it doesn't matter. */
	uint32_t nr_ranges;
	struct pmu_gp_range ranges[2];
	uint32_t eventsel;
	uint32_t eventsel_stride;
	uint32_t fixed_counter;
	uint32_t fixed_ctrl;
	uint32_t global_ctrl;
	uint32_t global_status;
	uint32_t global_status_clear;
	/* 0 if the guest has none */
	uint32_t global_status_set;

	/* All counters, by their bits in global control. */
	uint64_t counters;

	/* What a guest can write to a selector, and to the status. */
	uint64_t eventsel_bits;
	uint64_t status_bits;

	uint64_t instructions;
	uint64_t branches;

	/* Delivery of a PMI masks the APIC's entry. */
	bool masks_lvtpc;

	/* Writes to reserved bits and read-only registers do nothing: no #GP. */
	bool ignores_reserved;
};

/* Host and guest have a copy each: use pmu_sync() after changing the host's. */
static struct pmu pmu;

static inline void pmu_init_intel(uint32_t nr_gp, uint32_t nr_fixed, bool full_width)
{
	uint32_t gp_width = kvm_cpu_property(X86_PROPERTY_PMU_GP_COUNTERS_BIT_WIDTH);
	uint32_t fixed_width = kvm_cpu_property(X86_PROPERTY_PMU_FIXED_COUNTERS_BIT_WIDTH);

	pmu = (struct pmu) {
		.version		= 2,
		.nr_gp			= nr_gp,
		.nr_fixed		= nr_fixed,
		.gp_width		= gp_width,
		.fixed_width		= fixed_width,
		.nr_ranges		= full_width ? 2 : 1,
		.ranges			= {
			{ MSR_IA32_PERFCTR0, 1, nr_gp, true },
			{ MSR_IA32_PMC0, 1, nr_gp, false },
		},
		.eventsel		= MSR_P6_EVNTSEL0,
		.eventsel_stride	= 1,
		.fixed_counter		= MSR_CORE_PERF_FIXED_CTR0,
		.fixed_ctrl		= MSR_CORE_PERF_FIXED_CTR_CTRL,
		.global_ctrl		= MSR_CORE_PERF_GLOBAL_CTRL,
		.global_status		= MSR_CORE_PERF_GLOBAL_STATUS,
		.global_status_clear	= MSR_CORE_PERF_GLOBAL_OVF_CTRL,
		.counters		= GENMASK_ULL(nr_gp - 1, 0),
		.eventsel_bits		= GENMASK_ULL(31, 0) & ~ARCH_PERFMON_EVENTSEL_ANY,
		.instructions		= INTEL_ARCH_INSTRUCTIONS_RETIRED,
		.branches		= INTEL_ARCH_BRANCHES_RETIRED,
		.masks_lvtpc		= true,
	};

	if (nr_fixed)
		pmu.counters |= GENMASK_ULL(FIXED_BASE + nr_fixed - 1, FIXED_BASE);

	/* BUF and COND_CHGD are there in all versions, without any use. */
	pmu.status_bits = pmu.counters | BIT_ULL(62) | BIT_ULL(63);

	if (full_width) {
		pmu.ranges[0] = (struct pmu_gp_range) { MSR_IA32_PMC0, 1, nr_gp, false };
		pmu.ranges[1] = (struct pmu_gp_range) { MSR_IA32_PERFCTR0, 1, nr_gp, true };
	}
}

/* PerfMonV2; the first four counters have the names of K7 as well. */
static inline void pmu_init_amd(uint32_t nr_gp)
{
	const uint64_t counters = GENMASK_ULL(nr_gp - 1, 0);

	pmu = (struct pmu) {
		.version		= 2,
		.nr_gp			= nr_gp,
		.gp_width		= 48,
		.nr_ranges		= 2,
		.ranges			= {
			{ MSR_F15H_PERF_CTR0, 2, nr_gp, false },
			{ MSR_K7_PERFCTR0, 1, nr_gp < 4 ? nr_gp : 4, false },
		},
		.eventsel		= MSR_F15H_PERF_CTL0,
		.eventsel_stride	= 2,
		.global_ctrl		= MSR_AMD64_PERF_CNTR_GLOBAL_CTL,
		.global_status		= MSR_AMD64_PERF_CNTR_GLOBAL_STATUS,
		.global_status_clear	= MSR_AMD64_PERF_CNTR_GLOBAL_STATUS_CLR,
		.global_status_set	= MSR_AMD64_PERF_CNTR_GLOBAL_STATUS_SET,
		.counters		= counters,
		.eventsel_bits		= GENMASK_ULL(35, 0) & ~ARCH_PERFMON_EVENTSEL_ANY &
					  ~ARCH_PERFMON_EVENTSEL_PIN_CONTROL,
		.status_bits		= counters,
		.instructions		= AMD_ZEN_INSTRUCTIONS_RETIRED,
		.branches		= AMD_ZEN_BRANCHES_RETIRED,
		.ignores_reserved	= true,
	};

	if (kvm_cpu_has(X86_FEATURE_SVM))
		pmu.eventsel_bits |= AMD_EVENTSEL_GUEST_ONLY | AMD_EVENTSEL_HOST_ONLY;
}

/* Intel's counters of 32 bits; there is nothing like them on AMD. */
static inline bool pmu_has_full_width(void)
{
	return pmu.nr_ranges == 2;
}

/*
 * A PMU from before there was global control.  AMD's has the names of the core's
 * counters, or just those of K7's four.
 */
static inline void pmu_init_version1(uint32_t nr_gp, bool k7_only)
{
	if (host_cpu_is_amd) {
		pmu_init_amd(nr_gp);
		if (k7_only) {
			pmu.ranges[0] = pmu.ranges[1];
			pmu.nr_ranges = 1;
			pmu.eventsel = MSR_K7_EVNTSEL0;
			pmu.eventsel_stride = 1;
		}
	} else {
		pmu_init_intel(nr_gp, 0, true);
	}

	pmu.version = 1;
	pmu.fixed_ctrl = 0;
	pmu.global_ctrl = 0;
	pmu.global_status = 0;
	pmu.global_status_clear = 0;
	pmu.global_status_set = 0;
}

/* A part of what KVM offers, see pmu_limit_vcpu() for the guest's side of it. */
static inline void pmu_init_part(uint32_t nr_gp, uint32_t nr_fixed, bool full_width)
{
	if (host_cpu_is_amd)
		pmu_init_amd(nr_gp);
	else
		pmu_init_intel(nr_gp, nr_fixed, full_width);
}

/* All that KVM offers. */
static inline void pmu_init(void)
{
	bool full_width = kvm_cpu_has(X86_FEATURE_PDCM) &&
			  kvm_get_feature_msr(MSR_IA32_PERF_CAPABILITIES) & PMU_CAP_FW_WRITES;

	if (host_cpu_is_amd)
		pmu_init_amd(kvm_cpu_property(X86_PROPERTY_NR_PERFCTR_CORE));
	else
		pmu_init_intel(kvm_cpu_property(X86_PROPERTY_PMU_NR_GP_COUNTERS),
			       kvm_cpu_property(X86_PROPERTY_PMU_NR_FIXED_COUNTERS),
			       full_width);
}

/* What the tests are about; everything they use of the PMU, they check here. */
static inline void pmu_require_mediated(void)
{
	TEST_REQUIRE(get_kvm_param_bool("enable_mediated_pmu"));

	if (host_cpu_is_intel) {
		TEST_REQUIRE(kvm_cpu_property(X86_PROPERTY_PMU_VERSION) >= 2);
		TEST_REQUIRE(kvm_pmu_has(X86_PMU_FEATURE_INSNS_RETIRED));
		TEST_REQUIRE(kvm_pmu_has(X86_PMU_FEATURE_BRANCH_INSNS_RETIRED));
	} else {
		TEST_REQUIRE(host_cpu_is_amd);
		TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_PERFMON_V2));
	}

	pmu_init();
}

/* Have the vCPU's CPUID and capabilities say what the table says. */
static inline void pmu_limit_vcpu(struct kvm_vcpu *vcpu)
{
	if (host_cpu_is_amd) {
		vcpu_set_cpuid_property(vcpu, X86_PROPERTY_NR_PERFCTR_CORE, pmu.nr_gp);
		if (pmu.version == 1)
			vcpu_clear_cpuid_feature(vcpu, X86_FEATURE_PERFMON_V2);
		if (pmu.ranges[0].base == MSR_K7_PERFCTR0)
			vcpu_clear_cpuid_feature(vcpu, X86_FEATURE_PERFCTR_CORE);
		return;
	}

	if (kvm_cpu_has(X86_FEATURE_PDCM))
		vcpu_set_msr(vcpu, MSR_IA32_PERF_CAPABILITIES,
			     pmu_has_full_width() ? PMU_CAP_FW_WRITES : 0);
	vcpu_set_cpuid_property(vcpu, X86_PROPERTY_PMU_NR_GP_COUNTERS, pmu.nr_gp);
	vcpu_set_cpuid_property(vcpu, X86_PROPERTY_PMU_NR_FIXED_COUNTERS, pmu.nr_fixed);
	vcpu_set_cpuid_property(vcpu, X86_PROPERTY_PMU_GP_COUNTERS_BIT_WIDTH, pmu.gp_width);
	vcpu_set_cpuid_property(vcpu, X86_PROPERTY_PMU_FIXED_COUNTERS_BIT_WIDTH,
				pmu.fixed_width);
	if (pmu.version < 2)
		vcpu_set_cpuid_property(vcpu, X86_PROPERTY_PMU_VERSION, pmu.version);
}

#define pmu_sync(vm) sync_global_to_guest(vm, pmu)

static inline int next_counter(int i)
{
	while (i < 64 && !(pmu.counters & BIT_ULL(i)))
		i++;
	return i;
}

#define for_each_counter(i)	\
	for ((i) = next_counter(0); (i) < 64; (i) = next_counter((i) + 1))

static inline bool is_fixed(int i)
{
	return i >= FIXED_BASE;
}

static inline uint64_t counter_mask(int i)
{
	return GENMASK_ULL((is_fixed(i) ? pmu.fixed_width : pmu.gp_width) - 1, 0);
}

static inline uint32_t counter_msr(int i)
{
	if (is_fixed(i))
		return pmu.fixed_counter + i - FIXED_BASE;

	return pmu.ranges[0].base + i * pmu.ranges[0].stride;
}

/* The counter's address in one of the ranges, 0 if it has none there. */
static inline uint32_t counter_alias(int i, int range)
{
	if (is_fixed(i) || range >= pmu.nr_ranges || i >= pmu.ranges[range].nr)
		return 0;

	return pmu.ranges[range].base + i * pmu.ranges[range].stride;
}

static inline uint32_t eventsel_msr(int i)
{
	return pmu.eventsel + i * pmu.eventsel_stride;
}

static inline uint32_t rdpmc_index(int i)
{
	return is_fixed(i) ? (i - FIXED_BASE) | INTEL_RDPMC_FIXED : i;
}

static inline uint64_t rdpmc(uint32_t index)
{
	uint32_t eax, edx;

	asm volatile("rdpmc" : "=a"(eax), "=d"(edx) : "c"(index));
	return eax | (uint64_t)edx << 32;
}

static inline uint64_t read_counter(int i)
{
	return rdpmc(rdpmc_index(i));
}

/* For values that fit into 31 bits, or are negative and fit into 32. */
static inline void write_counter(int i, int64_t value)
{
	if (is_fixed(i) || !pmu.ranges[0].narrow)
		value &= counter_mask(i);

	wrmsr(counter_msr(i), value);
}

enum {
	KERNEL	= BIT(0),
	USER	= BIT(1),
	PMI	= BIT(2),
};

/* Select what a counter counts, 0 for nothing; a fixed one has its own event. */
static inline void select_event(int i, uint64_t event, int flags)
{
	uint64_t value;

	if (is_fixed(i)) {
		value = rdmsr(pmu.fixed_ctrl) & ~FIXED_PMC_CTRL(i - FIXED_BASE, 0xfull);
		value |= FIXED_PMC_CTRL(i - FIXED_BASE,
					(flags & KERNEL ? FIXED_PMC_KERNEL : 0) |
					(flags & USER ? FIXED_PMC_USER : 0) |
					(flags & PMI ? FIXED_PMC_ENABLE_PMI : 0));
		wrmsr(pmu.fixed_ctrl, value);
		return;
	}

	value = flags ? event | ARCH_PERFMON_EVENTSEL_ENABLE |
			(flags & KERNEL ? ARCH_PERFMON_EVENTSEL_OS : 0) |
			(flags & USER ? ARCH_PERFMON_EVENTSEL_USR : 0) |
			(flags & PMI ? ARCH_PERFMON_EVENTSEL_INT : 0) : 0;
	wrmsr(eventsel_msr(i), value);
}

static inline void reset_pmu(void)
{
	int i;

	wrmsr(pmu.global_ctrl, 0);
	for_each_counter(i) {
		select_event(i, 0, 0);
		write_counter(i, 0);
	}
	wrmsr(pmu.global_status_clear, pmu.counters);
}

/*
 * A loop whose events are known.  It begins with the WRMSR to global control that
 * turns counters on, which isn't counted, and ends with the one that turns them
 * off, which is: a write takes effect on the instructions that follow it.
 *
 *   1		mov
 *   each	body, dec, jnz (branch)
 *   3		xor, xor, wrmsr
 */
#define LOOP_INSNS(loops, body_insns)	(1 + (loops) * ((body_insns) + 2) + 3)

#define RUN_LOOP(counters, loops, body)					\
do {									\
	uint64_t __counters = (counters);				\
	uint32_t __eax = __counters, __edx = __counters >> 32;		\
									\
	asm volatile("wrmsr\n\t"					\
		     "mov $" __stringify(loops) ", %%esi\n\t"		\
		     "1:\n\t"						\
		     body						\
		     "dec %%esi\n\t"					\
		     "jnz 1b\n\t"					\
		     "xor %%eax, %%eax\n\t"				\
		     "xor %%edx, %%edx\n\t"				\
		     "wrmsr\n\t"					\
		     : "+a"(__eax), "+d"(__edx)				\
		     : "c"(pmu.global_ctrl)				\
		     : "esi", "cc", "memory");				\
} while (0)

/* The measured block. */
#define BLOCK_LOOPS	10
#define BLOCK_INSNS	LOOP_INSNS(BLOCK_LOOPS, 1)
#define BLOCK_BRANCHES	BLOCK_LOOPS

static __always_inline void run_block(uint64_t counters)
{
	RUN_LOOP(counters, BLOCK_LOOPS, "nop\n\t");
}

/* What a guest does to exit to user space; any port that is not ucall's */
#define PORT		0x99

/*
 * User space has its turn, while the guest's counters may be on: an OUT, which user
 * space completes before it looks, hence it counts.  From there to the end of the
 * reading of the counter there are TURN_INSNS instructions, the last one is
 * RDPMC, which doesn't count itself.
 */
#define TURN_INSNS	5

static __always_inline uint64_t take_turn(int i)
{
	uint32_t eax, edx;

	asm volatile("out %%al, $" __stringify(PORT) "\n\t"
		     "nop\n\t"
		     "nop\n\t"
		     "nop\n\t"
		     "nop\n\t"
		     "mov %[index], %%ecx\n\t"
		     "rdpmc\n\t"
		     : "=a"(eax), "=d"(edx)
		     : [index]"r"(rdpmc_index(i))
		     : "ecx", "memory");

	return eax | (uint64_t)edx << 32;
}

static inline void run_to_turn(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);
	if (get_ucall(vcpu, &uc) == UCALL_ABORT)
		REPORT_GUEST_ASSERT(uc);

	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
	TEST_ASSERT_EQ(vcpu->run->io.port, PORT);
	vcpu_run_complete_io(vcpu);
}

/* Run until the guest is done, failing with its message if it says so. */
static inline void run_vcpu(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	do {
		vcpu_run(vcpu);
		switch (get_ucall(vcpu, &uc)) {
		case UCALL_ABORT:
			REPORT_GUEST_ASSERT(uc);
			break;
		case UCALL_PRINTF:
			REPORT_GUEST_PRINTF(uc);
			break;
		case UCALL_SYNC:
		case UCALL_DONE:
			break;
		default:
			TEST_FAIL("Unexpected ucall %lu, exit reason %s", uc.cmd,
				  exit_reason_str(vcpu->run->exit_reason));
		}
	} while (uc.cmd == UCALL_PRINTF);
}

/* True at an exit in the midst of a round, false at its end. */
static inline bool run_to_exit(struct kvm_vcpu *vcpu)
{
	struct ucall uc;

	vcpu_run(vcpu);
	if (vcpu->run->exit_reason == KVM_EXIT_IO && vcpu->run->io.port == PORT)
		return true;

	switch (get_ucall(vcpu, &uc)) {
	case UCALL_SYNC:
		return false;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("Unexpected ucall %lu, exit reason %s", uc.cmd,
			  exit_reason_str(vcpu->run->exit_reason));
	}
}

static inline int pin_to_last_cpu(void)
{
	int cpu = sysconf(_SC_NPROCESSORS_ONLN) - 1;

	pin_self_to_cpu(cpu);
	return cpu;
}

static inline bool write_file(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY), r;

	if (fd < 0)
		return false;

	r = write(fd, value, strlen(value));
	close(fd);
	return r == strlen(value);
}

static inline void write_number(const char *path, int value)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", value);
	TEST_ASSERT(write_file(path, text), "Can't write %d to %s", value, path);
}

static inline int read_number(const char *path)
{
	char text[16] = {};
	int fd = open(path, O_RDONLY);

	__TEST_REQUIRE(fd >= 0, "Can't open %s", path);
	TEST_ASSERT(read(fd, text, sizeof(text) - 1) > 0, "Can't read %s", path);
	close(fd);
	return atoi(text);
}

#define NMI_WATCHDOG	"/proc/sys/kernel/nmi_watchdog"

/* With the hard-lockup detector's events a guest yields the hardware at each exit. */
static inline bool has_watchdog_events(void)
{
	return !access(NMI_WATCHDOG, R_OK) && read_number(NMI_WATCHDOG);
}

/* One of the binary statistics that @fd is for */
static inline uint64_t read_stat(int fd, const char *name)
{
	struct kvm_stats_desc *descs, *desc;
	struct kvm_stats_header header;
	bool found = false;
	uint64_t value;
	int i;

	read_stats_header(fd, &header);
	descs = read_stats_descriptors(fd, &header);
	for (i = 0; i < header.num_desc; i++) {
		desc = get_stats_descriptor(descs, i, &header);
		if (strcmp(desc->name, name))
			continue;

		read_stat_data(fd, &header, desc, &value, 1);
		found = true;
	}
	TEST_ASSERT(found, "There is no statistic %s", name);

	free(descs);
	return value;
}

/* Waits until the vCPU isn't in KVM_RUN. */
static inline uint64_t vcpu_read_stat(struct kvm_vcpu *vcpu, const char *name)
{
	int fd = vcpu_get_stats_fd(vcpu);
	uint64_t value = read_stat(fd, name);

	close(fd);
	return value;
}

#endif /* SELFTEST_KVM_MEDIATED_PMU_H */
