#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# The next kernel finds nothing of a guest in the PMU's registers, though the
# guest was running when kexec came.  Run by the first kernel, without
# arguments, and by the next one.

# shellcheck source=lab/tests/lib.sh
. "${0%/*}/lib.sh"

case $(grep -owE 'vmx|svm' /proc/cpuinfo | head -n 1) in
vmx)	selectors=0x186 stride=1 others='0x38d 0x38e' ;;
# (its next kernel clears the status of each CPU itself)
*)	selectors=0xc0010200 stride=2 others='' ;;
esac

# msr NUMBER: its value on CPU 1, in hexadecimal; nothing if there is none
msr() {
	dd if=/dev/cpu/1/msr bs=8 count=1 iflag=skip_bytes skip=$(($1)) 2>/dev/null |
		od -A n -t x8 | tr -d ' '
}

# Those that are not 0, of as many as there are
registers() {
	found=0
	for n in 0 1 2 3 4 5 6 7; do
		value=$(msr $((selectors + n * stride)))
		[ -n "$value" ] || break
		found=$((found + 1))
		[ "$value" = 0000000000000000 ] || echo "selector$n=$value"
	done
	[ $found -ge 4 ] || echo "only $found selectors"
	for n in $others; do
		value=$(msr "$n")
		[ "$value" = 0000000000000000 ] || echo "$n=$value"
	done
}

if [ "${1-}" = next ]; then
	equal "CPUs" "$(grep -c ^processor /proc/cpuinfo)" 2
	equal "registers of CPU 1" "$(registers)" ""
	finish
fi

/selftests/mediated_pmu_storm_test -f >/tmp/log 2>&1 &
sleep 1
registers | grep -q ^selector
equal "CPU 1 has a guest's PMU" $? 0
[ $failed = 0 ] || finish

mkdir -p /tmp/next/lab
cd /tmp/next || exit 1
mkdir dev in out proc root sys tmp
echo "sh /in/kexec.sh next" >lab/command
cp /in/tests/kexec.sh /in/tests/lib.sh in
cp -a /init /bin .
rm bin/perf bin/qemu*
find . | cpio -o -H newc >/tmp/initramfs 2>/dev/null
taskset 1 lab-kexec /boot/bzImage /tmp/initramfs "$(cat /proc/cmdline)"
exit 1
