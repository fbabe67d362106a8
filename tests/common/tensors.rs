//! Calls of a variant by name: lists of tensors and parameters, and what a call on the CPU engine gives.

use super::random;
use wgpu_attention::{HostTensor, Inputs, Value, variant};

pub type Params = Vec<(String, Value)>;
pub type Tensors = Vec<(&'static str, HostTensor)>;
/// A variant, parameters and inputs.
pub type Call<'a> = (&'a str, Vec<(&'a str, &'a str)>, Tensors);

pub fn params(list: &[(&str, &str)]) -> Params {
    list.iter().map(|(n, v)| ((*n).to_owned(), Value::parse(v))).collect()
}

pub fn qkv([b, h, hk, lq, lk, d, dv]: [usize; 7]) -> Tensors {
    vec![("q", random(&[b, h, lq, d], 1)), ("k", random(&[b, hk, lk, d], 2)), ("v", random(&[b, hk, lk, dv], 3))]
}

pub fn half(mut inputs: Tensors) -> Tensors {
    inputs.iter_mut().filter(|(n, _)| ["q", "k", "v"].contains(n)).for_each(|(_, t)| *t = t.to_f16());
    inputs
}

pub fn ints(shape: &[usize], one: impl Fn(usize) -> i32) -> HostTensor {
    HostTensor::new(shape, (0..shape.iter().product()).map(one).collect::<Vec<_>>()).expect("a shape")
}

pub fn flags(shape: &[usize], one: impl Fn(usize) -> bool) -> HostTensor {
    HostTensor::new(shape, (0..shape.iter().product()).map(|n| u8::from(one(n))).collect::<Vec<_>>()).expect("a shape")
}

/// One output on the CPU engine; the other engines agree with it by the tests above.
pub fn run(name: &str, list: &[(&str, &str)], inputs: &Tensors, output: &str) -> HostTensor {
    let variant = variant::find(name).and_then(|entry| entry.make(&params(list))).expect("a variant");
    let call = inputs.iter().fold(Inputs::new(), |all, (name, t)| all.with(name, t));
    let outputs = wgpu_attention::Runtime::cpu().call_blocking(&*variant, &call).expect("a run");
    outputs.get(output).expect("an output").contiguous()
}

/// Rows of every (batch, head) in another order.
pub fn rows(x: &HostTensor, order: &[usize]) -> HostTensor {
    let [.., length, width] = x.shape()[..] else { panic!("rank 2 or more") };
    let data = x.to_f64();
    let mut shape = x.shape().to_vec();
    let at = shape.len() - 2;
    shape[at] = order.len();
    HostTensor::from_fn(&shape, |n| {
        let (outer, row, column) = (n / (order.len() * width), n / width % order.len(), n % width);
        data[(outer * length + order[row]) * width + column] as f32
    })
}
