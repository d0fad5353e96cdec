//! Where objects are kept, and how long anything may take.

use hicache_core::{Error, Result};

use crate::parameters::{ObjParameters, Parameters};

/// Configuration of [`NixlObjStorage`](super::NixlObjStorage).
#[derive(Clone, Debug)]
pub struct NixlObjConfig {
    /// What the plugin is told.
    pub parameters: ObjParameters,
    /// What the names of all objects begin with.
    pub prefix: String,
    /// Whether nothing is stored.
    pub read_only: bool,
    /// Longest that a page of a load, or an answer about one, may take.
    pub load_timeout_ms: u64,
    /// Longest that a page of a store may take.
    pub store_timeout_ms: u64,
    /// Most pages on their way at a time.
    pub concurrency: usize,
    /// Memory through which pages go.
    pub staging_bytes: u64,
}

impl NixlObjConfig {
    /// The defaults, for a plugin that is told `parameters`.
    pub fn new(parameters: ObjParameters) -> Self {
        Self {
            parameters,
            prefix: "hicache-nixl".into(),
            read_only: false,
            load_timeout_ms: 5_000,
            store_timeout_ms: 30_000,
            concurrency: 32,
            staging_bytes: 128 << 20,
        }
    }

    /// Refuses what can't work.
    ///
    /// # Errors
    /// `Config` that names the field.
    pub fn validate(&self) -> Result<()> {
        Parameters::Obj(self.parameters.clone()).validate()?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
        let bad = self.prefix.is_empty()
            || !self.prefix.bytes().all(plain)
            || self.prefix.split('/').any(|part| part.is_empty() || part.chars().all(|c| c == '.'));
        if bad {
            return Err(Error::config(format!(
                "nixl_obj.prefix = {:?} must be letters, digits and ._- with single slashes inside",
                self.prefix
            )));
        }
        if self.load_timeout_ms == 0 || self.store_timeout_ms == 0 || self.concurrency == 0 {
            return Err(Error::config(
                "nixl_obj.load_timeout_ms, store_timeout_ms and concurrency must be above 0",
            ));
        }
        Ok(())
    }
}
