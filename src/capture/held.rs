//! The last packets, in memory: a bounded number of bytes, from which the oldest go when there is no room.

use std::collections::VecDeque;

/// A part of so much at most goes at once: one in sixteen.
const PARTS: u64 = 16;

/// Packets as blocks of a file, in the order in which they came.
#[derive(Debug)]
pub struct Held {
    chunks: VecDeque<Chunk>,
    most: u64,
    bytes: u64,
    forgotten: u64,
}

#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    packets: u64,
}

impl Held {
    /// For so many bytes at most.
    pub fn new(most: u64) -> Self {
        Self { chunks: VecDeque::new(), most, bytes: 0, forgotten: 0 }
    }

    /// Adds a packet, which `write` writes.
    pub fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let whole = |chunk: &Chunk| chunk.bytes.len() as u64 >= self.most / PARTS;
        if self.chunks.back().is_none_or(whole) {
            self.chunks.push_back(Chunk::default());
        }
        if let Some(chunk) = self.chunks.back_mut() {
            let before = chunk.bytes.len();
            write(&mut chunk.bytes);
            chunk.packets += 1;
            self.bytes += (chunk.bytes.len() - before) as u64;
        }
        // The newest stays in any case: a bound below one packet would keep nothing.
        while self.bytes > self.most && self.chunks.len() > 1 {
            if let Some(oldest) = self.chunks.pop_front() {
                self.bytes -= oldest.bytes.len() as u64;
                self.forgotten += oldest.packets;
            }
        }
    }

    /// How many bytes there may be.
    pub fn most(&self) -> u64 {
        self.most
    }

    /// How many packets have gone.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// What is there.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.chunks.iter().map(|chunk| chunk.bytes.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_and_are_counted() {
        let mut held = Held::new(1000);
        for number in 0..100u8 {
            held.add(|out| out.extend([number; 50]));
        }
        let kept: Vec<u8> = held.chunks().flat_map(|chunk| chunk.iter().copied().step_by(50)).collect();
        assert_eq!(kept.len() as u64 + held.forgotten(), 100);
        assert!((15..=20).contains(&kept.len()), "{}", kept.len());
        assert_eq!(kept, (100 - kept.len() as u8..100).collect::<Vec<u8>>());
    }

    #[test]
    fn one_that_is_larger_than_the_bound_is_kept() {
        let mut held = Held::new(10);
        (0..3u8).for_each(|number| held.add(|out| out.extend([number; 50])));
        assert_eq!(held.chunks().collect::<Vec<_>>(), [[2; 50]]);
        assert_eq!(held.forgotten(), 2);
    }
}
