// SPDX-License-Identifier: GPL-2.0
/*
 * Holds CR4.VMXE on every processor while it is loaded, as another hypervisor does.
 */
#include <linux/module.h>
#include <linux/smp.h>
#include <asm/tlbflush.h>

static void take(void *unused)
{
	cr4_set_bits(X86_CR4_VMXE);
}

static void give_back(void *unused)
{
	cr4_clear_bits(X86_CR4_VMXE);
}

static int __init vmxe_init(void)
{
	on_each_cpu(take, NULL, 1);
	return 0;
}

static void __exit vmxe_exit(void)
{
	on_each_cpu(give_back, NULL, 1);
}

module_init(vmxe_init);
module_exit(vmxe_exit);
MODULE_DESCRIPTION("Another hypervisor, as far as CR4.VMXE tells");
MODULE_LICENSE("GPL");
