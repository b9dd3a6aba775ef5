/* SPDX-License-Identifier: GPL-2.0 */
/* What bindgen reads: KVM's user ABI, and shim.h. */
#include <linux/kvm.h>
#include <linux/preempt.h>
#include <linux/mmu_notifier.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/anon_inodes.h>
#include <linux/cpuhotplug.h>
#include <linux/mutex.h>
#include "shim.h"
