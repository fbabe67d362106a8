//! A device's ceilings, by small shaders that do not pass through the library.

use super::Ceilings;
use std::cell::Cell;
use std::time::{Duration, Instant};
use wgpu_attention::gpu::GpuEngine;
use wgpu_attention::{Error, ErrorKind, Result, wgpu};

const WORKGROUP: u32 = 256;
/// Vectors of four in flight a thread.
const VECTORS: usize = 8;
/// Times the loop body is written out: the loop's own instructions must not count.
const UNROLL: usize = 4;

#[derive(Debug)]
struct Device {
    device: wgpu::Device,
    queue: wgpu::Queue,
    timestamps: bool,
    software: bool,
}

/// Measures for a second or less; a software adapter gets smaller work.
pub fn measure(engine: &GpuEngine, software: bool) -> Result<Ceilings> {
    let (device, queue) = engine.device();
    let timestamps = engine.gpu().caps().timestamps;
    let device = Device { device: device.clone(), queue: queue.clone(), timestamps, software };
    let arithmetic = |body: &dyn Fn(usize) -> String| -> Result<f64> {
        let operations = f64::from(WORKGROUP) * (VECTORS * UNROLL * 4) as f64;
        device.rate(&arithmetic(body), 2, device.groups(), operations)
    };
    let fma = 2.0 * arithmetic(&|n| format!("a{n} = fma(a{n}, x, y);"))?;
    // The result stays in range: exp2 of about -0.5 is about 0.7, the next exponent again about -0.5.
    let exp = arithmetic(&|n| format!("a{n} = exp2(-y - a{n} * x);"))?;
    // What the device's own self-test lets kernels use; a shader that it rejects all the same leaves no ceiling.
    let matrix = engine.gpu().caps().matrix.zip(engine.gpu().caps().subgroups);
    let matrix = matrix.and_then(|(side, (subgroup, _))| device.matrix(side, subgroup).ok());
    Ok(Ceilings { copy: device.copy()?, fma, matrix, exp: Some(exp), workgroup: Some(device.workgroup()?) })
}

/// Tells whether the device runs at full speed. A GPU that had nothing to do for a moment may run at a fifth of its clock for a second
/// after, and a timing taken then says nothing.
#[derive(Debug)]
pub struct Clock {
    device: Device,
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    best: Cell<f64>,
}

impl Clock {
    /// Workgroups of a pulse: short beside a sample, long beside a timestamp's step.
    const GROUPS: u32 = 2048;
    /// Time of pulses at the start: longer than a device was seen to take from its lowest clock to its highest.
    const SETTLE: Duration = Duration::from_millis(1500);

    /// A clock of a device with timestamps.
    pub fn new(engine: &GpuEngine) -> Result<Self> {
        let (device, queue) = engine.device();
        let device = Device { device: device.clone(), queue: queue.clone(), timestamps: true, software: false };
        let (pipeline, group, args) = device.build(&arithmetic(&|n| format!("a{n} = fma(a{n}, x, y);")), 2)?;
        device.queue.write_buffer(&args, 0, &32_u32.to_le_bytes());
        let clock = Clock { device, pipeline, group, best: Cell::new(f64::INFINITY) };
        // The first workload is compared with these: without them a device that is slow from the start would pass for one at full speed.
        let start = Instant::now();
        while start.elapsed() < Self::SETTLE {
            clock.full()?;
        }
        Ok(clock)
    }

    /// Whether a pulse of arithmetic takes no more than 4 % longer than the shortest so far.
    pub fn full(&self) -> Result<bool> {
        let ms = self.device.pass(&self.pipeline, &self.group, Self::GROUPS, 1)?;
        self.best.set(self.best.get().min(ms));
        Ok(ms <= 1.04 * self.best.get())
    }
}

fn failed(what: &str, error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Device, format!("ceilings: {what}: {error}"))
}

/// Products of square cooperative matrices, [`VECTORS`] sums in flight a subgroup.
fn matrices(side: u32) -> String {
    let each = |text: &dyn Fn(usize) -> String| (0..VECTORS).map(text).collect::<Vec<_>>().join(" ");
    let load = |name: &str, role: &str, n: usize| {
        format!("let {name}{n} = coopLoadT<coop_mat{side}x{side}<f16, {role}>>(&given[{n}], {side}u);")
    };
    let begin = each(&|n| format!("var c{n} = coop_mat{side}x{side}<f32, C>();"));
    let turn =
        vec![each(&|n| format!("c{n} = coopMultiplyAdd(a{}, b{}, c{n});", n % 2, n / 2)); UNROLL].join("\n        ");
    let end = each(&|n| format!("coopStoreT(c{n}, &kept[{}], {side}u);", n * 256));
    let factors: String =
        (0..2).map(|n| load("a", "A", n)).chain((0..VECTORS / 2).map(|n| load("b", "B", n))).collect();
    format!(
        "enable f16; enable wgpu_cooperative_matrix;
@group(0) @binding(0) var<storage, read> given: array<f16>;
@group(0) @binding(1) var<storage, read_write> kept: array<f32>;
struct Args {{ turns: u32 }}
@group(0) @binding(2) var<uniform> args: Args;
@compute @workgroup_size({WORKGROUP}) fn main() {{
    {factors}
    {begin}
    for (var i = 0u; i < args.turns; i++) {{
        {turn}
    }}
    {end}
}}"
    )
}

/// A loop of `turns` over the body on each vector. `x` and `y` come from memory, so that the compiler knows neither.
fn arithmetic(body: &dyn Fn(usize) -> String) -> String {
    let each = |text: &dyn Fn(usize) -> String| (0..VECTORS).map(text).collect::<Vec<_>>().join(" ");
    let begin = each(&|n| format!("var a{n} = vec4<f32>(f32(id.x % 7u) + {n}.0) * y;"));
    let sum = (0..VECTORS).map(|n| format!("a{n}")).collect::<Vec<_>>().join(" + ");
    let turn = vec![each(body); UNROLL].join("\n        ");
    format!(
        "@group(0) @binding(0) var<storage, read> given: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> kept: array<vec4<f32>>;
struct Args {{ turns: u32 }}
@group(0) @binding(2) var<uniform> args: Args;
@compute @workgroup_size({WORKGROUP}) fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
    let x = given[0]; let y = given[1];
    {begin}
    for (var i = 0u; i < args.turns; i++) {{
        {turn}
    }}
    let sum = {sum};
    if sum.x == 12345.0 {{ kept[id.x % 2u] = sum; }}
}}"
    )
}

/// Rows of workgroup memory that neighbours read without conflicts, elsewhere at every turn.
fn reads() -> String {
    let each = |text: &dyn Fn(usize) -> String| (0..VECTORS).map(text).collect::<Vec<_>>().join(" ");
    let begin = each(&|n| format!("var a{n} = given[0];"));
    let turn = (0..UNROLL)
        .map(|u| each(&|n| format!("a{n} += memory[(at + {}u) & 511u];", 64 * n + u)))
        .collect::<Vec<_>>()
        .join("\n        ");
    let sum = (0..VECTORS).map(|n| format!("a{n}")).collect::<Vec<_>>().join(" + ");
    format!(
        "@group(0) @binding(0) var<storage, read> given: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> kept: array<vec4<f32>>;
struct Args {{ turns: u32 }}
@group(0) @binding(2) var<uniform> args: Args;
var<workgroup> memory: array<vec4<f32>, 512>;
@compute @workgroup_size({WORKGROUP}) fn main(@builtin(local_invocation_index) lane: u32) {{
    memory[lane] = given[0] * f32(lane);
    memory[lane + 256u] = given[1] * f32(lane);
    workgroupBarrier();
    {begin}
    var at = lane;
    for (var i = 0u; i < args.turns; i++) {{
        {turn}
        at += 7u;
    }}
    let sum = {sum};
    if sum.x == 12345.0 {{ kept[lane % 2u] = sum; }}
}}"
    )
}

const COPY: &str = "@group(0) @binding(0) var<storage, read> given: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> kept: array<vec4<f32>>;
struct Args { turns: u32 }
@group(0) @binding(2) var<uniform> args: Args;
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) n: u32) {
    let at = group.x * 1024u + n;
    for (var i = 0u; i < 4u; i++) { kept[at + i * 256u] = given[at + i * 256u]; }
}";

impl Device {
    /// Enough groups to fill any device; a software adapter has few cores.
    fn groups(&self) -> u32 {
        if self.software { 64 } else { 8192 }
    }

    fn buffer(&self, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    }

    /// GB/s, read and written.
    fn copy(&self) -> Result<f64> {
        let limits = self.device.limits();
        let most = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        // A copy that a large cache can not hold.
        let size = (if self.software { 32 << 20 } else { 512_u64 << 20 }).min(most) >> 20 << 20;
        let groups = (size / (16 * 1024)) as u32;
        self.rate(COPY, size / 16, groups, 2.0 * 16.0 * 1024.0)
    }

    /// GFLOP/s of cooperative matrices.
    fn matrix(&self, side: u32, subgroup: u32) -> Result<f64> {
        let products = (WORKGROUP / subgroup) as usize * VECTORS * UNROLL;
        let operations = products as f64 * 2.0 * f64::from(side).powi(3);
        self.rate(&matrices(side), 1024, self.groups(), operations)
    }

    /// GB/s read from workgroup memory.
    fn workgroup(&self) -> Result<f64> {
        self.rate(&reads(), 2, self.groups(), f64::from(WORKGROUP) * (VECTORS * UNROLL * 16) as f64)
    }

    /// A pipeline, its bind group and the buffer of its arguments.
    fn build(&self, source: &str, vectors: u64) -> Result<(wgpu::ComputePipeline, wgpu::BindGroup, wgpu::Buffer)> {
        let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let given = self.buffer(vectors * 16, storage);
        let kept = self.buffer(vectors * 16, storage);
        let args = self.buffer(16, wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST);
        let numbers: Vec<u8> = [0.7_f32; 4].into_iter().chain([0.1; 4]).flat_map(f32::to_le_bytes).collect();
        self.queue.write_buffer(&given, 0, &numbers);
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let module = {
            let descriptor = wgpu::ShaderModuleDescriptor {
                label: Some("ceiling"),
                source: wgpu::ShaderSource::Wgsl(source.into()),
            };
            // SAFETY: every index is below the length by how `groups` was chosen, and every loop has a bound.
            unsafe { self.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
        };
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("ceiling"),
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: Default::default(),
            cache: None,
        });
        if let Some(error) = pollster::block_on(scope.pop()) {
            return Err(failed("shader", error));
        }
        let all = [&given, &kept, &args];
        let entries: Vec<_> = all
            .iter()
            .enumerate()
            // The copy has no use for the arguments, and its layout, made from the shader, no place.
            .take(if source.contains("args.") { 3 } else { 2 })
            .map(|(n, buffer)| wgpu::BindGroupEntry { binding: n as u32, resource: buffer.as_entire_binding() })
            .collect();
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        Ok((pipeline, group, args))
    }

    /// 10^9 a second of what a workgroup does `per_group` times a turn.
    fn rate(&self, source: &str, vectors: u64, groups: u32, per_group: f64) -> Result<f64> {
        let (pipeline, group, args) = self.build(source, vectors)?;
        let loops = source.contains("args.");
        let (wanted, most) = if self.software { (30.0, 1 << 12) } else { (5.0, 1 << 16) };
        let (mut turns, mut repeat) = (16, 1);
        let mut best = 0.0_f64;
        let mut left = 6;
        while left > 0 {
            self.queue.write_buffer(&args, 0, &(turns as u32).to_le_bytes());
            let ms = self.pass(&pipeline, &group, groups, repeat)?;
            if ms < wanted && turns < most && repeat < most {
                // Until a pass takes long enough to be read well.
                *(if loops { &mut turns } else { &mut repeat }) *= 2;
                continue;
            }
            let work = f64::from(groups) * per_group * repeat as f64 * if loops { turns as f64 } else { 1.0 };
            best = best.max(work / ms / 1e6);
            left -= 1;
        }
        Ok(best)
    }

    /// Milliseconds of `repeat` dispatches: device time, or the host's where the device tells none.
    fn pass(
        &self,
        pipeline: &wgpu::ComputePipeline,
        group: &wgpu::BindGroup,
        groups: u32,
        repeat: usize,
    ) -> Result<f64> {
        let queries = self.timestamps.then(|| {
            self.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: None,
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            })
        });
        let resolved = self.buffer(16, wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC);
        let readable = self.buffer(16, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
        {
            let timestamp_writes = queries.as_ref().map(|query_set| wgpu::ComputePassTimestampWrites {
                query_set,
                beginning_of_pass_write_index: Some(0),
                end_of_pass_write_index: Some(1),
            });
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, group, &[]);
            for _ in 0..repeat {
                pass.dispatch_workgroups(groups, 1, 1);
            }
        }
        if let Some(queries) = &queries {
            encoder.resolve_query_set(queries, 0..2, &resolved, 0);
            encoder.copy_buffer_to_buffer(&resolved, 0, &readable, 0, 16);
        }
        let start = Instant::now();
        self.queue.submit([encoder.finish()]);
        let wait = wgpu::PollType::Wait { submission_index: None, timeout: None };
        self.device.poll(wait.clone()).map_err(|e| failed("wait", e))?;
        let by_host = start.elapsed().as_secs_f64() * 1e3;
        if queries.is_none() {
            return Ok(by_host);
        }
        readable.map_async(wgpu::MapMode::Read, .., |_| {});
        self.device.poll(wait).map_err(|e| failed("wait", e))?;
        let bytes = readable.get_mapped_range(..).map_err(|e| failed("timestamps", e))?;
        let tick = |n: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[n * 8 + i]));
        let ms = tick(1).saturating_sub(tick(0)) as f64 * f64::from(self.queue.get_timestamp_period()) * 1e-6;
        // A clock that stands still leaves the host's.
        Ok(if ms > 0.0 { ms } else { by_host })
    }
}
