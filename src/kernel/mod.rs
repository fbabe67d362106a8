//! The kernel families. Each operation says how it launches on a GPU (key, arguments, groups) and what it computes on the CPU (its
//! twin). A kernel knows no variant, no plan and no device.

pub mod attend;
mod calls;
pub mod combine;
pub mod diagnose;
pub mod key;
pub mod polynomial;
pub mod pool;
pub(crate) mod reals;
pub mod scan;
pub mod select;
pub mod transform;

use crate::caps::{Caps, Tier};
use crate::error::{ErrorKind, Result};
use crate::hook::{ArgRow, ArgValue, Hook};
use crate::tensor::{DType, HostData, Layout};
use key::{Access, Buffer, Const, Element, HookKey, KernelKey, Launch, Place, ScalarType, TableKey};

/// One operation of a plan.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Op {
    /// `O` and `lse` over a set of keys.
    Attend(attend::Attend),
    /// Scores of candidates, kept.
    Score(select::Score),
    /// Indices of the largest scores of each row.
    TopK(select::TopK),
    /// The key range of each packed row.
    Segments(select::Segments),
    /// Which tiles of pairs mask hooks leave.
    BlockMap(select::BlockMap),
    /// The linear recurrence.
    Scan(scan::Scan),
    /// The states at the starts of a scan's segments.
    Carry(scan::Carry),
    /// What each chunk of tokens is to the recurrence.
    Chunks(scan::Chunks),
    /// The linear recurrence over chunks, by matrices.
    Chunked(scan::Chunked),
    /// What each segment of tokens adds to the state, by matrices.
    Sums(scan::Sums),
    /// What the queries of all segments read, by matrices.
    Reads(scan::Reads),
    /// The elementwise recurrence.
    Selective(scan::Selective),
    /// A network that learns the tokens.
    Memory(scan::Memory),
    /// A linear system of each token.
    Solve(scan::Solve),
    /// Row-wise feature map.
    Map(transform::Map),
    /// Rotary position embedding.
    Rotary(transform::Rotary),
    /// Causal depthwise convolution.
    Conv(transform::Conv),
    /// Per-row RMS norm and gate.
    Norm(transform::Norm),
    /// A shortened sequence.
    Pool(pool::Pool),
    /// Merge of partial results by their log-sum-exp.
    Merge(combine::Merge),
    /// Weighted sum of results.
    Mix(combine::Mix),
    /// Numbers of pairs, changed by hooks and folded.
    Fold(diagnose::Fold),
    /// Local polynomial regression by given weights.
    Polynomial(polynomial::Polynomial),
}

impl Op {
    /// Whether no kernel but one of cooperative matrices computes it.
    pub(crate) fn needs_matrices(&self) -> bool {
        matches!(self, Op::Chunks(_) | Op::Chunked(_) | Op::Sums(_) | Op::Reads(_))
    }

    /// The operation as a kernel.
    pub fn kernel(&self) -> &dyn Kernel {
        match self {
            Op::Attend(op) => op,
            Op::Score(op) => op,
            Op::TopK(op) => op,
            Op::Segments(op) => op,
            Op::BlockMap(op) => op,
            Op::Scan(op) => op,
            Op::Carry(op) => op,
            Op::Chunks(op) => op,
            Op::Chunked(op) => op,
            Op::Sums(op) => op,
            Op::Reads(op) => op,
            Op::Selective(op) => op,
            Op::Memory(op) => op,
            Op::Solve(op) => op,
            Op::Map(op) => op,
            Op::Rotary(op) => op,
            Op::Conv(op) => op,
            Op::Norm(op) => op,
            Op::Pool(op) => op,
            Op::Merge(op) => op,
            Op::Mix(op) => op,
            Op::Fold(op) => op,
            Op::Polynomial(op) => op,
        }
    }
}

/// What every operation offers to the engines.
pub trait Kernel {
    /// The family and operation, as plans print it: `attend`, `select.topk`.
    fn name(&self) -> &'static str;

    /// Storage roles in binding order; a stage may leave optional ones out.
    fn roles(&self) -> &'static [Role];

    /// The GPU launch for these layouts.
    ///
    /// # Errors
    /// A limit of the device, or a combination that no kernel covers.
    fn launch(&self, io: &Io, caps: &Caps) -> Result<Launch>;

    /// The n-th best launch, [`launch`](Kernel::launch) being the first; `None` when there are fewer. All compute the same: the others
    /// serve where one fails its self-test, and where somebody measures.
    ///
    /// # Errors
    /// As [`launch`](Kernel::launch).
    fn alternative(&self, n: usize, io: &Io, caps: &Caps) -> Result<Option<Launch>> {
        let first = self.launch(io, caps)?;
        match n {
            0 => Ok(Some(first)),
            1 if first.key.tier == Tier::T2 => match self.launch(io, &Caps { matrix: None, ..caps.clone() }) {
                // Only matrices serve it: a plan has another form for a device without.
                Err(e) if e.kind() == ErrorKind::Unsupported => Ok(None),
                other => other.map(Some),
            },
            _ => Ok(None),
        }
    }

    /// Why the first launch is first and what was passed over, for a reader. Empty where there is no choice.
    fn reasons(&self, io: &Io, caps: &Caps) -> Vec<String> {
        let _ = (io, caps);
        Vec::new()
    }

    /// The same in f32 on the CPU, fast.
    ///
    /// # Errors
    /// A combination that the twin does not cover.
    fn twin(&self, io: &mut TwinIo) -> Result<()>;

    /// Floating-point operations (a multiply-add is two), counted over allowed pairs where they are known.
    fn flops(&self, io: &Io) -> f64;
}

/// One storage role of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Role {
    /// Name in the plan and prefix of the accessors in the shader.
    pub name: &'static str,
    /// Read or write.
    pub access: Access,
    /// May be unbound.
    pub optional: bool,
    /// The element type an absent role is declared with, and the default of a present one.
    pub dtype: DType,
    /// Rows are read four elements at a time where they allow it. Off for roles whose rows run along a length: whether that is a
    /// multiple of four must not enter the key.
    pub vector: bool,
}

impl Role {
    /// A required role that is read.
    pub const fn read(name: &'static str, dtype: DType) -> Self {
        Role { name, access: Access::Read, optional: false, dtype, vector: true }
    }
    /// A required role that is written.
    pub const fn write(name: &'static str, dtype: DType) -> Self {
        Role { name, access: Access::Write, optional: false, dtype, vector: true }
    }
    /// The same role, optional.
    pub const fn optional(mut self) -> Self {
        self.optional = true;
        self
    }
    /// The same role, read and written one element at a time.
    pub const fn scalar(mut self) -> Self {
        self.vector = false;
        self
    }
}

/// Element type and layout of what is bound to a role or a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Meta {
    /// Element type.
    pub dtype: DType,
    /// Layout; the offset counts from the start of the binding.
    pub layout: Layout,
}

/// A table of a stage: what is bound, and what the kernel reads it as. The layout is broadcast to (B, H, Lq, Lk).
#[derive(Clone, Debug)]
pub struct TableMeta {
    /// Name of the accessor.
    pub name: String,
    /// What the accessor returns.
    pub result: ScalarType,
    /// Where the elements lie.
    pub place: Place,
    /// Element type and layout.
    pub meta: Meta,
}

/// Everything bound to a stage, without storage.
#[derive(Clone, Debug, Default)]
pub struct Io {
    /// Role and what is bound to it.
    pub roles: Vec<(&'static str, Meta)>,
    /// Tables, those of hooks included (`h0_slope`).
    pub tables: Vec<TableMeta>,
    /// Hooks in order.
    pub hooks: Vec<Hook>,
}

impl Io {
    /// What is bound to an optional role.
    pub fn find(&self, role: &str) -> Option<&Meta> {
        self.roles.iter().find(|(name, _)| *name == role).map(|(_, meta)| meta)
    }

    /// What is bound to a required role (the plan checked that it is).
    ///
    /// # Panics
    /// When the role is not bound: a defect of the plan, caught when it was built.
    pub fn get(&self, role: &str) -> &Meta {
        self.find(role).unwrap_or_else(|| panic!("the plan binds `{role}`"))
    }

    /// Whether a table of this name is bound.
    pub fn has_table(&self, name: &str) -> bool {
        self.tables.iter().any(|t| t.name == name)
    }
}

/// Builds a [`Launch`]: constants, arguments, bindings, tables and hooks in one place.
#[derive(Debug)]
pub struct LaunchBuilder<'a> {
    io: &'a Io,
    key: KernelKey,
    args: Vec<u32>,
}

impl<'a> LaunchBuilder<'a> {
    /// A launch of `entry` with the roles of `kernel`; `tables` names the tables the entry itself reads, and their result types.
    pub fn new(
        kernel: &dyn Kernel,
        entry: &'static str,
        workgroup: u32,
        io: &'a Io,
        caps: &Caps,
        tables: &[(&'static str, ScalarType)],
    ) -> Self {
        let buffers = kernel
            .roles()
            .iter()
            .map(|role| {
                let meta = io.find(role.name);
                Buffer {
                    name: role.name,
                    element: match meta.map(element) {
                        Some(found) => Element { vector: found.vector && role.vector, ..found },
                        None => Element { dtype: role.dtype, vector: false },
                    },
                    access: role.access,
                    present: meta.is_some(),
                }
            })
            .collect();
        let key = KernelKey {
            entry,
            imports: Vec::new(),
            workgroup,
            consts: Vec::new(),
            args: Vec::new(),
            buffers,
            tables: Vec::new(),
            hooks: Vec::new(),
            tier: Tier::T0,
            target: caps.target,
        };
        let mut builder = LaunchBuilder { io, key, args: Vec::new() };
        for (name, result) in tables {
            match io.tables.iter().find(|t| t.name == *name) {
                Some(table) => builder.table(table),
                None => builder.key.tables.push(TableKey {
                    name: (*name).to_owned(),
                    dtype: DType::I32,
                    result: *result,
                    place: Place::Absent,
                }),
            }
        }
        builder.hooks();
        builder
    }

    /// Sets the abilities used; T0 otherwise.
    #[must_use]
    pub fn tier(mut self, tier: Tier) -> Self {
        self.key.tier = tier;
        self
    }

    /// Adds a file under `shaders/`.
    #[must_use]
    pub fn import(mut self, file: &'static str) -> Self {
        self.key.imports.push(file);
        self
    }

    /// Adds a constant.
    #[must_use]
    pub fn constant(mut self, name: &'static str, value: u32) -> Self {
        self.key.consts.push((name, Const::U32(value)));
        self
    }

    /// Adds a switch.
    #[must_use]
    pub fn switch(mut self, name: &'static str, value: bool) -> Self {
        self.key.consts.push((name, Const::Bool(value)));
        self
    }

    /// Adds an argument `args.NAME: u32`.
    #[must_use]
    pub fn u32(mut self, name: &str, value: usize) -> Self {
        self.word(name, ScalarType::U32, value as u32);
        self
    }

    /// Adds an argument `args.NAME: i32`.
    #[must_use]
    pub fn i32(mut self, name: &str, value: i64) -> Self {
        self.word(name, ScalarType::I32, (value as i32) as u32);
        self
    }

    /// Adds an argument `args.NAME: f32`.
    #[must_use]
    pub fn f32(mut self, name: &str, value: f32) -> Self {
        self.word(name, ScalarType::F32, value.to_bits());
        self
    }

    /// Adds `args.ROLE_offset` and one `args.ROLE_s0 ..` an axis; zeros with `rank` axes when the role is absent.
    #[must_use]
    pub fn strides(mut self, role: &'static str, rank: usize) -> Self {
        let layout = self.io.find(role).map(|m| m.layout.clone());
        let layout = layout.unwrap_or(Layout { shape: vec![0; rank], strides: vec![0; rank], offset: 0 });
        self.word(&format!("{role}_offset"), ScalarType::U32, layout.offset as u32);
        for (axis, stride) in layout.strides.iter().enumerate() {
            self.word(&format!("{role}_s{axis}"), ScalarType::U32, *stride as u32);
        }
        self
    }

    /// The finished launch of `groups` workgroups.
    pub fn groups(self, groups: usize) -> Launch {
        Launch { key: self.key, args: self.args, groups: groups as u64 }
    }

    fn word(&mut self, name: &str, kind: ScalarType, value: u32) {
        self.key.args.push((name.to_owned(), kind));
        self.args.push(value);
    }

    fn table(&mut self, table: &TableMeta) {
        let key =
            TableKey { name: table.name.clone(), dtype: table.meta.dtype, result: table.result, place: table.place };
        self.key.tables.push(key);
        self.word(&format!("{}_offset", table.name), ScalarType::U32, table.meta.layout.offset as u32);
        for (axis, stride) in ["b", "h", "i", "j"].iter().zip(&table.meta.layout.strides) {
            self.word(&format!("{}_{axis}", table.name), ScalarType::U32, *stride as u32);
        }
    }

    fn hooks(&mut self) {
        for (n, hook) in self.io.hooks.iter().enumerate() {
            let (mut args, mut lookups) = (Vec::new(), Vec::new());
            for arg in &hook.args {
                let name = format!("h{n}_{}", arg.name);
                match self.io.tables.iter().find(|t| t.name == name) {
                    Some(table) => {
                        self.table(table);
                        match arg.value {
                            ArgValue::Lookup(..) => lookups.push(arg.name.to_string()),
                            _ => args.push((name, table.result, true)),
                        }
                    }
                    None => {
                        let (kind, word) = arg.value.word();
                        self.word(&name, kind, word);
                        args.push((name, kind, false));
                    }
                }
            }
            let (name, source) = (hook.name.to_string(), hook.source.clone());
            let key = HookKey { point: hook.point, name, source, user: hook.is_user(), args, lookups };
            self.key.hooks.push(key);
        }
    }
}

/// Rows may be read four elements at a time when every row starts at a multiple of four and holds a multiple of four.
pub fn element(meta: &Meta) -> Element {
    let Some((&width, outer)) =
        meta.layout.shape.split_last().map(|(w, _)| w).zip(meta.layout.strides.split_last().map(|(_, o)| o))
    else {
        return Element { dtype: meta.dtype, vector: false };
    };
    let unit = meta.layout.strides.last() == Some(&1);
    let four = |n: &usize| n.is_multiple_of(4);
    let real = matches!(meta.dtype, DType::F32 | DType::F16);
    let vector = real && unit && four(&width) && four(&meta.layout.offset) && outer.iter().all(four);
    Element { dtype: meta.dtype, vector }
}

/// What a twin reads and writes: host memory with layouts.
#[derive(Debug)]
pub struct TwinIo<'a> {
    /// Metas, tables and hooks as on the GPU.
    pub io: &'a Io,
    /// Memory of the roles that are read.
    pub reads: Vec<(&'static str, &'a HostData)>,
    /// Memory of the roles that are written (contiguous, of f32, i32 or u8).
    pub writes: Vec<(&'static str, &'a mut HostData)>,
    /// Memory of the tables in the order of `io.tables`.
    pub tables: Vec<&'a HostData>,
}

impl<'a> TwinIo<'a> {
    /// Layout and memory of a role that is read, if it is bound.
    pub fn read(&self, role: &str) -> Option<(&'a Layout, &'a HostData)> {
        let data = self.reads.iter().find(|(name, _)| *name == role)?.1;
        Some((&self.io.find(role)?.layout, data))
    }

    /// Takes the f32 elements of a role that is written, exactly those bound; `None` when it is not bound.
    pub fn write_f32(&mut self, role: &str) -> Option<&'a mut [f32]> {
        let range = self.range(role)?;
        match self.take(role)? {
            HostData::F32(v) => v.get_mut(range),
            _ => None,
        }
    }

    /// Takes the i32 elements of a role that is written, exactly those bound; `None` when it is not bound.
    pub fn write_i32(&mut self, role: &str) -> Option<&'a mut [i32]> {
        let range = self.range(role)?;
        match self.take(role)? {
            HostData::I32(v) => v.get_mut(range),
            _ => None,
        }
    }

    /// Takes the bytes of a role that is written, exactly those bound; `None` when it is not bound.
    pub fn write_u8(&mut self, role: &str) -> Option<&'a mut [u8]> {
        let range = self.range(role)?;
        match self.take(role)? {
            HostData::U8(v) => v.get_mut(range),
            _ => None,
        }
    }

    // What a stage writes is row-major without gaps: a whole slot or a part of its outermost axis.
    fn range(&self, role: &str) -> Option<std::ops::Range<usize>> {
        let layout = &self.io.find(role)?.layout;
        Some(layout.offset..layout.offset + layout.len())
    }

    fn take(&mut self, role: &str) -> Option<&'a mut HostData> {
        let at = self.writes.iter().position(|(name, _)| *name == role)?;
        Some(self.writes.swap_remove(at).1)
    }

    /// The table `name` for one row: (batch, head, row). `None` when it is not bound.
    pub fn table_row(&self, name: &str, at: [usize; 3]) -> Option<ArgRow<'a>> {
        let index = self.io.tables.iter().position(|t| t.name == name)?;
        Some(ArgRow::of(self.tables[index], &self.io.tables[index].meta.layout, at))
    }

    /// The table `name`, for lookups. `None` when it is not bound.
    pub fn whole(&self, name: &str) -> Option<ArgRow<'a>> {
        let index = self.io.tables.iter().position(|t| t.name == name)?;
        Some(ArgRow::Whole { data: self.tables[index], layout: &self.io.tables[index].meta.layout })
    }
}

/// Rows `0..rows` in parallel over all cores natively, in order on wasm.
pub fn for_each_row<T: Send>(rows: &mut [T], width: usize, body: impl Fn(usize, &mut [T]) + Send + Sync) {
    if width == 0 {
        return;
    }
    #[cfg(not(target_arch = "wasm32"))]
    {
        use rayon::prelude::*;
        rows.par_chunks_mut(width).enumerate().for_each(|(r, row)| body(r, row));
    }
    #[cfg(target_arch = "wasm32")]
    rows.chunks_mut(width).enumerate().for_each(|(r, row)| body(r, row));
}
