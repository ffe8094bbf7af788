// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Bochs calls these at the points of interest of an emulated CPU; it includes
// this file before its CPU class is declared.  What happens once per
// instruction or branch is inline here, everything else is behind a call.

#ifndef LAB_INSTRUMENT_H
#define LAB_INSTRUMENT_H

#if BX_INSTRUMENTATION

class BX_CPU_C;
class bxInstruction_c;
struct cpuid_function_t;

// lab.cc
void lab_init_env(void);
void lab_exit_env(void);
void lab_reset(BX_CPU_C *cpu, unsigned type);
void lab_mark(BX_CPU_C *cpu);

// platform.cc
void lab_cpuid(BX_CPU_C *cpu, Bit32u function, Bit32u subfunction, cpuid_function_t *leaf);
// > 0: done, 0: #GP, < 0: not a register of ours
int lab_rdmsr(BX_CPU_C *cpu, Bit32u index, Bit64u *value);
int lab_wrmsr(BX_CPU_C *cpu, Bit32u index, Bit64u value);

// nopl 0x3142414c(%rax) ("LAB1"): a mark
#define LAB_MARK_LENGTH 7
#define LAB_MARK_DISPLACEMENT 0x3142414c

#define BX_INSTR_INIT_ENV() lab_init_env()
#define BX_INSTR_EXIT_ENV() lab_exit_env()
#define BX_INSTR_INITIALIZE(cpu_id)
#define BX_INSTR_EXIT(cpu_id)
#define BX_INSTR_RESET(cpu_id, type) lab_reset(BX_CPU_THIS, type)
#define BX_INSTR_HLT(cpu_id)
#define BX_INSTR_MWAIT(cpu_id, addr, len, flags)

#define BX_INSTR_DEBUG_PROMPT()
#define BX_INSTR_DEBUG_CMD(cmd)

#define BX_INSTR_CNEAR_BRANCH_TAKEN(cpu_id, branch_eip, new_eip)
#define BX_INSTR_CNEAR_BRANCH_NOT_TAKEN(cpu_id, branch_eip)
#define BX_INSTR_UCNEAR_BRANCH(cpu_id, what, branch_eip, new_eip)
#define BX_INSTR_FAR_BRANCH(cpu_id, what, prev_cs, prev_eip, new_cs, new_eip)

#define BX_INSTR_OPCODE(cpu_id, i, opcode, len, is32, is64)

#define BX_INSTR_EXCEPTION(cpu_id, vector, error_code)
#define BX_INSTR_INTERRUPT(cpu_id, vector)
#define BX_INSTR_HWINTERRUPT(cpu_id, vector, cs, eip)

#define BX_INSTR_CLFLUSH(cpu_id, laddr, paddr)
#define BX_INSTR_CACHE_CNTRL(cpu_id, what)
#define BX_INSTR_TLB_CNTRL(cpu_id, what, new_cr3)
#define BX_INSTR_PREFETCH_HINT(cpu_id, what, seg, offset)

#define BX_INSTR_BEFORE_EXECUTION(cpu_id, i)
#define BX_INSTR_AFTER_EXECUTION(cpu_id, i)
#define BX_INSTR_REPEAT_ITERATION(cpu_id, i)

#define BX_INSTR_LIN_ACCESS(cpu_id, lin, phy, len, memtype, rw)
#define BX_INSTR_PHY_ACCESS(cpu_id, phy, len, memtype, rw)

#define BX_INSTR_INP(addr, len)
#define BX_INSTR_INP2(addr, len, val)
#define BX_INSTR_OUTP(addr, len, val)

#define BX_INSTR_WRMSR(cpu_id, addr, value)
#define BX_INSTR_VMEXIT(cpu_id, reason, qualification)

#else
#error "the lab's hooks need --enable-instrumentation=instrument/lab"
#endif

#endif
