// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mediated PMU on Intel.
 *
 * The VMCS switches global control: VM entry loads the guest's, VM exit loads 0,
 * so no counter of the guest counts host code, and none of the host's counts the
 * guest.  Guest writes of global control are intercepted, hence KVM knows its
 * value and needn't have it saved at exit.
 */
#include <asm/vmx.h>

#include "capabilities.h"
#include "mediated_pmu.h"
#include "nested.h"
#include "vmx.h"

static const struct kvm_mediated_pmu_regs intel_mediated_pmu_regs = {
	.gp_counter		= MSR_IA32_PMC0,
	.gp_eventsel		= MSR_P6_EVNTSEL0,
	.gp_stride		= 1,
	.fixed_counter		= MSR_CORE_PERF_FIXED_CTR0,
	.fixed_ctr_ctrl		= MSR_CORE_PERF_FIXED_CTR_CTRL,
	.global_ctrl		= MSR_CORE_PERF_GLOBAL_CTRL,
	.global_status		= MSR_CORE_PERF_GLOBAL_STATUS,
	.global_status_clear	= MSR_CORE_PERF_GLOBAL_OVF_CTRL,
	.global_status_set	= MSR_CORE_PERF_GLOBAL_STATUS_SET,
	.settable_status	= ~MSR_CORE_PERF_GLOBAL_OVF_CTRL_COND_CHGD,
};

void __init vmx_mediated_pmu_setup(void)
{
	const char *missing = NULL;
	u64 perf_cap = 0;

	if (boot_cpu_has(X86_FEATURE_PDCM))
		rdmsrq(MSR_IA32_PERF_CAPABILITIES, perf_cap);

	if (!(perf_cap & PERF_CAP_FW_WRITES))
		missing = "full-width counter writes";
	else if (!cpu_has_load_perf_global_ctrl())
		missing = "VMCS controls that load PERF_GLOBAL_CTRL";
	else if (!cpu_has_vmx_msr_bitmap())
		missing = "VMX MSR bitmaps";

	kvm_mediated_pmu_setup(&intel_mediated_pmu_regs, missing);
}

/*
 * RDPMC reads any counter of the hardware.  Only if the guest has all of them, and
 * they are its own, may it run free: one that the guest lacks has to be a #GP.
 */
static bool rdpmc_is_direct(struct kvm_vcpu *vcpu)
{
	struct kvm_pmu *pmu = vcpu_to_pmu(vcpu);

	return kvm_mediated_pmu_is_host_size(pmu) &&
	       kvm_mediated_pmu_is_host_width(pmu, KVM_PMC_GP) &&
	       kvm_mediated_pmu_is_host_width(pmu, KVM_PMC_FIXED);
}

/* With every VM entry of a guest that claims.  The VMCS may be another one each time. */
void vmx_mediated_pmu_switch(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = to_vmx(vcpu);

	if (!rdpmc_is_direct(vcpu) ||
	    (is_guest_mode(vcpu) &&
	     nested_cpu_has(get_vmcs12(vcpu), CPU_BASED_RDPMC_EXITING)))
		exec_controls_setbit(vmx, CPU_BASED_RDPMC_EXITING);
	else
		exec_controls_clearbit(vmx, CPU_BASED_RDPMC_EXITING);
}

/* The VMCS may be another one than last time, or have been used without a claim. */
void intel_mediated_pmu_load(struct kvm_vcpu *vcpu, u64 global_ctrl, bool unchanged)
{
	struct vcpu_vmx *vmx = to_vmx(vcpu);

	vm_entry_controls_setbit(vmx, VM_ENTRY_LOAD_IA32_PERF_GLOBAL_CTRL);
	vm_exit_controls_setbit(vmx, VM_EXIT_LOAD_IA32_PERF_GLOBAL_CTRL);
	vmcs_write64(GUEST_IA32_PERF_GLOBAL_CTRL, global_ctrl);
	vmcs_write64(HOST_IA32_PERF_GLOBAL_CTRL, 0);
}

/* Counters are the guest's own registers; what selects events never is. */
void vmx_mediated_pmu_recalc_intercepts(struct kvm_vcpu *vcpu)
{
	bool mediated = kvm_mediated_pmu_recalc_claim(vcpu);
	struct kvm_pmu *pmu = vcpu_to_pmu(vcpu);
	bool direct;
	u32 msr;
	int i;

	/* vmcs02 starts with it each time. */
	if (!mediated && !is_guest_mode(vcpu))
		exec_controls_setbit(to_vmx(vcpu), CPU_BASED_RDPMC_EXITING);

	for (i = 0; i < kvm_pmu_cap.num_counters_gp; i++) {
		direct = mediated && i < pmu->nr_arch_gp_counters &&
			 kvm_mediated_pmu_is_host_width(pmu, KVM_PMC_GP);

		vmx_set_intercept_for_msr(vcpu, MSR_IA32_PERFCTR0 + i,
					  MSR_TYPE_RW, !direct);
		msr = MSR_IA32_PMC0 + i;
		vmx_set_intercept_for_msr(vcpu, msr, MSR_TYPE_RW,
					  !direct || !kvm_pmu_is_valid_msr(vcpu, msr));
	}

	for (i = 0; i < kvm_pmu_cap.num_counters_fixed; i++) {
		direct = mediated && i < pmu->nr_arch_fixed_counters &&
			 kvm_mediated_pmu_is_host_width(pmu, KVM_PMC_FIXED);

		vmx_set_intercept_for_msr(vcpu, MSR_CORE_PERF_FIXED_CTR0 + i,
					  MSR_TYPE_RW, !direct);
	}

	/*
	 * Clearing the status is always intercepted: its reserved bits depend on
	 * the PMU's version, and the guest's is an older one than the hardware's.
	 */
	direct = mediated && kvm_pmu_has_perf_global_ctrl(pmu) &&
		 kvm_mediated_pmu_is_host_size(pmu);

	vmx_set_intercept_for_msr(vcpu, MSR_CORE_PERF_GLOBAL_STATUS,
				  MSR_TYPE_R, !direct);
}

/* L2 may access what neither KVM nor L1 intercepts. */
void vmx_mediated_pmu_merge_msr_bitmap(struct kvm_vcpu *vcpu, unsigned long *l1,
				       unsigned long *l02)
{
	struct vcpu_vmx *vmx = to_vmx(vcpu);
	int i;

	if (!enable_mediated_pmu)
		return;

	for (i = 0; i < kvm_pmu_cap.num_counters_gp; i++) {
		nested_vmx_set_intercept_for_msr(vmx, l1, l02,
						 MSR_IA32_PERFCTR0 + i, MSR_TYPE_RW);
		nested_vmx_set_intercept_for_msr(vmx, l1, l02,
						 MSR_IA32_PMC0 + i, MSR_TYPE_RW);
	}

	for (i = 0; i < kvm_pmu_cap.num_counters_fixed; i++)
		nested_vmx_set_intercept_for_msr(vmx, l1, l02,
						 MSR_CORE_PERF_FIXED_CTR0 + i, MSR_TYPE_RW);

	nested_vmx_set_intercept_for_msr(vmx, l1, l02,
					 MSR_CORE_PERF_GLOBAL_STATUS, MSR_TYPE_RW);
}
