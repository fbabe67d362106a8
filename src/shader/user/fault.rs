//! Errors in a user's text: line, column, the line itself with a caret, and a plain sentence.

use crate::error::{Error, ErrorKind};
use crate::kernel::key::Point;

/// The text that messages point into.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    pub point: Point,
    pub text: &'a str,
}

/// The hook's word: `score`.
pub(super) fn word(point: Point) -> &'static str {
    match point {
        Point::Score => "score",
        Point::Mask => "mask",
        Point::Weight => "weight",
        Point::Feature => "feature",
    }
}

impl Text<'_> {
    /// An error at a span; without one (or beyond the text, in what the check itself added) at the end of the text.
    pub fn fault(&self, span: Option<std::ops::Range<usize>>, sentence: impl AsRef<str>) -> Error {
        let end = self.text.trim_end().len();
        let span = span.filter(|s| s.start < end && s.start < s.end).unwrap_or(end..end + 1);
        let start = floor(self.text, span.start);
        let before = &self.text[..start];
        let line = before.matches('\n').count() + 1;
        let from = before.rfind('\n').map_or(0, |at| at + 1);
        let code = self.text[from..].lines().next().unwrap_or_default();
        let lead: String = before[from..].chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let marked = self.text[start..floor(self.text, span.end.min(from + code.len()).max(start))].chars().count();
        let message = format!(
            "{} hook, line {line}, column {}: {}\n{line:4} | {code}\n     | {lead}{}",
            word(self.point),
            lead.chars().count() + 1,
            sentence.as_ref(),
            "^".repeat(marked.max(1)),
        );
        Error::new(ErrorKind::Hook, message)
    }

    /// The same for a span of naga's.
    pub fn at(&self, span: naga::Span, sentence: impl AsRef<str>) -> Error {
        self.fault(span.to_range(), sentence)
    }

    /// What naga's parser found.
    pub fn parse(&self, error: &naga::front::wgsl::ParseError) -> Error {
        let mut labels = error.labels();
        let (span, label) = labels.next().map_or((None, ""), |(span, label)| (span.to_range(), label));
        let mut sentence = plain(error.message());
        if span.as_ref().is_some_and(|s| s.start >= self.text.len()) {
            sentence = match redefined(error.message()) {
                Some(name) => format!("`{name}` is defined already: it is a name of the hook's interface"),
                None => format!("the text ends too early ({sentence})"),
            };
            // The user's own definition is the second label, if any.
            let own = labels.find_map(|(span, _)| span.to_range().filter(|s| s.start < self.text.len()));
            return self.fault(own, sentence);
        }
        if !label.is_empty() && !sentence.contains(label) && label != "unknown identifier" {
            sentence += &format!(" ({label})");
        }
        for note in error.notes() {
            sentence += &format!("; {note}");
        }
        self.fault(span, sentence)
    }

    /// What naga's validator found.
    pub fn invalid(&self, error: &naga::WithSpan<naga::valid::ValidationError>) -> Error {
        let mut cause: &dyn std::error::Error = error.as_inner();
        let mut sentence = cause.to_string();
        while let Some(source) = cause.source() {
            cause = source;
            sentence = cause.to_string();
        }
        // The narrowest span is the last; the first is that of the function.
        let span = error.spans().filter_map(|(span, _)| span.to_range()).min_by_key(|s| s.end - s.start);
        self.fault(span, plain(&sentence))
    }
}

/// Messages that name the grammar's parts or the compiler's data, in words of a user.
fn plain(message: &str) -> String {
    let text = message.trim_end_matches('.');
    if let Some(name) = text.strip_prefix("no definition in scope for identifier: ") {
        return format!("there is no {name}");
    }
    if let Some(name) = text.strip_prefix("invalid field accessor ") {
        return format!("there is no member {name} (those of `At` are batch, head, row, query and key)");
    }
    if text.contains("does not match the declared return type") {
        return "the function does not return what its head promises (on every path)".into();
    }
    if text.starts_with("The `if` condition") {
        return "the condition of `if` is no bool".into();
    }
    if text.starts_with("Shader requires capability") {
        return "this is not offered in hooks".into();
    }
    if let Some((operation, operands)) = text.strip_prefix("Operation ").and_then(|t| t.split_once(" can't work with "))
    {
        let types: Vec<_> = operands.split("(of type ").skip(1).map(type_name).collect();
        return format!("{operation} of {}: convert one to the type of the other, as in `f32(x)`", types.join(" and "));
    }
    text.to_owned()
}

/// `vec2<f32>` for the compiler's `Vector { size: Bi, scalar: Scalar { kind: Float, ... } }`.
fn type_name(debug: &str) -> String {
    let kinds = [("Float", "f32"), ("Sint", "i32"), ("Uint", "u32"), ("Bool", "bool")];
    let scalar = kinds
        .iter()
        .find(|(kind, _)| debug.contains(&format!("kind: {kind}")))
        .map_or("another type", |(_, name)| name);
    let size =
        [("Bi", 2), ("Tri", 3), ("Quad", 4)].into_iter().find(|(size, _)| debug.contains(&format!("size: {size}")));
    size.map_or(scalar.to_owned(), |(_, n)| format!("vec{n}<{scalar}>"))
}

fn redefined(message: &str) -> Option<&str> {
    message.strip_prefix("redefinition of `")?.strip_suffix('`')
}

fn floor(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
