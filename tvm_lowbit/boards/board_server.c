/* TVM's RPC server in plain C: what a board needs to run models, without Python and without a C++ compiler.
 *
 * Build on the board:  cc -O2 -I <tvm_ffi package>/include -o board_server board_server.c -ldl
 * Run:                 board_server --libs <folder of libtvm_ffi.so and libtvm_runtime.so> --port 9090
 *
 * Clients are served one after another, each in a forked process with a folder of its own: a kernel that crashes ends
 * its session only, and two clients never disturb each other's timings. */
#define _GNU_SOURCE
#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "board_runtime.h"

enum { MAGIC = 0xFF271, MISMATCH = MAGIC + 2, KEY_LIMIT = 1024, HANDSHAKE_SECONDS = 5 };

static int transfer(int fd, void* data, size_t size, int sending) {
  char* at = data;
  while (size > 0) {
    ssize_t n = sending ? send(fd, at, size, MSG_NOSIGNAL) : recv(fd, at, size, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return -1;
    at += n;
    size -= (size_t)n;
  }
  return 0;
}

/* TVM's handshake; integers are little-endian, as is every board this serves. Returns the seconds a session may last
 * (0: any), or -1 when the client is refused. */
static int handshake(int fd, const char* key) {
  struct timeval patience = {HANDSHAKE_SECONDS, 0}, forever = {0, 0};
  int32_t magic = 0, size = 0, code = MAGIC;
  char got[KEY_LIMIT + 1], answer[KEY_LIMIT + 8], *rest = NULL;
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (transfer(fd, &magic, 4, 0) != 0 || magic != MAGIC) return -1;
  if (transfer(fd, &size, 4, 0) != 0 || size < 0 || size > KEY_LIMIT || transfer(fd, got, (size_t)size, 0) != 0)
    return -1;
  got[size] = '\0';
  char* client = strtok_r(got, " ", &rest);
  if (client == NULL || strncmp(client, "client:", 7) != 0 || strcmp(client + 7, key) != 0) {
    code = MISMATCH;
    transfer(fd, &code, 4, 1);
    return -1;
  }
  int seconds = 0;
  for (char* option; (option = strtok_r(NULL, " ", &rest)) != NULL;)
    if (strncmp(option, "-timeout=", 9) == 0) seconds = (int)strtod(option + 9, NULL);
  size = snprintf(answer, sizeof answer, "server:%s", key);
  if (transfer(fd, &code, 4, 1) != 0 || transfer(fd, &size, 4, 1) != 0 || transfer(fd, answer, (size_t)size, 1) != 0)
    return -1;
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &forever, sizeof forever);
  return seconds < 0 ? 0 : seconds;
}

static int remove_entry(const char* path, const struct stat* info, int flag, struct FTW* walk) {
  (void)info, (void)flag, (void)walk;
  return remove(path);
}

/* Waits until fd is readable or closed; returns 0 when the owner (the other end of standard input) has gone first. */
static int wait_for(int fd, int owned) {
  struct pollfd events[2] = {{fd, POLLIN, 0}, {owned ? STDIN_FILENO : -1, POLLIN, 0}};
  char byte;
  for (;;) {
    if (poll(events, 2, -1) < 0) continue;
    if (events[1].revents != 0 && read(STDIN_FILENO, &byte, 1) <= 0) return 0;
    if (events[0].revents != 0) return 1;
  }
}

static void run_session(int listener, int fd, int seconds, int owned) {
  const char* base = getenv("TMPDIR");
  int ends[2]; /* held by the child only: hangs up when it ends, however it ends */
  snprintf(work_folder, sizeof work_folder, "%s/board_server.XXXXXX", base != NULL && *base ? base : "/tmp");
  if (mkdtemp(work_folder) == NULL || pipe(ends) != 0) die("session folder", strerror(errno));
  pid_t child = fork();
  if (child < 0) die("fork", strerror(errno));
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(listener), close(ends[0]);
    if (chdir(work_folder) != 0) _exit(1);
    if (seconds > 0) alarm((unsigned)seconds); /* its default action ends the session */
    _exit(serve(fd));
  }
  close(fd), close(ends[1]);
  int owner_gone = !wait_for(ends[0], owned);
  if (owner_gone) kill(child, SIGKILL);
  while (waitpid(child, NULL, 0) < 0 && errno == EINTR) continue;
  close(ends[0]);
  nftw(work_folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
  if (owner_gone) exit(0);
}

static int start_listening(const char* host, const char* port) {
  struct addrinfo wanted = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found = NULL;
  struct sockaddr_storage bound;
  socklen_t size = sizeof bound;
  char number[16];
  int yes = 1, why = getaddrinfo(host, port, &wanted, &found);
  if (why != 0) die(host, gai_strerror(why));
  int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 8) != 0) die(port, strerror(errno));
  freeaddrinfo(found);
  getsockname(fd, (struct sockaddr*)&bound, &size);
  getnameinfo((struct sockaddr*)&bound, size, NULL, 0, number, sizeof number, NI_NUMERICSERV);
  printf("%s\n", number);
  fflush(stdout);
  return fd;
}

int main(int argc, char** argv) {
  const char *libs = getenv("TVM_LOWBIT_BOARD_LIBS"), *key = getenv("TVM_LOWBIT_BOARD_KEY");
  const char *host = "127.0.0.1", *port = "0";
  int owned = 0;
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--until-eof") == 0) owned = 1;
    else if (i + 1 < argc && strcmp(argv[i], "--libs") == 0) libs = argv[++i];
    else if (i + 1 < argc && strcmp(argv[i], "--host") == 0) host = argv[++i];
    else if (i + 1 < argc && strcmp(argv[i], "--port") == 0) port = argv[++i];
    else if (i + 1 < argc && strcmp(argv[i], "--key") == 0) key = argv[++i];
    else die(argv[i], "usage: board_server [--libs DIR] [--host 127.0.0.1] [--port 0] [--key KEY] [--until-eof]");
  }
  if (key == NULL) key = "";
  if (strlen(key) > KEY_LIMIT) die("--key", "too long");
  signal(SIGPIPE, SIG_IGN);
  start_runtime(libs != NULL ? libs : "");
  int listener = start_listening(host, port);
  while (wait_for(listener, owned)) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    int seconds = fd < 0 ? -1 : handshake(fd, key);
    if (seconds >= 0) run_session(listener, fd, seconds, owned);
    else if (fd >= 0) close(fd);
  }
  return 0;
}
