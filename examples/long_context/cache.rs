//! Heads that keep a key and a value of every byte, in caches allocated once and written in place.

use crate::embed::Row;
use crate::head::Head;
use std::time::Instant;
use wgpu_attention::{HostTensor, Inputs, Prepared, Result, Runtime, Tensor, Variant};

/// Bytes of text embedded and written at a time.
const CHUNK: usize = 8192;

/// The queries of a text and whatever else the variant takes; called with ever longer texts.
pub type Queries = Box<dyn FnMut(&[u8]) -> Result<Inputs>>;

/// What a cached head is made of.
pub struct Recipe {
    /// The attention.
    pub variant: Box<dyn Variant>,
    /// Name of each cache, what its rows embed, and its axis of places.
    pub caches: Vec<(&'static str, Row, usize)>,
    /// The inputs that are not caches.
    pub queries: Queries,
    /// First places kept for good and last places kept in a ring; without it all are kept.
    pub ring: Option<(usize, usize)>,
    /// The variant takes the places in use as `lengths`, so that one plan serves all steps; else it sees the filled part of the caches,
    /// and each length is a plan of its own.
    pub lengths: bool,
}

/// A head over caches.
pub struct CachedHead<'a> {
    runtime: &'a Runtime,
    recipe: Recipe,
    tensors: Vec<Tensor>,
    plan: Option<(usize, Prepared)>,
}

impl<'a> CachedHead<'a> {
    /// Allocates the caches for `capacity` bytes of text.
    pub fn new(runtime: &'a Runtime, recipe: Recipe, capacity: usize) -> Result<Self> {
        let places = recipe.ring.map_or(capacity, |(sink, recent)| capacity.min(sink + recent));
        let allocate = |&(_, row, axis): &(_, Row, usize)| {
            let mut shape = vec![1; axis];
            shape.extend([places, row.width()]);
            runtime.upload(&HostTensor::zeros(&shape))
        };
        let tensors = recipe.caches.iter().map(allocate).collect::<Result<_>>()?;
        Ok(CachedHead { runtime, recipe, tensors, plan: None })
    }

    /// Writes the places `from..to` of the text; returns milliseconds.
    fn write(&mut self, text: &[u8], mut from: usize, to: usize) -> Result<f64> {
        let mut ms = 0.0;
        while from < to {
            let (start, end) = match self.recipe.ring {
                Some((sink, recent)) if from >= sink => {
                    // What the ring would lose again before the end is not written at all.
                    from = from.max(to.saturating_sub(recent));
                    let slot = (from - sink) % recent;
                    (sink + slot, to.min(from + recent - slot))
                }
                Some((sink, _)) => (from, to.min(sink)),
                None => (from, to.min(from + CHUNK)),
            };
            for (&(_, row, axis), tensor) in self.recipe.caches.iter().zip(&mut self.tensors) {
                let mut shape = vec![1; axis];
                shape.extend([end - from, row.width()]);
                let rows = HostTensor::new(&shape, row.rows(text, from..end))?;
                let clock = Instant::now();
                self.runtime.write(tensor, axis, start, &rows)?;
                ms += clock.elapsed().as_secs_f64() * 1e3;
            }
            from = end;
        }
        Ok(ms)
    }
}

impl Head for CachedHead<'_> {
    fn prefill(&mut self, text: &[u8]) -> Result<f64> {
        let ms = self.write(text, 0, text.len())?;
        (self.recipe.queries)(text)?;
        let clock = Instant::now();
        // On a GPU a write may wait for the next submit; a read comes after all of them.
        let axis = self.recipe.caches[0].2;
        self.runtime.read_blocking(&self.tensors[0].narrow(axis, 0, 1))?;
        Ok(ms + clock.elapsed().as_secs_f64() * 1e3)
    }

    fn step(&mut self, text: &[u8]) -> Result<Vec<f32>> {
        self.write(text, text.len() - 1, text.len())?;
        let mut inputs = (self.recipe.queries)(text)?;
        let mut places = 0;
        for (&(name, _, axis), tensor) in self.recipe.caches.iter().zip(&self.tensors) {
            places = if self.recipe.lengths { tensor.shape()[axis] } else { text.len().min(tensor.shape()[axis]) };
            inputs.insert(name, tensor.narrow(axis, 0, places));
        }
        if self.recipe.lengths {
            inputs.insert("lengths", HostTensor::new(&[1], vec![text.len() as i32])?);
        }
        let prepared = match self.plan.take().filter(|(planned, _)| *planned == places) {
            Some((_, prepared)) => prepared,
            None => self.runtime.prepare_blocking(self.runtime.plan(&*self.recipe.variant, &inputs)?)?,
        };
        let outputs = self.runtime.run(&prepared, &inputs)?;
        self.plan = Some((places, prepared));
        Ok(self.runtime.read_blocking(outputs.get("out")?)?.to_f32())
    }

    fn bytes(&self) -> usize {
        self.tensors.iter().map(|t| t.shape().iter().product::<usize>() * t.dtype().size()).sum()
    }
}
