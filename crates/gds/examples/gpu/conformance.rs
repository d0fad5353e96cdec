//! The suite for engines, on memory of the device.

use std::sync::Arc;

use hicache_core::{Engine, Result};
use hicache_gds::staged::CudaCopier;
use hicache_gds::{
    Calls, Context, CuFileConfig, CuFileEngine, DeviceChecksums, Driver, Library, StagedConfig, StagedEngine,
};
use hicache_posix_uring::{PreadConfig, PreadEngine, UringConfig, UringEngine};
use hicache_testkit::conformance::{EngineTraits, EngineUnderTest, engine_suite};

use crate::Told;
use crate::mirror::Mirror;

/// io_uring, or threads where the kernel refuses it.
pub(crate) fn below() -> Result<Arc<dyn Engine>> {
    match UringEngine::open(UringConfig::default()) {
        Ok(engine) => Ok(Arc::new(engine)),
        Err(_) => Ok(Arc::new(PreadEngine::open(PreadConfig::default())?)),
    }
}

/// The engine that stages.
pub(crate) fn staged(context: &Arc<Context>, device_checksums: DeviceChecksums) -> Result<Arc<StagedEngine>> {
    let copier = Arc::new(CudaCopier::new(Arc::clone(context)));
    let config = StagedConfig { device_checksums, ..StagedConfig::default() };
    Ok(Arc::new(StagedEngine::open(below()?, copier, config)?))
}

/// The engine on cuFile.
pub(crate) fn cufile(
    context: &Arc<Context>,
    told: &Told,
    threads: usize,
    calls: Calls,
) -> Result<Arc<CuFileEngine>> {
    let driver = Driver::open(Library::load(told.cufile.as_deref())?)?;
    let config = CuFileConfig { library: told.cufile.clone(), threads, calls, ..CuFileConfig::default() };
    Ok(Arc::new(CuFileEngine::open(driver, Some(Arc::clone(context)), config)?))
}

/// Ends an engine, and waits for its threads.
pub(crate) fn close(engine: &dyn Engine) -> Result<()> {
    runtime()?.block_on(engine.close())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| hicache_core::Error::config(error.to_string()))
}

type Make<'a> = Box<dyn Fn() -> Result<Arc<dyn Engine>> + 'a>;

pub(crate) fn run(context: &Arc<Context>, told: &Told, with_cufile: bool, batches: bool) -> Result<bool> {
    let mut subjects: Vec<(&str, Make<'_>)> = vec![(
        "staged, device memory",
        Box::new(|| Ok(staged(context, DeviceChecksums::Auto)? as Arc<dyn Engine>)),
    )];
    if with_cufile {
        let make = || Ok(cufile(context, told, 4, Calls::Threads)? as Arc<dyn Engine>);
        subjects.push(("cuFile, threads", Box::new(make)));
    } else {
        println!("not run: conformance of cuFile, which can't be used here");
    }
    if batches {
        let calls = Calls::Batches { depth: 16 };
        let make = move || Ok(cufile(context, told, 2, calls)? as Arc<dyn Engine>);
        subjects.push(("cuFile, batches", Box::new(make)));
    } else {
        println!("not run: conformance of cuFile's batches, which the probe did not see work");
    }
    let runtime = runtime()?;
    let mut good = true;
    for (name, make) in subjects {
        // What can't be opened at all is said once, before the suite.
        close(&*make()?)?;
        let mirrored = async || {
            let own = Arc::clone(context);
            let allocate = Box::new(move |bytes| own.allocate(1, 1, bytes));
            let copier = Arc::new(CudaCopier::new(Arc::clone(context)));
            match make() {
                Ok(inner) => EngineUnderTest::new(Arc::new(Mirror::new(inner, copier, allocate))),
                Err(error) => panic!("{name} can't be opened again: {error}"),
            }
        };
        let report = runtime.block_on(engine_suite(name, &EngineTraits::new(&told.directory), mirrored));
        println!("{report}");
        good &= report.failed().next().is_none() && report.passed() >= 24;
    }
    Ok(good)
}
