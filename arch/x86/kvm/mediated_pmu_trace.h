/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mediated PMU: who owns a CPU's PMU hardware, see arch/x86/events/mediated.c.
 */
#if !defined(_TRACE_KVM_MEDIATED_PMU_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_KVM_MEDIATED_PMU_H

#include <linux/tracepoint.h>

#undef TRACE_SYSTEM
#define TRACE_SYSTEM kvm

DECLARE_EVENT_CLASS(kvm_mediated_pmu,
		    TP_PROTO(struct kvm_vcpu *vcpu),
		    TP_ARGS(vcpu),
		    TP_STRUCT__entry(__field(u32, vcpu_id)),
		    TP_fast_assign(__entry->vcpu_id = vcpu->vcpu_id;),
		    TP_printk("vcpu %u", __entry->vcpu_id)
);

/* A guest PMU gets the hardware of this CPU, from the host or another guest. */
DEFINE_EVENT(kvm_mediated_pmu, kvm_mediated_pmu_claim,
	     TP_PROTO(struct kvm_vcpu *vcpu),
	     TP_ARGS(vcpu)
);

/* It gives the hardware back after VM exit, as the host has events here. */
DEFINE_EVENT(kvm_mediated_pmu, kvm_mediated_pmu_yield,
	     TP_PROTO(struct kvm_vcpu *vcpu),
	     TP_ARGS(vcpu)
);

/* It was parked, and makes room for somebody else or moves to another CPU. */
DEFINE_EVENT(kvm_mediated_pmu, kvm_mediated_pmu_evict,
	     TP_PROTO(struct kvm_vcpu *vcpu),
	     TP_ARGS(vcpu)
);

#endif /* _TRACE_KVM_MEDIATED_PMU_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE mediated_pmu_trace

/* This part must be outside protection */
#include <trace/define_trace.h>
