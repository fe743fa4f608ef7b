/* A disk whose flushes take longer: loaded by LD_PRELOAD, into all processes of a server.
 *
 * FLUSH_FILE names a file that they share, FLUSH_MICROSECONDS is what each flush takes on top. As
 * with a disk, one flush runs at a time, and whoever asks while it runs shares the next one.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

struct disk {
    int is_made;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    long begun, done;
    int is_running;
};
static struct disk *disk;

/* The file is empty at first, and its lock is made by the first process, the parent of all others. */
__attribute__((constructor)) static void open_disk(void) {
    const char *name = getenv("FLUSH_FILE");
    int file = name == NULL ? -1 : open(name, O_RDWR | O_CLOEXEC);
    if (file < 0)
        return;
    if (ftruncate(file, sizeof *disk) != 0)
        abort();
    disk = mmap(NULL, sizeof *disk, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (disk == MAP_FAILED)
        abort();
    if (!disk->is_made) {
        pthread_mutexattr_t shared;
        pthread_condattr_t shared_too;
        pthread_mutexattr_init(&shared);
        pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
        pthread_mutex_init(&disk->lock, &shared);
        pthread_condattr_init(&shared_too);
        pthread_condattr_setpshared(&shared_too, PTHREAD_PROCESS_SHARED);
        pthread_cond_init(&disk->ended, &shared_too);
        disk->is_made = 1;
    }
}

/* Wait for a flush that begins after this call, or be the one that runs it. */
static void flush(void) {
    if (disk == NULL)
        return;
    long microseconds = atol(getenv("FLUSH_MICROSECONDS"));
    struct timespec pause = {microseconds / 1000000, microseconds % 1000000 * 1000};
    pthread_mutex_lock(&disk->lock);
    long wanted = disk->begun + 1;
    while (disk->done < wanted) {
        if (disk->is_running) {
            pthread_cond_wait(&disk->ended, &disk->lock);
            continue;
        }
        disk->is_running = 1;
        long mine = ++disk->begun;
        pthread_mutex_unlock(&disk->lock);
        nanosleep(&pause, NULL);
        pthread_mutex_lock(&disk->lock);
        disk->done = mine;
        disk->is_running = 0;
        pthread_cond_broadcast(&disk->ended);
    }
    pthread_mutex_unlock(&disk->lock);
}

#define SLOW(name)                                                       \
    int name(int descriptor) {                                           \
        flush();                                                         \
        return ((__typeof__(&name))dlsym(RTLD_NEXT, #name))(descriptor); \
    }
SLOW(fsync)
SLOW(fdatasync)
SLOW(syncfs)
