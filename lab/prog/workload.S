/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * workload N: N million instructions, N hundred thousand branches, exactly.
 *
 * What perf is asked to count in the tests and in the demo.  The loop lies
 * between two marks named "loop", so that the emulator's own counts of it can
 * be read from its statistics.  No libc: all that the program executes is
 * here.  Outside of the loop these are 12 instructions, the marks and the system
 * call included, and 7 more for each digit of N.
 */

/* lab-mark.c tells what this is */
#define LAB_MARK	.byte 0x0f, 0x1f, 0x80, 0x4c, 0x41, 0x42, 0x31

	/* Not in .rodata: its page would not be there yet when the emulator looks */
name:	.asciz	"loop"

	.globl	_start
_start:
	/* argv[1]: decimal, into %ecx */
	mov	16(%rsp), %rsi
	xor	%ecx, %ecx
1:	movzbl	(%rsi), %eax
	test	%eax, %eax
	jz	2f
	imul	$10, %ecx, %ecx
	lea	-'0'(%rcx, %rax), %ecx
	inc	%rsi
	jmp	1b

2:	imul	$100000, %ecx, %ecx
	lea	name(%rip), %rdi
	LAB_MARK

	.globl	loop
	.type	loop, @function
loop:
	.rept	8
	add	$1, %rax
	.endr
	dec	%ecx
	jnz	loop
	.size	loop, . - loop

	LAB_MARK
	mov	$60, %eax
	xor	%edi, %edi
	syscall
