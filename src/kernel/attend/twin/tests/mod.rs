//! The twin against a reference in f64 that shares nothing with it but the words.

mod lists;
mod options;
mod reference;
mod values;

use super::simd::{self, Kernels};
use crate::hook::Hook;
use crate::kernel::attend::Attend;
use crate::kernel::key::{Place, ScalarType};
use crate::kernel::{Io, Meta, TableMeta, TwinIo};
use crate::tensor::{DType, HostData, Layout};
use half::f16;
use reference::reference;

/// Numbers in [-1, 1) that look random.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// A tensor for a test: layout and memory.
#[derive(Clone)]
struct Array {
    layout: Layout,
    data: HostData,
}

impl Array {
    fn new(shape: &[usize], data: impl Into<HostData>) -> Self {
        Array { layout: Layout::contiguous(shape), data: data.into() }
    }

    fn noise(shape: &[usize], seed: u64) -> Self {
        Self::new(shape, noise(shape.iter().product(), seed))
    }

    fn get(&self, index: &[usize]) -> f64 {
        self.data.get(self.layout.at(index))
    }

    fn set(&mut self, index: &[usize], x: f32) {
        let at = self.layout.at(index);
        match &mut self.data {
            HostData::F32(v) => v[at] = x,
            HostData::F16(v) => v[at] = f16::from_f32(x),
            _ => panic!("not a float"),
        }
    }

    /// The same elements in other memory: axes in another order, `step` elements apart, after an offset.
    fn spread(&self, order: [usize; 4], step: usize) -> Self {
        let shape: Vec<usize> = order.iter().map(|&a| self.layout.shape[a]).collect();
        let mut layout = Layout::contiguous(&shape);
        layout.strides.iter_mut().for_each(|s| *s *= step);
        layout.offset = 5;
        let mut back = [0; 4];
        order.iter().enumerate().for_each(|(n, &a)| back[a] = n);
        let layout = layout.permute(&back);
        let mut data = vec![f32::NAN; layout.end()];
        for (from, to) in self.layout.positions().zip(layout.positions()) {
            data[to] = self.data.get(from) as f32;
        }
        Array { layout, data: data.into() }
    }

    fn to_f16(&self) -> Self {
        let HostData::F32(v) = &self.data else { panic!("not f32") };
        let data: Vec<f16> = v.iter().map(|&x| f16::from_f32(x)).collect();
        Array { layout: self.layout.clone(), data: data.into() }
    }

    fn meta(&self) -> Meta {
        Meta { dtype: self.data.dtype(), layout: self.layout.clone() }
    }
}

/// A hook of the twin, and the same for the reference: (value, batch, head, row, query, key).
struct TestHook {
    hook: Hook,
    reference: fn(f64, [usize; 3], i32, usize) -> f64,
}

struct Case {
    op: Attend,
    q: Array,
    k: Array,
    v: Array,
    indptr: Option<Array>,
    indices: Option<Array>,
    tables: Vec<(String, ScalarType, Array)>,
    hooks: Vec<TestHook>,
}

impl Case {
    /// B, H, Hk, Lq, Lk, D, Dv
    fn new([b, h, hk, lq, lk, d, dv]: [usize; 7]) -> Self {
        Case {
            op: Attend::new((d as f32).powf(-0.5) * 3.0),
            q: Array::noise(&[b, h, lq, d], 1),
            k: Array::noise(&[b, hk, lk, d], 2),
            v: Array::noise(&[b, hk, lk, dv], 3),
            indptr: None,
            indices: None,
            tables: Vec::new(),
            hooks: Vec::new(),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Attend)) -> Self {
        change(&mut self.op);
        self
    }

    fn table(mut self, name: &str, result: ScalarType, shape: &[usize], data: impl Into<HostData>) -> Self {
        let (q, k) = (&self.q.layout.shape, &self.k.layout.shape);
        let mut full = [q[0], q[1], q[2], k[2]];
        if name == "sink" {
            full[3] = shape[3];
        }
        let mut table = Array::new(shape, data);
        table.layout = table.layout.broadcast(&full).expect("the table broadcasts");
        self.tables.push((name.to_owned(), result, table));
        self
    }

    fn hook(mut self, hook: Hook, reference: fn(f64, [usize; 3], i32, usize) -> f64) -> Self {
        self.hooks.push(TestHook { hook, reference });
        self
    }

    fn find(&self, name: &str) -> Option<&Array> {
        self.tables.iter().find(|(n, ..)| n == name).map(|(.., t)| t)
    }

    /// B, H, Hk, Lq, Lk, D, Dv
    fn sizes(&self) -> [usize; 7] {
        let (q, k, v) = (&self.q.layout.shape, &self.k.layout.shape, &self.v.layout.shape);
        [q[0], q[1], k[1], q[2], k[2], q[3], v[3]]
    }

    /// out, lse and mass
    fn run(&self, kernels: &'static Kernels) -> [Vec<f32>; 3] {
        let [b, h, _, lq, _, _, dv] = self.sizes();
        let s = self.op.splits;
        let layouts = [Layout::contiguous(&[s, b, h, lq, dv]), Layout::contiguous(&[s, b, h, lq])];
        let mut io = Io { hooks: self.hooks.iter().map(|h| h.hook.clone()).collect(), ..Io::default() };
        let mut reads = Vec::new();
        let lists = [("indptr", &self.indptr), ("indices", &self.indices)];
        let lists = lists.iter().filter_map(|(name, a)| Some((*name, a.as_ref()?)));
        for (name, array) in [("q", &self.q), ("k", &self.k), ("v", &self.v)].into_iter().chain(lists) {
            io.roles.push((name, array.meta()));
            reads.push((name, &array.data));
        }
        let mut outputs = Vec::new();
        for (name, layout) in [("out", &layouts[0]), ("lse", &layouts[1]), ("mass", &layouts[1])] {
            io.roles.push((name, Meta { dtype: DType::F32, layout: layout.clone() }));
            outputs.push((name, HostData::F32(vec![f32::from_bits(0x7fc1_2345); layout.len()])));
        }
        for (name, result, table) in &self.tables {
            io.tables.push(TableMeta { name: name.clone(), result: *result, place: Place::Side, meta: table.meta() });
        }
        let tables = self.tables.iter().map(|(.., t)| &t.data).collect();
        let writes = outputs.iter_mut().map(|(name, data)| (*name, data)).collect();
        super::run(&self.op, &mut TwinIo { io: &io, reads, writes, tables }, kernels).expect("the twin runs");
        let mut results = outputs.into_iter().map(|(_, data)| match data {
            HostData::F32(v) => v,
            _ => panic!("not f32"),
        });
        std::array::from_fn(|_| results.next().expect("three outputs"))
    }

    /// Compares every set of kernels with the reference.
    fn check(&self, name: &str) {
        let want = reference(self);
        for kernels in simd::available() {
            let found = self.run(kernels);
            for (what, want, found) in
                [("out", &want.out, &found[0]), ("lse", &want.lse, &found[1]), ("mass", &want.mass, &found[2])]
            {
                let name = format!("{name} on {}: {what} of {:?}", kernels.name, self.sizes());
                assert_close(&name, want, found);
            }
        }
    }
}

/// Infinities and NaN must be the same; the rest within 1e-5 of the largest, and 2e-6 in the mean of squares.
fn assert_close(name: &str, want: &[f64], found: &[f32]) {
    assert_eq!(want.len(), found.len(), "{name}");
    let (mut size, mut error, mut most) = (1e-30f64, 0f64, 0f64);
    for (at, (&w, &f)) in want.iter().zip(found).enumerate() {
        let f = f64::from(f);
        if !w.is_finite() || !f.is_finite() {
            assert!(w == f || (w.is_nan() && f.is_nan()), "{name}: [{at}] is {f}, not {w}");
            continue;
        }
        size += w * w;
        error += (w - f).powi(2);
        most = most.max((w - f).abs() / (1.0 + w.abs()));
    }
    assert!(most <= 1e-5, "{name}: largest error {most:e}");
    assert!((error / size).sqrt() <= 2e-6, "{name}: RMS ratio {:e}", (error / size).sqrt());
}
