//! What an engine may use, as plain data, read from what the device ENABLED and not from what its adapter offers.

/// Who compiles the shaders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// naga, in this process.
    Native,
    /// The browser.
    Browser,
}

/// Ordered sets of device abilities; each is a superset of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// Portable WGSL: 8 storage bindings, 16 KiB of workgroup memory, 256 invocations, no subgroups, f16 only as storage.
    T0,
    /// f16 arithmetic and subgroups of any size.
    T1,
    /// Cooperative matrices, f16 in and f32 accumulated.
    T2,
}

impl Tier {
    /// `T0`, `T1` or `T2`.
    pub fn name(self) -> &'static str {
        ["T0", "T1", "T2"][self as usize]
    }
}

/// Kinds of devices that want other kernels or tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceClass {
    /// Computes on the CPU: its compiler takes seconds for a shader that is unrolled far.
    Software,
    /// Shares its memory with the CPU.
    Integrated,
    /// Has its own memory.
    Discrete,
    /// A browser does not say.
    Unknown,
}

impl DeviceClass {
    /// In words.
    pub fn name(self) -> &'static str {
        ["software", "integrated", "discrete", "unknown"][self as usize]
    }
}

/// Limits and abilities of the device at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Who compiles the shaders.
    pub target: Target,
    /// What kind of device it is.
    pub class: DeviceClass,
    /// The highest tier whose demands the device meets.
    pub tier: Tier,
    /// Bytes that one storage binding may hold.
    pub max_binding: u64,
    /// Bytes that one buffer may hold.
    pub max_buffer: u64,
    /// Storage bindings in one kernel.
    pub max_storage_bindings: u32,
    /// Workgroups along one axis of a dispatch.
    pub max_workgroups: u32,
    /// Bytes of workgroup memory.
    pub max_workgroup_memory: u32,
    /// Invocations in one workgroup.
    pub max_invocations: u32,
    /// Bytes that the offset of a storage binding must be a multiple of.
    pub storage_alignment: u32,
    /// Bytes that the offset of a uniform binding must be a multiple of.
    pub uniform_alignment: u32,
    /// f16 arithmetic in shaders.
    pub f16: bool,
    /// Smallest and largest subgroup, where subgroup operations are enabled.
    pub subgroups: Option<(u32, u32)>,
    /// Side of the square cooperative matrix with f16 factors and f32 sum, where enabled.
    pub matrix: Option<u32>,
    /// Timestamp queries.
    pub timestamps: bool,
}

impl Caps {
    /// The same device used no further than a tier: of [`Tier::T0`] the portable limits of workgroup memory (16 KiB), invocations and
    /// bindings and f16 as storage only, of [`Tier::T1`] no matrices.
    ///
    /// ```
    /// use wgpu_attention::caps::{Caps, Target, Tier};
    /// let mut caps = Caps::portable(Target::Native);
    /// (caps.tier, caps.f16, caps.matrix, caps.max_workgroup_memory) = (Tier::T2, true, Some(16), 48 << 10);
    /// assert_eq!(caps.clone().at_most(Tier::T1).matrix, None);
    /// assert_eq!(caps.at_most(Tier::T0), Caps::portable(Target::Native));
    /// ```
    pub fn at_most(mut self, tier: Tier) -> Self {
        self.tier = self.tier.min(tier);
        if tier < Tier::T2 {
            self.matrix = None;
        }
        if tier < Tier::T1 {
            let portable = Caps::portable(self.target);
            self.max_workgroup_memory = self.max_workgroup_memory.min(portable.max_workgroup_memory);
            self.max_invocations = self.max_invocations.min(portable.max_invocations);
            self.max_storage_bindings = self.max_storage_bindings.min(portable.max_storage_bindings);
            self.f16 = false;
            self.subgroups = None;
        }
        self
    }

    /// WebGPU's guaranteed limits: what every kernel of tier T0 must run within.
    pub fn portable(target: Target) -> Self {
        Caps {
            target,
            class: DeviceClass::Unknown,
            tier: Tier::T0,
            max_binding: 128 << 20,
            max_buffer: 256 << 20,
            max_storage_bindings: 8,
            max_workgroups: 65535,
            max_workgroup_memory: 16 << 10,
            max_invocations: 256,
            storage_alignment: 256,
            uniform_alignment: 256,
            f16: false,
            subgroups: None,
            matrix: None,
            timestamps: false,
        }
    }
}
