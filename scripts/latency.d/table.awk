# SPDX-License-Identifier: GPL-2.0
#
# Of the lists that stretches.ko makes, each line with the area before it, the longest stretch of
# each kind and place: whose, kind, instructions, times, area, and where it begins and ends, separated
# by tabs.

BEGIN { FS = "\t" }

# The function that turned off or on, for which locks and wrappers do it.
function place(stack,    n, i, names) {
    n = split(stack, names, ";")
    for (i = 1; i < n; i++)
        if (names[i] !~ /^(_?_raw_|rust_helper_|shim_|preempt_|irqentry_|__local_bh_|<?(kernel|core)(\[|::))/ &&
            names[i] !~ /^<(kernel|core)\[/)
            return names[i]
    return names[1]
}

# Without the paths of modules, crates' hashes and the parameters of types.
function short(name) {
    gsub(/\[[0-9a-f]+\]/, "", name)
    gsub(/ \[[a-z_0-9]+\]/, "", name)
    gsub(/[a-z_0-9]+::/, "", name)
    while (match(name, /[A-Za-z0-9_]<[^<>]*>/))
        name = substr(name, 1, RSTART) substr(name, RSTART + RLENGTH)
    gsub(/[<>]/, "", name)
    return name
}

$1 == "lost" || $2 ~ /^lost/ { print "more places than there is room for" >"/dev/stderr"; next }

{
    split($2, head, " ")
    begin = place($3)
    end = $4 == "" ? "" : place($4)
    kvm = begin end ~ / \[kvm(_intel|_amd)?\]|sysvec_kvm/
    key = (kvm ? "kvm" : "host") "\t" head[1] "\t%s\t" short(begin) "\t" short(end)
    times[key] += head[3]
    if (head[2] > longest[key] + 0) {
        longest[key] = head[2]
        area[key] = $1
    }
}

END {
    for (key in longest)
        printf key "\n", longest[key] "\t" times[key] "\t" area[key]
}
