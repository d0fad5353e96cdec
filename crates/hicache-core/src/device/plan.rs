//! Which bytes of a page go where.

use crate::error::{Error, Result};

/// Where one side of a [`Block`] lies in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which buffer of the page.
    pub buffer: usize,
    /// Where the first run starts, in bytes from the buffer's start.
    pub offset: usize,
    /// Bytes from one run to the next: of the outer count, of the inner count.
    pub strides: [usize; 2],
}

impl Place {
    /// One past the last byte; `None` if it overflows.
    fn end(&self, bytes: usize, counts: [usize; 2]) -> Option<usize> {
        let last = |i: usize| counts[i].checked_sub(1)?.checked_mul(self.strides[i]);
        self.offset.checked_add(last(0)?)?.checked_add(last(1)?)?.checked_add(bytes)
    }
}

/// A grid of runs of equal length: `counts[0]` times `counts[1]` runs of `bytes` bytes, at two strides on either side.
/// A block of one run is a plain copy; one with an inner count of 1 is what drivers call a 2D copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Where the runs are.
    pub from: Place,
    /// Where they go.
    pub to: Place,
    /// Length of a run.
    pub bytes: usize,
    /// How many runs: outer, inner.
    pub counts: [usize; 2],
}

impl Block {
    /// The same bytes in as few runs as possible: neighbours on both sides become one run.
    pub fn merged(mut self) -> Self {
        for _ in 0..2 {
            if self.counts[1] == 1 {
                self.counts.swap(0, 1);
                self.from.strides.swap(0, 1);
                self.to.strides.swap(0, 1);
            }
            if self.from.strides[1] == self.bytes && self.to.strides[1] == self.bytes {
                self.bytes *= self.counts[1];
                self.counts[1] = 1;
            }
        }
        self
    }
}

/// What is copied of a page: blocks, in steps that are reported one by one. The blocks of a step are copied in no order,
/// so their targets shall not overlap. Checked once, and then used for any number of pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyPlan {
    steps: Vec<Vec<Block>>,
    from_bytes: Vec<usize>,
    to_bytes: Vec<usize>,
}

impl CopyPlan {
    /// A plan between pages whose buffers have these lengths.
    ///
    /// # Errors
    /// `Config` for a plan of no steps, and for a block that reaches outside its buffer.
    pub fn new(steps: Vec<Vec<Block>>, from_bytes: Vec<usize>, to_bytes: Vec<usize>) -> Result<Self> {
        if steps.is_empty() {
            return Err(Error::config("a copy plan of no steps copies nothing"));
        }
        let fits = |place: &Place, block: &Block, lengths: &[usize]| {
            let end = place.end(block.bytes, block.counts);
            lengths.get(place.buffer).is_some_and(|&length| end.is_some_and(|end| end <= length))
        };
        for block in steps.iter().flatten() {
            if !fits(&block.from, block, &from_bytes) || !fits(&block.to, block, &to_bytes) {
                return Err(Error::config(format!(
                    "{block:?} reaches outside the buffers of a page: {from_bytes:?} to {to_bytes:?} bytes"
                )));
            }
        }
        Ok(Self { steps, from_bytes, to_bytes })
    }

    /// The steps.
    pub fn steps(&self) -> &[Vec<Block>] {
        &self.steps
    }

    /// Length of each buffer that is read.
    pub fn from_bytes(&self) -> &[usize] {
        &self.from_bytes
    }

    /// Length of each buffer that is written.
    pub fn to_bytes(&self) -> &[usize] {
        &self.to_bytes
    }

    /// Bytes that are copied of a page.
    pub fn page_bytes(&self) -> usize {
        self.steps.iter().flatten().map(|block| block.bytes * block.counts[0] * block.counts[1]).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(offset: usize, strides: [usize; 2]) -> Place {
        Place { buffer: 0, offset, strides }
    }

    #[test]
    fn neighbours_become_one_run() {
        let block =
            Block { from: place(0, [8, 4]), to: place(64, [8, 4]), bytes: 4, counts: [3, 2] }.merged();
        assert_eq!((block.bytes, block.counts), (24, [1, 1]));
        let block =
            Block { from: place(0, [16, 4]), to: place(0, [8, 4]), bytes: 4, counts: [3, 2] }.merged();
        assert_eq!((block.bytes, block.counts.iter().product::<usize>()), (8, 3));
    }

    #[test]
    fn a_block_outside_its_buffer_is_refused() {
        let block = Block { from: place(0, [8, 4]), to: place(0, [8, 4]), bytes: 4, counts: [3, 2] };
        let plan = |from, to| CopyPlan::new(vec![vec![block]], vec![from], vec![to]);
        assert_eq!(plan(24, 24).unwrap().page_bytes(), 24);
        assert!(plan(23, 24).is_err() && plan(24, 23).is_err());
        assert!(CopyPlan::new(vec![vec![block]], vec![], vec![24]).is_err());
        assert!(CopyPlan::new(vec![], vec![24], vec![24]).is_err());
        let huge = Block { bytes: usize::MAX, ..block };
        assert!(CopyPlan::new(vec![vec![huge]], vec![24], vec![24]).is_err());
    }
}
