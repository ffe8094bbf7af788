#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# perf record takes every sample that is due, all in the loop, in the host as
# in a guest.  argument: the period; 6 million instructions are run.

# shellcheck source=lab/tests/lib.sh
. "${0%/*}/lib.sh"

period=$1
sample "$period" workload 6
equal "samples every $period" "$(samples)" $((6000019 / period))
equal "of these in the loop" "$(samples loop)" $((6000019 / period))
finish
