/* SPDX-License-Identifier: GPL-2.0 */
#ifndef MINIKVM_SHIM_H
#define MINIKVM_SHIM_H
#include <linux/types.h>
bool shim_virt_rebooting(void);
#endif
