//! Users' hooks: what is refused and how it is said, names that must not meet, and what the text becomes.

mod common;

use std::fmt::Write;
use wgpu_attention::kernel::key::Point;
use wgpu_attention::{Along, DType, ErrorKind, Hooked, HostTensor, Inputs, Result, Runtime, UserHook, variant};

/// A title, and a text that is no hook.
const MISTAKES: &[(&str, Point, &str)] = &[
    ("misspelt name", Point::Score, "fn score(s: f32, at: At) -> f32 {\n    return s * skale;\n}"),
    ("missing semicolon", Point::Score, "fn score(s: f32, at: At) -> f32 {\n    let x = s * 2.0\n    return x;\n}"),
    ("missing brace", Point::Score, "fn score(s: f32, at: At) -> f32 {\n    return s;\n"),
    ("no function of that name", Point::Score, "fn my_score(s: f32, at: At) -> f32 { return s; }"),
    ("empty text", Point::Mask, "\n"),
    ("score without the pair", Point::Score, "fn score(s: f32) -> f32 { return s; }"),
    ("mask that takes a score", Point::Mask, "fn mask(s: f32, at: At) -> bool { return true; }"),
    ("mask that gives a number", Point::Mask, "fn mask(at: At) -> f32 { return 1.0; }"),
    ("nothing returned", Point::Score, "fn score(s: f32, at: At) -> f32 {\n    let x = s + 1.0;\n}"),
    (
        "not returned on every path",
        Point::Score,
        "fn score(s: f32, at: At) -> f32 {\n    if (at.key > 3) {\n        return s;\n    }\n}",
    ),
    ("integer times float", Point::Score, "fn score(s: f32, at: At) -> f32 {\n    return s * at.key;\n}"),
    ("u32 and i32", Point::Mask, "fn mask(at: At) -> bool {\n    return at.row >= at.key;\n}"),
    ("unknown member", Point::Mask, "fn mask(at: At) -> bool {\n    return at.q >= at.key;\n}"),
    ("a C conditional", Point::Score, "fn score(s: f32, at: At) -> f32 {\n    return s > 0.0 ? s : 0.0;\n}"),
    (
        "a number as a condition",
        Point::Score,
        "fn score(s: f32, at: At) -> f32 {\n    if (at.key) { return s; }\n    return 0.0;\n}",
    ),
    (
        "assignment to let",
        Point::Score,
        "fn score(s: f32, at: At) -> f32 {\n    let x = s;\n    x = 2.0;\n    return x;\n}",
    ),
    ("own At", Point::Mask, "struct At { key: i32 }\nfn mask(at: At) -> bool { return at.key > 0; }"),
    (
        "storage buffer",
        Point::Score,
        "@group(0) @binding(0) var<storage, read> bias: array<f32>;\nfn score(s: f32, at: At) -> f32 {\n    return s + bias[at.key];\n}",
    ),
    (
        "private variable",
        Point::Score,
        "var<private> count: i32;\nfn score(s: f32, at: At) -> f32 {\n    count += 1;\n    return s;\n}",
    ),
    ("workgroup barrier", Point::Score, "fn score(s: f32, at: At) -> f32 {\n    workgroupBarrier();\n    return s;\n}"),
    ("subgroup operation", Point::Score, "fn score(s: f32, at: At) -> f32 {\n    return s + subgroupAdd(s);\n}"),
    (
        "texture",
        Point::Score,
        "@group(0) @binding(0) var t: texture_2d<f32>;\nfn score(s: f32, at: At) -> f32 {\n    return textureLoad(t, vec2<i32>(), 0).x;\n}",
    ),
    (
        "atomic",
        Point::Score,
        "var<workgroup> n: atomic<u32>;\nfn score(s: f32, at: At) -> f32 {\n    atomicAdd(&n, 1u);\n    return s;\n}",
    ),
    (
        "entry point",
        Point::Score,
        "@compute @workgroup_size(64) fn main() {}\nfn score(s: f32, at: At) -> f32 { return s; }",
    ),
    ("half precision", Point::Score, "enable f16;\nfn score(s: f32, at: At) -> f32 { return f32(f16(s)); }"),
    (
        "table argument as array",
        Point::Score,
        "fn score(s: f32, at: At, slopes: array<f32, 8>) -> f32 {\n    return s * slopes[0];\n}",
    ),
    (
        "index that may be outside",
        Point::Score,
        "const T = array<f32, 4>(1.0, 2.0, 3.0, 4.0);\nfn score(s: f32, at: At) -> f32 {\n    return s * T[at.head];\n}",
    ),
    (
        "pointer argument",
        Point::Score,
        "fn add(x: ptr<function, f32>) { *x += 1.0; }\nfn score(s: f32, at: At) -> f32 {\n    var y = s;\n    add(&y);\n    return y;\n}",
    ),
    (
        "recursion",
        Point::Score,
        "fn f(x: f32) -> f32 { return f(x); }\nfn score(s: f32, at: At) -> f32 { return f(s); }",
    ),
    (
        "loops that multiply",
        Point::Score,
        "fn f(x: f32) -> f32 {\n    var y = x;\n    for (var i = 0; i < 9; i++) { y += 1.0; }\n    return y;\n}\nfn score(s: f32, at: At) -> f32 {\n    var y = s;\n    for (var i = 0; i < 9; i++) { y = f(y); }\n    return y;\n}",
    ),
    ("packing", Point::Score, "fn score(s: f32, at: At) -> f32 {\n    return unpack2x16float(u32(at.key)).x;\n}"),
    (
        "matrix",
        Point::Score,
        "fn score(s: f32, at: At) -> f32 {\n    let m = mat2x2<f32>(s, 0.0, 0.0, s);\n    return m[0].x;\n}",
    ),
    (
        "line with a tab and an umlaut",
        Point::Score,
        "fn score(s: f32, at: At) -> f32 {\n\t/* größer */ return größer;\n}",
    ),
];

#[test]
fn mistakes_are_told_with_line_and_column() {
    let mut text = String::new();
    for (title, point, wgsl) in MISTAKES {
        let name = match point {
            Point::Mask => "mask",
            _ => "score",
        };
        let error = UserHook::named(*point, name, wgsl).map(|hook| hook.source().to_owned()).expect_err(title);
        assert_eq!(error.kind(), ErrorKind::Hook, "{title}: {error}");
        let _ = writeln!(text, "## {title}\n{error}\n");
    }
    insta::assert_snapshot!("mistakes", text);
}

#[test]
fn canonical_text() {
    let text = "struct Pair { near: f32, far: f32 }\nconst LIMIT = 3;\nfn max(p: Pair) -> f32 { return p.near + p.far; }\n\
        fn score(s: f32, at: At, exp: f32) -> f32 {\n    let args = at.query - at.key;\n    var select: Pair;\n    \
        select.near = min(s, exp);\n    for (var i = 0; i < LIMIT && i < args; i++) { select.far += 1.0; }\n    return max(select);\n}";
    let hook = UserHook::score(text).expect("a hook");
    insta::assert_snapshot!("canonical", hook.source());
}

#[test]
fn arguments_that_do_not_fit() {
    let mut text = String::new();
    let mut add = |title: &str, result: Result<()>| {
        let error = result.expect_err(title);
        let _ = writeln!(text, "## {title}\n{:?}: {error}\n", error.kind());
    };
    let hook =
        || UserHook::score("fn score(s: f32, at: At, slope: f32, kind: i32, on: bool) -> f32 { return s * slope; }");
    let t = |shape: &[usize]| HostTensor::zeros(shape);
    let flags = |shape: &[usize]| HostTensor::zeros_of(DType::U8, shape);
    let complete = || hook()?.with("slope", 1.0_f32)?.with("kind", 2)?.with("on", (&flags(&[5]), Along::Keys));
    let plan = |hook: UserHook, variant: &str| -> Result<()> {
        let variant = Hooked::new(variant::find(variant)?.make(&[])?).hook(hook);
        let inputs = Inputs::new().with("q", t(&[1, 4, 6, 8])).with("k", t(&[1, 2, 5, 8])).with("v", t(&[1, 2, 5, 8]));
        Runtime::cpu().plan(&variant, &inputs).map(|_| ())
    };
    let dense = "dense-attention";
    add("unknown argument", hook().and_then(|h| h.with("slop", 1.0_f32)).map(|_| ()));
    add("number of another type", hook().and_then(|h| h.with("kind", 1.0_f32)).map(|_| ()));
    add("number for a bool", hook().and_then(|h| h.with("on", 1_u32)).map(|_| ()));
    add("tensor of another type", hook().and_then(|h| h.with("kind", (&t(&[4]), Along::Heads))).map(|_| ()));
    add("no value", hook().and_then(|h| plan(h, dense)));
    add("wrong number of heads", complete().and_then(|h| plan(h.with("slope", (&t(&[3]), Along::Heads))?, dense)));
    add("wrong number of keys", complete().and_then(|h| plan(h.with("on", (&flags(&[6]), Along::Keys))?, dense)));
    add("wrong number of queries", complete().and_then(|h| plan(h.with("slope", (&t(&[5]), Along::Queries))?, dense)));
    add("no pairs", complete().and_then(|h| plan(h.with("slope", (&t(&[5, 6]), Along::Pairs))?, dense)));
    add("rank", complete().and_then(|h| plan(h.with("slope", (&t(&[1, 4, 1]), Along::Heads))?, dense)));
    add("missing input", complete().and_then(|h| plan(h.with("slope", ("slopes", Along::Heads))?, dense)));
    let weight = || UserHook::weight("fn weight(s: f32, at: At) -> f32 { return s; }");
    add("weight of a softmax", weight().and_then(|h| plan(h, dense)));
    let feature = || UserHook::feature("fn feature(x: f32) -> f32 { return x; }");
    add("feature without a map", feature().and_then(|h| plan(h, dense)));
    let unknown = Inputs::new().with("q", t(&[1, 1, 2, 2])).with("other", t(&[1]));
    let variant =
        || Ok(Hooked::new(variant::find(dense)?.make(&[])?).hook(hook()?.with("slope", ("slopes", Along::Heads))?));
    add("unknown input", variant().and_then(|v| Runtime::cpu().plan(&v, &unknown).map(|_| ())));
    insta::assert_snapshot!("arguments", text);
}
