#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# The module parameter reads back what is in effect.  argument: Y or N

# shellcheck source=lab/tests/lib.sh
. "${0%/*}/lib.sh"

equal kvm "$(cat /sys/module/kvm/parameters/enable_mediated_pmu)" "$1"
for vendor in kvm_intel kvm_amd; do
	file=/sys/module/$vendor/parameters/enable_mediated_pmu
	[ ! -d /sys/module/$vendor ] || equal $vendor "$(cat $file)" "$1"
done
equal mode "$(stat -c %a /sys/module/kvm/parameters/enable_mediated_pmu)" 444
finish
