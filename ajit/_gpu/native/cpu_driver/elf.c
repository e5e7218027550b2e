/* ELF images: how long one is, and what is changed in it before it is loaded.
 *
 * The driver API hands over a pointer without a length, so the length is computed from the header's
 * tables; every offset is checked before it is followed. Two things are changed in the driver's
 * copy:
 *
 * - Dynamic shared memory. `extern __shared__ T name[]` leaves `name` an undefined thread-local
 *   symbol. All such names, whatever their number and mangling, are made local symbols at the end
 *   of the image's thread-local segment, which grows by the largest dynamic shared memory a block
 *   may ask for. So they alias, as CUDA says, on each OS thread and with it in each block, and
 *   images without them pay nothing. Dynamic linkers use a local symbol as it stands, without a
 *   lookup (the ELF gABI's rule for STB_LOCAL).
 * - STB_GNU_UNIQUE symbols (static variables of templates and inline functions) become ordinary
 *   ones. Unique ones would be shared between all images of the process and keep them from ever
 *   being unloaded.
 */
#include "driver.h"

#include <elf.h>
#include <string.h>

/* More than CUDA's 16. ../cuda_cxx/thread.hpp aligns the segment's start to the same, because
 * dynamic linkers disagree on a thread-local segment that does not begin on its own alignment
 * (glibc bug 24606). */
enum { SHARED_ALIGNMENT = 128 };
static const size_t MAX_IMAGE_BYTES = (size_t)1 << 30;
/* A damaged count must not make us read far beyond an image of unknown length. A kernel's image
 * has about 10 segments and 30 sections; an image with more than this was not built by ajit. */
enum { MAX_SEGMENTS = 32, MAX_SECTIONS = 128 };

#if defined(__x86_64__)
enum { NATIVE_MACHINE = EM_X86_64 };
#elif defined(__aarch64__)
enum { NATIVE_MACHINE = EM_AARCH64 };
#else
#error "the CPU driver's ELF loader knows x86-64 and aarch64"
#endif

typedef struct elf_view {
    unsigned char *bytes;
    size_t size;
    Elf64_Ehdr *header;
} elf_view;

/* ---- the length ---- */

/* Raises *total to `offset + length`; false if that is beyond any sensible image. */
static bool extend(size_t *total, uint64_t offset, uint64_t length) {
    if (offset > MAX_IMAGE_BYTES || length > MAX_IMAGE_BYTES - offset) return false;
    if (offset + length > *total) *total = offset + length;
    return true;
}

/* Byte by byte until the first difference: text that is no ELF image may be shorter than a
 * header. */
static bool has_magic(const unsigned char *image) {
    return image[0] == ELFMAG0 && image[1] == ELFMAG1 && image[2] == ELFMAG2 && image[3] == ELFMAG3;
}

static CUresult check_header(const Elf64_Ehdr *header) {
    if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB)
        return CUDA_ERROR_INVALID_IMAGE;
    if (header->e_machine != NATIVE_MACHINE) return CUDA_ERROR_NO_BINARY_FOR_GPU;
    if (header->e_type != ET_DYN || header->e_phentsize != sizeof(Elf64_Phdr) ||
        header->e_shentsize != sizeof(Elf64_Shdr) || header->e_phnum == 0 || header->e_shnum == 0 ||
        header->e_phnum > MAX_SEGMENTS || header->e_shnum > MAX_SECTIONS ||
        header->e_phoff % 8 != 0 || header->e_shoff % 8 != 0)
        return CUDA_ERROR_INVALID_IMAGE;
    return CUDA_SUCCESS;
}

CUresult cpu_elf_size(const void *image, size_t *bytes) {
    Elf64_Ehdr header;
    size_t total = sizeof header;
    if (!has_magic(image)) return CUDA_ERROR_INVALID_IMAGE;
    memcpy(&header, image, sizeof header);
    CUresult result = check_header(&header);
    if (result != CUDA_SUCCESS) return result;
    if (!extend(&total, header.e_phoff, (uint64_t)header.e_phnum * sizeof(Elf64_Phdr)) ||
        !extend(&total, header.e_shoff, (uint64_t)header.e_shnum * sizeof(Elf64_Shdr)))
        return CUDA_ERROR_INVALID_IMAGE;
    for (unsigned i = 0; i < header.e_phnum; i++) {
        Elf64_Phdr segment;
        memcpy(&segment, (const char *)image + header.e_phoff + i * sizeof segment, sizeof segment);
        if (!extend(&total, segment.p_offset, segment.p_filesz)) return CUDA_ERROR_INVALID_IMAGE;
    }
    for (unsigned i = 0; i < header.e_shnum; i++) {
        Elf64_Shdr section;
        memcpy(&section, (const char *)image + header.e_shoff + i * sizeof section, sizeof section);
        uint64_t length = section.sh_type == SHT_NOBITS ? 0 : section.sh_size;
        if (!extend(&total, section.sh_offset, length)) return CUDA_ERROR_INVALID_IMAGE;
    }
    *bytes = total;
    return CUDA_SUCCESS;
}

/* ---- the changes ---- */

static bool find_symbols(const elf_view *elf, Elf64_Sym **symbols, size_t *count) {
    Elf64_Shdr *sections = (Elf64_Shdr *)(elf->bytes + elf->header->e_shoff);
    for (unsigned i = 0; i < elf->header->e_shnum; i++) {
        Elf64_Shdr *section = &sections[i];
        if (section->sh_type != SHT_DYNSYM) continue;
        bool good = section->sh_entsize == sizeof(Elf64_Sym) && section->sh_offset % 8 == 0;
        *symbols = (Elf64_Sym *)(elf->bytes + section->sh_offset);
        *count = section->sh_size / sizeof(Elf64_Sym);
        return good;
    }
    return false;
}

/* Makes room for dynamic shared memory behind the thread-local variables and returns where it
 * begins in the segment, or 0 if there is no segment to grow or it has no sensible size. */
static uint64_t grow_thread_storage(const elf_view *elf) {
    Elf64_Phdr *segments = (Elf64_Phdr *)(elf->bytes + elf->header->e_phoff);
    for (unsigned i = 0; i < elf->header->e_phnum; i++) {
        Elf64_Phdr *tls = &segments[i];
        if (tls->p_type != PT_TLS) continue;
        if (tls->p_memsz == 0 || tls->p_memsz > MAX_IMAGE_BYTES) return 0;
        uint64_t end = tls->p_vaddr + tls->p_memsz;
        uint64_t start = (end + SHARED_ALIGNMENT - 1) / SHARED_ALIGNMENT * SHARED_ALIGNMENT;
        if (tls->p_align < SHARED_ALIGNMENT) tls->p_align = SHARED_ALIGNMENT;
        uint64_t offset = start - tls->p_vaddr;
        tls->p_memsz = offset + AJIT_CPU_MAX_SHARED_BYTES;
        return offset;
    }
    return 0;
}

static bool is_dynamic_shared(const Elf64_Sym *symbol) {
    return symbol->st_shndx == SHN_UNDEF && ELF64_ST_TYPE(symbol->st_info) == STT_TLS;
}

CUresult cpu_elf_prepare(unsigned char *image, size_t bytes) {
    elf_view elf = {image, bytes, (Elf64_Ehdr *)image};
    Elf64_Sym *symbols;
    size_t count;
    uint64_t shared = 0;
    if (!find_symbols(&elf, &symbols, &count)) return CUDA_ERROR_INVALID_IMAGE;
    for (size_t i = 1; i < count; i++) {
        Elf64_Sym *symbol = &symbols[i];
        if (ELF64_ST_BIND(symbol->st_info) == STB_GNU_UNIQUE)
            symbol->st_info = ELF64_ST_INFO(STB_GLOBAL, ELF64_ST_TYPE(symbol->st_info));
        if (!is_dynamic_shared(symbol)) continue;
        if (shared == 0) shared = grow_thread_storage(&elf);
        if (shared == 0) return CUDA_ERROR_INVALID_IMAGE;
        symbol->st_info = ELF64_ST_INFO(STB_LOCAL, STT_TLS);
        symbol->st_shndx = SHN_ABS; /* any but undefined: only the value is used */
        symbol->st_value = shared;
    }
    return CUDA_SUCCESS;
}
