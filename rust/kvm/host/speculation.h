/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The mitigations of speculative execution that are the hypervisor's to apply.
 */
#ifndef MINIKVM_SPECULATION_H
#define MINIKVM_SPECULATION_H

#include <linux/types.h>

/* This CPU goes over from one vCPU to another: the first is not to train the second's branches. */
void shim_another_guest(void);
/* What a guest trained on this CPU is not to reach user space: whether, and that one ran. */
bool shim_has_ibpb_exit_to_user(void);
void shim_guest_left(void);

/* Whether guests are to have no large pages that they can execute, and that they have none. */
bool shim_has_itlb_multihit(void);
void shim_report_itlb_multihit(bool mitigated);

/* Whether entries have to flush the L1 data cache: 1, 0, or -ENOMEM for what that takes. */
int shim_l1d_setup(void);
void shim_l1d_cleanup(void);
/*
 * Flushes it, if something has come into it since the last time that guests are not to read. Interrupts
 * are off until the guest runs.
 */
void shim_l1d_flush(void);
/* Something has, or is about to; the kernel says so itself of its interrupts. */
void shim_l1d_is_used(void);

#endif
