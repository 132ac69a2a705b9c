#include "launcher/watchdog_link.h"

#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { ATTEMPT_MS = 2000 }; /* for one address to answer */

static socklen_t address_size(const union meeting_address *address)
{
	return address->any.sa_family == AF_INET6 ? sizeof address->v6 : sizeof address->v4;
}

/* Not the loopback address, nor one that a link alone knows. */
static bool reachable(const struct ifaddrs *at)
{
	if (!at->ifa_addr || !(at->ifa_flags & IFF_UP) || at->ifa_flags & IFF_LOOPBACK)
		return false;
	if (at->ifa_addr->sa_family == AF_INET6)
		return !IN6_IS_ADDR_LINKLOCAL(&((const struct sockaddr_in6 *)at->ifa_addr)->sin6_addr);
	return at->ifa_addr->sa_family == AF_INET;
}

/* All of this host's addresses, those of the 4th version first, with the port. */
static void list_addresses(struct meeting *meeting, in_port_t port, bool both)
{
	struct ifaddrs *all = NULL;
	if (getifaddrs(&all))
		return;
	for (int family = AF_INET; family; family = family == AF_INET && both ? AF_INET6 : 0)
		for (const struct ifaddrs *at = all; at; at = at->ifa_next) {
			if (!reachable(at) || at->ifa_addr->sa_family != family ||
			    meeting->count == MEETING_ADDRESSES)
				continue;
			union meeting_address *out = &meeting->addresses[meeting->count++];
			if (family == AF_INET) {
				memcpy(&out->v4, at->ifa_addr, sizeof out->v4);
				out->v4.sin_port = port;
			} else {
				memcpy(&out->v6, at->ifa_addr, sizeof out->v6);
				out->v6.sin6_port = port;
			}
		}
	freeifaddrs(all);
	/* Several hosts on one machine may share a network that has nothing else. */
	if (!meeting->count)
		meeting->addresses[meeting->count++].v4 = (struct sockaddr_in){
			.sin_family = AF_INET, .sin_port = port,
			.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static int listen_on(const union meeting_address *address)
{
	const int off = 0, type = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
	int fd = socket(address->any.sa_family, type, 0);
	if (fd < 0)
		return -1;
	if (address->any.sa_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
	if (!bind(fd, &address->any, address_size(address)) && !listen(fd, SOMAXCONN))
		return fd;
	close(fd);
	return -1;
}

int link_listen(int *fd, struct meeting *meeting, bool loopback, struct error *err)
{
	const union meeting_address four = {
		.v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(loopback ? INADDR_LOOPBACK
										: INADDR_ANY)}};
	const union meeting_address six = {.v6 = {.sin6_family = AF_INET6}};
	memset(meeting, 0, sizeof *meeting);
	if (getrandom(&meeting->token, sizeof meeting->token, 0) != sizeof meeting->token)
		return error_run(err, "no random bytes for the watchdog: %s", strerror(errno));
	*fd = loopback ? -1 : listen_on(&six);
	bool both = *fd >= 0;
	if (!both)
		*fd = listen_on(&four);
	union meeting_address bound;
	socklen_t size = sizeof bound;
	if (*fd < 0 || getsockname(*fd, &bound.any, &size)) {
		error_run(err, "the watchdog cannot listen: %s", strerror(errno));
		if (*fd >= 0)
			close(*fd);
		*fd = -1;
		return -1;
	}
	if (loopback)
		meeting->addresses[meeting->count++] = bound;
	else
		list_addresses(meeting, both ? bound.v6.sin6_port : bound.v4.sin_port, both);
	return 0;
}

int link_accept(int listener)
{
	return accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

static int connect_to(const union meeting_address *address)
{
	const int type = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
	int fd = socket(address->any.sa_family, type, 0), problem = 0;
	socklen_t size = sizeof problem;
	if (fd < 0)
		return -1;
	if (!connect(fd, &address->any, address_size(address)))
		return fd;
	if (errno == EINPROGRESS) {
		struct pollfd wait = {.fd = fd, .events = POLLOUT};
		if (poll(&wait, 1, ATTEMPT_MS) == 1 &&
		    !getsockopt(fd, SOL_SOCKET, SO_ERROR, &problem, &size) && !problem)
			return fd;
		errno = problem ? problem : ETIMEDOUT;
	}
	int kept = errno;
	close(fd);
	errno = kept;
	return -1;
}

static double now_s(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

int link_connect(int *fd, const struct meeting *meeting, double seconds, struct error *err)
{
	char tried[640] = "";
	const int on = 1;
	double start = now_s();
	for (int i = 0; i < meeting->count && i < MEETING_ADDRESSES; i++) {
		const union meeting_address *address = &meeting->addresses[i];
		char host[64] = "?", port[16] = "?";
		if ((*fd = connect_to(address)) >= 0) {
			setsockopt(*fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
			return 0;
		}
		const char *why = strerror(errno);
		size_t used = strlen(tried);
		getnameinfo(&address->any, address_size(address), host, sizeof host, port, sizeof port,
			    NI_NUMERICHOST | NI_NUMERICSERV);
		snprintf(tried + used, sizeof tried - used, "%s%s port %s: %s", i ? "; " : "", host, port,
			 why);
		if (seconds > 0 && now_s() - start > seconds)
			break;
	}
	return error_run(err, "the watchdog cannot reach rank 0 (%s): open the nodes' ports to each "
			      "other, or run without it: --watchdog 0 --init-timeout 0",
			 meeting->count ? tried : "it has no address");
}

bool link_send(int fd, const struct beat *beat)
{
	ssize_t sent = send(fd, beat, sizeof *beat, MSG_NOSIGNAL | MSG_DONTWAIT);
	return sent == (ssize_t)sizeof *beat || (sent < 0 && (errno == EAGAIN || errno == EINTR));
}

int link_receive(struct link *link)
{
	for (;;) {
		ssize_t got = recv(link->fd, (char *)&link->beat + link->filled,
				   sizeof link->beat - link->filled, MSG_DONTWAIT);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return 0;
		if (got <= 0)
			return -1;
		link->filled += (size_t)got;
		if (link->filled < sizeof link->beat)
			continue;
		link->filled = 0;
		link->beat.host[sizeof link->beat.host - 1] = '\0';
		link->beat.device[sizeof link->beat.device - 1] = '\0';
		return 1;
	}
}

void link_close(struct link *link)
{
	if (link->fd >= 0)
		close(link->fd);
	link->fd = -1;
}

/* The name of a socket that stands in no file system and goes with its process. */
bool link_claim(void)
{
	static const char *const jobs[] = {"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "SLURM_JOB_ID"};
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const char *job = NULL;
	for (size_t i = 0; i < sizeof jobs / sizeof jobs[0] && !job; i++)
		job = getenv(jobs[i]);
	int length = snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "tprun-%s", job ? job : "");
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
	return fd >= 0 && length < (int)sizeof address.sun_path - 1 &&
	       !bind(fd, (const struct sockaddr *)&address, size);
}
