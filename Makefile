# SPDX-License-Identifier: GPL-2.0-only
#
# The few commands that this project has.  Each target does what it needs
# first, so every one of them works as the first command in a fresh clone.
#
#   BASE=6.12       the kernel that the series is put on: 6.12, 6.18, 6.19
#   KERNEL=PATH     folder, tarball or git tree of that kernel (else fetched)
#   BOCHS=PATH      folder or tarball of Bochs (else fetched)
#   DEBUG=NAME      with a kernel of its own, to which lab/config/NAME is added
#                   (lockdep, kasan)
#   FROM=BASE       for rebase: the base whose hooks to start with
#   T=NAME          for check: only this test
#   PROFILES=NAMES  for bench: the lab's CPUs (else spr)

BASE ?= 6.12
export BASE KERNEL BOCHS DEBUG FROM T

.PHONY: help deps tree refresh rebase kernel emulator demo check check-bases check-full mutate bench lab-bench bench-exits series lint clean
.NOTPARALLEL:

help:	# the default: print the targets, a line each
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

deps:	## install what is missing, through apt
	@scripts/deps

tree: deps	## make build/linux-$BASE, a git tree of the kernel with the series
	@scripts/tree

refresh:	## bring the commits of that tree back into this repository
	@scripts/refresh

rebase: deps	## bring it to a newer $KERNEL, or to a new $BASE with the hooks of $FROM
	@scripts/rebase

kernel: tree	## build that kernel, with perf and the tests
	@scripts/kernel $(DEBUG:%=--config %)

emulator: deps	## build the emulated host
	@scripts/emulator

demo: kernel emulator	## perf in a guest, emulated and mediated PMU side by side
	@lab/demo

check: kernel emulator	## run all tests that CI runs
	@lab/check

check-bases: emulator	## build the other kernels, and run the count test on them
	@scripts/check-bases

check-full: kernel emulator	## and those that take hours, a hostile guest on debug kernels, too
	@lab/check --full
	@$(MAKE) --no-print-directory check DEBUG=kasan T=hostile-long
	@$(MAKE) --no-print-directory check DEBUG=lockdep T=hostile-long

mutate: kernel emulator	## show that the tests can fail: hours
	@lab/mutate

bench: kernel emulator	## what perf in a guest costs, beside the published figures (PROFILES=)
	@lab/bench $(PROFILES)

lab-bench: kernel emulator	## how fast the emulated host is
	@lab/bench-emulator

bench-exits: kernel emulator	## what a VM exit costs: PMU accesses and modelled cycles
	@lab/bench-exits

series: tree	## write the series as mails to out/series-$BASE
	@scripts/series

lint: tree	## check style, licences, size, and that every patch and variant builds: an hour
	@scripts/lint --build

clean:	## remove what was built (the tree only if it holds no work)
	@scripts/tree --remove
	@rm -rf build out scripts/__pycache__ lab/__pycache__
