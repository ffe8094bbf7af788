// SPDX-License-Identifier: LGPL-2.1-or-later
//
// The audit of one CPU: whether a hypervisor that hands the PMU to its guests
// keeps host and guests apart.  It goes by what the hardware can see alone.
// The rules are in audit.cc and, for users, in lab/README.md.

#ifndef LAB_AUDIT_H
#define LAB_AUDIT_H

#include <string>
#include <vector>

class lab_cpu_c;
struct lab_context_t;

class lab_audit_c {
public:
  lab_audit_c(lab_cpu_c *lab, unsigned counters);

  // Software, not a guest, wrote a counter, or the register that controls it.
  void wrote(unsigned n, bool global_on);
  void wrote_control(unsigned n, bool global_on);
  void wrote_global();
  // A counter was increased while the host ran.
  void counted_in_host(unsigned n);
  void status_set(unsigned n);      // by an overflow
  void status_written();            // by software
  // The host went from user to kernel mode.
  void new_stretch() { stretch++; }

  // The instruction in flight may enter a guest: its RIP.
  void entering();
  // A guest is entered that can read these counters without an exit.
  void enter(lab_context_t *guest, Bit32u readable, bool rdpmc, bool status);
  void leave(bool to_enter_a_guest);
  // Counter n asks for an interrupt; this is the local APIC's entry.
  void interrupt(unsigned n, Bit32u lvt);

  // There is something to check when the set of active counters has changed.
  bool concerned() const { return mediated || owned != 0; }
  void check();

private:
  void violation(unsigned rule, unsigned n, const char *what);
  int family(const lab_context_t *guest) const;
  bool is_unclear(unsigned n, bool global_on);
  const lab_context_t *owner() const;

  enum { NOBODY = -3, LOADED = -2, HOST = -1 }; // or the family of a guest

  struct state_t {
    int from;               // whose counts or values are in the counter
    int status_from;        // who made its overflow bit be set
    bool ran_in_host;       // since it or its control was written
    Bit64u written;         // it or its control, in that stretch
    Bit64u written_hot, control_hot; // the last write, with global control on
  };

  lab_cpu_c *lab;
  std::vector<state_t> counters;
  Bit64u stretch;
  Bit32u owned;             // counters with a guest's control, by the hardware's account
  Bit32u unclear;           // written with global control on since a guest's exit
  lab_context_t *last;      // the mediated guest that ran last
  bool global_written;      // by the host, since then
  lab_context_t *mediated;  // the mediated guest that runs
  Bit32u readable;
  bool interrupted;         // since the last entry
  int guest_vector;
  lab_context_t *parent;    // guest whose exit was to enter a guest of its own
  Bit64u entry_rip, exit_rip;

};

// What was found, for the stats: how many violations of each rule, and the
// first ones.  "" if the audit is off.
std::string lab_audit_report(bool with_first);

#endif
