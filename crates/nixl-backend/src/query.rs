//! What is known of an object or a file.

use hicache_core::Result;

use crate::agent::BackendHandle;
use crate::handles::RegistrationList;
use crate::memory::MemoryType;

/// What a plugin knows of one thing, as names and values; `None` of one that is not there.
pub type Known = Option<Vec<(String, String)>>;

impl BackendHandle {
    /// Asks the plugin for each name what it knows: objects by key (one HEAD each), files by path (a stat each). `None`
    /// is what is not there, or lies in a bucket that is not there: the plugins don't tell these apart.
    ///
    /// # Errors
    /// `Io` if the plugin fails, for one or all: it does not say which; `Closed` in a forked child.
    pub fn query(&self, kind: MemoryType, names: &[impl AsRef<str>]) -> Result<Vec<Known>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        self.agent().0.refuse_fork()?;
        let mut list = RegistrationList::new(self.agent().library(), kind.code())?;
        for (number, name) in (0..).zip(names) {
            list.add(0, 0, number, name.as_ref().as_bytes())?;
        }
        let found = self.agent().0.handle.query(&list, &self.0.options).map_err(|error| {
            let what = format!("{} names: {}", names.len(), error.message());
            self.error(error.kind(), &what).with_operation("query")
        })?;
        if found.len() == names.len() {
            return Ok(found);
        }
        let what = format!("{} names were asked for and {} answered", names.len(), found.len());
        Err(self.error(hicache_core::ErrorKind::Unexpected, &what).with_operation("query"))
    }
}
