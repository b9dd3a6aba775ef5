// SPDX-License-Identifier: GPL-2.0
/*
 * Gives the kernel something to report, as soon as it is loaded: insmod trouble.ko kind=KIND
 */
#include <linux/bug.h>
#include <linux/irqflags.h>
#include <linux/module.h>
#include <linux/preempt.h>
#include <linux/printk.h>
#include <linux/string.h>

static char *kind = "";
module_param(kind, charp, 0);
MODULE_PARM_DESC(kind, "warn, lockdep, oops, spin (until the watchdog sees it) or hang");

static int __init trouble_init(void)
{
	if (!strcmp(kind, "warn")) {
		WARN(1, "trouble was asked for\n");
		return 0;
	}
	if (!strcmp(kind, "lockdep")) {
		/* The lab kernel has no lockdep; its reports begin like this. */
		pr_warn("WARNING: possible circular locking dependency detected\n");
		return 0;
	}
	if (!strcmp(kind, "oops")) {
		*(volatile int *)8 = 1;
		return 0;
	}
	if (!strcmp(kind, "spin")) {
		preempt_disable();
		for (;;)
			barrier();
	}
	if (!strcmp(kind, "hang")) {
		local_irq_disable();
		for (;;)
			barrier();
	}
	return -EINVAL;
}

static void __exit trouble_exit(void)
{
}

module_init(trouble_init);
module_exit(trouble_exit);
MODULE_DESCRIPTION("Trouble on demand");
MODULE_LICENSE("GPL");
