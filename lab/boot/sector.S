/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Boot sector of the emulated host.
 *
 * The lab has no boot loader and no disk: lab/run puts the kernel (the
 * protected-mode part of a bzImage), boot_params with the command line, and
 * the initramfs into the emulated memory before the machine starts.  What is
 * left to do is what only code on the machine can: start from the BIOS, which
 * has made the ACPI and MP tables by then, ask it for the memory map, and
 * enter the kernel by the 32-bit boot protocol (Documentation/arch/x86/boot.rst).
 *
 * BOOT_PARAMS, the address where lab/run puts boot_params, is set on the
 * assembler's command line.
 */
#define SETUP_E820_ENTRIES	0x1e8
#define SETUP_CODE32_START	0x214
#define SETUP_E820_TABLE	0x2d0

#define E820_SIZE		20
#define E820_MAX		128
#define SMAP			0x534d4150

/* The memory map is collected here, below what the BIOS and the stack use */
#define BUFFER			0x8000

	.code16
	.text
	.globl	_start
_start:
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	$_start, %sp
	cld

	/* A20 */
	inb	$0x92, %al
	orb	$2, %al
	andb	$~1, %al
	outb	%al, $0x92

	/* %bp counts the entries */
	xorw	%bp, %bp
	movw	$BUFFER, %di
	xorl	%ebx, %ebx
1:	movl	$0xe820, %eax
	movl	$SMAP, %edx
	movl	$E820_SIZE, %ecx
	int	$0x15
	jc	2f
	cmpl	$SMAP, %eax
	jne	2f
	addw	$E820_SIZE, %di
	incw	%bp
	cmpw	$E820_MAX, %bp
	jae	2f
	testl	%ebx, %ebx
	jnz	1b

2:	cli
	lgdt	gdtr
	movl	%cr0, %eax
	orb	$1, %al
	movl	%eax, %cr0
	ljmp	$0x10, $3f

	.code32
3:	movw	$0x18, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss

	movzwl	%bp, %eax
	movb	%al, BOOT_PARAMS + SETUP_E820_ENTRIES
	imull	$(E820_SIZE / 4), %eax, %ecx
	movl	$BUFFER, %esi
	movl	$(BOOT_PARAMS + SETUP_E820_TABLE), %edi
	rep movsl

	/*
	 * As firmware does for many CPUs, hand over in x2APIC mode: Linux keeps
	 * it, but does not enter it without interrupt remapping.
	 */
	movl	$1, %eax
	cpuid
	btl	$21, %ecx
	jnc	4f
	movl	$0x1b, %ecx
	rdmsr
	orl	$0xc00, %eax
	wrmsr

4:	movl	$BOOT_PARAMS, %esi
	xorl	%ebp, %ebp
	xorl	%edi, %edi
	xorl	%ebx, %ebx
	jmp	*BOOT_PARAMS + SETUP_CODE32_START

	/* Flat segments at the selectors that the boot protocol names */
	.balign	8
gdt:	.quad	0, 0
	.quad	0x00cf9b000000ffff
	.quad	0x00cf93000000ffff
gdtr:	.word	. - gdt - 1
	.long	gdt

	.org	510
	.word	0xaa55
