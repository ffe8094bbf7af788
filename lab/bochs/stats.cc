// SPDX-License-Identifier: LGPL-2.1-or-later
//
// The host's and the guests' counts, and how they are written: the schema is
// in lab/README.md.

#define NEED_CPU_REG_SHORTCUTS 1
#include "bochs.h"
#include "cpu/cpu.h"
#include "cpu/cpuid.h"
#include "cpu/vmx.h"
#include "gui/siminterface.h"
#include "lab.h"
#include "pmu.h"

static lab_context_t host = { -1, 0, lab_counts_t() };
static std::vector<lab_context_t *> guests;     // in the order of their first entry
static std::map<Bit64u, lab_context_t *> guest_by_control;

lab_context_t *lab_host_context(void)
{
  return &host;
}

lab_context_t *lab_guest_context(Bit64u control)
{
  lab_context_t *&guest = guest_by_control[control];
  if (! guest) {
    guest = new lab_context_t();
    guest->id = guests.size();
    guest->control = control;
    guests.push_back(guest);
  }
  return guest;
}

// as in the kernel's uapi/asm/vmx.h
const char *lab_vmx_exit_name(unsigned reason)
{
  static const char *const names[] = {
    "EXCEPTION_NMI", "EXTERNAL_INTERRUPT", "TRIPLE_FAULT", "INIT_SIGNAL", "SIPI_SIGNAL",
    "IO_SMI", "OTHER_SMI", "INTERRUPT_WINDOW", "NMI_WINDOW", "TASK_SWITCH", "CPUID", "GETSEC",
    "HLT", "INVD", "INVLPG", "RDPMC", "RDTSC", "RSM", "VMCALL", "VMCLEAR", "VMLAUNCH", "VMPTRLD",
    "VMPTRST", "VMREAD", "VMRESUME", "VMWRITE", "VMOFF", "VMON", "CR_ACCESS", "DR_ACCESS",
    "IO_INSTRUCTION", "MSR_READ", "MSR_WRITE", "INVALID_STATE", "MSR_LOAD_FAIL", "35",
    "MWAIT_INSTRUCTION", "MONITOR_TRAP_FLAG", "38", "MONITOR_INSTRUCTION", "PAUSE_INSTRUCTION",
    "MCE_DURING_VMENTRY", "42", "TPR_BELOW_THRESHOLD", "APIC_ACCESS", "EOI_INDUCED", "GDTR_IDTR",
    "LDTR_TR", "EPT_VIOLATION", "EPT_MISCONFIG", "INVEPT", "RDTSCP", "PREEMPTION_TIMER",
    "INVVPID", "WBINVD", "XSETBV", "APIC_WRITE", "RDRAND", "INVPCID", "VMFUNC", "ENCLS", "RDSEED",
    "PML_FULL", "XSAVES", "XRSTORS", "PCONFIG", "SPP", "UMWAIT", "TPAUSE", "LOADIWKEY", "ENCLV",
    "71", "ENQCMD_PASID", "ENQCMDS_PASID", "BUS_LOCK", "NOTIFY", "SEAMCALL", "TDCALL",
    "RDMSRLIST", "WRMSRLIST", "URDMSR", "UWRMSR",
  };
  return reason < sizeof(names) / sizeof(names[0]) ? names[reason] : "UNKNOWN";
}

std::string lab_svm_exit_name(int code)
{
  static const std::map<int, const char *> names = {
    { -1, "ERR" }, { 0x60, "INTR" }, { 0x61, "NMI" }, { 0x62, "SMI" }, { 0x63, "INIT" },
    { 0x64, "VINTR" }, { 0x65, "CR0_SEL_WRITE" }, { 0x66, "IDTR_READ" }, { 0x67, "GDTR_READ" },
    { 0x68, "LDTR_READ" }, { 0x69, "TR_READ" }, { 0x6a, "IDTR_WRITE" }, { 0x6b, "GDTR_WRITE" },
    { 0x6c, "LDTR_WRITE" }, { 0x6d, "TR_WRITE" }, { 0x6e, "RDTSC" }, { 0x6f, "RDPMC" },
    { 0x70, "PUSHF" }, { 0x71, "POPF" }, { 0x72, "CPUID" }, { 0x73, "RSM" }, { 0x74, "IRET" },
    { 0x75, "SWINT" }, { 0x76, "INVD" }, { 0x77, "PAUSE" }, { 0x78, "HLT" }, { 0x79, "INVLPG" },
    { 0x7a, "INVLPGA" }, { 0x7b, "IOIO" }, { 0x7c, "MSR" }, { 0x7d, "TASK_SWITCH" },
    { 0x7e, "FERR_FREEZE" }, { 0x7f, "SHUTDOWN" }, { 0x80, "VMRUN" }, { 0x81, "VMMCALL" },
    { 0x82, "VMLOAD" }, { 0x83, "VMSAVE" }, { 0x84, "STGI" }, { 0x85, "CLGI" }, { 0x86, "SKINIT" },
    { 0x87, "RDTSCP" }, { 0x88, "ICEBP" }, { 0x89, "WBINVD" }, { 0x8a, "MONITOR" },
    { 0x8b, "MWAIT" }, { 0x8c, "MWAIT_COND" }, { 0x8d, "XSETBV" }, { 0x400, "NPF" },
  };
  std::map<int, const char *>::const_iterator entry = names.find(code);

  if (entry != names.end()) return entry->second;
  if (code < 0x40)
    return std::string(code & 0x10 ? "WRITE_" : "READ_") + (code < 0x20 ? "CR" : "DR") +
      std::to_string(code & 0xf);
  if (code < 0x60) return "EXCP_" + std::to_string(code - 0x40);
  return std::to_string(code);
}

static std::string quoted_hex(Bit64u n)
{
  char text[32];
  sprintf(text, "\"0x" FMT_LL "x\"", n);
  return text;
}

static std::string quoted(const std::string &text)
{
  return "\"" + text + "\"";
}

static std::string quoted_number(unsigned n)
{
  return quoted(std::to_string(n));
}

template <typename key_t, typename function_t>
static std::string object(const std::map<key_t, Bit64u> &values, function_t name,
                          const std::string &more = "")
{
  std::string text = "{" + more;
  for (const auto &entry : values) {
    if (text.size() > 1) text += ",";
    text += name(entry.first) + ":" + std::to_string(entry.second);
  }
  return text + "}";
}

static std::string counts_text(const lab_counts_t &counts)
{
  auto hex = [](Bit32u index) { return quoted_hex(index); };
  std::string nmi = counts.nmi ? "\"nmi\":" + std::to_string(counts.nmi) : "";

  return "\"instructions_user\":" + std::to_string(counts.instructions[1]) +
    ",\"instructions_kernel\":" + std::to_string(counts.instructions[0]) +
    ",\"branches_user\":" + std::to_string(counts.branches[1]) +
    ",\"branches_kernel\":" + std::to_string(counts.branches[0]) +
    ",\"cycles\":" + std::to_string(counts.cycles) +
    ",\"rdmsr\":" + object(counts.rdmsr, hex) +
    ",\"wrmsr\":" + object(counts.wrmsr, hex) +
    ",\"rdpmc\":" + std::to_string(counts.rdpmc) +
    ",\"exits\":" + object(counts.exits, quoted) +
    ",\"exits_msr\":" + object(counts.exits_msr, quoted) +
    ",\"exits_unmasked\":" + object(counts.exits_unmasked, quoted) +
    ",\"exit_cycles\":" + object(counts.exit_cycles, quoted) +
    ",\"interrupts\":" + object(counts.interrupts, quoted_number, nmi);
}

// All counts as they are now, as a JSON object
std::string lab_snapshot(void)
{
  for (unsigned i = 0; i < BX_SMP_PROCESSORS; i++) {
    BX_CPU(i)->lab.cpu->account();
    BX_CPU(i)->lab.cpu->arm();
  }

  std::string text = "{\"host\":{" + counts_text(host.counts) + "},\"guests\":[";
  for (const lab_context_t *guest : guests) {
    if (guest->id) text += ",";
    text += "\n  {\"id\":" + std::to_string(guest->id) + ",\"control\":" +
      quoted_hex(guest->control) + "," + counts_text(guest->counts) + "}";
  }
  return text + "]}";
}
