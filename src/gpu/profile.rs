//! Device time of the stages of a plan, by timestamp queries.

use super::engine::{GpuEngine, GpuPlan};
use super::readback;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::Plan;
use crate::tensor::Inputs;

/// Device time of one stage.
#[derive(Clone, Debug)]
pub struct Timing {
    /// The stage's label in the plan.
    pub label: String,
    /// The kernel's label.
    pub kernel: String,
    /// Milliseconds.
    pub ms: f64,
}

impl GpuEngine {
    /// Runs a prepared plan `repeat` times in one submit with a timestamp around each stage's repeats. With several sets of inputs
    /// each run takes the next one, so that small inputs are not found in a cache.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] without timestamp queries, [`ErrorKind::MissingInput`] without a set, else as
    /// [`run`](GpuEngine::run).
    pub async fn time(&self, plan: &Plan, prepared: &GpuPlan, sets: &[Inputs], repeat: usize) -> Result<Vec<Timing>> {
        if !self.gpu.caps.timestamps {
            return Err(Error::new(ErrorKind::Unsupported, format!("{} has no timestamp queries", self.gpu.info.name)));
        }
        let works = sets.iter().map(|set| self.dispatches(plan, prepared, set, true)).collect::<Result<Vec<_>>>()?;
        let Some(first) = works.first() else {
            return Err(Error::new(ErrorKind::MissingInput, "time: no set of inputs"));
        };
        let dispatches = &first.dispatches;
        let mut binds = Vec::new();
        for work in &works {
            let args = self.new_args(&work.dispatches, true)?;
            binds.push(self.bind(&work.dispatches, &args, None)?);
        }
        let device = &self.gpu.device;
        let stages = plan.stages.len() as u32;
        let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count: 2 * stages,
        });
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: u64::from(stages) * 16,
            usage,
            mapped_at_creation: false,
        });
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(plan.variant) });
        for stage in 0..stages {
            let own = |n: &usize| dispatches[*n].stage == stage as usize;
            let list: Vec<usize> = (0..dispatches.len()).filter(own).collect();
            for work in &works {
                list.iter().for_each(|&n| super::engine::copy(&mut encoder, &work.dispatches[n]));
            }
            let writes = wgpu::ComputePassTimestampWrites {
                query_set: &queries,
                beginning_of_pass_write_index: Some(2 * stage),
                end_of_pass_write_index: Some(2 * stage + 1),
            };
            let mut pass = encoder
                .begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes: Some(writes) });
            for turn in 0..repeat {
                for &n in &list {
                    pass.set_pipeline(&dispatches[n].pipeline.pipeline);
                    pass.set_bind_group(0, &binds[turn % sets.len()][n], &[]);
                    pass.dispatch_workgroups(dispatches[n].grid.0, dispatches[n].grid.1, 1);
                }
            }
        }
        encoder.resolve_query_set(&queries, 0..2 * stages, &resolved, 0);
        self.gpu.queue.submit([encoder.finish()]);
        let bytes = readback::fetch(&self.gpu, &resolved, 0, u64::from(stages) * 16).await?;
        let ticks: Vec<u64> = bytes.chunks_exact(8).map(bytemuck::pod_read_unaligned).collect();
        let period = f64::from(self.gpu.queue.get_timestamp_period());
        Ok((0..stages as usize)
            .map(|n| Timing {
                label: plan.stages[n].label.clone(),
                kernel: dispatches.iter().find(|d| d.stage == n).map_or(String::new(), |d| d.pipeline.label.clone()),
                ms: ticks[2 * n + 1].saturating_sub(ticks[2 * n]) as f64 * period * 1e-6 / repeat as f64,
            })
            .collect())
    }
}
