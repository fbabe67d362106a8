//! Lifetimes of transient slots and the blocks they share.

use super::{Plan, SlotId, SlotRole};

/// Which block of scratch memory each transient slot uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes of each block.
    pub blocks: Vec<u64>,
    /// Block of each slot; `None` for slots that are not transient.
    pub block: Vec<Option<usize>>,
}

impl Memory {
    /// Bytes of all blocks.
    pub fn bytes(&self) -> u64 {
        self.blocks.iter().sum()
    }
}

impl Plan {
    /// Assigns blocks to transient slots: a block is free again after the last stage that uses its slot.
    ///
    /// Whole buffers are shared and not ranges of one, because WebGPU tracks usage by buffer: two ranges of one buffer can not
    /// be read and written by one dispatch.
    pub fn memory(&self) -> Memory {
        let mut life: Vec<Option<(usize, usize)>> = vec![None; self.slots.len()];
        for n in 0..self.stages.len() {
            for SlotId(slot) in self.uses(n) {
                life[slot] = Some(life[slot].map_or((n, n), |(first, _)| (first, n)));
            }
        }
        let mut memory = Memory { blocks: Vec::new(), block: vec![None; self.slots.len()] };
        let mut busy: Vec<usize> = Vec::new(); // last stage that uses each block
        for n in 0..self.stages.len() {
            for (slot, span) in life.iter().enumerate() {
                let Some((first, last)) = *span else { continue };
                if first != n || self.slots[slot].role != SlotRole::Transient {
                    continue;
                }
                let bytes = (self.slots[slot].layout.len() * self.slots[slot].dtype.size()).next_multiple_of(16) as u64;
                // The free block that wastes least: the smallest that is large enough, else the largest, grown.
                let free = (0..busy.len()).filter(|&b| busy[b] < n);
                let best = free.min_by_key(|&b| {
                    let size = memory.blocks[b];
                    if size >= bytes { (0, size - bytes) } else { (1, bytes - size) }
                });
                let block = best.unwrap_or_else(|| {
                    memory.blocks.push(0);
                    busy.push(0);
                    busy.len() - 1
                });
                memory.blocks[block] = memory.blocks[block].max(bytes);
                busy[block] = last;
                memory.block[slot] = Some(block);
            }
        }
        memory
    }

    /// The slots that stage `n` touches.
    pub fn uses(&self, n: usize) -> Vec<SlotId> {
        let stage = &self.stages[n];
        let mut slots: Vec<SlotId> = stage.bindings.iter().map(|(_, r)| r.slot).collect();
        slots.extend(stage.tables.iter().map(|(_, r, _)| r.slot));
        slots.extend(stage.hooks.iter().flat_map(|h| &h.args).filter_map(|arg| Some(arg.value.tensor()?.0.slot)));
        slots
    }
}
