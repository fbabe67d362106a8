//! The variants that select, split or pack, with their options, on every engine against the oracle.

mod common;

use common::engines;
use std::collections::BTreeMap;
use wgpu_attention::oracle::{self, Array};
use wgpu_attention::{ErrorKind, HostTensor, Inputs, Value, variant};

/// Numbers that repeat on every machine.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }

    /// In [−1, 1).
    fn reals(&mut self, shape: &[usize]) -> HostTensor {
        HostTensor::from_fn(shape, |_| self.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0)
    }

    /// Whole numbers, so that sums are exact and ties are ties.
    fn whole(&mut self, shape: &[usize], low: i32, high: i32) -> HostTensor {
        HostTensor::from_fn(shape, |_| (low + self.below((high - low + 1) as usize) as i32) as f32)
    }

    /// −1 and indices below `n`.
    fn list(&mut self, shape: &[usize], n: usize) -> HostTensor {
        let data: Vec<i32> = (0..shape.iter().product()).map(|_| self.below(n + 1) as i32 - 1).collect();
        HostTensor::new(shape, data).expect("a list")
    }
}

type Named = Vec<(&'static str, HostTensor)>;

fn indices(values: &[i32]) -> HostTensor {
    HostTensor::new(&[values.len()], values.to_vec()).expect("a list")
}

fn params(list: &[(&str, &str)]) -> Vec<(String, Value)> {
    list.iter().map(|(name, value)| ((*name).to_owned(), Value::parse(value))).collect()
}

/// Every output of every engine is the oracle's.
fn check(name: &str, options: &[(&str, &str)], tensors: &Named) {
    let variant = variant::find(name).and_then(|e| e.make(&params(options))).expect("a variant");
    let mut inputs = Inputs::new();
    tensors.iter().for_each(|(name, t)| inputs.insert(name, t));
    let arrays = tensors.iter().map(|(n, t)| ((*n).to_owned(), Array { shape: t.shape().to_vec(), data: t.to_f64() }));
    let want = variant.oracle(&oracle::Inputs(arrays.collect::<BTreeMap<_, _>>()));
    let shapes: Vec<_> = tensors.iter().map(|(n, t)| format!("{n} {:?}", t.shape())).collect();
    for (engine, runtime) in engines() {
        let label = format!("{name} {options:?} {shapes:?} on {engine}");
        let got = runtime.call_blocking(&*variant, &inputs).unwrap_or_else(|e| panic!("{label}: {e}"));
        for (output, want) in &want {
            let got = got.get(output).expect("an output");
            assert_eq!(got.shape(), want.shape, "{label}: {output}");
            let most = want.data.iter().filter(|x| x.is_finite()).fold(1.0_f64, |m, x| m.max(x.abs()));
            for (n, (got, &want)) in got.to_f64().into_iter().zip(&want.data).enumerate() {
                let same = got == want || (got - want).abs() <= 2e-5 * most;
                assert!(same, "{label}: {output}[{n}] is {got}, not {want}");
            }
        }
    }
}

fn qkv(numbers: &mut Numbers, [b, h, hk, lq, lk, d, dv]: [usize; 7]) -> Named {
    vec![
        ("q", numbers.reals(&[b, h, lq, d])),
        ("k", numbers.reals(&[b, hk, lk, d])),
        ("v", numbers.reals(&[b, hk, lk, dv])),
    ]
}

fn index(numbers: &mut Numbers, [b, lq, lk, heads, d]: [usize; 5]) -> Named {
    vec![
        ("q_idx", numbers.whole(&[b, lq, heads, d], -2, 2)),
        ("k_idx", numbers.whole(&[b, lk, d], -2, 2)),
        ("w", numbers.whole(&[b, lq, heads], -2, 2)),
    ]
}

#[test]
fn lightning_indexer() {
    let mut numbers = Numbers(1);
    for (sizes, topk, causal) in [
        ([2, 9, 33, 3, 8], "5", "true"),
        ([1, 70, 70, 2, 4], "64", "true"),
        ([1, 1, 300, 64, 16], "100", "true"),
        ([1, 12, 7, 4, 5], "3", "true"),
        ([2, 5, 40, 1, 7], "50", "false"),
    ] {
        let tensors = index(&mut numbers, sizes);
        check("lightning-indexer", &[("topk", topk), ("causal", causal), ("score_scale", "0.5")], &tensors);
    }
}

#[test]
fn hisa() {
    let mut numbers = Numbers(2);
    for ([b, h, hk, lq, lk], block_size, block_topk, topk, causal) in [
        ([2, 4, 2, 9, 33], "4", "3", "6", "true"),
        ([1, 2, 1, 40, 38], "8", "2", "5", "true"),
        ([1, 4, 4, 3, 130], "64", "2", "20", "true"),
        ([1, 3, 1, 1, 300], "4", "20", "30", "true"),
        ([1, 2, 2, 6, 18], "4", "1", "9", "true"),
        ([1, 2, 2, 6, 18], "4", "9", "99", "true"),
        ([2, 2, 1, 7, 41], "8", "3", "11", "false"),
    ] {
        for given in [false, true] {
            let mut tensors = qkv(&mut numbers, [b, h, hk, lq, lk, 12, 20]);
            tensors.extend(index(&mut numbers, [b, lq, lk, 5, 6]));
            if given {
                tensors.push(("indices", numbers.list(&[b, lq, lk.min(topk.parse().expect("a number"))], lk)));
            }
            let options = [("block_size", block_size), ("block_topk", block_topk), ("topk", topk), ("causal", causal)];
            check("hisa", &options, &tensors);
        }
    }
}

#[test]
fn native_sparse_attention() {
    let mut numbers = Numbers(3);
    // l, d, l', count, first, last, window.
    for ([b, h, hk, lq, lk], sizes) in [
        ([2, 4, 2, 13, 45], [8, 4, 8, 3, 1, 2, 7]),
        ([1, 6, 2, 20, 333], [32, 16, 64, 3, 1, 1, 50]),
        ([1, 4, 4, 65, 65], [8, 8, 8, 4, 1, 1, 1]),
        ([1, 2, 1, 5, 6], [8, 4, 8, 2, 1, 2, 3]),
        ([1, 2, 2, 40, 30], [4, 2, 8, 2, 0, 1, 9]),
        ([2, 8, 1, 1, 100], [16, 4, 4, 7, 2, 3, 16]),
        ([1, 3, 3, 33, 70], [4, 4, 32, 1, 0, 0, 200]),
    ] {
        for given in [false, true] {
            let mut tensors = qkv(&mut numbers, [b, h, hk, lq, lk, 16, 9]);
            tensors.push(("gates", numbers.reals(&[b, h, lq, 3])));
            if given {
                tensors.push(("cmp_weight", numbers.reals(&[sizes[0]])));
                tensors.push(("blocks", numbers.list(&[b, hk, lq, 4], lk.div_ceil(sizes[2]))));
            }
            let names = ["cmp_length", "cmp_stride", "sel_block", "sel_count", "init_blocks", "local_blocks", "window"];
            let texts = sizes.map(|n| n.to_string());
            let options: Vec<(&str, &str)> = names.into_iter().zip(texts.iter().map(String::as_str)).collect();
            check("native-sparse-attention", &options, &tensors);
        }
    }
}

#[test]
fn token_lists() {
    let mut numbers = Numbers(4);
    for ([b, h, hk, lq, lk], shape) in [
        ([2, 4, 2, 9, 33], vec![2, 9, 40]),
        ([2, 4, 2, 9, 33], vec![2, 2, 9, 7]),
        ([2, 4, 2, 9, 33], vec![2, 4, 9, 1]),
        ([1, 70, 1, 2, 65], vec![1, 2, 33]),
    ] {
        let mut tensors = qkv(&mut numbers, [b, h, hk, lq, lk, 12, 68]);
        tensors.push(("indices", numbers.list(&shape, lk)));
        check("token-list-attention", &[], &tensors);
    }
}

#[test]
fn split_decode() {
    let mut numbers = Numbers(5);
    for (splits, kv_len) in [("1", "none"), ("3", "65"), ("5", "100"), ("102", "none")] {
        for (sink, lengths) in [(false, false), (true, false), (true, true), (false, true)] {
            let mut tensors = qkv(&mut numbers, [3, 4, 2, 2, 100, 20, 12]);
            if sink {
                tensors.push(("sink", numbers.reals(&[4])));
            }
            if lengths {
                tensors.push(("lengths", indices(&[0, 61, 100])));
            }
            check("split-kv-decode", &[("splits", splits), ("kv_len", kv_len)], &tensors);
        }
    }
}

#[test]
fn packed_sequences() {
    let mut numbers = Numbers(6);
    let cu = [
        (vec![0, 5, 5, 40, 70], vec![0, 9, 30, 30, 90]),
        (vec![0, 77], vec![0, 90]),
        (vec![0, 1, 2, 3, 60], vec![0, 40, 41, 80, 85]),
    ];
    for (cu_q, cu_k) in cu {
        for (causal, align) in [("false", "bottom_right"), ("true", "bottom_right"), ("true", "top_left")] {
            let tensors = vec![
                ("q", numbers.reals(&[4, 77, 12])),
                ("k", numbers.reals(&[2, 90, 12])),
                ("v", numbers.reals(&[2, 90, 8])),
                ("cu_q", indices(&cu_q)),
                ("cu_k", indices(&cu_k)),
            ];
            check("varlen-attention", &[("causal", causal), ("align", align)], &tensors);
        }
    }
}

#[test]
fn merges() {
    let mut numbers = Numbers(7);
    let mut lses = numbers.reals(&[5, 2, 3, 7]).to_f32();
    (0..lses.len()).filter(|n| n % 4 == 1 || n % 42 == 3).for_each(|n| lses[n] = f32::NEG_INFINITY);
    let lses = HostTensor::new(&[5, 2, 3, 7], lses).expect("parts");
    check("merge-lse", &[], &vec![("outs", numbers.reals(&[5, 2, 3, 7, 13])), ("lses", lses)]);
}

#[test]
fn mistakes_are_refused() {
    let mut numbers = Numbers(8);
    let kind = |name: &str, options: &[(&str, &str)], tensors: &Named| {
        let variant = variant::find(name).and_then(|e| e.make(&params(options))).expect("a variant");
        let mut inputs = Inputs::new();
        tensors.iter().for_each(|(name, t)| inputs.insert(name, t));
        wgpu_attention::Runtime::cpu().plan(&*variant, &inputs).expect_err("an error").kind()
    };
    let plain = qkv(&mut numbers, [1, 2, 2, 3, 10, 4, 4]);
    let with = |more: Named| plain.iter().cloned().chain(more).collect::<Named>();
    for option in [("splits", "0"), ("kv_len", "0"), ("kv_len", "11")] {
        assert_eq!(kind("split-kv-decode", &[option], &plain), ErrorKind::Parameter, "{option:?}");
    }
    assert_eq!(kind("split-kv-decode", &[], &with(vec![("lengths", indices(&[11]))])), ErrorKind::Index);
    let searched = with(index(&mut numbers, [1, 3, 10, 2, 4]));
    for option in [("topk", "0"), ("block_topk", "0"), ("block_size", "0")] {
        assert_eq!(kind("hisa", &[option], &searched), ErrorKind::Parameter, "{option:?}");
    }
    let gated = with(vec![("gates", numbers.reals(&[1, 2, 3, 3]))]);
    for option in [("cmp_length", "24"), ("sel_block", "40"), ("cmp_stride", "0"), ("sel_count", "0"), ("window", "0")]
    {
        assert_eq!(kind("native-sparse-attention", &[option], &gated), ErrorKind::Parameter, "{option:?}");
    }
    let list = HostTensor::new(&[1, 3, 1], vec![0, 9, 10]).expect("a list");
    assert_eq!(kind("token-list-attention", &[], &with(vec![("indices", list)])), ErrorKind::Index);
}
