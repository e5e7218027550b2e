/* Names and texts of all errors of the driver API, those that only other drivers return too: a
 * program may ask for the name of any. */
#include "driver.h"

typedef struct error_text {
    CUresult error;
    const char *name;
    const char *text;
} error_text;

static const error_text texts[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
#define ERROR(name, number, kind, text) {CUDA_ERROR_##name, "CUDA_ERROR_" #name, text},
#include "../table.def"
};

static const error_text *find(CUresult error) {
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i].error == error) return &texts[i];
    return NULL;
}

/* An unknown code gives NULL and error 1, as the driver API documents. */
CUresult cuGetErrorName(CUresult error, const char **pStr) {
    if (pStr == NULL) return CUDA_ERROR_INVALID_VALUE;
    const error_text *found = find(error);
    *pStr = found != NULL ? found->name : NULL;
    return found != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult error, const char **pStr) {
    if (pStr == NULL) return CUDA_ERROR_INVALID_VALUE;
    const error_text *found = find(error);
    *pStr = found != NULL ? found->text : NULL;
    return found != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
