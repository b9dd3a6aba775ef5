// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel services that exist for C only as macros and static inlines, as functions that
 * bindgen can bind. Nothing is decided here.
 */
#include <linux/anon_inodes.h>
#include <linux/capability.h>
#include <linux/context_tracking.h>
#include <linux/cpu.h>
#include <linux/cpuhotplug.h>
#include <linux/entry-virt.h>
#include <linux/fs.h>
#include <linux/kmemleak.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/pid_namespace.h>
#include <linux/poll.h>
#include <linux/rcuwait.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/stat.h>
#include <linux/sched/task.h>
#include <linux/smp.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#include <asm/apic.h>
#include <asm/cpu_entry_area.h>
#include <asm/debugreg.h>
#include <asm/desc.h>
#include <asm/entry-common.h>
#include <asm/fpu/api.h>
#include <asm/fpu/xcr.h>
#include <asm/irq_vectors.h>
#include <asm/mce.h>
#include <asm/mmu_context.h>
#include <asm/msr.h>
#include <asm/tlbflush.h>
#include <asm/trapnr.h>
#include <asm/tsc.h>
#include <asm/virt.h>

#include <trace/events/ipi.h>

#include "shim.h"

bool shim_may_reboot(void)
{
	return capable(CAP_SYS_BOOT);
}

bool shim_virt_rebooting(void)
{
	return READ_ONCE(virt_rebooting);
}

void shim_set_virt_rebooting(void)
{
	WRITE_ONCE(virt_rebooting, true);
}

u64 shim_cr4_read_shadow(void)
{
	return cr4_read_shadow();
}

void shim_cr4_set_bits(u64 bits)
{
	cr4_set_bits(bits);
}

void shim_cr4_clear_bits(u64 bits)
{
	cr4_clear_bits(bits);
}

u64 shim_current_cr3(void)
{
	return __get_current_cr3_fast();
}

int shim_rdmsr_safe(u32 msr, u64 *value)
{
	return rdmsrq_safe(msr, value);
}

int shim_wrmsr_safe(u32 msr, u64 value)
{
	return wrmsrq_safe(msr, value);
}

void shim_irq_disable(void)
{
	local_irq_disable();
}

void shim_irq_enable(void)
{
	local_irq_enable();
}

bool shim_irqs_disabled(void)
{
	return irqs_disabled();
}

void shim_preempt_disable(void)
{
	preempt_disable();
}

void shim_preempt_enable(void)
{
	preempt_enable();
}

u32 shim_tsc_khz(void)
{
	return tsc_khz;
}

u64 shim_host_xcr0(void)
{
	return boot_cpu_has(X86_FEATURE_XSAVE) ? xgetbv(XCR_XFEATURE_ENABLED_MASK) : 0;
}

bool shim_tsc_stable(void)
{
	return !check_tsc_unstable();
}

static void shim_acknowledge_kick(void *unused)
{
}

void shim_kick_cpus(const struct cpumask *cpus)
{
	smp_call_function_many(cpus, shim_acknowledge_kick, NULL, true);
}

int shim_call_on_cpu(int cpu, void (*func)(void *), void *arg)
{
	return smp_call_function_single(cpu, func, arg, true);
}

void shim_on_each_cpu(void (*func)(void *), void *arg)
{
	on_each_cpu(func, arg, true);
}

/* Takes the features out of an answer of CPUID's that this kernel does not use on this machine. */
void shim_mask_cpuid(u32 function, u32 index, u32 words[4])
{
	const u32 *used = boot_cpu_data.x86_capability;

	switch (function) {
	case 1:
		words[2] &= used[CPUID_1_ECX];
		words[3] &= used[CPUID_1_EDX];
		break;
	case 7:
		if (index)
			break;
		words[1] &= used[CPUID_7_0_EBX];
		words[2] &= used[CPUID_7_ECX];
		words[3] &= used[CPUID_7_EDX];
		break;
	case 0xd:
		if (index == 1)
			words[0] &= used[CPUID_D_1_EAX];
		break;
	case 0x80000001:
		words[2] &= used[CPUID_8000_0001_ECX];
		words[3] &= used[CPUID_8000_0001_EDX];
		break;
	}
}

u32 shim_cpumask_longs(void)
{
	return BITS_TO_LONGS(max_t(unsigned int, nr_cpumask_bits, nr_cpu_ids));
}

bool shim_cpu_online(int cpu)
{
	return cpu_online(cpu);
}

void shim_read_host_state(struct shim_host_state *state)
{
	struct desc_ptr idt;
	u64 value;

	store_idt(&idt);
	state->cr0 = read_cr0();
	rdmsrq(MSR_EFER, state->efer);
	rdmsrq(MSR_IA32_CR_PAT, state->pat);
	state->idt_base = idt.address;
	rdmsrq(MSR_IA32_SYSENTER_EIP, state->sysenter_eip);
	rdmsrq(MSR_IA32_SYSENTER_CS, value);
	state->sysenter_cs = value;
	state->cs = __KERNEL_CS;
	state->ss = __KERNEL_DS;
	state->tr = GDT_ENTRY_TSS * 8;
}

void shim_read_cpu_state(struct shim_cpu_state *state)
{
	int cpu = raw_smp_processor_id();

	state->tr_base = (u64)&get_cpu_entry_area(cpu)->tss.x86_tss;
	state->gdt_base = (u64)get_current_gdt_ro();
	state->gs_base = cpu_kernelmode_gs_base(cpu);
	rdmsrq(MSR_IA32_SYSENTER_ESP, state->sysenter_esp);
}

void shim_save_thread_state(struct shim_thread_state *state)
{
	savesegment(ds, state->ds);
	savesegment(es, state->es);
	store_ldt(state->ldt);
	/* Writes FS, GS and their bases to current->thread, wherever they live now. */
	current_save_fsgs();
	state->fs = current->thread.fsindex;
	state->gs = current->thread.gsindex;
	state->fs_base = current->thread.fsbase;
	state->kernel_gs_base = current->thread.gsbase;
}

void shim_restore_thread_state(const struct shim_thread_state *state)
{
	if (unlikely(state->ldt))
		asm volatile("lldt %0" : : "m" (state->ldt));
	if (unlikely(state->gs))
		load_gs_index(state->gs);
	if (unlikely(state->fs)) {
		loadsegment(fs, state->fs);
		wrmsrq(MSR_FS_BASE, state->fs_base);
	}
	if (unlikely(state->ds | state->es)) {
		loadsegment(ds, state->ds);
		loadsegment(es, state->es);
	}
	wrmsrq(MSR_KERNEL_GS_BASE, state->kernel_gs_base);
	/* An exit leaves the limits of the TSS and the GDT at their defaults. */
	invalidate_tss_limit();
	load_fixmap_gdt(raw_smp_processor_id());
}

void shim_guest_enter_irqoff(void)
{
	guest_timing_enter_irqoff();
	guest_state_enter_irqoff();
}

/*
 * As guest_state_exit_irqoff(), but RCU is not told of a quiet moment: it was, on the way in, and
 * will be again.
 */
void shim_guest_exit_irqoff(void)
{
	lockdep_hardirqs_off(CALLER_ADDR0);
	(void)context_tracking_guest_exit();
	instrumentation_begin();
	trace_hardirqs_off_finish();
	instrumentation_end();
}

/* Back to guest mode in the middle of a turn: RCU was told of a quiet moment when it began. */
void shim_guest_reenter_irqoff(void)
{
	instrumentation_begin();
	trace_hardirqs_on_prepare();
	lockdep_hardirqs_on_prepare();
	instrumentation_end();
	(void)context_tracking_guest_enter();
	lockdep_hardirqs_on(CALLER_ADDR0);
}

void shim_guest_timing_exit_irqoff(void)
{
	guest_timing_exit_irqoff();
}

void shim_handle_interrupt(u32 vector)
{
	x86_entry_from_kvm(EVENT_TYPE_EXTINT, vector);
}

void shim_handle_nmi(void)
{
	x86_entry_from_kvm(EVENT_TYPE_NMI, NMI_VECTOR);
}

void shim_handle_machine_check(void)
{
#ifdef CONFIG_X86_MCE
	struct pt_regs regs = {
		.cs = 3, /* As if it had come from user mode: the guest is not the kernel. */
		.flags = X86_EFLAGS_IF,
	};

	do_machine_check(&regs);
#endif
}

bool shim_guest_work_pending(void)
{
	return __xfer_to_guest_mode_work_pending();
}

int shim_handle_guest_work(void)
{
	return xfer_to_guest_mode_handle_work();
}

bool shim_counts_run_delay(void)
{
	return sched_info_on();
}

u64 shim_run_delay(void)
{
#ifdef CONFIG_SCHED_INFO
	return current->sched_info.run_delay;
#else
	return 0;
#endif
}

bool shim_is_runnable(void)
{
	return task_is_runnable(current);
}

bool shim_yield_to(pid_t thread)
{
	struct task_struct *task;
	bool yielded;

	rcu_read_lock();
	task = pid_task(find_pid_ns(thread, &init_pid_ns), PIDTYPE_PID);
	/* The number may be another's by now. */
	if (task && same_thread_group(task, current))
		get_task_struct(task);
	else
		task = NULL;
	rcu_read_unlock();
	if (!task)
		return false;
	yielded = yield_to(task, true) > 0;
	put_task_struct(task);
	return yielded;
}

void shim_load_guest_fpu_if_needed(void)
{
	fpregs_assert_state_consistent();
	if (test_thread_flag(TIF_NEED_FPU_LOAD))
		switch_fpu_return();
}

void *shim_guest_fpu_fxsave(struct fpu_guest *fpu, u32 *size)
{
	*size = sizeof(fpu->fpstate->regs.fxsave);
	return &fpu->fpstate->regs.fxsave;
}

u64 shim_guest_fpu_permitted(void)
{
	return xstate_get_guest_group_perm();
}

bool shim_hw_breakpoint_active(void)
{
	return hw_breakpoint_active();
}

void shim_hw_breakpoint_restore(void)
{
	hw_breakpoint_restore();
}

static_assert(sizeof(sigset_t) == sizeof(u64));

void shim_sigmask_swap(const u64 *new_mask, u64 *old_mask)
{
	sigprocmask(SIG_SETMASK, (sigset_t *)new_mask, (sigset_t *)old_mask);
}

void shim_sigmask_restore(const u64 *old_mask)
{
	sigprocmask(SIG_SETMASK, (sigset_t *)old_mask, NULL);
}

void *shim_virt_from_phys(u64 phys)
{
	return phys_to_virt(phys);
}

void shim_kmemleak_ignore(const void *virt)
{
	kmemleak_ignore(virt);
}

u64 shim_phys_from_virt(const void *virt)
{
	return virt_to_phys((void *)virt);
}

u64 shim_page_phys(struct page *page)
{
	return page_to_phys(page);
}

int shim_get_user_page(u64 hva, bool write, struct page **page)
{
	unsigned int flags = FOLL_HWPOISON | (write ? FOLL_WRITE : 0);

	return get_user_pages_unlocked(hva, 1, page, flags);
}

bool shim_try_get_user_page(u64 hva, bool write, struct page **page)
{
	return get_user_page_fast_only(hva, write ? FOLL_WRITE : 0, page);
}

/* 1, 0 where it would have to be fetched first, or an error. */
int shim_get_user_page_nowait(u64 hva, bool write, struct page **page)
{
	unsigned int flags = FOLL_HWPOISON | FOLL_NOWAIT | (write ? FOLL_WRITE : 0);

	return get_user_pages_unlocked(hva, 1, page, flags);
}

void shim_fault_in(struct mm_struct *mm, u64 hva)
{
	int locked = 1;

	if (!mmget_not_zero(mm))
		return;
	mmap_read_lock(mm);
	get_user_pages_remote(mm, hva, 1, FOLL_WRITE, NULL, &locked);
	if (locked)
		mmap_read_unlock(mm);
	mmput(mm);
}

bool shim_vma_is_shared(struct vm_area_struct *vma)
{
	return vma->vm_flags & VM_SHARED;
}

u64 shim_vma_pages(struct vm_area_struct *vma)
{
	return vma_pages(vma);
}

void shim_get_page(struct page *page)
{
	get_page(page);
}

void shim_put_page(struct page *page, bool dirty)
{
	if (dirty)
		set_page_dirty_lock(page);
	put_page(page);
}

/*
 * log2 of the bytes that one entry of the VMM's page tables maps at hva; 0 where nothing is
 * mapped. Tables are freed only after every CPU took an interrupt, so interrupts off keep them.
 */
int shim_host_mapping_shift(struct mm_struct *mm, u64 hva)
{
	unsigned long flags;
	int shift = 0;
	pgd_t pgd;
	p4d_t p4d;
	pud_t pud;
	pmd_t pmd;

	local_irq_save(flags);

	pgd = pgdp_get(pgd_offset(mm, hva));
	if (pgd_none(pgd))
		goto out;
	p4d = p4dp_get(p4d_offset_lockless(pgd_offset(mm, hva), pgd, hva));
	if (p4d_none(p4d) || !p4d_present(p4d))
		goto out;
	pud = pudp_get(pud_offset_lockless(&p4d, p4d, hva));
	if (pud_none(pud) || !pud_present(pud))
		goto out;
	shift = PUD_SHIFT;
	if (pud_leaf(pud))
		goto out;
	shift = 0;
	pmd = pmdp_get(pmd_offset_lockless(&pud, pud, hva));
	if (pmd_none(pmd) || !pmd_present(pmd))
		goto out;
	shift = pmd_leaf(pmd) ? PMD_SHIFT : PAGE_SHIFT;
out:
	local_irq_restore(flags);
	return shift;
}

int shim_get_user_u32(u64 hva, u32 *value)
{
	return get_user(*value, (u32 __user *)hva);
}

int shim_put_user_u32(u64 hva, u32 value)
{
	return put_user(value, (u32 __user *)hva);
}

int shim_put_user_u64(u64 hva, u64 value)
{
	return put_user(value, (u64 __user *)hva);
}

int shim_get_user_u64(u64 hva, u64 *value)
{
	return get_user(*value, (u64 __user *)hva);
}

/* Swaps *value with the byte at hva. */
int shim_exchange_user_u8(u64 hva, u8 *value)
{
	u8 __user *place = (u8 __user *)hva;
	u8 old;

	if (get_user(old, place) || !user_access_begin(place, sizeof(*place)))
		return -EFAULT;
	while (!unsafe_try_cmpxchg_user(place, &old, *value, fault))
		;
	user_access_end();
	*value = old;
	return 0;
fault:
	user_access_end();
	return -EFAULT;
}

int shim_write_user_nofault(u64 hva, const void *from, u64 size)
{
	return copy_to_user_nofault((void __user *)hva, from, size);
}

/* 0: done, 1: there was another value, -EFAULT: no memory. */
int shim_cmpxchg_user(u64 hva, u64 old, u64 new, u32 size)
{
	u64 old64 = old;
	u32 old32 = old;
	u16 old16 = old;
	u8 old8 = old;

	if (!access_ok((void __user *)hva, size))
		return -EFAULT;
	switch (size) {
	case 1:
		return __try_cmpxchg_user((u8 __user *)hva, &old8, (u8)new, fault8);
	case 2:
		return __try_cmpxchg_user((u16 __user *)hva, &old16, (u16)new, fault16);
	case 4:
		return __try_cmpxchg_user((u32 __user *)hva, &old32, (u32)new, fault32);
	case 8:
		return __try_cmpxchg_user((u64 __user *)hva, &old64, new, fault64);
	}
	return -EFAULT;
}

/* `words` are pairs of an address and a value. */
bool shim_user_words_unchanged(const u64 *words, u32 count)
{
	bool same = true;
	u64 value;
	u32 i;

	pagefault_disable();
	for (i = 0; i < count && same; i++, words += 2)
		same = !get_user(value, (u64 __user *)words[0]) && value == words[1];
	pagefault_enable();
	return same;
}

bool shim_access_ok(u64 addr, u64 size)
{
	return access_ok((void __user *)addr, size);
}

struct mm_struct *shim_current_mm(void)
{
	return current->mm;
}

void shim_mmgrab(struct mm_struct *mm)
{
	mmgrab(mm);
}

void shim_mmdrop(struct mm_struct *mm)
{
	mmdrop(mm);
}

int shim_rcuwait_wait(struct rcuwait *wait, bool (*done)(void *arg), void *arg)
{
	int ret = 0;

	prepare_to_rcuwait(wait);
	for (;;) {
		set_current_state(TASK_INTERRUPTIBLE);
		if (done(arg))
			break;
		if (signal_pending(current)) {
			ret = -EINTR;
			break;
		}
		schedule();
	}
	finish_rcuwait(wait);
	return ret;
}

bool shim_may_poll(void)
{
	return single_task_running() && !need_resched();
}

/* Whatever the CPU runs, a guest too, it looks at its flags: the cheapest interrupt there is. */
void shim_reschedule_cpu(u32 cpu)
{
	smp_send_reschedule(cpu);
}

void shim_notify_posted(u32 cpu)
{
	__apic_send_IPI_mask(get_cpu_mask(cpu), POSTED_INTR_VECTOR);
}

int shim_mutex_lock_killable(struct mutex *mutex)
{
	return mutex_lock_killable(mutex);
}

struct file *shim_anon_inode_getfile(const char *name, const struct file_operations *fops,
				     void *data)
{
	return anon_inode_getfile(name, fops, data, O_RDWR);
}

/* A file to read, at any place in it. */
struct file *shim_anon_inode_getfile_readonly(const char *name,
					      const struct file_operations *fops, void *data)
{
	return anon_inode_getfile_fmode(name, fops, data, O_RDONLY, FMODE_PREAD);
}

struct shim_watch_request {
	poll_table table;
	struct wait_queue_entry *entry;
	int ret;
};

static void shim_add_watch(struct file *file, wait_queue_head_t *queue, poll_table *table)
{
	struct shim_watch_request *request =
		container_of(table, struct shim_watch_request, table);

	request->ret = add_wait_queue_priority_exclusive(queue, request->entry);
}

/* The queue of an eventfd can be had only by polling its file. */
int shim_eventfd_watch(struct file *file, struct wait_queue_entry *entry,
		       int (*wake)(struct wait_queue_entry *entry, unsigned int mode, int flags,
				   void *key),
		       bool *pending)
{
	struct shim_watch_request request = { .entry = entry };

	init_waitqueue_func_entry(entry, wake);
	init_poll_funcptr(&request.table, shim_add_watch);
	*pending = vfs_poll(file, &request.table) & EPOLLIN;
	return request.ret;
}

int shim_cpuhp_setup(int (*online)(unsigned int cpu), int (*offline)(unsigned int cpu))
{
	return cpuhp_setup_state(CPUHP_AP_KVM_ONLINE, "minikvm:online", online, offline);
}

void shim_cpuhp_remove(void)
{
	cpuhp_remove_state(CPUHP_AP_KVM_ONLINE);
}
