//! Composition: constants, arguments, bindings with their accessors, tables and hook chains, then whole files.
//!
//! The accessors and chains are the only generated code. Shader logic is never text in Rust: it branches on constants.

use super::{library, unroll};
use crate::caps::Tier;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::key::{Access, Buffer, Const, HookKey, KernelKey, Place, Point, ScalarType, TableKey};
use crate::tensor::DType;
use std::fmt::Write;

/// The WGSL text of a key: a pure function of it.
///
/// # Errors
/// [`ErrorKind::Shader`] when a file that the key names is not in the library.
pub fn compose(key: &KernelKey) -> Result<String> {
    let mut text = String::with_capacity(16 << 10);
    let out = &mut text;
    // Writing to a String cannot fail.
    if key.tier >= Tier::T1 {
        out.push_str("enable f16;\n");
    }
    if key.tier == Tier::T2 {
        out.push_str("enable wgpu_cooperative_matrix;\n");
    }
    let _ = write!(out, "// {}\n\nconst WORKGROUP: u32 = {}u;\n", key.label(), key.workgroup);
    for (name, value) in &key.consts {
        let _ = match value {
            Const::U32(n) => writeln!(out, "const {name}: u32 = {n}u;"),
            Const::Bool(b) => writeln!(out, "const {name}: bool = {b};"),
        };
    }
    out.push_str("\nstruct Args {\n    grid_x: u32,\n    first_group: u32,\n    end_group: u32,\n");
    for (name, kind) in &key.args {
        let _ = writeln!(out, "    {name}: {},", kind.wgsl());
    }
    out.push_str("}\n@group(0) @binding(0) var<uniform> args: Args;\n");
    for (n, (name, access)) in key.bindings().iter().enumerate() {
        let access = if *access == Access::Read { "read" } else { "read_write" };
        let _ = writeln!(
            out,
            "@group(0) @binding({}) var<storage, {access}> {name}_data: array<{}>;",
            n + 1,
            word(key, name)
        );
    }
    out.push('\n');
    for file in ["lib/at", "lib/half"].iter().chain(&key.imports) {
        out.push_str(file_text(file)?);
        out.push('\n');
    }
    key.buffers.iter().for_each(|buffer| accessors(out, buffer, key.tier >= Tier::T1));
    key.tables.iter().for_each(|table| table_accessor(out, table));
    key.hooks.iter().enumerate().for_each(|(n, hook)| hook_text(out, n, hook));
    chains(out, &key.hooks);
    if key.consts.iter().any(|(name, _)| *name == "SEGMENTS") {
        same_arguments(out, &key.hooks);
    }
    out.push('\n');
    out.push_str(file_text(key.entry)?);
    out.push_str(
        "\n@compute @workgroup_size(WORKGROUP)\n\
         fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {\n    \
         let group = args.first_group + id.x + id.y * args.grid_x;\n    if (group < args.end_group) {\n        kernel(group, lane);\n    }\n}\n",
    );
    Ok(if text.contains("// unroll") { unroll::unroll(&text, &key.consts) } else { text })
}

fn file_text(name: &str) -> Result<&'static str> {
    library::source(name).ok_or_else(|| Error::new(ErrorKind::Shader, format!("there is no shader file `{name}`")))
}

/// The element type a binding is declared with.
fn word(key: &KernelKey, name: &str) -> &'static str {
    let Some(buffer) = key.buffers.iter().find(|b| b.name == name) else {
        return "u32"; // `side` and tables of their own
    };
    match (buffer.element.dtype, buffer.element.vector) {
        (DType::F32, false) => "f32",
        (DType::F32, true) => "vec4<f32>",
        (DType::F16, true) if key.tier >= Tier::T1 => "vec4<f16>",
        (DType::F16, true) => "vec2<u32>",
        (DType::I32, _) => "i32",
        (DType::F16, false) | (DType::U8, _) => "u32",
    }
}

/// `NAME_load(i)`, `NAME_load4(base, d, width)`, `NAME_quad(base, d)` (four neighbours as halves, where f16 is native), `NAME_store(i, x)`,
/// `NAME_store4(base, d, width, x)`.
///
/// `base` is the position of a row, `d` an offset in it that is a multiple of four, `width` the row's length: what lies past it
/// reads as 0 and is not written.
fn accessors(out: &mut String, buffer: &Buffer, native: bool) {
    let half = buffer.element.dtype == DType::F16 && buffer.element.vector;
    let name = buffer.name;
    let data = format!("{name}_data");
    let scalar = if buffer.element.dtype == DType::I32 { "i32" } else { "f32" };
    let real = matches!(buffer.element.dtype, DType::F32 | DType::F16);
    let load = if !buffer.present {
        format!("return {scalar}();")
    } else {
        match (buffer.element.dtype, buffer.element.vector) {
            (DType::F32, true) => format!("return {data}[i >> 2u][i & 3u];"),
            (DType::F16, true) if native => format!("return f32({data}[i >> 2u][i & 3u]);"),
            (DType::F16, true) => format!("return unpack_half({data}[i >> 2u][(i >> 1u) & 1u], i);"),
            (DType::F16, false) => format!("return unpack_half({data}[i >> 1u], i);"),
            (DType::U8, _) => format!("return f32(unpack_byte({data}[i >> 2u], i));"),
            (DType::F32 | DType::I32, _) => format!("return {data}[i];"),
        }
    };
    let _ = writeln!(out, "fn {name}_load(i: u32) -> {scalar} {{ {load} }}");
    if real {
        let body = match (buffer.present, buffer.element.vector, buffer.element.dtype) {
            (false, ..) => "return vec4<f32>();".to_owned(),
            (_, true, DType::F32) => {
                format!("if (d < width) {{ return {data}[(base + d) >> 2u]; }} return vec4<f32>();")
            }
            (_, true, _) if native => {
                format!("if (d < width) {{ return vec4<f32>({data}[(base + d) >> 2u]); }} return vec4<f32>();")
            }
            (_, true, _) => {
                format!("if (d < width) {{ return unpack_half4({data}[(base + d) >> 2u]); }} return vec4<f32>();")
            }
            (_, false, _) => {
                let mut body = "var x = vec4<f32>();".to_owned();
                for n in 0..4 {
                    let _ = write!(body, " if (d + {n}u < width) {{ x[{n}] = {name}_load(base + d + {n}u); }}");
                }
                body + " return x;"
            }
        };
        let _ = writeln!(out, "fn {name}_load4(base: u32, d: u32, width: u32) -> vec4<f32> {{ {body} }}");
        raw(out, buffer, native);
    }
    if native && half {
        let body = format!("if (d < width) {{ return {data}[(base + d) >> 2u]; }} return vec4<f16>();");
        let _ = writeln!(out, "fn {name}_half4(base: u32, d: u32, width: u32) -> vec4<f16> {{ {body} }}");
    }
    if native && buffer.present && buffer.element.vector && matches!(buffer.element.dtype, DType::F16 | DType::F32) {
        // Without a branch, so that several are in flight: the caller keeps d below the width.
        let _ = writeln!(
            out,
            "fn {name}_quad(base: u32, d: u32) -> vec4<f16> {{ return vec4<f16>({data}[(base + d) >> 2u]); }}"
        );
    }
    // A read role shares its buffer with a written one when it is declared read_write: it still is not written.
    if buffer.access == Access::Write && matches!(buffer.element.dtype, DType::F32 | DType::I32) {
        let store = match (buffer.present, buffer.element.vector) {
            (false, _) => String::new(),
            (true, true) => format!("{data}[i >> 2u][i & 3u] = x;"),
            (true, false) => format!("{data}[i] = x;"),
        };
        let _ = writeln!(out, "fn {name}_store(i: u32, x: {scalar}) {{ {store} }}");
        if real {
            let body = match (buffer.present, buffer.element.vector) {
                (false, _) => String::new(),
                (true, true) => format!("if (d < width) {{ {data}[(base + d) >> 2u] = x; }}"),
                (true, false) => {
                    (0..4).map(|n| format!("if (d + {n}u < width) {{ {data}[base + d + {n}u] = x[{n}]; }} ")).collect()
                }
            };
            let _ = writeln!(out, "fn {name}_store4(base: u32, d: u32, width: u32, x: vec4<f32>) {{ {body} }}");
        }
    }
}

/// `NAME_raw`, four elements as they are stored; `NAME_raw4(base, d, width)` and, of vector elements only, `NAME_raw_at(i)` load them without a
/// branch where rows are vectors (past the end it is the last four again), and `NAME_real(x)` makes them f32 when they are used: until then they take fewer
/// registers.
fn raw(out: &mut String, buffer: &Buffer, native: bool) {
    let name = buffer.name;
    let vector = buffer.present && buffer.element.vector;
    let (kind, real) = match (vector, buffer.element.dtype) {
        (true, DType::F16) if native => ("vec4<f16>", "vec4<f32>(x)"),
        (true, DType::F16) => ("vec2<u32>", "unpack_half4(x)"),
        _ => ("vec4<f32>", "x"),
    };
    let (four, at) = if vector {
        (format!("{name}_data[(base + min(d, width - 4u)) >> 2u]"), format!("{name}_data[i]"))
    } else {
        (format!("{name}_load4(base, d, width)"), format!("{kind}()"))
    };
    let _ = writeln!(
        out,
        "alias {name}_raw = {kind};\nfn {name}_raw4(base: u32, d: u32, width: u32) -> {kind} {{ return {four}; }}\n\
         fn {name}_raw_at(i: u32) -> {kind} {{ return {at}; }}\nfn {name}_real(x: {kind}) -> vec4<f32> {{ return {real}; }}"
    );
}

/// `fn NAME(at: At) -> T`: the element of a table at a pair.
fn table_accessor(out: &mut String, table: &TableKey) {
    let name = &table.name;
    let result = table.result.wgsl();
    if table.place == Place::Absent {
        let _ = writeln!(out, "fn {name}(at: At) -> {result} {{ return {result}(); }}");
        return;
    }
    let data = if table.place == Place::Side { "side_data".to_owned() } else { format!("{name}_data") };
    let raw = match table.dtype {
        DType::F32 => format!("bitcast<f32>({data}[i])"),
        DType::I32 => format!("bitcast<i32>({data}[i])"),
        DType::F16 => format!("unpack_half({data}[i >> 1u], i)"),
        DType::U8 => format!("unpack_byte({data}[i >> 2u], i)"),
    };
    let value = if table.result == ScalarType::Bool { format!("({raw}) != 0") } else { format!("{result}({raw})") };
    let value = if table.result == ScalarType::Bool && table.dtype == DType::U8 { value + "u" } else { value };
    let _ = writeln!(
        out,
        "fn {name}(at: At) -> {result} {{\n    let i = args.{name}_offset + at.batch * args.{name}_b + at.head * args.{name}_h\n        \
         + at.row * args.{name}_i + u32(at.key) * args.{name}_j;\n    return {value};\n}}"
    );
}

/// The start of every other name in a user's hook.
pub(super) const USER_PREFIX: &str = "userfn_";

/// The hook's function under the name `hN_NAME`, so that two hooks of one name do not collide; what else a user's text defines is
/// called `hNf_...`.
fn hook_text(out: &mut String, n: usize, hook: &HookKey) {
    let from = format!("fn {}(", hook.name);
    let to = format!("fn h{n}_{}(", hook.name);
    let text = hook.source.replace(&from, &to).replace(USER_PREFIX, &format!("h{n}f_"));
    let bind = |text: String, name: &String| text.replace(&format!("lookup_{name}("), &format!("h{n}_{name}("));
    out.push_str(&hook.lookups.iter().fold(text, bind));
    out.push('\n');
}

/// `same_arguments`: whether the tables of the mask hooks hold the same at two places.
fn same_arguments(out: &mut String, hooks: &[HookKey]) {
    let tables = hooks.iter().filter(|h| h.point == Point::Mask).flat_map(|h| &h.args).filter(|(.., table)| *table);
    out.push_str("fn same_arguments(a: At, b: At) -> bool {\n    var same = true;\n");
    for (name, ..) in tables {
        let _ = writeln!(out, "    same = same && {name}(a) == {name}(b);");
    }
    out.push_str("    return same;\n}\n");
}

/// `score`, `mask`, `weight` and `feature`: the chains over the hooks of each point.
fn chains(out: &mut String, hooks: &[HookKey]) {
    let calls = |point: Point| hooks.iter().enumerate().filter(move |(_, h)| h.point == point);
    let rest = |hook: &HookKey| -> String {
        let arg = |(name, _, table): &(String, ScalarType, bool)| {
            if *table { format!(", {name}(at)") } else { format!(", args.{name}") }
        };
        hook.args.iter().map(arg).collect()
    };
    out.push_str("fn score(raw: f32, at: At) -> f32 {\n    var s = raw;\n");
    for (n, hook) in calls(Point::Score) {
        let _ = writeln!(out, "    s = h{n}_{}(s, at{});", hook.name, rest(hook));
    }
    out.push_str("    return s;\n}\nfn mask(at: At) -> bool {\n    var allowed = true;\n");
    for (n, hook) in calls(Point::Mask) {
        let _ = writeln!(out, "    allowed = allowed && h{n}_{}(at{});", hook.name, rest(hook));
    }
    out.push_str("    return allowed;\n}\nfn weight(s: f32, at: At) -> f32 {\n    var w = s;\n");
    for (n, hook) in calls(Point::Weight) {
        let _ = writeln!(out, "    w = h{n}_{}(w, at{});", hook.name, rest(hook));
    }
    out.push_str("    return w;\n}\nfn feature(raw: f32) -> f32 {\n    var x = raw;\n");
    for (n, hook) in calls(Point::Feature) {
        let args: String = hook.args.iter().map(|(name, ..)| format!(", args.{name}")).collect();
        let _ = writeln!(out, "    x = h{n}_{}(x{args});", hook.name);
    }
    out.push_str("    return x;\n}\n");
}
