//! `State`: what a call of a stream leaves for the next one.

use crate::error::{Error, ErrorKind, Result};
use crate::runtime::Outputs;
use crate::tensor::{Inputs, Tensor};
use crate::variant::{Card, Variant};

/// The past of one stream: every output of the variant that is also one of its inputs (the recurrent state, normalisers, the inputs of a
/// short convolution, the ring of keys, an open block, sums, weights and their momentum), f32, with one position for all of them.
///
/// [`Runtime::step`](crate::Runtime::step) runs a stretch of tokens of any length and moves the state on: a prefill and steps of one token
/// give what one long call gives, up to rounding. A clone is a copy that later steps of the original leave alone, for speculative decoding
/// and for going back; it costs no memory on the device until one of the two steps.
///
/// ```
/// use wgpu_attention::{variants::linear::Retention, HostTensor, Inputs, Runtime, State};
/// # fn main() -> wgpu_attention::Result<()> {
/// let runtime = Runtime::cpu();
/// let variant = Retention::default();
/// let mut state = State::new(&variant);
/// for length in [5, 1, 1] {
///     let x = HostTensor::from_fn(&[1, 2, length, 4], |i| i as f32 * 0.1);
///     let inputs = Inputs::new().with("q", &x).with("k", &x).with("v", &x);
///     let out = runtime.step_blocking(&variant, &mut state, &inputs)?;
///     assert_eq!(out.get("out")?.shape(), [1, 2, length, 4]);
/// }
/// assert_eq!(state.position(), 7);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct State {
    variant: String,
    position: usize,
    parts: Vec<(String, Tensor)>,
}

impl State {
    /// The state before the first token.
    pub fn new(variant: &dyn Variant) -> Self {
        State { variant: variant.card().name.to_owned(), position: 0, parts: Vec::new() }
    }

    /// The name of the variant.
    pub fn variant(&self) -> &str {
        &self.variant
    }

    /// Tokens that the state has taken up: the next call begins with the one after them. That is all of a call's, but for variants whose
    /// state ends with a complete block ([`Variant::absorbed`]).
    pub fn position(&self) -> usize {
        self.position
    }

    /// The parts by name: none before the first token.
    pub fn parts(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.parts.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The inputs of a call with this state's parts. Before the first token the caller may give parts of his own: an initial state.
    ///
    /// # Errors
    /// [`ErrorKind::Parameter`] for the state of another variant, or when `inputs` names a part that this state holds.
    pub fn feed(&self, variant: &dyn Variant, inputs: &Inputs) -> Result<Inputs> {
        let card = variant.card();
        if card.name != self.variant {
            let found = format!("one of {} after {} tokens", self.variant, self.position);
            return Err(Error::expected(ErrorKind::Parameter, card.name, "state", "a state of this variant", found));
        }
        let mut all = inputs.clone();
        for (name, tensor) in self.parts() {
            if inputs.get(name).is_some() {
                let expected = "no input of this name beside a state that holds it";
                return Err(Error::expected(ErrorKind::Parameter, card.name, name, expected, "both"));
            }
            all.insert(name, tensor.clone());
        }
        Ok(all)
    }

    /// Takes the parts that a call on `tokens` tokens left.
    ///
    /// # Errors
    /// [`ErrorKind::Parameter`] for outputs of a variant that has no state.
    pub fn advance(&mut self, variant: &dyn Variant, outputs: &Outputs, tokens: usize) -> Result<()> {
        let card = variant.card();
        let parts = parts(card);
        if parts.is_empty() {
            let message = format!("{}: has no state: none of its outputs is also an input", card.name);
            return Err(Error::new(ErrorKind::Parameter, message));
        }
        // An optional output that this call did not give leaves the part as it is.
        self.parts.retain(|(name, _)| outputs.get(name).is_err());
        for name in parts {
            self.parts.extend(outputs.get(name).ok().map(|tensor| (name.to_owned(), tensor.clone())));
        }
        self.position += variant.absorbed(tokens);
        Ok(())
    }
}

/// The outputs of a variant that the next call takes.
fn parts(card: &Card) -> Vec<&'static str> {
    card.outputs.iter().map(|o| o.name).filter(|name| card.input(name).is_some()).collect()
}

/// The letter that counts a variant's tokens.
pub(crate) fn tokens(card: &Card) -> &'static str {
    let has = |letter: &&str| card.inputs.iter().any(|i| i.shape.split_whitespace().any(|word| word == *letter));
    ["L", "Lk", "Lq"].into_iter().find(has).unwrap_or("L")
}

#[cfg(feature = "case-files")]
mod file {
    use super::{Error, ErrorKind, Result, State};
    use crate::case;
    use crate::runtime::Runtime;
    use std::collections::BTreeMap;

    impl State {
        /// The state as a safetensors file: parts by name; variant and position in the metadata.
        ///
        /// # Errors
        /// As [`Runtime::read`]; [`ErrorKind::File`].
        pub async fn save(&self, runtime: &Runtime) -> Result<Vec<u8>> {
            let mut parts = Vec::new();
            for (name, tensor) in self.parts() {
                parts.push((name, runtime.read(tensor).await?));
            }
            let metadata = BTreeMap::from([
                ("variant".to_owned(), self.variant.clone()),
                ("position".to_owned(), self.position.to_string()),
            ]);
            case::write(parts.iter().map(|(name, tensor)| (*name, tensor)), metadata)
        }

        /// The state that [`save`](State::save) wrote. Its parts are checked by the next step.
        ///
        /// # Errors
        /// [`ErrorKind::File`] when the bytes are no such file.
        pub fn load(bytes: &[u8]) -> Result<State> {
            let (tensors, metadata) = case::read(bytes)?;
            let bad = |what: &str| Error::new(ErrorKind::File, format!("state file: {what}"));
            let text = |key: &str| metadata.get(key).ok_or_else(|| bad(&format!("no `{key}` in its metadata")));
            let position = text("position")?.parse().map_err(|e| bad("its position is no number").caused_by(e))?;
            let parts = tensors.into_iter().map(|(name, tensor)| (name, (&tensor).into())).collect();
            Ok(State { variant: text("variant")?.clone(), position, parts })
        }
    }
}
