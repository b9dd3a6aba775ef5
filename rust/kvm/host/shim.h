/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kernel services that exist for C only as macros and static inlines, as functions that
 * bindgen can bind. Nothing is decided here.
 */
#ifndef MINIKVM_SHIM_H
#define MINIKVM_SHIM_H

#include <linux/types.h>
#include <asm/fpu/types.h>

struct cpumask;
struct file;
struct mutex;
struct file_operations;
struct mm_struct;
struct page;
struct wait_queue_entry;

/* Processor: control registers, MSRs, interrupt flag. */
bool shim_may_reboot(void);
bool shim_virt_rebooting(void);
void shim_set_virt_rebooting(void);
u64 shim_cr4_read_shadow(void);
void shim_cr4_set_bits(u64 bits);
void shim_cr4_clear_bits(u64 bits);
u64 shim_current_cr3(void);
int shim_rdmsr_safe(u32 msr, u64 *value);
int shim_wrmsr_safe(u32 msr, u64 value);
void shim_irq_disable(void);
void shim_irq_enable(void);
bool shim_irqs_disabled(void);
void shim_preempt_disable(void);
void shim_preempt_enable(void);
u32 shim_tsc_khz(void);
u64 shim_host_xcr0(void);
bool shim_tsc_stable(void);

/* Running code on other CPUs. */
void shim_kick_cpus(const struct cpumask *cpus);
int shim_call_on_cpu(int cpu, void (*func)(void *), void *arg);
void shim_on_each_cpu(void (*func)(void *), void *arg);
void shim_mask_cpuid(u32 function, u32 index, u32 words[4]);
u32 shim_cpumask_longs(void);
bool shim_cpu_online(int cpu);

/* What the processor must find again when a guest exits. */
struct shim_host_state {
	u64 cr0;
	u64 efer;
	u64 pat;
	u64 idt_base;
	u64 sysenter_eip;
	u32 sysenter_cs;
	u16 cs;
	u16 ss;
	u16 tr;
};
void shim_read_host_state(struct shim_host_state *state);

struct shim_cpu_state {
	u64 tr_base;
	u64 gdt_base;
	u64 gs_base;
	u64 sysenter_esp;
};
void shim_read_cpu_state(struct shim_cpu_state *state);

/* The segment state of the thread that runs a vCPU. */
struct shim_thread_state {
	u64 fs_base;
	u64 kernel_gs_base;
	u16 fs;
	u16 gs;
	u16 ds;
	u16 es;
	u16 ldt;
};
void shim_save_thread_state(struct shim_thread_state *state);
void shim_restore_thread_state(const struct shim_thread_state *state);

/* Guest mode as the scheduler, RCU and lockdep know it. */
void shim_guest_enter_irqoff(void);
void shim_guest_exit_irqoff(void);
void shim_guest_reenter_irqoff(void);
void shim_guest_timing_exit_irqoff(void);
void shim_handle_interrupt(u32 vector);
void shim_handle_nmi(void);
void shim_handle_machine_check(void);
bool shim_guest_work_pending(void);
int shim_handle_guest_work(void);
bool shim_counts_run_delay(void);
u64 shim_run_delay(void);
bool shim_is_runnable(void);
bool shim_yield_to(pid_t thread);

/* FPU and debug registers. */
void shim_load_guest_fpu_if_needed(void);
void *shim_guest_fpu_fxsave(struct fpu_guest *fpu, u32 *size);
u64 shim_guest_fpu_permitted(void);
bool shim_hw_breakpoint_active(void);
void shim_hw_breakpoint_restore(void);

/* Waiting and waking. */
int shim_rcuwait_wait(struct rcuwait *wait, bool (*done)(void *arg), void *arg);
bool shim_may_poll(void);
void shim_reschedule_cpu(u32 cpu);
void shim_notify_posted(u32 cpu);

/* Signal masks; sizes as the kernel's own. */
void shim_sigmask_swap(const u64 *new_mask, u64 *old_mask);
void shim_sigmask_restore(const u64 *old_mask);

/* Memory. */
void *shim_virt_from_phys(u64 phys);
void shim_kmemleak_ignore(const void *virt);
u64 shim_phys_from_virt(const void *virt);
u64 shim_page_phys(struct page *page);
int shim_get_user_page(u64 hva, bool write, struct page **page);
bool shim_try_get_user_page(u64 hva, bool write, struct page **page);
int shim_get_user_page_nowait(u64 hva, bool write, struct page **page);
void shim_fault_in(struct mm_struct *mm, u64 hva);
bool shim_vma_is_shared(struct vm_area_struct *vma);
u64 shim_vma_pages(struct vm_area_struct *vma);
void shim_get_page(struct page *page);
void shim_put_page(struct page *page, bool dirty);
int shim_host_mapping_shift(struct mm_struct *mm, u64 hva);
int shim_get_user_u32(u64 hva, u32 *value);
int shim_put_user_u32(u64 hva, u32 value);
int shim_put_user_u64(u64 hva, u64 value);
int shim_get_user_u64(u64 hva, u64 *value);
bool shim_user_words_unchanged(const u64 *words, u32 count);
int shim_exchange_user_u8(u64 hva, u8 *value);
int shim_write_user_nofault(u64 hva, const void *from, u64 size);
int shim_cmpxchg_user(u64 hva, u64 old, u64 new, u32 size);
bool shim_access_ok(u64 addr, u64 size);
struct mm_struct *shim_current_mm(void);
void shim_mmgrab(struct mm_struct *mm);
void shim_mmdrop(struct mm_struct *mm);

/* Files and locks. */
int shim_mutex_lock_killable(struct mutex *mutex);
struct file *shim_anon_inode_getfile(const char *name, const struct file_operations *fops,
				     void *data);
struct file *shim_anon_inode_getfile_readonly(const char *name,
					      const struct file_operations *fops, void *data);

/* Events. */
int shim_eventfd_watch(struct file *file, struct wait_queue_entry *entry,
		       int (*wake)(struct wait_queue_entry *entry, unsigned int mode, int flags,
				   void *key),
		       bool *pending);

/* Suspend, reboot and CPU hotplug. */
int shim_cpuhp_setup(int (*online)(unsigned int cpu), int (*offline)(unsigned int cpu));
void shim_cpuhp_remove(void);

/* Module parameters (parameters.c). */
bool shim_ignore_msrs(void);
bool shim_report_ignored_msrs(void);

#endif /* MINIKVM_SHIM_H */
