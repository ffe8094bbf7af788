/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The part of the PMU's test kernel whose instructions are counted: the entry,
 * the handlers, the code that is measured, and the way into a guest.  What is
 * measured is written so that its counts can be read off the source.
 */
#define UCODE 0x2b
#define UDATA 0x23

	.code32
	.section .head, "ax"
	.globl	_start
_start:
	movl	$pml4, %eax
	movl	%eax, %cr3
	movl	$0x6a0, %eax		/* PAE, PGE, OSFXSR, OSXMMEXCPT */
	movl	%eax, %cr4
	movl	$0xc0000080, %ecx
	movl	$0x101, %eax		/* LME, SCE */
	xorl	%edx, %edx
	wrmsr
	movl	$0x80010033, %eax	/* PG, WP, NE, ET, MP, PE */
	movl	%eax, %cr0
	lgdt	gdtr
	ljmp	$8, $1f
	.code64
1:	movw	$0x10, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	xorl	%eax, %eax
	movw	%ax, %fs
	movw	%ax, %gs
	movl	$stack_top, %esp
	movl	$0x40, %eax
	ltr	%ax
	call	main
2:	hlt
	jmp	2b

	.text
/*
 * Handlers.  An unexpected exception ends the run; one at "guarded" goes on at
 * "recover", which then says that there was a fault.
 */
	.globl	handlers
handlers:
	.set	vector, 0
	.rept	32
	.balign	16
	.if	(vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21)
	.else
	pushq	$0
	.endif
	pushq	$vector
	jmp	fault
	.set	vector, vector + 1
	.endr

fault:	pushq	%rax
	movq	24(%rsp), %rax
	cmpq	guarded, %rax
	jne	1f
	movq	recover, %rax
	movq	%rax, 24(%rsp)
	popq	%rax
	addq	$16, %rsp
	iretq
1:	popq	%rax
	popq	%rdi
	popq	%rsi
	popq	%rdx
	andq	$-16, %rsp
	jmp	died

	.macro	HANDLER name
	.globl	\name
\name:
	.endm

HANDLER ud_handler			/* 2 instructions, 1 branch */
	addq	$2, (%rsp)
	iretq

HANDLER soft_handler			/* 1 instruction, 1 branch */
	iretq

HANDLER back_handler			/* of user_code's INT: 1 instruction */
	movq	%r11, %rsp
	ret

HANDLER syscall_handler			/* 0 instructions */
	ret

HANDLER nmi_handler			/* 6 instructions */
	pushq	%rax
	movq	8(%rsp), %rax
	movq	%rax, pmi_rip
	incl	pmi_count
	popq	%rax
	iretq

HANDLER pmi_handler			/* 14 instructions */
	pushq	%rax
	pushq	%rcx
	pushq	%rdx
	movq	24(%rsp), %rax
	movq	%rax, pmi_rip
	incl	pmi_count
	movl	$0x80b, %ecx		/* EOI */
	xorl	%eax, %eax
	xorl	%edx, %edx
	wrmsr
	popq	%rdx
	popq	%rcx
	popq	%rax
	iretq

/*
 * measure(function): with the counters in global_on.  6 instructions, 2
 * branches, 1 load and 1 store are counted besides the function's.
 */
	.globl	measure
measure:
	movl	global_msr, %ecx
	movl	global_on, %eax
	movl	global_on + 4, %edx
	movl	%ecx, %r8d
	wrmsr
	call	*%rdi
	movl	%r8d, %ecx
	xorl	%eax, %eax
	xorl	%edx, %edx
	.globl	measure_end
measure_end:
	wrmsr
	ret

/*
 * What is measured.  The RET of each is one of those 6 instructions.
 */
	.macro	CODE name
	.globl	\name
\name:
	.endm

CODE nothing
	ret

CODE loop100				/* 201 instructions, 100 branches */
	movl	$100, %ecx
	.globl	loop_dec, loop_jnz
loop_dec:
	decl	%ecx
loop_jnz:
	jnz	loop_dec
	ret

CODE branches				/* 11 instructions, 9 branches */
	xorl	%eax, %eax
	jz	1f
1:	jnz	2f
2:	jmp	3f
3:	call	4f
	movl	$3, %ecx
	jmp	5f
4:	ret
5:	loop	5b
	ret

CODE memory				/* 6 instructions, 4 loads, 3 stores */
	movq	buffer, %rax
	movq	buffer, %rax
	movq	buffer, %rax
	movq	%rax, buffer
	movq	%rax, buffer
	addq	$1, buffer
	ret

CODE lines				/* 5 lines, and 4 of them again */
	movl	line_address, %eax
	movb	(%rax), %cl
	movb	64(%rax), %cl
	movb	128(%rax), %cl
	movb	192(%rax), %cl
	movb	256(%rax), %cl
	movb	(%rax), %cl
	movb	64(%rax), %cl
	movb	128(%rax), %cl
	movb	192(%rax), %cl
	ret

CODE flushed				/* 3 instructions, a line that is warm */
	movl	line_address, %eax
	clflush	64(%rax)
	movb	64(%rax), %cl
	ret

CODE flushed_only			/* 2 instructions, the same line */
	movl	line_address, %eax
	clflush	64(%rax)
	ret

	.balign	64
CODE flushing_itself			/* 3 instructions in one line */
	clflush	flushing_itself
	nop
	nop
	ret
	.balign	64

CODE alternating			/* 41 instructions, 20 branches */
	movl	$10, %ecx
1:	testb	$1, %cl
	jz	2f			/* taken, not taken, ... */
2:	decl	%ecx
	jnz	1b			/* taken 9 times */
	ret

CODE smi				/* 1 instruction, and those of the BIOS's handler */
	outb	%al, $0xb2
	ret

CODE repeated				/* 3 instructions, 102 cycles */
	movl	$100, %ecx
	movl	$buffer, %edi
	rep stosb
	ret

CODE compared				/* 4 instructions, 103 cycles, 100 loads */
	movl	$100, %ecx
	movl	$buffer, %edi
	movl	$0x1234, %eax		/* not there */
	repne scasw
	ret

CODE faulting				/* 2 instructions, 3 cycles, 1 branch */
	ud2
	ret

CODE interrupting			/* 2 instructions, 2 branches */
	int	$0x81
	ret

CODE user				/* 8 instructions, 1 branch; in user mode 7, 2 */
	movq	%rsp, %r11
	pushq	$UDATA
	pushq	%r11
	pushq	$2
	pushq	$UCODE
	pushq	$1f
	iretq
1:	nop
	nop
	nop
	nop
	jmp	2f
	.globl	user_jumped
user_jumped:
2:	movl	$1, %eax
	int	$0x82

CODE user_syscall			/* 3 instructions, 1 branch; in user mode 4, 1 */
	leaq	1f(%rip), %rcx
	movl	$2, %r11d
	sysretq
1:	nop
	nop
	nop
	syscall

CODE user_rdpmc				/* RDPMC of 0 in user mode */
	movq	%rsp, %r11
	movq	$1f, guarded
	movq	$2f, recover
	pushq	$UDATA
	pushq	%r11
	pushq	$2
	pushq	$UCODE
	pushq	$3f
	iretq
3:	xorl	%ecx, %ecx
1:	rdpmc
	movl	$1, %eax
	movl	%eax, user_read
2:	int	$0x82

/*
 * The way into a guest and out: "before" is written to global control, and 0
 * after the exit.  In the host the entering instruction and the 4 after the
 * exit are counted.
 */
	.macro	SAVE
	pushq	%rbx
	pushq	%rbp
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	.endm
	.macro	BEFORE
	movl	global_msr, %ecx
	movl	before, %eax
	movl	before + 4, %edx
	wrmsr
	.endm
	.macro	AFTER
	movl	global_msr, %ecx
	xorl	%eax, %eax
	xorl	%edx, %edx
	wrmsr
	.endm
	.macro	RESTORE
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbp
	popq	%rbx
	ret
	.endm

	.globl	vmx_enter, vmx_entry, vmx_exited, svm_enter, svm_entry, svm_exited
vmx_enter:
	SAVE
	movl	$0x6c14, %eax		/* host RSP */
	vmwrite	%rsp, %rax
	BEFORE
vmx_entry:
	vmlaunch
	AFTER
	movl	$1, %eax		/* VMLAUNCH failed */
	RESTORE
vmx_exited:
	AFTER
	xorl	%eax, %eax
	RESTORE

svm_enter:				/* the physical address of the VMCB */
	SAVE
	clgi
	sti				/* the host's RFLAGS.IF lets interrupts exit */
	movq	%rdi, %r8
	BEFORE
	movq	%r8, %rax
svm_entry:
	vmrun
svm_exited:
	AFTER
	cli
	stgi
	xorl	%eax, %eax
	RESTORE

/* A guest returns here from what it ran. */
	.globl	guest_end, guest_end_svm
guest_end:
	vmcall
guest_end_svm:
	vmmcall

	.globl	guest_vmlaunch, guest_vmrun
guest_vmlaunch:
	vmlaunch
	ret
guest_vmrun:
	vmrun
	ret

	.data
	.globl	global_msr, global_on, guarded, recover, pmi_rip, pmi_count, before, line_address, user_read
	.balign	8
global_on:	.quad 0
before:		.quad 0
guarded:	.quad 0
recover:	.quad 0
pmi_rip:	.quad 0
global_msr:	.long 0
pmi_count:	.long 0
line_address:	.long 0
user_read:	.long 0

	.globl	gdt, tss
	.balign	16
gdt:	.quad	0
	.quad	0x00af9b000000ffff	/* 08 code */
	.quad	0x00cf93000000ffff	/* 10 data */
	.quad	0x00cffb000000ffff	/* 18 32-bit user code, unused */
	.quad	0x00cff3000000ffff	/* 20 user data */
	.quad	0x00affb000000ffff	/* 28 user code */
	.quad	0, 0
	/* 40 TSS, in the first 64 KiB of which nothing has to be split up */
	.word	0x67
	.word	tss_low
	.byte	tss_middle, 0x89, 0, tss_high
	.quad	0
gdtr:	.word	. - gdt - 1
	.quad	gdt

	.bss
	.balign	4096
	.globl	buffer, stack_top, trap_stack
buffer:	.skip	4096
	.skip	16384
stack_top:
	.skip	8192
trap_stack:

	.data
	.balign	4096
tss:	.long	0
	.quad	trap_stack
	.skip	0x68 - 12
	.balign	4096
	.set	flags, 7		/* present, writable, user */
pml4:	.quad	pdpt + flags
	.skip	4088
pdpt:	.quad	pd + flags, pd + 0x1000 + flags, pd + 0x2000 + flags, pd + 0x3000 + flags
	.skip	4096 - 32
pd:	.set	page, 0
	.rept	2048
	.quad	page + 0x80 + flags
	.set	page, page + 0x200000
	.endr

	.section .note.GNU-stack, "", @progbits
