# SPDX-License-Identifier: GPL-2.0
#
# What a person types. `make help` lists it.
#
#   make KDIR=DIRECTORY        builds the module for a kernel of your own, with your own tools

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := all

build := $(CURDIR)/build
in-root := scripts/in-root
setup := scripts/setup
cargo := cd userspace-test && ../$(in-root) cargo

# Package by package: the features that one asks of a crate are not to reach the other.
each-package = cd userspace-test && for package in arch fuzz-ioctl minivmm systest; do \
	../$(in-root) cargo $(1) --package $$package $(2); done

# How Kbuild is called for each kernel: its tree, its compiler.
kbuild-lab := -C /kernel/lab LLVM=1
kbuild-debug := -C /kernel/debug LLVM=1
kbuild-latency := -C /kernel/latency LLVM=1
kbuild-rt := -C /kernel/rt LLVM=1
# Without vmlinux there is no BTF to make, which Kbuild would say each time.
kbuild-debian := -C /kernel/debian CC=x86_64-linux-gnu-gcc-14 CONFIG_DEBUG_INFO_BTF_MODULES=

# $(call kbuild,lab|debug|latency|rt|debian,OUTPUT DIRECTORY,OPTIONS)
kbuild = $(in-root) make -s -j"$$(nproc)" $(kbuild-$(1)) M=$(CURDIR) MO=$(2) \
	BITFLAGS=$(build)/crates/bitflags $(3) modules

.PHONY: all help setup module module-lab module-debug module-latency module-rt module-debian user demo test test-qemu \
	test-selftests test-devices test-debug fuzz-ioctl bench fmt fmt-check clippy doc load unload \
	clean crates-in-root

help: ## this list
	@scripts/lib/help $(MAKEFILE_LIST)

setup: ## the toolchain and the kernels, once, into the cache
	@$(setup)

ifdef KDIR

# A kernel of one's own: the tools are the machine's, and clang's where the kernel is built with it.
all: module ## the module (both kernels) and the user-space programs

module:
	@scripts/fetch-crate bitflags 2 $(build)/crates/bitflags
	@mkdir -p $(build)/module-own $(build)/own
	$(MAKE) -C $(KDIR) M=$(CURDIR) MO=$(build)/module-own \
		$$(grep -q '^CONFIG_CC_IS_CLANG=y' $(KDIR)/.config && echo LLVM=1) \
		BITFLAGS=$(build)/crates/bitflags modules
	@cp $(build)/module-own/kvm.ko $(build)/own/kvm.ko

else

all: module user ## the module (both kernels) and the user-space programs

module: module-lab module-debian ## kvm.ko for the lab kernel and for the stock Debian kernel

endif

module-lab: ## build/lab/kvm.ko
module-debug: ## build/debug/kvm.ko, for the kernel that checks itself
module-latency: ## build/latency/kvm.ko, for the kernel that times itself
module-rt: ## build/rt/kvm.ko, for the kernel whose spinlocks sleep
module-debian: ## build/debian/kvm.ko
# What was built for another kernel is no older than this kernel's headers, and make would keep it.
module-lab module-debug module-latency module-rt module-debian: module-%: crates-in-root
	@$(setup) $(if $(filter debian,$*),debian-tree,$*)
	@tree=$$($(setup) --path $(if $(filter debian,$*),debian-tree,$*)); \
	if [[ $$(cat $(build)/module-$*/.tree 2>/dev/null || true) != "$$tree" ]]; then \
		rm -rf $(build)/module-$*; \
		mkdir -p $(build)/module-$*; \
		echo "$$tree" >$(build)/module-$*/.tree; \
	fi
	@mkdir -p $(build)/$*
	@$(call kbuild,$*,$(build)/module-$*,)
	@cmp -s $(build)/module-$*/kvm.ko $(build)/$*/kvm.ko || \
		cp $(build)/module-$*/kvm.ko $(build)/$*/kvm.ko

crates-in-root:
	@$(setup) root
	@$(in-root) scripts/fetch-crate bitflags 2 $(build)/crates/bitflags

user: ## minivmm, the system tests and the ioctl fuzzer, static, in build/bin
	@$(setup) root
	@mkdir -p $(build)/bin
	@$(call each-package,build --locked --release)
	@cp -u $(build)/cargo/x86_64-unknown-linux-gnu/release/{fuzz-ioctl,minivmm,systest} \
		$(build)/bin/

demo: ## Linux, booted by minivmm on our kvm.ko in the stock Debian kernel
	@scripts/demo

test: ## unit tests, then the system tests on our module and on the kernel's own
	@scripts/test

test-qemu: module-lab ## Linux in Debian's QEMU on our module, its interrupt controllers in each place
	@scripts/qemu

test-devices: module-lab user ## minivmm's devices, used by a Linux guest, on our module and on the kernel's own
	@scripts/devices
	@scripts/devices --module kernel

test-selftests: module-lab ## the kernel's own KVM selftests on our module and on the kernel's own
	@$(setup) selftests
	@scripts/selftests

test-debug: ## the system tests in a kernel that checks locks, memory and leaks, which is built first
	@scripts/test-debug

fuzz-ioctl: user ## random calls and hostile guests, a million and ten thousand of them
	@scripts/fuzz-ioctl

bench: module-lab user ## what an exit costs on our module and on the kernel's own
	@scripts/bench

fmt: ## formats all Rust code
	@$(setup) root
	@$(cargo) fmt --all
	@$(in-root) rustfmt --edition 2021 $$(find rust/kvm -name '*.rs')

fmt-check: ## fails if make fmt would change something
	@$(setup) root
	@$(cargo) fmt --all --check
	@$(in-root) rustfmt --edition 2021 --check $$(find rust/kvm -name '*.rs')

clippy: crates-in-root ## clippy, warnings are errors
	@$(setup) lab
	@$(call each-package,clippy --locked --all-targets,-- -D warnings)
	@mkdir -p $(build)/clippy-lab
	@$(call kbuild,lab,$(build)/clippy-lab,CLIPPY=1 KRUSTFLAGS=-Dwarnings)

doc: module-lab ## HTML documentation of all crates, in build/doc, warnings are errors
	@scripts/doc

load: ## loads kvm.ko into the running kernel (make KDIR=/lib/modules/$(uname -r)/build first)
	@scripts/load $(build)/own/kvm.ko

unload: ## takes it out again
	rmmod kvm

clean: ## removes build/
	rm -rf $(build)
