//! Variables of SGLang's NIXL connector, so that a server that was set up for it finds the same here; and of AWS's,
//! which NIXL's object plugin would read by itself where it is told nothing.

use serde_json::Value;

use super::kind::Kind;
use crate::registry::built_names;

/// A variable that is not named by our rule.
pub(crate) struct Foreign {
    pub(crate) variable: &'static str,
    /// The field that it sets.
    pub(crate) field: &'static str,
    pub(crate) help: &'static str,
    /// Its value as the field's; `Err` says what would be right.
    pub(crate) translate: fn(&str) -> Result<Value, String>,
}

pub(crate) static FOREIGN: [Foreign; 3] = [
    Foreign {
        variable: "SGLANG_HICACHE_NIXL_BACKEND_STORAGE_DIR",
        field: "storage_dir",
        help: "Directories, with commas between.",
        translate: |text| Ok(text.into()),
    },
    Foreign {
        variable: "SGLANG_HICACHE_NIXL_BACKEND_PLUGIN",
        field: "backend",
        help: "`auto`, or a NIXL plugin, which stands for the backend `nixl:PLUGIN`.",
        translate: plugin,
    },
    Foreign {
        variable: "SGLANG_HICACHE_NIXL_USE_DIRECT_IO",
        field: "io",
        help: "True is `direct`, false is `buffered`; `\"false\"` is false.",
        translate: direct,
    },
];

/// A variable that is somebody else's, and is taken for a field that nothing else gives.
pub(crate) struct Fallback {
    pub(crate) variable: &'static str,
    /// The field that it sets.
    pub(crate) field: &'static str,
    pub(crate) help: &'static str,
}

/// In the order in which one goes over the other.
pub(crate) static FALLBACKS: [Fallback; 3] = [
    Fallback { variable: "AWS_DEFAULT_BUCKET", field: "nixl_obj.bucket", help: "The bucket." },
    Fallback {
        variable: "AWS_ENDPOINT_URL",
        field: "nixl_obj.endpoint_override",
        help: "Address of AWS's services.",
    },
    Fallback {
        variable: "AWS_ENDPOINT_URL_S3",
        field: "nixl_obj.endpoint_override",
        help: "Address of the store; goes before the one above.",
    },
];

fn plugin(text: &str) -> Result<Value, String> {
    if text.eq_ignore_ascii_case("auto") {
        return Ok("auto".into());
    }
    Kind::Backend.read(&format!("nixl:{text}").into()).map_err(|_| {
        format!(
            "names a NIXL plugin for which this build has no backend; write `auto`, or leave it out and set \
             HICACHE_BACKEND to one of {}",
            built_names().join(", ")
        )
    })
}

fn direct(text: &str) -> Result<Value, String> {
    match Kind::Flag.read(&text.into())? {
        Value::Bool(true) => Ok("direct".into()),
        _ => Ok("buffered".into()),
    }
}
