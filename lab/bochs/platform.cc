// SPDX-License-Identifier: LGPL-2.1-or-later
//
// What a real machine has and Bochs lacks: MSRs that Linux and KVM need, with
// values that say "nothing here", and CPUID leaves that give the true
// frequency and hide what is not modelled.  MSRs that are in neither Bochs nor
// here are a #GP, as on hardware.

#define NEED_CPU_REG_SHORTCUTS 1
#include "bochs.h"
#include "cpu/cpu.h"
#include "cpu/cpuid.h"
#include "cpu/msr.h"
#include "gui/siminterface.h"
#include "param_names.h"
#include "lab.h"
#include "pmu.h"

enum {
  MSR_PLATFORM_ID = 0x17,
  MSR_BIOS_SIGN_ID = 0x8b,
  MSR_PLATFORM_INFO = 0xce,
  MSR_CORE_CAPABILITIES = 0xcf,
  MSR_MPERF = 0xe7,
  MSR_APERF = 0xe8,
  MSR_MCG_CAP = 0x179,
  MSR_MCG_STATUS = 0x17a,
  MSR_PERF_STATUS = 0x198,
  MSR_PERF_CTL = 0x199,
  MSR_THERM_INTERRUPT = 0x19b,
  MSR_THERM_STATUS = 0x19c,
  MSR_MISC_ENABLE = 0x1a0,
  MSR_OFFCORE_RSP0 = 0x1a6,
  MSR_OFFCORE_RSP1 = 0x1a7,
  MSR_ENERGY_PERF_BIAS = 0x1b0,
  MSR_PACKAGE_THERM_STATUS = 0x1b1,
  MSR_PACKAGE_THERM_INTERRUPT = 0x1b2,
  MSR_LBR_SELECT = 0x1c8,
  MSR_LBR_TOS = 0x1c9,
  MSR_PEBS_LD_LAT = 0x3f6,
  MSR_PEBS_FRONTEND = 0x3f7,
  MSR_LBR_FROM0 = 0x680,
  MSR_LBR_TO0 = 0x6c0,
  MSR_LBR_INFO0 = 0xdc0,

  MSR_SYSCFG = 0xc0010010,
  MSR_NB_CFG = 0xc001001f,
  MSR_HWCR = 0xc0010015,
  MSR_DE_CFG = 0xc0011029,
  MSR_BP_CFG = 0xc001102e,
};

// A register that only holds what is written to it; "writable" are the bits
// that a write may change, a write that changes another bit is a #GP.
struct simple_msr_t {
  Bit32u index;
  Bit64u reset, writable;
};

static const simple_msr_t intel_msrs[] = {
  { MSR_PLATFORM_ID, 0, 0 },
  { MSR_CORE_CAPABILITIES, 0, 0 },   // no split-lock detection
  { MSR_MCG_CAP, 0, 0 },             // no error-reporting banks
  { MSR_MCG_STATUS, 0, 7 },
  { MSR_PERF_STATUS, 0, 0 },
  { MSR_PERF_CTL, 0, 0x10000ffff },
  { MSR_THERM_INTERRUPT, 0, 0x3ffff1f },
  { MSR_THERM_STATUS, 0, 0xaaa },
  // fast strings, perfmon available, no BTS, no PEBS, EIST, MONITOR
  { MSR_MISC_ENABLE, 0x51881, 0x400c51809 },
  // parameters of events that are not modelled
  { MSR_OFFCORE_RSP0, 0, 0x3fffffffff },
  { MSR_OFFCORE_RSP1, 0, 0x3fffffffff },
  { MSR_PEBS_LD_LAT, 0, 0xffff },
  { MSR_PEBS_FRONTEND, 0, 0xffffff },
  { MSR_ENERGY_PERF_BIAS, 6, 0xf },
  { MSR_PACKAGE_THERM_STATUS, 0, 0xaaa },
  { MSR_PACKAGE_THERM_INTERRUPT, 0, 0x1ffff17 },
};

static const simple_msr_t amd_msrs[] = {
  { MSR_MCG_CAP, 0, 0 },
  { MSR_MCG_STATUS, 0, 7 },
  { MSR_SYSCFG, 0, 0x7c0000 },
  { MSR_NB_CFG, 0, ~(Bit64u) 0 },
  { MSR_HWCR, 0x1000000, 0xffffffff },  // the TSC counts at the frequency of P0
  { MSR_DE_CFG, 0x2, ~(Bit64u) 0 },     // LFENCE is dispatch-serializing
  { MSR_BP_CFG, 0, ~(Bit64u) 0 },
};

// per CPU: values of these, by index
static std::map<Bit32u, Bit64u> msr_values[BX_MAX_SMP_THREADS_SUPPORTED];

static const simple_msr_t *simple_msr(Bit32u index)
{
  if (lab_profile.text("vendor") != "intel") {
    for (const simple_msr_t &msr : amd_msrs)
      if (msr.index == index) return &msr;
    return NULL;
  }

  // Last branch records, where the profile has them: registers that nothing is
  // recorded in.
  static simple_msr_t lbr = { 0, 0, ~(Bit64u) 0 };
  unsigned entries = lab_profile.number("lbr_entries");

  if (entries && (index == MSR_LBR_SELECT || index == MSR_LBR_TOS || index - MSR_LBR_FROM0 < entries ||
                  index - MSR_LBR_TO0 < entries || index - MSR_LBR_INFO0 < entries))
  {
    lbr.index = index;
    return &lbr;
  }
  for (const simple_msr_t &msr : intel_msrs)
    if (msr.index == index) return &msr;
  return NULL;
}

static bool intel(void)
{
  return lab_profile.text("vendor") == "intel";
}

static bool hold(BX_CPU_C *cpu, const simple_msr_t *msr, Bit64u *value)
{
  std::map<Bit32u, Bit64u> &values = msr_values[cpu->which_cpu()];
  *value = values.count(msr->index) ? values[msr->index] : msr->reset;
  return true;
}

bool lab_platform_rdmsr(BX_CPU_C *cpu, Bit32u index, Bit64u *value)
{
  const simple_msr_t *msr = simple_msr(index);
  if (msr) return hold(cpu, msr, value);

  switch (index) {
    case MSR_BIOS_SIGN_ID:
      *value = lab_profile.number("microcode") << (intel() ? 32 : 0);
      return true;
    case MSR_PLATFORM_INFO: // maximum non-turbo ratio, in units of 100 MHz
      if (! intel()) return false;
      *value = (Bit64u) (SIM->get_param_num(BXPN_IPS)->get() / 100000000) << 8;
      return true;
    case MSR_MPERF:
    case MSR_APERF:
      *value = cpu->lab.cpu->cycles();
      return true;
  }
  return false;
}

bool lab_platform_wrmsr(BX_CPU_C *cpu, Bit32u index, Bit64u value)
{
  const simple_msr_t *msr = simple_msr(index);
  if (msr) {
    Bit64u old;
    hold(cpu, msr, &old);
    if ((old ^ value) & ~msr->writable) return false;
    msr_values[cpu->which_cpu()][index] = value;
    return true;
  }

  return index == MSR_BIOS_SIGN_ID; // software clears it before it asks for the revision
}

int lab_rdmsr(BX_CPU_C *cpu, Bit32u index, Bit64u *value)
{
  int result = cpu->lab.cpu->rdmsr(index, value);
  if (result >= 0) return result;
  return lab_platform_rdmsr(cpu, index, value) ? 1 : -1;
}

int lab_wrmsr(BX_CPU_C *cpu, Bit32u index, Bit64u value)
{
  int result = cpu->lab.cpu->wrmsr(index, value);
  if (result >= 0) return result;
  return lab_platform_wrmsr(cpu, index, value) ? 1 : -1;
}

void lab_cpuid(BX_CPU_C *cpu, Bit32u function, Bit32u subfunction, cpuid_function_t *leaf)
{
  Bit32u hz = SIM->get_param_num(BXPN_IPS)->get();

  if (! cpu->lab.cpu) return; // Bochs looks at itself before it starts
  cpu->lab.cpu->cpuid(function, subfunction, leaf);
  if (lab_profile.text("vendor") != "intel") return;

  switch (function) {
    case 0x1:
      leaf->ecx &= ~(BX_CPUID_STD1_ECX_DTES64 | BX_CPUID_STD1_ECX_DS_CPL);
      leaf->edx &= ~BX_CPUID_STD1_EDX_DEBUG_STORE;
      break;
    case 0x6: // timer that never stops, APERF and MPERF; no HWP, no thermal events
      leaf->eax = 0x4;
      leaf->ebx = 0;
      leaf->ecx = 0x1;
      leaf->edx = 0;
      break;
    case 0x15: // the TSC runs at the frequency of the crystal: nothing to calibrate
      leaf->eax = 1;
      leaf->ebx = 1;
      leaf->ecx = hz;
      leaf->edx = 0;
      break;
    case 0x16:
      leaf->eax = leaf->ebx = hz / 1000000;
      leaf->ecx = 100;
      leaf->edx = 0;
      break;
  }
}
