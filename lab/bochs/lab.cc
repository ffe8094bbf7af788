// SPDX-License-Identifier: LGPL-2.1-or-later
//
// The lab's frame around an emulated run: its option line, the I/O ports
// through which a run hands over its results and ends, and marks.

#define NEED_CPU_REG_SHORTCUTS 1
#include "bochs.h"
#include "cpu/cpu.h"
#include "iodev/iodev.h"
#include "memory/memory-bochs.h"
#include "pc_system.h"
#include "gui/siminterface.h"
#include "param_names.h"
#include "cpu/cpuid.h"
#include "lab.h"
#include "pmu.h"
#include "audit.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#define PORT_DATA   0x1ab0
#define PORT_STATUS 0x1ab4

lab_options_t lab_options = { "", "", "", "", 0, true, lab_options_t::AUDIT_OFF };
lab_profile_t lab_profile;

static FILE *out_file;
static bool ended;
static std::string marks;

void lab_fatal(const char *format, ...)
{
  va_list args;
  va_start(args, format);
  fflush(stdout);
  fprintf(stderr, "emulator: ");
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  _exit(2);
}

void lab_write_file(const std::string &path, const std::string &text)
{
  std::string temporary = path + ".new";
  FILE *file = fopen(temporary.c_str(), "w");
  if (!file || fwrite(text.data(), 1, text.size(), file) != text.size() || fclose(file) ||
      rename(temporary.c_str(), path.c_str()))
    lab_fatal("%s: cannot write: %s", path.c_str(), strerror(errno));
}

//////////////////////////////////////////////////////////////////////////
// Options and profile
//////////////////////////////////////////////////////////////////////////

void lab_profile_t::read(const std::string &path)
{
  FILE *file = fopen(path.c_str(), "r");
  char line[256], key[64];
  int end;

  if (!file)
    lab_fatal("profile %s: %s: give the name of a file in lab/profiles", path.c_str(), strerror(errno));
  while (fgets(line, sizeof(line), file)) {
    line[strcspn(line, "#\n")] = 0;
    if (sscanf(line, " %63s %n", key, &end) < 1) continue;
    std::string value = line + end;
    value.erase(value.find_last_not_of(" \t") + 1);
    if (strcmp(key, "event")) {
      values[key] = value;
      continue;
    }

    unsigned select, umask, event = 0;
    char name[64];
    if (sscanf(value.c_str(), "%i %i %63s", (int *) &select, (int *) &umask, name) == 3)
      while (++event < EVENTS && strcmp(name, lab_event_names[event])) ;
    if (event == 0 || event == EVENTS)
      lab_fatal("profile %s: \"event %s\": must be a select, a unit mask and the name of an event",
                path.c_str(), value.c_str());
    events[select << 8 | umask] = event;
  }
  fclose(file);
}

const std::string &lab_profile_t::text(const char *key) const
{
  std::map<std::string, std::string>::const_iterator entry = values.find(key);
  if (entry == values.end())
    lab_fatal("profile %s has no \"%s\": add it", lab_options.profile.c_str(), key);
  return entry->second;
}

Bit64u lab_profile_t::number(const char *key) const
{
  const std::string &value = text(key);
  char *end;
  Bit64u result = strtoull(value.c_str(), &end, 0);
  if (value.empty() || *end)
    lab_fatal("profile %s: \"%s\" is no number: %s", lab_options.profile.c_str(), key, value.c_str());
  return result;
}

// A name is a file in the folder "profiles" next to the emulator's binary.
static std::string profile_path(const std::string &name)
{
  char binary[4096];
  ssize_t length = readlink("/proc/self/exe", binary, sizeof(binary) - 1);

  if (name.find('/') != std::string::npos || length < 0) return name;
  binary[length] = 0;
  *strrchr(binary, '/') = 0;
  return std::string(binary) + "/profiles/" + name;
}

static bool on_off(const std::string &key, const std::string &value)
{
  if (value != "on" && value != "off")
    lab_fatal("lab: %s=%s: must be on or off", key.c_str(), value.c_str());
  return value == "on";
}

static Bit32s parse_options(const char *context, int num_params, char *params[])
{
  for (int i = 1; i < num_params; i++) {
    std::string param = params[i];
    size_t equals = param.find('=');
    std::string key = param.substr(0, equals);
    std::string value = equals == std::string::npos ? "" : param.substr(equals + 1);

    if (key == "profile") lab_options.profile = value;
    else if (key == "stats") lab_options.stats = value;
    else if (key == "verdict") lab_options.verdict = value;
    else if (key == "out") lab_options.out = value;
    else if (key == "seed") lab_options.seed = strtoul(value.c_str(), NULL, 0);
    else if (key == "costs") lab_options.costs = on_off(key, value);
    else if (key == "audit" && value == "fatal") lab_options.audit = lab_options_t::AUDIT_FATAL;
    else if (key == "audit")
      lab_options.audit = on_off(key, value) ? lab_options_t::AUDIT_ON : lab_options_t::AUDIT_OFF;
    else lab_fatal("%s: lab: unknown option: %s", context, param.c_str());
  }

  if (lab_options.profile.empty())
    lab_fatal("%s: lab: no profile: add profile=NAME", context);
  lab_profile.read(profile_path(lab_options.profile));
  if (!SIM->get_param_enum(BXPN_CPU_MODEL)->set_by_name(lab_profile.text("model").c_str()))
    lab_fatal("profile %s: Bochs has no CPU model \"%s\"", lab_options.profile.c_str(),
              lab_profile.text("model").c_str());
  SIM->get_param_string(BXPN_CPU_ADD_FEATURES)->set(lab_profile.text("add").c_str());
  SIM->get_param_string(BXPN_CPU_EXCLUDE_FEATURES)->set(lab_profile.text("exclude").c_str());
  SIM->get_param_num(BXPN_IPS)->set(lab_profile.number("hz"));
  return 0;
}

//////////////////////////////////////////////////////////////////////////
// Start and end of a run
//////////////////////////////////////////////////////////////////////////

void lab_init_env(void)
{
  SIM->register_addon_option("lab", parse_options, NULL);
}

// Everything that a run leaves, as of now
static void end_run(void)
{
  if (ended) return;
  ended = true;
  if (out_file && fclose(out_file))
    lab_fatal("%s: cannot write: %s", lab_options.out.c_str(), strerror(errno));
  if (lab_options.stats.empty() || ! bx_cpu_array) return;

  lab_write_file(lab_options.stats, "{\"schema\":1,\"profile\":\"" + lab_options.profile +
                 "\",\"seed\":" + std::to_string(lab_options.seed) + ",\n" + lab_audit_report(true) +
                 "\n\"final\":" +
                 lab_snapshot() + ",\n\"marks\":[" + marks + "]}\n");
}

void lab_end_by_audit(void)
{
  end_run();
  fflush(stderr);
  _exit(3);
}

void lab_exit_env(void)
{
  end_run();
}

static void write_port(void *, Bit32u address, Bit32u value, unsigned len)
{
  if (ended) return;

  if (address == PORT_STATUS) {
    if (len != 4) return;
    end_run();
    if (!lab_options.verdict.empty())
      lab_write_file(lab_options.verdict, std::to_string(value) + "\n");
    bx_pc_system.kill_bochs_request = 1;
    for (unsigned i = 0; i < BX_SMP_PROCESSORS; i++)
      BX_CPU(i)->async_event = 1;
    return;
  }

  if (lab_options.out.empty()) return;
  if (!out_file && !(out_file = fopen(lab_options.out.c_str(), "w")))
    lab_fatal("%s: cannot write: %s", lab_options.out.c_str(), strerror(errno));
  if (fwrite(&value, 1, len, out_file) != len)
    lab_fatal("%s: cannot write: %s", lab_options.out.c_str(), strerror(errno));
}

void lab_initialize(BX_CPU_C *cpu)
{
  if (lab_options.profile.empty())
    lab_fatal("no \"lab:\" line in the configuration: add lab: profile=NAME");

  const std::string &vendor = lab_profile.text("vendor");
  if (vendor == "intel") cpu->lab.cpu = lab_new_intel(cpu);
  else if (vendor == "amd") cpu->lab.cpu = lab_new_amd(cpu);
  else lab_fatal("profile %s: vendor must be intel or amd", lab_options.profile.c_str());
}

void lab_reset(BX_CPU_C *cpu, unsigned type)
{
  static bool once;

  if (type == BX_RESET_HARDWARE) cpu->lab.cpu->restart();
  if (once) return;
  once = true;
  srand(lab_options.seed);
  DEV_register_iowrite_handler(NULL, write_port, PORT_DATA, "lab data", 7);
  DEV_register_iowrite_handler(NULL, write_port, PORT_STATUS, "lab status", 7);
}

//////////////////////////////////////////////////////////////////////////
// Marks
//////////////////////////////////////////////////////////////////////////

// A string of the running program; what is not there is not read
static std::string read_string(BX_CPU_C *cpu, bx_address address, unsigned size)
{
  std::string text;

  while (text.size() < size) {
    bx_phy_address paddr;
    Bit8u byte;
    if (! cpu->dbg_xlate_linear2phy(address + text.size(), &paddr) ||
        ! BX_MEM(0)->dbg_fetch_mem(cpu, paddr, 1, &byte))
      return "?";
    if (byte == 0) break;
    text += byte >= ' ' && byte < 0x7f && byte != '"' && byte != '\\' ? byte : '?';
  }
  return text;
}

void lab_mark(BX_CPU_C *cpu)
{
  const lab_context_t *context = cpu->lab.cpu->context;

  if (ended || lab_options.stats.empty()) return;
  marks += std::string(marks.empty() ? "" : ",") + "\n {\"name\":\"" +
    read_string(cpu, cpu->get_reg64(BX_64BIT_REG_RDI), 31) + "\",\"cpu\":" +
    std::to_string(cpu->which_cpu()) + ",\"context\":\"" +
    (context->id < 0 ? "host\"" : "guest\",\"guest\":" + std::to_string(context->id)) +
    "," + lab_audit_report(false) + "\"counts\":" + lab_snapshot() + "}";
}
