# SPDX-License-Identifier: GPL-2.0
#
# Puts what `minivmm bench` printed on our module (a file named ours) beside what it printed on the
# kernel's own (kernel): a table on standard output, a line of JSON each in the file `json`. Fails if
# one has no figure where it should have one.

function field(name,    text) {
    text = $0
    if (!sub(".*\"" name "\" *: *\"?", "", text)) return ""
    sub("[\",}].*", "", text)
    return text
}

# A figure, and the target of its ratio: empty where there is none.
function expect(name, ratio) {
    order[++count] = name
    target[name] = ratio
}

function section(title) {
    printf "\n%s\n\n", title
    printf row, "what", "ours", "kernel", "ratio", "target"
}

BEGIN {
    row = "%-18s %12s %12s %8s %8s\n"
    # Targets of exits are for what the exit path itself costs.
    expect("cpuid", 0.4)
    expect("hlt", "")
    expect("vmcall", 0.4)
    expect("rdmsr", 0.4)
    expect("wrmsr", "")
    expect("pio_user", 0.7)
    expect("mmio_user", 0.7)
    expect("ept_fault", "")
    expect("run_immediate", "")
    expect("self_ipi_hlt", 0.6)
    expect("ipi", 0.7)
    expect("tsc_deadline", 0.7)
    expect("pio_kernel", 0.4)
    expect("mmio_kernel", 0.4)
    expect("ioeventfd", 0.7)
    expect("irqfd", 0.7)
    expect("dirty_sweep", 0.7)
    expect("linux_boot_1", 1.0)
    expect("linux_boot_2", 1.0)
    expect("virtio_disk_write", 1.0)
    expect("virtio_disk_read", 1.0)
    expect("virtio_net_send", 1.0)
    expect("virtio_net_receive", 1.0)
    expect("qemu_boot_1", 1.0)
    expect("qemu_boot_2", 1.0)
    # Memory has limits instead, in bytes.
    expect("vm_bytes", "")
    expect("vcpu_bytes", "")
    limit["vm_bytes"] = limit["vcpu_bytes"] = 32768
}

/^\{/ && field("exit") != "" {
    if (FILENAME ~ /ours$/) ours[field("exit")] = field("median")
    if (FILENAME ~ /kernel$/) kernel[field("exit")] = field("median")
}

END {
    printf "" >json
    printf "Medians"
    for (i = 1; i <= count; i++) {
        name = order[i]
        if (name == "cpuid") section("Instructions (TSC ticks in Bochs)")
        if (name == "vm_bytes") section("Bytes of kernel memory (the target is a limit in bytes)")
        if (!(name in ours) || !(name in kernel) || kernel[name] == 0) {
            printf row, name, (name in ours ? ours[name] : "missing"), \
                (name in kernel ? kernel[name] : "missing"), "", ""
            missing = missing " " name
            continue
        }
        ratio = ours[name] / kernel[name]
        verdict = ""
        if (target[name] != "") verdict = (ratio <= target[name] ? "" : "missed ") target[name]
        if (name in limit) verdict = (ours[name] + 0 <= limit[name] ? "" : "missed ") limit[name]
        printf row, name, ours[name], kernel[name], sprintf("%.2f", ratio), verdict
        printf "{\"exit\":\"%s\",\"ours\":%s,\"kernel\":%s,\"ratio\":%.3f}\n", \
            name, ours[name], kernel[name], ratio >>json
    }
    if (missing != "") {
        print "no figure for:" missing >"/dev/stderr"
        exit 1
    }
}
