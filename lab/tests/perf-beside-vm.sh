#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# The perf tool on a host that has a VM with a mediated PMU: system-wide sessions
# work and see the host only, those of a perf that asks to count guests by
# default, too.  And while a session is there that insists on guests, a VM is
# refused, and the log says whose it is.

# shellcheck source=lab/tests/lib.sh
. "${0%/*}/lib.sh"

tests=/selftests/mediated_pmu

# succeeds WHAT COMMAND...
succeeds() {
	what=$1
	shift
	status=0
	"$@" >/tmp/log 2>&1 || status=$?
	equal "$what, exit status" $status 0
	[ $status = 0 ] || cat /tmp/log
}

# at_least WHAT NUMBER WANTED
at_least() {
	if [ "${2:-0}" -ge "$3" ]; then
		echo "ok    $1: $2"
	else
		echo "FAIL  $1: $2, wanted $3 at least"
		failed=1
	fi
}

# counted EVENT: perf stat's number in /tmp/stat; perf of 6.19 calls cycles cpu-cycles
counted() {
	sed -En "s/^([0-9]*),[^,]*,(cpu-)?$1[:uHk]*,.*/\1/p" /tmp/stat
}

# stat_all OPTION...: perf stat of all CPUs, while a million instructions run
stat_all() {
	succeeds "perf stat -a $*" perf stat -a -x, -o /tmp/stat "$@" -- workload 1
}

echo 0 >/proc/sys/kernel/perf_cpu_time_max_percent

# A guest that takes one PMI after the other, for as long as this takes
${tests}_storm_test -f >/tmp/storm 2>&1 &
vm=$!
while [ "$(awk '/VPMI:/ { print $2 + $3 }' /proc/interrupts)" = 0 ] && [ -d /proc/$vm ]; do
	sleep 0.1
done

stat_all
at_least instructions "$(counted instructions)" 1000019
at_least cycles "$(counted cycles)" 1000019
stat_all -e "{instructions,branches}"
at_least instructions "$(counted instructions)" 1000019
at_least branches "$(counted branches)" 100004
succeeds "perf record -a" perf record -a -q -c 100003 -e instructions -o /tmp/perf.data -- workload 3
at_least samples "$(samples)" 25
at_least "samples in the loop" "$(samples loop)" 20

# With --guest perf asks for all, and tries again when that is refused
succeeds "perf kvm record -a" perf kvm --host --guest record -a -q -c 100003 \
	-e instructions -o /tmp/perf.data -- workload 3
at_least "samples in the loop" "$(samples loop)" 20
perf evlist -v -i /tmp/perf.data | grep "^instructions" | grep -q "exclude_guest: 1"
equal "it excludes guests" $? 0

# Who insists is told
perf stat -a -e instructions:GH -- workload 1 >/tmp/log 2>&1
grep -Eq "not supported|No supported events" /tmp/log
equal "perf stat -a of guests is not supported" $? 0
equal "instructions:u of a task" "$(count instructions:u workload 1)" 1000019

kill -0 $vm
equal "the guest is still there" $? 0
kill $vm
wait $vm

# A session that counts guests comes first
perf stat -a -e instructions:GH -- sleep 1000 >/tmp/log 2>&1 &
session=$!
sleep 1
status=0
${tests}_count_test >/tmp/log 2>&1 || status=$?
equal "a VM beside a session that counts guests" $status 254
grep -q "Device or resource busy" /tmp/log
equal "it is busy" $? 0
# What instructions are; perf of 6.19 opens the raw event
instructions='\(type (0, config 0x1|4, config 0xc0)\)'
dmesg | grep -Eq "$instructions of CPU [01], opened by perf, counts guests"
equal "the log names perf" $? 0
kill $session
wait $session
succeeds "a VM after that" ${tests}_count_test

# A task's event, inherited by whoever runs the vCPU
perf stat -e instructions:GH -- ${tests}_count_test >/tmp/log 2>&1
grep -q "KVM_RUN failed.*Device or resource busy" /tmp/log || grep -q "errno=16" /tmp/log
equal "a VM under perf stat of guests is busy" $? 0
dmesg | grep -Eq "$instructions of task [0-9]+, opened by .*, counts guests"
equal "the log names the task" $? 0
# perf of 6.12 asks for the host alone by default, newer ones have to be told
succeeds "a VM under perf stat" perf stat -e instructions:H -- ${tests}_count_test
finish
