//! Heads that fold the text into a state of fixed size.

use crate::embed::Row;
use crate::head::Head;
use std::collections::HashMap;
use std::time::Instant;
use wgpu_attention::{HostTensor, Inputs, Prepared, Result, Runtime, Tensor, Variant};

/// Bytes of text that one run takes in.
const CHUNK: usize = 1024;

/// A head over a state (1, heads, D, Dv), given to each run and taken back.
pub struct StateHead<'a> {
    runtime: &'a Runtime,
    variant: Box<dyn Variant>,
    row: Row,
    heads: usize,
    /// Inputs that stay the same.
    fixed: Inputs,
    state: Tensor,
    plans: HashMap<usize, Prepared>,
}

impl<'a> StateHead<'a> {
    /// A head whose keys are `row`, dealt to `heads` heads.
    pub fn new(runtime: &'a Runtime, variant: Box<dyn Variant>, row: Row, heads: usize, fixed: Inputs) -> Result<Self> {
        let state = runtime.upload(&HostTensor::zeros(&[1, heads, row.width() / heads, Row::Byte.width()]))?;
        Ok(StateHead { runtime, variant, row, heads, fixed, state, plans: HashMap::new() })
    }

    /// Takes in the places `from..to`; returns the output of all of them and milliseconds. The key of a place embeds what comes before
    /// it and the query what follows from it, so that a query finds the state already with the place's value.
    fn run(&mut self, text: &[u8], from: usize, to: usize) -> Result<(Tensor, f64)> {
        let inputs = self.fixed.clone();
        let inputs = inputs
            .with("q", self.row.tensor(text, from + 1..to + 1, self.heads)?)
            .with("k", self.row.tensor(text, from..to, self.heads)?)
            .with("v", Row::Byte.tensor(text, from..to, 1)?)
            .with("state", &self.state);
        let clock = Instant::now();
        let prepared = match self.plans.remove(&(to - from)) {
            Some(prepared) => prepared,
            None => self.runtime.prepare_blocking(self.runtime.plan(&*self.variant, &inputs)?)?,
        };
        let outputs = self.runtime.run(&prepared, &inputs)?;
        self.state = outputs.get("state")?.clone();
        self.plans.insert(to - from, prepared);
        Ok((outputs.get("out")?.clone(), clock.elapsed().as_secs_f64() * 1e3))
    }
}

impl Head for StateHead<'_> {
    fn prefill(&mut self, text: &[u8]) -> Result<f64> {
        self.state = self.runtime.upload(&HostTensor::zeros(self.state.shape()))?;
        let mut ms = 0.0;
        for from in (0..text.len()).step_by(CHUNK) {
            ms += self.run(text, from, text.len().min(from + CHUNK))?.1;
        }
        let clock = Instant::now();
        self.runtime.wait()?;
        Ok(ms + clock.elapsed().as_secs_f64() * 1e3)
    }

    fn step(&mut self, text: &[u8]) -> Result<Vec<f32>> {
        let (out, _) = self.run(text, text.len() - 1, text.len())?;
        let heads = self.runtime.read_blocking(&out)?.to_f32();
        let mut sum = vec![0.0; Row::Byte.width()];
        heads.chunks(sum.len()).for_each(|head| sum.iter_mut().zip(head).for_each(|(s, x)| *s += x));
        Ok(sum)
    }

    fn bytes(&self) -> usize {
        self.state.shape().iter().product::<usize>() * self.state.dtype().size()
    }
}
