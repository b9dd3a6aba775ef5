/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Entering a guest and coming back.
 *
 * What the VMCS does not switch is switched here: the general-purpose registers but RSP.
 */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/cpufeatures.h>
#include <asm/msr-index.h>
#include <asm/nospec-branch.h>
#include <asm/percpu.h>
#include <asm/unwind_hints.h>

/* The register file is an array in the order in which x86 encodes registers. */
#define REG(number) ((number) * 8)

.section .noinstr.text, "ax"

/*
 * bool minikvm_vmx_enter(u64 registers[16], bool launched)
 *
 * Interrupts are off and the VMCS is current. Returns whether the entry failed before it began
 * (VMfail); the guest's registers are then as they were.
 */
SYM_FUNC_START(minikvm_vmx_enter)
	push	%rbp
	mov	%rsp, %rbp
	push	%r15
	push	%r14
	push	%r13
	push	%r12
	push	%rbx
	push	%rdi			/* registers, for the way back */
	push	%rsi			/* launched */

	mov	$0x6c14, %eax		/* HOST_RSP */
.Lhost_rsp:
	vmwrite	%rsp, %rax

	mov	REG(0)(%rdi), %rax
	mov	REG(1)(%rdi), %rcx
	mov	REG(2)(%rdi), %rdx
	mov	REG(3)(%rdi), %rbx
	mov	REG(5)(%rdi), %rbp
	mov	REG(6)(%rdi), %rsi
	mov	REG(8)(%rdi), %r8
	mov	REG(9)(%rdi), %r9
	mov	REG(10)(%rdi), %r10
	mov	REG(11)(%rdi), %r11
	mov	REG(12)(%rdi), %r12
	mov	REG(13)(%rdi), %r13
	mov	REG(14)(%rdi), %r14
	mov	REG(15)(%rdi), %r15
	mov	REG(7)(%rdi), %rdi

	/* What the host left in the buffers of the core is not for the guest to sample. */
	ALTERNATIVE_2 "", __stringify(VERW), X86_FEATURE_CLEAR_CPU_BUF_VM_MMIO, \
		      __stringify(VERW), X86_FEATURE_CLEAR_CPU_BUF_VM

	cmpb	$0, (%rsp)
	je	.Llaunch

	/* An exit goes on at minikvm_vmx_exit, with this very stack. */
	UNWIND_HINT_SAVE

.Lresume:
	vmresume
	jmp	.Lfail
.Llaunch:
	vmlaunch
	jmp	.Lfail

	_ASM_EXTABLE(.Lhost_rsp, .Lfault)
	_ASM_EXTABLE(.Lresume, .Lfault)
	_ASM_EXTABLE(.Llaunch, .Lfault)

SYM_INNER_LABEL_ALIGN(minikvm_vmx_exit, SYM_L_GLOBAL)
	UNWIND_HINT_RESTORE
	ENDBR

	push	%rdi
	mov	16(%rsp), %rdi
	mov	%rax, REG(0)(%rdi)
	mov	%rcx, REG(1)(%rdi)
	mov	%rdx, REG(2)(%rdi)
	mov	%rbx, REG(3)(%rdi)
	mov	%rbp, REG(5)(%rdi)
	mov	%rsi, REG(6)(%rdi)
	pop	REG(7)(%rdi)
	mov	%r8, REG(8)(%rdi)
	mov	%r9, REG(9)(%rdi)
	mov	%r10, REG(10)(%rdi)
	mov	%r11, REG(11)(%rdi)
	mov	%r12, REG(12)(%rdi)
	mov	%r13, REG(13)(%rdi)
	mov	%r14, REG(14)(%rdi)
	mov	%r15, REG(15)(%rdi)
	xor	%ebx, %ebx		/* what is returned */

.Lclear:
	/*
	 * Nothing the guest chose stays in a register that host code could use before writing it,
	 * speculatively included. The callee-saved ones come from the stack.
	 */
	xor	%eax, %eax
	xor	%ecx, %ecx
	xor	%edx, %edx
	xor	%esi, %esi
	xor	%edi, %edi
	xor	%ebp, %ebp
	xor	%r8d, %r8d
	xor	%r9d, %r9d
	xor	%r10d, %r10d
	xor	%r11d, %r11d
	xor	%r12d, %r12d
	xor	%r13d, %r13d
	xor	%r14d, %r14d
	xor	%r15d, %r15d

	/* The guest's calls must not answer our returns. */
	FILL_RETURN_BUFFER %rcx, RSB_CLEAR_LOOPS, X86_FEATURE_RSB_VMEXIT, \
			   X86_FEATURE_RSB_VMEXIT_LITE

	/*
	 * IBRS restricts what was predicted before it was written last, so it is written again. The
	 * guest has no IA32_SPEC_CTRL of its own that would have to be taken away.
	 */
	ALTERNATIVE "jmp .Librs_written", "", X86_FEATURE_KERNEL_IBRS
	mov	$MSR_IA32_SPEC_CTRL, %ecx
	mov	PER_CPU_VAR(x86_spec_ctrl_current), %rdx
	mov	%edx, %eax
	shr	$32, %rdx
	wrmsr
.Librs_written:

	/* Nor are the guest's branches to steer the host's indirect ones. */
	CLEAR_BRANCH_HISTORY_VMEXIT

	mov	%ebx, %eax
	pop	%rbx			/* launched */
	pop	%rbx			/* registers */
	pop	%rbx
	pop	%r12
	pop	%r13
	pop	%r14
	pop	%r15
	pop	%rbp
	RET

	/* VMX instructions fault once the kernel turned VMX off on the way down. */
.Lfault:
	cmpb	$0, virt_rebooting(%rip)
	jne	.Lfail
	ud2
.Lfail:
	mov	$1, %ebx
	jmp	.Lclear
SYM_FUNC_END(minikvm_vmx_enter)
