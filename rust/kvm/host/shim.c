// SPDX-License-Identifier: GPL-2.0
#include <asm/virt.h>
#include "shim.h"
bool shim_virt_rebooting(void) { return virt_rebooting; }
