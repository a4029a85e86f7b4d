/* What the comparison by hand needs and a shell cannot do: hear the kernel's uevents with their time, and pass an open
 * device to QEMU.
 *
 *   byhand clock                  answers every datagram with the microseconds since 1970, for ever
 *   byhand watch                  tells for ever: "<microseconds since 1970> add|remove <bus id>" for each USB device
 *   byhand plug DIR COUNT CMD...  runs CMD, waits for so many devices on vhci_hcd, and gives each, as it comes, to the QEMU
 *                                 whose qmp.sock is in DIR; tells when a device was there and when QEMU had taken it
 *   byhand unplug DIR COUNT       takes them from QEMU again; tells when each was asked for and when QEMU had closed it
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define SET 77      /* the number of our first descriptor set in QEMU */
#define PORT 4242   /* of the clock */
#define PATIENCE 60 /* seconds */

static FILE *answers;
static int monitor;

static void fail(const char *what)
{
	fprintf(stderr, "byhand: %s: %s\n", what, errno ? strerror(errno) : "failed");
	exit(1);
}

static long long now(void)
{
	struct timeval t;
	gettimeofday(&t, NULL);
	return t.tv_sec * 1000000LL + t.tv_usec;
}

static int hear(void)
{
	struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 1};
	int size = 1 << 20, s = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT);
	if (s < 0 || bind(s, (struct sockaddr *)&address, sizeof address))
		fail("uevents");
	setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
	return s;
}

/* The next uevent of a USB device: its text ("add@/devices/..."), and the name of its node in /dev. */
static void next(int s, char *text, size_t size, char *node, size_t node_size)
{
	for (;;) {
		ssize_t length = recv(s, text, size - 1, 0);
		int device = 0;
		if (length < 0)
			fail("uevents");
		text[length] = 0;
		*node = 0;
		for (char *at = text; at < text + length; at += strlen(at) + 1) {
			if (!strcmp(at, "DEVTYPE=usb_device"))
				device = 1;
			if (!strncmp(at, "DEVNAME=", 8))
				snprintf(node, node_size, "/dev/%s", at + 8);
		}
		if (device && (!strncmp(text, "add@", 4) || !strncmp(text, "remove@", 7)))
			return;
	}
}

/* Sends a command, with a descriptor unless it is negative, and waits for its answer and, if asked for, an event. */
static void ask(const char *command, int fd, const char *event)
{
	struct iovec data = {(void *)command, strlen(command)};
	char control[CMSG_SPACE(sizeof fd)] = {0};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
	int answered = 0, happened = !event;
	char *line = NULL;
	size_t room = 0;
	if (fd >= 0) {
		message.msg_control = control;
		message.msg_controllen = sizeof control;
		struct cmsghdr *c = CMSG_FIRSTHDR(&message);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof fd);
		memcpy(CMSG_DATA(c), &fd, sizeof fd);
	}
	if (sendmsg(monitor, &message, 0) != (ssize_t)strlen(command))
		fail("monitor");
	while (!answered || !happened) {
		if (getline(&line, &room, answers) < 0)
			fail("the monitor is gone");
		if (!strncmp(line, "{\"error\"", 8)) {
			fprintf(stderr, "byhand: QEMU says %s", line);
			exit(1);
		}
		answered |= !strncmp(line, "{\"return\"", 9);
		happened |= event && strstr(line, event);
	}
	free(line);
}

static void dial(const char *folder)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "qmp.sock"};
	char *greeting = NULL;
	size_t room = 0;
	/* The whole path may be too long for an address. */
	if (chdir(folder))
		fail(folder);
	monitor = socket(AF_UNIX, SOCK_STREAM, 0);
	if (connect(monitor, (struct sockaddr *)&address, sizeof address))
		fail("qmp.sock");
	answers = fdopen(monitor, "r");
	if (!answers || getline(&greeting, &room, answers) < 0)
		fail("the monitor says nothing");
	ask("{\"execute\":\"qmp_capabilities\"}\n", -1, NULL);
}

int main(int count, char **words)
{
	char text[8192], node[128], command[512];
	if (count == 2 && !strcmp(words[1], "clock")) {
		struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(PORT)}, peer;
		int s = socket(AF_INET, SOCK_DGRAM, 0);
		if (s < 0 || bind(s, (struct sockaddr *)&address, sizeof address))
			fail("clock");
		for (;;) {
			socklen_t size = sizeof peer;
			if (recvfrom(s, text, sizeof text, 0, (struct sockaddr *)&peer, &size) < 0)
				fail("clock");
			int length = snprintf(text, sizeof text, "%lld", now());
			sendto(s, text, length, 0, (struct sockaddr *)&peer, size);
		}
	} else if (count == 2 && !strcmp(words[1], "watch")) {
		setvbuf(stdout, NULL, _IOLBF, 0);
		for (int s = hear();;) {
			next(s, text, sizeof text, node, sizeof node);
			printf("%lld %s %s\n", now(), *text == 'a' ? "add" : "remove", strrchr(text, '/') + 1);
		}
	} else if (count > 4 && !strcmp(words[1], "plug")) {
		int s = hear(), device, status = 0, devices = atoi(words[3]);
		setvbuf(stdout, NULL, _IOLBF, 0);
		alarm(PATIENCE);
		pid_t child = fork();
		if (!child) {
			execvp(words[4], words + 4);
			fail(words[4]);
		}
		/* Meanwhile: what does not depend on the device. */
		dial(words[2]);
		for (int n = 0; n < devices; n++) {
			do
				next(s, text, sizeof text, node, sizeof node);
			while (*text != 'a' || !strstr(text, "/vhci_hcd") || !*node);
			printf("device %lld\n", now());
			device = open(node, O_RDWR | O_CLOEXEC);
			if (device < 0)
				fail(node);
			snprintf(command, sizeof command,
				 "{\"execute\":\"add-fd\",\"arguments\":{\"fdset-id\":%d}}\n", SET + n);
			ask(command, device, NULL);
			snprintf(command, sizeof command,
				 "{\"execute\":\"device_add\",\"arguments\":{\"driver\":\"usb-host\",\"bus\":\"usb%d.0\","
				 "\"id\":\"byhand-%d\",\"hostdevice\":\"/dev/fdset/%d\"}}\n", n % 2, n, SET + n);
			ask(command, -1, NULL);
			close(device);
			printf("plugged %lld\n", now());
		}
		waitpid(child, &status, 0);
		errno = 0;
		if (status)
			fail(words[4]);
	} else if (count == 4 && !strcmp(words[1], "unplug")) {
		alarm(PATIENCE);
		dial(words[2]);
		for (int n = 0, devices = atoi(words[3]); n < devices; n++) {
			snprintf(command, sizeof command,
				 "{\"execute\":\"device_del\",\"arguments\":{\"id\":\"byhand-%d\"}}\n", n);
			printf("asked %lld\n", now());
			ask(command, -1, "\"DEVICE_DELETED\"");
			printf("closed %lld\n", now());
			snprintf(command, sizeof command,
				 "{\"execute\":\"remove-fd\",\"arguments\":{\"fdset-id\":%d}}\n", SET + n);
			ask(command, -1, NULL);
		}
	} else {
		fprintf(stderr, "usage: byhand clock | watch | plug DIR COUNT COMMAND... | unplug DIR COUNT\n");
		return 2;
	}
	return 0;
}
