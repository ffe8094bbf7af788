// SPDX-License-Identifier: GPL-2.0-only
/*
 * Runs in the emulated host: a guest whose exits are known, one kind of them at
 * a time, with a lab mark (lab/README.md) before and after each kind.  Between
 * two marks nothing happens but the exits and KVM_RUN.
 *
 * The guest is a few instructions in real mode, where the PMU's registers are
 * the same as in any other.
 */
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/kvm.h>

/* Keep in step with exit-costs. */
#define EXITS		50

#define CODE		0x1000
#define TABLE		0x2000
#define MEMORY		0x10000
#define MMIO_SEGMENT	0xd000

#define EVENTSEL_ON	0x430000	/* enabled, in user and kernel mode */
#define EVENTSEL_USER	0x010000
#define INTEL_CYCLES	0x3c
#define AMD_CYCLES	0x76

/*
 * EBP: how often.  Each ends with OUT.
 *
 * write_table	EBP MSRs from the table at SI
 * write_msr	MSR EDI: EDX in the upper, alternately ESI and EBX in the lower half
 */
asm(".section .rodata\n"
    ".code16\n"
    "guest:\n"
    "write_table:\n"
    "	movl (%si), %ecx\n"
    "	movl 4(%si), %eax\n"
    "	movl 8(%si), %edx\n"
    "	wrmsr\n"
    "	addw $12, %si\n"
    "	decl %ebp\n"
    "	jnz write_table\n"
    "	outb %al, $0x99\n"
    "exit_cpuid:\n"
    "	xorl %eax, %eax\n"
    "	cpuid\n"
    "	decl %ebp\n"
    "	jnz exit_cpuid\n"
    "	outb %al, $0x99\n"
    "exit_mmio:\n"
    "	movb %al, (0)\n"
    "	decl %ebp\n"
    "	jnz exit_mmio\n"
    "	outb %al, $0x99\n"
    "write_msr:\n"
    "	movl %edi, %ecx\n"
    "	movl %esi, %eax\n"
    "	wrmsr\n"
    "	xchgl %esi, %ebx\n"
    "	decl %ebp\n"
    "	jnz write_msr\n"
    "	outb %al, $0x99\n"
    "guest_end:\n"
    ".code64\n"
    ".previous\n");

extern const char guest[], guest_end[];
extern const char write_table[], exit_cpuid[], exit_mmio[], write_msr[];

static uint8_t *memory;
static struct kvm_run *run;
static int vcpu;

static void mark(const char *name, const char *when)
{
	char text[32];

	snprintf(text, sizeof(text), "%s-%s", name, when);
	asm volatile(".byte 0x0f, 0x1f, 0x80, 0x4c, 0x41, 0x42, 0x31"
		     : : "D"(text) : "memory");
}

static void set_regs(const char *code, struct kvm_regs regs)
{
	struct kvm_sregs sregs;

	regs.rip = CODE + (code - guest);
	regs.rflags = 2;
	if (ioctl(vcpu, KVM_SET_REGS, &regs))
		err(1, "KVM_SET_REGS");

	if (ioctl(vcpu, KVM_GET_SREGS, &sregs))
		err(1, "KVM_GET_SREGS");
	sregs.cs.base = sregs.cs.selector = 0;
	sregs.ds.selector = code == exit_mmio ? MMIO_SEGMENT : 0;
	sregs.ds.base = sregs.ds.selector << 4;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs))
		err(1, "KVM_SET_SREGS");
}

static void run_guest(void)
{
	do {
		if (ioctl(vcpu, KVM_RUN, 0))
			err(1, "KVM_RUN");
	} while (run->exit_reason == KVM_EXIT_MMIO);

	if (run->exit_reason != KVM_EXIT_IO)
		errx(1, "unexpected exit reason %u", run->exit_reason);
}

/* Once before the first mark, for what happens the first time only. */
static void measure(const char *name, const char *code, struct kvm_regs regs)
{
	regs.rbp = 2;
	set_regs(code, regs);
	run_guest();

	regs.rbp = EXITS;
	set_regs(code, regs);
	mark(name, "begin");
	run_guest();
	mark(name, "end");
}

struct pmu {
	uint32_t nr;
	uint32_t eventsel, stride;
	uint32_t global_ctrl;
	uint64_t counters;
	uint32_t fixed_ctrl;
	uint32_t event;
};

/* What CPUID says of the guest's PMU */
static struct pmu find_pmu(struct kvm_cpuid2 *cpuid)
{
	struct pmu pmu = {};
	uint32_t i;

	for (i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *e = &cpuid->entries[i];

		if (e->function == 0xa && e->eax & 0xff) {
			pmu = (struct pmu) {
				.nr = e->eax >> 8 & 0xff, .eventsel = 0x186, .stride = 1,
				.global_ctrl = 0x38f, .fixed_ctrl = 0x38d, .event = INTEL_CYCLES,
			};
			/* Fixed counters 1 and 2 count cycles, the first one instructions. */
			pmu.counters = ((1ull << pmu.nr) - 1) | 6ull << 32;
		}
		if (e->function == 0x80000022 && e->eax & 1) {
			pmu = (struct pmu) {
				.nr = e->ebx & 0xf, .eventsel = 0xc0010200, .stride = 2,
				.global_ctrl = 0xc0000301, .event = AMD_CYCLES,
			};
			pmu.counters = (1ull << pmu.nr) - 1;
		}
	}
	if (!pmu.nr)
		errx(1, "the guest has no PMU");
	return pmu;
}

static struct pmu create_guest(void)
{
	struct kvm_userspace_memory_region region = { .memory_size = MEMORY };
	struct kvm_cpuid2 *cpuid;
	int kvm, vm;

	kvm = open("/dev/kvm", O_RDWR);
	if (kvm < 0)
		err(1, "/dev/kvm");
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		err(1, "KVM_CREATE_VM");
	if (ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000) || ioctl(vm, KVM_CREATE_IRQCHIP, 0))
		err(1, "KVM_CREATE_IRQCHIP");

	memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		err(1, "mmap");
	memcpy(memory + CODE, guest, guest_end - guest);
	region.userspace_addr = (uintptr_t)memory;
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
		err(1, "KVM_SET_USER_MEMORY_REGION");

	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0)
		err(1, "KVM_CREATE_VCPU");
	run = mmap(NULL, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE,
		   MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED)
		err(1, "mmap");

	cpuid = calloc(1, sizeof(*cpuid) + 256 * sizeof(cpuid->entries[0]));
	if (!cpuid)
		err(1, "calloc");
	cpuid->nent = 256;
	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid) || ioctl(vcpu, KVM_SET_CPUID2, cpuid))
		err(1, "KVM_SET_CPUID2");
	return find_pmu(cpuid);
}

static void turn_all_on(const struct pmu *pmu)
{
	struct { uint32_t msr, low, high; } *e = (void *)(memory + TABLE);
	uint32_t i, nr = 0;

	for (i = 0; i < pmu->nr; i++) {
		e[nr].msr = pmu->eventsel + i * pmu->stride;
		e[nr++].low = EVENTSEL_ON | pmu->event;
	}
	if (pmu->fixed_ctrl) {
		e[nr].msr = pmu->fixed_ctrl;
		e[nr++].low = 0x330;
	}
	e[nr].msr = pmu->global_ctrl;
	e[nr].low = pmu->counters;
	e[nr++].high = pmu->counters >> 32;

	set_regs(write_table, (struct kvm_regs) { .rsi = TABLE, .rbp = nr });
	run_guest();
}

int main(int argc, char **argv)
{
	struct pmu pmu = create_guest();
	uint32_t on = 0;

	if (argc != 2 || (strcmp(argv[1], "idle") && strcmp(argv[1], "busy")))
		errx(2, "usage: exit-costs idle|busy");

	if (!strcmp(argv[1], "busy")) {
		turn_all_on(&pmu);
		on = EVENTSEL_ON;
	}

	measure("cpuid", exit_cpuid, (struct kvm_regs) {});
	measure("mmio", exit_mmio, (struct kvm_regs) {});
	measure("selector", write_msr, (struct kvm_regs) {
		.rdi = pmu.eventsel + pmu.stride,
		.rsi = on | pmu.event, .rbx = (on | pmu.event) ^ EVENTSEL_USER,
	});
	measure("global-ctrl", write_msr, (struct kvm_regs) {
		.rdi = pmu.global_ctrl,
		.rsi = 1, .rbx = (uint32_t)pmu.counters,
		.rdx = pmu.counters >> 32,
	});
	return 0;
}
