// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Bochs calls these at the points of interest of an emulated CPU; it includes
// this file before its CPU class is declared, and hooks.patch adds the few
// calls that Bochs has no place for.  What happens once per instruction or
// branch is inline here, everything else is behind a call.

#ifndef LAB_INSTRUMENT_H
#define LAB_INSTRUMENT_H

#if BX_INSTRUMENTATION

class BX_CPU_C;
class lab_cpu_c;
class bxInstruction_c;
struct cpuid_function_t;

// The part of a CPU's lab state that is used inline; a member of BX_CPU_C.
//
// Bochs counts steps (BX_CPU_C::icount): an instruction, an iteration of a
// repeated one, or an attempt that ended in a fault or a VM exit.  Counting
// takes differences of this number where something changes, so that nothing
// has to be done for each instruction.  When a counter is about to overflow,
// the trace loops are made to stop after each instruction.
struct lab_hot_t {
  Bit64u stop;          // from this step on lab_boundary() has to be called between instructions
  Bit64u aborted;       // steps that retired no instruction
  Bit64u counted;       // instructions accounted for, the one in flight included
  Bit64u branches;      // branches retired
  Bit32u watch;         // LAB_WATCH_*
  bool user;            // CPL > 0, as last accounted
  bool between;         // between two instructions: an event is being delivered
  bool abort;           // the instruction in flight does not retire
  bool unmasked;        // interrupts were enabled since the last VM exit
  lab_cpu_c *cpu;
};

enum {
  LAB_WATCH_BRANCHES = 1,   // a counter counts mispredicted branches
  LAB_WATCH_MEMORY = 2,     // a counter counts cache references or misses
};

// lab.cc
void lab_init_env(void);
void lab_exit_env(void);
void lab_initialize(BX_CPU_C *cpu);
void lab_reset(BX_CPU_C *cpu, unsigned type);
void lab_mark(BX_CPU_C *cpu);

// platform.cc
void lab_cpuid(BX_CPU_C *cpu, Bit32u function, Bit32u subfunction, cpuid_function_t *leaf);
bool lab_vmx_saves_global_ctrl(void);
// > 0: done, 0: #GP, < 0: not a register of ours
int lab_rdmsr(BX_CPU_C *cpu, Bit32u index, Bit64u *value);
int lab_wrmsr(BX_CPU_C *cpu, Bit32u index, Bit64u value);

// pmu.cc
void lab_boundary(BX_CPU_C *cpu);
void lab_aborted(BX_CPU_C *cpu);
void lab_mode_change(BX_CPU_C *cpu);
void lab_late_branch(BX_CPU_C *cpu);
void lab_conditional(BX_CPU_C *cpu, Bit64u rip, bool taken);
void lab_memory(BX_CPU_C *cpu, Bit64u paddr, unsigned rw);
void lab_flush(BX_CPU_C *cpu, Bit64u paddr);
void lab_halt(BX_CPU_C *cpu);
void lab_smm(BX_CPU_C *cpu);
void lab_efer(BX_CPU_C *cpu);
void lab_ticks(BX_CPU_C *cpu, Bit32u ticks);
void lab_interrupt(BX_CPU_C *cpu, unsigned vector);

// the instructions RDMSR, WRMSR and RDPMC that did not exit; false: #GP
bool lab_do_rdmsr(BX_CPU_C *cpu, Bit32u index, Bit64u *value);
bool lab_do_wrmsr(BX_CPU_C *cpu, Bit32u index, Bit64u value);
bool lab_do_rdpmc(BX_CPU_C *cpu, Bit32u index, Bit64u *value);

// an event that entering a guest injects
void lab_injected(BX_CPU_C *cpu, unsigned type, unsigned vector);

// SVM: VMRUN after its checks of controls, with the guest's state loaded, exit
void lab_svm_entry(BX_CPU_C *cpu);
void lab_svm_entered(BX_CPU_C *cpu);
void lab_svm_exit(BX_CPU_C *cpu, int code, Bit64u info);
void lab_svm_exited(BX_CPU_C *cpu, int code);

// VMX: entry after its checks of controls and host state, the state that
// entries and exits load and save, and the moment at which the guest runs
void lab_vmx_entry(BX_CPU_C *cpu);
void lab_vmx_entered(BX_CPU_C *cpu);
void lab_vmx_exit(BX_CPU_C *cpu, Bit32u reason);
bool lab_valid_global_ctrl(BX_CPU_C *cpu, Bit64u value);
void lab_set_global_ctrl(BX_CPU_C *cpu, Bit64u value);
Bit64u lab_get_global_ctrl(BX_CPU_C *cpu);
bool lab_valid_debugctl(BX_CPU_C *cpu, Bit64u value);
void lab_set_debugctl(BX_CPU_C *cpu, Bit64u value);
Bit64u lab_get_debugctl(BX_CPU_C *cpu);

// nopl 0x3142414c(%rax) ("LAB1"): a mark
#define LAB_MARK_LENGTH 7
#define LAB_MARK_DISPLACEMENT 0x3142414c

#define BX_INSTR_INIT_ENV() lab_init_env()
#define BX_INSTR_EXIT_ENV() lab_exit_env()
#define BX_INSTR_INITIALIZE(cpu_id) lab_initialize(BX_CPU(cpu_id))
#define BX_INSTR_EXIT(cpu_id)
#define BX_INSTR_RESET(cpu_id, type) lab_reset(BX_CPU_THIS, type)
#define BX_INSTR_HLT(cpu_id) lab_halt(BX_CPU_THIS)
#define BX_INSTR_MWAIT(cpu_id, addr, len, flags) lab_halt(BX_CPU_THIS)

#define BX_INSTR_DEBUG_PROMPT()
#define BX_INSTR_DEBUG_CMD(cmd)

#define LAB_CONDITIONAL(rip, taken) { \
  BX_CPU_THIS_PTR lab.branches++; \
  if (BX_CPU_THIS_PTR lab.watch & LAB_WATCH_BRANCHES) lab_conditional(BX_CPU_THIS, (rip), (taken)); \
}
#define BX_INSTR_CNEAR_BRANCH_TAKEN(cpu_id, branch_eip, new_eip) LAB_CONDITIONAL(branch_eip, true)
#define BX_INSTR_CNEAR_BRANCH_NOT_TAKEN(cpu_id, branch_eip) LAB_CONDITIONAL(branch_eip, false)
#define BX_INSTR_UCNEAR_BRANCH(cpu_id, what, branch_eip, new_eip) BX_CPU_THIS_PTR lab.branches++
// Called after the CPL has changed: the branch belongs to the CPL it began in.
#define BX_INSTR_FAR_BRANCH(cpu_id, what, prev_cs, prev_eip, new_cs, new_eip) lab_late_branch(BX_CPU_THIS)

#define BX_INSTR_OPCODE(cpu_id, i, opcode, len, is32, is64)

#define BX_INSTR_EXCEPTION(cpu_id, vector, error_code) BX_CPU_THIS_PTR lab.abort = true
#define BX_INSTR_INTERRUPT(cpu_id, vector)
#define BX_INSTR_HWINTERRUPT(cpu_id, vector, cs, eip) lab_interrupt(BX_CPU_THIS, vector)

#define BX_INSTR_CLFLUSH(cpu_id, laddr, paddr) { \
  if (BX_CPU_THIS_PTR lab.watch & LAB_WATCH_MEMORY) lab_flush(BX_CPU_THIS, (paddr)); \
}
#define BX_INSTR_CACHE_CNTRL(cpu_id, what)
#define BX_INSTR_TLB_CNTRL(cpu_id, what, new_cr3)
#define BX_INSTR_PREFETCH_HINT(cpu_id, what, seg, offset)

#define BX_INSTR_BEFORE_EXECUTION(cpu_id, i)
#define BX_INSTR_AFTER_EXECUTION(cpu_id, i)
#define BX_INSTR_REPEAT_ITERATION(cpu_id, i)

#define BX_INSTR_LIN_ACCESS(cpu_id, lin, phy, len, memtype, rw) { \
  if (BX_CPU_THIS_PTR lab.watch & LAB_WATCH_MEMORY) lab_memory(BX_CPU_THIS, (phy), (rw)); \
}
#define BX_INSTR_PHY_ACCESS(cpu_id, phy, len, memtype, rw)

#define BX_INSTR_INP(addr, len)
#define BX_INSTR_INP2(addr, len, val)
#define BX_INSTR_OUTP(addr, len, val)

#define BX_INSTR_WRMSR(cpu_id, addr, value)
#define BX_INSTR_VMEXIT(cpu_id, reason, qualification) lab_vmx_exit(BX_CPU_THIS, reason)

#else
#error "the lab's hooks need --enable-instrumentation=instrument/lab"
#endif

#endif
