// SPDX-License-Identifier: GPL-2.0
/*
 * Parameters of the kernel's kvm.ko that programs look for in /sys/module/kvm/parameters, where the
 * parameters of Rust modules do not appear. What they would turn on is not there: they can be read,
 * and set to nothing but off.
 */
#include <linux/errno.h>
#include <linux/kstrtox.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

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
module_param_cb(ignore_msrs, &off_bool, &off, 0444);
__MODULE_PARM_TYPE(ignore_msrs, "bool");
MODULE_PARM_DESC(ignore_msrs, "Let unknown MSRs be: they raise #GP");
module_param_cb(force_emulation_prefix, &off_int, &zero, 0444);
__MODULE_PARM_TYPE(force_emulation_prefix, "int");
MODULE_PARM_DESC(force_emulation_prefix, "A prefix that has instructions emulated: there is none");
