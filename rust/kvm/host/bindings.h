/* SPDX-License-Identifier: GPL-2.0 */
/* What bindgen reads: KVM's user ABI, the tracepoints, and shim.h. */
#include <linux/kvm.h>
#include <linux/kvm_para.h>
#include <linux/mmu_notifier.h>
#include <linux/preempt.h>
#include <linux/rcuwait.h>
#include <linux/syscore_ops.h>
#include <asm/fpu/api.h>
#include <asm/virt.h>

#include "kvm_trace.h"
#include "shim.h"
#include "speculation.h"
