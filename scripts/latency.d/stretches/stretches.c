// SPDX-License-Identifier: GPL-2.0
/*
 * Times the stretches that each CPU spends with interrupts off, and with preemption off, by the
 * events that the kernel emits where either goes off and on, and the functions that it calls in
 * interrupts: timers' and other CPUs'. /sys/kernel/debug/stretches lists the longest of each kind and
 * place; writing to it forgets them.
 *
 * The kernel's own tracers of that name do not fit a hypervisor: they count the time that a guest
 * runs, which has preemption off, and keep one maximum. Here a stretch ends where a guest is entered,
 * which whatever is due will end, and left out of it are what the probes themselves take and the
 * interrupts that are served meanwhile.
 */

#include <linux/debugfs.h>
#include <linux/hardirq.h>
#include <linux/hash.h>
#include <linux/hrtimer.h>
#include <linux/interrupt.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/smp.h>
#include <linux/tracepoint.h>
#include <linux/vmalloc.h>
#include <asm/msr.h>

enum kind { IRQS_OFF, PREEMPT_OFF, TIMER, CALL, KINDS };

static const char *const names[KINDS] = { "irqs", "preemption", "timer", "call" };

/* Functions, the innermost first, that are kept of where a stretch begins or ends. */
#define DEPTH 10
/* Those that make two places the same. */
#define SAME 5
/* Ticks from which on a stretch is kept. */
#define WORTH_KEEPING 1000
#define PLACES 8192

struct place {
	enum kind kind;
	u64 longest;
	u64 count;
	char comm[TASK_COMM_LEN];
	unsigned long begin[DEPTH];
	unsigned long end[DEPTH];
};

/* A stretch that goes on. */
struct stretch {
	bool on;
	/* What is left out of others counts: this is an interrupt's, or began in one. */
	bool counts_all;
	u64 since;
	u64 probes;
	u64 away;
	unsigned long begin[DEPTH];
};

struct watch {
	struct stretch stretches[KINDS];
	/* A probe runs. */
	bool busy;
	/* What probes took so far. */
	u64 probes;
	/* How deep this is in what is left out, since when, and how long it was so far. */
	int away_depth;
	u64 away_since;
	u64 away;
	bool in_guest;
	unsigned int used;
	unsigned int lost;
	struct place *places;
};

static DEFINE_PER_CPU(struct watch, watches);
static bool keeps;

static unsigned long irq_entry;
module_param(irq_entry, ulong, 0);
MODULE_PARM_DESC(irq_entry, "Address of irqentry_enter(), which turns interrupts off for an interrupt");

/*
 * The return addresses above this function, from the one that is `first` on. Frames of one stack lie
 * one above another; whatever does not look like one ends it.
 */
static __always_inline void walk(unsigned long *to, unsigned long first)
{
	unsigned long *frame = __builtin_frame_address(0), *next;
	unsigned int skipped = 0, n = 0;
	bool found = false;

	while (n < DEPTH) {
		unsigned long address = frame[1];

		found = found || !first || address == first || ++skipped > 6;
		if (found)
			to[n++] = address;
		next = (unsigned long *)frame[0];
		if (next <= frame || next - frame > 512 || (unsigned long)next & 7)
			break;
		frame = next;
	}
	while (n < DEPTH)
		to[n++] = 0;
}

static void keep(struct watch *cpu, enum kind kind, u64 length, const unsigned long *end)
{
	struct stretch *stretch = &cpu->stretches[kind];
	struct place *place;
	unsigned long hash = kind;
	unsigned int i;

	for (i = 0; i < SAME; i++)
		hash = (hash ^ stretch->begin[i] ^ rol64(end[i], 7)) * GOLDEN_RATIO_64;
	/* Never quite full, so that a free one ends the search. */
	for (i = hash >> 40;; i++) {
		place = &cpu->places[i % PLACES];
		if (!place->count)
			break;
		if (place->kind == kind &&
		    !memcmp(place->begin, stretch->begin, SAME * sizeof(long)) &&
		    !memcmp(place->end, end, SAME * sizeof(long)))
			goto found;
	}
	if (cpu->used == PLACES / 2) {
		cpu->lost++;
		return;
	}
	cpu->used++;
	place->kind = kind;
	place->longest = 0;
found:
	place->count++;
	if (length <= place->longest)
		return;
	place->longest = length;
	memcpy(place->begin, stretch->begin, sizeof(place->begin));
	memcpy(place->end, end, sizeof(place->end));
	memcpy(place->comm, current->comm, TASK_COMM_LEN);
}

static void begin(struct watch *cpu, enum kind kind, u64 now)
{
	struct stretch *stretch = &cpu->stretches[kind];

	stretch->on = true;
	stretch->since = now;
	stretch->counts_all = cpu->away_depth > 0;
	stretch->probes = cpu->probes;
	stretch->away = cpu->away;
}

static void end(struct watch *cpu, enum kind kind, u64 now, unsigned long ip)
{
	struct stretch *stretch = &cpu->stretches[kind];
	unsigned long place[DEPTH];
	u64 length;

	if (!stretch->on)
		return;
	stretch->on = false;
	length = now - stretch->since - (cpu->probes - stretch->probes);
	if (!stretch->counts_all)
		length -= cpu->away - stretch->away;
	if ((s64)length < WORTH_KEEPING || !READ_ONCE(keeps))
		return;
	walk(place, ip);
	keep(cpu, kind, length, place);
}

static void go_away(struct watch *cpu, u64 now)
{
	if (!cpu->away_depth++)
		cpu->away_since = now - cpu->probes;
}

static void come_back(struct watch *cpu, u64 now)
{
	if (cpu->away_depth && !--cpu->away_depth)
		cpu->away += now - cpu->probes - cpu->away_since;
}

/*
 * Around what a probe does. A stretch begins where its probe ends, and the probe of what is already
 * busy, in an NMI, does nothing.
 */
#define PROBE(cpu, now)                                    \
	struct watch *cpu = raw_cpu_ptr(&watches);              \
	u64 now = rdtsc();                                 \
	if (cpu->busy || in_nmi())                         \
		return;                                    \
	cpu->busy = true;                                  \
	barrier()

#define PROBE_ENDS(cpu, now)                               \
	do {                                               \
		barrier();                                 \
		cpu->busy = false;                         \
		cpu->probes += rdtsc() - now;              \
	} while (0)

static void irqs_go_off(void *data, unsigned long ip, unsigned long parent)
{
	PROBE(cpu, now);
	if (cpu->in_guest) {
		cpu->in_guest = false;
		walk(cpu->stretches[PREEMPT_OFF].begin, ip);
		begin(cpu, PREEMPT_OFF, now);
	}
	walk(cpu->stretches[IRQS_OFF].begin, ip);
	begin(cpu, IRQS_OFF, now);
	if (ip - irq_entry < 512)
		cpu->stretches[IRQS_OFF].counts_all = true;
	PROBE_ENDS(cpu, now);
}

static void irqs_go_on(void *data, unsigned long ip, unsigned long parent)
{
	PROBE(cpu, now);
	end(cpu, IRQS_OFF, now, ip);
	/* Whatever is due ends a guest, so to enter one ends a stretch. */
	if (current->flags & PF_VCPU && !in_hardirq() && cpu->stretches[PREEMPT_OFF].on) {
		cpu->in_guest = true;
		end(cpu, PREEMPT_OFF, now, ip);
	}
	PROBE_ENDS(cpu, now);
}

static void preemption_goes_off(void *data, unsigned long ip, unsigned long parent)
{
	PROBE(cpu, now);
	walk(cpu->stretches[PREEMPT_OFF].begin, ip);
	begin(cpu, PREEMPT_OFF, now);
	PROBE_ENDS(cpu, now);
}

static void preemption_goes_on(void *data, unsigned long ip, unsigned long parent)
{
	PROBE(cpu, now);
	end(cpu, PREEMPT_OFF, now, ip);
	PROBE_ENDS(cpu, now);
}

/* An idle CPU has preemption off, and gives way all the same. */
static void tasks_switch(void *data, bool preempt, struct task_struct *prev,
			 struct task_struct *next, unsigned int state)
{
	PROBE(cpu, now);
	if (is_idle_task(next))
		end(cpu, PREEMPT_OFF, now, 0);
	if (is_idle_task(prev)) {
		walk(cpu->stretches[PREEMPT_OFF].begin, 0);
		begin(cpu, PREEMPT_OFF, now);
	}
	PROBE_ENDS(cpu, now);
}

static void interrupt_begins(void *data)
{
	PROBE(cpu, now);
	go_away(cpu, now);
	PROBE_ENDS(cpu, now);
}

static void interrupt_ends(void *data)
{
	PROBE(cpu, now);
	come_back(cpu, now);
	PROBE_ENDS(cpu, now);
}

static void call(struct watch *cpu, enum kind kind, u64 now, void *function)
{
	unsigned long *place = cpu->stretches[kind].begin;

	memset(place, 0, DEPTH * sizeof(*place));
	place[0] = (unsigned long)function;
	begin(cpu, kind, now);
}

static void timer_begins(void *data, struct hrtimer *timer, ktime_t when)
{
	PROBE(cpu, now);
	call(cpu, TIMER, now, ACCESS_PRIVATE(timer, function));
	PROBE_ENDS(cpu, now);
}

static void timer_ends(void *data, struct hrtimer *timer)
{
	PROBE(cpu, now);
	end(cpu, TIMER, now, 0);
	PROBE_ENDS(cpu, now);
}

static void call_begins(void *data, smp_call_func_t function, call_single_data_t *csd)
{
	PROBE(cpu, now);
	call(cpu, CALL, now, function);
	PROBE_ENDS(cpu, now);
}

static void call_ends(void *data, smp_call_func_t function, call_single_data_t *csd)
{
	PROBE(cpu, now);
	end(cpu, CALL, now, 0);
	PROBE_ENDS(cpu, now);
}

static struct {
	const char *name;
	void *probe;
	struct tracepoint *point;
	bool is_registered;
} probes[] = {
	{ "irq_disable", irqs_go_off },
	{ "irq_enable", irqs_go_on },
	{ "preempt_disable", preemption_goes_off },
	{ "preempt_enable", preemption_goes_on },
	{ "sched_switch", tasks_switch },
	{ "hrtimer_expire_entry", timer_begins },
	{ "hrtimer_expire_exit", timer_ends },
	{ "csd_function_entry", call_begins },
	{ "csd_function_exit", call_ends },
	{ "local_timer_entry", interrupt_begins },
	{ "local_timer_exit", interrupt_ends },
	{ "reschedule_entry", interrupt_begins },
	{ "reschedule_exit", interrupt_ends },
	{ "call_function_entry", interrupt_begins },
	{ "call_function_exit", interrupt_ends },
	{ "call_function_single_entry", interrupt_begins },
	{ "call_function_single_exit", interrupt_ends },
	{ "irq_work_entry", interrupt_begins },
	{ "irq_work_exit", interrupt_ends },
	{ "irq_handler_entry", interrupt_begins },
	{ "irq_handler_exit", interrupt_ends },
	{ "softirq_entry", interrupt_begins },
	{ "softirq_exit", interrupt_ends },
};

static void find(struct tracepoint *point, void *data)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(probes); i++)
		if (!strcmp(probes[i].name, point->name))
			probes[i].point = point;
}

/* kind, ticks, times, who; the functions of its begin; those of its end. */
static int show(struct seq_file *file, void *unused)
{
	unsigned int i, n;
	int id;

	for_each_possible_cpu(id) {
		struct watch *cpu = per_cpu_ptr(&watches, id);

		for (i = 0; i < PLACES; i++) {
			struct place *place = &cpu->places[i];

			if (!place->count)
				continue;
			seq_printf(file, "%s %llu %llu %s\t", names[place->kind], place->longest,
				   place->count, place->comm);
			for (n = 0; n < DEPTH && place->begin[n]; n++)
				seq_printf(file, "%ps;", (void *)place->begin[n]);
			seq_puts(file, "\t");
			for (n = 0; n < DEPTH && place->end[n]; n++)
				seq_printf(file, "%ps;", (void *)place->end[n]);
			seq_puts(file, "\n");
		}
		if (cpu->lost)
			seq_printf(file, "lost %u\n", cpu->lost);
	}
	return 0;
}

static int stretches_open(struct inode *inode, struct file *file)
{
	return single_open(file, show, NULL);
}

static void forget(void)
{
	int id;

	WRITE_ONCE(keeps, false);
	tracepoint_synchronize_unregister();
	for_each_possible_cpu(id) {
		struct watch *cpu = per_cpu_ptr(&watches, id);

		memset(cpu->places, 0, PLACES * sizeof(*cpu->places));
		cpu->used = 0;
		cpu->lost = 0;
	}
	WRITE_ONCE(keeps, true);
}

static ssize_t stretches_write(struct file *file, const char __user *text, size_t size, loff_t *at)
{
	forget();
	return size;
}

static const struct file_operations operations = {
	.owner = THIS_MODULE,
	.open = stretches_open,
	.read = seq_read,
	.write = stretches_write,
	.llseek = seq_lseek,
	.release = single_release,
};

static struct dentry *file;

static void leave(void)
{
	unsigned int i;
	int id;

	debugfs_remove(file);
	for (i = 0; i < ARRAY_SIZE(probes); i++)
		if (probes[i].is_registered)
			tracepoint_probe_unregister(probes[i].point, probes[i].probe, NULL);
	tracepoint_synchronize_unregister();
	for_each_possible_cpu(id)
		vfree(per_cpu_ptr(&watches, id)->places);
}

static int __init stretches_init(void)
{
	unsigned int i;
	int id, error;

	for_each_possible_cpu(id) {
		struct watch *cpu = per_cpu_ptr(&watches, id);

		cpu->places = vzalloc(PLACES * sizeof(*cpu->places));
		if (!cpu->places)
			goto no_memory;
	}
	for_each_kernel_tracepoint(find, NULL);
	for (i = 0; i < ARRAY_SIZE(probes); i++) {
		error = probes[i].point ? tracepoint_probe_register(probes[i].point,
								    probes[i].probe, NULL) : -ENOENT;
		if (error) {
			pr_err("stretches: %s: %d\n", probes[i].name, error);
			leave();
			return error;
		}
		probes[i].is_registered = true;
	}
	forget();
	file = debugfs_create_file("stretches", 0600, NULL, NULL, &operations);
	return 0;

no_memory:
	for_each_possible_cpu(id)
		vfree(per_cpu_ptr(&watches, id)->places);
	return -ENOMEM;
}

static void __exit stretches_exit(void)
{
	leave();
}

module_init(stretches_init);
module_exit(stretches_exit);
MODULE_DESCRIPTION("Times how long interrupts and preemption are off");
MODULE_LICENSE("GPL");
