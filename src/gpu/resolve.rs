//! From a plan and tensors to dispatches: buffers of slots, ranges to bind, launches, and their cut into pieces.

use super::engine::{Bound, GpuEngine, GpuPlan};
use super::pipelines::Pipeline;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::Meta;
use crate::kernel::key::{Access, KernelKey, Launch, Place};
use crate::plan::{Plan, SlotRole};
use crate::tensor::{BufferView, Inputs, Layout, Storage, Tensor};
use std::sync::Arc;

/// One dispatch, ready to encode.
pub(super) struct Dispatch {
    pub(super) stage: usize,
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) bound: Vec<Bound>,
    pub(super) args: Vec<u32>,
    pub(super) grid: (u32, u32),
    pub(super) flops: f64,
    /// Small tables gathered into one buffer before the dispatch: from, offset, to, offset, bytes.
    pub(super) copies: Vec<(wgpu::Buffer, u64, wgpu::Buffer, u64, u64)>,
}

/// A call, resolved.
pub(super) struct Work {
    pub(super) dispatches: Vec<Dispatch>,
    /// Outputs by name, in the order of the plan.
    pub(super) outputs: Vec<(String, Tensor)>,
    /// Keeps every buffer of the call from being given away before the call is submitted: another thread may take what is free.
    pub(super) held: Vec<BufferView>,
}

impl GpuEngine {
    /// Slots to buffers, stages to dispatches. Without `pooled` every buffer is new: the caller submits at a time of his own, when a
    /// pooled one could have been given away.
    pub(super) fn dispatches(&self, plan: &Plan, prepared: &GpuPlan, inputs: &Inputs, pooled: bool) -> Result<Work> {
        self.gpu.check_lost()?;
        let layouts = plan.layouts(inputs)?;
        let mut views = Vec::with_capacity(plan.slots.len());
        let mut outputs = Vec::new();
        for (n, slot) in plan.slots.iter().enumerate() {
            let view = match &slot.role {
                SlotRole::Input => match inputs.get(&slot.name).map(|t| (t, t.storage())) {
                    Some((_, Storage::Device(view))) => view.clone(),
                    Some((_, Storage::Host(data))) => self.upload_bytes(data.bytes(), &slot.name, pooled)?,
                    None => {
                        return Err(Error::new(ErrorKind::MissingInput, format!("{}: `{}`", plan.variant, slot.name)));
                    }
                },
                SlotRole::Constant(_) => prepared.constants[&n].clone(),
                SlotRole::Transient => match prepared.memory.block[n] {
                    Some(block) => prepared.scratch[block].clone(),
                    None => continue_with_nothing(plan, n)?,
                },
                SlotRole::Output => {
                    let bytes = (slot.layout.len() * slot.dtype.size()) as u64;
                    let view = self.buffer(bytes, &slot.name, pooled)?;
                    let tensor = Tensor {
                        dtype: slot.dtype,
                        layout: slot.layout.clone(),
                        storage: Storage::Device(view.clone()),
                    };
                    outputs.push((slot.name.clone(), tensor));
                    view
                }
            };
            views.push(view);
        }
        let mut work = Work { dispatches: Vec::new(), outputs, held: Vec::new() };
        for n in 0..plan.stages.len() {
            self.stage(plan, n, &layouts, &views, &mut work, pooled)?;
        }
        work.held.extend(views);
        Ok(work)
    }

    fn stage(
        &self,
        plan: &Plan,
        n: usize,
        layouts: &[Layout],
        views: &[BufferView],
        work: &mut Work,
        pooled: bool,
    ) -> Result<()> {
        let stage = &plan.stages[n];
        let kernel = stage.op.kernel();
        let mut io = plan.io(n, layouts);
        let mut bound: Vec<(String, Bound)> = Vec::new();
        let subject = |name: &str| format!("{} {}: `{name}`", plan.variant, stage.label);
        for (role, meta) in &mut io.roles {
            let Some((_, r)) = stage.bindings.iter().find(|(name, _)| name == role) else { continue };
            bound.push(((*role).to_owned(), self.bound(&views[r.slot.0], meta, &subject(role))?));
        }
        let tables = plan.tables(n);
        let mut side = Vec::new();
        for (table, (name, r, _)) in io.tables.iter_mut().zip(&tables) {
            let view = &views[r.slot.0];
            if table.place == Place::Own {
                bound.push((name.clone(), self.bound(view, &mut table.meta, &subject(name))?));
            } else {
                side.push((view.clone(), &mut table.meta, name.clone()));
            }
        }
        let mut copies = Vec::new();
        if !side.is_empty() {
            let (view, total) = self.pack_side(plan, side, &mut copies, pooled)?;
            bound.push(("side".to_owned(), (view.buffer.clone(), 0, total)));
            work.held.push(view);
        }
        let mut launch = self.launch(kernel, &io)?;
        allow_aliases(&mut launch.key, &bound, &subject("buffer"))?;
        let pipeline = match self.pipelines.get(&launch.key) {
            Some(known) => known?,
            None => self.compile_now(&launch.key)?,
        };
        // In the order of the key's bindings.
        let bound = launch
            .key
            .bindings()
            .iter()
            .filter_map(|(name, _)| bound.iter().find(|(b, _)| b == name).map(|(_, bound)| bound.clone()))
            .collect::<Vec<_>>();
        let before = work.dispatches.len();
        self.pieces(n, &launch, pipeline, &bound, kernel.flops(&io), &subject("grid"), &mut work.dispatches)?;
        if let Some(dispatch) = work.dispatches.get_mut(before) {
            dispatch.copies = copies;
        }
        Ok(())
    }

    /// Cuts a launch so that each piece fits a dispatch and the work bound of a submit.
    fn pieces(
        &self,
        stage: usize,
        launch: &Launch,
        pipeline: Arc<Pipeline>,
        bound: &[Bound],
        flops: f64,
        subject: &str,
        list: &mut Vec<Dispatch>,
    ) -> Result<()> {
        if launch.groups >= 1 << 31 {
            let message = format!("{subject}: {} workgroups; a kernel counts them up to 2^31", launch.groups);
            return Err(Error::new(ErrorKind::Limit, message));
        }
        let most = u64::from(self.gpu.caps.max_workgroups);
        let by_work = (flops / self.gpu.submit_flops).ceil().max(1.0) as u64;
        let each = launch.groups.div_ceil(by_work).min(most * most).max(1);
        let mut first = 0;
        while first < launch.groups {
            let end = (first + each).min(launch.groups);
            let x = (end - first).min(most);
            let y = (end - first).div_ceil(x);
            let mut args = vec![x as u32, first as u32, end as u32];
            args.extend_from_slice(&launch.args);
            let share = flops * (end - first) as f64 / launch.groups as f64;
            list.push(Dispatch {
                stage,
                pipeline: pipeline.clone(),
                bound: bound.to_vec(),
                args,
                grid: (x as u32, y as u32),
                flops: share,
                copies: Vec::new(),
            });
            first = end;
        }
        Ok(())
    }

    /// The range to bind for a layout, and the layout counted from its start: bindings begin at multiples of the device's alignment.
    fn bound(&self, view: &BufferView, meta: &mut Meta, subject: &str) -> Result<Bound> {
        let size = meta.dtype.size() as u64;
        let first = view.offset + meta.layout.offset as u64 * size;
        let start = first - first % u64::from(self.gpu.caps.storage_alignment);
        let end = view.offset + meta.layout.end() as u64 * size;
        let bytes = (end - start).next_multiple_of(4);
        if bytes > self.gpu.caps.max_binding {
            let message = format!(
                "{subject}: {bytes} bytes are over the device's max_storage_buffer_binding_size of {} bytes",
                self.gpu.caps.max_binding
            );
            return Err(Error::new(ErrorKind::Limit, message));
        }
        if start + bytes > view.buffer.size() {
            let message = format!(
                "{subject}: needs its buffer to end at a multiple of four bytes, at {} or later",
                start + bytes
            );
            return Err(Error::new(ErrorKind::Shape, message));
        }
        meta.layout.offset = ((first - start) / size) as usize;
        Ok((view.buffer.clone(), start, bytes))
    }

    /// Gathers small tables in one buffer: devices allow few bindings.
    fn pack_side(
        &self,
        plan: &Plan,
        tables: Vec<(BufferView, &mut Meta, String)>,
        copies: &mut Vec<(wgpu::Buffer, u64, wgpu::Buffer, u64, u64)>,
        pooled: bool,
    ) -> Result<(BufferView, u64)> {
        let mut parts = Vec::new();
        let mut total = 0;
        for (view, meta, name) in tables {
            if !view.buffer.usage().contains(wgpu::BufferUsages::COPY_SRC) {
                let found = format!("{:?}", view.buffer.usage());
                return Err(Error::expected(ErrorKind::Unsupported, plan.variant, &name, "usage COPY_SRC", found));
            }
            let size = meta.dtype.size() as u64;
            let first = view.offset + meta.layout.offset as u64 * size;
            let start = first & !3;
            let end = (view.offset + meta.layout.end() as u64 * size).next_multiple_of(4);
            meta.layout.offset = ((total + first - start) / size) as usize;
            parts.push((view.buffer, start, total, end - start));
            total += end - start;
        }
        let side = self.buffer(total, "side", pooled)?;
        copies
            .extend(parts.into_iter().map(|(buffer, start, to, size)| (buffer, start, side.buffer.clone(), to, size)));
        Ok((side, total))
    }
}

/// A transient slot that no stage uses has no block: a defect of the plan.
fn continue_with_nothing(plan: &Plan, slot: usize) -> Result<BufferView> {
    Err(Error::new(ErrorKind::Unsupported, format!("{}: no stage uses `{}`", plan.variant, plan.slots[slot].name)))
}

/// WebGPU forbids one buffer both read and written in a dispatch unless every binding of it is read_write; a caller's tensors may share
/// a buffer.
fn allow_aliases(key: &mut KernelKey, bound: &[(String, Bound)], subject: &str) -> Result<()> {
    let written: Vec<wgpu::Buffer> = key
        .bindings()
        .iter()
        .filter(|(_, access)| *access == Access::Write)
        .filter_map(|(name, _)| bound.iter().find(|(b, _)| b == name).map(|(_, b)| b.0.clone()))
        .collect();
    for (name, (buffer, ..)) in bound {
        if !written.contains(buffer) {
            continue;
        }
        match key.buffers.iter_mut().find(|b| b.name == name) {
            Some(of) => of.access = Access::Write,
            None => {
                let message = format!("{subject}: the table `{name}` lies in a buffer that the kernel writes");
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
        }
    }
    Ok(())
}
