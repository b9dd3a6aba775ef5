# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Dynamic programs find their libraries in the lab where they were on this machine.

# The dynamic ELF files among the given files and directories.
dynamic_programs() {
    local file
    while IFS= read -r -d '' file; do
        [[ $(head -c 4 "$file" | tr -d '\0') == $'\x7fELF' ]] && echo "$file"
    done < <(find -H "$@" -type f -perm /111 -print0) || true
}

# copy_libraries TREE FILE...: adds to TREE the libraries that the programs among the files need,
# except where the tree has a file of that name already.
copy_libraries() {
    local tree=$1 program library
    shift
    while read -r program; do
        while read -r library; do
            [[ -e $tree$library ]] || install -D -m 755 "$library" "$tree$library"
        done < <(ldd "$program" 2>/dev/null | grep -oE '/[^ ]+ \(0x' | cut -d' ' -f1)
    done < <(dynamic_programs "$@")
}
