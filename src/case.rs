//! Case files: a safetensors file with inputs under their argument names, results under `expected.NAME`, and the variant, its
//! parameters and tolerances in the metadata. Feature `case-files`.

use crate::error::{Error, ErrorKind, Result};
use crate::oracle;
use crate::params::Value;
use crate::runtime::{Outputs, Runtime};
use crate::tensor::{DType, HostData, HostTensor, Inputs};
use crate::variant::{self, Variant};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, HashMap};

/// How far a result may be from the expected one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    /// Largest difference over the largest finite expected value (over 1 where all are 0).
    Relative(f64),
    /// |difference| <= x max(1, |expected|) for each element.
    Absolute(f64),
    /// Equal.
    Exact,
}

/// One case: a variant, its inputs, and what must come out.
#[derive(Debug)]
pub struct Case {
    /// The variant's name.
    pub variant: String,
    /// Parameters by name.
    pub params: Vec<(String, Value)>,
    /// What the case exercises.
    pub note: String,
    /// Inputs under their argument names.
    pub inputs: Vec<(String, HostTensor)>,
    /// Expected results and tolerances.
    pub expected: Vec<(String, HostTensor, Tolerance)>,
}

/// A result beside its expectation.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The output's name.
    pub output: String,
    /// The error in the tolerance's measure; infinite where shapes differ or a value is NaN.
    pub error: f64,
    /// What is allowed.
    pub allowed: f64,
}

impl Comparison {
    /// Whether the error is within what is allowed.
    pub fn passed(&self) -> bool {
        self.error <= self.allowed
    }
}

impl Case {
    /// Reads a case, or a plain safetensors file when `variant` names what the file does not.
    ///
    /// # Errors
    /// [`ErrorKind::File`] when the bytes are not such a file, [`ErrorKind::DType`] for an element type that no input takes.
    pub fn parse(bytes: &[u8], variant: Option<&str>) -> Result<Self> {
        let bad = |what: &str| Error::new(ErrorKind::File, format!("case file: {what}"));
        let (tensors, metadata) = read(bytes)?;
        let text = |key: &str| metadata.get(key).map_or("", String::as_str);
        let json = |key: &str| -> Result<serde_json::Map<String, serde_json::Value>> {
            match metadata.get(key) {
                None => Ok(serde_json::Map::new()),
                Some(text) => serde_json::from_str(text)
                    .map_err(|e| bad(&format!("metadata `{key}` is not a JSON object")).caused_by(e)),
            }
        };
        let variant = match (variant, text("variant")) {
            (Some(name), _) => name.to_owned(),
            (None, "") => return Err(bad("no variant in its metadata; name one")),
            (None, name) => name.to_owned(),
        };
        let params = json("params")?.iter().map(|(name, value)| (name.clone(), from_json(value))).collect();
        let tolerances = json("tolerance")?;
        let (mut inputs, mut expected) = (Vec::new(), Vec::new());
        for (name, tensor) in tensors {
            match name.strip_prefix("expected.") {
                Some(output) => expected.push((output.to_owned(), tensor, tolerance(tolerances.get(output)))),
                None => inputs.push((name, tensor)),
            }
        }
        Ok(Case { variant, params, note: text("note").to_owned(), inputs, expected })
    }

    /// The variant with the case's parameters, changed by `overrides`.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownVariant`], [`ErrorKind::UnknownName`], [`ErrorKind::Parameter`].
    pub fn make(&self, overrides: &[(String, Value)]) -> Result<Box<dyn Variant>> {
        let mut params = self.params.clone();
        params.extend_from_slice(overrides);
        variant::find(&self.variant)?.make(&params)
    }

    /// The inputs as a call takes them.
    pub fn call_inputs(&self) -> Inputs {
        self.inputs.iter().fold(Inputs::new(), |inputs, (name, tensor)| inputs.with(name, tensor))
    }

    /// The inputs as an oracle takes them.
    pub fn oracle_inputs(&self) -> oracle::Inputs {
        oracle_inputs(self.inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)))
    }

    /// Runs the case.
    ///
    /// # Errors
    /// As [`Runtime::call`].
    pub async fn run(&self, runtime: &Runtime) -> Result<Outputs<HostTensor>> {
        runtime.call(&*self.make(&[])?, &self.call_inputs()).await
    }

    /// Results beside expectations, one an expected output.
    pub fn compare(&self, outputs: &Outputs<HostTensor>) -> Vec<Comparison> {
        let one = |(name, want, tolerance): &(String, HostTensor, Tolerance)| {
            let allowed = match tolerance {
                Tolerance::Relative(x) | Tolerance::Absolute(x) => *x,
                Tolerance::Exact => 0.0,
            };
            let error = outputs.get(name).map_or(f64::INFINITY, |got| compare(want, got, *tolerance));
            Comparison { output: name.clone(), error, allowed }
        };
        self.expected.iter().map(one).collect()
    }
}

/// Tensors as an oracle takes them.
pub fn oracle_inputs<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a HostTensor)>) -> oracle::Inputs {
    let array = |t: &HostTensor| oracle::Array { shape: t.shape().to_vec(), data: t.to_f64() };
    oracle::Inputs(tensors.into_iter().map(|(name, t)| (name.to_owned(), array(t))).collect())
}

/// The error of `got` in the measure of a tolerance. −∞ is matched by any value <= −1e30; NaN by nothing.
pub fn compare(want: &HostTensor, got: &HostTensor, tolerance: Tolerance) -> f64 {
    if want.shape() != got.shape() {
        return f64::INFINITY;
    }
    let (want, got) = (want.to_f64(), got.to_f64());
    let largest = want.iter().filter(|x| x.is_finite()).fold(0.0_f64, |m, x| m.max(x.abs()));
    let largest = if largest == 0.0 { 1.0 } else { largest };
    want.iter().zip(&got).fold(0.0, |worst, (&w, &g)| {
        let error = if w == f64::NEG_INFINITY {
            if g <= -1e30 { 0.0 } else { f64::INFINITY }
        } else if !g.is_finite() {
            f64::INFINITY
        } else {
            match tolerance {
                Tolerance::Relative(_) => (w - g).abs() / largest,
                Tolerance::Absolute(_) => (w - g).abs() / w.abs().max(1.0),
                Tolerance::Exact => f64::from(u8::from(w != g)),
            }
        };
        worst.max(error)
    })
}

/// Tensors by name.
pub type Tensors = Vec<(String, HostTensor)>;

/// The tensors of a safetensors file by name, sorted, and its metadata.
///
/// # Errors
/// [`ErrorKind::File`] when the bytes are not such a file, [`ErrorKind::DType`] for an element type that no input takes.
pub fn read(bytes: &[u8]) -> Result<(Tensors, HashMap<String, String>)> {
    let bad = |what: &str| Error::new(ErrorKind::File, format!("case file: {what}"));
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| bad("not a safetensors file").caused_by(e))?;
    let file = SafeTensors::deserialize(bytes).map_err(|e| bad("not a safetensors file").caused_by(e))?;
    let mut names = file.names();
    names.sort_unstable();
    let mut tensors = Vec::new();
    for name in names {
        let view = file.tensor(name).map_err(|e| bad(name).caused_by(e))?;
        tensors.push((name.to_owned(), from_view(name, &view)?));
    }
    Ok((tensors, header.metadata().clone().unwrap_or_default()))
}

/// Named tensors as a safetensors file.
///
/// # Errors
/// [`ErrorKind::File`].
pub fn write<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a HostTensor)>,
    metadata: BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let whole: Vec<(&str, HostTensor)> = tensors.into_iter().map(|(name, t)| (name, t.contiguous())).collect();
    let views = whole
        .iter()
        .map(|(name, t)| {
            let dtype = match t.dtype() {
                DType::F32 => Dtype::F32,
                DType::F16 => Dtype::F16,
                DType::I32 => Dtype::I32,
                DType::U8 => Dtype::U8,
            };
            Ok((*name, TensorView::new(dtype, t.shape().to_vec(), t.data().bytes())?))
        })
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
    let metadata = (!metadata.is_empty()).then(|| metadata.into_iter().collect());
    views
        .and_then(|views| safetensors::serialize(views, metadata))
        .map_err(|e| Error::new(ErrorKind::File, "results could not be written as safetensors").caused_by(e))
}

fn from_view(name: &str, view: &TensorView) -> Result<HostTensor> {
    let bytes = view.data();
    let data = match view.dtype() {
        Dtype::F32 => HostData::from_bytes(DType::F32, bytes),
        Dtype::F16 => HostData::from_bytes(DType::F16, bytes),
        Dtype::I32 => HostData::from_bytes(DType::I32, bytes),
        Dtype::U8 | Dtype::BOOL => HostData::from_bytes(DType::U8, bytes),
        // PyTorch's index type.
        Dtype::I64 => {
            let narrow = |b: &[u8]| i32::try_from(bytemuck::pod_read_unaligned::<i64>(b)).ok();
            let values = bytes.chunks_exact(8).map(narrow).collect::<Option<Vec<i32>>>();
            values
                .ok_or_else(|| Error::expected(ErrorKind::Index, "case file", name, "values of 32 bits", "wider ones"))?
                .into()
        }
        other => {
            let expected = "F32, F16, I32, I64, U8 or BOOL";
            return Err(Error::expected(ErrorKind::DType, "case file", name, expected, format!("{other:?}")));
        }
    };
    HostTensor::new(view.shape(), data)
}

fn from_json(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::None,
        serde_json::Value::Bool(b) => Value::Bool(*b),
        serde_json::Value::Number(n) => {
            n.as_i64().map_or_else(|| Value::Float(n.as_f64().unwrap_or(f64::NAN)), Value::Int)
        }
        serde_json::Value::String(s) => Value::Text(s.clone()),
        serde_json::Value::Array(list) => Value::List(list.iter().map(from_json).collect()),
        serde_json::Value::Object(_) => Value::Text(value.to_string()),
    }
}

fn tolerance(value: Option<&serde_json::Value>) -> Tolerance {
    let number = |key: &str| value.and_then(|v| v.get(key)).and_then(serde_json::Value::as_f64);
    match (number("max_abs_over_max_ref"), number("abs")) {
        (Some(x), _) => Tolerance::Relative(x),
        (None, Some(x)) => Tolerance::Absolute(x),
        (None, None) => Tolerance::Exact,
    }
}
