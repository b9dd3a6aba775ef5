# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034
#
# What every script here needs: where things are, how to fail in one line, and the name that the
# product of each set-up step has in the cache.

# Where chroot and mount are, which is not on an ordinary user's path.
PATH+=:/usr/sbin:/sbin

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CHECKOUT=$(dirname "$SCRIPTS")
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/minikvm

# Kernel release that set-up asks for first; the newest 7.x takes its place where it is gone.
KERNEL_RELEASE=7.3.4

STEPS=(root bochs source debian debian-tree lab guest-root selftests)
# Made only when asked for by name.
STEPS_ON_DEMAND=(debug latency rt)

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit "${DIE_STATUS:-1}"
}

# The steps whose product a step starts from.
step_needs() {
    case $1 in
    root) ;;
    bochs | source) echo root ;;
    debian) echo root source ;;
    debian-tree) echo root source debian ;;
    lab) echo root source ;;
    guest-root) echo root source debian ;;
    selftests) echo root source ;;
    debug | latency | rt) echo root source lab ;; # whose kernel their guests run
    *) die "no such set-up step: $1" ;;
    esac
}

# The files that decide what a step makes.
step_inputs() {
    case $1 in
    root) echo "$SCRIPTS/setup.d/root" "$SCRIPTS/setup.d/root-packages" ;;
    bochs) echo "$SCRIPTS/setup.d/bochs" "$SCRIPTS"/setup.d/bochs-patches/* ;;
    lab) echo "$SCRIPTS/setup.d/lab" "$SCRIPTS/lab-kernel.config" ;;
    guest-root) echo "$SCRIPTS/setup.d/guest-root" "$SCRIPTS"/setup.d/guest/* ;;
    debug | latency | rt)
        echo "$SCRIPTS/setup.d/$1" "$SCRIPTS/lib/build-kernel" "$SCRIPTS/lab-kernel.config" \
            "$SCRIPTS/$1-kernel.config"
        ;;
    *) echo "$SCRIPTS/setup.d/$1" ;;
    esac
}

declare -A STEP_HASH=()

# Sets STEP_HASH[step]: a digest of the step's inputs and of the steps before it.
step_hash() {
    [[ -n ${STEP_HASH[$1]:-} ]] && return
    local need above='' digest
    for need in $(step_needs "$1"); do
        step_hash "$need"
        above+=${STEP_HASH[$need]}
    done
    # shellcheck disable=SC2046
    digest=$({ echo "$KERNEL_RELEASE $above"; cat $(step_inputs "$1"); } | sha256sum)
    STEP_HASH[$1]=${digest:0:12}
}

# The directory in the cache that a step fills. It has this name only once it is complete.
step_dir() {
    step_hash "$1"
    echo "$CACHE/$1-${STEP_HASH[$1]}"
}

# As step_dir, but set-up must have been there.
need_step() {
    local dir
    dir=$(step_dir "$1")
    [[ -d $dir ]] || die "\"$1\" is not set up: run scripts/setup $1 (or make setup)"
    echo "$dir"
}

# Runs a command where it is root over the files of the cache: as it is for root, in a user
# namespace with the subordinate ids of an ordinary user otherwise.
as_cache_root() {
    if [[ $(id -u) == 0 ]]; then
        "$@"
    else
        unshare --user --map-auto --map-root-user -- "$@"
    fi
}
