//! Hooks that read elsewhere in a tensor than at their own pair: gathers, ranks and sums over small boxes.

use super::hook;
use crate::hook::{ArgValue, Hook, Row, Twin};
use crate::kernel::key::ScalarType;
use crate::plan::Ref;

/// `s = of(s, key)` of every key.
fn each(s: &mut [f32], row: &Row, of: impl Fn(f32, usize) -> f32) {
    s.iter_mut().zip(row.keys).for_each(|(s, &j)| *s = of(*s, j as usize));
}

fn reals(x: &Ref) -> ArgValue {
    ArgValue::Lookup(x.clone(), ScalarType::F32)
}

fn whole(x: &Ref) -> ArgValue {
    ArgValue::Lookup(x.clone(), ScalarType::I32)
}

/// Whether number n comes before the own one in descending order, ties by index.
fn before((other, n): (f64, usize), (own, j): (f64, usize)) -> bool {
    other > own || (other == own && n < j)
}

/// Adds the bucket of the distance j − i', from a list (1, 1, 1, N) of i32 that begins at distance −shift.
pub fn bucket(list: &Ref, shift: usize) -> Hook {
    let twin = Twin::Score(|s, row, args| {
        let shift = args[0].i32(0);
        each(s, row, |s, j| s + args[1].lookup([0, 0, 0, (j as i32 - row.query + shift) as usize]) as f32);
    });
    hook!(Score, "lookup", "bucket", twin).arg("shift", ArgValue::I32(shift as i32)).arg("list", whole(list))
}

/// Adds the bias (1, H, 1, buckets) of the bucket of the distance j − i'.
pub fn bucket_bias(list: &Ref, shift: usize, bias: &Ref) -> Hook {
    let twin = Twin::Score(|s, row, args| {
        let shift = args[0].i32(0);
        each(s, row, |s, j| {
            let bucket = args[1].lookup([0, 0, 0, (j as i32 - row.query + shift) as usize]) as usize;
            s + args[2].lookup([0, row.head, 0, bucket]) as f32
        });
    });
    hook!(Score, "lookup", "bucket_bias", twin)
        .arg("shift", ArgValue::I32(shift as i32))
        .arg("list", whole(list))
        .arg("bias", reals(bias))
}

/// Adds scale x_i·r: x (B, H, Lq, D), r (1, H, N, D) of the distance i' − j, whose list begins at distance −shift.
pub fn relative(x: &Ref, r: &Ref, shift: usize, scale: f32) -> Hook {
    let twin = Twin::Score(|s, row, args| {
        let (shift, depth, scale) = (args[0].i32(0), args[1].i32(0) as usize, args[2].f32(0));
        let x: Vec<f32> = (0..depth).map(|d| args[3].lookup([row.batch, row.head, row.row, d]) as f32).collect();
        each(s, row, |s, j| {
            let at = (row.query - j as i32 + shift) as usize;
            let sum: f32 = x.iter().enumerate().map(|(d, x)| x * args[4].lookup([0, row.head, at, d]) as f32).sum();
            s + scale * sum
        });
    });
    hook!(Score, "lookup", "relative", twin)
        .arg("shift", ArgValue::I32(shift as i32))
        .arg("depth", ArgValue::U32(x.shape[3] as u32))
        .arg("scale", ArgValue::F32(scale))
        .arg("x", reals(x))
        .arg("r", reals(r))
}

/// The element of x (B, Hx, L, width), 0 past its width; `heads` of the result share its heads.
pub fn padded(x: &Ref, heads: usize) -> Hook {
    let twin =
        Twin::Score(|s, row, args| {
            let (width, share) = (args[0].i32(0) as usize, args[1].i32(0) as usize);
            each(s, row, |_, j| {
                if j < width { args[2].lookup([row.batch, row.head / share, row.row, j]) as f32 } else { 0.0 }
            });
        });
    hook!(Score, "lookup", "padded", twin)
        .arg("width", ArgValue::I32(x.shape[3] as i32))
        .arg("share", ArgValue::U32((heads / x.shape[1]) as u32))
        .arg("x", reals(x))
}

/// One end of a [`box_sum`]: a number, or a table of i32 that broadcasts to the pairs.
#[derive(Clone, Debug)]
pub enum Bound {
    /// The same everywhere.
    At(usize),
    /// One a pair.
    Table(Ref),
}

/// Sum of x over heads, rows and columns of the batch entry, each from a first to an end.
pub fn box_sum(x: &Ref, [heads, rows, columns]: [[Bound; 2]; 3]) -> Hook {
    let twin = Twin::Score(|s, row, args| {
        each(s, row, |_, j| {
            let range = |n: usize| args[n].i32(j as i32) as usize..args[n + 1].i32(j as i32) as usize;
            let column =
                |h: usize, i: usize| range(4).map(|j| args[6].lookup([row.batch, h, i, j]) as f32).sum::<f32>();
            range(0).map(|h| range(2).map(|i| column(h, i)).sum::<f32>()).sum()
        });
    });
    let bounds = [heads, rows, columns].into_iter().flatten();
    let names = ["h0", "h1", "i0", "i1", "j0", "j1"];
    let hook = bounds.zip(names).fold(hook!(Score, "lookup", "box_sum", twin), |hook, (bound, name)| {
        hook.arg(
            name,
            match bound {
                Bound::At(n) => ArgValue::I32(n as i32),
                Bound::Table(r) => ArgValue::Table(r, ScalarType::I32),
            },
        )
    });
    hook.arg("x", reals(x))
}

/// Σ_ab taps_ab x(i − up + a, j − left + b), 0 outside x: x (B, Hx, R, N) with Hx a divisor of H, taps (B, H, A, B').
pub fn correlation(x: &Ref, taps: &Ref, [up, left]: [usize; 2]) -> Hook {
    let twin = Twin::Score(|s, row, args| {
        let [rows, columns, height, width, up, left] = [0, 1, 2, 3, 4, 5].map(|n| args[n].i32(0));
        let head = row.head / args[6].i32(0) as usize;
        each(s, row, |_, j| {
            let (i, j) = (row.row as i32 - up, j as i32 - left);
            let mut sum = 0.0;
            for a in 0.max(-i)..height.min(rows - i) {
                for b in 0.max(-j)..width.min(columns - j) {
                    let x = args[7].lookup([row.batch, head, (i + a) as usize, (j + b) as usize]);
                    sum += x as f32 * args[8].lookup([row.batch, row.head, a as usize, b as usize]) as f32;
                }
            }
            sum
        });
    });
    hook!(Score, "lookup", "correlation", twin)
        .arg("rows", ArgValue::I32(x.shape[2] as i32))
        .arg("columns", ArgValue::I32(x.shape[3] as i32))
        .arg("height", ArgValue::I32(taps.shape[2] as i32))
        .arg("width", ArgValue::I32(taps.shape[3] as i32))
        .arg("up", ArgValue::I32(up as i32))
        .arg("left", ArgValue::I32(left as i32))
        .arg("share", ArgValue::U32((taps.shape[1] / x.shape[1]) as u32))
        .arg("x", reals(x))
        .arg("taps", reals(taps))
}

/// Rows of a (B, H, I, J), then those of b.
pub fn stacked(a: &Ref, b: &Ref) -> Hook {
    let twin = Twin::Score(|s, row, args| {
        let split = args[0].i32(0) as usize;
        let (part, i) = if row.row < split { (1, row.row) } else { (2, row.row - split) };
        each(s, row, |_, j| args[part].lookup([row.batch, row.head, i, j]) as f32);
    });
    hook!(Score, "lookup", "stacked", twin)
        .arg("split", ArgValue::U32(a.shape[2] as u32))
        .arg("a", reals(a))
        .arg("b", reals(b))
}

/// Of row `row` of x (B, H, R, N), a table of i32: the column at each place in descending order, ties by index.
pub fn ranked(x: &Ref, row: Ref) -> Hook {
    let twin = Twin::Score(|s, row, args| {
        let (count, of) = (args[0].i32(0) as usize, args[1].i32(0) as usize);
        let x: Vec<f64> = (0..count).map(|n| args[2].lookup([row.batch, row.head, of, n])).collect();
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|&a, &b| x[b].total_cmp(&x[a]).then(a.cmp(&b)));
        each(s, row, |_, j| order[j] as f32);
    });
    hook!(Score, "lookup", "ranked", twin)
        .arg("count", ArgValue::I32(x.shape[3] as i32))
        .arg("row", ArgValue::Table(row, ScalarType::I32))
        .arg("x", reals(x))
}

/// 0 unless the column is among the `most` largest of its row of x (B, H, I, N), ties by index.
pub fn keep_largest(x: &Ref, most: usize) -> Hook {
    let twin = Twin::Score(|s, row, args| {
        let (count, most) = (args[0].i32(0) as usize, args[1].i32(0) as usize);
        let x = |n: usize| (args[2].lookup([row.batch, row.head, row.row, n]), n);
        each(s, row, |s, j| if (0..count).filter(|&n| before(x(n), x(j))).count() < most { s } else { 0.0 });
    });
    hook!(Score, "lookup", "keep_largest", twin)
        .arg("count", ArgValue::I32(x.shape[3] as i32))
        .arg("most", ArgValue::I32(most as i32))
        .arg("x", reals(x))
}

/// Columns of a (B, H, I, J), then those of b.
pub fn joined(a: &Ref, b: &Ref) -> Hook {
    let twin = Twin::Score(|s, row, args| {
        let split = args[0].i32(0) as usize;
        each(s, row, |_, j| {
            let (part, j) = if j < split { (1, j) } else { (2, j - split) };
            args[part].lookup([row.batch, row.head, row.row, j]) as f32
        });
    });
    hook!(Score, "lookup", "joined", twin)
        .arg("split", ArgValue::I32(a.shape[3] as i32))
        .arg("a", reals(a))
        .arg("b", reals(b))
}

/// The element of x (B, H, I, J) at the head that a table of i32 names.
pub fn pick(x: &Ref, head: Ref) -> Hook {
    let twin = Twin::Score(|s, row, args| {
        each(s, row, |_, j| args[1].lookup([row.batch, args[0].i32(j as i32) as usize, row.row, j]) as f32);
    });
    hook!(Score, "lookup", "pick", twin).arg("head", ArgValue::Table(head, ScalarType::I32)).arg("x", reals(x))
}

/// Where each segment begins when those of a row are placed downwards from `end` in descending order of x (B, H, G, N), ties by index;
/// lengths (1, 1, 1, N) of i32.
pub fn nearest_first(x: &Ref, length: &Ref, end: usize) -> Hook {
    let twin = Twin::Score(|s, row, args| {
        let (count, end) = (args[0].i32(0) as usize, args[1].f32(0));
        let x = |n: usize| (args[2].lookup([row.batch, row.head, row.row, n]), n);
        let length = |n: usize| args[3].lookup([0, 0, 0, n]) as f32;
        each(s, row, |_, j| {
            let nearer: f32 = (0..count).filter(|&n| before(x(n), x(j))).map(length).sum();
            end - length(j) - nearer
        });
    });
    hook!(Score, "lookup", "nearest_first", twin)
        .arg("count", ArgValue::I32(x.shape[3] as i32))
        .arg("end", ArgValue::F32(end as f32))
        .arg("x", reals(x))
        .arg("length", whole(length))
}

/// Adds `origin` − x (B, H, G, N) of the row's group, a table of i32, and a segment.
pub fn displaced(x: &Ref, origin: usize, segment: usize, group: Ref) -> Hook {
    let twin = Twin::Score(|s, row, args| {
        let (segment, group) = (args[1].i32(0) as usize, args[2].i32(0) as usize);
        let by = args[0].f32(0) - args[3].lookup([row.batch, row.head, group, segment]) as f32;
        s.iter_mut().for_each(|s| *s += by);
    });
    hook!(Score, "lookup", "displaced", twin)
        .arg("origin", ArgValue::F32(origin as f32))
        .arg("segment", ArgValue::I32(segment as i32))
        .arg("group", ArgValue::Table(group, ScalarType::I32))
        .arg("x", reals(x))
}

/// Rows `first .. first + count` whose flag in row `row` of flags (rows, count) is set.
pub fn region(flags: &Ref, first: usize, row: usize) -> Hook {
    let twin = Twin::Mask(|m, row, args| {
        let (first, count, of) = (args[0].i32(0) as usize, args[1].i32(0) as usize, args[2].i32(0) as usize);
        let p = row.row.wrapping_sub(first);
        if p >= count || args[3].lookup([0, 0, of, p]) == 0.0 {
            m.fill(false);
        }
    });
    hook!(Mask, "mask", "region", twin)
        .arg("first", ArgValue::I32(first as i32))
        .arg("count", ArgValue::I32(flags.shape[1] as i32))
        .arg("row", ArgValue::U32(row as u32))
        .arg("flags", ArgValue::Lookup(flags.insert(0).insert(0), ScalarType::Bool))
}
