//! What the facade lists: one backend a plugin, and the probes that say whether it works here.

pub mod gpu;
mod probe;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hicache_core::probing::probe_on_a_thread;
use hicache_core::{
    Backend, Check, Engine, Error, ErrorKind, Namespace, Offer, ProbeContext, ProbeReport, Result, Storage,
};

use crate::engine::{IoMode, NixlEngine, NixlEngineConfig};
use crate::library::{Library, LibrarySearch};
use crate::obj::{NixlObjConfig, NixlObjStorage};
use crate::parameters::Parameters;
use crate::plugin::Plugin;

/// How long a probe may take before its plugin is given up.
const LONGEST_PROBE: Duration = Duration::from_secs(60);

/// Where NIXL is.
#[derive(Clone, Debug, Default)]
pub struct NixlPlace {
    /// Where the library is looked for.
    pub search: LibrarySearch,
    /// The value of `NIXL_PLUGIN_DIR`, which the library reads by itself: where it looks for plugins, and nowhere else.
    pub plugin_directory: Option<PathBuf>,
}

impl NixlPlace {
    /// The library.
    ///
    /// # Errors
    /// `Config` for a plugin directory that is not there; as [`Library::open`].
    pub fn open(&self) -> Result<Arc<Library>> {
        if let Some(directory) = self.plugin_directory.as_deref().filter(|directory| !directory.is_dir()) {
            return Err(Error::config(format!(
                "NIXL_PLUGIN_DIR is {}, which is no directory: NIXL would find no plugin; unset it, or name the one that \
                 has libplugin_POSIX.so",
                directory.display()
            )));
        }
        Library::open(&self.search)
    }
}

/// A plugin that moves files, as an engine for the page store.
#[derive(Clone, Debug)]
pub struct NixlFileBackend {
    /// Where NIXL is.
    pub place: NixlPlace,
    /// What the plugin is told, or why that is wrong.
    pub parameters: Result<Parameters>,
    /// Which plugin.
    pub plugin: Plugin,
    /// How files are opened.
    pub io: IoMode,
    /// I/O threads.
    pub threads: usize,
    /// Operations that each thread keeps in flight.
    pub depth: usize,
}

impl NixlFileBackend {
    fn engine_config(&self) -> Result<NixlEngineConfig> {
        let parameters = self.parameters.clone()?;
        parameters.validate()?;
        Ok(NixlEngineConfig {
            name: self.plugin.backend(),
            parameters: parameters.pairs().as_slice().to_vec(),
            io: self.io,
            threads: self.threads,
            depth: self.depth,
            ..NixlEngineConfig::new(self.plugin.nixl_name())
        })
    }

    fn engine(&self) -> Result<NixlEngine> {
        NixlEngine::open(&self.place.open()?, self.engine_config()?)
    }

    /// The probe with bytes of the caller's, for memory that can't be looked at from here: has the plugin make its backend,
    /// gives `bytes` the engine and an empty file in `directory`, and notes each step in `checks`. Blocks, and may hang where
    /// the plugin does.
    ///
    /// # Errors
    /// What went wrong first.
    pub fn try_out(
        &self,
        directory: &Path,
        checks: &mut Vec<Check>,
        bytes: impl FnOnce(&Arc<dyn Engine>, Arc<File>) -> Result<Check>,
    ) -> Result<String> {
        probe::try_out(self, directory, checks, bytes)
    }
}

#[async_trait]
impl Backend for NixlFileBackend {
    fn name(&self) -> &'static str {
        self.plugin.backend()
    }

    fn offer(&self) -> Offer {
        Offer::Engine
    }

    fn summary(&self) -> &'static str {
        self.plugin.summary()
    }

    /// In this process: a plugin for GPUs may hang where there is none, so ask it in another one.
    async fn probe(&self, context: &ProbeContext) -> ProbeReport {
        let (own, context) = (self.clone(), context.clone());
        let work = move |checks: &mut Vec<_>| probe::files(&own, &context, checks);
        probe_on_a_thread(self.name(), Offer::Engine, LONGEST_PROBE, work).await
    }

    fn open_engine(&self) -> Result<Arc<dyn Engine>> {
        Ok(Arc::new(self.engine()?))
    }
}

/// The plugin that moves objects, as a storage.
#[derive(Clone, Debug)]
pub struct NixlObjBackend {
    /// Where NIXL is.
    pub place: NixlPlace,
    /// Where objects are kept.
    pub config: NixlObjConfig,
}

#[async_trait]
impl Backend for NixlObjBackend {
    fn name(&self) -> &'static str {
        Plugin::Obj.backend()
    }

    fn offer(&self) -> Offer {
        Offer::Storage
    }

    fn summary(&self) -> &'static str {
        Plugin::Obj.summary()
    }

    async fn probe(&self, context: &ProbeContext) -> ProbeReport {
        let (own, memory) = (self.clone(), context.memory);
        let work = move |checks: &mut Vec<_>| probe::objects(&own, memory, checks);
        probe_on_a_thread(self.name(), Offer::Storage, LONGEST_PROBE, work).await
    }

    async fn open_storage(&self, namespace: &Namespace) -> Result<Arc<dyn Storage>> {
        Ok(NixlObjStorage::open(&self.place.open()?, self.config.clone(), namespace).await?)
    }
}

fn unsupported(message: String) -> Error {
    Error::new(ErrorKind::Unsupported, message).with_backend(crate::NIXL)
}
