/* What differs between operating systems: files, libraries, the clock, memory, and the channels of a worker. */
#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#else
#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64
#endif

#include "system.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#if defined(_WIN32)
#include <windows.h>

#include <direct.h>
#include <fcntl.h>
#include <io.h>
#include <shellapi.h>
#else
#include <dlfcn.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>
#endif

#if defined(__linux__)
#include <signal.h>
#include <sys/prctl.h>
#endif

#if defined(_WIN32)
#define OS "windows"
#elif defined(__APPLE__)
#define OS "macos"
#elif defined(__linux__)
#define OS "linux"
#else
#error "this operating system is none of portmatrix's targets"
#endif

#if defined(__x86_64__)
#define ARCH "x86_64"
#elif defined(__aarch64__)
#define ARCH "arm64"
#elif defined(__arm__) && defined(__ARM_PCS_VFP)
#define ARCH "armhf"
#elif defined(__riscv) && __riscv_xlen == 64
#define ARCH "riscv64"
#elif defined(__s390x__)
#define ARCH "s390x"
#elif defined(__powerpc64__) && defined(__LITTLE_ENDIAN__)
#define ARCH "ppc64le"
#else
#error "this processor architecture is none of portmatrix's targets"
#endif

const char system_platform[] = OS "-" ARCH;
#if defined(__clang__)
const char system_compiler[] = __VERSION__;
#else
const char system_compiler[] = "gcc " __VERSION__;
#endif

bool system_is_little_endian(void) {
    const uint16_t one = 1;
    unsigned char first;
    memcpy(&first, &one, 1);
    return first == 1;
}

/* --- Names ------------------------------------------------------------------------------------------------------ */

#if defined(_WIN32)
static wchar_t *wide(const char *text) {
    int length = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, text, -1, NULL, 0);
    wchar_t *made = length <= 0 ? NULL : malloc((size_t)length * sizeof *made);
    if (made != NULL) {
        MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, text, -1, made, length);
    }
    return made;
}

static char *narrow(Arena *arena, const wchar_t *text) {
    int length = WideCharToMultiByte(CP_UTF8, 0, text, -1, NULL, 0, NULL, NULL);
    char *made = length <= 0 ? NULL : arena_take(arena, (size_t)length, 1);
    if (made != NULL) {
        WideCharToMultiByte(CP_UTF8, 0, text, -1, made, length, NULL, NULL);
    }
    return made;
}

char **system_arguments(Arena *arena, int *count, char **given) {
    (void)given;
    wchar_t **words = CommandLineToArgvW(GetCommandLineW(), count);
    char **made = words == NULL ? NULL : arena_take(arena, (size_t)*count + 1, sizeof *made);
    for (int index = 0; made != NULL && index < *count; index++) {
        made[index] = narrow(arena, words[index]);
        if (made[index] == NULL) {
            made = NULL;
        }
    }
    LocalFree(words);
    return made;
}

const char *system_variable(Arena *arena, const char *name) {
    wchar_t *key = wide(name);
    const wchar_t *value = key == NULL ? NULL : _wgetenv(key);
    free(key);
    return value == NULL ? NULL : narrow(arena, value);
}

const PathSign *system_path(Arena *arena, const char *path) {
    return arena_adopt(arena, wide(path));
}

void system_crash_silently(void) {
    SetErrorMode(SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX | SEM_NOOPENFILEERRORBOX);
}

FILE *system_open(const char *path, const char *mode) {
    wchar_t *name = wide(path);
    wchar_t *way = wide(mode);
    FILE *stream = NULL;
    if (name != NULL && way != NULL) {
        stream = _wfopen(name, way);
    } else {
        errno = ENOENT;
    }
    free(name);
    free(way);
    return stream;
}

bool system_make_folder(const char *path, Failure *failure) {
    wchar_t *name = wide(path);
    struct _stat64 found;
    bool made = name != NULL && (_wmkdir(name) == 0 || (_wstat64(name, &found) == 0 && (found.st_mode & _S_IFDIR)));
    free(name);
    return made || fail_of_harness(failure, "cannot make the folder %s: %s", path, strerror(errno));
}
#else
char **system_arguments(Arena *arena, int *count, char **given) {
    (void)arena;
    (void)count;
    return given;
}

const char *system_variable(Arena *arena, const char *name) {
    (void)arena;
    return getenv(name);
}

const PathSign *system_path(Arena *arena, const char *path) {
    (void)arena;
    return path;
}

void system_crash_silently(void) {
}

FILE *system_open(const char *path, const char *mode) {
    return fopen(path, mode);
}

bool system_make_folder(const char *path, Failure *failure) {
    struct stat found;
    bool made = mkdir(path, 0777) == 0 || (stat(path, &found) == 0 && S_ISDIR(found.st_mode));
    return made || fail_of_harness(failure, "cannot make the folder %s: %s", path, strerror(errno));
}
#endif

/* --- Files ------------------------------------------------------------------------------------------------------ */

bool system_read(Arena *arena, const char *path, size_t limit, char **content, size_t *size, Failure *failure) {
    FILE *stream = system_open(path, "rb");
    if (stream == NULL) {
        return fail(failure, "cannot open %s: %s", path, strerror(errno));
    }
    /* Grown as it is read: what a folder or a device says of its size is worth nothing. */
    size_t room = 1 << 16;
    size_t length = 0;
    char *buffer = malloc(room);
    while (buffer != NULL) {
        length += fread(buffer + length, 1, room - 1 - length, stream);
        if (length < room - 1 || length > limit) {
            break;
        }
        char *larger = room > SIZE_MAX / 2 ? NULL : realloc(buffer, room *= 2);
        if (larger == NULL) {
            free(buffer);
        }
        buffer = larger;
    }
    bool broken = ferror(stream) != 0;
    int cause = errno;
    fclose(stream);
    if (buffer != NULL && (broken || length > limit)) {
        free(buffer);
        return broken ? fail(failure, "cannot read %s: %s", path, strerror(cause))
                      : fail(failure, "%s has more than the %zu bytes that are taken", path, limit);
    }
    *content = arena_adopt(arena, buffer);
    *size = length;
    if (*content == NULL) {
        return fail_of_memory(failure);
    }
    buffer[length] = '\0';
    return true;
}

bool system_write(const char *path, const void *head, size_t head_size, const void *body, size_t body_size,
                  Failure *failure) {
    FILE *stream = system_open(path, "wb");
    bool written = stream != NULL && fwrite(head, 1, head_size, stream) == head_size;
    written = written && (body_size == 0 || fwrite(body, 1, body_size, stream) == body_size);
    int cause = errno;
    if (stream != NULL && fclose(stream) != 0 && written) {
        cause = errno;
        written = false;
    }
    if (written) {
        return true;
    }
    bool full = cause == ENOSPC;
#if defined(EDQUOT)
    full = full || cause == EDQUOT;
#endif
    return fail_of_harness(failure, "%scannot write %s: %s", full ? "the disk is full: " : "", path, strerror(cause));
}

/* --- Libraries and the clock ------------------------------------------------------------------------------------ */

#if defined(_WIN32)
static void *library_at(const wchar_t *name) {
    /* Given a whole path, Windows looks for the libraries that it needs in the same folder. */
    wchar_t whole[MAX_PATH * 4];
    bool is_path = wcspbrk(name, L"/\\") != NULL;
    if (!is_path) {
        return (void *)LoadLibraryW(name);
    }
    DWORD length = GetFullPathNameW(name, MAX_PATH * 4, whole, NULL);
    if (length == 0 || length >= MAX_PATH * 4) {
        return NULL;
    }
    return (void *)LoadLibraryExW(whole, NULL, LOAD_WITH_ALTERED_SEARCH_PATH);
}

void *system_library(const char *path, Failure *failure) {
    wchar_t *name = wide(path);
    void *library = name == NULL ? NULL : library_at(name);
    DWORD code = GetLastError();
    free(name);
    if (library == NULL) {
        wchar_t text[256] = L"";
        char words[1024] = "";
        FormatMessageW(FORMAT_MESSAGE_FROM_SYSTEM | FORMAT_MESSAGE_IGNORE_INSERTS, NULL, code, 0, text, 256, NULL);
        WideCharToMultiByte(CP_UTF8, 0, text, -1, words, sizeof words - 1, NULL, NULL);
        fail_of_harness(failure, "cannot load %s: Windows error %lu %s", path, (unsigned long)code, words);
    }
    return library;
}

Symbol system_symbol(void *library, const char *name) {
    FARPROC found = GetProcAddress((HMODULE)library, name);
    Symbol symbol = NULL;
    memcpy(&symbol, &found, sizeof symbol);
    return symbol;
}

double system_seconds(void) {
    LARGE_INTEGER ticks, frequency;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&frequency);
    return (double)ticks.QuadPart / (double)frequency.QuadPart;
}

double system_tick(void) {
    LARGE_INTEGER frequency;
    QueryPerformanceFrequency(&frequency);
    return 1 / (double)frequency.QuadPart;
}
#else
void *system_library(const char *path, Failure *failure) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        const char *why = dlerror();
        fail_of_harness(failure, "cannot load %s: %s", path, why == NULL ? "no reason given" : why);
    }
    return library;
}

Symbol system_symbol(void *library, const char *name) {
    void *found = dlsym(library, name);
    Symbol symbol = NULL;
    memcpy(&symbol, &found, sizeof symbol);
    return symbol;
}

double system_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

double system_tick(void) {
    struct timespec tick;
    clock_getres(CLOCK_MONOTONIC, &tick);
    return (double)tick.tv_sec + (double)tick.tv_nsec * 1e-9;
}
#endif

/* --- Memory ----------------------------------------------------------------------------------------------------- */

#if defined(__linux__)
/* Read a field of proc(5)'s status that is in KiB, such as "VmRSS:". */
static bool read_status(const char *field, double *megabytes) {
    char line[256];
    bool found = false;
    FILE *stream = system_open("/proc/self/status", "r");
    while (stream != NULL && !found && fgets(line, sizeof line, stream) != NULL) {
        found = strncmp(line, field, strlen(field)) == 0;
    }
    if (stream != NULL) {
        fclose(stream);
    }
    if (found) {
        *megabytes = strtod(line + strlen(field), NULL) / 1024;
    }
    return found;
}

bool system_resident(double *megabytes) {
    FILE *stream = system_open("/proc/self/clear_refs", "w");
    bool reset = stream != NULL && fputs("5", stream) != EOF; /* proc(5): the peak becomes what is resident now. */
    reset = stream != NULL && fclose(stream) == 0 && reset;
    return reset && read_status("VmRSS:", megabytes);
}

bool system_peak(double *megabytes) {
    return read_status("VmHWM:", megabytes);
}
#else
/* Not even tried elsewhere: under Wine there is a /proc, in which `self` is Wine's server. */
bool system_resident(double *megabytes) {
    (void)megabytes;
    return false;
}

bool system_peak(double *megabytes) {
    (void)megabytes;
    return false;
}
#endif

/* --- Channels --------------------------------------------------------------------------------------------------- */

#if defined(_WIN32)
bool system_claim_channels(FILE **requests, FILE **answers) {
    int in = _dup(0), out = _dup(1), nothing = _open("NUL", _O_RDONLY);
    if (in < 0 || out < 0 || nothing < 0 || _setmode(in, _O_BINARY) < 0 || _setmode(out, _O_BINARY) < 0) {
        return false;
    }
    *requests = _fdopen(in, "rb");
    *answers = _fdopen(out, "wb");
    if (*requests == NULL || *answers == NULL || _dup2(nothing, 0) != 0 || _dup2(2, 1) != 0) {
        return false;
    }
    _close(nothing);
    /* A library brings its own C library, which asks the system what its standard streams are. */
    SetStdHandle(STD_INPUT_HANDLE, (HANDLE)_get_osfhandle(0));
    SetStdHandle(STD_OUTPUT_HANDLE, (HANDLE)_get_osfhandle(2));
    return true;
}
#else
bool system_claim_channels(FILE **requests, FILE **answers) {
    int in = dup(0), out = dup(1), nothing = open("/dev/null", O_RDONLY);
    if (in < 0 || out < 0 || nothing < 0) {
        return false;
    }
    /* What a runtime starts shall not hold them open. */
    fcntl(in, F_SETFD, FD_CLOEXEC);
    fcntl(out, F_SETFD, FD_CLOEXEC);
    *requests = fdopen(in, "r");
    *answers = fdopen(out, "w");
    if (*requests == NULL || *answers == NULL || dup2(nothing, 0) < 0 || dup2(2, 1) < 0) {
        return false;
    }
    close(nothing);
    return true;
}
#endif

void system_die_with_parent(void) {
#if defined(__linux__)
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
#endif
}
