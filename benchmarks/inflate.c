/* Inflates objects and writes each to a file of its own: what a disk and a CPU allow without network and checks.
 *
 *     inflate STORAGE DEST PROCESSES < LIST
 *
 * LIST has a path relative to STORAGE on each line, data/ab/cdef...; the content becomes DEST/ab/cdef... Each process
 * takes one part of the list. Objects that do not begin like a zlib stream are copied.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

enum { BUFFER = 1 << 20 };
static unsigned char in[BUFFER], out[BUFFER];

static void fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    _exit(1);
}

static void put(int fd, const unsigned char *data, size_t size) {
    while (size) {
        ssize_t done = write(fd, data, size);
        if (done < 0) fail("write");
        data += done;
        size -= (size_t)done;
    }
}

static void one(int storage, int dest, const char *path, z_stream *stream) {
    int from = openat(storage, path, O_RDONLY | O_CLOEXEC);
    if (from < 0) fail(path);
    int to = openat(dest, path + 5, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (to < 0) fail(path + 5);
    ssize_t got = read(from, in, sizeof in);
    if (got < 0) fail(path);
    int packed = got > 1 && in[0] == 0x78;
    inflateReset(stream);
    while (got > 0) {
        if (packed) {
            stream->next_in = in;
            stream->avail_in = (unsigned)got;
            do {
                stream->next_out = out;
                stream->avail_out = sizeof out;
                int code = inflate(stream, Z_NO_FLUSH);
                if (code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR) {
                    fprintf(stderr, "%s: no zlib stream\n", path);
                    _exit(1);
                }
                put(to, out, sizeof out - stream->avail_out);
            } while (stream->avail_out == 0);
        } else {
            put(to, in, (size_t)got);
        }
        /* A short read of a regular file is its end: one call less for each small object. */
        got = got < (ssize_t)sizeof in ? 0 : read(from, in, sizeof in);
        if (got < 0) fail(path);
    }
    close(from);
    if (close(to) != 0) fail(path + 5);
}

int main(int count, char **words) {
    if (count != 4) {
        fputs("inflate STORAGE DEST PROCESSES < LIST\n", stderr);
        return 2;
    }
    int storage = open(words[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (storage < 0) fail(words[1]);
    int dest = open(words[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dest < 0) fail(words[2]);
    for (int folder = 0; folder < 256; folder++) {
        char name[3];
        snprintf(name, sizeof name, "%02x", folder);
        if (mkdirat(dest, name, 0755) != 0 && errno != EEXIST) fail(name);
    }
    char **paths = NULL, *line = NULL;
    size_t lines = 0, space = 0, room = 0;
    ssize_t length;
    while ((length = getline(&line, &room, stdin)) > 0) {
        if (line[length - 1] == '\n') line[length - 1] = 0;
        if (lines == space) {
            space = space ? 2 * space : 4096;
            paths = realloc(paths, space * sizeof *paths);
            if (!paths) fail("memory");
        }
        if (!(paths[lines++] = strdup(line))) fail("memory");
    }
    size_t processes = (size_t)atoi(words[3]);
    for (size_t number = 0; number < processes; number++) {
        pid_t pid = fork();
        if (pid < 0) fail("fork");
        if (pid) continue;
        z_stream stream = {0};
        if (inflateInit(&stream) != Z_OK) fail("zlib");
        for (size_t i = lines * number / processes; i < lines * (number + 1) / processes; i++)
            one(storage, dest, paths[i], &stream);
        _exit(0);
    }
    int worst = 0, status;
    while (wait(&status) > 0) worst |= status;
    return worst != 0;
}
