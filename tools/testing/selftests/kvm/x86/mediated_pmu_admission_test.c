// SPDX-License-Identifier: GPL-2.0-only
/*
 * VMs with a mediated PMU and perf events that count guests exclude each other.
 *
 *  - While an event exists that can count any guest, i.e. one of a CPU, of the
 *    core's PMU, without exclude_guest, KVM_CREATE_VCPU fails with EBUSY.
 *  - While a VM exists, i.e. until the last of its file descriptors is closed, such
 *    an event can't be opened: EOPNOTSUPP.
 *  - Other events neither block a VM nor are blocked: of a CPU with exclude_guest,
 *    of a task that runs no vCPU, of other PMUs; opened by root or by
 *    an unprivileged user.
 *  - A VM without a PMU, be it by KVM_PMU_CAP_DISABLE or for want of a local APIC in
 *    the kernel, takes no part in this; and has no PMU.
 *  - Each event of a group stands for itself.
 *  - While a task has an event that can count guests, its own or an inherited one,
 *    KVM_RUN fails with EBUSY; and works when the event is gone.  Once KVM_RUN has
 *    worked no such event can be opened on that task, by itself or by others:
 *    EOPNOTSUPP.  Its children are free to have some.
 *  - Of an event and a VM, or of an event and a task's first KVM_RUN, that come at
 *    the same time, never both succeed.
 *  - The kernel's log names the event that is in the way, at a limited rate.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "mediated_pmu.h"
#include "mediated_pmu_event.h"

#define NOBODY	65534

struct event {
	const char *name;
	uint32_t type;
	uint64_t config;
	/* Of CPU 0, or of this task */
	bool of_task;
	bool exclude_guest;
	bool exclude_host;
	bool exclude_user;
	bool exclude_kernel;
	bool disabled;
	bool pinned;
	bool inherit;
	uint64_t period;

	bool counts_guests;
};

#define INSTRUCTIONS	PERF_COUNT_HW_INSTRUCTIONS
#define CYCLES		PERF_COUNT_HW_CPU_CYCLES

/* Without a type: PERF_TYPE_HARDWARE */
static const struct event events[] = {
	{ "instructions", .config = INSTRUCTIONS, .counts_guests = true },
	{ "cycles", .config = CYCLES, .counts_guests = true },
	{ "a raw event", .type = PERF_TYPE_RAW, .config = 0xc0, .counts_guests = true },
	{ "an event that is off", .config = INSTRUCTIONS,
	  .disabled = true, .counts_guests = true },
	{ "a pinned event", .config = INSTRUCTIONS,
	  .pinned = true, .counts_guests = true },
	{ "a sampling event", .config = INSTRUCTIONS,
	  .period = 1000000000, .counts_guests = true },
	{ "kernel mode", .config = INSTRUCTIONS,
	  .exclude_user = true, .counts_guests = true },
	{ "user mode", .config = INSTRUCTIONS,
	  .exclude_kernel = true, .counts_guests = true },
	{ "guests only", .config = INSTRUCTIONS,
	  .exclude_host = true, .counts_guests = true },

	{ "the host only", .config = INSTRUCTIONS, .exclude_guest = true },
	{ "the host only, raw", .type = PERF_TYPE_RAW, .config = 0xc0,
	  .exclude_guest = true },
	{ "the host only, sampling", .config = CYCLES,
	  .exclude_guest = true, .period = 1000000000 },
	{ "of a task", .config = INSTRUCTIONS, .of_task = true },
	{ "of a task, user mode", .config = INSTRUCTIONS,
	  .of_task = true, .exclude_kernel = true },
	{ "of a task and its children", .config = INSTRUCTIONS,
	  .of_task = true, .inherit = true },
	{ "of a task, the host only", .config = INSTRUCTIONS,
	  .of_task = true, .exclude_guest = true },
	{ "software", .type = PERF_TYPE_SOFTWARE, .config = PERF_COUNT_SW_CPU_CLOCK },
	{ "software, of a task", .type = PERF_TYPE_SOFTWARE,
	  .config = PERF_COUNT_SW_CONTEXT_SWITCHES, .of_task = true },
};

static int open_event_at(const struct event *e, pid_t pid, int cpu, int group)
{
	struct perf_event_attr attr = {
		.type = e->type,
		.config = e->config,
		.size = sizeof(attr),
		.sample_period = e->period,
		.exclude_guest = e->exclude_guest,
		.exclude_host = e->exclude_host,
		.exclude_user = e->exclude_user,
		.exclude_kernel = e->exclude_kernel,
		.disabled = e->disabled,
		.pinned = e->pinned,
		.inherit = e->inherit,
	};

	return syscall(__NR_perf_event_open, &attr, pid, cpu, group, 0);
}

static int open_event(const struct event *e)
{
	return open_event_at(e, e->of_task ? 0 : -1, e->of_task ? -1 : 0, -1);
}

/* For what must work, whatever else is there */
static int open_event_or_fail(const struct event *e, const char *when)
{
	int fd = open_event(e);

	TEST_ASSERT(fd >= 0, "%s, %s: perf_event_open failed: %s", e->name, when,
		    strerror(errno));
	return fd;
}

static void close_fd(int fd)
{
	TEST_ASSERT(!close(fd), "close failed: %s", strerror(errno));
}

static struct kvm_vm *create_vm(void)
{
	struct kvm_vm *vm = vm_create_barebones();

	vm_create_irqchip(vm);
	return vm;
}

static int create_vcpu(struct kvm_vm *vm, uint32_t id)
{
	return __vm_ioctl(vm, KVM_CREATE_VCPU, (void *)(unsigned long)id);
}

static int create_vcpu_or_fail(struct kvm_vm *vm, uint32_t id, const char *when)
{
	int fd = create_vcpu(vm, id);

	TEST_ASSERT(fd >= 0, "%s: KVM_CREATE_VCPU failed: %s", when, strerror(errno));
	return fd;
}

static void assert_vcpu_busy(struct kvm_vm *vm, const char *when)
{
	int fd = create_vcpu(vm, 0);

	TEST_ASSERT(fd < 0, "%s: KVM_CREATE_VCPU succeeded", when);
	TEST_ASSERT(errno == EBUSY, "%s: KVM_CREATE_VCPU wants EBUSY, failed with %s", when,
		    strerror(errno));
}

static void assert_event_refused(const struct event *e, const char *when)
{
	int fd = open_event(e);

	TEST_ASSERT(fd < 0, "%s, %s: perf_event_open succeeded", e->name, when);
	TEST_ASSERT(errno == EOPNOTSUPP, "%s, %s: perf_event_open wants EOPNOTSUPP, failed with %s",
		    e->name, when, strerror(errno));
}

static void test_event_then_vm(const struct event *e)
{
	struct kvm_vm *vm = create_vm();
	int event, other, vcpu;

	event = open_event_or_fail(e, "no VM exists");

	if (e->counts_guests) {
		assert_vcpu_busy(vm, e->name);

		/* Each of them blocks, not only the first. */
		other = open_event_or_fail(e, "one exists");
		close_fd(event);
		assert_vcpu_busy(vm, e->name);

		/* None of the failures is left over. */
		close_fd(other);
		vcpu = create_vcpu_or_fail(vm, 0, "after the event was closed");
	} else {
		vcpu = create_vcpu_or_fail(vm, 0, e->name);
		close_fd(event);
	}

	close_fd(vcpu);
	kvm_vm_free(vm);

	/* Nor of the VM. */
	close_fd(open_event_or_fail(e, "the VM is gone"));
}

static void test_vm_then_event(const struct event *e)
{
	struct kvm_vm *vm = create_vm(), *other = create_vm();
	int vcpu, second, other_vcpu, event;

	/* A VM alone doesn't, it may turn out to have no PMU. */
	close_fd(open_event_or_fail(e, "no vCPU exists"));

	vcpu = create_vcpu_or_fail(vm, 0, "the first vCPU");

	if (!e->counts_guests) {
		event = open_event_or_fail(e, "a VM exists");
		second = create_vcpu_or_fail(vm, 1, e->name);
		other_vcpu = create_vcpu_or_fail(other, 0, e->name);
		close_fd(event);

		close_fd(other_vcpu);
		close_fd(second);
		close_fd(vcpu);
		kvm_vm_free(other);
		kvm_vm_free(vm);
		return;
	}

	assert_event_refused(e, "a VM exists");

	/* More vCPUs, or one that can't be created, make no difference. */
	second = create_vcpu_or_fail(vm, 1, "a second vCPU");
	TEST_ASSERT(create_vcpu(vm, 1) < 0 && errno == EEXIST, "vCPU 1 was created twice");
	assert_event_refused(e, "two vCPUs exist");

	other_vcpu = create_vcpu_or_fail(other, 0, "another VM");
	close_fd(second);
	close_fd(vcpu);
	assert_event_refused(e, "the VM exists, its vCPUs' files are closed");
	kvm_vm_free(vm);
	assert_event_refused(e, "one of two VMs exists");

	/* A vCPU keeps its VM. */
	kvm_vm_free(other);
	assert_event_refused(e, "a vCPU exists");
	close_fd(other_vcpu);

	close_fd(open_event_or_fail(e, "both VMs are gone"));
}

/* A VM is free to have no PMU, and then doesn't care. */
static void guest_without_pmu(void)
{
	uint64_t value;

	GUEST_ASSERT_EQ(rdpmc_safe(0, &value), GP_VECTOR);
	GUEST_ASSERT_EQ(rdpmc_safe(INTEL_RDPMC_FIXED, &value), GP_VECTOR);
	GUEST_ASSERT_EQ(rdmsr_safe(pmu.global_ctrl, &value), GP_VECTOR);
	GUEST_ASSERT_EQ(wrmsr_safe(pmu.global_ctrl, 1), GP_VECTOR);
	if (pmu.fixed_ctrl)
		GUEST_ASSERT_EQ(rdmsr_safe(pmu.fixed_ctrl, &value), GP_VECTOR);
	GUEST_ASSERT_EQ(rdmsr_safe(counter_msr(2), &value), GP_VECTOR);
	GUEST_ASSERT_EQ(rdmsr_safe(eventsel_msr(2), &value), GP_VECTOR);
	GUEST_DONE();
}

static void test_vm_without_pmu(bool disabled)
{
	const struct event *e = &events[0];
	const char *when = disabled ? "with KVM_PMU_CAP_DISABLE" : "without a local APIC";
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int event, fd;

	/* An event first */
	event = open_event_or_fail(e, when);
	vm = disabled ? create_vm() : vm_create_barebones();
	if (disabled)
		vm_enable_cap(vm, KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE);
	fd = create_vcpu_or_fail(vm, 0, when);
	close_fd(event);

	/* And the VM first */
	close_fd(open_event_or_fail(e, when));
	close_fd(fd);
	kvm_vm_free(vm);

	if (!disabled)
		return;

	event = open_event_or_fail(e, when);
	vm = vm_create(1);
	vm_enable_cap(vm, KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE);
	vcpu = vm_vcpu_add(vm, 0, guest_without_pmu);
	pmu_sync(vm);
	run_vcpu(vcpu);
	close_fd(event);
	kvm_vm_free(vm);
}

#define PARANOID "/proc/sys/kernel/perf_event_paranoid"

static int set_paranoid(int value)
{
	char buf[16] = {};
	int fd, old;

	fd = open(PARANOID, O_RDWR);
	TEST_ASSERT(fd >= 0 && read(fd, buf, sizeof(buf) - 1) > 0, "Can't read " PARANOID);
	old = atoi(buf);
	TEST_ASSERT(!lseek(fd, 0, SEEK_SET), "Can't seek in " PARANOID);
	snprintf(buf, sizeof(buf), "%d\n", value);
	TEST_ASSERT(write(fd, buf, strlen(buf)) > 0, "Can't write " PARANOID);
	close_fd(fd);
	return old;
}

/*
 * An unprivileged user with all the events a user may open, on its own task,
 * before and after there is a VM.
 */
static void test_unprivileged(void)
{
	const struct event mine[] = {
		{ "a user's", .config = INSTRUCTIONS, .of_task = true, .exclude_kernel = true },
		{ "a user's, inherited", .config = INSTRUCTIONS, .of_task = true,
		  .exclude_kernel = true, .inherit = true },
		{ "a user's, kernel mode too", .config = CYCLES, .of_task = true },
	};
	int old, to_child[2], to_parent[2], status, i, vcpu;
	struct kvm_vm *vm;
	pid_t pid;
	char c;

	TEST_ASSERT(!pipe(to_child) && !pipe(to_parent), "pipe failed");
	old = set_paranoid(1);

	pid = fork();
	TEST_ASSERT(pid >= 0, "fork failed");
	if (!pid) {
		TEST_ASSERT(!setgid(NOBODY) && !setuid(NOBODY), "setuid failed");

		/* What the sysctl forbids is no obstacle either. */
		TEST_ASSERT(open_event(&events[0]) < 0 && errno == EACCES,
			    "An unprivileged user opens an event of a CPU");

		for (i = 0; i < ARRAY_SIZE(mine); i++)
			open_event_or_fail(&mine[i], "no VM exists");
		TEST_ASSERT(write(to_parent[1], "1", 1) == 1 && read(to_child[0], &c, 1) == 1,
			    "The parent is gone");
		for (i = 0; i < ARRAY_SIZE(mine); i++)
			open_event_or_fail(&mine[i], "a VM exists");
		exit(0);
	}

	/* A failing child says nothing. */
	close_fd(to_parent[1]);
	if (read(to_parent[0], &c, 1) == 1) {
		vm = create_vm();
		vcpu = create_vcpu(vm, 0);
		i = errno;
		TEST_ASSERT(write(to_child[1], "1", 1) == 1, "The child is gone");
		waitpid(pid, &status, 0);
		set_paranoid(old);
		TEST_ASSERT(vcpu >= 0, "A user's events block a VM: %s", strerror(i));
		close_fd(vcpu);
		kvm_vm_free(vm);
	} else {
		waitpid(pid, &status, 0);
		set_paranoid(old);
	}
	TEST_ASSERT(!status, "The unprivileged user failed, see above");
	close_fd(to_parent[0]);
	close_fd(to_child[0]);
	close_fd(to_child[1]);
}

static const struct event cpu_event = {
	"of a CPU", .config = INSTRUCTIONS, .counts_guests = true,
};

static const struct event cpu_event_of_host = {
	"of a CPU, the host only", .config = INSTRUCTIONS, .exclude_guest = true,
};

static const struct event cpu_event_software = {
	"software", .type = PERF_TYPE_SOFTWARE, .config = PERF_COUNT_SW_CPU_CLOCK,
};

static const struct event task_event = {
	"of a task", .config = INSTRUCTIONS, .of_task = true,
};

static const struct event task_event_inherited = {
	"of a task and its children", .config = CYCLES, .of_task = true, .inherit = true,
};

static const struct event task_event_of_host = {
	"of a task, the host only", .config = INSTRUCTIONS, .of_task = true,
	.exclude_guest = true,
};

/* The leader can't count guests, but the other one does. */
static void test_group(const struct event *leader)
{
	struct kvm_vm *vm = create_vm();
	int first, second, vcpu;

	first = open_event_or_fail(leader, "alone");
	second = open_event_at(&cpu_event, -1, 0, first);
	TEST_ASSERT(second >= 0, "In a group with %s: perf_event_open failed: %s", leader->name,
		    strerror(errno));
	assert_vcpu_busy(vm, "a group");
	close_fd(second);

	vcpu = create_vcpu_or_fail(vm, 0, "the rest of a group");
	second = open_event_at(&cpu_event, -1, 0, first);
	TEST_ASSERT(second < 0 && errno == EOPNOTSUPP,
		    "In a group with %s: perf_event_open wants EOPNOTSUPP", leader->name);

	/* The group is none the worse for it. */
	second = open_event_at(&cpu_event_of_host, -1, 0, first);
	TEST_ASSERT(second >= 0, "In a group with %s: perf_event_open failed: %s", leader->name,
		    strerror(errno));
	pin_self_to_cpu(0);
	TEST_ASSERT(read_event(first) && read_event(second), "The group stands still");

	close_fd(second);
	close_fd(first);
	close_fd(vcpu);
	kvm_vm_free(vm);
}

static void guest_code(void)
{
	for (;;)
		GUEST_SYNC(0);
}

static void run_or_fail(struct kvm_vcpu *vcpu, const char *when)
{
	TEST_ASSERT(!__vcpu_run(vcpu), "%s: KVM_RUN failed: %s", when, strerror(errno));
	TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO);
}

static void assert_run_busy(struct kvm_vcpu *vcpu, const char *when)
{
	int r = __vcpu_run(vcpu);

	TEST_ASSERT(r < 0, "%s: KVM_RUN succeeded", when);
	TEST_ASSERT(errno == EBUSY, "%s: KVM_RUN wants EBUSY, failed with %s", when,
		    strerror(errno));
}

/*
 * A task that has run a vCPU is marked for good, and a VM can be run by threads
 * of its process only.  So let each test have a thread of its own.
 */
static void *thread_main(void *fn)
{
	((void (*)(void))fn)();
	return NULL;
}

static pthread_t start_thread_on(int cpu, void (*fn)(void))
{
	pthread_attr_t attr;
	pthread_t thread;
	cpu_set_t set;

	pthread_attr_init(&attr);
	if (cpu >= 0) {
		CPU_ZERO(&set);
		CPU_SET(cpu, &set);
		pthread_attr_setaffinity_np(&attr, sizeof(set), &set);
	}
	TEST_ASSERT(!pthread_create(&thread, &attr, thread_main, fn), "pthread_create failed");
	pthread_attr_destroy(&attr);
	return thread;
}

static pthread_t start_thread(void (*fn)(void))
{
	return start_thread_on(-1, fn);
}

static void in_thread(void (*fn)(void))
{
	TEST_ASSERT(!pthread_join(start_thread(fn), NULL), "pthread_join failed");
}

/* The VM of the tests with threads */
static struct kvm_vcpu *the_vcpu;

static void open_on_itself(void)
{
	close_fd(open_event_or_fail(&task_event, "a new task"));
	close_fd(open_event_or_fail(&task_event_inherited, "a new task"));
}

static void assert_task_event_refused(pid_t pid, const char *when)
{
	int fd = open_event_at(&task_event, pid, -1, -1);

	TEST_ASSERT(fd < 0 && errno == EOPNOTSUPP,
		    "%s: perf_event_open on the vCPU's task wants EOPNOTSUPP, returned %d, %s",
		    when, fd, strerror(errno));
}

static pid_t vcpu_tid;

static void open_on_vcpu_task(void)
{
	assert_task_event_refused(vcpu_tid, "From another task");
	close_fd(open_event_at(&task_event_of_host, vcpu_tid, -1, -1));
}

static void vcpu_task(void)
{
	const struct event *events_of_task[] = { &task_event, &task_event_inherited };
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm;
	int i, fd, other, host, status;
	pid_t pid;

	/* A VM is as blocked by one as by two. */
	for (i = 0; i < ARRAY_SIZE(events_of_task); i++) {
		fd = open_event_or_fail(events_of_task[i], "no VM exists");
		vm = vm_create_with_one_vcpu(&vcpu, guest_code);
		assert_run_busy(vcpu, events_of_task[i]->name);
		other = open_event_or_fail(events_of_task[i], "a VM exists");
		close_fd(fd);
		assert_run_busy(vcpu, events_of_task[i]->name);
		close_fd(other);
		if (i < ARRAY_SIZE(events_of_task) - 1)
			kvm_vm_free(vm);
	}

	/* A failure doesn't mark the task. */
	open_on_itself();

	host = open_event_or_fail(&task_event_of_host, "a VM exists");
	run_or_fail(vcpu, "The events are closed");
	TEST_ASSERT(read_event(host), "The event of the host stands still");
	close_fd(host);

	vcpu_tid = gettid();
	assert_task_event_refused(0, "After KVM_RUN");
	assert_task_event_refused(gettid(), "After KVM_RUN");
	in_thread(open_on_vcpu_task);
	run_or_fail(vcpu, "After events were refused");

	/* Neither threads nor processes inherit the mark. */
	in_thread(open_on_itself);
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork failed");
	if (!pid) {
		open_on_itself();
		_exit(0);
	}
	TEST_ASSERT(waitpid(pid, &status, 0) == pid && !status,
		    "The child of the vCPU's task failed, see above");

	/* Until the task exits, whatever becomes of the VM */
	kvm_vm_free(vm);
	assert_task_event_refused(0, "The VM is gone");
	close_fd(open_event_or_fail(&task_event_of_host, "the VM is gone"));
}

static bool stop;

/* Steps that two threads take in turn: each waits for its own number. */
static uint32_t step;

static void wait_for_step(uint32_t n)
{
	while (__atomic_load_n(&step, __ATOMIC_SEQ_CST) < n)
		usleep(100);
}

static void next_step(void)
{
	__atomic_add_fetch(&step, 1, __ATOMIC_SEQ_CST);
}

static void run_with_inherited_event(void)
{
	assert_run_busy(the_vcpu, "With an inherited event");
	next_step();
	wait_for_step(2);
	run_or_fail(the_vcpu, "The inherited event is closed");
}

static void run_after_all(void)
{
	run_or_fail(the_vcpu, "Another task has an event");
}

static void other_tasks(void)
{
	pthread_t thread;
	int fd, status;
	uint64_t alone;
	pid_t pid;

	/* One that isn't inherited is none of the other's business. */
	fd = open_event_or_fail(&task_event, "a VM exists");
	in_thread(run_after_all);
	TEST_ASSERT(read_event(fd), "The event of another task stands still");
	close_fd(fd);

	fd = open_event_or_fail(&task_event_inherited, "a VM exists");
	step = 0;
	thread = start_thread(run_with_inherited_event);
	wait_for_step(1);
	close_fd(fd);
	next_step();
	TEST_ASSERT(!pthread_join(thread, NULL), "pthread_join failed");

	/* A task that has nothing to do with VMs, while one runs */
	fd = open_event_or_fail(&task_event_inherited, "a VM exists");
	alone = read_event(fd);
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork failed");
	if (!pid) {
		for (status = 0; status < 1000000; status++)
			asm volatile("nop");
		_exit(0);
	}
	TEST_ASSERT(waitpid(pid, &status, 0) == pid && !status, "The child failed");
	alone = read_event(fd) - alone;
	TEST_ASSERT(alone > 1000000, "An inherited event counts %lu cycles", alone);
	close_fd(fd);
}

static void test_tasks(void)
{
	struct kvm_vm *vm = vm_create_with_one_vcpu(&the_vcpu, guest_code);

	in_thread(vcpu_task);
	in_thread(other_tasks);
	kvm_vm_free(vm);
}

/*
 * perf swaps the events of two tasks instead of switching them, if they have
 * inherited the same ones.  An event that is freed because one of them exits may then be
 * the one that was opened for the other; but each has one until then.
 */
#define SWAPS	20

static int ping[2], pong[2];

static void swap_and_run(void)
{
	char c = 0;
	int i;

	pin_self_to_cpu(1);
	wait_for_step(2);
	for (i = 0; i < SWAPS; i++)
		TEST_ASSERT(write(ping[1], &c, 1) == 1 && read(pong[0], &c, 1) == 1,
			    "The other thread is gone");
	next_step();

	/* It's there, and counts this task. */
	TEST_ASSERT(read(ping[0], &c, 1) == 1, "The parent is gone");
	for (i = 0; i < 1000000; i++)
		asm volatile("nop");
	TEST_ASSERT(write(pong[1], &c, 1) == 1, "The parent is gone");

	wait_for_step(4);
	assert_run_busy(the_vcpu, "With the inherited event of a task that has exited");
	next_step();
	wait_for_step(6);
	run_or_fail(the_vcpu, "The inherited event is closed");
}

static void swap_and_exit(void)
{
	char c;
	int i;

	pin_self_to_cpu(1);
	next_step();
	for (i = 0; i < SWAPS; i++)
		TEST_ASSERT(read(ping[0], &c, 1) == 1 && write(pong[1], &c, 1) == 1,
			    "The other thread is gone");
}

static void parent_of_swappers(void)
{
	pthread_t run, exit;
	uint64_t count;
	char c = 0;
	int fd;

	pin_self_to_cpu(0);
	TEST_ASSERT(!pipe(ping) && !pipe(pong), "pipe failed");
	fd = open_event_or_fail(&task_event_inherited, "a VM exists");

	step = 0;
	run = start_thread(swap_and_run);
	exit = start_thread(swap_and_exit);
	wait_for_step(1);
	next_step();
	pthread_join(exit, NULL);
	wait_for_step(3);

	count = read_event(fd);
	TEST_ASSERT(write(ping[1], &c, 1) == 1 && read(pong[0], &c, 1) == 1,
		    "The other thread is gone");
	count = read_event(fd) - count;
	TEST_ASSERT(count > 1000000, "The inherited event counts %lu cycles", count);

	next_step();
	wait_for_step(5);
	close_fd(fd);
	next_step();
	pthread_join(run, NULL);

	close_fd(ping[0]);
	close_fd(ping[1]);
	close_fd(pong[0]);
	close_fd(pong[1]);
}

/*
 * The task that the event was opened for has exited, then its child has a child.
 * With an event that isn't inherited, perf doesn't swap theirs.
 */
static int fd_of_parent;
static pid_t parent;
static pthread_t child;

static void run_as_grandchild(void)
{
	assert_run_busy(the_vcpu, "With an event that was inherited twice");
	close_fd(fd_of_parent);
	run_or_fail(the_vcpu, "The inherited event is closed");
}

static void outlive_parent(void)
{
	int fd = open_event_or_fail(&task_event_of_host, "it excludes guests");

	wait_for_step(1);
	in_thread(run_as_grandchild);
	close_fd(fd);
}

static void parent_of_child(void)
{
	int fd = open_event_or_fail(&task_event_of_host, "it excludes guests");

	parent = syscall(SYS_gettid);
	fd_of_parent = open_event_or_fail(&task_event_inherited, "a VM exists");
	child = start_thread(outlive_parent);
	close_fd(fd);
}

static void test_inherited_from_the_dead(void)
{
	struct kvm_vm *vm = vm_create_with_one_vcpu(&the_vcpu, guest_code);
	char path[64];

	step = 0;
	in_thread(parent_of_child);
	snprintf(path, sizeof(path), "/proc/self/task/%d", parent);
	while (!access(path, F_OK))
		usleep(100);
	next_step();
	pthread_join(child, NULL);
	kvm_vm_free(vm);
}

static void test_swapped_events(void)
{
	struct kvm_vm *vm = vm_create_with_one_vcpu(&the_vcpu, guest_code);

	in_thread(parent_of_swappers);
	kvm_vm_free(vm);
}

/*
 * What is held at the same time, and for a while: whoever comes second sees the
 * other, and fails.
 */
#define NR_RACES	100
#define HOLD_TURNS	2000

static uint32_t held_events, held_vms, opened, refused;
/* Odd while a vCPU is being created */
static uint32_t creations;

static void hold(uint32_t *mine, uint32_t *others, const char *what)
{
	uint32_t n = READ_ONCE(creations);
	int i;

	__atomic_add_fetch(mine, 1, __ATOMIC_SEQ_CST);
	TEST_ASSERT(!__atomic_load_n(others, __ATOMIC_SEQ_CST),
		    "%s was admitted next to one that excludes it", what);
	for (i = 0; i < HOLD_TURNS; i++)
		cpu_relax();
	/* An event stays until the vCPU that is being created is there, or isn't. */
	while (mine == &held_events && n % 2 && READ_ONCE(creations) == n)
		cpu_relax();
	__atomic_sub_fetch(mine, 1, __ATOMIC_SEQ_CST);
}

static void open_events(void)
{
	uint32_t n;
	int fd;

	pin_self_to_cpu(1);
	for (n = 0; !READ_ONCE(stop); n++) {
		fd = open_event_at(&cpu_event, -1, n % 2, -1);
		if (fd < 0) {
			TEST_ASSERT(errno == EOPNOTSUPP, "perf_event_open failed: %s",
				    strerror(errno));
			refused++;
			continue;
		}
		hold(&held_events, &held_vms, "An event");
		close_fd(fd);
		opened++;
	}
}

static void test_races_of_cpu_events(void)
{
	uint32_t created = 0, busy = 0;
	struct kvm_vm *vm;
	pthread_t thread;
	int vcpu;

	pin_self_to_cpu(0);
	thread = start_thread(open_events);
	while (created < NR_RACES || busy < NR_RACES) {
		vm = create_vm();
		for (;;) {
			WRITE_ONCE(creations, creations + 1);
			vcpu = create_vcpu(vm, 0);
			if (vcpu >= 0)
				break;
			TEST_ASSERT(errno == EBUSY, "KVM_CREATE_VCPU failed: %s", strerror(errno));
			WRITE_ONCE(creations, creations + 1);
			busy++;
		}
		created++;
		hold(&held_vms, &held_events, "A VM");
		WRITE_ONCE(creations, creations + 1);
		close_fd(vcpu);
		kvm_vm_free(vm);
	}
	WRITE_ONCE(stop, true);
	pthread_join(thread, NULL);
	stop = false;

	pr_info("Races: %u VMs, %u busy; %u events, %u refused\n", created, busy, opened, refused);
	TEST_ASSERT(opened && refused, "%u events opened, %u refused: there was no race", opened,
		    refused);
	close_fd(open_event_or_fail(&cpu_event, "the race is over"));
}

/* A user who tries, time and again, what it isn't allowed to do: it's no obstacle. */
static void test_races_of_a_user(void)
{
	const struct event e = {
		"user mode", .config = INSTRUCTIONS, .exclude_kernel = true,
	};
	int n, old, vcpu, status;
	struct kvm_vm *vm;
	pid_t pid;

	old = set_paranoid(1);
	pid = fork();
	TEST_ASSERT(pid >= 0, "fork failed");
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pin_self_to_cpu(1);
		TEST_ASSERT(!setgid(NOBODY) && !setuid(NOBODY), "setuid failed");
		do {
			vcpu = open_event(&e);
		} while (vcpu < 0);
		TEST_FAIL("An unprivileged user opens an event of a CPU");
	}

	pin_self_to_cpu(0);
	for (n = 0; n < NR_RACES; n++) {
		vm = create_vm();
		vcpu = create_vcpu_or_fail(vm, 0, "A user tries to open events of a CPU");
		close_fd(vcpu);
		kvm_vm_free(vm);
		usleep(100);
	}
	TEST_ASSERT(!waitpid(pid, &status, WNOHANG), "The user failed, see above");
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	set_paranoid(old);
}

static uint32_t delay;
static bool has_run;

static void race_to_run(void)
{
	uint32_t i;
	int fd;

	vcpu_tid = gettid();
	pin_self_to_cpu(1);

	/* What takes long at the first time isn't part of the race. */
	fd = open_event_or_fail(&task_event, "a VM exists");
	assert_run_busy(the_vcpu, "With an event");
	close_fd(fd);

	next_step();
	while (__atomic_load_n(&step, __ATOMIC_SEQ_CST) < 2)
		;
	for (i = 0; i < delay; i++)
		asm volatile("nop");
	has_run = !__vcpu_run(the_vcpu);
	TEST_ASSERT(has_run || errno == EBUSY, "KVM_RUN failed: %s", strerror(errno));
	next_step();
	wait_for_step(4);
	/* The answer doesn't change as long as the event is there. */
	TEST_ASSERT(has_run == !__vcpu_run(the_vcpu), "KVM_RUN fails and works in turn");
}

static void test_races_of_task_events(void)
{
	struct kvm_vm *vm = vm_create_with_one_vcpu(&the_vcpu, guest_code);
	uint32_t runs = 0;
	pthread_t thread;
	int n, fd;

	pin_self_to_cpu(0);
	for (n = 0; n < NR_RACES; n++) {
		step = 0;
		/* From one side of the race to the other */
		delay = n * 50;
		thread = start_thread(race_to_run);
		wait_for_step(1);
		next_step();
		fd = open_event_at(&task_event, vcpu_tid, -1, -1);
		TEST_ASSERT(fd >= 0 || errno == EOPNOTSUPP, "perf_event_open failed: %s",
			    strerror(errno));
		wait_for_step(3);
		TEST_ASSERT(has_run == (fd < 0), "Of KVM_RUN and an event %s succeeded",
			    fd < 0 ? "none" : "both");
		runs += has_run;
		next_step();
		pthread_join(thread, NULL);
		if (fd >= 0)
			close_fd(fd);
	}
	pr_info("Races: %u of %u times the vCPU was first\n", runs, NR_RACES);
	TEST_ASSERT(runs && runs < NR_RACES, "There was no race");
	kvm_vm_free(vm);
}

#define RATE_LIMIT	10
#define RATE_SECONDS	5

static int kmsg;

/* The lines of the log that name an obstacle since the last call; the last of them. */
static int read_log(char *last, size_t size)
{
	char record[2048], *text;
	int lines = 0;
	ssize_t len;

	while ((len = read(kmsg, record, sizeof(record) - 1)) > 0) {
		record[len] = 0;
		text = strchr(record, ';');
		if (!text || !strstr(text, "mediated PMU"))
			continue;

		lines++;
		snprintf(last, size, "%s", text + 1);
	}
	TEST_ASSERT(len < 0 && errno == EAGAIN, "Can't read /dev/kmsg: %s", strerror(errno));
	return lines;
}

static void assert_logged(const char *fmt, ...)
{
	char line[2048], wanted[256];
	va_list args;
	int lines;

	va_start(args, fmt);
	vsnprintf(wanted, sizeof(wanted), fmt, args);
	va_end(args);

	lines = read_log(line, sizeof(line));
	TEST_ASSERT(lines == 1, "%d lines in the log, not one: %s", lines, wanted);
	TEST_ASSERT(strstr(line, wanted), "The log says: %s not: %s", line, wanted);
	TEST_ASSERT(strstr(line, "exclude_guest"), "The log doesn't say what to do: %s", line);
}

static void log_inherited(void)
{
	assert_run_busy(the_vcpu, "With an inherited event");
	assert_logged("(type 0, config 0x0) of task %d, opened by obstacle,", gettid());
	WRITE_ONCE(stop, true);
}

static void log_of_task(void)
{
	pthread_t thread;
	int fd;

	fd = open_event_or_fail(&task_event, "a VM exists");
	assert_run_busy(the_vcpu, "With an event");
	assert_logged("(type 0, config 0x1) of task %d, opened by obstacle,", gettid());
	close_fd(fd);

	fd = open_event_or_fail(&task_event_inherited, "a VM exists");
	pin_self_to_cpu(0);
	thread = start_thread_on(sysconf(_SC_NPROCESSORS_ONLN) - 1, log_inherited);
	/* If one of them followed the other, perf would swap their events. */
	while (!READ_ONCE(stop))
		;
	pthread_join(thread, NULL);
	stop = false;
	close_fd(fd);
}

static void test_log(void)
{
	struct event raw = { "raw", .type = PERF_TYPE_RAW, .config = 0xc0 };
	struct kvm_vm *vm = create_vm();
	char comm[16], line[2048];
	int fd, pin, i, lines;

	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	TEST_ASSERT(kmsg >= 0, "Can't open /dev/kmsg: %s", strerror(errno));
	TEST_ASSERT(!prctl(PR_GET_NAME, comm) && !prctl(PR_SET_NAME, "obstacle"),
		    "prctl failed");

	/* What earlier tests have said must not count. */
	sleep(RATE_SECONDS + 1);
	lseek(kmsg, 0, SEEK_END);

	fd = open_event_or_fail(&cpu_event, "the log");
	assert_vcpu_busy(vm, "the log");
	assert_logged("(type 0, config 0x1) of CPU 0, opened by obstacle,");
	close_fd(fd);

	/* Not the one that isn't in the way */
	pin = open_event_or_fail(&cpu_event_of_host, "the log");
	fd = open_event_at(&raw, -1, sysconf(_SC_NPROCESSORS_ONLN) - 1, -1);
	TEST_ASSERT(fd >= 0, "perf_event_open failed: %s", strerror(errno));
	assert_vcpu_busy(vm, "the log");
	assert_logged("(type 4, config 0xc0) of CPU %ld, opened by obstacle,",
		      sysconf(_SC_NPROCESSORS_ONLN) - 1);
	close_fd(fd);
	close_fd(pin);
	kvm_vm_free(vm);

	vm = vm_create_with_one_vcpu(&the_vcpu, guest_code);
	in_thread(log_of_task);
	kvm_vm_free(vm);

	/* Who can provoke it can't flood the log. */
	vm = create_vm();
	fd = open_event_or_fail(&cpu_event, "the log");
	sleep(RATE_SECONDS + 1);
	read_log(line, sizeof(line));
	for (i = 0; i < 10 * RATE_LIMIT; i++)
		assert_vcpu_busy(vm, "the log");
	lines = read_log(line, sizeof(line));
	TEST_ASSERT(lines == RATE_LIMIT, "%d lines in the log, not %u", lines, RATE_LIMIT);
	close_fd(fd);
	kvm_vm_free(vm);

	TEST_ASSERT(!prctl(PR_SET_NAME, comm), "prctl failed");
	close_fd(kmsg);
}

/* A user's events on another of its tasks; and on the vCPU's, which isn't its own. */
static void events_of_a_user(void)
{
	int to_child[2], to_parent[2], status, old;
	pid_t pid, victim;
	char c;

	TEST_ASSERT(!pipe(to_child) && !pipe(to_parent), "pipe failed");
	old = set_paranoid(1);
	vcpu_tid = gettid();

	pid = fork();
	TEST_ASSERT(pid >= 0, "fork failed");
	if (!pid) {
		close_fd(to_child[1]);
		TEST_ASSERT(!setgid(NOBODY) && !setuid(NOBODY) &&
			    !prctl(PR_SET_DUMPABLE, 1), "setuid failed");
		victim = fork();
		if (!victim) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (;;)
				pause();
		}
		for (;;) {
			TEST_ASSERT(open_event_at(&task_event, victim, -1, -1) >= 0,
				    "perf_event_open on another task failed: %s", strerror(errno));
			TEST_ASSERT(open_event_at(&task_event, vcpu_tid, -1, -1) < 0 &&
				    errno == EACCES,
				    "perf_event_open on the vCPU's task wants EACCES, failed with %s",
				    strerror(errno));
			TEST_ASSERT(write(to_parent[1], "1", 1) == 1, "The parent is gone");
			if (read(to_child[0], &c, 1) != 1)
				break;
		}
		kill(victim, SIGKILL);
		_exit(0);
	}

	close_fd(to_parent[1]);
	close_fd(to_child[0]);

	/* Before the first KVM_RUN, and between any two */
	for (status = 0; status < 3; status++) {
		TEST_ASSERT(read(to_parent[0], &c, 1) == 1, "The user failed, see above");
		run_or_fail(the_vcpu, "A user has events");
		TEST_ASSERT(write(to_child[1], "1", 1) == 1, "The user failed, see above");
	}
	TEST_ASSERT(read(to_parent[0], &c, 1) == 1, "The user failed, see above");
	close_fd(to_child[1]);
	TEST_ASSERT(waitpid(pid, &status, 0) == pid && !status, "The user failed, see above");
	set_paranoid(old);
	close_fd(to_parent[0]);
}

static void test_user_and_vcpu_task(void)
{
	struct kvm_vm *vm = vm_create_with_one_vcpu(&the_vcpu, guest_code);

	in_thread(events_of_a_user);
	kvm_vm_free(vm);
}

int main(int argc, char *argv[])
{
	int i;

	pmu_require_mediated();
	TEST_REQUIRE(!getuid());

	for (i = 0; i < ARRAY_SIZE(events); i++)
		test_event_then_vm(&events[i]);
	for (i = 0; i < ARRAY_SIZE(events); i++)
		test_vm_then_event(&events[i]);

	test_vm_without_pmu(true);
	test_vm_without_pmu(false);
	test_unprivileged();

	test_group(&cpu_event_of_host);
	test_group(&cpu_event_software);
	test_tasks();
	test_log();
	if (sysconf(_SC_NPROCESSORS_ONLN) > 1) {
		test_races_of_cpu_events();
		test_races_of_task_events();
		test_races_of_a_user();
		test_swapped_events();
		test_inherited_from_the_dead();
	} else {
		pr_info("Not tested for want of a second CPU: what comes at the same time\n");
	}
	test_user_and_vcpu_task();

	return 0;
}
