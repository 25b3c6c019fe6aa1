//! The guest's heap: the allocator of Rust's own standard library, in smaller bites.
//!
//! An instance begins with whole pages of 64 KiB, and between its static data and the end of the last of them some
//! 20 KiB lie unused. The standard library's allocator takes memory 64 KiB at a time, so it passes them over and
//! begins by asking the host for another page. To a guest that lives for one decision that is half of its life: the
//! memory's bounds are moved, and moved back for the next instance. This one takes 4 KiB at a time, so the rest of the
//! page is used first, and most decisions never grow the memory. Measured, instance and call of `path-allow-list`: 12.5 µs
//! instead of 22.3.
#![allow(unsafe_code, reason = "an allocator hands out raw memory")]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;

use dlmalloc::Dlmalloc;

const BITE_BYTES: usize = 4_096;

#[global_allocator]
static HEAP: Heap = Heap(UnsafeCell::new(
    const {
        let mut heap = Dlmalloc::new();
        assert!(heap.set_granularity(BITE_BYTES));
        heap
    },
));

struct Heap(UnsafeCell<Dlmalloc>);

// SAFETY: a policy's world has no threads, so there is never a second one to share with.
unsafe impl Sync for Heap {}

// SAFETY: each function passes the caller's promises on to an allocator that asks for the same ones. The unique
// reference lives only during the call, and nothing in there calls back.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        unsafe { (*self.0.get()).malloc(layout.size(), layout.align()) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        unsafe { (*self.0.get()).calloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        unsafe { (*self.0.get()).free(block, layout.size(), layout.align()) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        unsafe { (*self.0.get()).realloc(block, layout.size(), layout.align(), bytes) }
    }
}
