/*
 * The first process of every pod: keeps the pod's namespaces open, collects the
 * processes that lose their parents, and ends when it is told to.
 */
#include <signal.h>
#include <stddef.h>
#include <sys/wait.h>

int main(void)
{
	sigset_t signals;
	int signal;

	sigemptyset(&signals);
	sigaddset(&signals, SIGCHLD);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	/* Blocked, so that each is waited for and none acts by default. */
	if (sigprocmask(SIG_BLOCK, &signals, NULL) != 0)
		return 1;
	while (sigwait(&signals, &signal) == 0 && signal == SIGCHLD)
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	return 0;
}
