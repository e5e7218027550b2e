/* Notes: between the calls that recorder.c interposes and the file that notes.c writes. */
#ifndef AJIT_NOTES_H
#define AJIT_NOTES_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

#include "records.h"

#define EXPORTED __attribute__((visibility("default")))

/* Whether there is a file to write to. */
bool ajit_notes_are_taken(void);

/* Notes a path, with the state of the file if it was opened. Keeps errno. */
void ajit_note(enum kind kind, int directory, const char *path, const struct stat *state);

/* Notes what a call that opens has given: a descriptor, or -1 and errno. */
void ajit_note_open(int fd, int directory, const char *path, int flags);

/* Programs that are started: one that ignores the recorder is known by its own record missing. A
 * name without a slash is looked up in PATH by the reader of the record. */
void ajit_note_start(const char *path);

/* The directory that a relative path starts from, with a slash at its end; 0 if it has no name,
 * as that of a worker has none: nothing can be found there. */
size_t ajit_base_of(int directory, char *out, size_t room);

#endif
