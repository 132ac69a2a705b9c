/*
 * thread.h - starting a thread that helps the main one.
 */
#ifndef TPRUN_BASE_THREAD_H
#define TPRUN_BASE_THREAD_H

#include <pthread.h>

#include "runtime/base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Starts run(context) in a thread that takes no signals: those are the main thread's, whose waits
 * they are to end. pthread_join is due. `what` it does is for the message where that fails. */
int thread_start(pthread_t *out, void *(*run)(void *), void *context, const char *what,
		 struct error *err);

#ifdef __cplusplus
}
#endif
#endif
