// SPDX-License-Identifier: GPL-2.0
/* The tracepoints' own code, and who listens. */

#include <linux/atomic.h>
#include <linux/smp.h>
#include <linux/string.h>

#define CREATE_TRACE_POINTS
#define CREATE_RUST_TRACE_POINTS
#include "kvm_trace.h"

atomic_t minikvm_watchers;

/* Somebody begins to listen to an event of the inner loop. */
int minikvm_watch(void)
{
	/* Guests that run leave the loop that does not look for listeners. */
	if (atomic_inc_return(&minikvm_watchers) == 1)
		kick_all_cpus_sync();
	return 0;
}

void minikvm_unwatch(void)
{
	atomic_dec(&minikvm_watchers);
}
