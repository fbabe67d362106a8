//! `UserHook`: a hook given as WGSL text, with its arguments by name.

use crate::error::{Error, ErrorKind, Result};
use crate::hook::{ArgValue, Hook, HookArg, Parameter, Structure, Twin};
use crate::kernel::key::{Point, ScalarType};
use crate::plan::{PlanBuilder, Ref};
use crate::shader::user::Code;
use crate::tensor::{DType, HostTensor};
use std::sync::Arc;

/// What the elements of a tensor argument belong to. A leading axis B may be left out everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Along {
    /// Query heads: (B, H).
    Heads,
    /// Query tokens: (B, Lq).
    Queries,
    /// Key tokens: (B, Lk).
    Keys,
    /// Pairs: any shape that broadcasts to (B, H, Lq, Lk).
    Pairs,
}

/// The value of an argument.
#[derive(Clone, Debug, PartialEq)]
pub enum Argument {
    /// A real number.
    F32(f32),
    /// A signed number.
    I32(i32),
    /// An unsigned number.
    U32(u32),
    /// A tensor that becomes part of the plan.
    Tensor(HostTensor, Along),
    /// A tensor given at every call as the input of this name.
    Input(String, Along),
}

impl From<f32> for Argument {
    fn from(x: f32) -> Self {
        Argument::F32(x)
    }
}

impl From<i32> for Argument {
    fn from(x: i32) -> Self {
        Argument::I32(x)
    }
}

impl From<u32> for Argument {
    fn from(x: u32) -> Self {
        Argument::U32(x)
    }
}

impl From<(&HostTensor, Along)> for Argument {
    fn from((tensor, along): (&HostTensor, Along)) -> Self {
        Argument::Tensor(tensor.clone(), along)
    }
}

impl From<(&str, Along)> for Argument {
    fn from((name, along): (&str, Along)) -> Self {
        Argument::Input(name.to_owned(), along)
    }
}

/// A hook in WGSL: `fn score(s: f32, at: At, ...) -> f32`, `fn mask(at: At, ...) -> bool`, `fn weight(s: f32, at: At, ...) -> f32` or
/// `fn feature(x: f32, ...) -> f32`. Arguments after `at` are numbers, or elements of tensors at the pair. `at` has `batch`, `head`, `row`
/// (u32), `query` (the query's position on the axis of the keys) and `key` (i32).
///
/// The text may have functions, structs and constants of its own. It is pure: no variables outside functions, pointers, textures, atomics or
/// barriers. Indices are bounded where they are used, and the loops of a function make at most [`TURNS`](crate::shader::user::TURNS) turns a
/// call. The GPU kernels take its canonical text; the CPU engine interprets it.
///
/// ```
/// use wgpu_attention::{Along, Hooked, HostTensor, Inputs, Runtime, UserHook, variants::dense::DenseAttention};
/// # fn main() -> wgpu_attention::Result<()> {
/// let text = "fn score(s: f32, at: At, slope: f32, most: f32) -> f32 {
///     return max(s - slope * f32(abs(at.query - at.key)), -most);
/// }";
/// let slopes = HostTensor::new(&[2], vec![0.5_f32, 0.25])?;
/// let hook = UserHook::score(text)?.with("slope", (&slopes, Along::Heads))?.with("most", 8.0_f32)?;
/// let q = HostTensor::from_fn(&[1, 2, 3, 4], |i| i as f32 * 0.01);
/// let inputs = Inputs::new().with("q", &q).with("k", &q).with("v", &q);
/// let attention = Hooked::new(DenseAttention::default()).hook(hook);
/// assert_eq!(Runtime::cpu().call_blocking(&attention, &inputs)?.get("out")?.shape(), [1, 2, 3, 4]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct UserHook {
    code: Code,
    args: Vec<Option<Argument>>,
    structure: Option<Structure>,
}

/// Sizes that tensors of a stage broadcast to: (B, H, Lq, Lk).
pub(crate) type Sizes = [usize; 4];

impl UserHook {
    /// A hook whose function is `name`.
    ///
    /// # Errors
    /// [`ErrorKind::Hook`] with line, column and reason; [`ErrorKind::Unsupported`] in a build without the feature `user-hooks`.
    pub fn named(point: Point, name: &str, text: &str) -> Result<Self> {
        let code = Code::new(point, name, text)?;
        let args = vec![None; code.params().len()];
        Ok(UserHook { code, args, structure: None })
    }

    /// A hook whose function is `score`: what becomes of a score before the mask.
    ///
    /// # Errors
    /// As [`named`](UserHook::named).
    pub fn score(text: &str) -> Result<Self> {
        Self::named(Point::Score, "score", text)
    }

    /// A hook whose function is `mask`: whether a pair is allowed.
    ///
    /// # Errors
    /// As [`named`](UserHook::named).
    pub fn mask(text: &str) -> Result<Self> {
        Self::named(Point::Mask, "mask", text)
    }

    /// A hook whose function is `weight`: the weight of a score, in place of the variant's own.
    ///
    /// # Errors
    /// As [`named`](UserHook::named).
    pub fn weight(text: &str) -> Result<Self> {
        Self::named(Point::Weight, "weight", text)
    }

    /// A hook whose function is `feature`: what becomes of an element before a feature map.
    ///
    /// # Errors
    /// As [`named`](UserHook::named).
    pub fn feature(text: &str) -> Result<Self> {
        Self::named(Point::Feature, "feature", text)
    }

    /// The value of the argument `name`.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownName`] when the function has no such argument, [`ErrorKind::DType`] when the value is not of its type.
    pub fn with(mut self, name: &str, value: impl Into<Argument>) -> Result<Self> {
        let Some(at) = self.params().iter().position(|(n, _)| n == name) else {
            let known: Vec<_> = self.params().iter().map(|(n, _)| n.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let message =
                format!("hook `{}`: no argument after `at` is called `{name}`; it has {known}", self.code.name());
            return Err(Error::new(ErrorKind::UnknownName, message));
        };
        let (value, kind) = (value.into(), self.params()[at].1);
        let found = match &value {
            Argument::F32(_) if kind == ScalarType::F32 => None,
            Argument::I32(_) if kind == ScalarType::I32 => None,
            Argument::U32(_) if kind == ScalarType::U32 => None,
            Argument::F32(_) => Some("a number of f32"),
            Argument::I32(_) => Some("a number of i32"),
            Argument::U32(_) => Some("a number of u32"),
            Argument::Tensor(t, _) => self.takes(kind, t.dtype()).err(),
            Argument::Input(..) => None,
        };
        if let Some(found) = found {
            let expected = match kind {
                ScalarType::Bool => "a tensor of U8 or I32 (a bool is no number; take a u32)".to_owned(),
                _ => kind.wgsl().to_owned(),
            };
            return Err(Error::expected(ErrorKind::DType, &self.subject(), name, expected, found));
        }
        self.args[at] = Some(value);
        Ok(self)
    }

    /// Declares what a mask rule hangs on, where the code does not show it. A false declaration gives wrong results.
    #[must_use]
    pub fn declare(mut self, structure: Structure) -> Self {
        self.structure = Some(structure);
        self
    }

    /// Where it is called.
    pub fn point(&self) -> Point {
        self.code.point()
    }

    /// Names and types of the arguments after `at`.
    pub fn params(&self) -> &[(String, ScalarType)] {
        self.code.params()
    }

    /// The canonical text that joins kernels.
    pub fn source(&self) -> &str {
        self.code.source()
    }

    /// Names of the inputs that it takes at every call.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = &str> {
        self.args.iter().flatten().filter_map(|arg| match arg {
            Argument::Input(name, _) => Some(name.as_str()),
            _ => None,
        })
    }

    fn subject(&self) -> String {
        format!("hook `{}`", self.code.name())
    }

    fn takes(&self, kind: ScalarType, found: DType) -> Result<(), &'static str> {
        let fits = match kind {
            ScalarType::F32 => matches!(found, DType::F32 | DType::F16),
            _ => matches!(found, DType::I32 | DType::U8),
        };
        if fits { Ok(()) } else { Err(found.name()) }
    }

    /// The hook of a stage whose pairs are `sizes`; its tensors become slots of the plan.
    pub(crate) fn hook(&self, plan: &mut PlanBuilder, sizes: Sizes) -> Result<Hook> {
        let (mut args, mut params) = (Vec::new(), Vec::new());
        for ((name, kind), arg) in self.params().iter().zip(&self.args) {
            let (value, along) = match arg {
                None => {
                    let message = format!("{}: the argument `{name}` has no value", self.subject());
                    return Err(Error::new(ErrorKind::MissingInput, message));
                }
                Some(Argument::F32(x)) => (ArgValue::F32(*x), None),
                Some(Argument::I32(x)) => (ArgValue::I32(*x), None),
                Some(Argument::U32(x)) => (ArgValue::U32(*x), None),
                Some(Argument::Tensor(tensor, along)) => {
                    let slot = plan.constant(&format!("{}.{name}", self.code.name()), tensor.clone());
                    (ArgValue::Table(slot, *kind), Some(along))
                }
                Some(Argument::Input(input, along)) => (ArgValue::Table(plan.input(input)?, *kind), Some(along)),
            };
            let (value, along_rows, along_keys) = match (value, along) {
                (ArgValue::Table(r, kind), Some(along)) => {
                    if self.point() == Point::Feature {
                        let message = format!("{}: `{name}`: a feature has no pair; give a number", self.subject());
                        return Err(Error::new(ErrorKind::Unsupported, message));
                    }
                    if let Err(found) = self.takes(kind, r.dtype) {
                        return Err(Error::expected(ErrorKind::DType, &self.subject(), name, kind.wgsl(), found));
                    }
                    let table = self.table(name, &r, *along, sizes)?;
                    let (rows, keys) = (table.shape[2] != 1, table.shape[3] != 1);
                    (ArgValue::Table(table, kind), rows, keys)
                }
                (value, _) => (value, false, false),
            };
            params.push(Parameter { kind: *kind, along_rows, along_keys });
            args.push(HookArg { name: name.clone().into(), value });
        }
        // The kernel's arguments of table `x` are called x_offset, x_b and so on, its accessor x.
        for n in 0..args.len() {
            let name = args[n].name.to_string();
            let clash = |other: &HookArg| {
                let rest = name.strip_prefix(&*other.name);
                rest.is_some_and(|rest| matches!(rest, "_offset" | "_b" | "_h" | "_i" | "_j" | "_data"))
            };
            if args.iter().any(clash) || name == self.code.name() {
                args[n].name = format!("{n}_{name}").into();
            }
        }
        let program = self.code.program(&params)?;
        Ok(Hook {
            point: self.point(),
            name: self.code.name().to_owned().into(),
            source: self.code.source().clone(),
            args,
            structure: self.structure.unwrap_or_else(|| program.structure()),
            twin: Twin::Program(Arc::new(program)),
        })
    }

    /// A tensor as (B, H, Lq, Lk) with axes of 1 where it does not change.
    fn table(&self, name: &str, tensor: &Ref, along: Along, sizes: Sizes) -> Result<Ref> {
        let [batch, heads, queries, keys] = sizes;
        let (shaped, words) = match (along, tensor.shape.len()) {
            (Along::Heads, 1) => (Some(tensor.insert(1).insert(1).insert(0)), format!("(H) = ({heads})")),
            (Along::Heads, 2) => (Some(tensor.insert(2).insert(2)), format!("(B, H) = ({batch}, {heads})")),
            (Along::Queries, 1) => (Some(tensor.insert(1).insert(0).insert(0)), format!("(Lq) = ({queries})")),
            (Along::Queries, 2) => (Some(tensor.insert(2).insert(1)), format!("(B, Lq) = ({batch}, {queries})")),
            (Along::Keys, 1) => (Some(tensor.insert(0).insert(0).insert(0)), format!("(Lk) = ({keys})")),
            (Along::Keys, 2) => (Some(tensor.insert(1).insert(1)), format!("(B, Lk) = ({batch}, {keys})")),
            (Along::Pairs, rank @ 0..=4) => {
                let lead = (rank..4).fold(tensor.clone(), |r, _| r.insert(0));
                (Some(lead), format!("a shape that broadcasts to {sizes:?}"))
            }
            _ => (None, format!("one axis, or two with B = {batch}")),
        };
        let fits = |r: &Ref| r.shape.iter().zip(sizes).all(|(&n, size)| n == size || n == 1);
        let exact = |r: &Ref| {
            along == Along::Pairs
                || r.shape.iter().product::<usize>() == 1
                || match along {
                    Along::Heads => r.shape[1] == heads,
                    Along::Queries => r.shape[2] == queries,
                    _ => r.shape[3] == keys,
                }
        };
        match shaped {
            Some(r) if fits(&r) && exact(&r) => Ok(r),
            _ => Err(Error::expected(ErrorKind::Shape, &self.subject(), name, words, format!("{:?}", tensor.shape))),
        }
    }
}
