//! How long a prepared plan takes: device time by timestamps where there are any, else host time around runs and a wait.

use super::ceilings::Clock;
use std::time::{Duration, Instant};
use wgpu_attention::gpu::Timing;
use wgpu_attention::{Inputs, Prepared, Result, Runtime};

/// How much a measurement may cost.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Seconds for the whole measurement; one sample is always taken.
    pub seconds: f64,
}

const WARM_UP: f64 = 0.3;
/// Seconds that a device may take to reach its full clock.
const RAMP: f64 = 4.0;
/// Samples that the protocol asks for.
pub const SAMPLES: usize = 15;
/// Milliseconds that a sample takes at least.
const SAMPLE: f64 = 20.0;
/// Most runs of a sample; for kernels of microseconds.
const MOST: f64 = 2000.0;

/// What was measured.
#[derive(Clone, Debug)]
pub struct Timed {
    /// Milliseconds a run, one entry a sample, ascending.
    pub ms: Vec<f64>,
    /// Milliseconds of each stage in the last sample, where timestamps tell them apart.
    pub stages: Vec<Timing>,
    /// Milliseconds a run by the host's clock, many runs to a wait.
    pub host: f64,
    /// Milliseconds of one run and one wait.
    pub latency: f64,
    /// Runs of a sample.
    pub repeat: usize,
    /// Input sets that took turns.
    pub sets: usize,
    /// Samples taken again because the device did not run at full speed.
    pub slow: usize,
    /// Whether `ms` is device time.
    pub timestamps: bool,
}

impl Timed {
    /// The middle sample.
    pub fn median(&self) -> f64 {
        self.ms[self.ms.len() / 2]
    }

    /// The largest sample.
    pub fn most(&self) -> f64 {
        self.ms[self.ms.len() - 1]
    }
}

/// Measures a prepared plan. With several input sets each run takes the next one, so that no run finds its inputs in a cache.
pub fn measure(
    runtime: &Runtime,
    prepared: &Prepared,
    sets: &[Inputs],
    budget: Budget,
    clock: Option<&Clock>,
) -> Result<Timed> {
    let timestamps = runtime.caps().timestamps;
    let start = Instant::now();
    let spent = |share: f64| start.elapsed().as_secs_f64() > share * budget.seconds;
    // The first run pays for memory and bind groups; the second tells how many make a sample.
    host(runtime, prepared, sets, 1)?;
    let mut one = host(runtime, prepared, sets, 1)?;
    let warm = Instant::now();
    while warm.elapsed() < Duration::from_secs_f64(WARM_UP) && !spent(0.3) {
        one = host(runtime, prepared, sets, sets.len())?;
    }
    let mut slow = 0;
    if let Some(clock) = clock {
        // Up to full speed, and on until it stays there.
        let mut good = 0;
        while good < 3 && warm.elapsed().as_secs_f64() < RAMP {
            one = host(runtime, prepared, sets, sets.len())?;
            good = if clock.full()? { good + 1 } else { 0 };
        }
    }
    let mut latencies = Vec::new();
    while latencies.len() < 5 && (latencies.is_empty() || !spent(0.4)) {
        latencies.push(host(runtime, prepared, sets, 1)?);
    }
    let mut stages = Vec::new();
    if timestamps {
        stages = runtime.time_blocking(prepared, sets, 1)?;
        one = total(&stages);
    }
    let mut repeat = (SAMPLE / one).ceil().clamp(1.0, MOST) as usize;
    // A slow clock step can make the first readings of a short kernel far too long.
    if repeat > 1 && timestamps {
        one = total(&runtime.time_blocking(prepared, sets, repeat)?);
        repeat = (SAMPLE / one).ceil().clamp(1.0, MOST) as usize;
    }
    let mut ms = Vec::new();
    while ms.len() < SAMPLES && (ms.is_empty() || !spent(0.9)) {
        if timestamps {
            stages = runtime.time_blocking(prepared, sets, repeat)?;
            if clock.map_or(Ok(true), Clock::full)? || slow >= 4 * SAMPLES {
                ms.push(total(&stages));
            } else {
                slow += 1;
            }
        } else {
            ms.push(host(runtime, prepared, sets, repeat)?);
        }
    }
    let by_host = if timestamps { host(runtime, prepared, sets, repeat)? } else { ms[0] };
    ms.sort_by(f64::total_cmp);
    latencies.sort_by(f64::total_cmp);
    let latency = latencies[latencies.len() / 2];
    Ok(Timed { ms, stages, host: by_host, latency, repeat, sets: sets.len(), timestamps, slow })
}

fn total(stages: &[Timing]) -> f64 {
    // A device whose clock stands still for a short kernel must not lead to a division by 0.
    stages.iter().map(|s| s.ms).sum::<f64>().max(1e-6)
}

/// Milliseconds a run by the host's clock, `repeat` runs to a wait.
fn host(runtime: &Runtime, prepared: &Prepared, sets: &[Inputs], repeat: usize) -> Result<f64> {
    let start = Instant::now();
    for n in 0..repeat {
        runtime.run(prepared, &sets[n % sets.len()])?;
    }
    runtime.wait()?;
    Ok(start.elapsed().as_secs_f64() * 1e3 / repeat as f64)
}
