// SPDX-License-Identifier: GPL-2.0-only
/*
 * The host's events lose nothing, and gain nothing, from mediated guests.
 *
 * The oracle is the host's own user mode: between two points of one task's
 * code, the number of instructions and branches it executes in user mode is the same
 * every time, whatever the kernel and any guest do in between.  So it must be
 * the same when the guest in between runs a little, runs much, has its counters off, has
 * all of them on and overflowing, and when no guest runs at all.
 *
 *  - exclude_guest events over many switches of the PMU, counting instructions and
 *    branches: of the task, alone, in a group and pinned; of its CPU; of its cgroup: exact
 *  - more events than there are counters, which take turns: all together they count
 *    what is due as often as there are counters, exactly
 *  - sampling every N instructions, of the task and of the CPU, user mode alone, and
 *    with the kernel's entries to the guest: all samples that are due, none lost,
 *    none throttled, and none of the guest
 *  - an event that perf throttles, as its samples come too often: none until it goes on
 *  - counts that tracepoints, and BPF programs attached to them, take while the guest's
 *    PMU is in the hardware: those of the host's last instruction
 *  - a guest's PMIs are not the host's, and the host's are not the guest's: VPMI and
 *    the guest's own count agree
 *  - an NMI that is no PMI, while a guest's PMU is in the hardware, leaves it alone
 *
 * An NMI that belongs to nobody is in the kernel's log, this test can't see it.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include <linux/filter.h>

#include "mediated_pmu_host.h"

enum {
	GUEST_IDLE,
	GUEST_SHORT,
	GUEST_LONG,
	GUEST_PMI,
	GUEST_OVERFLOWN,
	NR_GUESTS,
};

static const char * const guest_names[] = {
	[GUEST_IDLE]	= "with its PMU idle",
	[GUEST_SHORT]	= "with all counters on",
	[GUEST_LONG]	= "running for long",
	[GUEST_PMI]	= "taking PMIs",
	[GUEST_OVERFLOWN] = "with all bits of the status set",
};

/* Written by the host while the guest is out */
static int guest_kind;
static uint32_t guest_pmis;

static void handle_pmi(struct ex_regs *regs)
{
	WRITE_ONCE(guest_pmis, guest_pmis + 1);
	wrmsr(pmu.global_status_clear, pmu.counters);
	x2apic_write_reg(APIC_LVTPC, PMI_VECTOR);
	x2apic_write_reg(APIC_EOI, 0);
}

static void set_up_guest(int kind)
{
	int i, flags;

	reset_pmu();
	if (kind == GUEST_IDLE)
		return;

	for_each_counter(i) {
		flags = kind == GUEST_PMI && !i ? PMI : 0;
		select_event(i, pmu.instructions, KERNEL | USER | flags);
		if (kind == GUEST_OVERFLOWN)
			write_counter(i, -1);
	}
	wrmsr(pmu.global_ctrl, pmu.counters);
}

static void guest_code(void)
{
	int kind = GUEST_IDLE;
	uint32_t loops;

	x2apic_enable();
	x2apic_write_reg(APIC_LVTPC, PMI_VECTOR);
	reset_pmu();
	asm volatile("sti");

	for (;;) {
		GUEST_UCALL_NONE();

		if (kind != READ_ONCE(guest_kind)) {
			kind = READ_ONCE(guest_kind);
			set_up_guest(kind);
		}

		/* The overflow comes in the loop, while the counter is on. */
		if (kind == GUEST_PMI)
			write_counter(0, -500);

		loops = kind == GUEST_SHORT ? 10 : 5000;
		asm volatile("1: dec %0\n\t"
			     "jnz 1b\n\t"
			     : "+r"(loops) : : "cc");
	}
}

#define CGROUP	"/sys/fs/cgroup/mediated_pmu_host_test"

/*
 * Others may run on this CPU, whom an event of the CPU counts, too.  They aren't
 * there each time, but what a guest does is.
 */
static struct counts count_alone(struct kvm_vcpu *vcpu, const struct mode *mode)
{
	struct counts c = count(vcpu, mode), again;
	int n;

	for (n = 0; mode->of == OF_CPU && n < 2; n++) {
		again = count(vcpu, mode);
		if (again.insns < c.insns)
			c = again;
	}
	return c;
}

static void set_guest(struct kvm_vcpu *vcpu, int kind)
{
	guest_kind = kind;
	sync_global_to_guest(vcpu->vm, guest_kind);
	vcpu_run(vcpu);
}

static const struct mode counting[] = {
	{ "of the task" },
	{ "of the task, in a group", .group = true },
	{ "of the task, pinned", .pinned = true },
	{ "of the task, in a pinned group", .pinned = true, .group = true },
	{ "of the CPU", .of = OF_CPU },
	{ "of the CPU, in a pinned group", .of = OF_CPU, .pinned = true, .group = true },
	{ "of the cgroup", .of = OF_CGROUP },
	{ "of the cgroup, in a group", .of = OF_CGROUP, .group = true },
};

static void test_counting(struct kvm_vcpu *vcpu, const struct mode *mode)
{
	struct counts without, with;
	int kind;

	if (mode->of == OF_CGROUP && cgroup < 0) {
		pr_info("Not tested: counting %s\n", mode->name);
		return;
	}

	without = count_alone(&no_vcpu, mode);
	pr_info("Counting %s: %lu instructions, %lu branches\n", mode->name, without.insns,
		without.branches);

	/* About what the code above says, to see that it's this what is counted */
	TEST_ASSERT(without.insns - switches * SWITCH_INSNS < 1000,
		    "%lu instructions are not those of the code", without.insns);
	TEST_ASSERT(without.branches - switches * SWITCH_BRANCHES < 1000,
		    "%lu branches are not those of the code", without.branches);

	for (kind = 0; kind < NR_GUESTS; kind++) {
		set_guest(vcpu, kind);
		with = count_alone(vcpu, mode);
		TEST_ASSERT(with.insns == without.insns,
			    "Guest %s: %lu instructions %s, %lu without the guest",
			    guest_names[kind], with.insns, mode->name, without.insns);
		TEST_ASSERT(with.branches == without.branches,
			    "Guest %s: %lu branches %s, %lu without the guest",
			    guest_names[kind], with.branches, mode->name, without.branches);
	}
}

/*
 * As many events of one kind as can't be counted at once take turns; there is always
 * the same number of them in the hardware, and it changes in kernel mode only.
 * One more, pinned, tells how much each of them would have counted.
 */
#define NR_MULTIPLEXED	24

static uint64_t count_multiplexed(struct kvm_vcpu *vcpu)
{
	const struct mode pinned = { .pinned = true }, flexible = {};
	uint64_t branches, sum = 0;
	int fd[NR_MULTIPLEXED], first, i, partly = 0;
	struct reading r;

	first = open_event(&pinned, PERF_COUNT_HW_BRANCH_INSTRUCTIONS, -1);
	for (i = 0; i < NR_MULTIPLEXED; i++)
		fd[i] = open_event(&flexible, PERF_COUNT_HW_BRANCH_INSTRUCTIONS, -1);

	/* All of this task's events at once */
	TEST_ASSERT(!prctl(PR_TASK_PERF_EVENTS_ENABLE), "prctl failed");
	switch_often(vcpu, switches);
	TEST_ASSERT(!prctl(PR_TASK_PERF_EVENTS_DISABLE), "prctl failed");

	branches = read_running(first);
	close(first);
	for (i = 0; i < NR_MULTIPLEXED; i++) {
		r = read_all(fd[i]);
		TEST_ASSERT(r.value <= branches && (r.running || !r.value),
			    "%lu of %lu branches while it ran for %lu ns of %lu", r.value,
			    branches, r.running, r.enabled);
		partly += r.value && r.value < branches;
		sum += r.value;
		close(fd[i]);
	}

	/* Without a guest it may take less time than a turn. */
	TEST_ASSERT(vcpu == &no_vcpu || partly > 1,
		    "%d events had a part of the time: none took turns", partly);
	TEST_ASSERT(branches - switches * SWITCH_BRANCHES < 1000,
		    "%lu branches are not those of the code", branches);
	TEST_ASSERT(sum && sum % branches == 0,
		    "All together %lu, which isn't a multiple of %lu branches", sum, branches);
	return sum;
}

static void test_multiplexed(struct kvm_vcpu *vcpu)
{
	uint64_t without, with;
	int kind;

	without = count_multiplexed(&no_vcpu);
	pr_info("Counting by turns: %lu branches\n", without);
	for (kind = 0; kind < NR_GUESTS; kind++) {
		set_guest(vcpu, kind);
		with = count_multiplexed(vcpu);
		TEST_ASSERT(with == without,
			    "Guest %s: %lu branches by turns, %lu without the guest",
			    guest_names[kind], with, without);
	}
}

/* Records of one event; what doesn't fit into the buffer is lost, and told. */
struct buffer {
	struct perf_event_mmap_page *page;
	size_t size;
	uint64_t tail;
};

static struct buffer map_buffer(int fd, uint64_t size)
{
	struct buffer b = { .size = 64 * PAGE_SIZE };

	while (b.size < size)
		b.size *= 2;
	b.page = mmap(NULL, b.size + PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	TEST_ASSERT(b.page != MAP_FAILED, "mmap failed: %s", strerror(errno));
	return b;
}

/* NULL if there is no more */
static struct perf_event_header *next_record(struct buffer *b)
{
	struct perf_event_header *h;

	TEST_ASSERT(b->page->data_head < b->size, "The ring buffer has wrapped");
	if (b->tail >= b->page->data_head)
		return NULL;

	h = (void *)b->page + b->page->data_offset + b->tail;
	b->tail += h->size;
	return h;
}

/* There may be no other records. */
static struct perf_event_header *next_sample(struct buffer *b)
{
	struct perf_event_header *h = next_record(b);

	if (h)
		TEST_ASSERT(h->type == PERF_RECORD_SAMPLE, "Unexpected record of type %u",
			    h->type);
	return h;
}

static void unmap_buffer(struct buffer *b)
{
	munmap(b->page, b->size + PAGE_SIZE);
}

/* At most what one switch costs in the kernel, for the size of the buffer */
#define SWITCH_KERNEL_INSNS	100000
#define SAMPLE_SIZE		(sizeof(struct perf_event_header) + sizeof(uint64_t))

static uint64_t count_samples(struct kvm_vcpu *vcpu, const struct mode *mode, uint64_t *insns)
{
	struct perf_event_header *h;
	uint64_t samples = 0, kernel = 0, due;
	struct buffer b;
	uint16_t cpumode;
	int fd;

	due = mode->kernel ? SWITCH_KERNEL_INSNS : SWITCH_INSNS;
	due = due * switches / mode->period;
	fd = open_event(mode, PERF_COUNT_HW_INSTRUCTIONS, -1);
	b = map_buffer(fd, 2 * due * SAMPLE_SIZE);

	group_ioctl(fd, PERF_EVENT_IOC_ENABLE);
	switch_often(vcpu, switches);
	group_ioctl(fd, PERF_EVENT_IOC_DISABLE);
	*insns = read_running(fd);

	while ((h = next_sample(&b))) {
		cpumode = h->misc & PERF_RECORD_MISC_CPUMODE_MASK;
		/*
		 * What overflows at a SYSCALL is sampled in the kernel.  What
		 * overflows at VM entry is taken in the guest; if the guest's PMU
		 * is idle, nothing stops the host's counters before.
		 */
		TEST_ASSERT(cpumode == PERF_RECORD_MISC_USER ||
			    cpumode == PERF_RECORD_MISC_KERNEL ||
			    (cpumode == PERF_RECORD_MISC_GUEST_KERNEL && guest_kind == GUEST_IDLE),
			    "A sample of mode %u", cpumode);
		kernel += cpumode == PERF_RECORD_MISC_KERNEL;
		samples++;
	}
	TEST_ASSERT(!mode->kernel || kernel > samples / 2, "%lu of %lu samples are of the kernel",
		    kernel, samples);

	unmap_buffer(&b);
	close(fd);
	return samples;
}

static const struct mode sampling[] = {
	{ "of the task", .period = 10007 },
	{ "of the task, often", .period = 211 },
	{ "of the task, pinned", .period = 997, .pinned = true },
	{ "of the task, the kernel too", .period = 2003, .kernel = true },
	{ "of the CPU, the kernel too", .period = 2003, .kernel = true, .of = OF_CPU },
};

static void test_sampling(struct kvm_vcpu *vcpu, const struct mode *mode)
{
	uint64_t samples, insns;
	int kind;

	for (kind = 0; kind < NR_GUESTS; kind++) {
		set_guest(vcpu, kind);
		samples = count_samples(vcpu, mode, &insns);
		pr_info("Sampling %s, guest %s: %lu samples\n", mode->name, guest_names[kind],
			samples);
		TEST_ASSERT(samples && samples == insns / mode->period,
			    "Guest %s, sampling %s: %lu samples of %lu", guest_names[kind],
			    mode->name, samples, insns / mode->period);
	}
}

#define MAX_RATE "/proc/sys/kernel/perf_event_max_sample_rate"

/* Samples come faster than they may; an exchange must not start the event again. */
static void test_throttled(struct kvm_vcpu *vcpu)
{
	const struct mode mode = { .period = 31 };
	bool throttled = false, last = false;
	uint64_t samples = 0, times = 0, insns;
	struct perf_event_header *h;
	struct buffer b;
	int fd, rate = read_number(MAX_RATE);

	/* As many are allowed in a tick as are due in a second, divided by HZ. */
	write_number(MAX_RATE, 1000);
	set_guest(vcpu, GUEST_PMI);
	fd = open_event(&mode, PERF_COUNT_HW_INSTRUCTIONS, -1);
	/* With a throttling and its end for each sample there would be room still. */
	b = map_buffer(fd, switches * (SWITCH_INSNS / mode.period + 1) * 80);
	group_ioctl(fd, PERF_EVENT_IOC_ENABLE);
	switch_often(vcpu, switches);
	group_ioctl(fd, PERF_EVENT_IOC_DISABLE);
	insns = read_all(fd).value;

	while ((h = next_record(&b))) {
		switch (h->type) {
		case PERF_RECORD_THROTTLE:
			throttled = true;
			last = true;
			times++;
			break;
		case PERF_RECORD_UNTHROTTLE:
			throttled = false;
			break;
		case PERF_RECORD_SAMPLE:
			/* Perf writes the one that was too many after saying so. */
			TEST_ASSERT(!throttled || last, "A sample while throttled");
			last = false;
			samples++;
			break;
		default:
			TEST_FAIL("Unexpected record of type %u", h->type);
		}
	}
	pr_info("Throttled %lu times, %lu samples, %lu instructions\n", times, samples, insns);
	TEST_ASSERT(times > 1, "Throttled %lu times only", times);
	/* None of the guest's, which is in the same counter while it is throttled. */
	TEST_ASSERT(insns / mode.period == samples, "%lu samples of %lu instructions", samples,
		    insns);

	unmap_buffer(&b);
	close(fd);
	write_number(MAX_RATE, rate);
}

#define TRACEPOINTS "/sys/kernel/tracing/events/kvm"

/* Exists if the kernel has CONFIG_BPF_SYSCALL */
#define BPF_SYSCTL "/proc/sys/kernel/unprivileged_bpf_disabled"

static int tracepoint_id(const char *name)
{
	char path[128], id[16] = {};
	int fd;

	snprintf(path, sizeof(path), TRACEPOINTS "/%s/id", name);
	fd = open(path, O_RDONLY);
	TEST_ASSERT(fd >= 0, "Can't open %s: %s", path, strerror(errno));
	TEST_ASSERT(read(fd, id, sizeof(id) - 1) > 0, "Can't read %s", path);
	close(fd);
	return atoi(id);
}

/* With one more number, which is how often the tracepoint was hit */
struct group_sample {
	struct perf_event_header header;
	uint64_t nr;
	uint64_t hits;
	uint64_t insns;
	uint64_t branches;
};

/* What a BPF program reads at the same time; how many of them, in the first one */
struct bpf_reading {
	struct bpf_perf_event_value insns;
	struct bpf_perf_event_value branches;
};

/* How long the event was enabled, but not active, in nanoseconds */
static long long waited(const struct bpf_perf_event_value *value)
{
	return value->enabled - value->running;
}

static int bpf(enum bpf_cmd cmd, union bpf_attr *attr)
{
	return syscall(__NR_bpf, cmd, attr, sizeof(*attr));
}

static int create_map(uint32_t type, uint32_t value_size, uint32_t entries)
{
	union bpf_attr attr = {
		.map_type = type,
		.key_size = sizeof(uint32_t),
		.value_size = value_size,
		.max_entries = entries,
	};
	int fd = bpf(BPF_MAP_CREATE, &attr);

	TEST_ASSERT(fd >= 0, "BPF_MAP_CREATE failed: %s", strerror(errno));
	return fd;
}

static void access_map(enum bpf_cmd cmd, int map, uint32_t key, void *value)
{
	union bpf_attr attr = {
		.map_fd = map,
		.key = (uintptr_t)&key,
		.value = (uintptr_t)value,
	};

	TEST_ASSERT(!bpf(cmd, &attr), "bpf() failed: %s", strerror(errno));
}

/* Reads both events into the next element of @readings. */
static int load_bpf_program(int events, int readings)
{
	struct bpf_insn insns[] = {
		BPF_ST_MEM(BPF_W, BPF_REG_10, -4, 0),
		BPF_LD_MAP_FD(BPF_REG_1, readings),
		BPF_MOV64_REG(BPF_REG_2, BPF_REG_10),
		BPF_ALU64_IMM(BPF_ADD, BPF_REG_2, -4),
		BPF_EMIT_CALL(BPF_FUNC_map_lookup_elem),
		BPF_JMP_IMM(BPF_JEQ, BPF_REG_0, 0, 24),

		BPF_LDX_MEM(BPF_DW, BPF_REG_6, BPF_REG_0, 0),
		BPF_ALU64_IMM(BPF_ADD, BPF_REG_6, 1),
		BPF_STX_MEM(BPF_DW, BPF_REG_0, BPF_REG_6, 0),
		BPF_STX_MEM(BPF_W, BPF_REG_10, BPF_REG_6, -4),
		BPF_LD_MAP_FD(BPF_REG_1, readings),
		BPF_MOV64_REG(BPF_REG_2, BPF_REG_10),
		BPF_ALU64_IMM(BPF_ADD, BPF_REG_2, -4),
		BPF_EMIT_CALL(BPF_FUNC_map_lookup_elem),
		BPF_JMP_IMM(BPF_JEQ, BPF_REG_0, 0, 14),

		BPF_MOV64_REG(BPF_REG_7, BPF_REG_0),
		BPF_LD_MAP_FD(BPF_REG_1, events),
		BPF_MOV64_IMM(BPF_REG_2, 0),
		BPF_MOV64_REG(BPF_REG_3, BPF_REG_7),
		BPF_MOV64_IMM(BPF_REG_4, sizeof(struct bpf_perf_event_value)),
		BPF_EMIT_CALL(BPF_FUNC_perf_event_read_value),
		BPF_LD_MAP_FD(BPF_REG_1, events),
		BPF_MOV64_IMM(BPF_REG_2, 1),
		BPF_MOV64_REG(BPF_REG_3, BPF_REG_7),
		BPF_ALU64_IMM(BPF_ADD, BPF_REG_3, offsetof(struct bpf_reading, branches)),
		BPF_MOV64_IMM(BPF_REG_4, sizeof(struct bpf_perf_event_value)),
		BPF_EMIT_CALL(BPF_FUNC_perf_event_read_value),

		/* Take the sample, too. */
		BPF_MOV64_IMM(BPF_REG_0, 1),
		BPF_EXIT_INSN(),
	};
	union bpf_attr attr = {
		.prog_type = BPF_PROG_TYPE_TRACEPOINT,
		.insns = (uintptr_t)insns,
		.insn_cnt = ARRAY_SIZE(insns),
		.license = (uintptr_t)"GPL",
	};
	int fd = bpf(BPF_PROG_LOAD, &attr);

	TEST_ASSERT(fd >= 0, "BPF_PROG_LOAD failed: %s", strerror(errno));
	return fd;
}

/*
 * Tracepoints that are hit after the guest's PMU was loaded, and before it is
 * saved, read counters of the host that are not in the hardware.
 */
static void test_tracepoint(struct kvm_vcpu *vcpu, const char *name)
{
	const struct mode of_task = {};
	struct perf_event_attr attr = {
		.type = PERF_TYPE_TRACEPOINT,
		.size = sizeof(attr),
		.disabled = 1,
		.sample_period = 1,
		.sample_type = PERF_SAMPLE_READ,
		.read_format = PERF_FORMAT_GROUP,
		.wakeup_events = 1 << 30,
	};
	int kind, fd, insns, branches, events, readings, program;
	struct group_sample *s, last = {};
	struct bpf_reading r, first = {};
	uint64_t turns, samples;
	struct buffer b;

	attr.config = tracepoint_id(name);
	events = create_map(BPF_MAP_TYPE_PERF_EVENT_ARRAY, sizeof(int), 2);

	for (kind = 0; kind < NR_GUESTS; kind++) {
		set_guest(vcpu, kind);
		fd = open_attr(&attr, OF_TASK, -1);
		insns = open_event(&of_task, PERF_COUNT_HW_INSTRUCTIONS, fd);
		branches = open_event(&of_task, PERF_COUNT_HW_BRANCH_INSTRUCTIONS, fd);
		/* A turn in which the guest takes PMIs has more than four. */
		b = map_buffer(fd, 8 * switches * sizeof(*s));

		access_map(BPF_MAP_UPDATE_ELEM, events, 0, &insns);
		access_map(BPF_MAP_UPDATE_ELEM, events, 1, &branches);
		readings = create_map(BPF_MAP_TYPE_ARRAY, sizeof(r), 1 + b.size / sizeof(*s));
		program = load_bpf_program(events, readings);
		TEST_ASSERT(!ioctl(fd, PERF_EVENT_IOC_SET_BPF, program),
			    "PERF_EVENT_IOC_SET_BPF failed: %s", strerror(errno));

		group_ioctl(fd, PERF_EVENT_IOC_ENABLE);
		switch_often(vcpu, switches);
		group_ioctl(fd, PERF_EVENT_IOC_DISABLE);

		turns = 0;
		samples = 0;
		while ((s = (void *)next_sample(&b))) {
			TEST_ASSERT(s->header.size == sizeof(*s) && s->nr == 3,
				    "A sample of %u bytes, of %lu events", s->header.size, s->nr);

			access_map(BPF_MAP_LOOKUP_ELEM, readings, ++samples, &r);
			TEST_ASSERT(r.insns.counter == s->insns &&
				    r.branches.counter == s->branches,
				    "Guest %s: BPF read %llu and %llu, %s read %lu and %lu",
				    guest_names[kind], r.insns.counter, r.branches.counter,
				    name, s->insns, s->branches);
			if (!turns) {
				first = r;
				/* How far the first one is from the start doesn't matter. */
				TEST_ASSERT(s->insns < 1000 && s->branches < 1000,
					    "Guest %s: the first %s has %lu instructions, %lu branches",
					    guest_names[kind], name, s->insns, s->branches);
			} else {
				/* Active since the first one, whoever has the hardware */
				TEST_ASSERT(waited(&r.insns) == waited(&first.insns) &&
					    waited(&r.branches) == waited(&first.branches),
					    "Guest %s: BPF read that events waited for %lld and %lld ns",
					    guest_names[kind],
					    waited(&r.insns) - waited(&first.insns),
					    waited(&r.branches) - waited(&first.branches));
				if (s->insns == last.insns && s->branches == last.branches)
					continue;
				TEST_ASSERT(s->insns - last.insns == SWITCH_INSNS &&
					    s->branches - last.branches == SWITCH_BRANCHES,
					    "Guest %s: from %s to the next %ld instructions, %ld branches",
					    guest_names[kind], name, s->insns - last.insns,
					    s->branches - last.branches);
			}
			turns++;
			last = *s;
		}
		pr_info("%s, guest %s: %lu, at %lu instructions\n", name, guest_names[kind],
			last.hits, last.insns);
		TEST_ASSERT(turns == switches, "Guest %s: %lu turns with %s", guest_names[kind],
			    turns, name);
		access_map(BPF_MAP_LOOKUP_ELEM, readings, 0, &r);
		TEST_ASSERT(r.insns.counter == samples, "BPF ran %llu times, %s came %lu times",
			    r.insns.counter, name, samples);

		unmap_buffer(&b);
		close(program);
		close(readings);
		close(branches);
		close(insns);
		close(fd);
	}
	close(events);
}

/* A line of /proc/interrupts, all CPUs */
static uint64_t read_interrupts(const char *name)
{
	char line[1024], *p, *end;
	uint64_t value, sum = 0;
	bool found = false;
	FILE *f;

	f = fopen("/proc/interrupts", "r");
	TEST_ASSERT(f, "Can't open /proc/interrupts");
	while (fgets(line, sizeof(line), f)) {
		p = strstr(line, name);
		if (!p)
			continue;

		found = true;
		for (p += strlen(name);; p = end) {
			value = strtoull(p, &end, 10);
			if (p == end)
				break;
			sum += value;
		}
	}
	fclose(f);
	TEST_ASSERT(found, "/proc/interrupts has no %s", name);
	return sum;
}

static void test_pmis(struct kvm_vcpu *vcpu)
{
	uint64_t host, insns;
	uint32_t guest;

	/* The host samples at the same time. */
	set_guest(vcpu, GUEST_PMI);
	sync_global_from_guest(vcpu->vm, guest_pmis);
	guest = guest_pmis;
	host = read_interrupts("VPMI:");
	count_samples(vcpu, &sampling[0], &insns);
	host = read_interrupts("VPMI:") - host;
	sync_global_from_guest(vcpu->vm, guest_pmis);
	guest = guest_pmis - guest;

	TEST_ASSERT(guest == switches, "%u PMIs in the guest, not %u", guest, switches);
	TEST_ASSERT(host == guest, "%lu VPMIs in the host, %u PMIs in the guest", host, guest);

	/* And none when the guest has no overflow */
	set_guest(vcpu, GUEST_SHORT);
	sync_global_from_guest(vcpu->vm, guest_pmis);
	guest = guest_pmis;
	host = read_interrupts("VPMI:");
	count_samples(vcpu, &sampling[0], &insns);
	sync_global_from_guest(vcpu->vm, guest_pmis);
	TEST_ASSERT_EQ(guest_pmis, guest);
	TEST_ASSERT_EQ(read_interrupts("VPMI:"), host);
}

static struct {
	uint32_t turns;
	bool stop;
} watch;

#define SENTINEL	0x12345

/* An overflow stays in the status, a counter that doesn't count keeps its value. */
static void guest_watching(void)
{
	reset_pmu();
	write_counter(0, -100);
	select_event(0, pmu.instructions, KERNEL);
	write_counter(1, SENTINEL);
	select_event(1, pmu.instructions, USER);
	wrmsr(pmu.global_ctrl, pmu.counters);
	while (!rdmsr(pmu.global_status))
		cpu_relax();

	while (!READ_ONCE(watch.stop)) {
		GUEST_ASSERT_EQ(rdmsr(pmu.global_status), 1);
		GUEST_ASSERT_EQ(read_counter(1), SENTINEL);
		WRITE_ONCE(watch.turns, watch.turns + 1);
	}
	GUEST_DONE();
}

static void *run_watching(void *vcpu)
{
	struct ucall uc;

	pin_to_last_cpu();
	vcpu_run(vcpu);
	switch (get_ucall(vcpu, &uc)) {
	case UCALL_DONE:
		return NULL;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("Unexpected ucall %lu", uc.cmd);
	}
}

#define NR_NMIS	4

/*
 * Each other CPU gets an NMI and says where it is.  The handler of PMIs is asked
 * first: it has an event here, and what it would find in the status is the guest's.
 */
static void test_nmis(void)
{
	const struct mode of_cpu = { .of = OF_CPU };
	typeof(watch) *in_guest;
	struct kvm_vcpu *vcpu;
	pthread_t thread;
	struct kvm_vm *vm;
	uint32_t turns;
	uint64_t nmis;
	int fd, i;

	if (!cpu || access("/proc/sysrq-trigger", W_OK)) {
		pr_info("Not tested, no second CPU or no sysrq: NMIs\n");
		return;
	}

	fd = open_event(&of_cpu, PERF_COUNT_HW_INSTRUCTIONS, -1);
	group_ioctl(fd, PERF_EVENT_IOC_ENABLE);

	vm = vm_create_with_one_vcpu(&vcpu, guest_watching);
	pmu_sync(vm);
	in_guest = addr_gva2hva(vm, (vm_vaddr_t)&watch);
	pin_self_to_cpu(0);
	pthread_create(&thread, NULL, run_watching, vcpu);

	nmis = read_interrupts("NMI:");
	for (i = 0; i <= NR_NMIS; i++) {
		if (i)
			TEST_ASSERT(write_file("/proc/sysrq-trigger", "l"), "sysrq failed");
		/* One complete turn since then */
		turns = READ_ONCE(in_guest->turns);
		while (READ_ONCE(in_guest->turns) - turns < 2)
			usleep(1000);
	}
	nmis = read_interrupts("NMI:") - nmis;
	TEST_ASSERT(nmis >= NR_NMIS, "%lu NMIs, not %u", nmis, NR_NMIS);
	pr_info("%lu NMIs while a guest counts\n", nmis);

	WRITE_ONCE(in_guest->stop, true);
	pthread_join(thread, NULL);
	kvm_vm_free(vm);
	close(fd);
	pin_self_to_cpu(cpu);
}

#define CPU_TIME "/proc/sys/kernel/perf_cpu_time_max_percent"

/* A cgroup of this task's own, if this system has cgroup v2 */
static void enter_cgroup(void)
{
	if (mkdir(CGROUP, 0755) && errno != EEXIST)
		return;

	if (!write_file(CGROUP "/cgroup.procs", "0")) {
		rmdir(CGROUP);
		return;
	}
	cgroup = open(CGROUP, O_RDONLY);
}

static void leave_cgroup(void)
{
	if (cgroup < 0)
		return;

	close(cgroup);
	write_file(CGROUP "/../cgroup.procs", "0");
	rmdir(CGROUP);
}

static void help(const char *name, int status)
{
	printf("usage: %s [-s switches]\n"
	       " -s: how often the PMU is exchanged in each measurement (default: %d)\n",
	       name, switches);
	exit(status);
}

int main(int argc, char *argv[])
{
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int i, limit, opt;

	while ((opt = getopt(argc, argv, "hs:")) != -1) {
		if (opt == 's')
			switches = atoi_positive("Number of switches", optarg);
		else
			help(argv[0], opt == 'h' ? KSFT_PASS : KSFT_FAIL);
	}

	pmu_require_mediated();
	TEST_REQUIRE(!getuid());
	__TEST_REQUIRE(!access(TRACEPOINTS, R_OK), "There are no tracepoints of KVM");
	__TEST_REQUIRE(!access(BPF_SYSCTL, F_OK), "The kernel has no BPF");

	cpu = pin_to_last_cpu();
	/* Or perf takes fewer samples if they take long. */
	limit = read_number(CPU_TIME);
	write_number(CPU_TIME, 0);
	enter_cgroup();

	vm = vm_create_with_one_vcpu(&vcpu, guest_code);
	pmu_sync(vm);
	vm_install_exception_handler(vm, PMI_VECTOR, handle_pmi);
	vcpu_run(vcpu);

	for (i = 0; i < ARRAY_SIZE(counting); i++)
		test_counting(vcpu, &counting[i]);
	test_multiplexed(vcpu);
	for (i = 0; i < ARRAY_SIZE(sampling); i++)
		test_sampling(vcpu, &sampling[i]);
	test_tracepoint(vcpu, "kvm_entry");
	test_tracepoint(vcpu, "kvm_exit");
	test_pmis(vcpu);
	test_nmis();
	/* With 0 there is no rate to be throttled at. */
	write_number(CPU_TIME, 25);
	test_throttled(vcpu);
	write_number(CPU_TIME, limit);

	kvm_vm_free(vm);
	leave_cgroup();
	return 0;
}
