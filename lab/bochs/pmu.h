// SPDX-License-Identifier: LGPL-2.1-or-later
//
// One CPU's performance monitoring unit, and the counts of what runs on it.
//
// pmu.cc     what is counted, when, and for whom; overflow
// intel.cc   Intel's registers
// amd.cc     AMD's registers
// stats.cc   the counts that "stats=FILE" gets

#ifndef LAB_PMU_H
#define LAB_PMU_H

#include <map>
#include <string>
#include <vector>

// What a counter can count.  Each also exists as a running total; a counter
// adds the differences of the total while it is active.
enum lab_event_t {
  EVENT_NONE,
  // a fixed number in a cycle
  EVENT_CYCLES, EVENT_REF_CYCLES, EVENT_SLOTS,
  // at most one in a step
  EVENT_INSTRUCTIONS, EVENT_BRANCHES,
  // noticed one by one, and only while a counter counts one of them
  EVENT_MISPREDICTS, EVENT_LOADS, EVENT_STORES, EVENT_LOADS_STORES,
  EVENT_CACHE_REFS, EVENT_CACHE_MISSES,
  EVENTS
};

extern const char *const lab_event_names[EVENTS];

struct lab_totals_t {
  Bit64u n[EVENTS];
};

struct lab_counter_t {
  Bit64u value;
  Bit64u control;       // event select, or the four bits of FIXED_CTR_CTRL
  lab_event_t event;
  bool on, user, os, edge, invert, interrupt;
  Bit8u cmask;

  bool active;          // counts now
  bool held;            // the condition held in the last cycle (edge)

  bool shaped() const { return edge || cmask; }
};

// The counts of what one context, the host or one guest, did.
struct lab_counts_t {
  Bit64u instructions[2], branches[2], cycles;  // [user]
  Bit64u rdpmc, nmi;
  std::map<Bit32u, Bit64u> rdmsr, wrmsr;
  std::map<unsigned, Bit64u> interrupts;
  std::map<std::string, Bit64u> exits, exits_msr;
  // by reason, or for MSRs by access: until the CPU's next entry, of any guest
  std::map<std::string, Bit64u> exits_unmasked, exit_cycles;
};

struct lab_context_t {
  int id;               // of the guest, -1 is the host
  Bit64u control;       // physical address of its VMCS or VMCB
  lab_counts_t counts;
};

// stats.cc
lab_context_t *lab_host_context(void);
lab_context_t *lab_guest_context(Bit64u control);
std::string lab_snapshot(void);
const char *lab_vmx_exit_name(unsigned reason);
std::string lab_svm_exit_name(int code);

struct lab_costs_t {
  unsigned entry, exit, wrmsr_pmu, rdmsr_pmu, rdpmc, wrmsr_apic, interrupt, wrmsr, rdmsr;
};

class lab_audit_c;

class lab_cpu_c {
public:
  lab_cpu_c(BX_CPU_C *cpu);
  virtual ~lab_cpu_c() {}

  // Registers.  > 0: done, 0: #GP, < 0: not a register of the PMU
  virtual int rdmsr(Bit32u index, Bit64u *value) = 0;
  virtual int wrmsr(Bit32u index, Bit64u value) = 0;
  virtual bool rdpmc(Bit32u index, Bit64u *value) = 0;
  virtual bool is_pmu_msr(Bit32u index) = 0;
  virtual void cpuid(Bit32u function, Bit32u subfunction, cpuid_function_t *leaf) = 0;
  virtual void power_up() = 0;

  // Count what has run since the last time.  The step in flight is included,
  // and its instruction if it is going to retire: a change of control takes
  // effect after the instruction that makes it.
  void account_in_flight();
  // Count what has run before the instruction in flight: for reading.
  void account();
  void restart();
  // Decide which counters are active and when the next one can overflow.
  void refresh();
  void arm();

  // Modelled cycles that no step stands for
  void ticks(Bit64u n);
  void charge(unsigned n) { if (charging) ticks(n); }
  void charge_later(unsigned n);

  // for the audit
  const lab_counter_t &counter(unsigned n) const { return counters[n]; }
  // enabled, at one CPL or another
  bool could_count(unsigned n);
  virtual std::string counter_name(unsigned n) const = 0;
  virtual Bit64u global() const = 0;
  virtual bool status_bit_set(unsigned n) const = 0;
  // bits that are set in the control although no guest may have them
  virtual bool not_offered(unsigned n) const = 0;
  virtual bool not_offered_globally() const = 0;
  // the counters that the guest of the current VMCS or VMCB can read
  virtual Bit32u readable(bool *rdpmc, bool *status) = 0;

  void exited(lab_context_t *guest, const std::string &reason, const char *access);
  void handled();
  void enter(lab_context_t *guest);
  void leave(bool to_enter_a_guest);
  void boundary();
  void late_branch();
  void overdue();
  Bit64u cycles() const { return cpu->icount + extra; }

  BX_CPU_C *cpu;
  lab_context_t *context;
  lab_audit_c *audit;   // NULL: off
  lab_costs_t costs;

  Bit64u extra;         // cycles charged: cycles are steps and these
  // of the events that are noticed one by one
  Bit64u noticed[EVENTS];
  Bit64u limit[EVENTS]; // the number at which a counter overflows
  void notice(lab_event_t event) { if (++noticed[event] >= limit[event]) overdue(); }
  Bit8u predictor[4096];

protected:
  enum { MAX_COUNTERS = 12 };
  std::vector<lab_counter_t> counters;

  // the counter is enabled globally, and counts in this mode
  virtual bool enabled(unsigned n) = 0;
  // the counter wrapped: status, freeze; true if an interrupt is requested
  virtual bool overflowed(unsigned n) = 0;
  virtual bool masks_lvtpc() = 0;
  // this is going to be added to the counters that are active
  virtual void counting(const lab_totals_t &delta) {}

  lab_event_t event_named(Bit32u select, Bit32u umask) const;
  Bit64u width_mask;
  lab_totals_t base;    // what has been accounted for

private:
  lab_totals_t totals(unsigned steps, unsigned retired) const;
  void count(unsigned steps, unsigned retired);
  bool add(unsigned n, Bit64u events);
  Bit64u shape(lab_counter_t &counter, Bit64u cycles, Bit64u events) const;

  lab_context_t *exited_guest;  // the last exit, NULL after the entry that followed
  std::string exit_key;
  Bit64u exit_begin;

  bool charging;
  Bit64u deadline;      // the step at which the next counter can overflow
  unsigned deferred;
  bool counts_cycles;
  bool unchecked;       // the active counters have changed since the last audit

  // before the last change of mode
  lab_context_t *previous_context;
  bool previous_user;
  Bit32u previous_active;

  void request_interrupt(Bit32u asking);

  friend void lab_mode_change(BX_CPU_C *cpu);
  friend void lab_halt(BX_CPU_C *cpu);
};

lab_cpu_c *lab_new_intel(BX_CPU_C *cpu);
lab_cpu_c *lab_new_amd(BX_CPU_C *cpu);

#endif
