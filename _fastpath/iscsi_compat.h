/* What not every libiscsi has, and the condition variable that waits by the monotonic clock. */
#ifndef PYPROXY_ISCSI_COMPAT_H
#define PYPROXY_ISCSI_COMPAT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <time.h>

#include <iscsi/iscsi.h>

#define ISCSI_UNUSED __attribute__((unused))

/* Added after 1.19; looked up in the library that runs, which need not be the one this was compiled with. */
typedef int (*pyproxy_data_digest_call)(struct iscsi_context *, int);

ISCSI_UNUSED static pyproxy_data_digest_call pyproxy_find_data_digest(void)
{
    pyproxy_data_digest_call call;
    *(void **)&call = dlsym(RTLD_DEFAULT, "iscsi_set_data_digest");
    if (call == NULL) {
        /* An extension module's libraries are not in the global scope. */
        Dl_info where;
        void *library;
        if (dladdr((void *)iscsi_create_context, &where) == 0 || where.dli_fname == NULL)
            return NULL;
        library = dlopen(where.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
        if (library == NULL)
            return NULL;
        *(void **)&call = dlsym(library, "iscsi_set_data_digest");
        dlclose(library);
    }
    return call;
}

ISCSI_UNUSED static int pyproxy_iscsi_has_data_digest(void) { return pyproxy_find_data_digest() != NULL; }

ISCSI_UNUSED static int pyproxy_iscsi_data_digest(struct iscsi_context *context, int wanted)
{
    pyproxy_data_digest_call call = pyproxy_find_data_digest();
    if (call == NULL)
        return wanted ? -1 : 0;
    return call(context, wanted ? 3 : 0); /* CRC32C or None, nothing else offered */
}

ISCSI_UNUSED static int pyproxy_condition_init(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    int error;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    error = pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
    return -error;
}

/* May return early for no reason, so callers look again. */
ISCSI_UNUSED static void pyproxy_condition_wait(pthread_cond_t *condition, pthread_mutex_t *mutex, uint32_t ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_cond_timedwait(condition, mutex, &until);
}

#endif
