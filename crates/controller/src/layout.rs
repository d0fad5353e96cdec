//! How the bytes of a page lie in memory.
//!
//! A page holds, for keys and values, for each layer, token and head, one row of `head_dim` elements. A layout says in
//! which *buffer* of the page a row is and where. With `L` layers, `T` tokens a page, `H` heads:
//!
//! | layout | buffers of a page (MHA; MLA has one in place of two) | rows in a buffer |
//! |---|---|---|
//! | `layer_first` | 2·L: k0, v0, k1, v1, … | T, H |
//! | `page_first` | 2: k, v | T, L, H |
//! | `page_first_direct` | 2 | L, T, H |
//! | `page_head` | 2; not with MLA | H, T, L |
//!
//! Source of the layouts: SGLang 0.5.23, `mem_cache/pool_host/mha.py` and `mla.py`.

use std::fmt;
use std::str::FromStr;

use hicache_core::{Block, CopyPlan, Error, Place, Result};

/// Where the rows of a page lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// One buffer a layer, as models compute in.
    LayerFirst,
    /// All layers of a token side by side.
    PageFirst,
    /// The layers of a page one after the other: contiguous pages, and contiguous layers in them.
    PageFirstDirect,
    /// The heads of a page one after the other, so that ranks with fewer heads read a part.
    PageHead,
}

impl Layout {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::LayerFirst, Self::PageFirst, Self::PageFirstDirect, Self::PageHead];

    /// Its name, as SGLang spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LayerFirst => "layer_first",
            Self::PageFirst => "page_first",
            Self::PageFirstDirect => "page_first_direct",
            Self::PageHead => "page_head",
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Layout {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        crate::config::one_of("layout", text, Self::ALL, Self::as_str)
    }
}

/// What kind of attention fills the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attention {
    /// Keys and values for each head.
    Mha,
    /// One compressed row a token and layer, the same on all ranks.
    Mla,
}

/// What a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageShape {
    /// Keys and values, or one compressed row.
    pub attention: Attention,
    /// Tokens in a page.
    pub page_tokens: usize,
    /// Layers held by this rank.
    pub layers: usize,
    /// Heads held by this rank; 1 with MLA.
    pub heads: usize,
    /// Elements of a row.
    pub head_dim: usize,
    /// Bytes of an element.
    pub element_bytes: usize,
}

/// Where a row is: `buffer`, and its offset as a sum.
struct Strides {
    buffer: usize,
    offset: usize,
    token: usize,
    head: usize,
}

impl PageShape {
    /// Refuses what holds nothing, or more than can be addressed.
    ///
    /// # Errors
    /// `Config`, naming the field and the value.
    pub fn validate(&self) -> Result<()> {
        let fields = [
            ("page_tokens", self.page_tokens),
            ("layers", self.layers),
            ("heads", self.heads),
            ("head_dim", self.head_dim),
            ("element_bytes", self.element_bytes),
        ];
        for (name, value) in fields {
            if value == 0 {
                return Err(Error::config(format!("{name} is 0; a page has at least 1")));
            }
        }
        if self.attention == Attention::Mla && self.heads != 1 {
            return Err(Error::config(format!("heads is {}; pages of MLA have 1", self.heads)));
        }
        let product = fields.iter().try_fold(2_usize, |product, (_, value)| product.checked_mul(*value));
        if product.is_none_or(|bytes| bytes > u32::MAX as usize - 4095) {
            return Err(Error::config("a page of this shape has more than 4 GiB; use fewer page_tokens"));
        }
        Ok(())
    }

    /// Keys and values: 2; compressed: 1.
    pub fn kinds(&self) -> usize {
        match self.attention {
            Attention::Mha => 2,
            Attention::Mla => 1,
        }
    }

    fn row(&self) -> usize {
        self.head_dim * self.element_bytes
    }

    /// Bytes of a page in any layout.
    pub fn page_bytes(&self) -> usize {
        self.kinds() * self.layers * self.page_tokens * self.heads * self.row()
    }

    /// How many buffers a page has.
    pub fn buffers(&self, layout: Layout) -> usize {
        match layout {
            Layout::LayerFirst => self.kinds() * self.layers,
            _ => self.kinds(),
        }
    }

    /// Bytes of each buffer of a page.
    pub fn buffer_bytes(&self, layout: Layout) -> usize {
        self.page_bytes() / self.buffers(layout)
    }

    /// How the buffers are spread: regions, and planes in each. Buffers that storage shall see as they are lie in
    /// regions of their own; where there are many, one lease for all of them counts for more.
    pub(crate) fn regions(&self, layout: Layout) -> (usize, usize) {
        match layout {
            Layout::LayerFirst => (1, self.buffers(layout)),
            _ => (self.kinds(), 1),
        }
    }

    fn strides(&self, layout: Layout, kind: usize, layer: usize) -> Strides {
        let (tokens, layers, heads, row) = (self.page_tokens, self.layers, self.heads, self.row());
        match layout {
            Layout::LayerFirst => {
                Strides { buffer: layer * self.kinds() + kind, offset: 0, token: heads * row, head: row }
            }
            Layout::PageFirst => {
                Strides { buffer: kind, offset: layer * heads * row, token: layers * heads * row, head: row }
            }
            Layout::PageFirstDirect => {
                Strides { buffer: kind, offset: layer * tokens * heads * row, token: heads * row, head: row }
            }
            Layout::PageHead => Strides {
                buffer: kind,
                offset: layer * row,
                token: layers * row,
                head: tokens * layers * row,
            },
        }
    }

    /// The blocks of one layer, from one layout to another.
    fn layer(&self, from: Layout, to: Layout, layer: usize) -> impl Iterator<Item = Block> {
        let place = move |layout, kind| {
            let at = self.strides(layout, kind, layer);
            Place { buffer: at.buffer, offset: at.offset, strides: [at.token, at.head] }
        };
        (0..self.kinds()).map(move |kind| {
            let block = Block {
                from: place(from, kind),
                to: place(to, kind),
                bytes: self.row(),
                counts: [self.page_tokens, self.heads],
            };
            block.merged()
        })
    }

    fn plan(&self, from: Layout, to: Layout, steps: Vec<Vec<Block>>) -> Result<CopyPlan> {
        let lengths = |layout| vec![self.buffer_bytes(layout); self.buffers(layout)];
        CopyPlan::new(steps, lengths(from), lengths(to))
    }

    /// Copies a page layer by layer: one step a layer.
    ///
    /// # Errors
    /// `Config` for a shape that [`PageShape::validate`] refuses.
    pub fn by_layer(&self, from: Layout, to: Layout) -> Result<CopyPlan> {
        self.validate()?;
        self.plan(from, to, (0..self.layers).map(|layer| self.layer(from, to, layer).collect()).collect())
    }

    /// Copies a page as a whole: one step.
    ///
    /// # Errors
    /// As [`PageShape::by_layer`].
    pub fn whole(&self, from: Layout, to: Layout) -> Result<CopyPlan> {
        self.validate()?;
        let step = if from == to {
            let whole = |buffer| Place { buffer, offset: 0, strides: [0; 2] };
            let bytes = self.buffer_bytes(from);
            let block = |buffer| Block { from: whole(buffer), to: whole(buffer), bytes, counts: [1, 1] };
            (0..self.buffers(from)).map(block).collect()
        } else {
            (0..self.layers).flat_map(|layer| self.layer(from, to, layer)).collect()
        };
        self.plan(from, to, vec![step])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: PageShape = PageShape {
        attention: Attention::Mha,
        page_tokens: 4,
        layers: 3,
        heads: 2,
        head_dim: 5,
        element_bytes: 2,
    };

    /// The plan in plain memory, buffer after buffer.
    fn apply(plan: &CopyPlan, from: &[u8], to: &mut [u8]) {
        for block in plan.steps().iter().flatten() {
            let start = |place: &Place, lengths: &[usize]| {
                lengths[..place.buffer].iter().sum::<usize>() + place.offset
            };
            let (a, b) = (start(&block.from, plan.from_bytes()), start(&block.to, plan.to_bytes()));
            for outer in 0..block.counts[0] {
                for inner in 0..block.counts[1] {
                    let at = |s: [usize; 2]| outer * s[0] + inner * s[1];
                    let (a, b) = (a + at(block.from.strides), b + at(block.to.strides));
                    to[b..b + block.bytes].copy_from_slice(&from[a..a + block.bytes]);
                }
            }
        }
    }

    #[test]
    fn every_layout_becomes_every_other_and_back() {
        let mla = PageShape { attention: Attention::Mla, heads: 1, ..SHAPE };
        for shape in [SHAPE, mla] {
            let bytes: Vec<u8> = (0..shape.page_bytes()).map(|i| i as u8).collect();
            for from in Layout::ALL {
                for to in Layout::ALL {
                    for by_layer in [false, true] {
                        let plan = |a, b| if by_layer { shape.by_layer(a, b) } else { shape.whole(a, b) };
                        let there = plan(from, to).unwrap();
                        assert_eq!(there.page_bytes(), shape.page_bytes());
                        assert_eq!(there.steps().len(), if by_layer { 3 } else { 1 });
                        let (mut other, mut back) = (vec![0; bytes.len()], vec![0; bytes.len()]);
                        apply(&there, &bytes, &mut other);
                        apply(&plan(to, from).unwrap(), &other, &mut back);
                        assert_eq!(back, bytes, "{from} {to}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_lies_where_the_table_says() {
        // Row (v, layer 2, token 3, head 1) of each layout, seen from layer_first.
        let row = SHAPE.row();
        let source = SHAPE.buffer_bytes(Layout::LayerFirst) * 5 + (3 * 2 + 1) * row;
        let kind = SHAPE.page_bytes() / 2;
        for (layout, at) in [
            (Layout::PageFirst, kind + ((3 * 3 + 2) * 2 + 1) * row),
            (Layout::PageFirstDirect, kind + ((2 * 4 + 3) * 2 + 1) * row),
            (Layout::PageHead, kind + ((4 + 3) * 3 + 2) * row),
        ] {
            let mut from = vec![0; SHAPE.page_bytes()];
            from[source..source + row].fill(7);
            let mut to = vec![0; SHAPE.page_bytes()];
            apply(&SHAPE.whole(Layout::LayerFirst, layout).unwrap(), &from, &mut to);
            assert_eq!(to.iter().position(|&byte| byte == 7), Some(at), "{layout}");
        }
    }

    #[test]
    fn bad_shapes_and_names_are_refused() {
        for bad in [
            PageShape { page_tokens: 0, ..SHAPE },
            PageShape { layers: 0, ..SHAPE },
            PageShape { attention: Attention::Mla, ..SHAPE },
            PageShape { head_dim: usize::MAX, ..SHAPE },
        ] {
            assert!(bad.validate().is_err() && bad.whole(Layout::PageFirst, Layout::PageHead).is_err());
        }
        let error = "page_last".parse::<Layout>().unwrap_err().to_string();
        assert!(error.contains("page_last") && error.contains("page_first_direct"), "{error}");
    }
}
