#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# perf stat of a program of which every instruction and branch is known
# (lab/prog/workload.S) is exact, in the host as in a guest.  The numbers are
# the loop's and those of the few instructions outside of it.

# shellcheck source=lab/tests/lib.sh
. "${0%/*}/lib.sh"

equal "instructions:u, one million" "$(count instructions:u workload 1)" 1000019
equal "instructions:u, three million" "$(count instructions:u workload 3)" 3000019
equal "instructions:u, ten million" "$(count instructions:u workload 10)" 10000026
equal "branches:u, one million" "$(count branches:u workload 1)" 100004
equal "the same again" "$(count instructions:u workload 1)" 1000019

# Several counters at once, as many as every profile has
events=instructions:u,branches:u,instructions:u,branches:u
perf stat -x, -e "{$events}" -o /tmp/stat workload 1
equal "four in a group" "$(sed -n 's/,.*//; /^[^#]/p' /tmp/stat | tr '\n' ' ')" \
	"1000019 100004 1000019 100004 "
finish
