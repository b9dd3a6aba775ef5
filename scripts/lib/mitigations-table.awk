# SPDX-License-Identifier: GPL-2.0
#
# What the kernel's mitigations add to each exit, from what `minivmm bench exits --json` printed without
# them (files ours-off and kernel-off) and with them (ours-auto and kernel-auto). Fails if one has no
# figure where another has.

function field(name,    text) {
    text = $0
    if (!sub(".*\"" name "\" *: *\"?", "", text)) return ""
    sub("[\",}].*", "", text)
    return text
}

/^\{/ && (name = field("exit")) != "" {
    run = FILENAME
    sub(/.*\//, "", run)
    figure[run, name] = field("median")
    if (!(name in seen)) order[++count] = name
    seen[name]++
}

END {
    row = "%-14s %10s %10s %10s %12s %12s %10s\n"
    printf "\nMedians, instructions (TSC ticks in Bochs), without and with mitigations\n\n"
    printf row, "what", "ours", "with", "more", "kernel", "with", "more"
    for (i = 1; i <= count; i++) {
        name = order[i]
        if (seen[name] != 4) {
            print "not measured everywhere: " name >"/dev/stderr"
            failed = 1
            continue
        }
        printf row, name, figure["ours-off", name], figure["ours-auto", name], \
            figure["ours-auto", name] - figure["ours-off", name], figure["kernel-off", name], \
            figure["kernel-auto", name], figure["kernel-auto", name] - figure["kernel-off", name]
    }
    exit failed || !count
}
