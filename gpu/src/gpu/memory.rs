//! Buffers on the device: accounted for, bounded, and used again.

use crate::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// A buffer, whose bytes are given back when it is dropped.
#[derive(Debug)]
pub(super) struct Allocation {
    pub(super) buffer: wgpu::Buffer,
    /// Distinguishes it from every other of its device.
    pub(super) id: u64,
    bytes: u64,
    used: Arc<AtomicU64>,
    alive: Arc<()>,
}

impl Allocation {
    /// To learn later whether it still exists.
    pub(super) fn trace(&self) -> Weak<()> {
        Arc::downgrade(&self.alive)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Makes buffers.
#[derive(Debug)]
pub(super) struct Memory {
    device: wgpu::Device,
    name: String,
    bytes_max: u64,
    used: Arc<AtomicU64>,
    next_id: AtomicU64,
}

impl Memory {
    pub(super) fn new(device: wgpu::Device, name: String, bytes_max: Option<u64>) -> Self {
        let bytes_max = bytes_max.unwrap_or(u64::MAX);
        Self { device, name, bytes_max, used: Arc::default(), next_id: AtomicU64::new(0) }
    }

    /// Bytes of all buffers that exist.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// A buffer of at least 16 bytes, of whole quads.
    pub(super) fn take(&self, what: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<Allocation, Error> {
        let bytes = bytes.next_multiple_of(16).max(16);
        let refused = || Error::OutOfMemory { device: self.name.clone(), what: what.to_owned(), bytes };
        if bytes > self.device.limits().max_buffer_size || self.used().saturating_add(bytes) > self.bytes_max {
            return Err(refused());
        }
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(what),
            size: bytes,
            usage,
            mapped_at_creation: false,
        });
        if pollster::block_on(scope.pop()).is_some() {
            return Err(refused());
        }
        self.used.fetch_add(bytes, Ordering::Relaxed);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        Ok(Allocation { buffer, id, bytes, used: Arc::clone(&self.used), alive: Arc::default() })
    }
}

/// Buffers that wait for their next use, at most so many; the one that waited longest goes first.
#[derive(Debug)]
pub(super) struct Pool {
    free: Vec<Allocation>,
    buffers_max: usize,
}

impl Pool {
    pub(super) fn new(buffers_max: usize) -> Self {
        Self { free: Vec::new(), buffers_max }
    }

    /// A buffer of these bytes: one that waits, or a new one.
    pub(super) fn take(
        &mut self,
        memory: &Memory,
        what: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<Allocation, Error> {
        let rounded = bytes.next_multiple_of(16).max(16);
        if let Some(at) = self.free.iter().rposition(|it| it.bytes == rounded && it.buffer.usage() == usage) {
            return Ok(self.free.remove(at));
        }
        memory.take(what, bytes, usage)
    }

    pub(super) fn give(&mut self, allocation: Allocation) {
        self.free.push(allocation);
        if self.free.len() > self.buffers_max {
            self.free.remove(0);
        }
    }

    pub(super) fn clear(&mut self) {
        self.free.clear();
    }

    pub(super) fn bytes(&self) -> u64 {
        self.free.iter().map(Allocation::bytes).sum()
    }
}
