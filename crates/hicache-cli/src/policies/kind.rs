//! The policies by name.

use std::fmt;
use std::str::FromStr;

/// A policy that [`simulate`](super::simulate) knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PolicyKind {
    /// Least recently used, a request's pages touched and stored in their order.
    Lru,
    /// Least recently used, each call's pages touched and stored from the last to the first, so that heads outlive
    /// tails. What the page store does.
    LruFromEnd,
    /// Adaptive replacement cache (Megiddo and Modha, FAST '03).
    Arc,
    /// Three FIFO queues (Yang et al., SOSP '23), with its usual tenth for newcomers.
    S3Fifo,
    /// The most hits that any policy can have that holds no more pages between two requests: it knows the future, evicts
    /// what is needed last, and need not store what others would have to evict. Belady's optimum for whole requests; exact
    /// where the requests are chains.
    Optimum,
}

impl PolicyKind {
    /// All policies, ours after plain LRU and the optimum last: the order of a table.
    pub const ALL: [Self; 5] = [Self::Lru, Self::LruFromEnd, Self::Arc, Self::S3Fifo, Self::Optimum];

    /// The name by which a policy is asked for and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lru => "lru",
            Self::LruFromEnd => "lru-from-end",
            Self::Arc => "arc",
            Self::S3Fifo => "s3-fifo",
            Self::Optimum => "optimum",
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for PolicyKind {
    type Err = UnknownPolicy;

    /// Reads a [name](PolicyKind::name), in any case.
    fn from_str(given: &str) -> Result<Self, UnknownPolicy> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name().eq_ignore_ascii_case(given))
            .ok_or_else(|| UnknownPolicy { given: given.to_owned() })
    }
}

/// A name that is no policy's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPolicy {
    given: String,
}

impl fmt::Display for UnknownPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no policy is called {:?}; give ", self.given)?;
        for (index, kind) in PolicyKind::ALL.into_iter().enumerate() {
            let joint = match index {
                0 => "",
                _ if index + 1 == PolicyKind::ALL.len() => " or ",
                _ => ", ",
            };
            write!(f, "{joint}{kind}")?;
        }
        Ok(())
    }
}

impl std::error::Error for UnknownPolicy {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_shown() {
        for kind in PolicyKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            assert_eq!(kind.name().to_uppercase().parse(), Ok(kind));
        }
        assert_eq!(format!("{:>5}|", PolicyKind::Arc), "  arc|");
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let error = "lfu".parse::<PolicyKind>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "no policy is called \"lfu\"; give lru, lru-from-end, arc, s3-fifo or optimum"
        );
        assert!("".parse::<PolicyKind>().is_err());
    }
}
