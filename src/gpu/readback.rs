//! From device buffers to host memory.

use super::context::{Gpu, scoped};
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::{BufferView, HostData, HostTensor, Layout, Tensor};
use futures_channel::oneshot;

/// The elements of a device tensor, row-major.
pub(super) async fn read(gpu: &Gpu, tensor: &Tensor, view: &BufferView) -> Result<HostTensor> {
    gpu.check_lost()?;
    if !view.buffer.usage().contains(wgpu::BufferUsages::COPY_SRC) {
        let found = format!("{:?}", view.buffer.usage());
        return Err(Error::expected(ErrorKind::Unsupported, "read", "buffer", "usage COPY_SRC", found));
    }
    let size = tensor.dtype.size();
    let first = view.offset + (tensor.layout.offset * size) as u64;
    let start = first & !3;
    let end = (view.offset + (tensor.layout.end() * size) as u64).next_multiple_of(4).min(view.buffer.size() & !3);
    let bytes = fetch(gpu, &view.buffer, start, end - start).await?;
    let skip = ((first - start) as usize) / size;
    let layout = Layout { offset: skip, ..tensor.layout.clone() };
    Ok(HostTensor::strided(layout, HostData::from_bytes(tensor.dtype, &bytes))?.contiguous())
}

/// `size` bytes of a buffer; both multiples of four.
pub(super) async fn fetch(gpu: &Gpu, buffer: &wgpu::Buffer, start: u64, size: u64) -> Result<Vec<u8>> {
    let staging = scoped(&gpu.device, "read", || {
        gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("read"),
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    })?;
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("read") });
    encoder.copy_buffer_to_buffer(buffer, start, &staging, 0, size);
    gpu.queue.submit([encoder.finish()]);
    let (done, mapped) = oneshot::channel();
    staging.map_async(wgpu::MapMode::Read, .., move |result| {
        // The receiver is gone only when the caller gave up.
        let _ = done.send(result);
    });
    wait(gpu)?;
    let lost = || Error::new(ErrorKind::DeviceLost, format!("the device {} was lost while reading", gpu.info.name));
    mapped.await.map_err(|_| lost())?.map_err(|e| lost().caused_by(e))?;
    let bytes = staging.get_mapped_range(..).map_err(|e| lost().caused_by(e))?.to_vec();
    staging.destroy();
    Ok(bytes)
}

/// Waits for all submitted work natively; in a browser the event loop does.
pub(super) fn wait(gpu: &Gpu) -> Result<()> {
    match gpu.device.poll(wgpu::PollType::Wait { submission_index: None, timeout: None }) {
        Ok(_) => Ok(()),
        Err(e) => {
            Err(Error::new(ErrorKind::DeviceLost, format!("the device {} does not answer", gpu.info.name)).caused_by(e))
        }
    }
}
