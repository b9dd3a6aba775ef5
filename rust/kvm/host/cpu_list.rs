// SPDX-License-Identifier: GPL-2.0

//! A list that belongs to a CPU.
//!
//! It is changed only on that CPU with interrupts off, so it needs no lock; and at every moment it
//! can be walked from an NMI there, for the kernel's emergency path.

use core::{
    ptr,
    sync::atomic::{
        AtomicPtr,
        Ordering, //
    },
};

/// The head of a CPU's list.
pub(crate) struct CpuList<T> {
    head: AtomicPtr<Node<T>>,
}

/// A place in a list, and what is there.
pub(crate) struct Node<T> {
    next: AtomicPtr<Node<T>>,
    value: T,
}

impl<T> Node<T> {
    /// A node in no list.
    pub(crate) const fn new(value: T) -> Self {
        Self {
            next: AtomicPtr::new(ptr::null_mut()),
            value,
        }
    }

    /// What is there.
    #[inline]
    pub(crate) fn value(&self) -> &T {
        &self.value
    }
}

impl<T> CpuList<T> {
    /// An empty list.
    pub(crate) const fn new() -> Self {
        Self {
            head: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Adds `node`.
    ///
    /// # Safety
    ///
    /// This is the list's CPU, interrupts are off, the node is in no list, and it stays where it is
    /// until [`Self::remove`].
    pub(crate) unsafe fn push(&self, node: &Node<T>) {
        node.next
            .store(self.head.load(Ordering::Relaxed), Ordering::Relaxed);
        self.head
            .store(ptr::from_ref(node).cast_mut(), Ordering::Release);
    }

    /// Takes `node` out, if it is in.
    ///
    /// # Safety
    ///
    /// This is the list's CPU, or that CPU is offline; interrupts are off.
    pub(crate) unsafe fn remove(&self, node: &Node<T>) {
        let mut link = &self.head;
        loop {
            let at = link.load(Ordering::Relaxed);
            if at.is_null() {
                return;
            }
            if ptr::eq(at, node) {
                link.store(node.next.load(Ordering::Relaxed), Ordering::Release);
                return;
            }
            // SAFETY: Nodes in a list are alive by the contract of `push`.
            link = unsafe { &(*at).next };
        }
    }

    /// Calls `f` on each value.
    ///
    /// # Safety
    ///
    /// This is the list's CPU, and `f` does not change the list.
    pub(crate) unsafe fn for_each(&self, mut f: impl FnMut(&T)) {
        let mut at = self.head.load(Ordering::Acquire);
        while !at.is_null() {
            // SAFETY: Nodes in a list are alive by the contract of `push`.
            let node = unsafe { &*at };
            f(&node.value);
            at = node.next.load(Ordering::Acquire);
        }
    }

    /// Empties the list.
    ///
    /// # Safety
    ///
    /// As for [`Self::remove`].
    pub(crate) unsafe fn clear(&self) {
        self.head.store(ptr::null_mut(), Ordering::Release);
    }
}
