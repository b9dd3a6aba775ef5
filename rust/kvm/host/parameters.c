// SPDX-License-Identifier: GPL-2.0
/*
 * Parameters of the kernel's kvm.ko that programs look for in /sys/module/kvm/parameters, where the
 * parameters of Rust modules do not appear. Where what they would turn on is not there, they can be
 * read, and set to nothing but off.
 */
#include <linux/errno.h>
#include <linux/kstrtox.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

#include "shim.h"

static int set_off_bool(const char *value, const struct kernel_param *param)
{
	bool on = true;
	int err;

	if (value) {
		err = kstrtobool(value, &on);
		if (err)
			return err;
	}
	return on ? -EOPNOTSUPP : 0;
}

static int set_off_int(const char *value, const struct kernel_param *param)
{
	int number;
	int err = kstrtoint(value, 0, &number);

	if (err)
		return err;
	return number ? -EOPNOTSUPP : 0;
}

static const struct kernel_param_ops off_bool = {
	.flags = KERNEL_PARAM_OPS_FL_NOARG,
	.set = set_off_bool,
	.get = param_get_bool,
};

static const struct kernel_param_ops off_int = {
	.set = set_off_int,
	.get = param_get_int,
};

static bool off;
static int zero;

module_param_cb(enable_pmu, &off_bool, &off, 0444);
__MODULE_PARM_TYPE(enable_pmu, "bool");
MODULE_PARM_DESC(enable_pmu, "Counters for guests: there are none");
module_param_cb(force_emulation_prefix, &off_int, &zero, 0444);
__MODULE_PARM_TYPE(force_emulation_prefix, "int");
MODULE_PARM_DESC(force_emulation_prefix, "A prefix that has instructions emulated: there is none");

static bool tdp_mmu = true;
module_param(tdp_mmu, bool, 0444);
MODULE_PARM_DESC(tdp_mmu, "Second-level page tables: there is nothing else");

static bool ignore_msrs;
module_param(ignore_msrs, bool, 0644);
MODULE_PARM_DESC(ignore_msrs, "Let unknown MSRs be: they read 0, and writes do nothing");

static bool report_ignored_msrs = true;
module_param(report_ignored_msrs, bool, 0644);
MODULE_PARM_DESC(report_ignored_msrs, "Log what ignore_msrs lets pass");

bool shim_ignore_msrs(void)
{
	return READ_ONCE(ignore_msrs);
}

bool shim_report_ignored_msrs(void)
{
	return READ_ONCE(report_ignored_msrs);
}
