// SPDX-License-Identifier: GPL-2.0
/*
 * What the kernel's mitigations of speculative execution ask of a hypervisor, beside what stands
 * in vmx/enter.S: each follows the state that the kernel itself chose for this processor.
 */
#include <linux/cpu.h>
#include <linux/gfp.h>
#include <linux/hardirq.h>
#include <linux/jump_label.h>
#include <linux/mm.h>

#include <asm/cpufeature.h>
#include <asm/msr.h>
#include <asm/nospec-branch.h>
#include <asm/processor.h>
#include <asm/spec-ctrl.h>
#include <asm/vmx.h>

#include "speculation.h"

void shim_another_guest(void)
{
	if (static_branch_likely(&switch_vcpu_ibpb))
		indirect_branch_prediction_barrier();
}

bool shim_has_itlb_multihit(void)
{
	return boot_cpu_has_bug(X86_BUG_ITLB_MULTIHIT) && !cpu_mitigations_off();
}

void shim_report_itlb_multihit(bool mitigated)
{
	itlb_multihit_kvm_mitigation = mitigated;
}

bool shim_has_ibpb_exit_to_user(void)
{
	return boot_cpu_has(X86_FEATURE_IBPB_EXIT_TO_USER);
}

void shim_guest_left(void)
{
	this_cpu_write(x86_ibpb_exit_to_user, true);
}

#ifdef CONFIG_CPU_MITIGATIONS

/* As large as the largest L1D of the processors that have no command to flush it. */
#define L1D_ORDER 4

static u8 *l1d_fill;

/* Whether each entry flushes, whatever was done before it. */
static bool l1d_flush_always;

int shim_l1d_setup(void)
{
	u64 capabilities = 0;

	if (boot_cpu_has(X86_FEATURE_ARCH_CAPABILITIES))
		rdmsrq(MSR_IA32_ARCH_CAPABILITIES, capabilities);
	if (!boot_cpu_has_bug(X86_BUG_L1TF) || capabilities & ARCH_CAP_SKIP_VMENTRY_L1DFLUSH) {
		l1tf_vmx_mitigation = VMENTER_L1D_FLUSH_NOT_REQUIRED;
		return 0;
	}
	if (l1tf_mitigation == L1TF_MITIGATION_OFF) {
		l1tf_vmx_mitigation = VMENTER_L1D_FLUSH_NEVER;
		return 0;
	}
	if (!boot_cpu_has(X86_FEATURE_FLUSH_L1D)) {
		unsigned long pages = __get_free_pages(GFP_KERNEL, L1D_ORDER);
		int i;

		if (!pages)
			return -ENOMEM;
		l1d_fill = (u8 *)pages;
		/* Different, or a host below might merge them into one page. */
		for (i = 0; i < 1 << L1D_ORDER; i++)
			memset(l1d_fill + i * PAGE_SIZE, i + 1, PAGE_SIZE);
	}
	l1d_flush_always = !IS_ENABLED(CONFIG_KVM_INTEL) ||
			   l1tf_mitigation == L1TF_MITIGATION_FULL ||
			   l1tf_mitigation == L1TF_MITIGATION_FULL_FORCE;
	l1tf_vmx_mitigation =
		l1d_flush_always ? VMENTER_L1D_FLUSH_ALWAYS : VMENTER_L1D_FLUSH_COND;
	return 1;
}

void shim_l1d_cleanup(void)
{
	l1tf_vmx_mitigation = VMENTER_L1D_FLUSH_AUTO;
	free_pages((unsigned long)l1d_fill, L1D_ORDER);
	l1d_fill = NULL;
}

/*
 * The kernel's interrupts set the flag of their CPU where the kernel was built with its own KVM; without
 * that, there is none.
 */
#if IS_ENABLED(CONFIG_KVM_INTEL)
static bool l1d_is_clean(void)
{
	if (l1d_flush_always)
		return false;
	if (!kvm_get_cpu_l1tf_flush_l1d())
		return true;
	kvm_clear_cpu_l1tf_flush_l1d();
	return false;
}

/* Whoever moves to another CPU in between sets that one's flag as well, when it arrives. */
void shim_l1d_is_used(void)
{
	raw_cpu_write(irq_stat.kvm_cpu_l1tf_flush_l1d, 1);
}
#else
static bool l1d_is_clean(void)
{
	return false;
}

void shim_l1d_is_used(void)
{
}
#endif

void shim_l1d_flush(void)
{
	unsigned int offset;

	if (l1d_is_clean())
		return;
	if (cpu_feature_enabled(X86_FEATURE_FLUSH_L1D)) {
		native_wrmsrq(MSR_IA32_FLUSH_CMD, L1D_FLUSH);
		return;
	}
	/* The translations first, so that the walks for them do not evict what was filled. */
	for (offset = 0; offset < PAGE_SIZE << L1D_ORDER; offset += PAGE_SIZE)
		READ_ONCE(l1d_fill[offset]);
	sync_core();
	for (offset = 0; offset < PAGE_SIZE << L1D_ORDER; offset += SMP_CACHE_BYTES)
		READ_ONCE(l1d_fill[offset]);
	barrier_nospec();
}

#else

int shim_l1d_setup(void)
{
	return 0;
}

void shim_l1d_cleanup(void)
{
}

void shim_l1d_flush(void)
{
}

void shim_l1d_is_used(void)
{
}

#endif
