#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# Runs in the emulated host: while the host has an event, each VM exit exchanges
# the PMU, and takes no lock for it. The function tracer sees all of the kernel's
# functions that are called meanwhile, those that lock included. Its buffer keeps
# the last ones, which are enough.

trace=/sys/kernel/tracing

echo 0 >$trace/tracing_on &&
	echo 2048 >$trace/buffer_size_kb &&
	echo function >$trace/current_tracer || exit 1

echo 1 >$trace/tracing_on
kvm-exits active+event
status=$?
echo 0 >$trace/tracing_on
[ $status = 0 ] || exit 1

# A line ends in "FUNCTION <-CALLER".
awk '
$NF !~ /^<-/	{ next }
{ name = $(NF - 1) }
name ~ /^__kvm_mediated_pmu_(load|put)$/			{ inside = 1 }
name ~ /^(vmx|svm)_(vcpu_run|handle_exit_irqoff)$/		{ inside = 0 }
inside && name == "perf_mediated_claim"				{ claims++ }
inside && name == "perf_mediated_yield"				{ yields++ }
name ~ /^_raw_(spin|read|write)_(try)?lock|^(mutex|rt_mutex|ww_mutex)_(try)?lock|^down_|_slowpath$/ {
	if (inside) {
		print "in an exchange: " $0
		locks++
	} else {
		others++
	}
}
END {
	printf "%d claims, %d yields, %d locks in them, %d elsewhere\n",
	       claims, yields, locks, others
	# Without locks elsewhere this could not fail.
	exit !(claims > 100 && yields > 100 && !locks && others > 100)
}' $trace/trace || {
	echo 'FAIL  an exchange takes locks, or there was none'
	exit 1
}
