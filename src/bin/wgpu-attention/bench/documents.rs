//! Sixteen documents in one sequence: as a mask given as code, packed (the ideal: no mask at all), and dense.

use super::workload::{Cut, Group, Input, Job, Workload, set};
use wgpu_attention::{Along, Hooked, HostTensor, Result, UserHook, Variant};

const COUNT: usize = 16;

/// Documents that follow each other in one sequence.
#[derive(Clone, Debug)]
pub struct Documents {
    /// Where each begins, and where the last ends.
    starts: Vec<usize>,
    /// The numbers of the tokens' documents are an input of the call, not part of the plan.
    call: bool,
}

/// Name of the input that has the number of each token's document.
const NUMBERS: &str = "documents";

impl Documents {
    /// As many tokens each.
    fn equal(length: usize) -> Self {
        Documents { starts: (0..=COUNT).map(|n| n * length / COUNT).collect(), call: false }
    }

    /// The first is about an eighth of all; the others end wherever they do, beside the edges of tiles.
    fn uneven(length: usize) -> Self {
        let first = length * 500 / 4096;
        let start = |n: usize| n.checked_sub(1).map_or(0, |n| first + n * (length - first) / (COUNT - 1));
        Documents { starts: (0..=COUNT).map(start).collect(), call: false }
    }

    fn length(&self) -> usize {
        self.starts[COUNT]
    }

    /// Pairs of tokens of one document.
    fn pairs(&self) -> f64 {
        self.starts.windows(2).map(|w| ((w[1] - w[0]) as f64).powi(2)).sum()
    }

    fn number(&self, token: usize) -> i32 {
        self.starts.iter().skip(1).filter(|&&start| start <= token).count() as i32
    }

    fn numbers(&self) -> Result<HostTensor> {
        HostTensor::new(&[self.length()], (0..self.length()).map(|n| self.number(n)).collect::<Vec<_>>())
    }

    /// The variant with the mask as a user's code.
    pub fn mask(&self, variant: Box<dyn Variant>) -> Result<Box<dyn Variant>> {
        let text = "fn mask(at: At, of_query: i32, of_key: i32) -> bool { return of_query == of_key; }";
        let (hook, numbers) = (UserHook::mask(text)?, self.numbers()?);
        let hook = if self.call {
            hook.with("of_query", (NUMBERS, Along::Queries))?.with("of_key", (NUMBERS, Along::Keys))?
        } else {
            hook.with("of_query", (&numbers, Along::Queries))?.with("of_key", (&numbers, Along::Keys))?
        };
        Ok(Box::new(Hooked::new(variant).hook(hook)))
    }

    /// The same for the oracle, which knows no code: the mask of some rows over the first `keys` keys.
    pub fn table(&self, row: usize, rows: usize, keys: usize) -> Result<HostTensor> {
        let same = |n: usize| u8::from(self.number(row + n / keys) == self.number(n % keys));
        HostTensor::new(&[rows, keys], (0..rows * keys).map(same).collect::<Vec<_>>())
    }

    fn job(&self, heads: usize, d: usize, half: bool, call: bool) -> Result<Job> {
        let shape = [1, heads, self.length(), d];
        let mut inputs: Vec<Input> = ["q", "k", "v"].map(|name| Input::normal(name, &shape, half)).into();
        if call {
            inputs.push(Input::given(NUMBERS, self.numbers()?));
        }
        Ok(Job {
            variant: "dense-attention",
            params: vec![set("pattern", "noncausal_self")],
            inputs,
            flops: 4.0 * (heads * d) as f64 * self.pairs(),
            touched: None,
            cut: Cut::Rows { causal: false, block: 1 },
            documents: Some(Documents { call, ..self.clone() }),
        })
    }

    fn packed(&self, heads: usize, d: usize, half: bool) -> Result<Job> {
        let shape = [heads, self.length(), d];
        let cu: Vec<i32> = self.starts.iter().map(|&n| n as i32).collect();
        let mut inputs: Vec<Input> = ["q", "k", "v"].map(|name| Input::normal(name, &shape, half)).into();
        for name in ["cu_q", "cu_k"] {
            inputs.push(Input::given(name, HostTensor::new(&[cu.len()], cu.clone())?));
        }
        Ok(Job {
            variant: "varlen-attention",
            params: Vec::new(),
            inputs,
            flops: 4.0 * (heads * d) as f64 * self.pairs(),
            touched: None,
            cut: Cut::Sequences { causal: false },
            documents: None,
        })
    }
}

/// M1 and M2 for a GPU, M3 and M4 for a CPU: equal and uneven documents. `dense` makes the dense job of [B, H, L, D].
pub fn workloads(dense: &dyn Fn([usize; 4], bool) -> Job) -> Result<Vec<Workload>> {
    let mut list = Vec::new();
    for (group, [heads, length, d], half, names) in [
        (Group::Gpu, [16, 16384, 128], true, [["M1", "M1@dense", "M1@packed"], ["M2", "M1@dense", "M2@packed"]]),
        (Group::Cpu, [8, 4096, 64], false, [["M3", "M3@dense", "M3@packed"], ["M4", "M3@dense", "M4@packed"]]),
    ] {
        let sizes = format!("1,{heads},{heads},{length},{d} {}", if half { "f16" } else { "f32" });
        let mut push = |id: String, what: &str, job, dense, ideal| {
            list.push(Workload { id, shape: format!("{sizes} {what}"), group, dense, ideal, job });
        };
        push(names[0][1].to_owned(), "full", dense([1, heads, length, d], half), None, None);
        for ([id, dense, ideal], documents, how) in [
            (names[0], Documents::equal(length), "16 equal documents"),
            (names[1], Documents::uneven(length), "16 uneven documents"),
        ] {
            push(ideal.to_owned(), &format!("{how} packed"), documents.packed(heads, d, half)?, Some(dense), None);
            for (name, call) in [("documents", false), ("documents-call", true)] {
                let job = documents.job(heads, d, half, call)?;
                push(format!("{id}-{name}"), how, job, Some(dense), Some(ideal));
            }
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wgpu_attention::Runtime;
    use wgpu_attention::kernel::attend::Visits;

    /// Tiles that a loop over the keys visits, for tiles of rows that do not cross blocks of `block` rows. Keys are those from the first to the
    /// last that the tile sees; `listed`: those of the blocks of 64 keys that some row of its block sees.
    fn brute(documents: &Documents, [rows, keys]: [usize; 2], block: usize, listed: bool, joined: bool) -> u64 {
        let length = documents.length();
        let mut tiles = 0;
        for start in (0..length).step_by(block) {
            for first in (start..(start + block).min(length)).step_by(rows) {
                let rows = if listed { start..(start + block).min(length) } else { first..(first + rows).min(length) };
                let sees = |j: usize| rows.clone().any(|i| documents.number(i) == documents.number(j));
                let blocks: Vec<bool> =
                    (0..length).step_by(64).map(|from| (from..(from + 64).min(length)).any(sees)).collect();
                let seen: Vec<usize> = (0..length).filter(|&j| if listed { blocks[j / 64] } else { sees(j) }).collect();
                let from = if listed { 0 } else { seen[0] };
                let mut steps: Vec<usize> = seen.iter().map(|j| (j - from) / keys).collect();
                steps.dedup();
                tiles += if joined { seen.len().div_ceil(keys) } else { steps.len() } as u64;
            }
        }
        tiles
    }

    fn visits(documents: &Documents, call: bool, runtime: &Runtime) -> Visits {
        let job = documents.job(2, 64, false, call).expect("a job");
        let variant = job.make().expect("a variant");
        let inputs = super::super::workload::inputs(&job.tensors(0).expect("tensors"));
        let plan = runtime.plan(&*variant, &inputs).expect("a plan");
        let found = runtime.visits(&plan, &inputs).expect("visits");
        assert_eq!(found.len(), 1);
        found[0].1.expect("all is known")
    }

    #[test]
    fn visits_are_those_of_brute_force() {
        let mut runtimes = vec![Runtime::cpu()];
        // Software adapters are taken only by name.
        let required = std::env::var("WGPU_ATTENTION_REQUIRE").unwrap_or_default();
        for name in ["lavapipe", "swiftshader"] {
            let options = wgpu_attention::gpu::GpuOptions { adapter: Some(name.into()), ..Default::default() };
            match Runtime::gpu_blocking(&options) {
                Ok(runtime) => runtimes.push(runtime),
                Err(e) if required.split(',').any(|r| r.trim() == name) => panic!("{name} is required: {e}"),
                Err(e) => println!("not covered: {name}; {e}"),
            }
        }
        for runtime in &runtimes {
            // The CPU engine joins what is listed before it cuts tiles.
            let joined = matches!(runtime.engine(), wgpu_attention::Engine::Cpu(_));
            for documents in [Documents::equal(1100), Documents::uneven(1100), Documents::uneven(4096)] {
                let length = documents.length();
                for (call, block) in [(false, length), (true, 128)] {
                    let found = visits(&documents, call, runtime);
                    let tile = [found.rows, found.keys];
                    let name = format!("{runtime}: {length} tokens, given at the call: {call}, {tile:?}");
                    assert_eq!(found.visited, 2 * brute(&documents, tile, block, call, joined), "{name}");
                    let blocks = (0..length).step_by(block).map(|start| block.min(length - start).div_ceil(tile[0]));
                    let dense = blocks.sum::<usize>() * length.div_ceil(tile[1]);
                    assert_eq!(found.dense, 2 * dense as u64, "{name}");
                }
            }
        }
    }
}
