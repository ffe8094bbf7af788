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
 */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include <linux/perf_event.h>

#include "mediated_pmu.h"

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

static int open_event(const struct event *e)
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

	return syscall(__NR_perf_event_open, &attr, e->of_task ? 0 : -1,
		       e->of_task ? -1 : 0, -1, 0);
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

int main(int argc, char *argv[])
{
	int i;

	pmu_require_mediated();
	TEST_REQUIRE(!getuid());

	pmu_init();

	for (i = 0; i < ARRAY_SIZE(events); i++)
		test_event_then_vm(&events[i]);
	for (i = 0; i < ARRAY_SIZE(events); i++)
		test_vm_then_event(&events[i]);

	test_vm_without_pmu(true);
	test_vm_without_pmu(false);
	test_unprivileged();

	return 0;
}
