//! The seam, filled by NIXL's plugin: one agent for transfers, and one for each thread that asks, since an agent is
//! locked for as long as a question takes.

use std::sync::Arc;

use hicache_core::{Direction, Error, OwnerId, PageMemory, Region, Registration, Result};

use super::NAME;
use super::config::NixlObjConfig;
use super::wire::{Flight, Heads, MoreHeads, NotBegun, Wire, Wires};
use crate::Plugin;
use crate::agent::{Agent, BackendHandle};
use crate::library::Library;
use crate::memory::MemoryType;
use crate::parameters::{ObjParameters, Parameters};
use crate::request::{ObjectTransfer, Progress, Request};

/// Threads that ask.
const ASKING: usize = 4;

/// Makes the plugin's backends.
pub(super) fn wires(library: &Arc<Library>, config: &NixlObjConfig) -> Result<Wires> {
    let library = Arc::clone(library);
    let backend = move |parameters: ObjParameters| -> Result<BackendHandle> {
        let agent = Agent::new(&library, "hicache-obj")?;
        let pairs = Parameters::Obj(parameters).pairs();
        agent.create_backend(Plugin::Obj.nixl_name(), pairs.as_slice())
    };
    // Questions are short, and each of these has threads of its own in the plugin.
    let asks = ObjParameters { num_threads: Some(1), crt_min_limit: None, ..config.parameters.clone() };
    let wire = Box::new(PluginWire { backend: backend(config.parameters.clone())?, owner: OwnerId::new() });
    let more_heads: MoreHeads =
        Arc::new(move || Ok(Box::new(PluginHeads(backend(asks.clone())?)) as Box<dyn Heads>));
    let heads = (0..ASKING).map(|_| more_heads()).collect::<Result<Vec<_>>>()?;
    Ok(Wires { wire, heads, more_heads })
}

struct PluginWire {
    backend: BackendHandle,
    owner: OwnerId,
}

impl Wire for PluginWire {
    fn register(&mut self, region: &Arc<Region>) -> Result<Registration> {
        let registered = self.backend.register_region(region)?;
        Ok(Registration::new(self.owner, Arc::clone(region), Box::new(registered)))
    }

    fn begin(
        &mut self,
        direction: Direction,
        object: &str,
        memory: PageMemory,
    ) -> Result<Box<dyn Flight>, Box<NotBegun>> {
        let objects = match self.backend.register_objects(&[object]) {
            Ok(objects) => objects,
            Err(error) => return Err(Box::new(NotBegun { error, memory: Some(memory) })),
        };
        let mut request = self
            .backend
            .prepare_objects(direction, objects, vec![memory])
            .map_err(|(error, mut memory)| Box::new(NotBegun { error, memory: memory.pop() }))?;
        match request.post() {
            Ok(progress) => Ok(Box::new(PluginFlight { request, done: progress == Progress::Done })),
            Err(error) => Err(Box::new(NotBegun { error, memory: memory_of(request) })),
        }
    }
}

struct PluginFlight {
    request: Request<ObjectTransfer>,
    /// As it was posted.
    done: bool,
}

impl Flight for PluginFlight {
    fn poll(&mut self) -> Option<Result<()>> {
        if self.done {
            return Some(Ok(()));
        }
        match self.request.poll() {
            Ok(Progress::Moving) => None,
            Ok(Progress::Done) => Some(Ok(())),
            Err(error) => Some(Err(error)),
        }
    }

    fn finish(self: Box<Self>) -> Option<PageMemory> {
        memory_of(self.request)
    }
}

fn memory_of(request: Request<ObjectTransfer>) -> Option<PageMemory> {
    request.finish().and_then(|mut transfer| transfer.memory.pop())
}

struct PluginHeads(BackendHandle);

impl Heads for PluginHeads {
    fn heads(&mut self, objects: &[String]) -> Result<Vec<bool>> {
        let known = self.0.query(MemoryType::Object, objects).map_err(|error| {
            Error::new(error.kind(), error.message()).with_backend(NAME).with_operation("query")
        })?;
        Ok(known.iter().map(Option::is_some).collect())
    }
}
