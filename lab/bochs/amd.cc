// SPDX-License-Identifier: LGPL-2.1-or-later
//
// AMD's registers: core counters with their legacy names, and the global
// control and status of PerfMonV2.  Reserved bits are ignored here, where
// Intel raises #GP.

#define NEED_CPU_REG_SHORTCUTS 1
#include "bochs.h"
#include "cpu/cpu.h"
#include "cpu/cpuid.h"
#include "cpu/svm.h"
#include "gui/siminterface.h"
#include "lab.h"
#include "pmu.h"
#include "audit.h"

enum {
  MSR_DEBUGCTL = 0x1d9,
  MSR_GLOBAL_STATUS = 0xc0000300,
  MSR_GLOBAL_CTL = 0xc0000301,
  MSR_GLOBAL_STATUS_CLR = 0xc0000302,
  MSR_GLOBAL_STATUS_SET = 0xc0000303,
  MSR_LEGACY_CTL0 = 0xc0010000,
  MSR_LEGACY_CTR0 = 0xc0010004,
  MSR_PERF_CTL0 = 0xc0010200,   // and the counter after it
};

#define LEGACY 4    // counters that have legacy names

#define BIT(n) (BX_CONST64(1) << (n))

#define CTL_USR         BIT(16)
#define CTL_OS          BIT(17)
#define CTL_EDGE        BIT(18)
#define CTL_INT         BIT(20)
#define CTL_EN          BIT(22)
#define CTL_INV         BIT(23)
#define CTL_GUEST_ONLY  BIT(40)
#define CTL_HOST_ONLY   BIT(41)
#define CTL_VALID       (BX_CONST64(0x30fffd7ffff) | CTL_EN | CTL_INV)

#define STATUS_LBR_FROZEN BIT(58)
#define STATUS_FROZEN     BIT(59)

#define DEBUGCTL_VALID          BX_CONST64(0x183f)
#define DEBUGCTL_FREEZE_ON_PMI  BIT(12)

class lab_amd_c: public lab_cpu_c {
public:
  lab_amd_c(BX_CPU_C *cpu);

  int rdmsr(Bit32u index, Bit64u *value) override;
  int wrmsr(Bit32u index, Bit64u value) override;
  bool rdpmc(Bit32u index, Bit64u *value) override;
  bool is_pmu_msr(Bit32u index) override { unsigned n; return kind(index, &n) != ABSENT; }
  void cpuid(Bit32u function, Bit32u subfunction, cpuid_function_t *leaf) override;
  void power_up() override;

  std::string counter_name(unsigned n) const override { return "core " + std::to_string(n); }
  Bit64u global() const override { return global_ctl; }
  bool status_bit_set(unsigned n) const override { return status >> n & 1; }
  bool not_offered(unsigned n) const override;
  bool not_offered_globally() const override { return debugctl & DEBUGCTL_FREEZE_ON_PMI; }
  Bit32u readable(bool *rdpmc, bool *status) override;

protected:
  bool enabled(unsigned n) override;
  bool overflowed(unsigned n) override;
  bool masks_lvtpc() override { return false; }

private:
  enum kind_t { ABSENT, CTL, CTR, GLOBAL_CTL, STATUS, STATUS_CLR, STATUS_SET, DEBUGCTL };

  kind_t kind(Bit32u index, unsigned *n) const;
  void decode(lab_counter_t &counter);

  Bit64u global_ctl, status, debugctl;
};

lab_amd_c::lab_amd_c(BX_CPU_C *cpu): lab_cpu_c(cpu)
{
  unsigned n = lab_profile.number("core_counters");
  unsigned width = lab_profile.number("counter_width");

  if (n < LEGACY || n > MAX_COUNTERS || width < 33 || width > 48)
    lab_fatal("profile %s: 4 to %d core counters of 33 to 48 bits", lab_options.profile.c_str(),
              (int) MAX_COUNTERS);
  width_mask = BIT(width) - 1;
  counters.resize(n);
  if (lab_options.audit != lab_options_t::AUDIT_OFF) audit = new lab_audit_c(this, n);
  power_up();
}

void lab_amd_c::power_up()
{
  for (lab_counter_t &counter : counters) counter = lab_counter_t();
  global_ctl = BIT(counters.size()) - 1;
  status = debugctl = 0;
  refresh();
  arm();
}

lab_amd_c::kind_t lab_amd_c::kind(Bit32u index, unsigned *n) const
{
  if (index >= MSR_PERF_CTL0 && index < MSR_PERF_CTL0 + 2 * counters.size()) {
    *n = (index - MSR_PERF_CTL0) / 2;
    return index & 1 ? CTR : CTL;
  }
  if (index >= MSR_LEGACY_CTL0 && index < MSR_LEGACY_CTL0 + LEGACY) {
    *n = index - MSR_LEGACY_CTL0;
    return CTL;
  }
  if (index >= MSR_LEGACY_CTR0 && index < MSR_LEGACY_CTR0 + LEGACY) {
    *n = index - MSR_LEGACY_CTR0;
    return CTR;
  }

  switch (index) {
    case MSR_DEBUGCTL: return DEBUGCTL;
    case MSR_GLOBAL_STATUS: return STATUS;
    case MSR_GLOBAL_CTL: return GLOBAL_CTL;
    case MSR_GLOBAL_STATUS_CLR: return STATUS_CLR;
    case MSR_GLOBAL_STATUS_SET: return STATUS_SET;
  }
  return ABSENT;
}

//////////////////////////////////////////////////////////////////////////
// Counting
//////////////////////////////////////////////////////////////////////////

bool lab_amd_c::enabled(unsigned n)
{
  bool guest_only = counters[n].control & CTL_GUEST_ONLY;
  bool host_only = counters[n].control & CTL_HOST_ONLY;

  if (status & STATUS_FROZEN) return false;
  if (! (global_ctl >> n & 1)) return false;
  if (guest_only == host_only) return true;
  // without SVM there is neither guest nor host
  if (! cpu->efer.get_SVME()) return false;
  return guest_only == cpu->in_svm_guest;
}

bool lab_amd_c::overflowed(unsigned n)
{
  status |= BIT(n);
  if (! counters[n].interrupt) return false;
  if (debugctl & DEBUGCTL_FREEZE_ON_PMI) status |= STATUS_FROZEN;
  return true;
}

void lab_amd_c::decode(lab_counter_t &counter)
{
  Bit64u control = counter.control;

  counter.event = event_named((control & 0xff) | (control >> 32 & 0xf) << 8, control >> 8 & 0xff);
  counter.on = control & CTL_EN;
  counter.user = control & CTL_USR;
  counter.os = control & CTL_OS;
  counter.edge = control & CTL_EDGE;
  counter.invert = control & CTL_INV;
  counter.interrupt = control & CTL_INT;
  counter.cmask = control >> 24 & 0xff;
  counter.held = false;
}

//////////////////////////////////////////////////////////////////////////
// Registers
//////////////////////////////////////////////////////////////////////////

int lab_amd_c::rdmsr(Bit32u index, Bit64u *value)
{
  unsigned n = 0;
  kind_t what = kind(index, &n);

  if (what == ABSENT) return -1;
  account();
  arm();

  switch (what) {
    case CTL: *value = counters[n].control; break;
    case CTR: *value = counters[n].value; break;
    case GLOBAL_CTL: *value = global_ctl; break;
    case STATUS: *value = status; break;
    case STATUS_CLR: case STATUS_SET: *value = 0; break;
    case DEBUGCTL: *value = debugctl; break;
    case ABSENT: break;
  }
  return 1;
}

int lab_amd_c::wrmsr(Bit32u index, Bit64u value)
{
  unsigned n = 0;
  kind_t what = kind(index, &n);
  Bit64u all = BIT(counters.size()) - 1;

  if (what == ABSENT) return -1;
  account_in_flight();
  if (audit && context->id < 0) {
    if (what == CTL) audit->wrote_control(n, global_ctl != 0);
    // one more: an instruction of the guest's that the host has emulated, no exchange
    bool counts = value == ((counters[n].value + 1) & width_mask);
    if (what == CTR) audit->wrote(n, global_ctl != 0 && ! counts);
    if (what == GLOBAL_CTL && (value & all) != global_ctl) audit->wrote_global();
    if (what == STATUS_CLR || what == STATUS_SET) audit->status_written();
  }
  switch (what) {
    case CTL:
      counters[n].control = value & CTL_VALID;
      decode(counters[n]);
      break;
    case CTR: counters[n].value = value & width_mask; break;
    case GLOBAL_CTL: global_ctl = value & all; break;
    case STATUS_CLR: status &= ~value; break;
    case STATUS_SET: status |= value & (all | STATUS_LBR_FROZEN | STATUS_FROZEN); break;
    case DEBUGCTL: debugctl = value & DEBUGCTL_VALID; break;
    case STATUS: case ABSENT: break;        // read only, and no fault
  }
  refresh();
  arm();
  return 1;
}

bool lab_amd_c::rdpmc(Bit32u index, Bit64u *value)
{
  if (index >= counters.size()) return false;
  *value = counters[index].value;
  return true;
}

void lab_amd_c::cpuid(Bit32u function, Bit32u subfunction, cpuid_function_t *leaf)
{
  switch (function) {
    case 0x1:
    case 0x80000001:
      leaf->eax = lab_profile.number("cpuid_signature");
      if (function == 0x80000001) leaf->ecx |= BIT(23);     // core counters
      break;
    case 0x80000000:
      leaf->eax = 0x80000022;
      break;
    case 0x8000001e:    // one thread in each core, one node
      leaf->eax = leaf->ebx = cpu->which_cpu();
      leaf->ecx = leaf->edx = 0;
      break;
    case 0x8000001f:    // no encrypted memory, and no address bits that it takes
      leaf->eax = leaf->ebx = leaf->ecx = leaf->edx = 0;
      break;
    case 0x80000022:
      leaf->eax = 1;                                        // PerfMonV2
      leaf->ebx = counters.size();
      leaf->ecx = leaf->edx = 0;
      break;
  }
}

//////////////////////////////////////////////////////////////////////////
// For the audit
//////////////////////////////////////////////////////////////////////////

// What counts in a mediated guest has to be for guests only: the hardware
// does not switch anything at VM exit.
bool lab_amd_c::not_offered(unsigned n) const
{
  const lab_counter_t &counter = counters[n];

  return counter.on && (! (counter.control & CTL_GUEST_ONLY) || (counter.control & CTL_HOST_ONLY));
}

Bit32u lab_amd_c::readable(bool *rdpmc, bool *status)
{
  const SVM_CONTROLS &controls = cpu->vmcb->ctrls;
  bool intercepted = controls.intercept_vector[0] >> SVM_INTERCEPT0_MSR & 1;
  Bit32u mask = 0;

  // two bits for each MSR, the first one is for reads
  auto direct = [this, &controls, intercepted](Bit32u index) {
    if (! intercepted) return true;
    Bit64u paddr = controls.msrpm_base + (index >= 0xc0010000 ? 0x1000 : 0x800);
    const Bit8u *map = (const Bit8u *) cpu->getHostMemAddr(paddr & ~(Bit64u) 0xfff, BX_READ);
    unsigned bit = (index & 0x1fff) * 2 + (paddr & 0xfff) * 8;
    return map && ! (map[bit >> 3] >> (bit & 7) & 1);
  };

  for (unsigned n = 0; n < counters.size(); n++)
    if (direct(MSR_PERF_CTL0 + 2 * n + 1) || (n < LEGACY && direct(MSR_LEGACY_CTR0 + n)))
      mask |= 1 << n;
  *rdpmc = ! (controls.intercept_vector[0] >> SVM_INTERCEPT0_RDPMC & 1);
  *status = direct(MSR_GLOBAL_STATUS);
  return mask;
}

lab_cpu_c *lab_new_amd(BX_CPU_C *cpu)
{
  return new lab_amd_c(cpu);
}
