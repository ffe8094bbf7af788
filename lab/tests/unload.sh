#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# KVM can be unloaded when its last VM is gone, a guest's PMU that was parked
# with it; the host counts as before, and KVM can be loaded again.

# shellcheck source=lab/tests/lib.sh
. "${0%/*}/lib.sh"

case $(grep -owE 'vmx|svm' /proc/cpuinfo | head -n 1) in
vmx)	vendor=kvm_intel ;;
*)	vendor=kvm_amd ;;
esac
test=/selftests/mediated_pmu_storm_test

for round in 1 2 3; do
	# Its guest's PMU has state when it is killed, and is parked if it can be
	$test -f >/tmp/log 2>&1 &
	vm=$!
	sleep 1
	kill -0 $vm
	equal "round $round, a VM" $? 0

	modprobe -r $vendor 2>/tmp/log
	equal "unload while a VM exists fails" $? 1

	kill -9 $vm
	wait $vm
	modprobe -r $vendor kvm
	equal "unload" $? 0
	[ ! -d /sys/module/kvm ]
	equal "KVM is gone" $? 0

	# All CPUs count, and what counts guests is nobody's business any more
	equal "instructions:u" "$(count instructions:u workload 1)" 1000019
	perf stat -a -x, -e instructions:uGH -o /tmp/stat -- workload 1
	[ "$(sed -n 's/,.*//; /^[^#]/p' /tmp/stat)" -ge 1000019 ]
	equal "perf stat -a of guests" $? 0

	modprobe $vendor
	equal "load" $? 0
	equal enable_mediated_pmu "$(cat /sys/module/kvm/parameters/enable_mediated_pmu)" Y
done
finish
