/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the parts of the PMU's test kernel share.
 *
 * start.S   entry, handlers, what is measured
 * machine.c what is needed to run at all
 * main.c    the counters and their registers
 * guest.c   VMX and SVM
 * audit.c   programs that break the audit's rules, and that do not
 */
#ifndef PMU_H
#define PMU_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef void (*code_t)(void);

#define BIT(n)		(1ul << (n))
#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))

struct profile {
	const char *name;
	int amd, general, fixed, any_thread, saves;
	u32 version, edx;		/* CPUID's */
	u64 capabilities;
};
extern const struct profile *profile;

enum event {
	CYCLES, REF_CYCLES, INSTRUCTIONS, BRANCHES, MISPREDICTS, LOADS, STORES, LOADS_STORES,
	CACHE_REFS, CACHE_MISSES, SLOTS, EVENTS
};

/* of a select register: the same bits at Intel and AMD */
#define USR	BIT(16)
#define OS	BIT(17)
#define EDGE	BIT(18)
#define INT	BIT(20)
#define ANY	BIT(21)
#define EN	BIT(22)
#define INV	BIT(23)
#define CMASK(n) ((u64)(n) << 24)
#define GUEST	BIT(40)
#define HOST	BIT(41)

/* Intel's registers; AMD's are named by the functions below */
#define PMC0		0xc1
#define FULL_PMC0	0x4c1
#define SELECT0		0x186
#define FIXED0		0x309
#define METRICS		0x329
#define CAPABILITIES	0x345
#define FIXED_CTRL	0x38d
#define DEBUGCTL	0x1d9
#define INUSE		0x392
#define LVTPC		0x834

#define MASKED		BIT(16)
#define NMI		BIT(10)
#define PMI_VECTOR	0x80

u64 select_of(enum event event, u64 flags);
u32 select_msr(int n);
u32 counter_msr(int n);		/* the one that takes a full-width value */
extern u32 status_msr, reset_msr, set_msr, global_msr;
extern u64 global_on, before, pmi_rip, guarded, recover;
extern u32 pmi_count, line_address, user_read;
extern u64 buffer[512];

/* machine.c */
void set_up(void);
int same(const char *a, const char *b);
void print(const char *text);
void print_number(u64 value, u32 base);
void __attribute__((noreturn)) end(u32 status);
void mark(const char *name);
u64 rdmsr(u32 msr);
void wrmsr(u32 msr, u64 value);
int rdmsr_faults(u32 msr, u64 *value);
int wrmsr_faults(u32 msr, u64 value);
int rdpmc_faults(u32 index, u64 *value);

/* main.c */
void reset_pmu(void);
void program(int n, u64 select, u64 value);
u64 all_counters(void);

void check(const char *what, const char *part, u64 got, u64 want);

void measure(code_t code);
void nothing(void);
void loop100(void);
void branches(void);
void memory(void);
void lines(void);
void flushed(void);
void flushed_only(void);
void flushing_itself(void);
void alternating(void);
void smi(void);
void repeated(void);
void compared(void);
void faulting(void);
void interrupting(void);
void user(void);
void user_syscall(void);
void user_rdpmc(void);
extern char loop_dec[], loop_jnz[], user_jumped[], measure_end[];

/* guest.c */
struct control {
	u64 guest_global, host_global;	/* VMX: loaded at entry and exit */
	int load_guest, load_host, save;
	u64 guest_debugctl;
	int load_debugctl, save_debugctl;
	int rdpmc_exits, nmi_exits, interrupt_exits, no_bitmap, ack;
	int entry_list, store_list, exit_list;
	u64 rflags;
};
extern struct control control;
extern u8 msr_bitmap[];

#define ENTRY_FAILED 0x1000		/* VMLAUNCH failed; plus its error */

void guests_init(void);
void trap_msr(u32 msr, int rdmsr, int wrmsr);
void trap_all_msrs(void);
u32 run_guest(int which, code_t code);
extern u64 exit_info;
void test_vmx(void);
void test_svm(void);
void guest_vmlaunch(void);
void guest_vmrun(void);

void test_audit(void);

#endif
