// Included by kernels of the crash tests.
#define VALUE 1
