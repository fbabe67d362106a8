//! `Problem`: the one place that validates shapes and element types, from the words on a variant's card.

use crate::error::{Error, ErrorKind, Result};
use crate::params::Value;
use crate::tensor::DType;
use crate::variant::{Card, Family, InputSpec, Variant};
use std::collections::BTreeMap;

/// Shape and element type of one input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
}

/// The sizes of one call: letters, inputs and parameters, all found consistent.
#[derive(Clone, Debug)]
pub struct Problem {
    card: &'static Card,
    sizes: BTreeMap<String, usize>,
    inputs: BTreeMap<String, Spec>,
}

/// A term of a shape in words.
#[derive(Clone, Debug, PartialEq)]
enum Term {
    Size(String),
    Number(usize),
    Plus(Box<Term>, usize),
    /// Of two lengths; that of an input which is absent is 0.
    Sum(Box<Term>, Box<Term>),
    Minus(Box<Term>, usize),
    Times(Box<Term>, Box<Term>),
    /// In parentheses: the usual size, which the variant checks itself.
    Usual(Box<Term>),
    Floor(Box<Term>, Box<Term>),
    Ceil(Box<Term>, Box<Term>),
    Min(Box<Term>, Box<Term>),
}

impl Problem {
    /// Checks the inputs of a call against the variant's card.
    ///
    /// # Errors
    /// [`ErrorKind::MissingInput`], [`ErrorKind::UnknownName`], [`ErrorKind::Shape`] and [`ErrorKind::DType`].
    pub fn new<'a>(variant: &dyn Variant, inputs: impl IntoIterator<Item = (&'a str, Spec)>) -> Result<Self> {
        let card = variant.card();
        let inputs: BTreeMap<String, Spec> = inputs.into_iter().map(|(n, s)| (n.to_owned(), s)).collect();
        let more = variant.more_inputs();
        if let Some(name) = inputs.keys().find(|name| card.input(name).is_none() && !more.contains(name)) {
            let known: Vec<_> = card.inputs.iter().map(|i| i.name).chain(more.iter().map(String::as_str)).collect();
            return Err(Error::new(
                ErrorKind::UnknownName,
                format!("{}: no input is called `{name}`; it has {}", card.name, known.join(", ")),
            ));
        }
        let mut problem = Problem { card, sizes: parameter_sizes(variant), inputs };
        problem.bind()?;
        Ok(problem)
    }

    /// The problem of given letters, with the required inputs and the optional ones listed. `Hk`, `Lk`, `L` and `Dv` default to
    /// `H`, `Lq`, `Lq` and `D`.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] when a letter is missing or the sizes do not fit.
    pub fn from_sizes(variant: &dyn Variant, sizes: &[(String, usize)], half: bool, optional: &[&str]) -> Result<Self> {
        let card = variant.card();
        let mut known = parameter_sizes(variant);
        known.extend(sizes.iter().cloned());
        for (letter, like) in
            [("Lq", "L"), ("Hk", "H"), ("Lk", "Lq"), ("L", "Lq"), ("Dv", "D"), ("Tq", "Lq"), ("Tk", "Lk"), ("Ns", "B")]
        {
            if let (None, Some(&n)) = (known.get(letter), known.get(like)) {
                known.insert(letter.to_owned(), n);
            }
        }
        let mut inputs = Vec::new();
        for input in card.inputs.iter().filter(|i| !i.optional || optional.contains(&i.name)) {
            let words = input.shape.split('|').next().unwrap_or_default();
            let shape = parse(words.trim().trim_start_matches("broadcastable to"))
                .iter()
                .map(|term| {
                    term.value(&known).ok_or_else(|| {
                        Error::new(
                            ErrorKind::Shape,
                            format!("{}: `{}` is {words}: a size in it is not given", card.name, input.name),
                        )
                    })
                })
                .collect::<Result<_>>()?;
            let dtype = if half && input.half { DType::F16 } else { input.dtype };
            inputs.push((input.name, Spec { dtype, shape }));
        }
        Self::new(variant, inputs)
    }

    /// The variant's name, the subject of messages.
    pub fn subject(&self) -> &'static str {
        self.card.name
    }

    /// The variant's card.
    pub fn card(&self) -> &'static Card {
        self.card
    }

    /// The size a letter stands for. A letter that the inputs present do not bind is 1.
    pub fn size(&self, letter: &str) -> usize {
        self.sizes.get(letter).copied().unwrap_or(1)
    }

    /// Whether the optional input `name` is present.
    pub fn has(&self, name: &str) -> bool {
        self.inputs.contains_key(name)
    }

    /// Shape and element type of an input that is present.
    pub fn input(&self, name: &str) -> Option<&Spec> {
        self.inputs.get(name)
    }

    /// The inputs present.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, &Spec)> {
        self.inputs.iter().map(|(n, s)| (n.as_str(), s))
    }

    /// The sizes that shape words stand for.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] when a letter is not bound.
    pub fn shape(&self, words: &str) -> Result<Vec<usize>> {
        parse(words)
            .iter()
            .map(|term| {
                term.value(&self.sizes).ok_or_else(|| {
                    Error::new(ErrorKind::Shape, format!("{}: a size in `{words}` is not known", self.card.name))
                })
            })
            .collect()
    }

    /// A refusal that names the variant and the argument.
    pub fn refuse(&self, kind: ErrorKind, argument: &str, expected: impl ToString, found: impl ToString) -> Error {
        Error::expected(kind, self.card.name, argument, expected.to_string(), found.to_string())
    }

    fn bind(&mut self) -> Result<()> {
        let card = self.card;
        if card.family == Family::Linear {
            let heads = |name: &&InputSpec| self.inputs.get(name.name).and_then(|s| s.shape.get(1).copied());
            if let Some(most) = card.inputs.iter().filter(|i| i.half).filter_map(|i| heads(&i)).max() {
                self.sizes.insert("H".into(), most);
            }
        }
        for input in card.inputs {
            let Some(spec) = self.inputs.get(input.name).cloned() else {
                if input.optional {
                    continue;
                }
                return Err(Error::new(
                    ErrorKind::MissingInput,
                    format!("{}: the input `{}` ({}) is missing", card.name, input.name, input.shape),
                ));
            };
            if spec.dtype != input.dtype && !(input.half && spec.dtype == DType::F16) {
                let expected = if input.half { "F32 or F16" } else { input.dtype.name() };
                return Err(self.refuse(ErrorKind::DType, input.name, expected, spec.dtype.name()));
            }
            if spec.shape.contains(&0) {
                return Err(self.refuse(
                    ErrorKind::Shape,
                    input.name,
                    "sizes of 1 or more",
                    format!("{:?}", spec.shape),
                ));
            }
            self.bind_input(input, &spec)?;
        }
        let (q, k) = (self.inputs.get("q"), self.inputs.get("k"));
        if let (Some(q), Some(k)) = (q, k)
            && q.dtype != k.dtype
        {
            return Err(self.refuse(ErrorKind::DType, "k", format!("{} like `q`", q.dtype.name()), k.dtype.name()));
        }
        Ok(())
    }

    fn bind_input(&mut self, input: &InputSpec, spec: &Spec) -> Result<()> {
        let mut failure = None;
        for words in input.shape.split('|').map(str::trim) {
            let bound = match words.strip_prefix("broadcastable to ") {
                Some(full) => self.broadcasts(input, full, spec).map(|()| self.sizes.clone()),
                None => self.try_bind(input, words, spec),
            };
            match bound {
                Ok(sizes) => {
                    self.sizes = sizes;
                    return Ok(());
                }
                // Of several alternatives the one with the right rank tells most.
                Err(error) if failure.is_none() || parse(words).len() == spec.shape.len() => failure = Some(error),
                Err(_) => {}
            }
        }
        Err(failure
            .unwrap_or_else(|| self.refuse(ErrorKind::Shape, input.name, input.shape, format!("{:?}", spec.shape))))
    }

    fn broadcasts(&self, input: &InputSpec, words: &str, spec: &Spec) -> Result<()> {
        let full = self.shape(words)?;
        let missing = full.len().checked_sub(spec.shape.len());
        if missing.is_some_and(|m| spec.shape.iter().zip(&full[m..]).all(|(&n, &want)| n == 1 || n == want)) {
            return Ok(());
        }
        let (expected, found) = (format!("a shape that broadcasts to {full:?}"), format!("{:?}", spec.shape));
        Err(self.refuse(ErrorKind::Shape, input.name, expected, found))
    }

    fn try_bind(&self, input: &InputSpec, words: &str, spec: &Spec) -> Result<BTreeMap<String, usize>> {
        let terms = parse(words);
        let fail = |expected: String, found: String| self.refuse(ErrorKind::Shape, input.name, expected, found);
        if terms.len() != spec.shape.len() {
            let expected = format!("rank {} ({words})", terms.len());
            return Err(fail(expected, format!("rank {} {:?}", spec.shape.len(), spec.shape)));
        }
        let mut sizes = self.sizes.clone();
        for (term, &n) in terms.iter().zip(&spec.shape) {
            match term {
                Term::Size(letter) if matches!(letter.as_str(), "H" | "Hk") && self.card.family == Family::Linear => {
                    let heads = sizes.get("H").copied().unwrap_or(n);
                    if heads % n != 0 || (!input.half && heads != n) {
                        return Err(fail(format!("a number of heads that divides H = {heads}"), format!("{n}")));
                    }
                    // Where no q, k or v tells.
                    sizes.entry("H".into()).or_insert(heads);
                }
                Term::Usual(_) => {}
                Term::Size(letter) => match sizes.get(letter) {
                    Some(&bound) if bound != n => {
                        return Err(fail(format!("{letter} = {bound} in {words}"), format!("{n} in {:?}", spec.shape)));
                    }
                    Some(_) => {}
                    None => {
                        sizes.insert(letter.clone(), n);
                    }
                },
                Term::Plus(inner, more) if inner.value(&sizes).is_none() => match &**inner {
                    Term::Size(letter) if n >= *more => {
                        sizes.insert(letter.clone(), n - more);
                    }
                    _ => return Err(fail(words.to_owned(), format!("{:?}", spec.shape))),
                },
                other => {
                    if let Some(want) = other.value(&sizes)
                        && want != n
                    {
                        return Err(fail(format!("{want} in {words}"), format!("{n} in {:?}", spec.shape)));
                    }
                }
            }
        }
        if let (Some(&h), Some(&hk)) = (sizes.get("H"), sizes.get("Hk"))
            && h % hk != 0
        {
            return Err(Error::new(
                ErrorKind::Shape,
                format!("{}: `{}` has {hk} heads; H = {h} must be a multiple of Hk", self.card.name, input.name),
            ));
        }
        Ok(sizes)
    }
}

/// Whole-number parameters are sizes too: `min(topk, Lk)`.
fn parameter_sizes(variant: &dyn Variant) -> BTreeMap<String, usize> {
    let number = |(name, value): (&str, Value)| match value {
        Value::Int(i) => usize::try_from(i).ok().map(|n| (name.to_owned(), n)),
        _ => None,
    };
    variant.parameters().into_iter().filter_map(number).collect()
}

impl Term {
    fn value(&self, sizes: &BTreeMap<String, usize>) -> Option<usize> {
        Some(match self {
            Term::Size(letter) => *sizes.get(letter)?,
            Term::Number(n) => *n,
            Term::Plus(a, n) => a.value(sizes)? + n,
            Term::Sum(a, b) => match (a.value(sizes), b.value(sizes)) {
                (None, None) => return None,
                (a, b) => a.unwrap_or(0) + b.unwrap_or(0),
            },
            Term::Minus(a, n) => a.value(sizes)?.checked_sub(*n)?,
            Term::Usual(a) => a.value(sizes)?,
            Term::Times(a, b) => a.value(sizes)?.checked_mul(b.value(sizes)?)?,
            Term::Floor(a, b) => a.value(sizes)?.checked_div(b.value(sizes)?)?,
            Term::Ceil(a, b) => {
                let b = b.value(sizes)?;
                (b > 0).then(|| a.value(sizes).map(|a| a.div_ceil(b)))??
            }
            Term::Min(a, b) => a.value(sizes)?.min(b.value(sizes)?),
        })
    }
}

/// The terms of a shape in words; blanks inside parentheses do not separate.
fn parse(words: &str) -> Vec<Term> {
    let mut terms = vec![String::new()];
    let mut depth = 0;
    for c in words.trim().chars() {
        match c {
            ' ' if depth == 0 => terms.push(String::new()),
            ' ' => {}
            _ => {
                depth += i32::from(c == '(') - i32::from(c == ')');
                if let Some(last) = terms.last_mut() {
                    last.push(c);
                }
            }
        }
    }
    terms.iter().filter(|t| !t.is_empty()).map(|t| term(t)).collect()
}

fn term(text: &str) -> Term {
    let pair = |inner: &str| -> Option<(Box<Term>, Box<Term>)> {
        let mut depth = 0;
        let comma = inner.char_indices().find_map(|(i, c)| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            (c == ',' && depth == 0).then_some(i)
        })?;
        Some((Box::new(term(&inner[..comma])), Box::new(term(&inner[comma + 1..]))))
    };
    let call = |name: &str| text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')').and_then(pair);
    if let Some((a, b)) = call("ceil") {
        Term::Ceil(a, b)
    } else if let Some((a, b)) = call("min") {
        Term::Min(a, b)
    } else if let Some((a, b)) = text.split_once("//") {
        Term::Floor(Box::new(term(a)), Box::new(term(b)))
    } else if let Some((a, n)) = text.split_once('+').and_then(|(a, n)| Some((a, n.parse().ok()?))) {
        Term::Plus(Box::new(term(a)), n)
    } else if let Some((a, b)) = text.split_once('+').filter(|_| !text.contains('(')) {
        Term::Sum(Box::new(term(a)), Box::new(term(b)))
    } else if let Some((a, n)) = text.split_once('-').and_then(|(a, n)| Some((a, n.parse().ok()?))) {
        Term::Minus(Box::new(term(a)), n)
    } else if let Some(inner) = text.strip_prefix('(').and_then(|t| t.strip_suffix(')')) {
        Term::Usual(Box::new(term(inner)))
    } else if let Some((a, b)) = text.split_once('+') {
        Term::Sum(Box::new(term(a)), Box::new(term(b)))
    } else if let Some((a, b)) = text.split_once('*') {
        Term::Times(Box::new(term(a)), Box::new(term(b)))
    } else {
        text.parse().map_or_else(|_| Term::Size(text.to_owned()), Term::Number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_evaluate() {
        let sizes = BTreeMap::from([("Lk".to_owned(), 10), ("topk".to_owned(), 4), ("b".to_owned(), 3)]);
        let value = |text: &str| parse(text).iter().map(|t| t.value(&sizes)).collect::<Vec<_>>();
        assert_eq!(value("Lk min(topk,Lk) ceil(Lk,b) Lk//b b+1"), [10, 4, 4, 3, 4].map(Some));
        assert_eq!(value("min(topk,ceil(Lk, b))"), [Some(4)]);
        assert_eq!(value("2*b b*Lk (2*Lk) b-1"), [6, 30, 20, 2].map(Some));
        assert_eq!(value("unknown unknown+b b+Lk unknown+other"), [None, Some(3), Some(13), None]);
        assert_eq!(value("(Lk+b-1)//b"), [Some(4)]);
    }
}
