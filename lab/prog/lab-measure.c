// SPDX-License-Identifier: GPL-2.0-only
/*
 * lab-measure NAME FILE COMMAND...: runs COMMAND between two marks called NAME
 * (see lab-mark.c), with its output thrown away, and appends a line to FILE: NAME,
 * then CLOCK_MONOTONIC in nanoseconds before and after.  Exits with the status of
 * COMMAND.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long mark(const char *name)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	/* nopl 0x3142414c(%rax) */
	asm volatile(".byte 0x0f, 0x1f, 0x80, 0x4c, 0x41, 0x42, 0x31"
		     : : "D" (name) : "memory");
	return now.tv_sec * 1000000000ll + now.tv_nsec;
}

int main(int argc, char **argv)
{
	long long begin, end;
	int status, null;
	FILE *file;
	pid_t pid;

	if (argc < 4) {
		fprintf(stderr, "usage: lab-measure NAME FILE COMMAND...\n");
		return 120;
	}

	file = fopen(argv[2], "a");
	null = open("/dev/null", O_RDWR);
	if (!file || null < 0) {
		perror("lab-measure");
		return 120;
	}

	begin = mark(argv[1]);
	pid = fork();
	if (!pid) {
		dup2(null, 0);
		dup2(null, 1);
		execvp(argv[3], argv + 3);
		perror(argv[3]);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0) {
		perror("lab-measure");
		return 120;
	}
	end = mark(argv[1]);

	fprintf(file, "%s %lld %lld\n", argv[1], begin, end);
	if (fclose(file)) {
		perror(argv[2]);
		return 120;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
