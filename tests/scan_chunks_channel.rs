//! Records of chunks with a decay a channel against their definition in f64: one dispatch of the composed shader, without plan and self-test.
//! Runs on adapters that have cooperative matrices; elsewhere it says so.

mod common;

use common::{matrix_engines, random};
use wgpu_attention::caps::{Caps, Target, Tier};
use wgpu_attention::kernel::key::{Access, Launch, Place, ScalarType};
use wgpu_attention::kernel::scan::{Chunks, Decay};
use wgpu_attention::kernel::{Io, Kernel, Meta, TableMeta};
use wgpu_attention::{DType, Engine, HostData, HostTensor, Layout, shader, wgpu};

const CHUNK: usize = 32;
const SCALE: f64 = 0.3;

/// Inputs as the tensors that the kernel reads.
struct Call {
    delta: bool,
    heads: usize,
    q: HostTensor,
    k: HostTensor,
    g: HostTensor,
    keep: Option<HostTensor>,
    w: Option<HostTensor>,
}

impl Call {
    fn new(delta: bool, [batch, heads, shared, tokens, depth]: [usize; 5]) -> Self {
        let g = random(&[batch, shared, tokens, depth], 3).to_f32();
        Call {
            delta,
            heads,
            q: random(&[batch, heads, tokens, depth], 1).to_f16(),
            k: HostTensor::new(&[batch, shared, tokens, depth], unit(&random(&[batch, shared, tokens, depth], 2)))
                .expect("keys")
                .to_f16(),
            g: HostTensor::from_fn(&[batch, shared, tokens, depth], |n| -0.2 * g[n].abs()),
            keep: None,
            w: None,
        }
    }

    fn sizes(&self) -> [usize; 5] {
        let &[batch, _, tokens, depth] = self.k.shape() else { unreachable!() };
        [batch, self.heads, tokens, depth, depth.next_power_of_two().max(CHUNK)]
    }

    /// Every third token of no head is kept; what it holds is NaN.
    fn masked(mut self) -> Self {
        let [batch, heads, tokens, depth, _] = self.sizes();
        let kept = |b: usize, token: usize| (token + b) % 3 != 1;
        let flags: Vec<u8> = (0..batch * tokens).map(|n| u8::from(kept(n / tokens, n % tokens))).collect();
        self.keep = Some(HostTensor::new(&[batch, 1, tokens, 1], flags).expect("flags"));
        let shared = self.k.shape()[1];
        let spoil = |x: &HostTensor, heads: usize, width: usize| {
            let data = x.to_f32();
            HostTensor::from_fn(x.shape(), |n| {
                let token = n / width % tokens;
                if kept(n / width / tokens / heads, token) { data[n] } else { f32::NAN }
            })
        };
        self.k = spoil(&self.k, shared, depth).to_f16();
        self.g = spoil(&self.g, shared, depth);
        self.w = self.w.map(|w| spoil(&w, heads, 1));
        self
    }

    fn weighted(mut self) -> Self {
        let [batch, heads, tokens, ..] = self.sizes();
        let w = random(&[batch, heads, tokens, 1], 4).to_f32();
        self.w = Some(HostTensor::from_fn(&[batch, heads, tokens, 1], |n| 1.0 / (1.0 + w[n].exp())));
        self
    }

    fn kernel(&self) -> Chunks {
        Chunks::new(Decay::Channel, self.delta, SCALE as f32)
    }

    fn io(&self) -> Io {
        let [batch, heads, tokens, _, padded] = self.sizes();
        let (count, square) = (tokens.div_ceil(CHUNK), CHUNK * CHUNK);
        let record = if self.delta { 3 * CHUNK * padded + 2 * square } else { 2 * CHUNK * padded + square };
        let meta = |dtype, shape: &[usize]| Meta { dtype, layout: Layout::contiguous(shape) };
        let of = |x: &HostTensor| meta(x.dtype(), x.shape());
        let table = |name: &str, result, x: &HostTensor| {
            let layout = x.layout().broadcast(&[batch, heads, tokens, 1]).expect("a table");
            TableMeta { name: name.into(), result, place: Place::Own, meta: Meta { dtype: x.dtype(), layout } }
        };
        Io {
            roles: vec![
                ("q", of(&self.q)),
                ("k", of(&self.k)),
                ("g", of(&self.g)),
                ("chunks", meta(DType::F16, &[batch, heads, count, record])),
                ("marks", meta(DType::F32, &[batch, heads, count, 2 * padded + CHUNK])),
            ],
            tables: (self.keep.iter().map(|x| table("keep", ScalarType::Bool, x)))
                .chain(self.w.iter().map(|x| table("w", ScalarType::F32, x)))
                .collect(),
            hooks: Vec::new(),
        }
    }

    /// The records and marks that a device makes.
    fn run(&self, device: &wgpu::Device, queue: &wgpu::Queue, caps: &Caps) -> [Vec<f64>; 2] {
        let io = self.io();
        let launch = self.kernel().launch(&io, caps).expect("a launch");
        assert_eq!(launch.key.entry, "scan/chunks_channel");
        let data = |name: &str| match name {
            "q" => Some(&self.q),
            "k" => Some(&self.k),
            "g" => Some(&self.g),
            "keep" => self.keep.as_ref(),
            "w" => self.w.as_ref(),
            _ => None,
        };
        let (size, usage) = (|role: &str| io.get(role).layout.len() as u64, wgpu::BufferUsages::STORAGE);
        let mut outputs = Vec::new();
        let mut buffers = vec![buffer(device, &arguments(&launch), wgpu::BufferUsages::UNIFORM)];
        for (name, access) in launch.key.bindings() {
            buffers.push(match data(&name) {
                Some(x) => buffer(device, x.data().bytes(), usage),
                None => {
                    assert_eq!(access, Access::Write, "{name}");
                    let bytes = size(&name) * if name == "chunks" { 2 } else { 4 };
                    // NaN, so that what is not written is seen.
                    let made = buffer(device, &vec![0xff; bytes as usize], usage | wgpu::BufferUsages::COPY_SRC);
                    outputs.push(made.clone());
                    made
                }
            });
        }
        let module = wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(shader::compose(&launch.key).expect("a text").into()),
        };
        // SAFETY: as in the library. Checks would only make the driver's work longer.
        let module = unsafe { device.create_shader_module_trusted(module, wgpu::ShaderRuntimeChecks::unchecked()) };
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        let entries: Vec<_> = (0..)
            .zip(&buffers)
            .map(|(n, b)| wgpu::BindGroupEntry { binding: n, resource: b.as_entire_binding() })
            .collect();
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let mut encoder = device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(launch.groups as u32, 1, 1);
        }
        let staging = |from: &wgpu::Buffer| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: from.size(),
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        let read: Vec<_> = outputs.iter().map(staging).collect();
        outputs.iter().zip(&read).for_each(|(from, to)| encoder.copy_buffer_to_buffer(from, 0, to, 0, from.size()));
        queue.submit([encoder.finish()]);
        read.iter().for_each(|b| b.slice(..).map_async(wgpu::MapMode::Read, |r| r.expect("mapped")));
        device.poll(wgpu::PollType::wait_indefinitely()).expect("a device that ends");
        let numbers = |n: usize, dtype| {
            let data = HostData::from_bytes(dtype, &read[n].slice(..).get_mapped_range().expect("bytes"));
            (0..data.len()).map(|i| data.get(i)).collect()
        };
        [numbers(0, DType::F16), numbers(1, DType::F32)]
    }

    /// Compares every number of what was made with the definition.
    fn check(&self, title: &str, side: usize, [records, marks]: &[Vec<f64>; 2]) {
        let [batch, heads, tokens, _, padded] = self.sizes();
        let count = tokens.div_ceil(CHUNK);
        let groups = batch * heads * count;
        let (record, mark) = (records.len() / groups, marks.len() / groups);
        for n in 0..groups {
            let place = format!("{title}: record {n}");
            let want = self.chunk(n / count / heads, n / count % heads, n % count * CHUNK);
            let mut halves = &records[n * record..][..record];
            let marks = &marks[n * mark..][..mark];
            let mut part = |rows: usize, columns: usize| {
                let (own, rest) = halves.split_at(rows * columns);
                halves = rest;
                let at = move |i: usize, j: usize| {
                    ((i / side * (columns / side) + j / side) * side + i % side) * side + j % side
                };
                (0..rows * columns).map(|n| own[at(n / columns, n % columns)]).collect::<Vec<f64>>()
            };
            let same = |what: &str, got: &[f64], want: &Part| {
                for (i, got) in got.iter().enumerate() {
                    let (x, budget) = (want.value[i], 1.2e-3 * want.terms[i] + 2e-6);
                    assert!((got - x).abs() <= budget, "{place}: {what}[{i}] is {got}, not {x} (within {budget})");
                }
            };
            let (query, turned, pairs) = (part(CHUNK, padded), part(padded, CHUNK), part(CHUNK, CHUNK));
            same("query", &query, &want.query);
            same("key", &turned, &want.turned);
            same("pairs", &pairs, &want.pairs);
            if self.delta {
                same("erased key", &part(CHUNK, padded), &want.erased);
                same("solution", &part(CHUNK, CHUNK), &want.solved);
            }
            let close = |what: &str, got: f64, want: f64, of: f64| {
                assert!((got - want).abs() <= 3e-5 * of, "{place}: {what} is {got}, not {want}");
            };
            for d in 0..padded {
                close("decay", marks[d], want.decay[d], want.decay[d] + 1e-30);
                let row = &turned[d * CHUNK..][..CHUNK];
                // A driver may sum what it has before it rounds.
                let of = row.iter().map(|x| x.abs()).sum::<f64>() + 1e-6;
                close("key sum", marks[padded + d], row.iter().sum(), 20.0 * of);
            }
            for i in 0..CHUNK {
                let row = &pairs[i * CHUNK..][..CHUNK];
                let of = row.iter().map(|x| x.abs()).sum::<f64>() + 1e-6;
                close("pair sum", marks[2 * padded + i], row.iter().sum(), 20.0 * of);
            }
        }
    }

    /// The definition of one record.
    fn chunk(&self, b: usize, h: usize, first: usize) -> Wanted {
        let [_, heads, tokens, depth, padded] = self.sizes();
        let row = |x: &HostTensor, i: usize, d: usize| {
            let (token, own) = (first + i, x.shape()[1]);
            if token >= tokens || d >= depth {
                0.0
            } else {
                x.data().get(x.layout().at(&[b, h / (heads / own), token, d]))
            }
        };
        let flag = |x: &HostTensor, i: usize| x.data().get(x.layout().at(&[b, h % x.shape()[1], first + i, 0]));
        let kept = |i: usize| first + i < tokens && self.keep.as_ref().is_none_or(|x| flag(x, i) != 0.0);
        let w = |i: usize| match &self.w {
            _ if !kept(i) => 0.0,
            Some(w) => flag(w, i),
            None => 1.0,
        };
        let k = |i: usize, d: usize| if kept(i) { row(&self.k, i, d) } else { 0.0 };
        let g = |i: usize, d: usize| if kept(i) { row(&self.g, i, d).max(-120.0) } else { 0.0 };
        // e^{G_i - G_j}
        let between = |j: usize, i: usize, d: usize| (j + 1..=i).map(|l| g(l, d)).sum::<f64>().exp();
        let from_start = |i: usize, d: usize| (0..=i).map(|l| g(l, d)).sum::<f64>().exp();
        let out = |j: usize| if self.delta { 1.0 } else { w(j) };
        let matrix = |rows: usize, columns: usize, of: &dyn Fn(usize, usize) -> [f64; 2]| {
            let all: Vec<_> = (0..rows * columns).map(|n| of(n / columns, n % columns)).collect();
            Part { value: all.iter().map(|x| x[0]).collect(), terms: all.iter().map(|x| x[1]).collect() }
        };
        let sum = |i: usize, j: usize, left: &dyn Fn(usize, usize) -> f64, by: f64| {
            let terms = (0..depth).map(|d| by * left(i, d) * k(j, d) * between(j, i, d));
            terms.fold([0.0, 0.0], |[x, y], term| [x + term, y + term.abs()])
        };
        let query = |i: usize, d: usize| row(&self.q, i, d);
        let none = [0.0, 0.0];
        let one = |x: f64| [x, x.abs()];
        let inner = matrix(CHUNK, CHUNK, &|i, j| if j < i { sum(i, j, &k, w(i)) } else { none });
        // Columns of the inverse, one after the other.
        let mut solved = vec![0.0; CHUNK * CHUNK];
        for j in 0..CHUNK {
            for i in j..CHUNK {
                let before: f64 = (j..i).map(|l| inner.value[i * CHUNK + l] * solved[l * CHUNK + j]).sum();
                solved[i * CHUNK + j] = if i == j { w(j) } else { -before };
            }
        }
        let largest = solved.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        Wanted {
            query: matrix(CHUNK, padded, &|i, d| one(SCALE * query(i, d) * from_start(i, d))),
            turned: matrix(padded, CHUNK, &|d, j| one(out(j) * k(j, d) * between(j, CHUNK - 1, d))),
            pairs: matrix(CHUNK, CHUNK, &|i, j| if j <= i { sum(i, j, &query, SCALE * out(j)) } else { none }),
            erased: matrix(CHUNK, padded, &|i, d| one(k(i, d) * from_start(i, d))),
            solved: matrix(CHUNK, CHUNK, &|i, j| [solved[i * CHUNK + j], 2.0 * largest]),
            decay: (0..padded).map(|d| from_start(CHUNK - 1, d)).collect(),
        }
    }
}

/// Numbers and the sums of the sizes of their terms, which errors are relative to.
struct Part {
    value: Vec<f64>,
    terms: Vec<f64>,
}

struct Wanted {
    query: Part,
    turned: Part,
    pairs: Part,
    erased: Part,
    solved: Part,
    decay: Vec<f64>,
}

fn unit(x: &HostTensor) -> Vec<f32> {
    let depth = x.shape()[3];
    let data = x.to_f32();
    let length = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>().sqrt();
    data.chunks(depth).flat_map(|row| row.iter().map(|x| x / length(row)).collect::<Vec<_>>()).collect()
}

fn buffer(device: &wgpu::Device, bytes: &[u8], usage: wgpu::BufferUsages) -> wgpu::Buffer {
    let size = bytes.len().next_multiple_of(16) as u64;
    let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: true };
    let made = device.create_buffer(&descriptor);
    made.slice(..bytes.len().next_multiple_of(4) as u64)
        .get_mapped_range_mut()
        .expect("bytes")
        .slice(..bytes.len())
        .copy_from_slice(bytes);
    made.unmap();
    made
}

fn arguments(launch: &Launch) -> Vec<u8> {
    let groups = launch.groups as u32;
    [groups, 0, groups].iter().chain(&launch.args).flat_map(|word| word.to_ne_bytes()).collect()
}

fn run(title: &str, call: &Call) {
    for (name, runtime) in matrix_engines() {
        let Engine::Gpu(engine) = runtime.engine() else { unreachable!() };
        let (caps, (device, queue)) = (runtime.caps(), engine.device());
        let got = call.run(device, queue, &caps);
        call.check(&format!("{title} on {name}"), caps.matrix.expect("matrices") as usize, &got);
    }
}

/// What no adapter here has: matrices of 16 x 16, wider subgroups.
#[test]
fn other_devices() {
    for (side, lanes) in [(16, 32), (16, 64), (8, 8), (8, 32)] {
        let caps = Caps {
            tier: Tier::T2,
            f16: true,
            subgroups: Some((lanes, lanes)),
            matrix: Some(side),
            max_workgroup_memory: 48 << 10,
            max_invocations: 1024,
            ..Caps::portable(Target::Native)
        };
        for (depth, delta) in [(20, false), (64, true), (128, false), (128, true)] {
            let call = Call::new(delta, [1, 2, 1, 70, depth]).weighted().masked();
            let key = call.kernel().launch(&call.io(), &caps).expect("a launch").key;
            let text = shader::compose(&key).expect("a text");
            assert!(!text.contains("// unroll"), "a marked loop was not unrolled:\n{text}");
            let memory = bytes_of_memory(&text);
            // Three workgroups where a processor has 48 KiB for them, or two.
            assert!(
                memory <= if delta { 21 << 10 } else { 16 << 10 },
                "{side}, {lanes}, {depth}: {memory} bytes of workgroup memory"
            );
        }
    }
}

/// Validates and translates a text.
fn bytes_of_memory(text: &str) -> u32 {
    let capabilities = naga::valid::Capabilities::all();
    let options = naga::front::wgsl::Options { parse_doc_comments: false, capabilities };
    let module = naga::front::wgsl::Frontend::new_with_options(options)
        .parse(text)
        .unwrap_or_else(|e| panic!("{}", e.emit_to_string(text)));
    let info = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities)
        .validate(&module)
        .unwrap_or_else(|e| panic!("{}", e.emit_to_string(text)));
    let options = naga::back::spv::Options { fake_missing_bindings: true, lang_version: (1, 6), ..Default::default() };
    naga::back::spv::write_vec(&module, &info, &options, None).expect("SPIR-V");
    let memory = module.global_variables.iter().filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup);
    memory.map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx())).sum()
}

/// Without and with the delta rule.
const RULES: [bool; 2] = [false, true];

fn each(title: &str, size: [usize; 5], of: impl Fn(Call) -> Call) {
    for delta in RULES {
        run(&format!("{title} {size:?}, delta {delta}"), &of(Call::new(delta, size)));
    }
}

#[test]
fn depths_and_shared_heads() {
    each("plain", [1, 2, 1, 70, 20], |call| call);
    each("plain", [2, 2, 2, 32, 32], |call| call);
    each("plain", [1, 2, 2, 45, 64], |call| call);
    each("plain", [1, 4, 2, 64, 128], |call| call);
}

#[test]
fn masks_and_weights() {
    each("weights", [1, 2, 1, 50, 32], Call::weighted);
    each("mask", [2, 2, 1, 65, 24], Call::masked);
    each("both", [2, 2, 1, 65, 32], |call| call.weighted().masked());
}

#[test]
fn strong_decay() {
    let strong = |mut call: Call| {
        let x = random(call.g.shape(), 5).to_f32();
        let speed = |x: f32| {
            if x < -0.5 {
                -120.0
            } else if x < 0.0 {
                100.0 * x
            } else if x < 0.5 {
                0.0
            } else {
                -1000.0
            }
        };
        call.g = HostTensor::from_fn(call.g.shape(), |n| if n % 3 == 0 { speed(x[n]) } else { -x[n].abs() });
        call
    };
    each("strong", [1, 2, 1, 64, 32], strong);
    each("strong", [1, 1, 1, 40, 64], strong);
}

#[test]
fn keys_of_f32_and_gates_of_f16() {
    each("f32", [1, 2, 1, 40, 32], |mut call| {
        call.q = random(call.q.shape(), 6);
        call.k = HostTensor::new(call.k.shape(), unit(&random(call.k.shape(), 7))).expect("keys");
        call.g = call.g.to_f16();
        call
    });
}
