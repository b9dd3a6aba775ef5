/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The tracepoints, under the names, with the fields and in the words that KVM's have: what perf,
 * trace-cmd and kvm_stat read is this. Each is called from Rust (host/trace.rs) with the values of
 * its fields.
 *
 * Those that may come from the inner loop are TRACE_EVENT_FN: the loop looks after them only while
 * somebody listens to one of them.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM kvm

#if !defined(MINIKVM_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define MINIKVM_TRACE_H

#include <linux/atomic.h>
#include <linux/kvm.h>
#include <linux/tracepoint.h>
#include <asm/apicdef.h>
#include <asm/vmx.h>

extern atomic_t minikvm_watchers;
int minikvm_watch(void);
void minikvm_unwatch(void);

#define minikvm_delivery_modes						\
	{ 0, "Fixed" }, { 1, "LowPrio" }, { 2, "SMI" }, { 3, "Res3" },	\
	{ 4, "NMI" }, { 5, "INIT" }, { 6, "SIPI" }, { 7, "ExtINT" }

/* Into the guest and out of it. */

TRACE_EVENT_FN(kvm_entry,
	TP_PROTO(u32 vcpu_id, u64 rip, bool immediate_exit, u32 intr_info,
		 u32 error_code),
	TP_ARGS(vcpu_id, rip, immediate_exit, intr_info, error_code),
	TP_STRUCT__entry(
		__field(unsigned int, vcpu_id)
		__field(unsigned long, rip)
		__field(bool, immediate_exit)
		__field(u32, intr_info)
		__field(u32, error_code)
	),
	TP_fast_assign(
		__entry->vcpu_id = vcpu_id;
		__entry->rip = rip;
		__entry->immediate_exit = immediate_exit;
		__entry->intr_info = intr_info;
		__entry->error_code = error_code;
	),
	TP_printk("vcpu %u, rip 0x%lx intr_info 0x%08x error_code 0x%08x%s", __entry->vcpu_id,
		  __entry->rip, __entry->intr_info, __entry->error_code,
		  __entry->immediate_exit ? "[immediate exit]" : ""),
	minikvm_watch, minikvm_unwatch
);

TRACE_EVENT_FN(kvm_exit,
	TP_PROTO(u32 vcpu_id, u64 rip, u32 isa, u32 reason, u64 info1, u64 info2,
		 u32 intr_info, u32 error_code, u64 requests),
	TP_ARGS(vcpu_id, rip, isa, reason, info1, info2, intr_info, error_code, requests),
	TP_STRUCT__entry(
		__field(unsigned int, exit_reason)
		__field(unsigned long, guest_rip)
		__field(u32, isa)
		__field(u64, info1)
		__field(u64, info2)
		__field(u32, intr_info)
		__field(u32, error_code)
		__field(unsigned int, vcpu_id)
		__field(u64, requests)
	),
	TP_fast_assign(
		__entry->exit_reason = reason;
		__entry->guest_rip = rip;
		__entry->isa = isa;
		__entry->info1 = info1;
		__entry->info2 = info2;
		__entry->intr_info = intr_info;
		__entry->error_code = error_code;
		__entry->vcpu_id = vcpu_id;
		__entry->requests = requests;
	),
	TP_printk("vcpu %u reason %s%s%s rip 0x%lx info1 0x%016llx info2 0x%016llx "
		  "intr_info 0x%08x error_code 0x%08x requests 0x%016llx",
		  __entry->vcpu_id,
		  __print_symbolic(__entry->exit_reason & 0xffff, VMX_EXIT_REASONS),
		  __entry->exit_reason & ~0xffff ? " " : "",
		  __print_flags(__entry->exit_reason & ~0xffff, " ", VMX_EXIT_REASON_FLAGS),
		  __entry->guest_rip, __entry->info1, __entry->info2, __entry->intr_info,
		  __entry->error_code, __entry->requests),
	minikvm_watch, minikvm_unwatch
);

#define MINIKVM_USER_EXIT(name) { KVM_EXIT_##name, "KVM_EXIT_" #name }

TRACE_EVENT(kvm_userspace_exit,
	TP_PROTO(u32 reason, int error),
	TP_ARGS(reason, error),
	TP_STRUCT__entry(
		__field(__u32, reason)
		__field(int, errno)
	),
	TP_fast_assign(
		__entry->reason = reason;
		__entry->errno = error;
	),
	TP_printk("reason %s (%d)",
		  __entry->errno < 0 ?
			(__entry->errno == -EINTR ? "restart" : "error") :
			__print_symbolic(__entry->reason,
				MINIKVM_USER_EXIT(UNKNOWN), MINIKVM_USER_EXIT(EXCEPTION),
				MINIKVM_USER_EXIT(IO), MINIKVM_USER_EXIT(HYPERCALL),
				MINIKVM_USER_EXIT(DEBUG), MINIKVM_USER_EXIT(HLT),
				MINIKVM_USER_EXIT(MMIO), MINIKVM_USER_EXIT(IRQ_WINDOW_OPEN),
				MINIKVM_USER_EXIT(SHUTDOWN), MINIKVM_USER_EXIT(FAIL_ENTRY),
				MINIKVM_USER_EXIT(INTR), MINIKVM_USER_EXIT(SET_TPR),
				MINIKVM_USER_EXIT(TPR_ACCESS), MINIKVM_USER_EXIT(NMI),
				MINIKVM_USER_EXIT(INTERNAL_ERROR),
				MINIKVM_USER_EXIT(SYSTEM_EVENT),
				MINIKVM_USER_EXIT(IOAPIC_EOI), MINIKVM_USER_EXIT(HYPERV),
				MINIKVM_USER_EXIT(X86_RDMSR),
				MINIKVM_USER_EXIT(X86_WRMSR)),
		  __entry->errno < 0 ? -__entry->errno : __entry->reason)
);

TRACE_EVENT(kvm_fpu,
	TP_PROTO(u32 load),
	TP_ARGS(load),
	TP_STRUCT__entry(
		__field(u32, load)
	),
	TP_fast_assign(
		__entry->load = load;
	),
	TP_printk("%s", __print_symbolic(__entry->load, { 0, "unload" }, { 1, "load" }))
);

/* Instructions. */

TRACE_EVENT_FN(kvm_cpuid,
	TP_PROTO(u32 function, u32 index, u64 rax, u64 rbx,
		 u64 rcx, u64 rdx, bool found, bool used_max_basic),
	TP_ARGS(function, index, rax, rbx, rcx, rdx, found, used_max_basic),
	TP_STRUCT__entry(
		__field(unsigned int, function)
		__field(unsigned int, index)
		__field(unsigned long, rax)
		__field(unsigned long, rbx)
		__field(unsigned long, rcx)
		__field(unsigned long, rdx)
		__field(bool, found)
		__field(bool, used_max_basic)
	),
	TP_fast_assign(
		__entry->function = function;
		__entry->index = index;
		__entry->rax = rax;
		__entry->rbx = rbx;
		__entry->rcx = rcx;
		__entry->rdx = rdx;
		__entry->found = found;
		__entry->used_max_basic = used_max_basic;
	),
	TP_printk("func %x idx %x rax %lx rbx %lx rcx %lx rdx %lx, cpuid entry %s%s",
		  __entry->function, __entry->index, __entry->rax, __entry->rbx, __entry->rcx,
		  __entry->rdx, __entry->found ? "found" : "not found",
		  __entry->used_max_basic ? ", used max basic" : ""),
	minikvm_watch, minikvm_unwatch
);

TRACE_EVENT_FN(kvm_hypercall,
	TP_PROTO(u64 nr, u64 a0, u64 a1, u64 a2,
		 u64 a3),
	TP_ARGS(nr, a0, a1, a2, a3),
	TP_STRUCT__entry(
		__field(unsigned long, nr)
		__field(unsigned long, a0)
		__field(unsigned long, a1)
		__field(unsigned long, a2)
		__field(unsigned long, a3)
	),
	TP_fast_assign(
		__entry->nr = nr;
		__entry->a0 = a0;
		__entry->a1 = a1;
		__entry->a2 = a2;
		__entry->a3 = a3;
	),
	TP_printk("nr 0x%lx a0 0x%lx a1 0x%lx a2 0x%lx a3 0x%lx", __entry->nr, __entry->a0,
		  __entry->a1, __entry->a2, __entry->a3),
	minikvm_watch, minikvm_unwatch
);

TRACE_EVENT_FN(kvm_msr,
	TP_PROTO(bool write, u32 ecx, u64 data, bool exception),
	TP_ARGS(write, ecx, data, exception),
	TP_STRUCT__entry(
		__field(unsigned, write)
		__field(u32, ecx)
		__field(u64, data)
		__field(u8, exception)
	),
	TP_fast_assign(
		__entry->write = write;
		__entry->ecx = ecx;
		__entry->data = data;
		__entry->exception = exception;
	),
	TP_printk("msr_%s %x = 0x%llx%s", __entry->write ? "write" : "read", __entry->ecx,
		  __entry->data, __entry->exception ? " (#GP)" : ""),
	minikvm_watch, minikvm_unwatch
);

TRACE_EVENT(kvm_cr,
	TP_PROTO(bool write, u32 cr, u64 val),
	TP_ARGS(write, cr, val),
	TP_STRUCT__entry(
		__field(unsigned int, rw)
		__field(unsigned int, cr)
		__field(unsigned long, val)
	),
	TP_fast_assign(
		__entry->rw = write;
		__entry->cr = cr;
		__entry->val = val;
	),
	TP_printk("cr_%s %x = 0x%lx", __entry->rw ? "write" : "read", __entry->cr, __entry->val)
);

TRACE_EVENT(kvm_pio,
	TP_PROTO(bool write, u32 port, u32 size, u32 count, u32 val),
	TP_ARGS(write, port, size, count, val),
	TP_STRUCT__entry(
		__field(unsigned int, rw)
		__field(unsigned int, port)
		__field(unsigned int, size)
		__field(unsigned int, count)
		__field(unsigned int, val)
	),
	TP_fast_assign(
		__entry->rw = write;
		__entry->port = port;
		__entry->size = size;
		__entry->count = count;
		__entry->val = val;
	),
	TP_printk("pio_%s at 0x%x size %d count %d val 0x%x %s",
		  __entry->rw ? "write" : "read", __entry->port, __entry->size, __entry->count,
		  __entry->val, __entry->count > 1 ? "(...)" : "")
);

/* What emulation runs in (host/trace.rs knows these, too). */
#define MINIKVM_INSN_PE 1
#define MINIKVM_INSN_VM 2
#define MINIKVM_INSN_CS_D 4
#define MINIKVM_INSN_CS_L 8

TRACE_EVENT(kvm_emulate_insn,
	TP_PROTO(u64 rip, u32 csbase, const u8 *bytes, u8 len, u8 flags, bool failed),
	TP_ARGS(rip, csbase, bytes, len, flags, failed),
	TP_STRUCT__entry(
		__field(__u64, rip)
		__field(__u32, csbase)
		__field(__u8, len)
		__array(__u8, insn, 15)
		__field(__u8, flags)
		__field(__u8, failed)
	),
	TP_fast_assign(
		__entry->rip = rip;
		__entry->csbase = csbase;
		__entry->len = len;
		memcpy(__entry->insn, bytes, 15);
		__entry->flags = flags;
		__entry->failed = failed;
	),
	TP_printk("%x:%llx:%s (%s)%s", __entry->csbase, __entry->rip,
		  __print_hex(__entry->insn, __entry->len),
		  __print_symbolic(__entry->flags,
				   { 0, "real" },
				   { MINIKVM_INSN_PE | MINIKVM_INSN_VM, "vm16" },
				   { MINIKVM_INSN_PE, "prot16" },
				   { MINIKVM_INSN_PE | MINIKVM_INSN_CS_D, "prot32" },
				   { MINIKVM_INSN_PE | MINIKVM_INSN_CS_L, "prot64" }),
		  __entry->failed ? " failed" : "")
);

/* Memory. */

TRACE_EVENT(kvm_page_fault,
	TP_PROTO(u32 vcpu_id, u64 rip, u64 address, u64 error_code),
	TP_ARGS(vcpu_id, rip, address, error_code),
	TP_STRUCT__entry(
		__field(unsigned int, vcpu_id)
		__field(unsigned long, guest_rip)
		__field(u64, fault_address)
		__field(u64, error_code)
	),
	TP_fast_assign(
		__entry->vcpu_id = vcpu_id;
		__entry->guest_rip = rip;
		__entry->fault_address = address;
		__entry->error_code = error_code;
	),
	TP_printk("vcpu %u rip 0x%lx address 0x%016llx error_code 0x%llx", __entry->vcpu_id,
		  __entry->guest_rip, __entry->fault_address, __entry->error_code)
);

TRACE_EVENT(kvm_mmio,
	TP_PROTO(u32 type, u32 len, u64 gpa, u64 val),
	TP_ARGS(type, len, gpa, val),
	TP_STRUCT__entry(
		__field(u32, type)
		__field(u32, len)
		__field(u64, gpa)
		__field(u64, val)
	),
	TP_fast_assign(
		__entry->type = type;
		__entry->len = len;
		__entry->gpa = gpa;
		__entry->val = val;
	),
	TP_printk("mmio %s len %u gpa 0x%llx val 0x%llx",
		  __print_symbolic(__entry->type, { 0, "unsatisfied-read" }, { 1, "read" },
				   { 2, "write" }),
		  __entry->len, __entry->gpa, __entry->val)
);

TRACE_EVENT(kvm_unmap_hva_range,
	TP_PROTO(u64 start, u64 end),
	TP_ARGS(start, end),
	TP_STRUCT__entry(
		__field(unsigned long, start)
		__field(unsigned long, end)
	),
	TP_fast_assign(
		__entry->start = start;
		__entry->end = end;
	),
	TP_printk("mmu notifier unmap range: %#016lx -- %#016lx", __entry->start, __entry->end)
);

/* Events for the guest. */

TRACE_EVENT_FN(kvm_inj_virq,
	TP_PROTO(u32 vector, bool soft, bool reinjected),
	TP_ARGS(vector, soft, reinjected),
	TP_STRUCT__entry(
		__field(unsigned int, vector)
		__field(bool, soft)
		__field(bool, reinjected)
	),
	TP_fast_assign(
		__entry->vector = vector;
		__entry->soft = soft;
		__entry->reinjected = reinjected;
	),
	TP_printk("%s 0x%x%s", __entry->soft ? "Soft/INTn" : "IRQ", __entry->vector,
		  __entry->reinjected ? " [reinjected]" : ""),
	minikvm_watch, minikvm_unwatch
);

#define MINIKVM_EXCEPTION(name) { name##_VECTOR, "#" #name }

TRACE_EVENT_FN(kvm_inj_exception,
	TP_PROTO(u8 vector, bool has_error, u32 error_code, bool reinjected),
	TP_ARGS(vector, has_error, error_code, reinjected),
	TP_STRUCT__entry(
		__field(u8, exception)
		__field(u8, has_error)
		__field(u32, error_code)
		__field(bool, reinjected)
	),
	TP_fast_assign(
		__entry->exception = vector;
		__entry->has_error = has_error;
		__entry->error_code = error_code;
		__entry->reinjected = reinjected;
	),
	TP_printk("%s%s%s%s%s",
		  __print_symbolic(__entry->exception,
				   MINIKVM_EXCEPTION(DE), MINIKVM_EXCEPTION(DB),
				   MINIKVM_EXCEPTION(BP), MINIKVM_EXCEPTION(OF),
				   MINIKVM_EXCEPTION(BR), MINIKVM_EXCEPTION(UD),
				   MINIKVM_EXCEPTION(NM), MINIKVM_EXCEPTION(DF),
				   MINIKVM_EXCEPTION(TS), MINIKVM_EXCEPTION(NP),
				   MINIKVM_EXCEPTION(SS), MINIKVM_EXCEPTION(GP),
				   MINIKVM_EXCEPTION(PF), MINIKVM_EXCEPTION(MF),
				   MINIKVM_EXCEPTION(AC), MINIKVM_EXCEPTION(MC),
				   MINIKVM_EXCEPTION(XM)),
		  __entry->has_error ? " (" : "",
		  __entry->has_error ? __print_symbolic(__entry->error_code, { 0, "0x0" }) : "",
		  __entry->has_error ? ")" : "",
		  __entry->reinjected ? " [reinjected]" : ""),
	minikvm_watch, minikvm_unwatch
);

/* Interrupt controllers. */

#define MINIKVM_APIC(name) { APIC_##name, "APIC_" #name }

TRACE_EVENT_FN(kvm_apic,
	TP_PROTO(bool write, u32 reg, u64 val),
	TP_ARGS(write, reg, val),
	TP_STRUCT__entry(
		__field(unsigned int, rw)
		__field(unsigned int, reg)
		__field(u64, val)
	),
	TP_fast_assign(
		__entry->rw = write;
		__entry->reg = reg;
		__entry->val = val;
	),
	TP_printk("apic_%s %s = 0x%llx", __entry->rw ? "write" : "read",
		  __print_symbolic(__entry->reg,
				   MINIKVM_APIC(ID), MINIKVM_APIC(LVR), MINIKVM_APIC(TASKPRI),
				   MINIKVM_APIC(ARBPRI), MINIKVM_APIC(PROCPRI),
				   MINIKVM_APIC(EOI), MINIKVM_APIC(RRR), MINIKVM_APIC(LDR),
				   MINIKVM_APIC(DFR), MINIKVM_APIC(SPIV), MINIKVM_APIC(ISR),
				   MINIKVM_APIC(TMR), MINIKVM_APIC(IRR), MINIKVM_APIC(ESR),
				   MINIKVM_APIC(ICR), MINIKVM_APIC(ICR2), MINIKVM_APIC(LVTT),
				   MINIKVM_APIC(LVTTHMR), MINIKVM_APIC(LVTPC),
				   MINIKVM_APIC(LVT0), MINIKVM_APIC(LVT1),
				   MINIKVM_APIC(LVTERR), MINIKVM_APIC(TMICT),
				   MINIKVM_APIC(TMCCT), MINIKVM_APIC(TDCR),
				   MINIKVM_APIC(SELF_IPI), MINIKVM_APIC(EFEAT),
				   MINIKVM_APIC(ECTRL)),
		  __entry->val),
	minikvm_watch, minikvm_unwatch
);

TRACE_EVENT_FN(kvm_apic_ipi,
	TP_PROTO(u32 icr_low, u32 dest_id),
	TP_ARGS(icr_low, dest_id),
	TP_STRUCT__entry(
		__field(__u32, icr_low)
		__field(__u32, dest_id)
	),
	TP_fast_assign(
		__entry->icr_low = icr_low;
		__entry->dest_id = dest_id;
	),
	TP_printk("dst %x vec %u (%s|%s|%s|%s|%s)", __entry->dest_id, (u8)__entry->icr_low,
		  __print_symbolic(__entry->icr_low >> 8 & 7, minikvm_delivery_modes),
		  __entry->icr_low & 1 << 11 ? "logical" : "physical",
		  __entry->icr_low & 1 << 14 ? "assert" : "de-assert",
		  __entry->icr_low & 1 << 15 ? "level" : "edge",
		  __print_symbolic(__entry->icr_low >> 18 & 3, { 0, "dst" }, { 1, "self" },
				   { 2, "all" }, { 3, "all-but-self" })),
	minikvm_watch, minikvm_unwatch
);

TRACE_EVENT_FN(kvm_apic_accept_irq,
	TP_PROTO(u32 apicid, u16 dm, bool level, u8 vec),
	TP_ARGS(apicid, dm, level, vec),
	TP_STRUCT__entry(
		__field(__u32, apicid)
		__field(__u16, dm)
		__field(__u16, tm)
		__field(__u8, vec)
	),
	TP_fast_assign(
		__entry->apicid = apicid;
		__entry->dm = dm;
		__entry->tm = level;
		__entry->vec = vec;
	),
	TP_printk("apicid %x vec %u (%s|%s)", __entry->apicid, __entry->vec,
		  __print_symbolic(__entry->dm >> 8 & 7, minikvm_delivery_modes),
		  __entry->tm ? "level" : "edge"),
	minikvm_watch, minikvm_unwatch
);

TRACE_EVENT_FN(kvm_eoi,
	TP_PROTO(u32 apicid, int vector),
	TP_ARGS(apicid, vector),
	TP_STRUCT__entry(
		__field(__u32, apicid)
		__field(int, vector)
	),
	TP_fast_assign(
		__entry->apicid = apicid;
		__entry->vector = vector;
	),
	TP_printk("apicid %x vector %d", __entry->apicid, __entry->vector),
	minikvm_watch, minikvm_unwatch
);

TRACE_EVENT(kvm_pv_eoi,
	TP_PROTO(u32 apicid, int vector),
	TP_ARGS(apicid, vector),
	TP_STRUCT__entry(
		__field(__u32, apicid)
		__field(int, vector)
	),
	TP_fast_assign(
		__entry->apicid = apicid;
		__entry->vector = vector;
	),
	TP_printk("apicid %x vector %d", __entry->apicid, __entry->vector)
);

TRACE_EVENT(kvm_set_irq,
	TP_PROTO(u32 gsi, int level, int source),
	TP_ARGS(gsi, level, source),
	TP_STRUCT__entry(
		__field(unsigned int, gsi)
		__field(int, level)
		__field(int, irq_source_id)
	),
	TP_fast_assign(
		__entry->gsi = gsi;
		__entry->level = level;
		__entry->irq_source_id = source;
	),
	TP_printk("gsi %u level %d source %d", __entry->gsi, __entry->level,
		  __entry->irq_source_id)
);

TRACE_EVENT(kvm_ioapic_set_irq,
	TP_PROTO(u64 e, int pin, bool coalesced),
	TP_ARGS(e, pin, coalesced),
	TP_STRUCT__entry(
		__field(__u64, e)
		__field(int, pin)
		__field(bool, coalesced)
	),
	TP_fast_assign(
		__entry->e = e;
		__entry->pin = pin;
		__entry->coalesced = coalesced;
	),
	TP_printk("pin %u dst %x vec %u (%s|%s|%s%s)%s", __entry->pin, (u8)(__entry->e >> 56),
		  (u8)__entry->e,
		  __print_symbolic(__entry->e >> 8 & 7, minikvm_delivery_modes),
		  __entry->e & 1 << 11 ? "logical" : "physical",
		  __entry->e & 1 << 15 ? "level" : "edge",
		  __entry->e & 1 << 16 ? "|masked" : "",
		  __entry->coalesced ? " (coalesced)" : "")
);

TRACE_EVENT(kvm_pic_set_irq,
	TP_PROTO(u8 chip, u8 pin, u8 elcr, u8 imr, bool coalesced),
	TP_ARGS(chip, pin, elcr, imr, coalesced),
	TP_STRUCT__entry(
		__field(__u8, chip)
		__field(__u8, pin)
		__field(__u8, elcr)
		__field(__u8, imr)
		__field(bool, coalesced)
	),
	TP_fast_assign(
		__entry->chip = chip;
		__entry->pin = pin;
		__entry->elcr = elcr;
		__entry->imr = imr;
		__entry->coalesced = coalesced;
	),
	TP_printk("chip %u pin %u (%s%s)%s", __entry->chip, __entry->pin,
		  __entry->elcr >> __entry->pin & 1 ? "level" : "edge",
		  __entry->imr >> __entry->pin & 1 ? "|masked" : "",
		  __entry->coalesced ? " (coalesced)" : "")
);

TRACE_EVENT(kvm_msi_set_irq,
	TP_PROTO(u64 address, u64 data),
	TP_ARGS(address, data),
	TP_STRUCT__entry(
		__field(__u64, address)
		__field(__u64, data)
	),
	TP_fast_assign(
		__entry->address = address;
		__entry->data = data;
	),
	TP_printk("dst %llx vec %u (%s|%s|%s%s)",
		  (u8)(__entry->address >> 12) | (__entry->address >> 32 & 0xffffff00),
		  (u8)__entry->data,
		  __print_symbolic(__entry->data >> 8 & 7, minikvm_delivery_modes),
		  __entry->address & 1 << 2 ? "logical" : "physical",
		  __entry->data & 1 << 15 ? "level" : "edge",
		  __entry->address & 1 << 3 ? "|rh" : "")
);

TRACE_EVENT(kvm_ack_irq,
	TP_PROTO(u32 irqchip, u32 pin),
	TP_ARGS(irqchip, pin),
	TP_STRUCT__entry(
		__field(unsigned int, irqchip)
		__field(unsigned int, pin)
	),
	TP_fast_assign(
		__entry->irqchip = irqchip;
		__entry->pin = pin;
	),
	TP_printk("irqchip %s pin %u",
		  __print_symbolic(__entry->irqchip,
				   { KVM_IRQCHIP_PIC_MASTER, "PIC master" },
				   { KVM_IRQCHIP_PIC_SLAVE, "PIC slave" },
				   { KVM_IRQCHIP_IOAPIC, "IOAPIC" }),
		  __entry->pin)
);

/* Halts. */

TRACE_EVENT(kvm_vcpu_wakeup,
	TP_PROTO(u64 ns, bool waited, bool valid),
	TP_ARGS(ns, waited, valid),
	TP_STRUCT__entry(
		__field(__u64, ns)
		__field(bool, waited)
		__field(bool, valid)
	),
	TP_fast_assign(
		__entry->ns = ns;
		__entry->waited = waited;
		__entry->valid = valid;
	),
	TP_printk("%s time %lld ns, polling %s", __entry->waited ? "wait" : "poll", __entry->ns,
		  __entry->valid ? "valid" : "invalid")
);

TRACE_EVENT(kvm_halt_poll_ns,
	TP_PROTO(bool grow, u32 vcpu_id, u32 new, u32 old),
	TP_ARGS(grow, vcpu_id, new, old),
	TP_STRUCT__entry(
		__field(bool, grow)
		__field(unsigned int, vcpu_id)
		__field(unsigned int, new)
		__field(unsigned int, old)
	),
	TP_fast_assign(
		__entry->grow = grow;
		__entry->vcpu_id = vcpu_id;
		__entry->new = new;
		__entry->old = old;
	),
	TP_printk("vcpu %u: halt_poll_ns %u (%s %u)", __entry->vcpu_id, __entry->new,
		  __entry->grow ? "grow" : "shrink", __entry->old)
);

/* Time. */

TRACE_EVENT(kvm_write_tsc_offset,
	TP_PROTO(u32 vcpu_id, u64 previous, u64 next),
	TP_ARGS(vcpu_id, previous, next),
	TP_STRUCT__entry(
		__field(unsigned int, vcpu_id)
		__field(__u64, previous_tsc_offset)
		__field(__u64, next_tsc_offset)
	),
	TP_fast_assign(
		__entry->vcpu_id = vcpu_id;
		__entry->previous_tsc_offset = previous;
		__entry->next_tsc_offset = next;
	),
	TP_printk("vcpu=%u prev=%llu next=%llu", __entry->vcpu_id, __entry->previous_tsc_offset,
		  __entry->next_tsc_offset)
);

TRACE_EVENT(kvm_update_master_clock,
	TP_PROTO(bool use_master_clock, u32 host_clock, bool offset_matched),
	TP_ARGS(use_master_clock, host_clock, offset_matched),
	TP_STRUCT__entry(
		__field(bool, use_master_clock)
		__field(unsigned int, host_clock)
		__field(bool, offset_matched)
	),
	TP_fast_assign(
		__entry->use_master_clock = use_master_clock;
		__entry->host_clock = host_clock;
		__entry->offset_matched = offset_matched;
	),
	TP_printk("masterclock %d hostclock %s offsetmatched %u", __entry->use_master_clock,
		  __print_symbolic(__entry->host_clock, { 0, "none" },
				   { 1, "tsc" }),
		  __entry->offset_matched)
);

TRACE_EVENT(kvm_pvclock_update,
	TP_PROTO(u32 vcpu_id, u32 version, u64 tsc_timestamp, u64 system_time,
		 u32 tsc_to_system_mul, s8 tsc_shift, u8 flags),
	TP_ARGS(vcpu_id, version, tsc_timestamp, system_time, tsc_to_system_mul, tsc_shift,
		flags),
	TP_STRUCT__entry(
		__field(unsigned int, vcpu_id)
		__field(__u32, version)
		__field(__u64, tsc_timestamp)
		__field(__u64, system_time)
		__field(__u32, tsc_to_system_mul)
		__field(__s8, tsc_shift)
		__field(__u8, flags)
	),
	TP_fast_assign(
		__entry->vcpu_id = vcpu_id;
		__entry->version = version;
		__entry->tsc_timestamp = tsc_timestamp;
		__entry->system_time = system_time;
		__entry->tsc_to_system_mul = tsc_to_system_mul;
		__entry->tsc_shift = tsc_shift;
		__entry->flags = flags;
	),
	TP_printk("vcpu_id %u, pvclock { version %u, tsc_timestamp 0x%llx, system_time 0x%llx, "
		  "tsc_to_system_mul 0x%x, tsc_shift %d, flags 0x%x }",
		  __entry->vcpu_id, __entry->version, __entry->tsc_timestamp,
		  __entry->system_time, __entry->tsc_to_system_mul, __entry->tsc_shift,
		  __entry->flags)
);

#endif /* MINIKVM_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE kvm_trace

#include <trace/define_trace.h>
