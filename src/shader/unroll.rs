//! Unrolls the loops of a composed shader that are marked `// unroll`.
//!
//! naga writes every loop as `while (true)` with a break, and drivers do not promote an array to registers when its index is the counter of
//! such a loop. After unrolling every index is a constant. The source stays WGSL that an editor understands: the mark is a comment.

use crate::kernel::key::Const;
use std::collections::BTreeMap;

/// The text with each `for (var X = A; X < B; X++) { // unroll` replaced by its copies. Bounds are products, sums and quotients of numbers
/// and of `const` names; a loop whose bounds are not is left as it is.
pub(super) fn unroll(text: &str, consts: &[(&'static str, Const)]) -> String {
    let mut names: BTreeMap<String, u32> = BTreeMap::new();
    for (name, value) in consts {
        if let Const::U32(n) = value {
            names.insert((*name).to_owned(), *n);
        }
    }
    // const NAME: u32 = EXPRESSION; where a file may stand before those whose constants it uses.
    let declared: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("const ")?.split_once(": u32 ="))
        .filter_map(|(name, value)| Some((name, value.split(';').next()?)))
        .collect();
    loop {
        let known = names.len();
        for (name, value) in &declared {
            if let Some(n) = evaluate(value, &names) {
                names.insert((*name).to_owned(), n);
            }
        }
        if names.len() == known {
            break;
        }
    }
    split(&expand(text, &names), &names)
}

fn expand(text: &str, names: &BTreeMap<String, u32>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, header, after)) = find_loop(rest) {
        let Some((body, tail)) = split_body(after) else { break };
        out.push_str(before);
        match range(header, names) {
            Some((name, from, to)) => {
                for n in from..to {
                    out.push_str("{\n");
                    out.push_str(&expand(&replace_word(body, name, &format!("{n}u")), names));
                    out.push_str("}\n");
                }
            }
            None => {
                // The mark stays, for a test to see.
                out.push_str(header);
                out.push_str(" // unroll");
                out.push_str(&expand(body, names));
                out.push('}');
            }
        }
        rest = tail;
    }
    out + rest
}

/// Each `var X = array<T, N>(); // split` as N variables, and each `X[I]` of its block as the I-th of them. An array of matrices is an object
/// of its own for a driver, copied whole where control flow joins; variables are not.
fn split(text: &str, names: &BTreeMap<String, u32>) -> String {
    let Some(mark) = text.find("(); // split") else { return text.to_owned() };
    let declared = text[..mark].rfind("var ").and_then(|start| {
        let (name, array) = text[start + 4..mark].split_once(" = array<")?;
        let (kind, count) = array.strip_suffix('>')?.rsplit_once(',')?;
        Some((start, name, kind, evaluate(count, names)?))
    });
    let after = &text[mark + "(); // split".len()..];
    let Some((start, name, kind, count)) = declared else {
        return text[..text.len() - after.len()].to_owned() + &split(after, names);
    };
    let (body, tail) = split_body(after).map_or((after, ""), |(body, _)| after.split_at(body.len()));
    let variables: Vec<String> = (0..count).map(|n| format!("var {name}_{n} = {kind}();")).collect();
    let body = pick(body, name, names);
    text[..start].to_owned() + &variables.join(" ") + &split(&(body + tail), names)
}

/// `NAME[I]` as `NAME_i`.
fn pick(text: &str, name: &str, names: &BTreeMap<String, u32>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let opening = format!("{name}[");
    while let Some(at) = rest.find(&opening) {
        let index = &rest[at + opening.len()..];
        let word = rest[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '.');
        let place = index.find(']').and_then(|end| Some((end, evaluate(&index[..end], names)?)));
        match place {
            Some((end, n)) if !word => {
                out.push_str(&format!("{}{name}_{n}", &rest[..at]));
                rest = &index[end + 1..];
            }
            _ => {
                out.push_str(&rest[..at + opening.len()]);
                rest = index;
            }
        }
    }
    out + rest
}

/// Text before the first marked loop, its header up to the brace, and what follows the mark.
fn find_loop(text: &str) -> Option<(&str, &str, &str)> {
    let mark = text.find("{ // unroll")?;
    let start = text[..mark].rfind("for (")?;
    Some((&text[..start], &text[start..=mark], &text[mark + "{ // unroll".len()..]))
}

/// The body up to the brace that closes it, and the rest.
fn split_body(text: &str) -> Option<(&str, &str)> {
    let mut depth = 1;
    for (at, c) in text.char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 {
            return Some((&text[..at], &text[at + 1..]));
        }
    }
    None
}

/// Counter, first and end of `for (var X = A; X < B; X++) {`.
fn range<'a>(header: &'a str, names: &BTreeMap<String, u32>) -> Option<(&'a str, u32, u32)> {
    let mut parts = header.strip_prefix("for (var ")?.split(';');
    let (name, from) = parts.next()?.split_once(" = ")?;
    let (left, to) = parts.next()?.split_once('<')?;
    let step = parts.next()?.trim();
    if left.trim() != name || !step.starts_with(&format!("{name}++)")) {
        return None;
    }
    Some((name, evaluate(from, names)?, evaluate(to, names)?))
}

/// Sums of products, left to right, of numbers, names and parentheses around sums.
fn evaluate(text: &str, names: &BTreeMap<String, u32>) -> Option<u32> {
    let spaced = ["(", ")", "+", "-", "*", "/"].iter().fold(text.to_owned(), |t, op| t.replace(op, &format!(" {op} ")));
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let value = sum(&tokens, &mut at, names)?;
    (at == tokens.len()).then_some(value)
}

fn sum(tokens: &[&str], at: &mut usize, names: &BTreeMap<String, u32>) -> Option<u32> {
    let mut value = product(tokens, at, names)?;
    while let Some(op) = tokens.get(*at).filter(|t| matches!(**t, "+" | "-")) {
        *at += 1;
        let right = product(tokens, at, names)?;
        value = if *op == "+" { value.checked_add(right)? } else { value.checked_sub(right)? };
    }
    Some(value)
}

fn product(tokens: &[&str], at: &mut usize, names: &BTreeMap<String, u32>) -> Option<u32> {
    let mut value = atom(tokens, at, names)?;
    while let Some(op) = tokens.get(*at).filter(|t| matches!(**t, "*" | "/")) {
        *at += 1;
        let right = atom(tokens, at, names)?;
        value = if *op == "*" { value.checked_mul(right)? } else { value.checked_div(right)? };
    }
    Some(value)
}

fn atom(tokens: &[&str], at: &mut usize, names: &BTreeMap<String, u32>) -> Option<u32> {
    let token = *tokens.get(*at)?;
    *at += 1;
    if token == "(" {
        let value = sum(tokens, at, names)?;
        *at += 1;
        return (tokens.get(*at - 1) == Some(&")")).then_some(value);
    }
    names.get(token).copied().or_else(|| token.strip_suffix('u').unwrap_or(token).parse().ok())
}

fn replace_word(text: &str, word: &str, with: &str) -> String {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for (at, _) in text.match_indices(word) {
        let end = at + word.len();
        let before = text[..at].chars().next_back();
        let after = text[end..].chars().next();
        if before.is_some_and(|c| part(c) || c == '.') || after.is_some_and(part) {
            continue;
        }
        out.push_str(&text[done..at]);
        out.push_str(with);
        done = end;
    }
    out + &text[done..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_loops_become_copies() {
        let text = "const A: u32 = 2u;\nconst B: u32 = A * 2u - 3u;\nfor (var n = 0u; n < A; n++) { // unroll\n x[n] = n_max.n;\n}\n\
                    for (var m = B; m < (A + 1u); m++) { // unroll\n for (var n = 0u; n < B; n++) { // unroll\n y[m * A + n];\n}\n}";
        let got: String = unroll(text, &[]).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            got,
            "const A: u32 = 2u; const B: u32 = A * 2u - 3u; { x[0u] = n_max.n; } { x[1u] = n_max.n; } \
             { { y[1u * A + 0u]; } } { { y[2u * A + 0u]; } }"
        );
    }

    #[test]
    fn marked_arrays_become_variables() {
        let text = "const A: u32 = 2u;\n{ var x = array<T, A * 1u>(); // split\n x[0u] = x[A - 1u] + xx[0u] + b.x[0u];\n} x[1u];";
        let got: String = unroll(text, &[]).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(got, "const A: u32 = 2u; { var x_0 = T(); var x_1 = T(); x_0 = x_1 + xx[0u] + b.x[0u]; } x[1u];");
    }

    #[test]
    fn unmarked_loops_and_unknown_bounds_stay() {
        let text =
            "for (var n = 0u; n < args.x; n++) { // unroll\n f(n);\n}\nfor (var n = 0u; n < 2u; n++) {\n f(n);\n}";
        let got = unroll(text, &[]);
        assert_eq!(got.matches("for (").count(), 2);
    }
}
