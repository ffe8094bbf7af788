// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mediated PMU: the guest's PMU is the hardware's while the guest runs.
 *
 * There are two views of a control register.  The guest view is what the guest
 * wrote, and what it reads back.  The hardware view, named _hw, is what KVM puts
 * into the register: the guest view, less what the event filter denies, less
 * all bits that the guest's PMU doesn't have.  A guest's write to a selector is
 * always intercepted, so that the guest never chooses the hardware view.
 *
 * Counters have one view.  The guest reads and writes them without an exit.
 *
 * The guest PMU is loaded into the hardware when its vCPU enters the run loop, and
 * stays there as long as nobody else needs the hardware, see
 * arch/x86/events/mediated.c.  Meanwhile the registers are newer than memory, and
 * KVM reads the ones that it needs; or memory is newer, because KVM has written
 * there, and the next load writes just that.  A guest PMU that has no counter
 * enabled claims nothing, all accesses to it exit, and memory is all there is.
 *
 * An instruction that KVM emulates is counted as the hardware would have counted
 * it: by the hardware view that was in force when the guest executed it.  That
 * one changes when the guest is entered next, hence the write that enables a
 * counter isn't counted by it, and the write that disables it is.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kvm_host.h>
#include <linux/perf_mediated.h>

#include <asm/msr.h>
#include <asm/perf_event.h>
#include <asm/perf_mediated.h>

#include "irq.h"
#include "lapic.h"
#include "mediated_pmu.h"
#include "trace.h"

#define CREATE_TRACE_POINTS
#include "mediated_pmu_trace.h"

DECLARE_STATIC_CALL(kvm_x86_pmu_mediated_load,
		    *(((struct kvm_pmu_ops *)0)->mediated_load));
DECLARE_STATIC_CALL(kvm_x86_pmu_mediated_put,
		    *(((struct kvm_pmu_ops *)0)->mediated_put));

bool __read_mostly enable_mediated_pmu;
EXPORT_SYMBOL_FOR_KVM_INTERNAL(enable_mediated_pmu);

static const struct kvm_mediated_pmu_regs *regs __read_mostly;

/* The host's PMU as it is; kvm_pmu_cap is what guests may have of it. */
static struct x86_pmu_capability host_pmu __read_mostly;

/*
 * Called once by the vendor module, after the requirements that only it knows
 * were checked: @missing names the first that isn't met, or is NULL.
 */
void kvm_mediated_pmu_setup(const struct kvm_mediated_pmu_regs *vendor_regs,
			    const char *missing)
{
	if (!enable_mediated_pmu)
		return;

	if (!enable_pmu)
		missing = "a vPMU: enable_pmu is off, the CPU is hybrid, or perf has no PMU";
	else if (!kvm_pmu_cap.mediated)
		missing = "PMU version 4 without TSX force abort (Intel) or PerfMonV2 (AMD)";

	if (missing) {
		pr_warn("mediated PMU disabled, needs %s\n", missing);
		enable_mediated_pmu = false;
		return;
	}

	perf_get_x86_pmu_capability(&host_pmu);
	regs = vendor_regs;

	/* Guest PEBS would write records while the host's DS_AREA is loaded. */
	kvm_pmu_cap.pebs_ept = 0;
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(kvm_mediated_pmu_setup);

/* Under kvm->lock, where user space can no longer opt out or add a local APIC. */
int kvm_mediated_pmu_precreate_vcpu(struct kvm *kvm)
{
	int r;

	lockdep_assert_held(&kvm->lock);

	if (!enable_mediated_pmu || !kvm->arch.enable_pmu ||
	    !irqchip_in_kernel(kvm) || kvm->arch.has_mediated_pmu)
		return 0;

	r = perf_create_mediated_pmu();
	if (!r)
		kvm->arch.has_mediated_pmu = true;

	return r;
}

void kvm_mediated_pmu_destroy_vm(struct kvm *kvm)
{
	if (kvm->arch.has_mediated_pmu)
		perf_release_mediated_pmu();
}

/*
 * Returns false if the vCPU must not have a PMU: mediated PMUs are all or
 * nothing, and need a local APIC that KVM can deliver PMIs to.
 */
bool kvm_mediated_pmu_refresh(struct kvm_vcpu *vcpu)
{
	if (!enable_mediated_pmu)
		return true;

	kvm_make_request(KVM_REQ_RECALC_INTERCEPTS, vcpu);

	return vcpu->kvm->arch.has_mediated_pmu;
}

static u64 hw_counter_mask(enum pmc_type type)
{
	int width = type == KVM_PMC_GP ? host_pmu.bit_width_gp :
					 host_pmu.bit_width_fixed;

	return GENMASK_ULL(width - 1, 0);
}

/* If not, the guest must not see the hardware's upper bits. */
bool kvm_mediated_pmu_is_host_width(struct kvm_pmu *pmu, enum pmc_type type)
{
	return pmu->counter_bitmask[type] == hw_counter_mask(type);
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(kvm_mediated_pmu_is_host_width);

/*
 * True if the guest has all of the hardware's counters, i.e. if registers and
 * instructions that address a counter by number, or all of them at once, answer
 * as the guest's PMU would.
 */
bool kvm_mediated_pmu_is_host_size(struct kvm_pmu *pmu)
{
	return pmu->nr_arch_gp_counters == host_pmu.num_counters_gp &&
	       pmu->nr_arch_fixed_counters == host_pmu.num_counters_fixed;
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(kvm_mediated_pmu_is_host_size);

static void update_eventsel_hw(struct kvm_pmc *pmc, bool allowed)
{
	u64 mask = pmc_to_pmu(pmc)->raw_event_mask |
		   ARCH_PERFMON_EVENTSEL_USR | ARCH_PERFMON_EVENTSEL_OS |
		   ARCH_PERFMON_EVENTSEL_INT | ARCH_PERFMON_EVENTSEL_ENABLE |
		   regs->eventsel_guest_only | regs->eventsel_host_only;

	pmc->eventsel_hw = allowed ? pmc->eventsel & mask : 0;

	pmc_to_pmu(pmc)->mediated.selector_newer |= BIT_ULL(pmc->idx);
}

static void update_fixed_ctr_ctrl_hw(struct kvm_pmc *pmc, bool allowed)
{
	u64 mask = intel_fixed_bits_by_idx(pmc->idx - KVM_FIXED_PMC_BASE_IDX,
					   INTEL_FIXED_BITS_MASK);
	struct kvm_pmu *pmu = pmc_to_pmu(pmc);

	pmu->fixed_ctr_ctrl_hw &= ~mask;
	if (allowed)
		pmu->fixed_ctr_ctrl_hw |= pmu->fixed_ctr_ctrl & mask;

	pmu->mediated.selector_newer |= BIT_ULL(pmc->idx);
}

/*
 * The guest's selector or the event filter has changed.  @allowed is the
 * filter's answer for the guest view.
 */
void kvm_mediated_pmu_reprogram(struct kvm_pmc *pmc, bool allowed)
{
	if (pmc_is_gp(pmc))
		update_eventsel_hw(pmc, allowed);
	else
		update_fixed_ctr_ctrl_hw(pmc, allowed);
}

static u32 pmc_counter_msr(struct kvm_pmc *pmc)
{
	if (pmc_is_gp(pmc))
		return regs->gp_counter + pmc->idx * regs->gp_stride;

	return regs->fixed_counter + pmc->idx - KVM_FIXED_PMC_BASE_IDX;
}

static u32 pmc_eventsel_msr(struct kvm_pmc *pmc)
{
	return regs->gp_eventsel + pmc->idx * regs->gp_stride;
}

/* While SVM is off there is neither a host nor a guest to be counted alone. */
enum { MODE_NEITHER, MODE_HOST, MODE_GUEST };

static u8 current_mode(struct kvm_vcpu *vcpu)
{
	if (!(vcpu->arch.efer & EFER_SVME))
		return MODE_NEITHER;

	return is_guest_mode(vcpu) ? MODE_GUEST : MODE_HOST;
}

/* Both bits mean the same as none. */
static bool pmc_counts_in_mode(struct kvm_pmc *pmc, u8 mode)
{
	bool guest_only = pmc->eventsel_hw & regs->eventsel_guest_only;
	bool host_only = pmc->eventsel_hw & regs->eventsel_host_only;

	if (guest_only == host_only)
		return true;

	return mode == (guest_only ? MODE_GUEST : MODE_HOST);
}

/* L1 and L2 are both guests to the hardware. */
static u64 eventsel_for_hw(struct kvm_pmc *pmc, u8 mode)
{
	u64 eventsel;

	if (!pmc->eventsel_hw)
		return 0;

	eventsel = (pmc->eventsel_hw & ~regs->eventsel_host_only) |
		   regs->eventsel_guest_only;

	if (pmc_counts_in_mode(pmc, mode))
		return eventsel;

	return eventsel & ~ARCH_PERFMON_EVENTSEL_ENABLE;
}

/* The vCPU has entered or left L2, or turned SVM on or off. */
static void switch_mode(struct kvm_pmu *pmu, u8 mode)
{
	struct kvm_pmc *pmc;
	int i;

	kvm_for_each_pmc(pmu, pmc, i, pmu->all_valid_pmc_idx) {
		if (eventsel_for_hw(pmc, mode) !=
		    eventsel_for_hw(pmc, pmu->mediated.mode_hw))
			pmu->mediated.selector_newer |= BIT_ULL(pmc->idx);
	}

	pmu->mediated.mode_hw = mode;
}

static u64 read_counter_hw(struct kvm_pmc *pmc)
{
	u32 index = pmc->idx;

	if (pmc_is_fixed(pmc))
		index = (pmc->idx - KVM_FIXED_PMC_BASE_IDX) | INTEL_PMC_FIXED_RDPMC_BASE;

	return native_read_pmc(index) & pmc_bitmask(pmc);
}

/*
 * A counter narrower than the hardware's must overflow where the guest expects
 * it: set the bits above its width.
 */
static void write_counter_hw(struct kvm_pmc *pmc, u64 counter)
{
	wrmsrq(pmc_counter_msr(pmc), counter |
	       (hw_counter_mask(pmc->type) & ~pmc_bitmask(pmc)));
}

/* A guest PMU of version 1 has no global control: all counters are on. */
static u64 global_ctrl_for_hw(struct kvm_pmu *pmu)
{
	if (kvm_pmu_has_perf_global_ctrl(pmu))
		return pmu->global_ctrl;

	return *(u64 *)pmu->all_valid_pmc_idx;
}

static void load_status(struct kvm_pmu *pmu)
{
	u64 hw, set;

	/* The host's overflows, if there are any, are not for the guest. */
	rdmsrq(regs->global_status, hw);
	if (hw & ~pmu->global_status)
		wrmsrq(regs->global_status_clear, hw & ~pmu->global_status);

	set = pmu->global_status & ~hw & regs->settable_status;
	if (set)
		wrmsrq(regs->global_status_set, set);
}

/*
 * With IRQs off: whoever evicts the guest PMU does the same.  In the run loop the
 * guest may go on without another load, i.e. registers are soon newer again.
 */
static void mark_synced(struct kvm_pmu *pmu, u64 bit)
{
	if (!pmu->mediated.loaded)
		pmu->mediated.hw_newer &= ~bit;
}

static void sync_counter(struct kvm_pmc *pmc)
{
	struct kvm_pmu *pmu = pmc_to_pmu(pmc);

	if (!(pmu->mediated.hw_newer & BIT_ULL(pmc->idx)))
		return;

	pmc->counter = read_counter_hw(pmc);
	mark_synced(pmu, BIT_ULL(pmc->idx));
}

/* Before a counter is written in memory: what the register has doesn't matter any more. */
void kvm_mediated_pmu_write_counter(struct kvm_pmc *pmc)
{
	struct kvm_pmu *pmu = pmc_to_pmu(pmc);

	guard(irqsave)();

	mark_synced(pmu, BIT_ULL(pmc->idx));
	pmu->mediated.mem_newer |= BIT_ULL(pmc->idx);
}

static void __sync_status(struct kvm_pmu *pmu, u64 hw)
{
	pmu->global_status = hw & ~pmu->global_status_rsvd;
	mark_synced(pmu, KVM_MEDIATED_PMU_STATUS);
}

static void sync_status(struct kvm_pmu *pmu)
{
	u64 hw;

	if (!(pmu->mediated.hw_newer & KVM_MEDIATED_PMU_STATUS))
		return;

	rdmsrq(regs->global_status, hw);
	__sync_status(pmu, hw);
}

void kvm_mediated_pmu_sync_counter(struct kvm_pmc *pmc)
{
	guard(irqsave)();

	sync_counter(pmc);
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(kvm_mediated_pmu_sync_counter);

/* Before KVM reads or writes the overflow status in memory. */
void kvm_mediated_pmu_sync_status(struct kvm_vcpu *vcpu, u32 msr, bool write)
{
	struct kvm_pmu *pmu = vcpu_to_pmu(vcpu);

	if (!pmu->mediated.claims ||
	    (msr != regs->global_status && msr != regs->global_status_clear &&
	     msr != regs->global_status_set))
		return;

	guard(irqsave)();

	sync_status(pmu);
	if (write)
		pmu->mediated.mem_newer |= KVM_MEDIATED_PMU_STATUS;
}

/* In the evicting CPU's IRQ context, or by the vCPU itself; IRQs are off. */
static void save_and_clear(struct kvm_vcpu *vcpu)
{
	struct kvm_pmu *pmu = vcpu_to_pmu(vcpu);
	struct kvm_pmc *pmc;
	u64 status;
	int i;

	/* From here on global control is 0. */
	kvm_pmu_call(mediated_put)(vcpu);

	if (regs->fixed_ctr_ctrl)
		wrmsrq(regs->fixed_ctr_ctrl, 0);

	kvm_for_each_pmc(pmu, pmc, i, pmu->all_valid_pmc_idx) {
		if (pmc_is_gp(pmc) &&
		    (pmc->eventsel_hw || pmu->mediated.selector_newer & BIT_ULL(i)))
			wrmsrq(pmc_eventsel_msr(pmc), 0);

		sync_counter(pmc);
	}

	rdmsrq(regs->global_status, status);
	if (pmu->mediated.hw_newer & KVM_MEDIATED_PMU_STATUS)
		__sync_status(pmu, status);
	if (status)
		wrmsrq(regs->global_status_clear, status);
}

static void kvm_mediated_pmu_evict(struct perf_mediated_guest *guest)
{
	struct kvm_vcpu *vcpu = container_of(guest, struct kvm_vcpu,
					     arch.pmu.mediated.guest);

	++vcpu->stat.pmu_evictions;
	trace_kvm_mediated_pmu_evict(vcpu);
	save_and_clear(vcpu);
}

/* Virtualization was disabled on this CPU, and won't be enabled again. */
static DEFINE_PER_CPU(bool, no_more_guests);

/* Before virtualization is disabled on this CPU. */
void kvm_mediated_pmu_disable_cpu(void)
{
	perf_mediated_evict();
	this_cpu_write(no_more_guests, kvm_rebooting);
}

void __kvm_mediated_pmu_load(struct kvm_vcpu *vcpu)
{
	struct kvm_pmu *pmu = vcpu_to_pmu(vcpu);
	struct kvm_mediated_pmu *mediated = &pmu->mediated;
	u64 global_ctrl = global_ctrl_for_hw(pmu);
	u8 mode = current_mode(vcpu);
	bool unchanged = false;
	struct kvm_pmc *pmc;
	int i;

	/*
	 * vCPUs run on while the machine goes down, and fail to enter the guest.
	 * On AMD IRQs are on when VMRUN fails, and an exit that came before looks
	 * like a new one: don't load what would be left to the next kernel if this
	 * CPU is stopped there.
	 */
	if (unlikely(__this_cpu_read(no_more_guests)))
		return;

	if (mode != mediated->mode_hw)
		switch_mode(pmu, mode);

	/* From here on nothing counts, until the guest runs. */
	if (perf_mediated_claim(&mediated->guest)) {
		unchanged = pmu->global_ctrl_hw == global_ctrl;

		/* Counters of AMD are enabled still; so be it if they stay so. */
		if (!unchanged && (mediated->mem_newer | mediated->selector_newer))
			kvm_pmu_call(mediated_put)(vcpu);
	} else {
		++vcpu->stat.pmu_claims;
		trace_kvm_mediated_pmu_claim(vcpu);
		mediated->mem_newer = ~0ull;
		mediated->selector_newer = ~0ull;
	}

	if (mediated->mem_newer & KVM_MEDIATED_PMU_STATUS)
		load_status(pmu);

	kvm_for_each_pmc(pmu, pmc, i, (unsigned long *)&mediated->mem_newer)
		write_counter_hw(pmc, pmc->counter);

	kvm_for_each_pmc(pmu, pmc, i, (unsigned long *)&mediated->selector_newer) {
		if (pmc_is_gp(pmc))
			wrmsrq(pmc_eventsel_msr(pmc), eventsel_for_hw(pmc, mode));
	}

	if (regs->fixed_ctr_ctrl &&
	    mediated->selector_newer >> KVM_FIXED_PMC_BASE_IDX)
		wrmsrq(regs->fixed_ctr_ctrl, pmu->fixed_ctr_ctrl_hw);

	mediated->mem_newer = 0;
	mediated->selector_newer = 0;
	mediated->hw_newer = *(u64 *)pmu->all_valid_pmc_idx |
			     KVM_MEDIATED_PMU_STATUS;
	mediated->loaded = true;

	kvm_pmu_call(mediated_load)(vcpu, global_ctrl, unchanged);
	pmu->global_ctrl_hw = global_ctrl;
}

void __kvm_mediated_pmu_put(struct kvm_vcpu *vcpu)
{
	vcpu_to_pmu(vcpu)->mediated.loaded = false;

	if (perf_mediated_park(&vcpu_to_pmu(vcpu)->mediated.guest))
		return;

	++vcpu->stat.pmu_yields;
	trace_kvm_mediated_pmu_yield(vcpu);
	save_and_clear(vcpu);
	perf_mediated_yield(&vcpu_to_pmu(vcpu)->mediated.guest);
}

/*
 * In hard IRQ context.  The interrupt is taken before the vCPU's task can be
 * preempted, hence the running vCPU is the one whose counter overflowed.
 */
static void kvm_mediated_pmu_handle_pmi(void)
{
	struct kvm_vcpu *vcpu = kvm_get_running_vcpu();
	struct kvm_pmu *pmu;

	if (!vcpu || !kvm_vcpu_has_mediated_pmu(vcpu))
		return;

	pmu = vcpu_to_pmu(vcpu);
	sync_status(pmu);
	if (pmu->global_status || !kvm_pmu_has_perf_global_ctrl(pmu))
		kvm_make_request(KVM_REQ_PMI, vcpu);
}

void kvm_mediated_pmu_register(void)
{
	if (enable_mediated_pmu)
		perf_register_guest_pmi_handler(kvm_mediated_pmu_handle_pmi);
}

void kvm_mediated_pmu_unregister(void)
{
	int cpu;

	if (!enable_mediated_pmu)
		return;

	perf_unregister_guest_pmi_handler();

	for_each_possible_cpu(cpu)
		WARN_ON_ONCE(per_cpu(perf_mediated_owner, cpu));
}

static bool pmc_is_enabled(struct kvm_pmc *pmc)
{
	if (pmc_is_gp(pmc))
		return pmc->eventsel_hw & ARCH_PERFMON_EVENTSEL_ENABLE;

	return fixed_ctrl_field(pmc_to_pmu(pmc)->fixed_ctr_ctrl_hw,
				pmc->idx - KVM_FIXED_PMC_BASE_IDX) &
	       (INTEL_FIXED_0_KERNEL | INTEL_FIXED_0_USER);
}

/* No counter counts: the hardware view, as a denied event needs no hardware. */
static bool is_idle(struct kvm_pmu *pmu)
{
	u64 global_ctrl = global_ctrl_for_hw(pmu);
	struct kvm_pmc *pmc;
	int i;

	kvm_for_each_pmc(pmu, pmc, i, (unsigned long *)&global_ctrl) {
		if (pmc_is_enabled(pmc))
			return false;
	}

	return true;
}

/* A selector, global control or the filter has changed. */
void kvm_mediated_pmu_update_claim(struct kvm_vcpu *vcpu)
{
	struct kvm_pmu *pmu = vcpu_to_pmu(vcpu);

	if (!kvm_vcpu_has_mediated_pmu(vcpu) || pmu->mediated.claims ||
	    is_idle(pmu))
		return;

	pmu->mediated.claims = true;
	pmu->mediated.guest.counters = *(u64 *)pmu->all_valid_pmc_idx;
	kvm_make_request(KVM_REQ_RECALC_INTERCEPTS, vcpu);
}

/* Under vcpu->mutex or when the vCPU is scheduled in; IRQs are on. */
void kvm_mediated_pmu_vcpu_load(struct kvm_vcpu *vcpu, int cpu)
{
	struct kvm_mediated_pmu *mediated = &vcpu_to_pmu(vcpu)->mediated;

	if (mediated->claims && mediated->guest.cpu != cpu)
		perf_mediated_evict_guest(&mediated->guest);
}

/*
 * Stop claiming only when the vCPU sleeps or has to make room, so that a guest
 * which toggles global control in its PMI handler doesn't go back and forth.
 */
void kvm_mediated_pmu_vcpu_put(struct kvm_vcpu *vcpu)
{
	struct kvm_pmu *pmu = vcpu_to_pmu(vcpu);

	if (!pmu->mediated.claims || !vcpu->scheduled_out || !is_idle(pmu))
		return;

	scoped_guard(irqsave) {
		if (pmu->mediated.guest.cpu == smp_processor_id())
			perf_mediated_evict();
	}

	pmu->mediated.unclaim = true;
	kvm_make_request(KVM_REQ_RECALC_INTERCEPTS, vcpu);
}

/*
 * The guest must not access directly what it doesn't claim, hence the two change
 * together.  Not in L2, whose intercepts were merged when it was entered.
 */
bool kvm_mediated_pmu_recalc_claim(struct kvm_vcpu *vcpu)
{
	struct kvm_pmu *pmu = vcpu_to_pmu(vcpu);

	if (pmu->mediated.unclaim && !is_guest_mode(vcpu) && is_idle(pmu)) {
		pmu->mediated.claims = false;
		pmu->global_ctrl_hw = 0;
	}
	pmu->mediated.unclaim = false;

	return pmu->mediated.claims;
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(kvm_mediated_pmu_recalc_claim);

/* The vCPU is created, gets its CPUID, or is destroyed. */
void kvm_mediated_pmu_reset(struct kvm_vcpu *vcpu)
{
	struct kvm_pmu *pmu = vcpu_to_pmu(vcpu);
	struct kvm_mediated_pmu *mediated = &pmu->mediated;
	struct kvm_pmc *pmc;
	int i;

	if (mediated->guest.evict)
		perf_mediated_evict_guest(&mediated->guest);

	memset(mediated, 0, sizeof(*mediated));
	mediated->guest.evict = kvm_mediated_pmu_evict;
	mediated->guest.cpu = -1;

	kvm_for_each_pmc(pmu, pmc, i, pmu->all_valid_pmc_idx)
		pmc->eventsel_hw = 0;

	pmu->fixed_ctr_ctrl_hw = 0;
	pmu->global_ctrl_hw = 0;
}

static bool pmc_counts(struct kvm_pmc *pmc, u64 eventsel)
{
	struct kvm_pmu *pmu = pmc_to_pmu(pmc);
	bool os, usr;
	u64 ctrl;

	if (pmc_is_gp(pmc)) {
		ctrl = pmc->eventsel_hw;
		if (!pmc_is_enabled(pmc) ||
		    !pmc_counts_in_mode(pmc, pmu->mediated.mode_hw) ||
		    (ctrl ^ eventsel) & AMD64_RAW_EVENT_MASK_NB)
			return false;

		os = ctrl & ARCH_PERFMON_EVENTSEL_OS;
		usr = ctrl & ARCH_PERFMON_EVENTSEL_USR;
	} else {
		ctrl = fixed_ctrl_field(pmu->fixed_ctr_ctrl_hw,
					pmc->idx - KVM_FIXED_PMC_BASE_IDX);
		if ((pmc->eventsel ^ eventsel) & AMD64_RAW_EVENT_MASK_NB)
			return false;

		os = ctrl & INTEL_FIXED_0_KERNEL;
		usr = ctrl & INTEL_FIXED_0_USER;
	}

	/* The CPL isn't free on Intel. */
	if (os == usr)
		return os;

	return kvm_x86_call(get_cpl)(pmc->vcpu) ? usr : os;
}

static bool pmc_raises_pmi(struct kvm_pmc *pmc)
{
	if (pmc_is_gp(pmc))
		return pmc->eventsel_hw & ARCH_PERFMON_EVENTSEL_INT;

	return fixed_ctrl_field(pmc_to_pmu(pmc)->fixed_ctr_ctrl_hw,
				pmc->idx - KVM_FIXED_PMC_BASE_IDX) &
	       INTEL_FIXED_0_ENABLE_PMI;
}

static void pmc_increment(struct kvm_pmc *pmc)
{
	struct kvm_pmu *pmu = pmc_to_pmu(pmc);
	bool overflow;

	guard(irqsave)();

	sync_counter(pmc);
	pmc->counter = (pmc->counter + 1) & pmc_bitmask(pmc);
	overflow = !pmc->counter;

	/* Adding to a counter in software isn't an overflow for the hardware. */
	if (overflow) {
		sync_status(pmu);
		pmu->global_status |= BIT_ULL(pmc->idx);
		if (pmc_raises_pmi(pmc))
			kvm_make_request(KVM_REQ_PMI, pmc->vcpu);
	}

	if (!pmu->mediated.loaded) {
		pmu->mediated.mem_newer |= BIT_ULL(pmc->idx);
		if (overflow)
			pmu->mediated.mem_newer |= KVM_MEDIATED_PMU_STATUS;
		return;
	}

	/* As in load: not while counters of AMD are enabled that won't stay so. */
	if (pmu->global_ctrl_hw != global_ctrl_for_hw(pmu))
		kvm_pmu_call(mediated_put)(pmc->vcpu);

	write_counter_hw(pmc, pmc->counter);
	if (overflow)
		wrmsrq(regs->global_status_set, BIT_ULL(pmc->idx));
}

/* KVM has emulated an instruction that counts as @eventsel. */
void __kvm_mediated_pmu_count_event(struct kvm_vcpu *vcpu, u64 eventsel)
{
	struct kvm_pmu *pmu = vcpu_to_pmu(vcpu);
	struct kvm_pmc *pmc;
	int i;

	kvm_for_each_pmc(pmu, pmc, i, (unsigned long *)&pmu->global_ctrl_hw) {
		if (pmc_counts(pmc, eventsel))
			pmc_increment(pmc);
	}
}

/* As kvm_lapic_reg_write(), which may sleep to update the VM's map of its APICs. */
static bool fastpath_write_lvtpc(struct kvm_vcpu *vcpu, u64 data)
{
	struct kvm_lapic *apic = vcpu->arch.apic;

	if (!apic_x2apic_mode(apic) || !kvm_apic_sw_enabled(apic) ||
	    data & ~(u64)(APIC_VECTOR_MASK | APIC_MODE_MASK | APIC_LVT_MASKED))
		return false;

	trace_kvm_apic_write(APIC_LVTPC, data);
	*(u32 *)(apic->regs + APIC_LVTPC) = data;
	return true;
}

/*
 * Emulation inside of the run loop, where the guest PMU is in the hardware: what
 * a guest does in its PMI handler must not cost it an exchange of all registers.
 * False sends the exit down the slow path, where it is handled if it can be.  IRQs
 * are off, so that no question is allowed which takes a look at the guest's CPUID.
 */
bool kvm_mediated_pmu_fastpath_wrmsr(struct kvm_vcpu *vcpu, u32 msr, u64 data)
{
	struct kvm_pmu *pmu = vcpu_to_pmu(vcpu);

	if (!pmu->mediated.loaded)
		return false;

	/* Intel's APIC masks it with each PMI, whose handler unmasks it. */
	if (msr == APIC_BASE_MSR + (APIC_LVTPC >> 4))
		return fastpath_write_lvtpc(vcpu, data);

	if (!kvm_pmu_has_perf_global_ctrl(pmu) ||
	    !kvm_msr_allowed(vcpu, msr, KVM_MSR_FILTER_WRITE))
		return false;

	if (msr == regs->global_ctrl && !(data & pmu->global_ctrl_rsvd)) {
		pmu->global_ctrl = data;
		return true;
	}

	if (msr == regs->global_status_clear && !(data & pmu->global_status_rsvd)) {
		wrmsrq(msr, data);
		return true;
	}

	return false;
}

/* The guest's WRMSR has been counted; now its value takes effect. */
void __kvm_mediated_pmu_load_global_ctrl(struct kvm_vcpu *vcpu)
{
	struct kvm_pmu *pmu = vcpu_to_pmu(vcpu);

	kvm_pmu_call(mediated_load)(vcpu, pmu->global_ctrl, false);
	pmu->global_ctrl_hw = pmu->global_ctrl;
}

static bool fastpath_rdmsr(struct kvm_vcpu *vcpu, u32 msr, u64 *data)
{
	struct kvm_pmu *pmu = vcpu_to_pmu(vcpu);

	if (!kvm_pmu_has_perf_global_ctrl(pmu) ||
	    !kvm_msr_allowed(vcpu, msr, KVM_MSR_FILTER_READ))
		return false;

	if (msr == regs->global_ctrl) {
		*data = pmu->global_ctrl;
		return true;
	}

	if (msr == regs->global_status) {
		rdmsrq(msr, *data);
		*data &= ~pmu->global_status_rsvd;
		return true;
	}

	return false;
}

fastpath_t kvm_mediated_pmu_fastpath_read(struct kvm_vcpu *vcpu, bool rdpmc)
{
	fastpath_t ret = EXIT_FASTPATH_NONE;
	u32 index = kvm_rcx_read(vcpu);
	u64 data;

	if (!vcpu_to_pmu(vcpu)->mediated.loaded)
		return EXIT_FASTPATH_NONE;

	kvm_vcpu_srcu_read_lock(vcpu);

	if (rdpmc ? !kvm_pmu_rdpmc(vcpu, index, &data) :
		    fastpath_rdmsr(vcpu, index, &data)) {
		if (!rdpmc)
			trace_kvm_msr_read(index, data);

		kvm_rax_write(vcpu, (u32)data);
		kvm_rdx_write(vcpu, data >> 32);
		ret = kvm_skip_emulated_instruction(vcpu) ?
		      EXIT_FASTPATH_REENTER_GUEST : EXIT_FASTPATH_EXIT_USERSPACE;
	}

	kvm_vcpu_srcu_read_unlock(vcpu);

	return ret;
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(kvm_mediated_pmu_fastpath_read);
