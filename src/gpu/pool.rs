//! Device buffers for reuse: a dropped tensor gives its buffer back.
#![cfg_attr(
    target_arch = "wasm32",
    allow(clippy::arc_with_non_send_sync, reason = "wgpu's types are Send everywhere else")
)]

use crate::error::{Error, ErrorKind, Result};
use crate::tensor::BufferView;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Free buffers by size, and what is held in all.
#[derive(Debug)]
pub struct Pool {
    device: wgpu::Device,
    free: Mutex<BTreeMap<u64, Vec<wgpu::Buffer>>>,
    held: AtomicU64,
    poison: bool,
}

/// Gives a buffer back to its pool when the last tensor over it is dropped.
#[derive(Debug)]
pub struct Lease {
    pool: Weak<Pool>,
    buffer: wgpu::Buffer,
}

impl Drop for Lease {
    fn drop(&mut self) {
        match self.pool.upgrade() {
            Some(pool) => pool.free().entry(self.buffer.size()).or_default().push(self.buffer.clone()),
            None => self.buffer.destroy(),
        }
    }
}

/// Eight sizes an octave, so that at most an eighth of a buffer is slack.
fn size_class(bytes: u64) -> u64 {
    let bytes = bytes.max(256);
    let step = (bytes.next_power_of_two() >> 4).max(256);
    bytes.next_multiple_of(step)
}

impl Pool {
    pub(super) fn new(device: &wgpu::Device, poison: bool) -> Arc<Self> {
        Arc::new(Pool { device: device.clone(), free: Mutex::default(), held: AtomicU64::new(0), poison })
    }

    // A panic elsewhere can not leave the map half-changed: every change is one call.
    fn free(&self) -> MutexGuard<'_, BTreeMap<u64, Vec<wgpu::Buffer>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer of at least `bytes`, for use until the view is dropped.
    pub(super) fn take(self: &Arc<Self>, queue: &wgpu::Queue, bytes: u64, what: &str) -> Result<BufferView> {
        let class = size_class(bytes);
        let reused = self.free().get_mut(&class).and_then(Vec::pop);
        let buffer = match reused {
            Some(buffer) => buffer,
            None => {
                let buffer = create(&self.device, class, what)?;
                self.held.fetch_add(class, Ordering::Relaxed);
                buffer
            }
        };
        if self.poison {
            queue.write_buffer(&buffer, 0, &vec![0xff; class as usize]);
        }
        let lease = Lease { pool: Arc::downgrade(self), buffer: buffer.clone() };
        Ok(BufferView { buffer, offset: 0, size: class, _lease: Some(Arc::new(lease)) })
    }

    /// Bytes of all buffers made and not destroyed, and bytes of those that are free.
    pub(super) fn held(&self) -> (u64, u64) {
        let free = self.free().iter().map(|(size, list)| size * list.len() as u64).sum();
        (self.held.load(Ordering::Relaxed), free)
    }

    /// Destroys the free buffers.
    pub(super) fn trim(&self) {
        for (size, list) in std::mem::take(&mut *self.free()) {
            for buffer in list {
                buffer.destroy();
                self.held.fetch_sub(size, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.trim();
    }
}

/// A storage buffer; out of memory and over the limit are errors and not panics.
pub(super) fn create(device: &wgpu::Device, size: u64, what: &str) -> Result<wgpu::Buffer> {
    let limit = device.limits().max_buffer_size;
    if size > limit {
        let message = format!("{what}: a buffer of {size} bytes is over the device's max_buffer_size of {limit} bytes");
        return Err(Error::new(ErrorKind::Limit, message));
    }
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    super::context::scoped(device, what, || {
        device.create_buffer(&wgpu::BufferDescriptor { label: Some(what), size, usage, mapped_at_creation: false })
    })
}
