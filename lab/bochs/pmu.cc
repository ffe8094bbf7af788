// SPDX-License-Identifier: LGPL-2.1-or-later
//
// What is counted, when, and for whom; overflow; modelled costs.
//
// The rules:
//
// - An instruction counts where it began: SYSCALL in user mode, IRET in kernel
//   mode, VMLAUNCH and VMRESUME in the host.
// - A change of control takes effect after the instruction that makes it: the
//   WRMSR that disables a counter is counted, the one that enables it is not.
// - A counter that is read does not contain the instruction that reads it.
// - An instruction that faults or exits does not retire; neither does an
//   iteration of a repeated one, except the last.
// - Each step takes one cycle, and what lab_costs_t says on top of that.
// - A counter that wraps does so between two instructions, and its interrupt
//   is raised there: there is no skid.

#define NEED_CPU_REG_SHORTCUTS 1
#include "bochs.h"
#include "cpu/cpu.h"
#include "cpu/apic.h"
#include "cpu/cpuid.h"
#include "cpu/vmx.h"
#include "cpu/svm.h"
#include "gui/siminterface.h"
#include "param_names.h"
#include "lab.h"
#include "pmu.h"
#include "audit.h"

// no trace is longer, so none that begins before "stop" ends after the deadline
#define NEAR (Bit64u) (BX_MAX_TRACE_LENGTH + 2)
#define NEVER (~(Bit64u) 0)

#define SLOTS_PER_CYCLE 6

const char *const lab_event_names[EVENTS] = {
  "none", "cycles", "ref-cycles", "slots", "instructions", "branches",
  "mispredicts", "loads", "stores", "loads-and-stores", "cache-references", "cache-misses"
};

lab_cpu_c::lab_cpu_c(BX_CPU_C *cpu): cpu(cpu), context(lab_host_context()), audit(NULL), extra(0),
  exited_guest(NULL), exit_begin(0), charging(lab_options.costs), deadline(NEVER), deferred(0), counts_cycles(false), unchecked(false),
  previous_context(context), previous_user(false), previous_active(0)
{
  memset(predictor, 0, sizeof(predictor));
  memset(&base, 0, sizeof(base));
  memset(noticed, 0, sizeof(noticed));
  for (Bit64u &n : limit) n = NEVER;

  costs.entry = lab_profile.number("cost_vm_entry");
  costs.exit = lab_profile.number("cost_vm_exit");
  costs.wrmsr_pmu = lab_profile.number("cost_wrmsr_pmu");
  costs.rdmsr_pmu = lab_profile.number("cost_rdmsr_pmu");
  costs.rdpmc = lab_profile.number("cost_rdpmc");
  costs.wrmsr_apic = lab_profile.number("cost_wrmsr_apic");
  costs.interrupt = lab_profile.number("cost_interrupt");
  costs.wrmsr = lab_profile.number("cost_wrmsr");
  costs.rdmsr = lab_profile.number("cost_rdmsr");
}

lab_event_t lab_cpu_c::event_named(Bit32u select, Bit32u umask) const
{
  std::map<Bit32u, unsigned>::const_iterator entry = lab_profile.events.find(select << 8 | umask);
  return entry == lab_profile.events.end() ? EVENT_NONE : (lab_event_t) entry->second;
}

//////////////////////////////////////////////////////////////////////////
// Accounting
//////////////////////////////////////////////////////////////////////////

// The running totals, after "steps" more steps of which "retired" retire.
lab_totals_t lab_cpu_c::totals(unsigned steps, unsigned retired) const
{
  lab_totals_t now;
  Bit64u cycles = cpu->icount + steps + extra;

  now.n[EVENT_NONE] = 0;
  now.n[EVENT_CYCLES] = now.n[EVENT_REF_CYCLES] = cycles;
  now.n[EVENT_SLOTS] = cycles * SLOTS_PER_CYCLE;
  now.n[EVENT_INSTRUCTIONS] = cpu->icount - cpu->lab.aborted + retired;
  now.n[EVENT_BRANCHES] = cpu->lab.branches;
  for (int e = EVENT_MISPREDICTS; e < EVENTS; e++) now.n[e] = noticed[e];
  return now;
}

// How often a counter with an edge detector or a threshold counts in a step
// that takes so many cycles: what happens in it happens in its last cycle.
Bit64u lab_cpu_c::shape(lab_counter_t &counter, Bit64u cycles, Bit64u events) const
{
  Bit64u threshold = counter.cmask ? counter.cmask : 1;
  bool invert = counter.invert && counter.cmask;
  Bit64u each = 0, last = events, count = 0;

  if (counter.event <= EVENT_SLOTS)
    each = last = (counter.event == EVENT_SLOTS) ? SLOTS_PER_CYCLE : 1;

  bool before = (each >= threshold) != invert;
  bool after = (last >= threshold) != invert;

  if (! counter.edge)
    return (cycles - 1) * before + after;

  if (cycles > 1) {
    count += before && !counter.held;
    counter.held = before;
  }
  count += after && !counter.held;
  counter.held = after;
  return count;
}

// True if an interrupt is requested.
bool lab_cpu_c::add(unsigned n, Bit64u events)
{
  lab_counter_t &counter = counters[n];
  Bit64u left = width_mask - counter.value;

  counter.value = (counter.value + events) & width_mask;
  return events > left ? overflowed(n) : false;
}

void lab_cpu_c::request_interrupt(Bit32u asking)
{
  if (audit)
    for (unsigned n = 0; n < counters.size(); n++)
      if (asking >> n & 1) audit->interrupt(n, cpu->lapic->read_aligned(BX_LAPIC_LVT_PERFMON));
  cpu->lapic->request_pmi(masks_lvtpc());
}

void lab_cpu_c::count(unsigned steps, unsigned retired)
{
  lab_totals_t now = totals(steps, retired), delta;
  Bit32u asking = 0;
  bool wrapped = false;

  for (int e = 0; e < EVENTS; e++) {
    // a step that was accounted for while it was in flight is not again
    if (now.n[e] < base.n[e]) now.n[e] = base.n[e];
    delta.n[e] = now.n[e] - base.n[e];
  }
  base = now;
  cpu->lab.counted = base.n[EVENT_INSTRUCTIONS];
  counting(delta);

  bool user = cpu->lab.user;
  context->counts.cycles += delta.n[EVENT_CYCLES];
  context->counts.instructions[user] += delta.n[EVENT_INSTRUCTIONS];
  context->counts.branches[user] += delta.n[EVENT_BRANCHES];

  for (unsigned n = 0; n < counters.size(); n++) {
    lab_counter_t &counter = counters[n];
    if (! counter.active) continue;
    Bit64u events = delta.n[counter.event];
    if (counter.shaped())
      events = delta.n[EVENT_CYCLES] ? shape(counter, delta.n[EVENT_CYCLES], events) : 0;
    if (! events) continue;
    if (audit && context->id < 0) audit->counted_in_host(n);
    Bit64u before = counter.value;
    if (add(n, events)) asking |= 1 << n;
    if (counter.value < before) {
      wrapped = true;
      if (audit) audit->status_set(n);
    }
  }

  if (wrapped) refresh(); // it may have frozen the counters
  if (asking) request_interrupt(asking);
}

// After a hardware reset Bochs counts steps from zero.
void lab_cpu_c::restart()
{
  cpu->lab.aborted = 0;
  base = totals(0, 0);
  cpu->lab.counted = base.n[EVENT_INSTRUCTIONS];
  power_up();
}

void lab_cpu_c::account()
{
  count(0, 0);
}

void lab_cpu_c::account_in_flight()
{
  const lab_hot_t &hot = cpu->lab;
  count(! hot.between, ! hot.between && ! hot.abort);
}

void lab_cpu_c::refresh()
{
  bool user = cpu->lab.user;

  cpu->lab.watch = 0;
  counts_cycles = false;
  for (unsigned n = 0; n < counters.size(); n++) {
    lab_counter_t &counter = counters[n];
    bool active = counter.on && counter.event != EVENT_NONE &&
                  (user ? counter.user : counter.os) && enabled(n);
    if (active && ! counter.active) counter.held = false;
    counter.active = active;
    if (! active) continue;
    if (counter.event <= EVENT_SLOTS || counter.shaped()) counts_cycles = true;
    if (counter.event == EVENT_MISPREDICTS) cpu->lab.watch |= LAB_WATCH_BRANCHES;
    if (counter.event >= EVENT_LOADS) cpu->lab.watch |= LAB_WATCH_MEMORY;
  }
  if (audit && audit->concerned()) unchecked = true;
}

bool lab_cpu_c::could_count(unsigned n)
{
  return counters[n].on && counters[n].event != EVENT_NONE && enabled(n);
}

void lab_cpu_c::arm()
{
  deadline = NEVER;
  for (int e = EVENT_MISPREDICTS; e < EVENTS; e++) limit[e] = NEVER;

  // the step up to which everything is accounted for
  Bit64u now = base.n[EVENT_CYCLES] - extra;

  for (const lab_counter_t &counter : counters) {
    if (! counter.active) continue;
    Bit64u left = width_mask - counter.value + 1; // events until it wraps
    Bit64u step = NEVER;

    if (counter.shaped()) {
      step = 0;             // each step has to be looked at
    }
    else if (counter.event >= EVENT_MISPREDICTS) {
      if (base.n[counter.event] + left < limit[counter.event])
        limit[counter.event] = base.n[counter.event] + left;
    }
    else if (counter.event == EVENT_SLOTS) {
      step = now + (left + SLOTS_PER_CYCLE - 1) / SLOTS_PER_CYCLE;
    }
    else {                  // at most one in a step
      step = now + left;
    }
    if (step < deadline) deadline = step;
  }

  cpu->lab.stop = (deadline == NEVER) ? NEVER : (deadline > NEAR) ? deadline - NEAR : 0;
  if (deferred || unchecked || bx_dbg.gdbstub_enabled) cpu->lab.stop = 0;
  // the trace in execution may be long enough to run over the new deadline
  if (cpu->icount >= cpu->lab.stop) cpu->async_event |= BX_ASYNC_EVENT_STOP_TRACE;
}

//////////////////////////////////////////////////////////////////////////
// Called by Bochs
//////////////////////////////////////////////////////////////////////////

// Between two instructions, from the step lab.stop on.
void lab_cpu_c::boundary()
{
  bool charged = deferred != 0;

  if (charged) {
    unsigned n = deferred;
    deferred = 0;
    charge(n);
  }
  if (charged || cpu->icount >= deadline) {
    account();
    arm();
  }
  if (unchecked) {
    unchecked = false;
    audit->check();
    arm();
  }
}

void lab_boundary(BX_CPU_C *cpu)
{
  cpu->lab.cpu->boundary();
}

// A fault or a VM exit ended the step, which Bochs has counted by now.
void lab_aborted(BX_CPU_C *cpu)
{
  lab_hot_t &hot = cpu->lab;

  // VM entry that is followed by an exit at once: the instruction did retire
  if (cpu->icount - hot.aborted > hot.counted) hot.aborted++;
  hot.between = hot.abort = false;
}

// The CPL is no longer the one in lab.user.
void lab_mode_change(BX_CPU_C *cpu)
{
  lab_hot_t &hot = cpu->lab;
  lab_cpu_c *lab = hot.cpu;

  if (! lab) {
    hot.user = ! hot.user;
    return;
  }

  lab->account_in_flight();
  lab->previous_context = lab->context;
  lab->previous_user = hot.user;
  lab->previous_active = 0;
  for (unsigned n = 0; n < lab->counters.size(); n++)
    lab->previous_active |= lab->counters[n].active << n;
  hot.user = ! hot.user;
  if (lab->audit && ! hot.user && lab->context->id < 0) lab->audit->new_stretch();
  lab->refresh();
  lab->arm();
}

// A far branch; if it changed the CPL then its instruction has been accounted
// for, in the mode in which it began, and the branch follows it.
void lab_cpu_c::late_branch()
{
  cpu->lab.branches++;
  if (cpu->lab.counted <= cpu->icount - cpu->lab.aborted) return;

  Bit32u asking = 0;
  base.n[EVENT_BRANCHES]++;
  previous_context->counts.branches[previous_user]++;
  if (! previous_active) return;
  for (unsigned n = 0; n < counters.size(); n++)
    if ((previous_active >> n & 1) && counters[n].event == EVENT_BRANCHES && ! counters[n].edge &&
        counters[n].cmask <= 1 && add(n, 1))
      asking |= 1 << n;
  refresh();
  arm();
  if (asking) request_interrupt(asking);
}

void lab_late_branch(BX_CPU_C *cpu)
{
  cpu->lab.cpu->late_branch();
}

// Makes the counters be looked at after the instruction in flight.
static void look_soon(BX_CPU_C *cpu)
{
  cpu->lab.stop = 0;
  cpu->async_event |= BX_ASYNC_EVENT_STOP_TRACE;
}

// Branch prediction: a two-bit counter for each of 4096 branch addresses.
void lab_conditional(BX_CPU_C *cpu, Bit64u rip, bool taken)
{
  lab_cpu_c *lab = cpu->lab.cpu;
  Bit8u &state = lab->predictor[(rip ^ (rip >> 12)) & 4095];

  if ((state >= 2) != taken) lab->notice(EVENT_MISPREDICTS);
  if (taken && state < 3) state++;
  if (! taken && state > 0) state--;
}

// Memory: each access of an instruction is one, except that a repeated string
// instruction may access memory in bulk, which is not noticed.
//
// Caches: the lines of 64 bytes that were used last, one for each of so many
// sets.  An access that misses the first 32768 lines (2 MiB) is a reference to
// the last-level cache, which has 262144 lines (16 MiB), shared by all CPUs.
static Bit64u own_lines[BX_MAX_SMP_THREADS_SUPPORTED][32768], shared_lines[262144];

static void cache_access(BX_CPU_C *cpu, Bit64u paddr)
{
  lab_cpu_c *lab = cpu->lab.cpu;
  Bit64u line = (paddr >> 6) + 1; // 0 is an empty set

  Bit64u &own = own_lines[cpu->which_cpu()][line % 32768];
  if (own == line) return;
  own = line;
  lab->notice(EVENT_CACHE_REFS);

  Bit64u &shared = shared_lines[line % 262144];
  if (shared == line) return;
  shared = line;
  lab->notice(EVENT_CACHE_MISSES);
}

void lab_memory(BX_CPU_C *cpu, Bit64u paddr, unsigned rw)
{
  lab_cpu_c *lab = cpu->lab.cpu;

  if (rw != BX_WRITE) lab->notice(EVENT_LOADS);
  if (rw != BX_READ) lab->notice(EVENT_STORES);
  lab->notice(EVENT_LOADS_STORES);
  cache_access(cpu, paddr);
}

// CLFLUSH and its like.  Fetches of instructions are no accesses, but for the one
// that has to follow if the CPU has flushed the line that it is executing.
void lab_flush(BX_CPU_C *cpu, Bit64u paddr)
{
  Bit64u line = (paddr >> 6) + 1;

  for (unsigned i = 0; i < BX_MAX_SMP_THREADS_SUPPORTED; i++)
    if (own_lines[i][line % 32768] == line) own_lines[i][line % 32768] = 0;
  if (shared_lines[line % 262144] == line) shared_lines[line % 262144] = 0;

  Bit64u next = cpu->pAddrFetchPage + ((cpu->gen_reg[BX_64BIT_REG_RIP].rrx + cpu->eipPageBias) & 0xfff);
  if ((next >> 6) + 1 == line) cache_access(cpu, paddr);
}

void lab_cpu_c::overdue()
{
  deadline = 0;
  look_soon(cpu);
}

// In the halted state no cycles are counted, and no condition holds.
void lab_halt(BX_CPU_C *cpu)
{
  for (lab_counter_t &counter : cpu->lab.cpu->counters) counter.held = false;
}

// Something else that decides which counters are active has changed.
static void changed(BX_CPU_C *cpu)
{
  cpu->lab.cpu->account_in_flight();
  cpu->lab.cpu->refresh();
  cpu->lab.cpu->arm();
}

// System management mode was entered or left: counters may be frozen in it.
void lab_smm(BX_CPU_C *cpu)
{
  changed(cpu);
}

// EFER.SVME: whether there are guests and a host
void lab_efer(BX_CPU_C *cpu)
{
  changed(cpu);
}

//////////////////////////////////////////////////////////////////////////
// Costs
//////////////////////////////////////////////////////////////////////////

void lab_cpu_c::ticks(Bit64u n)
{
  extra += n;
  cpu->icount_last_sync -= n; // the next synchronisation lets this time pass, too
  if (counts_cycles) overdue();
}

// After the event that is being delivered: in the mode that it enters.
void lab_cpu_c::charge_later(unsigned n)
{
  if (! charging) return;
  deferred += n;
  look_soon(cpu);
}

// Iterations of a repeated instruction that Bochs does in one step
void lab_ticks(BX_CPU_C *cpu, Bit32u ticks)
{
  cpu->lab.cpu->ticks(ticks);
}

// By this many cycles the delivery of an interrupt takes longer: what the seed
// is for.  (A generator of its own: rand() is what RDRAND returns.)
static unsigned jitter(void)
{
  static Bit32u state = lab_options.seed;

  if (lab_options.seed == 0) return 0;
  state = state * 1103515245 + 12345;
  return state >> 26;
}

void lab_interrupt(BX_CPU_C *cpu, unsigned vector)
{
  lab_cpu_c *lab = cpu->lab.cpu;

  if (vector == 2) lab->context->counts.nmi++;
  else lab->context->counts.interrupts[vector]++;
  lab->charge_later(lab->costs.interrupt + jitter());
}

//////////////////////////////////////////////////////////////////////////
// Instructions that access registers
//////////////////////////////////////////////////////////////////////////

bool lab_do_rdmsr(BX_CPU_C *cpu, Bit32u index, Bit64u *value)
{
  lab_cpu_c *lab = cpu->lab.cpu;
  lab_context_t *context = lab->context;

  lab->charge(lab->is_pmu_msr(index) ? lab->costs.rdmsr_pmu : lab->costs.rdmsr);
  if (! cpu->rdmsr(index, value)) return false;
  context->counts.rdmsr[index]++;
  return true;
}

bool lab_do_wrmsr(BX_CPU_C *cpu, Bit32u index, Bit64u value)
{
  lab_cpu_c *lab = cpu->lab.cpu;
  lab_context_t *context = lab->context;

  lab->charge(lab->is_pmu_msr(index) ? lab->costs.wrmsr_pmu :
              is_x2apic_msr_range(index) ? lab->costs.wrmsr_apic : lab->costs.wrmsr);
  if (! cpu->wrmsr(index, value)) return false;
  context->counts.wrmsr[index]++;
  return true;
}

bool lab_do_rdpmc(BX_CPU_C *cpu, Bit32u index, Bit64u *value)
{
  lab_cpu_c *lab = cpu->lab.cpu;

  lab->charge(lab->costs.rdpmc);
  lab->account();
  lab->arm();
  if (! lab->rdpmc(index, value)) return false;
  lab->context->counts.rdpmc++;
  return true;
}

//////////////////////////////////////////////////////////////////////////
// Guests
//////////////////////////////////////////////////////////////////////////

// A VM exit; access: "rdmsr" or "wrmsr" if it was for one of them
void lab_cpu_c::exited(lab_context_t *guest, const std::string &reason, const char *access)
{
  exit_key = reason;
  guest->counts.exits[reason]++;
  if (access) {
    char name[32];
    sprintf(name, "%s 0x%x", access, (unsigned) cpu->get_reg32(BX_32BIT_REG_ECX));
    exit_key = name;
    guest->counts.exits_msr[name]++;
  }
  exited_guest = guest;
  exit_begin = base.n[EVENT_CYCLES];
  cpu->lab.unmasked = false;
}

// VM entry: what the exit before it took
void lab_cpu_c::handled()
{
  if (! exited_guest) return;
  exited_guest->counts.exit_cycles[exit_key] += base.n[EVENT_CYCLES] - exit_begin;
  if (cpu->lab.unmasked) exited_guest->counts.exits_unmasked[exit_key]++;
  exited_guest = NULL;
}

void lab_cpu_c::enter(lab_context_t *guest)
{
  context = guest;
  if (audit) {
    bool rdpmc = false, status = false;
    Bit32u counters = readable(&rdpmc, &status);
    audit->enter(guest, counters, rdpmc, status);
  }
  refresh();
  arm();
}

void lab_cpu_c::leave(bool to_enter_a_guest)
{
  if (context->id < 0) return; // VM entry failed
  if (audit) audit->leave(to_enter_a_guest);
  context = lab_host_context();
  charge_later(costs.exit);
  refresh();
  arm();
}


// An event that entering a guest injects
void lab_injected(BX_CPU_C *cpu, unsigned type, unsigned vector)
{
  if (type == BX_EXTERNAL_INTERRUPT || type == BX_NMI) lab_interrupt(cpu, vector);
}

static void entry(BX_CPU_C *cpu)
{
  lab_cpu_c *lab = cpu->lab.cpu;

  if (lab->audit) lab->audit->entering();
  lab->charge(lab->costs.entry);
  lab->account_in_flight();
  lab->handled();
  lab->arm();
}

void lab_svm_entry(BX_CPU_C *cpu)
{
  entry(cpu);
}

void lab_svm_entered(BX_CPU_C *cpu)
{
  cpu->lab.cpu->account_in_flight();
  cpu->lab.cpu->enter(lab_guest_context(cpu->vmcbptr));
}

// The beginning of an exit; in_svm_guest is still set unless VMRUN failed.
void lab_svm_exit(BX_CPU_C *cpu, int code, Bit64u info)
{
  lab_cpu_c *lab = cpu->lab.cpu;
  lab_context_t *guest = lab_guest_context(cpu->vmcbptr);

  if (code != SVM_VMEXIT_INVALID) cpu->lab.abort = true;
  lab->account_in_flight();

  lab->exited(guest, lab_svm_exit_name(code),
              code != SVM_VMEXIT_MSR ? NULL : info ? "wrmsr" : "rdmsr");
}

// After it: in_svm_guest is clear
void lab_svm_exited(BX_CPU_C *cpu, int code)
{
  cpu->lab.cpu->leave(code == SVM_VMEXIT_VMRUN);
}

void lab_vmx_entry(BX_CPU_C *cpu)
{
  entry(cpu);
}

void lab_vmx_entered(BX_CPU_C *cpu)
{
  lab_cpu_c *lab = cpu->lab.cpu;

  lab->account_in_flight();
  lab->enter(lab_guest_context(cpu->vmcsptr));
}

// The beginning of a VM exit
void lab_vmx_exit(BX_CPU_C *cpu, Bit32u reason)
{
  lab_cpu_c *lab = cpu->lab.cpu;
  lab_context_t *guest = lab_guest_context(cpu->vmcsptr);
  lab_counts_t &host = lab_host_context()->counts;
  unsigned basic = reason & 0xffff;

  // all others restart the instruction in flight, or VM entry failed
  if (! IS_TRAP_LIKE_VMEXIT(basic) && ! (reason & 0x80000000)) cpu->lab.abort = true;
  lab->account_in_flight();
  lab->leave(basic == VMX_VMEXIT_VMLAUNCH || basic == VMX_VMEXIT_VMRESUME);

  lab->exited(guest, lab_vmx_exit_name(basic), basic == VMX_VMEXIT_RDMSR ? "rdmsr" :
              basic == VMX_VMEXIT_WRMSR ? "wrmsr" : NULL);

  // what the exit acknowledged never comes through the IDT
  if (basic == VMX_VMEXIT_EXTERNAL_INTERRUPT || basic == VMX_VMEXIT_EXCEPTION_NMI) {
    Bit32u info = cpu->VMread32(VMCS_32BIT_VMEXIT_INTERRUPTION_INFO);
    if ((info >> 31) && (info >> 8 & 7) == BX_EXTERNAL_INTERRUPT) host.interrupts[info & 0xff]++;
    if ((info >> 31) && (info >> 8 & 7) == BX_NMI) host.nmi++;
  }
}
