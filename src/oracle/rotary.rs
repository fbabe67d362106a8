//! Rotary frequencies, as the papers write them.

use super::frequencies;
use std::f64::consts::PI;

/// Numbers of a scaling rule.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the papers' names")]
pub struct Scaling {
    pub factor: f64,
    pub original_len: f64,
    pub seq_len: f64,
    pub beta_fast: f64,
    pub beta_slow: f64,
    pub low_freq_factor: f64,
    pub high_freq_factor: f64,
}

/// Angles per position of the pairs of `rot` channels under the rule `word`, and the factor of what is turned.
pub fn scaled_frequencies(word: &str, base: f64, rot: usize, x: Scaling) -> (Vec<f64>, f64) {
    let plain = frequencies(base, rot);
    let (s, width) = (x.factor, rot as f64);
    // One pair alone does not depend on the base.
    let stretch =
        |by: f64| if rot > 2 { frequencies(base * by.powf(width / (width - 2.0)), rot) } else { plain.clone() };
    match word {
        "linear" => (plain.iter().map(|theta| theta / s).collect(), 1.0),
        "ntk" => (stretch(s), 1.0),
        "dynamic_ntk" => {
            let n = x.seq_len.max(x.original_len);
            (stretch(s * n / x.original_len - (s - 1.0)), 1.0)
        }
        "yarn" => {
            // The pair that makes r rotations over the original length.
            let d = |r: f64| width * (x.original_len / (2.0 * PI * r)).ln() / (2.0 * base.ln());
            let low = d(x.beta_fast).floor().max(0.0);
            let mut high = d(x.beta_slow).ceil().min(width - 1.0);
            if high == low {
                high += 0.001;
            }
            let theta = plain.iter().enumerate().map(|(c, theta)| {
                let ramp = ((c as f64 - low) / (high - low)).clamp(0.0, 1.0);
                theta / s * ramp + theta * (1.0 - ramp)
            });
            (theta.collect(), if s > 1.0 { 0.1 * s.ln() + 1.0 } else { 1.0 })
        }
        "llama3" => {
            let theta = plain.iter().map(|theta| {
                let wavelength = 2.0 * PI / theta;
                if wavelength > x.original_len / x.low_freq_factor {
                    theta / s
                } else if wavelength < x.original_len / x.high_freq_factor {
                    *theta
                } else {
                    let smooth =
                        (x.original_len / wavelength - x.low_freq_factor) / (x.high_freq_factor - x.low_freq_factor);
                    (1.0 - smooth) * theta / s + smooth * theta
                }
            });
            (theta.collect(), 1.0)
        }
        _ => (plain, 1.0),
    }
}
