//! One request of a workload.

/// Tokens in a block, and so in a page: what the Mooncake traces hash together.
pub(super) const BLOCK_TOKENS: u32 = 512;

/// One request: when it came, how long it was, and the blocks of its prompt.
///
/// A block is one page of 512 tokens, the last one of a prompt possibly fewer. An id stands for a block *and everything
/// before it*: two requests that share an id share the whole prompt up to and including that block. So the ids of a
/// request are a chain, and the blocks that two requests share are a common prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Milliseconds since the start of the workload.
    pub timestamp_ms: u64,
    /// Length of the prompt, in tokens.
    pub input_tokens: u32,
    /// Length of the answer, in tokens.
    pub output_tokens: u32,
    /// The blocks of the prompt from its start. May be empty.
    pub blocks: Vec<u64>,
}
