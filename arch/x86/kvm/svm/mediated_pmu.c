// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mediated PMU on AMD.
 *
 * The VMCB doesn't switch global control.  Instead every selector of the guest
 * is told to count in guests only, so that what the host does between claim and
 * VMRUN, and between exit and yield, is not counted.  L1 and L2 are both guests
 * to the hardware, hence KVM stops counters that L1 wants for one of the two.
 */
#include "mediated_pmu.h"
#include "svm.h"

static const struct kvm_mediated_pmu_regs amd_mediated_pmu_regs = {
	.gp_counter		= MSR_F15H_PERF_CTR0,
	.gp_eventsel		= MSR_F15H_PERF_CTL0,
	.gp_stride		= 2,
	.global_ctrl		= MSR_AMD64_PERF_CNTR_GLOBAL_CTL,
	.global_status		= MSR_AMD64_PERF_CNTR_GLOBAL_STATUS,
	.global_status_clear	= MSR_AMD64_PERF_CNTR_GLOBAL_STATUS_CLR,
	.global_status_set	= MSR_AMD64_PERF_CNTR_GLOBAL_STATUS_SET,
	.settable_status	= ~0ull,
	.eventsel_guest_only	= AMD64_EVENTSEL_GUESTONLY,
	.eventsel_host_only	= AMD64_EVENTSEL_HOSTONLY,
};

/* A hypervisor that emulates the PMU may ignore the bit. */
static bool __init has_guest_only(void)
{
	u64 old, new;

	/* The last counter of all, with IRQs off: there may be events. */
	guard(irqsave)();

	rdmsrq(MSR_F15H_PERF_CTL5, old);
	wrmsrq(MSR_F15H_PERF_CTL5, old | AMD64_EVENTSEL_GUESTONLY);
	rdmsrq(MSR_F15H_PERF_CTL5, new);
	wrmsrq(MSR_F15H_PERF_CTL5, old);

	return new & AMD64_EVENTSEL_GUESTONLY;
}

void __init svm_mediated_pmu_setup(void)
{
	const char *missing = NULL;

	if (enable_mediated_pmu && kvm_pmu_cap.mediated && !has_guest_only())
		missing = "event selectors with a guest-only bit";

	kvm_mediated_pmu_setup(&amd_mediated_pmu_regs, missing);
}

void amd_mediated_pmu_load(struct kvm_vcpu *vcpu, u64 global_ctrl, bool unchanged)
{
	if (!unchanged)
		wrmsrq(MSR_AMD64_PERF_CNTR_GLOBAL_CTL, global_ctrl);
}

void amd_mediated_pmu_put(struct kvm_vcpu *vcpu)
{
	wrmsrq(MSR_AMD64_PERF_CNTR_GLOBAL_CTL, 0);
}

/* Counters are the guest's own registers; what selects events never is. */
void svm_mediated_pmu_recalc_intercepts(struct kvm_vcpu *vcpu)
{
	bool mediated = kvm_mediated_pmu_recalc_claim(vcpu);
	struct kvm_pmu *pmu = vcpu_to_pmu(vcpu);
	bool direct;
	u32 msr;
	int i;

	for (i = 0; i < kvm_pmu_cap.num_counters_gp; i++) {
		direct = mediated && i < pmu->nr_arch_gp_counters;

		msr = MSR_F15H_PERF_CTR0 + 2 * i;
		svm_set_intercept_for_msr(vcpu, msr, MSR_TYPE_RW,
					  !direct || !kvm_pmu_is_valid_msr(vcpu, msr));
		if (i < AMD64_NUM_COUNTERS)
			svm_set_intercept_for_msr(vcpu, MSR_K7_PERFCTR0 + i,
						  MSR_TYPE_RW, !direct);
	}

	/*
	 * Clearing and setting the status is always intercepted: the hardware has
	 * bits that freeze counters, which the guest's PMU doesn't have.
	 */
	direct = mediated && kvm_pmu_has_perf_global_ctrl(pmu) &&
		 kvm_mediated_pmu_is_host_size(pmu);

	svm_set_intercept_for_msr(vcpu, MSR_AMD64_PERF_CNTR_GLOBAL_STATUS,
				  MSR_TYPE_R, !direct);

	/*
	 * RDPMC reads any counter of the hardware.  The northbridge's and the
	 * last-level cache's follow those of the core, and are the host's.
	 */
	if (mediated && kvm_mediated_pmu_is_host_size(pmu) &&
	    !boot_cpu_has(X86_FEATURE_PERFCTR_NB) &&
	    !boot_cpu_has(X86_FEATURE_PERFCTR_LLC))
		svm_clr_intercept(to_svm(vcpu), INTERCEPT_RDPMC);
	else
		svm_set_intercept(to_svm(vcpu), INTERCEPT_RDPMC);
}
