/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_X86_MEDIATED_PMU_H
#define __KVM_X86_MEDIATED_PMU_H

#include <linux/kvm_host.h>
#include <linux/perf_mediated.h>

#include <asm/perf_mediated.h>

#include "x86.h"
#include "pmu.h"

/* A vendor's registers; no branches on the vendor in the common code. */
struct kvm_mediated_pmu_regs {
	u32 gp_counter;
	u32 gp_eventsel;
	u32 gp_stride;
	u32 fixed_counter;
	u32 fixed_ctr_ctrl;
	u32 global_ctrl;
	u32 global_status;
	u32 global_status_clear;
	u32 global_status_set;
	/* Of the overflow status; the others are lost when it is loaded. */
	u64 settable_status;
	/* Set in the hardware; a guest that is a hypervisor may set one of them, too. */
	u64 eventsel_guest_only;
	u64 eventsel_host_only;
};

extern bool enable_mediated_pmu;

void kvm_mediated_pmu_setup(const struct kvm_mediated_pmu_regs *regs,
			    const char *missing);
void kvm_mediated_pmu_register(void);
void kvm_mediated_pmu_unregister(void);

int kvm_mediated_pmu_precreate_vcpu(struct kvm *kvm);
void kvm_mediated_pmu_destroy_vm(struct kvm *kvm);

bool kvm_mediated_pmu_refresh(struct kvm_vcpu *vcpu);
void kvm_mediated_pmu_reset(struct kvm_vcpu *vcpu);
void kvm_mediated_pmu_vcpu_load(struct kvm_vcpu *vcpu, int cpu);
void kvm_mediated_pmu_vcpu_put(struct kvm_vcpu *vcpu);
void kvm_mediated_pmu_reprogram(struct kvm_pmc *pmc, bool allowed);
void __kvm_mediated_pmu_count_event(struct kvm_vcpu *vcpu, u64 eventsel);

bool kvm_mediated_pmu_is_host_width(struct kvm_pmu *pmu, enum pmc_type type);
bool kvm_mediated_pmu_is_host_size(struct kvm_pmu *pmu);

void kvm_mediated_pmu_write_counter(struct kvm_pmc *pmc);
void kvm_mediated_pmu_update_claim(struct kvm_vcpu *vcpu);
bool kvm_mediated_pmu_recalc_claim(struct kvm_vcpu *vcpu);
void kvm_mediated_pmu_sync_status(struct kvm_vcpu *vcpu, u32 msr, bool write);

void kvm_mediated_pmu_disable_cpu(void);
void __kvm_mediated_pmu_load(struct kvm_vcpu *vcpu);
void __kvm_mediated_pmu_put(struct kvm_vcpu *vcpu);

bool kvm_mediated_pmu_fastpath_wrmsr(struct kvm_vcpu *vcpu, u32 msr, u64 data);
fastpath_t kvm_mediated_pmu_fastpath_read(struct kvm_vcpu *vcpu, bool rdpmc);
void __kvm_mediated_pmu_load_global_ctrl(struct kvm_vcpu *vcpu);

void vmx_mediated_pmu_setup(void);
void vmx_mediated_pmu_switch(struct kvm_vcpu *vcpu);
void vmx_mediated_pmu_recalc_intercepts(struct kvm_vcpu *vcpu);
void vmx_mediated_pmu_merge_msr_bitmap(struct kvm_vcpu *vcpu, unsigned long *l1,
				       unsigned long *l02);
void intel_mediated_pmu_load(struct kvm_vcpu *vcpu, u64 global_ctrl, bool unchanged);

void svm_mediated_pmu_setup(void);
void svm_mediated_pmu_recalc_intercepts(struct kvm_vcpu *vcpu);
void amd_mediated_pmu_load(struct kvm_vcpu *vcpu, u64 global_ctrl, bool unchanged);
void amd_mediated_pmu_put(struct kvm_vcpu *vcpu);

static inline bool kvm_vcpu_has_mediated_pmu(struct kvm_vcpu *vcpu)
{
	return vcpu->kvm->arch.has_mediated_pmu && vcpu_to_pmu(vcpu)->version;
}

/* Events that want to count the guest may have been opened on its task. */
static inline int kvm_mediated_pmu_prerun(struct kvm_vcpu *vcpu)
{
	return kvm_vcpu_has_mediated_pmu(vcpu) ? perf_mediated_enter_task() : 0;
}

static inline bool kvm_mediated_pmu_claims(struct kvm_vcpu *vcpu)
{
	return vcpu_to_pmu(vcpu)->mediated.claims;
}

/*
 * The guest PMU is in the hardware from load to put, with IRQs off.  A vCPU whose
 * guest counts nothing claims nothing; but it must not run on top of another's
 * counters: those of AMD count in any guest, those of Intel as soon as perf turns
 * global control on for its entry.
 */
static inline void kvm_mediated_pmu_load(struct kvm_vcpu *vcpu)
{
	if (kvm_mediated_pmu_claims(vcpu))
		__kvm_mediated_pmu_load(vcpu);
	else if (perf_mediated_guest_owns_pmu())
		perf_mediated_evict();
}

static inline void kvm_mediated_pmu_put(struct kvm_vcpu *vcpu)
{
	if (vcpu_to_pmu(vcpu)->mediated.loaded)
		__kvm_mediated_pmu_put(vcpu);
}

static inline void kvm_mediated_pmu_load_global_ctrl(struct kvm_vcpu *vcpu)
{
	struct kvm_pmu *pmu = vcpu_to_pmu(vcpu);

	/* All counters of version 1 are on, whatever the guest has written. */
	if (pmu->mediated.loaded && kvm_pmu_has_perf_global_ctrl(pmu) &&
	    pmu->global_ctrl != pmu->global_ctrl_hw)
		__kvm_mediated_pmu_load_global_ctrl(vcpu);
}

static inline void kvm_mediated_pmu_count_event(struct kvm_vcpu *vcpu,
						u64 eventsel)
{
	if (vcpu_to_pmu(vcpu)->global_ctrl_hw)
		__kvm_mediated_pmu_count_event(vcpu, eventsel);
}

#endif /* __KVM_X86_MEDIATED_PMU_H */
