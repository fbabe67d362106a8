//! What a variant is: a card, parameters, a plan and an oracle. It holds no device type, no buffer and no binding number.

use crate::error::{Error, ErrorKind, Result};
use crate::oracle;
use crate::params::{ParamSet, ParamSpec, Value};
use crate::plan::PlanBuilder;
use crate::problem::Problem;
use crate::tensor::DType;
use std::fmt::Debug;

/// The family a mechanism belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Every allowed pair is scored.
    Dense,
    /// A static or dynamic pattern of pairs.
    Sparse,
    /// A recurrent state instead of pairs.
    Linear,
    /// A search over summaries, then attention over what it found.
    Hierarchical,
}

impl Family {
    /// The word used in file names and case files.
    pub fn name(self) -> &'static str {
        match self {
            Family::Dense => "dense",
            Family::Sparse => "sparse",
            Family::Linear => "linear",
            Family::Hierarchical => "hierarchical",
        }
    }
}

/// One input of a variant. `shape` is in the words of `golden/README.md`: letters, numbers, parameters, `a//b`, `ceil(a,b)`,
/// `min(a,b)`, alternatives with `|`, `broadcastable to ...`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputSpec {
    /// Argument name.
    pub name: &'static str,
    /// Shape in words.
    pub shape: &'static str,
    /// Element type; where it is F32, F16 is accepted too if `half` is set.
    pub dtype: DType,
    /// F16 storage is accepted.
    pub half: bool,
    /// May be absent.
    pub optional: bool,
}

impl InputSpec {
    /// A required tensor of f32 or f16: q, k, v and what plays their part.
    pub const fn real(name: &'static str, shape: &'static str) -> Self {
        InputSpec { name, shape, dtype: DType::F32, half: true, optional: false }
    }
    /// A required f32 tensor: gates, states, biases.
    pub const fn float(name: &'static str, shape: &'static str) -> Self {
        InputSpec { name, shape, dtype: DType::F32, half: false, optional: false }
    }
    /// A required i32 tensor: indices, counts.
    pub const fn index(name: &'static str, shape: &'static str) -> Self {
        InputSpec { name, shape, dtype: DType::I32, half: false, optional: false }
    }
    /// A required boolean tensor, 1 = allowed.
    pub const fn flag(name: &'static str, shape: &'static str) -> Self {
        InputSpec { name, shape, dtype: DType::U8, half: false, optional: false }
    }
    /// The same input, optional.
    pub const fn optional(mut self) -> Self {
        self.optional = true;
        self
    }
}

/// One output of a variant; `shape` as in [`InputSpec`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputSpec {
    /// Result name.
    pub name: &'static str,
    /// Shape in words.
    pub shape: &'static str,
    /// Element type.
    pub dtype: DType,
    /// Given only by some parameters and inputs.
    pub optional: bool,
}

impl OutputSpec {
    /// An f32 result.
    pub const fn float(name: &'static str, shape: &'static str) -> Self {
        OutputSpec { name, shape, dtype: DType::F32, optional: false }
    }
    /// An i32 result: indices of a plan.
    pub const fn index(name: &'static str, shape: &'static str) -> Self {
        OutputSpec { name, shape, dtype: DType::I32, optional: false }
    }
    /// A result of flags, 1 = yes.
    pub const fn flag(name: &'static str, shape: &'static str) -> Self {
        OutputSpec { name, shape, dtype: DType::U8, optional: false }
    }
    /// The same result, given only by some parameters and inputs.
    pub const fn optional(mut self) -> Self {
        self.optional = true;
        self
    }
}

/// What a variant is called, computes, takes and gives, and where it comes from.
#[derive(Clone, Copy, Debug)]
pub struct Card {
    /// The name in the catalogue: `alibi-attention`.
    pub name: &'static str,
    /// Its family.
    pub family: Family,
    /// One sentence: what and why.
    pub summary: &'static str,
    /// The equation in short.
    pub equation: &'static str,
    /// Authors, title, venue, arXiv id.
    pub paper: &'static str,
    /// Inputs, required ones first.
    pub inputs: &'static [InputSpec],
    /// Outputs.
    pub outputs: &'static [OutputSpec],
    /// Forms offered: `prefill`, `decode`, `chunked`, `recurrent`, `step`, `bidirectional`, `cross`.
    pub forms: &'static [&'static str],
    /// Kernels of the plan, in order.
    pub kernels: &'static [&'static str],
}

impl Card {
    /// The input called `name`.
    pub fn input(&self, name: &str) -> Option<&InputSpec> {
        self.inputs.iter().find(|i| i.name == name)
    }
}

/// An attention mechanism with its parameters. Implement it outside the crate with the means used inside it.
pub trait Variant: Debug + Send + Sync {
    /// Name, equation, paper, inputs and outputs.
    fn card(&self) -> &'static Card;

    /// Parameters by name, for shapes in words and for printing.
    fn parameters(&self) -> Vec<(&'static str, Value)>;

    /// Inputs beyond the card's, by name: those of hooks. Their shapes and types are for [`Variant::plan`] to check.
    fn more_inputs(&self) -> Vec<String> {
        Vec::new()
    }

    /// The same mechanism after so many tokens of a stream, where a parameter counts them; `None` where none does.
    fn after(&self, tokens: usize) -> Option<Box<dyn Variant>> {
        let _ = tokens;
        None
    }

    /// How many of the tokens of a call its state has taken up; those after them come again with the next call.
    fn absorbed(&self, tokens: usize) -> usize {
        tokens
    }

    /// Writes the plan: stages over named slots. Checks beyond the card's shapes belong here, before the first stage.
    ///
    /// # Errors
    /// Whatever of the problem or the parameters the variant does not take.
    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()>;

    /// The definition in f64. Called only with inputs that [`Problem`] accepted.
    fn oracle(&self, inputs: &oracle::Inputs) -> oracle::Outputs;
}

impl Variant for Box<dyn Variant> {
    fn card(&self) -> &'static Card {
        (**self).card()
    }

    fn parameters(&self) -> Vec<(&'static str, Value)> {
        (**self).parameters()
    }

    fn more_inputs(&self) -> Vec<String> {
        (**self).more_inputs()
    }

    fn after(&self, tokens: usize) -> Option<Box<dyn Variant>> {
        (**self).after(tokens)
    }

    fn absorbed(&self, tokens: usize) -> usize {
        (**self).absorbed(tokens)
    }

    fn plan(&self, problem: &Problem, plan: &mut PlanBuilder) -> Result<()> {
        (**self).plan(problem, plan)
    }

    fn oracle(&self, inputs: &oracle::Inputs) -> oracle::Outputs {
        (**self).oracle(inputs)
    }
}

type Make = fn(&[(String, Value)]) -> Result<Box<dyn Variant>>;

/// The catalogue's entry of one variant.
#[derive(Clone, Copy)]
pub struct Entry {
    card: &'static Card,
    specs: fn() -> Vec<ParamSpec>,
    make: Make,
}

impl Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.card.name)
    }
}

/// A variant that the catalogue can make from names.
pub trait Named: Variant + ParamSet + 'static {
    /// Its card.
    const CARD: Card;
}

impl Entry {
    /// The entry of a variant type.
    pub const fn of<V: Named>() -> Self {
        Entry { card: const { &V::CARD }, specs: V::specs, make: make::<V> }
    }

    /// Name, equation, paper, inputs and outputs.
    pub fn card(&self) -> &'static Card {
        self.card
    }

    /// The parameters with types and defaults.
    pub fn parameters(&self) -> Vec<ParamSpec> {
        (self.specs)()
    }

    /// The variant with the given parameters.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownName`] and [`ErrorKind::Parameter`].
    pub fn make(&self, params: &[(String, Value)]) -> Result<Box<dyn Variant>> {
        (self.make)(params)
    }
}

fn make<V: Named>(params: &[(String, Value)]) -> Result<Box<dyn Variant>> {
    let mut variant = V::default();
    for (name, value) in params {
        variant.set(V::CARD.name, name, value)?;
    }
    Ok(Box::new(variant))
}

/// The catalogue's entry called `name`.
///
/// # Errors
/// [`ErrorKind::UnknownVariant`], naming the nearest one.
pub fn find(name: &str) -> Result<&'static Entry> {
    let all = crate::variants::CATALOG;
    all.iter().flat_map(|family| family.iter()).find(|e| e.card.name == name).ok_or_else(|| {
        let near = all
            .iter()
            .flat_map(|family| family.iter())
            .min_by_key(|e| distance(e.card.name, name))
            .map_or(String::new(), |e| format!("; the nearest name is `{}`", e.card.name));
        Error::new(ErrorKind::UnknownVariant, format!("no variant is called `{name}`{near}"))
    })
}

/// Edit distance, to suggest a name.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let cost = (corner + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[b.len()]
}

/// The two methods of [`Variant`] that every variant writes alike.
#[macro_export]
macro_rules! named {
    () => {
        fn card(&self) -> &'static $crate::Card {
            const { &<Self as $crate::Named>::CARD }
        }
        fn parameters(&self) -> Vec<(&'static str, $crate::Value)> {
            $crate::ParamSet::values(self)
        }
    };
}
