/* SPDX-License-Identifier: GPL-2.0-only */
/* What newer kernels call differently, for the files that all bases share. */
#ifndef __KVM_X86_MEDIATED_COMPAT_H
#define __KVM_X86_MEDIATED_COMPAT_H

#define EXPORT_SYMBOL_FOR_KVM_INTERNAL(sym)	EXPORT_SYMBOL_GPL(sym)
#define KVM_REQ_RECALC_INTERCEPTS		KVM_REQ_MSR_FILTER_CHANGED
#define PERF_CAP_FW_WRITES			PMU_CAP_FW_WRITES
#define guest_has_feature(vcpu, feature)	guest_cpuid_has(vcpu, feature)

#endif /* __KVM_X86_MEDIATED_COMPAT_H */
