//! Arithmetic in f64 for oracles, and for nothing else.
//!
//! An oracle is a variant's definition, transcribed from its paper with index loops. It sees no kernel, no hook and no
//! plan: where an engine and an oracle agree, two independent texts agree.

mod attention;
pub mod features;
mod memory;
mod recurrence;
mod rotary;
mod search;
mod systems;

pub use attention::{Pairs, Row, attention, attention_map, bottom_right, merge, with_sink};
pub use memory::{Layers, Memory};
pub use recurrence::{Recurrence, Token, frequencies, log_sigmoid, rotate, scan, shared_head, slopes, unit};
pub use rotary::{Scaling, scaled_frequencies};
pub use search::{index_scores, list_count, padded, pool_blocks, top_k};
use std::collections::BTreeMap;
pub use systems::{conjugate_gradients, eigen, least_squares, solve};

/// An array of f64, row-major. Booleans are 0 and 1, indices are whole numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Elements, row-major.
    pub data: Vec<f64>,
}

impl Array {
    /// An array of one value.
    pub fn filled(shape: &[usize], value: f64) -> Self {
        Array { shape: shape.to_vec(), data: vec![value; shape.iter().product()] }
    }

    /// An array of zeros.
    pub fn zeros(shape: &[usize]) -> Self {
        Self::filled(shape, 0.0)
    }

    /// The flat position of `index`. An axis of size 1 broadcasts, and missing leading axes are taken as absent.
    pub fn at(&self, index: &[usize]) -> usize {
        let skip = index.len() - self.shape.len();
        index[skip..].iter().zip(&self.shape).fold(0, |flat, (&i, &n)| flat * n + if n == 1 { 0 } else { i })
    }

    /// The element at `index` (broadcasting as [`at`](Array::at)).
    pub fn get(&self, index: &[usize]) -> f64 {
        self.data[self.at(index)]
    }

    /// Sets the element at `index`.
    pub fn set(&mut self, index: &[usize], value: f64) {
        let at = self.at(index);
        self.data[at] = value;
    }

    /// The innermost row at the given outer indices.
    pub fn row(&self, index: &[usize]) -> &[f64] {
        let width = *self.shape.last().expect("an array of rank 1 or more");
        let start = index.iter().zip(&self.shape).fold(0, |flat, (&i, &n)| flat * n + i) * width;
        &self.data[start..start + width]
    }

    /// The innermost row at the given outer indices, to write.
    pub fn row_mut(&mut self, index: &[usize]) -> &mut [f64] {
        let width = *self.shape.last().expect("an array of rank 1 or more");
        let start = index.iter().zip(&self.shape).fold(0, |flat, (&i, &n)| flat * n + i) * width;
        &mut self.data[start..start + width]
    }

    /// Every innermost row mapped, with its outer indices at hand; the rows of the result may have another width.
    pub fn map_rows(&self, map: impl Fn(&[usize], &[f64]) -> Vec<f64>) -> Array {
        let (&width, outer) = self.shape.split_last().expect("an array of rank 1 or more");
        let (mut index, mut data, mut shape) = (vec![0; outer.len()], Vec::new(), self.shape.clone());
        for row in 0..outer.iter().product() {
            let mut rest = row;
            for (i, n) in index.iter_mut().zip(outer).rev() {
                (*i, rest) = (rest % n, rest / n);
            }
            let mapped = map(&index, &self.data[row * width..(row + 1) * width]);
            shape[outer.len()] = mapped.len();
            data.extend(mapped);
        }
        Array { shape, data }
    }
}

/// The inputs of an oracle by argument name.
#[derive(Clone, Debug, Default)]
pub struct Inputs(pub BTreeMap<String, Array>);

impl Inputs {
    /// A required input; its presence was checked with the problem.
    pub fn get(&self, name: &str) -> &Array {
        self.find(name).unwrap_or_else(|| panic!("the oracle needs `{name}`"))
    }

    /// An optional input.
    pub fn find(&self, name: &str) -> Option<&Array> {
        self.0.get(name)
    }

    /// q, k and v.
    pub fn qkv(&self) -> [&Array; 3] {
        ["q", "k", "v"].map(|name| self.get(name))
    }

    /// An optional flag: absent allows everything.
    pub fn flag(&self, name: &str, index: &[usize]) -> bool {
        self.find(name).is_none_or(|flags| flags.get(index) != 0.0)
    }

    /// An optional number: `default` where absent.
    pub fn number(&self, name: &str, index: &[usize], default: f64) -> f64 {
        self.find(name).map_or(default, |numbers| numbers.get(index))
    }

    /// Whether `mask` allows the pair and, if `causal`, key `j` is not later than the row: j ≤ i + Lk − Lq.
    pub fn allowed(&self, causal: bool, row: Row, j: usize) -> bool {
        let [q, k, _] = self.qkv();
        (!causal || j as i64 <= bottom_right(row.i, q, k)) && self.flag("mask", &[row.b, row.h, row.i, j])
    }
}

/// Named results.
pub type Outputs = Vec<(&'static str, Array)>;

/// Σ a_i b_i.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// The scale given, or D^-1/2 of an array of rows of width D.
pub fn scale(given: Option<f32>, rows: &Array) -> f64 {
    given.map_or_else(|| (rows.shape[rows.shape.len() - 1] as f64).powf(-0.5), f64::from)
}
