// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a program without a kernel needs on the emulated CPU, or as a guest of KVM:
 * interrupts, a console, and instructions that may fault.
 */
#include "pmu.h"

static void outb(u16 port, u8 value)
{
	asm volatile("outb %0, %1" : : "a"(value), "d"(port));
}

static u8 inb(u16 port)
{
	u8 value;

	asm volatile("inb %1, %0" : "=a"(value) : "d"(port));
	return value;
}

void print(const char *text)
{
	for (; *text; text++) {
		while (!(inb(0x3fd) & 0x20))
			;
		outb(0x3f8, *text);
	}
}

void print_number(u64 value, u32 base)
{
	char text[24], *p = text + sizeof(text) - 1;

	*p = 0;
	do {
		*--p = "0123456789abcdef"[value % base];
		value /= base;
	} while (value);
	print(p);
}

void end(u32 status)
{
	while (!(inb(0x3fd) & 0x40))		/* the serial line has not sent all */
		;
	for (;;)
		asm volatile("outl %0, %1" : : "a"(status), "d"((u16)0x1ab4));
}

/* Where start.S goes with an exception that nothing expects */
void __attribute__((noreturn)) died(u64 rip, u64 error, u64 vector)
{
	print("Bail out! exception ");
	print_number(vector, 10);
	print(" at 0x");
	print_number(rip, 16);
	print(" error 0x");
	print_number(error, 16);
	print("\n");
	end(99);
}

/* The lab's mark, lab/README.md */
void mark(const char *name)
{
	asm volatile(".byte 0x0f, 0x1f, 0x80, 0x4c, 0x41, 0x42, 0x31" : : "D"(name) : "memory");
}

u64 rdmsr(u32 msr)
{
	u32 low, high;

	asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr) : "memory");
	return low | (u64)high << 32;
}

void wrmsr(u32 msr, u64 value)
{
	asm volatile("wrmsr" : : "a"((u32)value), "d"((u32)(value >> 32)), "c"(msr) : "memory");
}

/* 1 if the instruction faults */
#define GUARDED(instruction)					\
	"movq $1f, guarded; movq $2f, recover; movl $1, %[fault];"	\
	"1: " instruction "; movl $0, %[fault]; 2: movq $0, guarded"

int rdmsr_faults(u32 msr, u64 *value)
{
	u32 low = 0, high = 0;
	int fault;

	asm volatile(GUARDED("rdmsr") : "+a"(low), "+d"(high), [fault] "=&r"(fault) : "c"(msr) : "memory");
	*value = low | (u64)high << 32;
	return fault;
}

int wrmsr_faults(u32 msr, u64 value)
{
	int fault;

	asm volatile(GUARDED("wrmsr") : [fault] "=&r"(fault)
		     : "a"((u32)value), "d"((u32)(value >> 32)), "c"(msr) : "memory");
	return fault;
}

int rdpmc_faults(u32 index, u64 *value)
{
	u32 low = 0, high = 0;
	int fault;

	asm volatile(GUARDED("rdpmc") : "+a"(low), "+d"(high), [fault] "=&r"(fault) : "c"(index) : "memory");
	*value = low | (u64)high << 32;
	return fault;
}

static struct {
	u16 low, selector, flags, middle;
	u32 high, zero;
} idt[256];

extern char handlers[], ud_handler[], soft_handler[], back_handler[], syscall_handler[],
	nmi_handler[], pmi_handler[];

static void set_handler(int vector, char *handler, u16 flags)
{
	idt[vector].low = (u64)handler;
	idt[vector].middle = (u64)handler >> 16;
	idt[vector].selector = 8;
	idt[vector].flags = flags;
}

void set_up(void)
{
	struct {
		u16 limit;
		void *base;
	} __attribute__((packed)) idtr = { sizeof(idt) - 1, idt };

	for (int n = 0; n < 32; n++)
		set_handler(n, handlers + 16 * n, 0x8e00);
	set_handler(2, nmi_handler, 0x8e00);
	set_handler(6, ud_handler, 0x8e00);
	set_handler(PMI_VECTOR, pmi_handler, 0x8e00);
	set_handler(0x81, soft_handler, 0xee00);
	set_handler(0x82, back_handler, 0xee00);
	asm volatile("lidt %0" : : "m"(idtr));

	wrmsr(0xc0000081, 0x18ul << 48 | 8ul << 32);	/* STAR */
	wrmsr(0xc0000082, (u64)syscall_handler);	/* LSTAR */
	wrmsr(0xc0000084, 0x200);

	outb(0x21, 0xff);			/* the PIC's interrupts */
	outb(0xa1, 0xff);
	wrmsr(0x1b, rdmsr(0x1b) | 0xc00);	/* x2APIC */
	wrmsr(0x80f, 0x1ff);

	outb(0x3fb, 3);				/* serial line: 8 bits */
}

int same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}
