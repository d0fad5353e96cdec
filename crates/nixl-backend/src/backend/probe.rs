//! What a probe tries, in order: the library, the plugin's file, its parameters, its backend, and bytes.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use hicache_core::backend::round_trip;
use hicache_core::probing::block_on;
use hicache_core::{Check, Engine, Error, ErrorKind, MemoryKind, Namespace, ProbeContext, Result, Storage};

use super::gpu;
use super::{NixlFileBackend, NixlObjBackend, NixlPlace, unsupported};
use crate::agent::Agent;
use crate::engine::NixlEngine;
use crate::library::Library;
use crate::obj::{NixlObjStorage, trial};
use crate::plugin::Plugin;

pub(super) fn files(
    backend: &NixlFileBackend,
    context: &ProbeContext,
    checks: &mut Vec<Check>,
) -> Result<String> {
    moves(backend.plugin, context.memory)?;
    if !context.memory.is_host() {
        let what =
            "memory of a GPU can't be looked at from here, so what the plugin does with it is not probed";
        return Err(unsupported(what.to_owned()));
    }
    let directory = &context.directory;
    try_out(backend, directory, checks, |engine, file| block_on(round_trip(&**engine, file, directory)))
}

/// Has the plugin work, and `bytes` move something through it.
pub(super) fn try_out(
    backend: &NixlFileBackend,
    directory: &Path,
    checks: &mut Vec<Check>,
    bytes: impl FnOnce(&Arc<dyn Engine>, Arc<File>) -> Result<Check>,
) -> Result<String> {
    let config = backend.engine_config()?;
    if backend.plugin.needs_gpu() {
        let devices = gpu::device_node().and_then(|()| gpu::cuda_devices());
        noted("GPU", devices, checks, |devices| format!("{devices} of the driver"))?;
    }
    let library = loaded(&backend.place, backend.plugin, checks)?;
    let engine = noted("backend created", NixlEngine::open(&library, config), checks, |engine| {
        let capabilities = engine.capabilities();
        format!("{} operations in flight, {:?}", capabilities.max_in_flight, capabilities.memory)
    })?;
    let file = tempfile::tempfile_in(directory).map_err(|error| {
        Error::io("probe", format!("no file can be made in {}", directory.display()), error)
    })?;
    let engine: Arc<dyn Engine> = Arc::new(engine);
    let seen = bytes(&engine, Arc::new(file));
    let closed = block_on(engine.close());
    checks.push(seen?);
    closed?;
    Ok("bytes were written, read and compared".to_owned())
}

pub(super) fn objects(
    backend: &NixlObjBackend,
    memory: MemoryKind,
    checks: &mut Vec<Check>,
) -> Result<String> {
    moves(Plugin::Obj, memory)?;
    backend.config.validate()?;
    let library = loaded(&backend.place, Plugin::Obj, checks)?;
    // Nobody's pages are touched. The plugin deletes nothing, so it is always the same two objects that stay.
    let namespace = Namespace::new("hicache-probe");
    let opened = block_on(NixlObjStorage::open(&library, backend.config.clone(), &namespace));
    let storage = noted("backend created", opened, checks, |_| {
        "the bucket answers, and the credentials are taken".to_owned()
    })?;
    if backend.config.read_only {
        block_on(storage.close())?;
        return Ok("the bucket can be read; nothing was written".to_owned());
    }
    let seen = page(&*storage);
    let closed = block_on(storage.close());
    checks.push(seen?);
    closed?;
    Ok("bytes were stored, loaded and compared".to_owned())
}

fn moves(plugin: Plugin, memory: MemoryKind) -> Result<()> {
    match plugin.moves(memory) {
        true => Ok(()),
        false => Err(unsupported(format!("{plugin} does not move memory of {memory:?}"))),
    }
}

/// What all plugins need first.
fn loaded(place: &NixlPlace, plugin: Plugin, checks: &mut Vec<Check>) -> Result<Arc<Library>> {
    let library = noted("library", place.open(), checks, |library| {
        library.path().map_or_else(|| "linked".to_owned(), |path| path.display().to_string())
    })?;
    let agent = Agent::new(&library, "hicache-probe")?;
    let plugins = agent.plugins()?;
    let name = plugin.nixl_name();
    let found = match plugins.iter().any(|found| found == name) {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::Unavailable,
            format!(
                "there is no {} in NIXL's plugin directory{}; there are {}",
                plugin.file_name(),
                place.plugin_directory.as_ref().map_or(String::new(), |of| format!(" {}", of.display())),
                plugins.join(", ")
            ),
        )),
    };
    noted("plugin file", found, checks, |()| plugin.file_name())?;
    noted("parameters", agent.plugin_parameters(name), checks, |known| {
        let names: Vec<&str> = known.parameters.iter().map(|(name, _)| name.as_str()).collect();
        match names.is_empty() {
            true => "none are announced".to_owned(),
            false => names.join(", "),
        }
    })?;
    Ok(library)
}

/// Notes what became of a step.
fn noted<T>(
    name: &str,
    seen: Result<T>,
    checks: &mut Vec<Check>,
    detail: impl Fn(&T) -> String,
) -> Result<T> {
    checks.push(match &seen {
        Ok(seen) => Check::passed(name, detail(seen)),
        Err(error) => Check::failed(name, error.message()),
    });
    seen
}

fn page(storage: &dyn Storage) -> Result<Check> {
    trial::store(storage, trial::salt())?;
    trial::load(storage)?;
    Ok(Check::passed("store, load, compare", format!("1 page of {} bytes", trial::TRIAL_BYTES)))
}
