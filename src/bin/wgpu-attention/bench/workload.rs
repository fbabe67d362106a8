//! What a workload is: a variant, its inputs, its work counted by the protocol, and how a part of it is checked.

use super::data;
use super::documents::Documents;
use wgpu_attention::{DType, Error, HostTensor, Inputs, Result, Value, Variant, variant};

/// Which engine measures a workload when none is named on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// A real GPU.
    Gpu,
    /// The CPU engine.
    Cpu,
    /// A software adapter.
    Software,
    /// Only when it is named.
    Named,
}

/// A named job.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The protocol's name.
    pub id: String,
    /// Sizes and mask, as the protocol writes them.
    pub shape: String,
    /// Who measures it unasked.
    pub group: Group,
    /// The workload that runs our dense kernel on the same sizes.
    pub dense: Option<&'static str>,
    /// The workload that computes the same without anything to skip.
    pub ideal: Option<&'static str>,
    /// What is run.
    pub job: Job,
}

/// How the elements of an input come about.
#[derive(Clone, Debug)]
pub enum Fill {
    /// Normal numbers.
    Normal,
    /// ln σ(x) / 16 of normal numbers x: log decays as a gate gives them.
    LogGate,
    /// σ(x) of normal numbers x.
    Gate,
    /// These.
    Given(HostTensor),
}

/// One input of a job.
#[derive(Clone, Debug)]
pub struct Input {
    /// Argument.
    pub name: &'static str,
    /// Sizes.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: DType,
    /// Elements.
    pub fill: Fill,
}

/// The part of a job that is computed again by a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// A few rows of a few heads. Where no later key is seen, the keys behind them are left out.
    Rows {
        /// Later keys are not seen.
        causal: bool,
        /// Queries and keys of a block, 1 where there are none.
        block: usize,
    },
    /// A few rows of a few packed sequences.
    Sequences {
        /// Later keys are not seen.
        causal: bool,
    },
    /// Whole heads: a state or a token grid can not be cut.
    Heads,
}

/// A variant and what it is given.
#[derive(Clone, Debug)]
pub struct Job {
    /// Name in the catalogue.
    pub variant: &'static str,
    /// Parameters.
    pub params: Vec<(String, Value)>,
    /// Inputs.
    pub inputs: Vec<Input>,
    /// FLOPs by the protocol: of allowed pairs, never of blocks touched.
    pub flops: f64,
    /// Pairs inside the blocks touched over allowed pairs, where blocks decide.
    pub touched: Option<f64>,
    /// How it is checked.
    pub cut: Cut,
    /// A mask given as code: documents that see only themselves.
    pub documents: Option<Documents>,
}

impl Job {
    /// The variant with its parameters.
    pub fn make(&self) -> Result<Box<dyn Variant>> {
        let variant = self.bare()?;
        match &self.documents {
            Some(documents) => documents.mask(variant),
            None => Ok(variant),
        }
    }

    /// The same without a mask given as code.
    pub fn bare(&self) -> Result<Box<dyn Variant>> {
        variant::find(self.variant)?.make(&self.params)
    }

    /// Whether reals are stored as f16.
    pub fn half(&self) -> bool {
        self.inputs.iter().any(|i| i.dtype == DType::F16)
    }

    /// Bytes of the inputs.
    pub fn bytes(&self) -> u64 {
        self.inputs.iter().map(|i| i.bytes()).sum()
    }

    /// The inputs of set `set`; sets differ in their random numbers only.
    pub fn tensors(&self, set: usize) -> Result<Vec<(String, HostTensor)>> {
        let one = |(n, input): (usize, &Input)| {
            let tensor = match &input.fill {
                Fill::Normal => data::normal(&input.shape, input.dtype, (set * 16 + n + 1) as u64)?,
                Fill::LogGate => data::made(&input.shape, (set * 16 + n + 1) as u64, data::log_gate)?,
                Fill::Gate => data::made(&input.shape, (set * 16 + n + 1) as u64, data::gate)?,
                Fill::Given(tensor) => tensor.clone(),
            };
            Ok::<_, Error>((input.name.to_owned(), tensor))
        };
        self.inputs.iter().enumerate().map(one).collect()
    }
}

impl Input {
    /// Normal numbers.
    pub fn normal(name: &'static str, shape: &[usize], half: bool) -> Self {
        Input { name, shape: shape.to_vec(), dtype: if half { DType::F16 } else { DType::F32 }, fill: Fill::Normal }
    }

    /// f32 numbers made of normal ones.
    pub fn made(name: &'static str, shape: &[usize], fill: Fill) -> Self {
        Input { name, shape: shape.to_vec(), dtype: DType::F32, fill }
    }

    /// A tensor that is part of the workload.
    pub fn given(name: &'static str, tensor: HostTensor) -> Self {
        Input { name, shape: tensor.shape().to_vec(), dtype: tensor.dtype(), fill: Fill::Given(tensor) }
    }

    /// Bytes of the tensor.
    pub fn bytes(&self) -> u64 {
        (self.shape.iter().product::<usize>() * self.dtype.size()) as u64
    }
}

/// Tensors as a call takes them.
pub fn inputs<'a>(tensors: impl IntoIterator<Item = &'a (String, HostTensor)>) -> Inputs {
    tensors.into_iter().fold(Inputs::new(), |all, (name, tensor)| all.with(name, tensor))
}

/// Pairs that bottom-right causality allows; all of them without it.
pub fn pairs(causal: bool, lq: usize, lk: usize) -> f64 {
    let (lq, lk) = (lq as f64, lk as f64);
    if causal { lq * (lq + 1.0) / 2.0 + lq * (lk - lq) } else { lq * lk }
}

/// A parameter.
pub fn set(name: &str, value: impl Into<ParamValue>) -> (String, Value) {
    (name.to_owned(), value.into().0)
}

/// What [`set`] takes.
pub struct ParamValue(Value);

impl From<usize> for ParamValue {
    fn from(n: usize) -> Self {
        ParamValue(Value::Int(n as i64))
    }
}
impl From<bool> for ParamValue {
    fn from(b: bool) -> Self {
        ParamValue(Value::Bool(b))
    }
}
impl From<f64> for ParamValue {
    fn from(x: f64) -> Self {
        ParamValue(Value::Float(x))
    }
}
impl From<&str> for ParamValue {
    fn from(text: &str) -> Self {
        ParamValue(Value::Text(text.to_owned()))
    }
}
impl From<&[usize]> for ParamValue {
    fn from(list: &[usize]) -> Self {
        ParamValue(Value::List(list.iter().map(|&n| Value::Int(n as i64)).collect()))
    }
}
