//! The backends of `hicache-nixl-backend` with their part of the configuration.

mod child;
#[cfg(feature = "obj-s3")]
mod deletes;
#[cfg(feature = "gds")]
mod on_device;
mod place;

use hicache_core::{Backend, Error, Result};
use hicache_nixl_backend::parameters::{
    GdsMtParameters, GdsParameters, ObjChecksum, ObjParameters, PosixParameters, Secret, ThreeFsMemory,
    ThreeFsParameters,
};
use hicache_nixl_backend::{
    IoMode, NixlFileBackend, NixlObjBackend, NixlObjConfig, NixlPlace, Parameters, Plugin,
};

use crate::config::{self, Config, Io, Role, Settings};

/// One backend a plugin.
pub(crate) fn backends(config: &Config) -> Vec<Box<dyn Backend>> {
    let place = place::place(config);
    Plugin::ALL.into_iter().map(|plugin| backend(config, plugin, place.clone())).collect()
}

fn backend(config: &Config, plugin: Plugin, place: NixlPlace) -> Box<dyn Backend> {
    if plugin == Plugin::Obj {
        let objects = NixlObjBackend { place, config: obj_config(config.settings()) };
        #[cfg(feature = "obj-s3")]
        return Box::new(deletes::NixlObjWithS3::new(objects, config));
        #[cfg(not(feature = "obj-s3"))]
        return Box::new(objects);
    }
    let files = file_backend(config.settings(), plugin, place);
    match plugin.needs_gpu() {
        true => Box::new(child::ProbedInChild::new(files, config)),
        false => Box::new(files),
    }
}

fn file_backend(settings: &Settings, plugin: Plugin, place: NixlPlace) -> NixlFileBackend {
    NixlFileBackend {
        place,
        plugin,
        parameters: parameters(settings, plugin),
        io: match settings.io {
            Io::Direct => IoMode::Direct,
            Io::Buffered => IoMode::Buffered,
            Io::Auto => IoMode::Auto,
        },
        threads: settings.nixl.threads,
        depth: settings.nixl.depth,
    }
}

/// What the plugin is told. Bounds were looked at when the configuration was read.
fn parameters(settings: &Settings, plugin: Plugin) -> Result<Parameters> {
    let parameters = match plugin {
        Plugin::Posix => posix(&settings.nixl_posix)?,
        Plugin::Gds => {
            let gds = &settings.nixl_gds;
            Parameters::Gds(GdsParameters {
                batch_pool_size: gds.batch_pool_size,
                batch_limit: gds.batch_limit,
                max_request_size: gds.max_request_size,
            })
        }
        Plugin::GdsMt => {
            Parameters::GdsMt(GdsMtParameters { thread_count: settings.nixl_gds_mt.thread_count })
        }
        Plugin::ThreeFs => {
            let mount = &settings.nixl_3fs;
            Parameters::ThreeFs(ThreeFsParameters {
                mount_point: mount.mount_point.clone(),
                mem_config: match mount.mem_config.as_str() {
                    "dram" => ThreeFsMemory::Dram,
                    "dram_zc" => ThreeFsMemory::DramZeroCopy,
                    _ => ThreeFsMemory::Auto,
                },
                iopool_size: mount.iopool_size,
            })
        }
        Plugin::Obj => Parameters::Obj(obj_parameters(&settings.nixl_obj)),
    };
    Ok(parameters)
}

fn posix(posix: &config::NixlPosix) -> Result<Parameters> {
    let queue = PosixParameters::queue_of(posix.use_aio, posix.use_uring, posix.use_posix_aio)
        .map_err(|error| Error::config(format!("nixl_posix: {}", error.message())))?;
    Ok(Parameters::Posix(PosixParameters {
        queue,
        ios_pool_size: posix.ios_pool_size,
        kernel_queue_size: posix.kernel_queue_size,
    }))
}

fn obj_parameters(obj: &config::NixlObj) -> ObjParameters {
    let checksum = |word: &Option<String>| match word.as_deref() {
        Some("required") => Some(ObjChecksum::Required),
        Some(_) => Some(ObjChecksum::Supported),
        None => None,
    };
    let secret = |secret: &Option<config::Secret>| secret.as_ref().map(|secret| Secret::new(secret.reveal()));
    ObjParameters {
        bucket: obj.bucket.clone(),
        endpoint_override: obj.endpoint_override.clone(),
        https: obj.scheme == "https",
        region: obj.region.clone(),
        use_virtual_addressing: obj.use_virtual_addressing,
        access_key: secret(&obj.access_key),
        secret_key: secret(&obj.secret_key),
        session_token: secret(&obj.session_token),
        req_checksum: checksum(&obj.req_checksum),
        resp_checksum: checksum(&obj.resp_checksum),
        ca_bundle: obj.ca_bundle.as_ref().map(|path| path.display().to_string()),
        crt_min_limit: obj.crt_min_limit,
        throughput_target_gbps: obj.throughput_target_gbps,
        num_threads: obj.num_threads,
    }
}

fn obj_config(settings: &Settings) -> NixlObjConfig {
    let obj = &settings.nixl_obj;
    NixlObjConfig {
        parameters: obj_parameters(obj),
        prefix: obj.prefix.clone(),
        read_only: settings.role == Role::Reader,
        load_timeout_ms: obj.load_timeout_ms,
        store_timeout_ms: obj.store_timeout_ms,
        concurrency: obj.concurrency,
        staging_bytes: obj.staging_bytes,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::NIXL;

    /// Names and defaults stand in two crates, so that the table of fields is the same in every build.
    #[test]
    fn the_defaults_and_names_are_the_crates() {
        let config = Config::builder().build().unwrap();
        let settings = config.settings();
        for plugin in Plugin::ALL {
            assert_eq!(parameters(settings, plugin).unwrap(), Parameters::of(plugin), "{plugin}");
            let listed = NIXL.iter().find(|listed| listed.name == plugin.name()).unwrap();
            assert_eq!((listed.nixl_name, listed.backend), (plugin.nixl_name(), plugin.backend()));
        }
        let own = NixlObjConfig::new(ObjParameters::default());
        assert_eq!(format!("{:?}", obj_config(settings)), format!("{own:?}"));
        let engine = hicache_nixl_backend::NixlEngineConfig::new("POSIX");
        assert_eq!((settings.nixl.threads, settings.nixl.depth), (engine.threads, engine.depth));
        let names: Vec<&str> = backends(&config).iter().map(|backend| backend.name()).collect();
        assert_eq!(names, NIXL.map(|plugin| plugin.backend));
    }

    #[test]
    fn every_field_reaches_its_plugin() {
        let table = json!({
            "nixl_posix": {"use_uring": "true", "ios_pool_size": 64, "kernel_queue_size": "16"},
            "nixl_gds": {"batch_pool_size": 1, "batch_limit": 2, "max_request_size": "1MiB"},
            "nixl_gds_mt": {"thread_count": 3},
            "nixl_3fs": {"mount_point": "/x", "mem_config": "dram_zc", "iopool_size": 128},
            "nixl_obj": {
                "bucket": "b", "endpoint_override": "http://h:1", "scheme": "http", "region": "r",
                "use_virtual_addressing": true, "access_key": "a", "secret_key": "s", "session_token": "t",
                "req_checksum": "required", "resp_checksum": "supported", "ca_bundle": "/ca",
                "crtMinLimit": "5MiB", "throughput_target_gbps": 25, "num_threads": 4
            }
        });
        let config = Config::builder().table(table.as_object().unwrap().clone()).build().unwrap();
        let pairs = |plugin| -> Vec<String> {
            let parameters = parameters(config.settings(), plugin).unwrap();
            parameters.validate().unwrap();
            parameters.pairs().as_slice().iter().map(|(name, value)| format!("{name}={value}")).collect()
        };
        assert_eq!(pairs(Plugin::Posix), ["use_uring=true", "ios_pool_size=64", "kernel_queue_size=16"]);
        assert_eq!(pairs(Plugin::Gds), ["batch_pool_size=1", "batch_limit=2", "max_request_size=1048576"]);
        assert_eq!(pairs(Plugin::GdsMt), ["thread_count=3"]);
        assert_eq!(pairs(Plugin::ThreeFs), ["mount_point=/x", "mem_config=dram_zc", "iopool_size=128"]);
        let obj = pairs(Plugin::Obj).join(" ");
        assert_eq!(
            obj,
            "bucket=b endpoint_override=http://h:1 scheme=http region=r use_virtual_addressing=true access_key=a \
             secret_key=s session_token=t req_checksum=required resp_checksum=supported ca_bundle=/ca \
             crtMinLimit=5242880 throughput_target_gbps=25 num_threads=4"
        );
        assert!(!format!("{:?}", backends(&config)).contains("\"s\""));
    }

    #[test]
    fn posix_aio_is_refused_with_the_reason() {
        let config = Config::builder().set("nixl_posix.use_posix_aio", true).build().unwrap();
        let error = parameters(config.settings(), Plugin::Posix).unwrap_err().to_string();
        assert!(
            error.contains("nixl_posix: use_posix_aio") && error.contains("segmentation fault"),
            "{error}"
        );
    }
}
