// SPDX-License-Identifier: LGPL-2.1-or-later
//
// The lab's own part of the emulated host: what its files share.
//
// lab.cc       options, the lab's I/O ports, marks, start and end of a run
// platform.cc  CPUID and the MSRs a real machine has and Bochs lacks
// pmu.h        the PMU, and the counts of what runs on the CPUs

#ifndef LAB_H
#define LAB_H

#include <map>
#include <string>

// The "lab:" line of bochsrc.
struct lab_options_t {
  std::string profile, stats, verdict, out;
  unsigned seed;
  bool costs;
  enum { AUDIT_OFF, AUDIT_ON, AUDIT_FATAL } audit;
};

extern lab_options_t lab_options;

// The profile: "key value" lines of a file in lab/profiles, and "event SELECT
// UMASK NAME" lines.  Reading a key that is missing or no number is an error
// in the profile and ends the run.
struct lab_profile_t {
  std::map<std::string, std::string> values;
  std::map<Bit32u, unsigned> events;    // lab_event_t by select << 8 | umask

  void read(const std::string &path);
  const std::string &text(const char *key) const;
  Bit64u number(const char *key) const;
};

extern lab_profile_t lab_profile;

// Ends the emulator with one line on stderr and exit status 2: the way out
// for what is wrong with the lab's own input or output.
void lab_fatal(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

// Ends the run because of a violation, with everything written and status 3.
void lab_end_by_audit(void) __attribute__((noreturn));

// Writes a file so that it is there whole or not at all.
void lab_write_file(const std::string &path, const std::string &text);

// platform.cc: false if the register is not there
bool lab_platform_rdmsr(BX_CPU_C *cpu, Bit32u index, Bit64u *value);
bool lab_platform_wrmsr(BX_CPU_C *cpu, Bit32u index, Bit64u value);

#endif
