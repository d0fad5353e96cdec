//! Text that is not shown.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// What stands for a secret wherever a value is shown.
pub(crate) const NOT_SHOWN: &str = "(set, not shown)";

/// A password or the like. Neither its debug form nor its serialised form shows it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text, for whoever must send it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NOT_SHOWN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(NOT_SHOWN)
    }
}
