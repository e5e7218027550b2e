/* A host function as rule R2 wants it: it takes no GIL, it writes an eventfd. */
#include <stdint.h>
#include <unistd.h>

void on_done(void *event_fd)
{
    uint64_t one = 1;
    ssize_t written = write((int)(intptr_t)event_fd, &one, sizeof one);
    (void)written;
}
