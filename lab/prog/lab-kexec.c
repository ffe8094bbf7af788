// SPDX-License-Identifier: GPL-2.0-only
/*
 * lab-kexec KERNEL INITRAMFS CMDLINE: starts another kernel, right now.  Nothing
 * that runs is asked to end.
 */
#include <err.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/reboot.h>

int main(int argc, char **argv)
{
	int kernel, initramfs;

	if (argc != 4)
		errx(120, "usage: lab-kexec KERNEL INITRAMFS CMDLINE");

	kernel = open(argv[1], O_RDONLY);
	if (kernel < 0)
		err(120, "%s", argv[1]);
	initramfs = open(argv[2], O_RDONLY);
	if (initramfs < 0)
		err(120, "%s", argv[2]);

	if (syscall(__NR_kexec_file_load, kernel, initramfs, strlen(argv[3]) + 1, argv[3], 0))
		err(120, "kexec_file_load");
	syscall(__NR_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_KEXEC, 0);
	err(120, "reboot");
}
