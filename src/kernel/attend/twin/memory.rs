//! Scratch memory of a thread, and rows of inputs as pointers.

use super::setup::{Floats, Source};
use super::simd::Kernels;

/// A cache line, and the widest vector.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line(#[expect(dead_code, reason = "read through pointers")] [f32; 16]);

/// f32 memory aligned for vectors. It grows and keeps what it holds.
#[derive(Default)]
pub(super) struct Aligned(Vec<Line>);

impl Aligned {
    /// At least `n` elements.
    pub fn reserve(&mut self, n: usize) {
        if n > self.0.len() * 16 {
            // Fresh memory instead of a longer copy of the old.
            self.0 = Vec::new();
            self.0 = vec![Line([0.0; 16]); n.div_ceil(16)];
        }
    }

    pub fn pointer(&mut self) -> *mut f32 {
        self.0.as_mut_ptr().cast()
    }

    /// `n` elements; other parts may be pointed at meanwhile.
    pub fn row(&mut self, at: usize, n: usize) -> &mut [f32] {
        assert!(at + n <= self.0.len() * 16);
        // SAFETY: a line is sixteen f32 without padding, and the part lies inside.
        unsafe { std::slice::from_raw_parts_mut(self.pointer().add(at), n) }
    }
}

/// Pointers to rows, and room for those that have to be converted first.
#[derive(Default)]
pub(super) struct Rows {
    pub pointers: Vec<*const f32>,
    converted: Aligned,
}

impl Rows {
    /// Points at the rows `keys` of one head; they are valid until the next call.
    pub fn take(&mut self, kernels: &Kernels, source: &Source, batch: usize, head: usize, keys: &[i32]) {
        let width = source.layout.shape[3];
        let step = source.layout.strides[2];
        let base = source.layout.at(&[batch, head, 0, 0]);
        self.pointers.clear();
        if width == 0 || keys.is_empty() {
            // Nothing is read through them.
            self.pointers.resize(keys.len(), std::ptr::NonNull::dangling().as_ptr());
            return;
        }
        if let (Floats::F32(data), true) = (source.data, source.direct()) {
            let data = data.as_ptr();
            // SAFETY: keys are below the layout's third size, and the layout ends inside the data.
            self.pointers.extend(keys.iter().map(|&j| unsafe { data.add(base + j as usize * step) }));
            return;
        }
        let stride = kernels.padded(width);
        self.converted.reserve(keys.len() * stride);
        for (n, &j) in keys.iter().enumerate() {
            let row = self.converted.row(n * stride, width);
            convert(kernels, source, base + j as usize * step, row);
            self.pointers.push(row.as_ptr());
        }
    }
}

/// Addresses of rows of one head as they lie in memory, and their bytes; nothing where a row's elements are apart.
pub(super) fn addresses(source: &Source, batch: usize, head: usize, keys: &[i32], to: &mut Vec<*const u8>) -> usize {
    let (base, step) = (source.layout.at(&[batch, head, 0, 0]), source.layout.strides[2]);
    let (data, size) = match source.data {
        Floats::F32(data) => (data.as_ptr().cast::<u8>(), 4),
        Floats::F16(data) => (data.as_ptr().cast::<u8>(), 2),
    };
    to.clear();
    if source.layout.strides[3] == 1 {
        to.extend(keys.iter().map(|&j| data.wrapping_add((base + j as usize * step) * size)));
    }
    source.layout.shape[3] * size
}

/// The row that starts at element `at` as f32.
pub(super) fn convert(kernels: &Kernels, source: &Source, at: usize, to: &mut [f32]) {
    let (width, stride) = (to.len(), source.layout.strides[3]);
    match source.data {
        Floats::F32(data) if stride == 1 => to.copy_from_slice(&data[at..at + width]),
        Floats::F16(data) if stride == 1 => {
            let row = &data[at..at + width];
            // SAFETY: both are `width` long, and the kernels are those of this machine.
            unsafe { (kernels.widen)(row.as_ptr(), width, to.as_mut_ptr()) }
        }
        Floats::F32(data) => to.iter_mut().enumerate().for_each(|(d, x)| *x = data[at + d * stride]),
        Floats::F16(data) => to.iter_mut().enumerate().for_each(|(d, x)| *x = data[at + d * stride].to_f32()),
    }
}
