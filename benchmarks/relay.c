/* A TCP relay that hands on every byte later: a round trip takes as long as on a far network.
 *
 *     relay PORT-OF-SERVER MICROSECONDS
 *
 * Prints its own port on 127.0.0.1. Each direction takes half of the time. The first bytes of a connection take a whole
 * round trip more, as the handshake would. There is neither loss nor slow start: bytes in flight are limited to WINDOW
 * for each direction of a connection.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { PIECE = 64 << 10, WINDOW = 4 << 20, EVENTS = 256 };

struct piece {
    struct piece *next;
    int64_t due;
    size_t size, sent;
    char data[];
};

/* One direction: what was read from one end, and waits to be written to the other. */
struct way {
    int from, to;
    struct piece *first, *last;
    size_t waiting;
    int ended, closed, full;
    int64_t extra;
};

struct pair {
    struct pair *next, *before;
    struct way up, down;
    int dead;
};

static struct pair pairs = {.next = &pairs, .before = &pairs};
static int poller, timer;
static int64_t half;
static char buffer[PIECE];

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void take(struct way *way, struct pair *pair) {
    while (!way->ended && way->waiting < WINDOW) {
        ssize_t got = recv(way->from, buffer, sizeof buffer, MSG_DONTWAIT);
        if (got < 0) {
            if (errno == EAGAIN || errno == EINTR) return;
            pair->dead = 1;
            return;
        }
        struct piece *piece = malloc(sizeof *piece + (size_t)got);
        if (!piece) fail("memory");
        *piece = (struct piece){.due = now() + half + way->extra, .size = (size_t)got};
        memcpy(piece->data, buffer, (size_t)got);
        way->extra = 0;
        if (way->last) way->last->next = piece; else way->first = piece;
        way->last = piece;
        way->waiting += (size_t)got;
        if (got == 0) way->ended = 1;
    }
    way->full = !way->ended;
}

static void give(struct way *way, struct pair *pair, int64_t time) {
    while (way->first && way->first->due <= time && !pair->dead) {
        struct piece *piece = way->first;
        if (piece->size == 0) {
            shutdown(way->to, SHUT_WR);
            way->closed = 1;
        } else {
            ssize_t done = send(way->to, piece->data + piece->sent, piece->size - piece->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (done < 0) {
                if (errno != EAGAIN && errno != EINTR) pair->dead = 1;
                return;
            }
            piece->sent += (size_t)done;
            way->waiting -= (size_t)done;
            if (piece->sent < piece->size) return;
        }
        way->first = piece->next;
        if (!way->first) way->last = NULL;
        free(piece);
    }
    /* Events come on changes only: what was left in the socket is asked for. */
    if (way->full && way->waiting < WINDOW) {
        way->full = 0;
        take(way, pair);
    }
}

static void end(struct pair *pair) {
    struct way *ways[] = {&pair->up, &pair->down};
    for (int i = 0; i < 2; i++)
        while (ways[i]->first) {
            struct piece *piece = ways[i]->first;
            ways[i]->first = piece->next;
            free(piece);
        }
    close(pair->up.from);
    close(pair->up.to);
    pair->before->next = pair->next;
    pair->next->before = pair->before;
    free(pair);
}

static void join(int client, uint16_t port) {
    int yes = 1, server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (server < 0 || connect(server, (struct sockaddr *)&address, sizeof address) != 0) {
        if (server >= 0) close(server);
        close(client);
        return;
    }
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    struct pair *pair = calloc(1, sizeof *pair);
    if (!pair) fail("memory");
    pair->up = (struct way){.from = client, .to = server, .extra = 2 * half};
    pair->down = (struct way){.from = server, .to = client};
    pair->next = pairs.next;
    pair->before = &pairs;
    pairs.next->before = pair;
    pairs.next = pair;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = pair};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, client, &event) || epoll_ctl(poller, EPOLL_CTL_ADD, server, &event))
        fail("epoll_ctl");
}

int main(int count, char **words) {
    if (count != 3) {
        fputs("relay PORT-OF-SERVER MICROSECONDS\n", stderr);
        return 2;
    }
    uint16_t port = (uint16_t)atoi(words[1]);
    half = atoll(words[2]) * 1000 / 2;
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int door = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (door < 0 || bind(door, (struct sockaddr *)&address, length) || listen(door, 512) ||
        getsockname(door, (struct sockaddr *)&address, &length))
        fail("listen");
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event at_door = {.events = EPOLLIN, .data.ptr = NULL}, at_time = {.events = EPOLLIN, .data.ptr = &timer};
    if (poller < 0 || timer < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, door, &at_door) ||
        epoll_ctl(poller, EPOLL_CTL_ADD, timer, &at_time))
        fail("epoll");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    struct epoll_event events[EVENTS];
    for (;;) {
        int number = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < number; i++) {
            if (events[i].data.ptr == NULL) {
                int client;
                while ((client = accept4(door, NULL, NULL, SOCK_CLOEXEC)) >= 0) join(client, port);
            } else if (events[i].data.ptr == &timer) {
                uint64_t times;
                if (read(timer, &times, sizeof times) < 0 && errno != EAGAIN) fail("timer");
            } else {
                struct pair *pair = events[i].data.ptr;
                take(&pair->up, pair);
                take(&pair->down, pair);
            }
        }
        int64_t time = now(), next = INT64_MAX;
        for (struct pair *pair = pairs.next, *after; pair != &pairs; pair = after) {
            after = pair->next;
            give(&pair->up, pair, time);
            give(&pair->down, pair, time);
            if (pair->dead || (pair->up.closed && pair->down.closed)) {
                end(pair);
                continue;
            }
            if (pair->up.first && pair->up.first->due > time && pair->up.first->due < next) next = pair->up.first->due;
            if (pair->down.first && pair->down.first->due > time && pair->down.first->due < next)
                next = pair->down.first->due;
        }
        struct itimerspec when = {0};
        if (next != INT64_MAX) {
            when.it_value.tv_sec = next / 1000000000;
            when.it_value.tv_nsec = next % 1000000000;
        }
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
    }
}
