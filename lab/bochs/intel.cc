// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Intel's registers: general counters, fixed counters, global control and
// status, PERF_METRICS, and the freeze bits of DEBUGCTL.

#define NEED_CPU_REG_SHORTCUTS 1
#include "bochs.h"
#include "cpu/cpu.h"
#include "cpu/cpuid.h"
#include "gui/siminterface.h"
#include "lab.h"
#include "pmu.h"
#include "audit.h"

enum {
  MSR_PMC0 = 0xc1,
  MSR_PERFEVTSEL0 = 0x186,
  MSR_DEBUGCTL = 0x1d9,
  MSR_FIXED_CTR0 = 0x309,
  MSR_PERF_METRICS = 0x329,
  MSR_PERF_CAPABILITIES = 0x345,
  MSR_FIXED_CTR_CTRL = 0x38d,
  MSR_GLOBAL_STATUS = 0x38e,
  MSR_GLOBAL_CTRL = 0x38f,
  MSR_GLOBAL_STATUS_RESET = 0x390,
  MSR_GLOBAL_STATUS_SET = 0x391,
  MSR_GLOBAL_INUSE = 0x392,
  MSR_A_PMC0 = 0x4c1,
};

#define BIT(n) (BX_CONST64(1) << (n))

#define SELECT_USR    BIT(16)
#define SELECT_OS     BIT(17)
#define SELECT_EDGE   BIT(18)
#define SELECT_PC     BIT(19)   // not there since Sandy Bridge: reads as 0
#define SELECT_INT    BIT(20)
#define SELECT_ANY    BIT(21)
#define SELECT_EN     BIT(22)
#define SELECT_INV    BIT(23)

#define FIXED_OS      BIT(0)
#define FIXED_USR     BIT(1)
#define FIXED_ANY     BIT(2)
#define FIXED_PMI     BIT(3)

#define GLOBAL_METRICS        BIT(48)
#define STATUS_LBR_FROZEN     BIT(58)
#define STATUS_FROZEN         BIT(59)
#define STATUS_UNCORE         BIT(61)
#define STATUS_BUFFER         BIT(62)
#define STATUS_CHANGED        BIT(63)

#define CAP_SMM_FREEZE        BIT(12)
#define CAP_FULL_WIDTH_WRITE  BIT(13)
#define CAP_METRICS           BIT(15)

#define DEBUGCTL_LBR              BIT(0)
#define DEBUGCTL_BTF              BIT(1)
#define DEBUGCTL_FREEZE_LBR       BIT(11)
#define DEBUGCTL_FREEZE_ON_PMI    BIT(12)
#define DEBUGCTL_FREEZE_IN_SMM    BIT(14)

// events of the fixed counters, in their order
static const lab_event_t fixed_events[] = {
  EVENT_INSTRUCTIONS, EVENT_CYCLES, EVENT_REF_CYCLES, EVENT_SLOTS
};

class lab_intel_c: public lab_cpu_c {
public:
  lab_intel_c(BX_CPU_C *cpu);

  int rdmsr(Bit32u index, Bit64u *value) override;
  int wrmsr(Bit32u index, Bit64u value) override;
  bool rdpmc(Bit32u index, Bit64u *value) override;
  bool is_pmu_msr(Bit32u index) override { return kind(index) != ABSENT; }
  void cpuid(Bit32u function, Bit32u subfunction, cpuid_function_t *leaf) override;
  void power_up() override;

  std::string counter_name(unsigned n) const override;
  Bit64u global() const override { return global_ctrl; }
  bool status_bit_set(unsigned n) const override { return status >> status_bit(n) & 1; }
  bool not_offered(unsigned n) const override;
  bool not_offered_globally() const override;
  Bit32u readable(bool *rdpmc, bool *status) override;

  void set_global_ctrl(Bit64u value);
  void set_debugctl(Bit64u value);

  Bit64u global_ctrl, global_ctrl_valid, debugctl, debugctl_valid;

protected:
  bool enabled(unsigned n) override;
  bool overflowed(unsigned n) override;
  bool masks_lvtpc() override { return true; }
  void counting(const lab_totals_t &delta) override;

private:
  enum kind_t {
    ABSENT, COUNTER, FULL_COUNTER, SELECT, FIXED_COUNTER, FIXED_CTRL, GLOBAL_CTRL, STATUS,
    STATUS_RESET, STATUS_SET, INUSE, CAPABILITIES, METRICS, DEBUGCTL
  };

  kind_t kind(Bit32u index) const;
  // counters: general ones first, then the fixed ones
  unsigned status_bit(unsigned n) const { return n < general ? n : 32 + n - general; }
  void audit_write(kind_t what, Bit32u index);
  void decode_select(lab_counter_t &counter);
  void decode_fixed(lab_counter_t &counter);
  Bit64u fixed_ctrl() const;
  Bit64u inuse() const;
  Bit64u metrics() const;
  void set_metrics(Bit64u value);

  unsigned version, general, fixed, width;
  Bit64u capabilities, status, select_valid, fixed_valid;
  Bit64u metrics_base, metrics_slots, metrics_instructions;
};

lab_intel_c::lab_intel_c(BX_CPU_C *cpu): lab_cpu_c(cpu)
{
  version = lab_profile.number("pmu_version");
  general = lab_profile.number("general_counters");
  fixed = lab_profile.number("fixed_counters");
  width = lab_profile.number("counter_width");
  capabilities = lab_profile.number("perf_capabilities");
  bool any_thread = lab_profile.number("any_thread");

  if (general > 8 || fixed > 4 || general + fixed > MAX_COUNTERS || width < 33 || width > 48)
    lab_fatal("profile %s: at most 8 general and 4 fixed counters of 33 to 48 bits",
              lab_options.profile.c_str());

  width_mask = BIT(width) - 1;
  select_valid = 0xffffffff & ~(any_thread ? 0 : SELECT_ANY);
  fixed_valid = 0;
  for (unsigned n = 0; n < fixed; n++)
    fixed_valid |= (FIXED_OS | FIXED_USR | FIXED_PMI | (any_thread ? FIXED_ANY : 0)) << 4 * n;
  global_ctrl_valid = (BIT(general) - 1) | (BIT(fixed) - 1) << 32 |
                      (capabilities & CAP_METRICS ? GLOBAL_METRICS : 0);
  debugctl_valid = DEBUGCTL_BTF | DEBUGCTL_FREEZE_ON_PMI |
                   (capabilities & CAP_SMM_FREEZE ? DEBUGCTL_FREEZE_IN_SMM : 0) |
                   (lab_profile.number("lbr_entries") ? DEBUGCTL_LBR | DEBUGCTL_FREEZE_LBR : 0);
  counters.resize(general + fixed);
  if (lab_options.audit != lab_options_t::AUDIT_OFF) audit = new lab_audit_c(this, counters.size());
  power_up();
}

void lab_intel_c::power_up()
{
  for (unsigned n = 0; n < counters.size(); n++) {
    counters[n] = lab_counter_t();
    if (n >= general) counters[n].event = fixed_events[n - general];
  }
  global_ctrl = BIT(general) - 1;
  status = debugctl = 0;
  set_metrics(0);
  refresh();
  arm();
}

lab_intel_c::kind_t lab_intel_c::kind(Bit32u index) const
{
  if (index >= MSR_PMC0 && index < MSR_PMC0 + general) return COUNTER;
  if (index >= MSR_PERFEVTSEL0 && index < MSR_PERFEVTSEL0 + general) return SELECT;
  if (index >= MSR_FIXED_CTR0 && index < MSR_FIXED_CTR0 + fixed) return FIXED_COUNTER;
  if (index >= MSR_A_PMC0 && index < MSR_A_PMC0 + general)
    return capabilities & CAP_FULL_WIDTH_WRITE ? FULL_COUNTER : ABSENT;

  switch (index) {
    case MSR_DEBUGCTL: return DEBUGCTL;
    case MSR_PERF_CAPABILITIES: return CAPABILITIES;
    case MSR_PERF_METRICS: return capabilities & CAP_METRICS ? METRICS : ABSENT;
    case MSR_FIXED_CTR_CTRL: return FIXED_CTRL;
    case MSR_GLOBAL_STATUS: return STATUS;
    case MSR_GLOBAL_CTRL: return GLOBAL_CTRL;
    case MSR_GLOBAL_STATUS_RESET: return STATUS_RESET;
    case MSR_GLOBAL_STATUS_SET: return version >= 4 ? STATUS_SET : ABSENT;
    case MSR_GLOBAL_INUSE: return version >= 4 ? INUSE : ABSENT;
  }
  return ABSENT;
}

//////////////////////////////////////////////////////////////////////////
// Counting
//////////////////////////////////////////////////////////////////////////

bool lab_intel_c::enabled(unsigned n)
{
  if (status & STATUS_FROZEN) return false;
  if ((debugctl & DEBUGCTL_FREEZE_IN_SMM) && cpu->smm_mode()) return false;
  return global_ctrl >> status_bit(n) & 1;
}

bool lab_intel_c::overflowed(unsigned n)
{
  status |= BIT(status_bit(n));
  if (! counters[n].interrupt) return false;
  if (debugctl & DEBUGCTL_FREEZE_ON_PMI) {
    if (version >= 4) status |= STATUS_FROZEN;
    else global_ctrl = 0;
  }
  return true;
}

void lab_intel_c::decode_select(lab_counter_t &counter)
{
  Bit64u select = counter.control;

  counter.event = event_named(select & 0xff, select >> 8 & 0xff);
  counter.on = select & SELECT_EN;
  counter.user = select & SELECT_USR;
  counter.os = select & SELECT_OS;
  counter.edge = select & SELECT_EDGE;
  counter.invert = select & SELECT_INV;
  counter.interrupt = select & SELECT_INT;
  counter.cmask = select >> 24 & 0xff;
}

void lab_intel_c::decode_fixed(lab_counter_t &counter)
{
  counter.on = counter.control & (FIXED_OS | FIXED_USR);
  counter.user = counter.control & FIXED_USR;
  counter.os = counter.control & FIXED_OS;
  counter.interrupt = counter.control & FIXED_PMI;
}

//////////////////////////////////////////////////////////////////////////
// Registers
//////////////////////////////////////////////////////////////////////////

Bit64u lab_intel_c::fixed_ctrl() const
{
  Bit64u value = 0;
  for (unsigned n = 0; n < fixed; n++) value |= counters[general + n].control << 4 * n;
  return value;
}

Bit64u lab_intel_c::inuse() const
{
  Bit64u value = 0;
  for (unsigned n = 0; n < counters.size(); n++) {
    const lab_counter_t &counter = counters[n];
    bool used = n < general ? counter.control & 0xff : counter.control & (FIXED_OS | FIXED_USR);
    if (used) value |= BIT(status_bit(n));
    if (counter.interrupt) value |= BIT(63);
  }
  return value;
}

// Top-down metrics: the part of the slots since the last write, in 1/255, that
// retired an instruction; all others are "bound by the back end".  They are
// taken while the fixed counter of slots counts.
Bit64u lab_intel_c::metrics() const
{
  if (metrics_slots == 0) return metrics_base;
  Bit64u retiring = metrics_instructions * 255 / metrics_slots;
  return retiring | (255 - retiring) << 24;
}

void lab_intel_c::set_metrics(Bit64u value)
{
  metrics_base = value;
  metrics_slots = metrics_instructions = 0;
}

void lab_intel_c::counting(const lab_totals_t &delta)
{
  if (fixed < 4 || ! counters[general + 3].active || ! (global_ctrl & GLOBAL_METRICS)) return;
  metrics_slots += delta.n[EVENT_SLOTS];
  metrics_instructions += delta.n[EVENT_INSTRUCTIONS];
}

int lab_intel_c::rdmsr(Bit32u index, Bit64u *value)
{
  kind_t what = kind(index);

  if (what == ABSENT) return -1;
  account();
  arm();

  switch (what) {
    case COUNTER: *value = counters[index - MSR_PMC0].value; break;
    case FULL_COUNTER: *value = counters[index - MSR_A_PMC0].value; break;
    case SELECT: *value = counters[index - MSR_PERFEVTSEL0].control; break;
    case FIXED_COUNTER: *value = counters[general + index - MSR_FIXED_CTR0].value; break;
    case FIXED_CTRL: *value = fixed_ctrl(); break;
    case GLOBAL_CTRL: *value = global_ctrl; break;
    case STATUS: *value = status; break;
    case STATUS_RESET: case STATUS_SET: *value = 0; break;
    case INUSE: *value = inuse(); break;
    case CAPABILITIES: *value = capabilities; break;
    case METRICS: *value = metrics(); break;
    case DEBUGCTL: *value = debugctl; break;
    case ABSENT: break;
  }
  return 1;
}

int lab_intel_c::wrmsr(Bit32u index, Bit64u value)
{
  kind_t what = kind(index);
  Bit64u valid = ~BX_CONST64(0);
  Bit64u frozen = version >= 4 ? STATUS_LBR_FROZEN | STATUS_FROZEN : 0;

  switch (what) {
    case ABSENT: return -1;
    case STATUS: case INUSE: case CAPABILITIES: return 0;   // read only
    case COUNTER: value = (Bit64s) (Bit32s) value; break;   // sign-extended from 32 bits
    case FULL_COUNTER: case FIXED_COUNTER: valid = width_mask; break;
    case SELECT: valid = select_valid; break;
    case FIXED_CTRL: valid = fixed_valid; break;
    case GLOBAL_CTRL: valid = global_ctrl_valid; break;
    case STATUS_RESET:
      valid = global_ctrl_valid | frozen | STATUS_UNCORE | STATUS_BUFFER | STATUS_CHANGED;
      break;
    case STATUS_SET: valid = global_ctrl_valid | frozen | STATUS_UNCORE | STATUS_BUFFER; break;
    case DEBUGCTL: valid = debugctl_valid; break;
    case METRICS: break;
  }
  if (value & ~valid) return 0;

  account_in_flight();
  if (audit && context->id < 0) audit_write(what, index);
  switch (what) {
    case COUNTER: counters[index - MSR_PMC0].value = value & width_mask; break;
    case FULL_COUNTER: counters[index - MSR_A_PMC0].value = value; break;
    case FIXED_COUNTER: counters[general + index - MSR_FIXED_CTR0].value = value; break;
    case SELECT:
      counters[index - MSR_PERFEVTSEL0].control = value & ~SELECT_PC;
      counters[index - MSR_PERFEVTSEL0].held = false;
      decode_select(counters[index - MSR_PERFEVTSEL0]);
      break;
    case FIXED_CTRL:
      for (unsigned n = 0; n < fixed; n++) {
        counters[general + n].control = value >> 4 * n & 0xf;
        decode_fixed(counters[general + n]);
      }
      break;
    case GLOBAL_CTRL: global_ctrl = value; break;
    case STATUS_RESET: status &= ~value; break;
    case STATUS_SET: status |= value; break;
    case METRICS: set_metrics(value); break;
    case DEBUGCTL: debugctl = value; break;
    default: break;
  }
  refresh();
  arm();
  return 1;
}

bool lab_intel_c::rdpmc(Bit32u index, Bit64u *value)
{
  unsigned type = index >> 16, n = index & 0xffff;

  if (type == 0 && n < general) *value = counters[n].value;
  else if (type == 0x4000 && n < fixed) *value = counters[general + n].value;
  else if (type == 0x2000 && n == 0 && (capabilities & CAP_METRICS)) *value = metrics();
  else return false;
  return true;
}

void lab_intel_c::cpuid(Bit32u function, Bit32u subfunction, cpuid_function_t *leaf)
{
  if (function != 0xa) return;

  bool any_thread = lab_profile.number("any_thread");
  unsigned events = lab_profile.number("architectural_events");

  leaf->eax = version | general << 8 | width << 16 | events << 24;
  leaf->ebx = 0; // all of them are there
  leaf->ecx = version >= 5 ? (1 << fixed) - 1 : 0;
  leaf->edx = fixed | width << 5 | (any_thread ? 0 : 1 << 15);
}

void lab_intel_c::set_global_ctrl(Bit64u value)
{
  account_in_flight();
  global_ctrl = value;
  refresh();
  arm();
}

void lab_intel_c::set_debugctl(Bit64u value)
{
  account_in_flight();
  debugctl = value;
  refresh();
  arm();
}

//////////////////////////////////////////////////////////////////////////
// For the audit
//////////////////////////////////////////////////////////////////////////

std::string lab_intel_c::counter_name(unsigned n) const
{
  return n < general ? "general " + std::to_string(n) : "fixed " + std::to_string(n - general);
}

void lab_intel_c::audit_write(kind_t what, Bit32u index)
{
  bool on = global_ctrl != 0;

  switch (what) {
    case COUNTER: audit->wrote(index - MSR_PMC0, on); break;
    case FULL_COUNTER: audit->wrote(index - MSR_A_PMC0, on); break;
    case FIXED_COUNTER: audit->wrote(general + index - MSR_FIXED_CTR0, on); break;
    case SELECT: audit->wrote_control(index - MSR_PERFEVTSEL0, on); break;
    case FIXED_CTRL:
      for (unsigned n = general; n < counters.size(); n++) audit->wrote_control(n, on);
      break;
    case GLOBAL_CTRL: audit->wrote_global(); break;
    case STATUS_RESET: case STATUS_SET: audit->status_written(); break;
    default: break;
  }
}

bool lab_intel_c::not_offered(unsigned n) const
{
  Bit64u control = counters[n].control;

  if (n >= general) return control & FIXED_ANY;
  return control & (SELECT_ANY | ~BX_CONST64(0xffffffff));
}

bool lab_intel_c::not_offered_globally() const
{
  return (global_ctrl & GLOBAL_METRICS) || (debugctl & DEBUGCTL_FREEZE_ON_PMI);
}

Bit32u lab_intel_c::readable(bool *rdpmc, bool *status)
{
  VMCS_CACHE *vm = &cpu->vmcs;
  Bit32u mask = 0;

  if (! vm->vmexec_ctrls1.MSR_BITMAPS()) return 0;
  // its first KiB: RDMSR of the MSRs 0 to 0x1fff
  const Bit8u *bitmap = (const Bit8u *) cpu->getHostMemAddr(vm->msr_bitmap_addr, BX_READ);
  if (! bitmap) return 0;
  auto direct = [bitmap](Bit32u index) { return ! (bitmap[index >> 3] >> (index & 7) & 1); };

  for (unsigned n = 0; n < general; n++)
    if (direct(MSR_PMC0 + n) || (kind(MSR_A_PMC0 + n) != ABSENT && direct(MSR_A_PMC0 + n))) mask |= 1 << n;
  for (unsigned n = 0; n < fixed; n++)
    if (direct(MSR_FIXED_CTR0 + n)) mask |= 1 << (general + n);
  *rdpmc = ! vm->vmexec_ctrls1.RDPMC_VMEXIT();
  *status = direct(MSR_GLOBAL_STATUS);
  return mask;
}

lab_cpu_c *lab_new_intel(BX_CPU_C *cpu)
{
  return new lab_intel_c(cpu);
}

//////////////////////////////////////////////////////////////////////////
// VMX
//////////////////////////////////////////////////////////////////////////

static lab_intel_c *intel(BX_CPU_C *cpu)
{
  return static_cast<lab_intel_c *>(cpu->lab.cpu);
}

bool lab_vmx_saves_global_ctrl(void)
{
  return lab_profile.number("vmx_save_global_ctrl");
}

bool lab_valid_global_ctrl(BX_CPU_C *cpu, Bit64u value)
{
  return ! (value & ~intel(cpu)->global_ctrl_valid);
}

void lab_set_global_ctrl(BX_CPU_C *cpu, Bit64u value)
{
  intel(cpu)->set_global_ctrl(value);
}

Bit64u lab_get_global_ctrl(BX_CPU_C *cpu)
{
  return intel(cpu)->global_ctrl;
}

bool lab_valid_debugctl(BX_CPU_C *cpu, Bit64u value)
{
  return ! (value & ~intel(cpu)->debugctl_valid);
}

void lab_set_debugctl(BX_CPU_C *cpu, Bit64u value)
{
  intel(cpu)->set_debugctl(value);
}

Bit64u lab_get_debugctl(BX_CPU_C *cpu)
{
  return intel(cpu)->debugctl;
}
