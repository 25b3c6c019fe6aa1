//! What a program without the standard library must bring itself: a heap, and what a panic does.

use crate::bindings::gavel::plugin::log::{Level, write};
use alloc::format;
use core::panic::PanicInfo;

#[global_allocator]
static HEAP: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// A panic's words reach the log before the trap.
#[panic_handler]
fn panicked(panic: &PanicInfo<'_>) -> ! {
    write(Level::Error, &format!("{panic}"));
    core::arch::wasm32::unreachable()
}
