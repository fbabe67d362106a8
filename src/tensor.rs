//! Tensors on the host and on a device: an element type, a strided layout and shared storage.

use crate::error::{Error, ErrorKind, Result};
use half::f16;
use std::sync::Arc;

/// Element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 16-bit float, storage only: arithmetic is f32.
    F16,
    /// 32-bit signed integer: indices, counts, cumulative lengths.
    I32,
    /// Boolean, one byte, 0 or 1. Device buffers are rounded up to four bytes.
    U8,
}

impl DType {
    /// Bytes an element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 => 2,
            DType::U8 => 1,
        }
    }

    /// The name in case files.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::I32 => "I32",
            DType::U8 => "U8",
        }
    }
}

/// Sizes, strides and offset, all in elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Elements between neighbours along each axis; 0 broadcasts.
    pub strides: Vec<usize>,
    /// Elements before the first.
    pub offset: usize,
}

impl Layout {
    /// The row-major layout of `shape`.
    pub fn contiguous(shape: &[usize]) -> Self {
        let mut strides = vec![1; shape.len()];
        for axis in (0..shape.len().saturating_sub(1)).rev() {
            strides[axis] = strides[axis + 1] * shape[axis + 1];
        }
        Layout { shape: shape.to_vec(), strides, offset: 0 }
    }

    /// Elements, the product of the sizes.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether a size is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the elements are row-major without gaps (from the offset on).
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        for (&n, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if n != 1 && stride != expected {
                return false;
            }
            expected *= n;
        }
        true
    }

    /// One past the largest element position, 0 when empty.
    pub fn end(&self) -> usize {
        if self.is_empty() {
            return 0;
        }
        self.offset + 1 + self.shape.iter().zip(&self.strides).map(|(n, s)| (n - 1) * s).sum::<usize>()
    }

    /// The position of the element at `index`.
    pub fn at(&self, index: &[usize]) -> usize {
        self.offset + index.iter().zip(&self.strides).map(|(i, s)| i * s).sum::<usize>()
    }

    /// Axes in another order.
    pub fn permute(&self, order: &[usize]) -> Self {
        Layout {
            shape: order.iter().map(|&a| self.shape[a]).collect(),
            strides: order.iter().map(|&a| self.strides[a]).collect(),
            offset: self.offset,
        }
    }

    /// `length` elements of `axis` from `start`.
    pub fn narrow(&self, axis: usize, start: usize, length: usize) -> Self {
        let mut to = self.clone();
        to.shape[axis] = length;
        to.offset += start * to.strides[axis];
        to
    }

    /// A new axis of size 1 before `axis`.
    pub fn insert(&self, axis: usize) -> Self {
        let mut to = self.clone();
        to.shape.insert(axis, 1);
        to.strides.insert(axis, 0);
        to
    }

    /// Axis `axis` removed at `index`.
    pub fn select(&self, axis: usize, index: usize) -> Self {
        let mut to = self.narrow(axis, index, 1);
        to.shape.remove(axis);
        to.strides.remove(axis);
        to
    }

    /// Broadcast to `shape` (numpy rules), or `None` where it does not fit.
    pub fn broadcast(&self, shape: &[usize]) -> Option<Self> {
        let missing = shape.len().checked_sub(self.shape.len())?;
        let mut strides = vec![0; shape.len()];
        for (axis, (&n, &stride)) in self.shape.iter().zip(&self.strides).enumerate() {
            let target = shape[missing + axis];
            if n == target {
                strides[missing + axis] = if n == 1 { 0 } else { stride };
            } else if n != 1 {
                return None;
            }
        }
        Some(Layout { shape: shape.to_vec(), strides, offset: self.offset })
    }

    /// The positions of all elements in row-major order of the index.
    pub fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        let mut index = vec![0; self.shape.len()];
        (0..self.len()).map(move |_| {
            let at = self.at(&index);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                if index[axis] < self.shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
            at
        })
    }
}

/// Host memory of one element type.
#[derive(Clone, Debug, PartialEq)]
pub enum HostData {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 16-bit floats.
    F16(Vec<f16>),
    /// 32-bit integers.
    I32(Vec<i32>),
    /// Bytes, 0 or 1.
    U8(Vec<u8>),
}

impl HostData {
    /// The element type.
    pub fn dtype(&self) -> DType {
        match self {
            HostData::F32(_) => DType::F32,
            HostData::F16(_) => DType::F16,
            HostData::I32(_) => DType::I32,
            HostData::U8(_) => DType::U8,
        }
    }

    /// Zeros.
    pub fn zeros(dtype: DType, len: usize) -> Self {
        match dtype {
            DType::F32 => HostData::F32(vec![0.0; len]),
            DType::F16 => HostData::F16(vec![f16::ZERO; len]),
            DType::I32 => HostData::I32(vec![0; len]),
            DType::U8 => HostData::U8(vec![0; len]),
        }
    }

    /// Elements.
    pub fn len(&self) -> usize {
        match self {
            HostData::F32(v) => v.len(),
            HostData::F16(v) => v.len(),
            HostData::I32(v) => v.len(),
            HostData::U8(v) => v.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The memory as bytes, little-endian.
    pub fn bytes(&self) -> &[u8] {
        match self {
            HostData::F32(v) => bytemuck::cast_slice(v),
            HostData::F16(v) => bytemuck::cast_slice(v),
            HostData::I32(v) => bytemuck::cast_slice(v),
            HostData::U8(v) => v,
        }
    }

    /// Elements from little-endian bytes (of any alignment); a trailing rest is dropped.
    pub fn from_bytes(dtype: DType, bytes: &[u8]) -> Self {
        match dtype {
            DType::F32 => HostData::F32(bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect()),
            DType::F16 => HostData::F16(bytes.chunks_exact(2).map(bytemuck::pod_read_unaligned).collect()),
            DType::I32 => HostData::I32(bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect()),
            DType::U8 => HostData::U8(bytes.to_vec()),
        }
    }

    /// Element `at` as f64.
    pub fn get(&self, at: usize) -> f64 {
        match self {
            HostData::F32(v) => f64::from(v[at]),
            HostData::F16(v) => v[at].to_f64(),
            HostData::I32(v) => f64::from(v[at]),
            HostData::U8(v) => f64::from(v[at]),
        }
    }
}

macro_rules! host_from {
    ($($ty:ty => $variant:ident),*) => { $(
        impl From<Vec<$ty>> for HostData { fn from(v: Vec<$ty>) -> Self { HostData::$variant(v) } }
    )* };
}
host_from!(f32 => F32, f16 => F16, i32 => I32, u8 => U8);

/// A tensor in host memory. Cloning shares the memory.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    layout: Layout,
    data: Arc<HostData>,
}

impl HostTensor {
    /// A row-major tensor of `shape` over `data` (`Vec` of f32, f16, i32 or u8).
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] when `data` does not have as many elements as `shape`.
    pub fn new(shape: &[usize], data: impl Into<HostData>) -> Result<Self> {
        Self::strided(Layout::contiguous(shape), data)
    }

    /// A tensor with a layout of its own over `data`.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] when the layout reaches past the data.
    pub fn strided(layout: Layout, data: impl Into<HostData>) -> Result<Self> {
        let data = data.into();
        if layout.end() > data.len() || layout.shape.len() != layout.strides.len() {
            return Err(Error::expected(
                ErrorKind::Shape,
                "tensor",
                "data",
                format!("{} elements for shape {:?}", layout.end(), layout.shape),
                data.len(),
            ));
        }
        Ok(HostTensor { layout, data: Arc::new(data) })
    }

    /// f32 zeros.
    pub fn zeros(shape: &[usize]) -> Self {
        Self::zeros_of(DType::F32, shape)
    }

    /// Zeros of any element type.
    pub fn zeros_of(dtype: DType, shape: &[usize]) -> Self {
        let layout = Layout::contiguous(shape);
        HostTensor { data: Arc::new(HostData::zeros(dtype, layout.len())), layout }
    }

    /// f32 elements from a function of the row-major position.
    pub fn from_fn(shape: &[usize], element: impl FnMut(usize) -> f32) -> Self {
        let layout = Layout::contiguous(shape);
        HostTensor { data: Arc::new(HostData::F32((0..layout.len()).map(element).collect())), layout }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.data.dtype()
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.layout.shape
    }

    /// Sizes, strides and offset.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The memory under the layout.
    pub fn data(&self) -> &HostData {
        &self.data
    }

    pub(crate) fn shared(&self) -> Arc<HostData> {
        self.data.clone()
    }

    /// The memory to write; copied first if another tensor shares it.
    pub fn data_mut(&mut self) -> &mut HostData {
        Arc::make_mut(&mut self.data)
    }

    /// The same memory under another layout.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] when the layout reaches past the memory.
    pub fn with_layout(&self, layout: Layout) -> Result<Self> {
        if layout.end() > self.data.len() {
            return Err(Error::expected(ErrorKind::Shape, "tensor", "layout", self.data.len(), layout.end()));
        }
        Ok(HostTensor { layout, data: self.data.clone() })
    }

    /// Axes in another order, without a copy: a (B, L, H, D) array becomes (B, H, L, D) with `[0, 2, 1, 3]`.
    ///
    /// # Panics
    /// When `order` is not a permutation of the axes.
    #[must_use]
    pub fn permute(&self, order: &[usize]) -> Self {
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        assert!(sorted.iter().copied().eq(0..self.shape().len()), "{order:?} is not an order of the axes");
        HostTensor { layout: self.layout.permute(order), data: self.data.clone() }
    }

    /// `length` elements of `axis` from `start`, without a copy.
    ///
    /// # Panics
    /// When the range is not inside the axis.
    #[must_use]
    pub fn narrow(&self, axis: usize, start: usize, length: usize) -> Self {
        assert!(start + length <= self.shape()[axis], "{start}+{length} is past axis {axis} of {:?}", self.shape());
        HostTensor { layout: self.layout.narrow(axis, start, length), data: self.data.clone() }
    }

    /// The elements in row-major order without gaps; shares the memory when it already is so.
    #[must_use]
    pub fn contiguous(&self) -> Self {
        if self.layout.is_contiguous() && self.layout.offset == 0 && self.data.len() == self.layout.len() {
            return self.clone();
        }
        let at = self.layout.positions();
        let data = match &*self.data {
            HostData::F32(v) => HostData::F32(at.map(|i| v[i]).collect()),
            HostData::F16(v) => HostData::F16(at.map(|i| v[i]).collect()),
            HostData::I32(v) => HostData::I32(at.map(|i| v[i]).collect()),
            HostData::U8(v) => HostData::U8(at.map(|i| v[i]).collect()),
        };
        HostTensor { layout: Layout::contiguous(self.shape()), data: Arc::new(data) }
    }

    /// The elements as f32, row-major (indices and booleans as numbers).
    pub fn to_f32(&self) -> Vec<f32> {
        self.layout.positions().map(|at| self.data.get(at) as f32).collect()
    }

    /// The elements as f64, row-major.
    pub fn to_f64(&self) -> Vec<f64> {
        self.layout.positions().map(|at| self.data.get(at)).collect()
    }

    /// The elements as i32, row-major (floats are truncated).
    pub fn to_i32(&self) -> Vec<i32> {
        self.layout.positions().map(|at| self.data.get(at) as i32).collect()
    }

    /// The tensor with f16 storage, each element rounded to nearest.
    #[must_use]
    pub fn to_f16(&self) -> Self {
        let data = HostData::F16(self.layout.positions().map(|at| f16::from_f64(self.data.get(at))).collect());
        HostTensor { layout: Layout::contiguous(self.shape()), data: Arc::new(data) }
    }
}

/// A range of a wgpu buffer: the buffer may be the caller's own.
#[derive(Clone, Debug)]
pub struct BufferView {
    /// The buffer; needs the usage `STORAGE`, and `COPY_SRC` to be read back or used as a side table.
    pub buffer: wgpu::Buffer,
    /// Bytes before the range.
    pub offset: u64,
    /// Bytes of the range.
    pub size: u64,
    /// Gives the buffer back when the last tensor over it is dropped.
    pub(crate) _lease: Option<Arc<crate::gpu::Lease>>,
}

/// Where a tensor's elements are.
#[derive(Clone, Debug)]
pub enum Storage {
    /// In host memory.
    Host(Arc<HostData>),
    /// In a device buffer.
    Device(BufferView),
}

/// A tensor on the host or on a device. Cloning shares the storage.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub(crate) dtype: DType,
    pub(crate) layout: Layout,
    pub(crate) storage: Storage,
}

impl Tensor {
    /// A view of `size` bytes from byte `offset` of the caller's buffer. Nothing is copied.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] when the layout reaches past the range, the range past the buffer, or `offset` is not a multiple
    /// of the element size; [`ErrorKind::Unsupported`] when the buffer lacks the usage `STORAGE`.
    pub fn from_buffer(buffer: &wgpu::Buffer, offset: u64, size: u64, dtype: DType, layout: Layout) -> Result<Self> {
        let fail =
            |kind, what, expected: String, found: String| Err(Error::expected(kind, "tensor", what, expected, found));
        if !buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
            return fail(ErrorKind::Unsupported, "buffer", "usage STORAGE".into(), format!("{:?}", buffer.usage()));
        }
        if offset.checked_add(size).is_none_or(|end| end > buffer.size()) {
            return fail(
                ErrorKind::Shape,
                "size",
                format!("a range inside {} bytes", buffer.size()),
                format!("{offset}+{size}"),
            );
        }
        if !offset.is_multiple_of(dtype.size() as u64) {
            return fail(
                ErrorKind::Shape,
                "offset",
                format!("a multiple of {} bytes", dtype.size()),
                offset.to_string(),
            );
        }
        if (layout.end() * dtype.size()) as u64 > size || layout.shape.len() != layout.strides.len() {
            return fail(
                ErrorKind::Shape,
                "layout",
                format!("at most {size} bytes"),
                (layout.end() * dtype.size()).to_string(),
            );
        }
        let view = BufferView { buffer: buffer.clone(), offset, size, _lease: None };
        Ok(Tensor { dtype, layout, storage: Storage::Device(view) })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.layout.shape
    }

    /// Sizes, strides and offset.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Where the elements are.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The tensor in host memory, if it is there.
    pub fn host(&self) -> Option<HostTensor> {
        match &self.storage {
            Storage::Host(data) => Some(HostTensor { layout: self.layout.clone(), data: data.clone() }),
            Storage::Device(_) => None,
        }
    }

    /// Axes in another order, without a copy.
    ///
    /// # Panics
    /// When `order` is not a permutation of the axes.
    #[must_use]
    pub fn permute(&self, order: &[usize]) -> Self {
        assert_eq!(order.len(), self.shape().len(), "{order:?} is not an order of the axes");
        Tensor { layout: self.layout.permute(order), ..self.clone() }
    }

    /// `length` elements of `axis` from `start`, without a copy: the filled part of a cache.
    ///
    /// # Panics
    /// When the range is not inside the axis.
    #[must_use]
    pub fn narrow(&self, axis: usize, start: usize, length: usize) -> Self {
        assert!(start + length <= self.shape()[axis], "{start}+{length} is past axis {axis} of {:?}", self.shape());
        Tensor { layout: self.layout.narrow(axis, start, length), ..self.clone() }
    }
}

impl From<HostTensor> for Tensor {
    fn from(host: HostTensor) -> Self {
        Tensor { dtype: host.dtype(), layout: host.layout, storage: Storage::Host(host.data) }
    }
}

impl From<&HostTensor> for Tensor {
    fn from(host: &HostTensor) -> Self {
        host.clone().into()
    }
}

impl From<&Tensor> for Tensor {
    fn from(tensor: &Tensor) -> Self {
        tensor.clone()
    }
}

/// Named tensors: the inputs of a call.
#[derive(Clone, Debug, Default)]
pub struct Inputs(Vec<(String, Tensor)>);

impl Inputs {
    /// No tensors yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds (or replaces) the tensor called `name`.
    #[must_use]
    pub fn with(mut self, name: &str, tensor: impl Into<Tensor>) -> Self {
        self.insert(name, tensor);
        self
    }

    /// Adds (or replaces) the tensor called `name`.
    pub fn insert(&mut self, name: &str, tensor: impl Into<Tensor>) {
        self.0.retain(|(n, _)| n != name);
        self.0.push((name.to_owned(), tensor.into()));
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, t)| t)
    }

    /// Names and tensors in the order they were given.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(n, t)| (n.as_str(), t))
    }
}
