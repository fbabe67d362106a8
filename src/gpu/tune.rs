//! Measuring the launches that kernels offer for a plan, and keeping the fastest.

use super::engine::GpuEngine;
use super::kernel_folder::EDITED;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::key::{KernelKey, Launch};
use crate::plan::Plan;
use crate::tensor::Inputs;

/// Milliseconds of one sample, at least.
const SAMPLE_MS: f64 = 20.0;
const SAMPLES: usize = 5;
/// A choice must be this much faster than the first one: less is noise.
const GAIN: f64 = 0.98;

/// What was measured for one stage.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// The stage's label in the plan.
    pub stage: String,
    /// The label of the kernel that is taken from now on.
    pub kernel: String,
    /// Every kernel tried, the default first: label and milliseconds, or why there is no time.
    pub tried: Vec<(String, Result<f64>)>,
}

impl GpuEngine {
    /// Times every launch that the kernels of a plan offer and keeps the fastest, for this and later plans of the same kernels and sizes.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] without timestamp queries; as [`prepare`](GpuEngine::prepare) and [`run`](GpuEngine::run) where the
    /// default launches fail; [`ErrorKind::File`] when the choices can not be written.
    pub async fn tune(&self, plan: &Plan, sets: &[Inputs]) -> Result<Vec<Tuned>> {
        let Some(first) = sets.first() else {
            return Err(Error::new(ErrorKind::MissingInput, "tune: no set of inputs"));
        };
        plan.layouts(first)?;
        let mut list = Vec::new();
        for (n, stage) in plan.stages.iter().enumerate() {
            let (offered, flops) = self.offered(plan, n)?;
            if let [default, _, ..] = &offered[..] {
                let tried = self.try_all(plan, sets, n, &offered, flops).await?;
                let time = |tried: &(String, Result<f64>)| tried.1.as_ref().map_or(f64::INFINITY, |ms| *ms);
                let best = tried.iter().min_by(|a, b| time(a).total_cmp(&time(b)));
                let best = best.filter(|best| time(best) < GAIN * time(&tried[0])).unwrap_or(&tried[0]);
                self.choices.keep(default, flops, &best.0);
                list.push(Tuned { stage: stage.label.clone(), kernel: best.0.clone(), tried: tried.clone() });
            }
        }
        self.choices.save()?;
        Ok(list)
    }

    /// The labels of the kernels that a stage of a plan could run here, the default first.
    ///
    /// # Errors
    /// As [`prepare`](GpuEngine::prepare) where no kernel serves; [`ErrorKind::UnknownName`] for a stage that the plan does not have.
    pub fn kernels(&self, plan: &Plan, stage: usize) -> Result<Vec<String>> {
        Ok(self.offered(plan, stage)?.0.iter().map(|launch| launch.key.label()).collect())
    }

    /// The key that a stage of a prepared plan runs: what passed its self-test, and what was chosen.
    ///
    /// # Errors
    /// As [`kernels`](GpuEngine::kernels).
    pub fn key(&self, plan: &Plan, stage: usize) -> Result<KernelKey> {
        self.offered(plan, stage)?;
        let layouts: Vec<_> = plan.slots.iter().map(|slot| slot.layout.clone()).collect();
        Ok(self.launch(plan.stages[stage].op.kernel(), &plan.io(stage, &layouts))?.key)
    }

    /// Takes the kernel of this label for a stage of this plan, and wherever else the same kernel is asked for at the same size, until
    /// [`tune`](GpuEngine::tune) or another call chooses again. A kernel of matrices is taken only if it passes its self-test.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownName`] when the stage is not in the plan or has no such kernel.
    pub fn choose(&self, plan: &Plan, stage: usize, label: &str) -> Result<()> {
        let (offered, flops) = self.offered(plan, stage)?;
        if !offered.iter().any(|launch| launch.key.label() == label) {
            let known: Vec<String> = offered.iter().map(|launch| launch.key.label()).collect();
            let expected = format!("one of {}", known.join(", "));
            return Err(Error::expected(ErrorKind::UnknownName, plan.variant, "kernel", expected, label));
        }
        self.choices.keep(&offered[0], flops, label);
        Ok(())
    }

    /// The launches that a stage could be, and its FLOPs.
    fn offered(&self, plan: &Plan, stage: usize) -> Result<(Vec<Launch>, f64)> {
        let Some(of) = plan.stages.get(stage) else {
            let expected = format!("0 to {}", plan.stages.len().saturating_sub(1));
            return Err(Error::expected(ErrorKind::UnknownName, plan.variant, "stage", expected, stage));
        };
        let layouts: Vec<_> = plan.slots.iter().map(|slot| slot.layout.clone()).collect();
        let (kernel, io) = (of.op.kernel(), plan.io(stage, &layouts));
        let mut offered = Vec::new();
        while let Some(launch) = kernel.alternative(offered.len(), &io, &self.gpu.caps)? {
            offered.push(launch);
        }
        Ok((offered, kernel.flops(&io)))
    }

    async fn try_all(
        &self,
        plan: &Plan,
        sets: &[Inputs],
        stage: usize,
        offered: &[Launch],
        flops: f64,
    ) -> Result<Vec<(String, Result<f64>)>> {
        let mut tried = Vec::new();
        for launch in offered {
            self.test_key(&launch.key).await;
            let label = launch.key.label();
            let lent = self.choices.lend(&offered[0], flops, launch);
            let ms = self.sample(plan, sets, stage, &label).await;
            drop(lent);
            tried.push((label, ms));
        }
        // One that works must be left, or the error is the caller's to see.
        match tried.iter().position(|(_, ms)| ms.is_ok()) {
            Some(_) => Ok(tried),
            None => Err(tried
                .swap_remove(0)
                .1
                .err()
                .unwrap_or_else(|| Error::new(ErrorKind::Device, "tune: no kernel ran"))),
        }
    }

    /// The median of a stage's time in milliseconds, with the kernel of this label and no other.
    async fn sample(&self, plan: &Plan, sets: &[Inputs], stage: usize, label: &str) -> Result<f64> {
        let prepared = self.prepare(plan).await?;
        let once = self.time(plan, &prepared, sets, 1).await?;
        let ran = once[stage].kernel.trim_end_matches(EDITED);
        if ran != label {
            return Err(Error::new(ErrorKind::Unsupported, format!("{label}: did not pass its self-test; {ran} ran")));
        }
        let whole: f64 = once.iter().map(|t| t.ms).sum();
        let repeat = (SAMPLE_MS / whole.max(1e-3)).ceil().clamp(1.0, 1000.0) as usize;
        let mut samples = Vec::with_capacity(SAMPLES);
        for _ in 0..SAMPLES {
            samples.push(self.time(plan, &prepared, sets, repeat).await?[stage].ms);
        }
        samples.sort_by(f64::total_cmp);
        Ok(samples[SAMPLES / 2])
    }
}
