// SPDX-License-Identifier: LGPL-2.1-or-later
//
// The audit.  A guest is mediated, for the time from one VM entry to the next
// exit, if it can read a counter's register without an exit.  With an emulated
// PMU no guest is, and nothing is checked.
//
// I1  A counter that was enabled in a mediated guest counts for it until its
//     control is written: it must not be active in the host.  Neither must a
//     counter have counted in the host after it was loaded for the entry.
// I2  In a mediated guest no counter is active that the guest cannot read, and
//     none that has counted in the host since it was written.
// I3  What a mediated guest can read was last counted by itself, or written by
//     software since another counted it: counters by RDMSR, all of them if
//     RDPMC does not exit, and overflow bits.
// I4  In a mediated guest no control has a bit that no guest is offered.
// I5  The overflow of a counter that a mediated guest can read asks for one
//     fixed interrupt: the local APIC's entry is neither masked nor an NMI.
//     The host's overflows do not use that vector.
// I6  Global control is 0 while a counter or control is written between a
//     mediated guest and another or the host: while a guest's controls are in
//     the registers, and in the stretch of kernel code before the entry.  A
//     write for the guest itself, which is entered again before global control
//     changes, is no exchange.
//
// A guest and its own guests are one: they have one PMU.  A VMCS that is
// entered after another one exited with VMLAUNCH or VMRESUME (a VMCB: VMRUN)
// is of the same family.  Until that one is entered again, what it counts may go
// on counting in the new one, which is not mediated itself if all its accesses exit.

#define NEED_CPU_REG_SHORTCUTS 1
#include "bochs.h"
#include "cpu/cpu.h"
#include "cpu/cpuid.h"
#include "gui/siminterface.h"
#include "lab.h"
#include "audit.h"
#include "pmu.h"

#define RULES 6
#define REPORTED 10     // violations of each rule

static unsigned violations[RULES + 1];
static std::string reports;
static std::map<const lab_context_t *, const lab_context_t *> parents;
static std::map<const lab_context_t *, const lab_context_t *> nested; // by the one that waits

static bool is_nested(const lab_context_t *guest)
{
  for (const std::pair<const lab_context_t * const, const lab_context_t *> &entry : nested)
    if (entry.second == guest) return true;
  return false;
}

lab_audit_c::lab_audit_c(lab_cpu_c *lab, unsigned n): lab(lab), stretch(1), owned(0), unclear(0), last(NULL),
  global_written(false), mediated(NULL), readable(0), interrupted(false), guest_vector(-1), parent(NULL), entry_rip(0), exit_rip(0)
{
  state_t state = { NOBODY, NOBODY, false, 0, 0, 0 };
  counters.assign(n, state);
}

std::string lab_audit_report(bool with_first)
{
  if (lab_options.audit == lab_options_t::AUDIT_OFF) return "";

  std::string text = "\"audit\":{";
  for (unsigned rule = 1; rule <= RULES; rule++)
    text += std::string(rule > 1 ? "," : "") + "\"I" + std::to_string(rule) + "\":" +
      std::to_string(violations[rule]);
  if (with_first) text += ",\"first\":[" + reports + "]";
  return text + "},";
}

// Who may count now; NULL: the host
const lab_context_t *lab_audit_c::owner() const
{
  return mediated || ! is_nested(lab->context) ? mediated : lab->context;
}

void lab_audit_c::violation(unsigned rule, unsigned n, const char *what)
{
  if (++violations[rule] > REPORTED) return;

  BX_CPU_C *cpu = lab->cpu;
  const lab_counter_t &counter = lab->counter(n);
  Bit64u rip = cpu->get_instruction_pointer();
  bool in_guest = lab->context->id >= 0;
  char text[512];

  snprintf(text, sizeof(text), "{\"rule\":\"I%u\",\"what\":\"%s\",\"cpu\":%u,\"counter\":\"%s\","
           "\"value\":\"0x" FMT_LL "x\",\"control\":\"0x" FMT_LL "x\",\"global_ctrl\":\"0x" FMT_LL "x\","
           "\"context\":\"%s\",\"host_rip\":\"0x" FMT_LL "x\",\"guest_rip\":\"0x" FMT_LL "x\"}",
           rule, what, cpu->which_cpu(), lab->counter_name(n).c_str(), counter.value,
           counter.control, lab->global(), in_guest ? "guest" : "host",
           in_guest ? entry_rip : rip, in_guest ? rip : exit_rip);
  reports += std::string(reports.empty() ? "" : ",") + "\n " + text;
  fprintf(stderr, "audit: %s\n", text);
  if (lab_options.audit == lab_options_t::AUDIT_FATAL) lab_end_by_audit();
}

int lab_audit_c::family(const lab_context_t *guest) const
{
  std::map<const lab_context_t *, const lab_context_t *>::const_iterator entry;
  while ((entry = parents.find(guest)) != parents.end()) guest = entry->second;
  return guest->id;
}

//////////////////////////////////////////////////////////////////////////
// What happens
//////////////////////////////////////////////////////////////////////////

// True if it is not known yet for whom a write with global control on is
bool lab_audit_c::is_unclear(unsigned n, bool global_on)
{
  bool as_left = last && ! global_written;
  if (! global_on || ! ((owned | unclear) || as_left)) return false;
  unclear |= 1 << n;
  return true;
}

void lab_audit_c::wrote(unsigned n, bool global_on)
{
  state_t &state = counters[n];

  if (is_unclear(n, global_on)) global_on = false;
  state.from = LOADED;
  state.ran_in_host = false;
  state.written = stretch;
  state.written_hot = global_on ? stretch : 0;
}

void lab_audit_c::wrote_control(unsigned n, bool global_on)
{
  state_t &state = counters[n];

  if (is_unclear(n, global_on)) global_on = false;
  owned &= ~(1 << n);
  state.ran_in_host = false;
  state.written = stretch;
  state.control_hot = global_on ? stretch : 0;
}

void lab_audit_c::wrote_global()
{
  for (unsigned n = 0; n < counters.size(); n++)
    if (unclear >> n & 1)
      violation(6, n, "was written while global control was on and a guest's controls were loaded");
  unclear = 0;
  global_written = true;
}

void lab_audit_c::counted_in_host(unsigned n)
{
  counters[n].from = HOST;
  counters[n].ran_in_host = true;
}

void lab_audit_c::status_set(unsigned n)
{
  counters[n].status_from = owner() ? family(owner()) : HOST;
}

void lab_audit_c::status_written()
{
  for (state_t &state : counters) state.status_from = LOADED;
}

void lab_audit_c::entering()
{
  entry_rip = lab->cpu->prev_rip;
}

void lab_audit_c::enter(lab_context_t *guest, Bit32u mask, bool rdpmc, bool status)
{
  if (parent && parent != guest) {
    if (family(parent) != family(guest)) parents[guest] = parent;
    nested[parent] = guest;
  }
  else nested.erase(guest);
  parent = NULL;
  interrupted = false;
  readable = mask;
  mediated = mask ? guest : NULL;

  int self = family(guest);
  if (owner() && last && family(last) == self) unclear = 0;
  if (! mediated) return;

  wrote_global();
  for (unsigned n = 0; n < counters.size(); n++) {
    state_t &state = counters[n];
    bool can_read = readable >> n & 1;

    if (lab->could_count(n) && state.ran_in_host) {
      if (state.written == stretch) violation(1, n, "loaded for the guest, it counted in the host");
      else violation(2, n, "a counter of the host is enabled in the guest");
    }
    if ((can_read || rdpmc) && (state.from == HOST || (state.from >= 0 && state.from != self)))
      violation(3, n, state.from == HOST ? "the guest can read what the host counted" :
                                           "the guest can read what another guest counted");
    if (status && lab->status_bit_set(n) &&
        (state.status_from == HOST || (state.status_from >= 0 && state.status_from != self)))
      violation(3, n, "the guest can read another's overflow");
    if (state.written_hot == stretch || state.control_hot == stretch)
      violation(6, n, "written for the guest while global control was on");
    if (can_read) state.from = self;
    state.ran_in_host = false;
  }
}

void lab_audit_c::leave(bool to_enter_a_guest)
{
  exit_rip = lab->cpu->prev_rip;
  parent = to_enter_a_guest ? lab->context : NULL;
  stretch++;
  if (! mediated) return;
  for (unsigned n = 0; n < counters.size(); n++)
    if ((readable >> n & 1) && lab->counter(n).on) owned |= 1 << n;
  last = mediated;
  global_written = false;
  mediated = NULL;
}

void lab_audit_c::interrupt(unsigned n, Bit32u lvt)
{
  bool masked = lvt & 0x10000;
  unsigned mode = lvt >> 8 & 7;

  if (! mediated) {
    // of a guest that cannot read it, or the host's
    bool hosts = lab->context->id < 0 || counters[n].ran_in_host;
    if (hosts && ! masked && mode == 0 && (int) (lvt & 0xff) == guest_vector)
      violation(5, n, "an overflow in the host raises the guest's interrupt");
    return;
  }

  if (! (readable >> n & 1)) return;
  // two counters that overflow at once make one interrupt
  if (masked && ! interrupted) violation(5, n, "the guest's interrupt is lost: the local APIC's entry is masked");
  if (! masked && mode != 0) violation(5, n, "the guest's overflow raises no fixed interrupt");
  if (! masked && mode == 0) guest_vector = lvt & 0xff;
  interrupted = true;
}

// Between two instructions: which counters are active now
void lab_audit_c::check()
{
  for (unsigned n = 0; n < counters.size(); n++) {
    const lab_counter_t &counter = lab->counter(n);

    if (! mediated) {
      if (counter.active && (owned >> n & 1) && ! owner()) {
        violation(1, n, "a guest's counter counts in the host");
        owned &= ~(1 << n);
      }
      continue;
    }

    if (counter.active && ! (readable >> n & 1))
      violation(2, n, "a counter that the guest cannot read counts in it");
    if (lab->not_offered(n)) violation(4, n, "its control has a bit that no guest is offered");
  }
  if (mediated && lab->not_offered_globally())
    violation(4, 0, "global control has a bit that no guest is offered");
}
