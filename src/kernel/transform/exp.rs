//! e^x over slices, on vectors.

/// 2^r on −½ <= r <= ½ by powers of r: relative error 1.1e-7, and 2^0 = 1.
const POWERS: [f32; 6] = [1.0, 0.693_146_94, 0.240_221_93, 0.055_507_35, 0.009_674_317, 0.001_328_729_9];
/// 1.5 · 2^23: added, it leaves the nearest integer in the low bits.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in a part of few bits, whose multiples are exact, and the rest.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];

/// Every x becomes e^x, within 3e-7 of it; 0 where it would be subnormal.
pub(in crate::kernel) fn exp_all(x: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the instruction set is there.
        return unsafe { exp_avx2(x) };
    }
    exp_each(x);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn exp_avx2(x: &mut [f32]) {
    exp_each(x);
}

#[inline(always)]
fn exp_each(x: &mut [f32]) {
    for x in x {
        let within = x.clamp(-87.0, 89.0);
        let whole = within * std::f32::consts::LOG2_E + ROUND;
        let n = whole - ROUND;
        let r = (within - n * LN_2[0] - n * LN_2[1]) * std::f32::consts::LOG2_E;
        let p = POWERS;
        let y = p[0] + r * (p[1] + r * (p[2] + r * (p[3] + r * (p[4] + r * p[5]))));
        // In two factors: 2^128 is no f32, but e^88.7 is. The low bits of `whole` count from those of ROUND.
        let n = whole.to_bits() as i32 - ROUND.to_bits() as i32;
        let power = |n: i32| f32::from_bits(((n + 127) << 23) as u32);
        let y = y * power(n >> 1) * power(n - (n >> 1));
        let y = if *x < -87.0 { 0.0 } else { y };
        *x = if *x > 88.73 { f32::INFINITY } else { y };
    }
}

#[cfg(test)]
mod tests {
    use super::exp_all;

    #[test]
    fn exp_is_close_everywhere() {
        let x: Vec<f32> =
            (-870..887).flat_map(|n| [n as f32 * 0.1, n as f32 * 0.1 + 0.0314, n as f32 * 1e-4]).collect();
        let mut y = x.clone();
        exp_all(&mut y);
        for (x, y) in x.iter().zip(y) {
            let want = f64::from(*x).exp();
            assert!(((f64::from(y) - want) / want).abs() < 3e-7, "e^{x} = {y}, not {want}");
        }
        let mut ends = [f32::NEG_INFINITY, -200.0, 0.0, 88.0, 100.0, f32::INFINITY, f32::NAN];
        exp_all(&mut ends);
        assert_eq!(ends[..3], [0.0, 0.0, 1.0]);
        assert!(ends[3].is_finite() && ends[4] == f32::INFINITY && ends[5] == f32::INFINITY && ends[6].is_nan());
    }
}
