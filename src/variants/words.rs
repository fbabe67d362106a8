//! Parameters that are one of a few words.

use crate::kernel::scan::Act;
use crate::kernel::transform::Feature;
use crate::oracle::features;
use crate::words;

words! {
    /// The four patterns of dense attention.
    pub enum Pattern {
        /// Every token sees every token of its own sequence.
        NoncausalSelf = "noncausal_self",
        /// A token sees itself and what came before it.
        CausalSelf = "causal_self",
        /// Every query sees every key of another sequence.
        NoncausalCross = "noncausal_cross",
        /// Queries and keys of different length, aligned as [`Align`] says.
        CausalCross = "causal_cross",
    }
}

impl Pattern {
    /// Whether later keys are hidden.
    pub fn is_causal(self) -> bool {
        matches!(self, Pattern::CausalSelf | Pattern::CausalCross)
    }
}

words! {
    /// The twelve static masks.
    pub enum MaskPattern {
        /// Every key.
        Full = "full",
        /// No later key.
        Causal = "causal",
        /// Keys near by on both sides.
        SlidingWindow = "sliding_window",
        /// Keys near by, none later.
        SlidingWindowCausal = "sliding_window_causal",
        /// The row's segment.
        FullDocument = "full_document",
        /// The row's segment, causal.
        CausalDocument = "causal_document",
        /// The row's segment and segment 0, causal.
        ShareQuestion = "share_question",
        /// The row's segment, causal; the last segment sees all.
        CausalBlockwise = "causal_blockwise",
        /// Causal, and a prefix.
        PrefixLmCausal = "prefix_lm_causal",
        /// The row's segment, causal, and the segment's prefix.
        PrefixLmDocument = "prefix_lm_document",
        /// Keys near by, and global tokens.
        GlobalSlidingWindow = "global_sliding_window",
        /// The row's segment up to the end of the row's block.
        BlockCausalDocument = "block_causal_document",
    }
}

words! {
    /// Where query `i` sits on the axis of the keys.
    pub enum Align {
        /// At i + Lk − Lq: the last query sees the last key.
        BottomRight = "bottom_right",
        /// At i.
        TopLeft = "top_left",
    }
}

words! {
    /// The bias of sigmoid attention.
    pub enum BiasRule {
        /// −ln Lk.
        NegLogLen = "neg_log_len",
        /// −ln of the keys that the row may see.
        NegLogRow = "neg_log_row",
        /// The parameter `bias_value`.
        Value = "value",
    }
}

words! {
    /// How pointer scores score a pair.
    pub enum PointerMode {
        /// w·tanh(q + k).
        Additive = "additive",
        /// scale q·k.
        Dot = "dot",
    }
}

words! {
    /// Activation of the scores of low-rank pooling.
    pub enum LamaActivation {
        /// tanh.
        Tanh = "tanh",
        /// None.
        None = "none",
    }
}

words! {
    /// The positions of streaming attention.
    pub enum Position {
        /// Those of the text: q and k come as they are to be used.
        Text = "text",
        /// Slots of the cache: q and k come unrotated and are rotated by slot.
        Cache = "cache",
    }
}

words! {
    /// What a masked head does.
    pub enum HeadMaskMode {
        /// Gives 0.
        Zero = "zero",
        /// Gives the mean of the values it may see.
        Uniform = "uniform",
    }
}

words! {
    /// How hyper-kernels meet activations.
    pub enum ZzwMode {
        /// A matrix of each channel times its image.
        Matmul = "matmul",
        /// Z ⊙ W ⊙ Z.
        Elementwise = "elementwise",
    }
}

words! {
    /// What queries and keys are divided by.
    pub enum QkNorm {
        /// Their Euclidean length.
        L2 = "l2",
        /// The root of their mean square.
        Rms = "rms",
    }
}

words! {
    /// Who sees whom among candidates that share a context.
    pub enum CandidateMode {
        /// The context sees all, a candidate the context and itself.
        Arrow = "arrow",
        /// Each only itself.
        Diag = "diag",
        /// All see all.
        Square = "square",
    }
}

words! {
    /// How rotary frequencies stretch beyond the length they were trained at.
    pub enum RopeScaling {
        /// All by the factor.
        Linear = "linear",
        /// By the base, so that the fastest pair stays and the slowest is stretched by the factor.
        Ntk = "ntk",
        /// The same with a factor that grows with the length.
        DynamicNtk = "dynamic_ntk",
        /// Slow pairs by the factor, fast ones not, a ramp between; and warmer scores.
        Yarn = "yarn",
        /// The same by wavelength, without the warmth.
        Llama3 = "llama3",
    }
}

words! {
    /// Which channels of rotary embedding are a pair.
    pub enum RopeLayout {
        /// c and c + half.
        Half = "half",
        /// 2c and 2c + 1.
        Interleaved = "interleaved",
    }
}

words! {
    /// The decay of lightning attention, head by head.
    pub enum DecayRule {
        /// No decay.
        None = "none",
        /// The slopes of ALiBi, shrinking with the layer.
        Slopes = "slopes",
        /// 8h/H, shrinking with the layer.
        Linear = "linear",
    }
}

words! {
    /// What follows a convolution.
    pub enum Activation {
        /// x σ(x).
        Silu = "silu",
    }
}

words! {
    /// The activation between the layers of a memory.
    pub enum MemoryActivation {
        /// x σ(x).
        Silu = "silu",
        /// max(x, 0).
        Relu = "relu",
        /// tanh x.
        Tanh = "tanh",
    }
}

impl MemoryActivation {
    /// The kernel's activation.
    pub(crate) fn act(self) -> Act {
        match self {
            MemoryActivation::Silu => Act::Silu,
            MemoryActivation::Relu => Act::Relu,
            MemoryActivation::Tanh => Act::Tanh,
        }
    }

    /// Activation and slope, for oracles.
    pub(crate) fn both(self, x: f64) -> [f64; 2] {
        match self {
            MemoryActivation::Silu => {
                let s = 1.0 / (1.0 + (-x).exp());
                [x * s, s + x * s * (1.0 - s)]
            }
            MemoryActivation::Relu => [x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }],
            MemoryActivation::Tanh => [x.tanh(), x.cosh().powi(-2)],
        }
    }
}

words! {
    /// When a token reads the state.
    pub enum Read {
        /// After its own write.
        After = "after",
        /// Before it.
        Before = "before",
    }
}

words! {
    /// What a read of the state is divided by.
    pub enum Normaliser {
        /// Nothing.
        None = "none",
        /// The sum of the weights.
        Sum = "sum",
        /// The size of that sum, at least 1.
        AbsMax1 = "abs_max1",
    }
}

words! {
    /// A feature map φ of linear attention.
    pub enum FeatureMap {
        /// x; may go negative, so without a normaliser.
        Identity = "identity",
        /// x + 1 where x > 0, else e^x.
        Elu1 = "elu1",
        /// max(x, 0).
        Relu = "relu",
        /// max(x, 0)².
        Relu2 = "relu2",
        /// x σ(x).
        Silu = "silu",
        /// σ(x).
        Sigmoid = "sigmoid",
        /// e^x.
        Exp = "exp",
        /// [e^x, e^−x], width 2D.
        ExpPm = "exp_pm",
        /// Softmax over the features.
        Softmax = "softmax",
        /// Softmax of [2x, −2x], width 2D.
        Hedgehog = "hedgehog",
        /// [1, x / D^¼, vec(x xᵀ) / √(2D)], width 1 + D + D².
        Taylor = "taylor",
        /// The kernel of `taylor` in width 1 + D + D(D + 1)/2.
        TaylorCompact = "taylor_compact",
        /// r ⊙ roll(r, 1) with r = max([x, −x], 0), width 2D.
        Dpfp = "dpfp",
    }
}

impl FeatureMap {
    /// The kernel's map.
    pub(crate) fn feature(self) -> Feature {
        match self {
            FeatureMap::Identity => Feature::Identity,
            FeatureMap::Elu1 => Feature::Elu1,
            FeatureMap::Relu => Feature::Relu,
            FeatureMap::Relu2 => Feature::Relu2,
            FeatureMap::Silu => Feature::Silu,
            FeatureMap::Sigmoid => Feature::Sigmoid,
            FeatureMap::Exp => Feature::Exp,
            FeatureMap::ExpPm => Feature::ExpPm,
            FeatureMap::Softmax => Feature::Softmax,
            FeatureMap::Hedgehog => Feature::Hedgehog,
            FeatureMap::Taylor => Feature::Taylor,
            FeatureMap::TaylorCompact => Feature::TaylorCompact,
            FeatureMap::Dpfp => Feature::Dpfp(1),
        }
    }

    /// Features of a row of `d` channels.
    pub fn width(self, d: usize) -> usize {
        self.feature().width(d)
    }

    /// φ(x), for oracles.
    pub(crate) fn features(self, x: &[f64]) -> Vec<f64> {
        match self {
            FeatureMap::Identity => x.to_vec(),
            FeatureMap::Elu1 => features::elu1(x),
            FeatureMap::Relu => features::relu(x),
            FeatureMap::Relu2 => features::relu2(x),
            FeatureMap::Silu => features::silu(x),
            FeatureMap::Sigmoid => features::sigmoid(x),
            FeatureMap::Exp => features::exp(x),
            FeatureMap::ExpPm => [features::exp(x), features::exp(&x.iter().map(|x| -x).collect::<Vec<_>>())].concat(),
            FeatureMap::Softmax => features::softmax(x),
            FeatureMap::Hedgehog => features::hedgehog(x),
            FeatureMap::Taylor => features::taylor(x),
            FeatureMap::TaylorCompact => features::taylor_compact(x),
            FeatureMap::Dpfp => features::dpfp(x, 1),
        }
    }
}
