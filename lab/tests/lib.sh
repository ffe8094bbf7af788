# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
#
# For tests, on this machine and in the lab: comparing, and counting with perf.

failed=0

# equal WHAT GOT WANTED
equal() {
	if [ "$2" = "$3" ]; then
		echo "ok    $1: $2"
	else
		echo "FAIL  $1: $2, wanted $3"
		failed=1
	fi
}

# count EVENT COMMAND...: what perf stat says
count() {
	event=$1
	shift
	perf stat -x, -e "$event" -o /tmp/stat -- "$@" >/dev/null
	sed -n 's/,.*//; /^[^#]/p' /tmp/stat
}

# sample PERIOD COMMAND...: record user instructions, into /tmp/perf.data
sample() {
	period=$1
	shift
	# Nothing but a lost interrupt may cost a sample
	echo 0 >/proc/sys/kernel/perf_cpu_time_max_percent
	perf record -q -e instructions:u -c "$period" -o /tmp/perf.data -- "$@" >/dev/null
}

# samples [SYMBOL]: how many were taken, in SYMBOL
samples() {
	perf script -i /tmp/perf.data -F ip,sym 2>/dev/null | grep -c "${1:-}" || true
}

finish() {
	exit $failed
}
