//! The plugins of NIXL that are used here, by name.

use std::fmt;

use hicache_core::{Error, MemoryKind, Result};

/// A storage plugin of NIXL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Plugin {
    /// DeepSeek's 3FS, which NIXL calls `HF3FS` and SGLang `3FS`.
    ThreeFs,
    /// Files through Linux AIO or io_uring.
    Posix,
    /// GPUDirect Storage, a request a thread.
    GdsMt,
    /// GPUDirect Storage, in batches of cuFile.
    Gds,
    /// Objects of a bucket.
    Obj,
}

impl Plugin {
    /// All, in the order in which they are tried.
    pub const ALL: [Self; 5] = [Self::ThreeFs, Self::Posix, Self::GdsMt, Self::Gds, Self::Obj];

    /// Its name in configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ThreeFs => "3FS",
            Self::Posix => "POSIX",
            Self::GdsMt => "GDS_MT",
            Self::Gds => "GDS",
            Self::Obj => "OBJ",
        }
    }

    /// Its name in NIXL.
    pub const fn nixl_name(self) -> &'static str {
        match self {
            Self::ThreeFs => "HF3FS",
            other => other.name(),
        }
    }

    /// Name of the backend that stands on it.
    pub const fn backend(self) -> &'static str {
        match self {
            Self::ThreeFs => "nixl:3FS",
            Self::Posix => "nixl:POSIX",
            Self::GdsMt => "nixl:GDS_MT",
            Self::Gds => "nixl:GDS",
            Self::Obj => "nixl:OBJ",
        }
    }

    /// One line for people.
    pub const fn summary(self) -> &'static str {
        match self {
            Self::ThreeFs => "files of a 3FS mount, through NIXL",
            Self::Posix => "files through NIXL's POSIX plugin: Linux AIO or io_uring",
            Self::GdsMt => "files through NIXL and GPUDirect Storage, a request a thread",
            Self::Gds => "files through NIXL and GPUDirect Storage, in batches",
            Self::Obj => "objects of a bucket, through NIXL",
        }
    }

    /// Name of its file in NIXL's plugin directory.
    pub fn file_name(self) -> String {
        format!("libplugin_{}.so", self.nixl_name())
    }

    /// The plugin of this name, in any case; `3FS` and `HF3FS` are the same one.
    ///
    /// # Errors
    /// `Config`, with the names that there are.
    pub fn from_name(name: &str) -> Result<Self> {
        let is = |plugin: &&Self| {
            [plugin.name(), plugin.nixl_name()].iter().any(|own| own.eq_ignore_ascii_case(name.trim()))
        };
        Self::ALL.iter().find(is).copied().ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::config(format!("{name:?} is not a NIXL plugin that is used here; write one of {names}"))
        })
    }

    /// Whether it moves files; else objects.
    pub const fn moves_files(self) -> bool {
        !matches!(self, Self::Obj)
    }

    /// Whether it needs a GPU and its driver.
    pub const fn needs_gpu(self) -> bool {
        matches!(self, Self::GdsMt | Self::Gds)
    }

    /// Whether it moves memory of `kind`.
    pub const fn moves(self, kind: MemoryKind) -> bool {
        match kind {
            MemoryKind::Device(_) => self.needs_gpu(),
            _ => true,
        }
    }

    /// Those of `order` that move memory of `kind`. For device memory that leaves GDS_MT, then GDS.
    pub fn for_memory(order: &[Self], kind: MemoryKind) -> Vec<Self> {
        order.iter().copied().filter(|plugin| plugin.moves(kind)).collect()
    }
}

impl fmt::Display for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_names_of_3fs_are_one() {
        for name in ["3FS", "3fs", "HF3FS", "hf3fs", " 3FS "] {
            assert_eq!(Plugin::from_name(name).unwrap(), Plugin::ThreeFs, "{name}");
        }
        for plugin in Plugin::ALL {
            assert_eq!(Plugin::from_name(plugin.name()).unwrap(), plugin);
            assert_eq!(plugin.backend(), format!("nixl:{plugin}"));
        }
        assert_eq!(Plugin::ThreeFs.file_name(), "libplugin_HF3FS.so");
    }

    #[test]
    fn an_unknown_one_is_named_with_those_there_are() {
        let error = Plugin::from_name("POSIXX").unwrap_err();
        assert_eq!(error.kind(), hicache_core::ErrorKind::Config);
        assert!(error.to_string().contains("\"POSIXX\"") && error.to_string().contains("GDS_MT"), "{error}");
    }

    #[test]
    fn memory_of_a_device_leaves_those_that_move_it() {
        assert_eq!(Plugin::for_memory(&Plugin::ALL, MemoryKind::Device(0)), [Plugin::GdsMt, Plugin::Gds]);
        assert_eq!(Plugin::for_memory(&Plugin::ALL, MemoryKind::Host), Plugin::ALL);
        assert_eq!(Plugin::for_memory(&[Plugin::Gds, Plugin::Posix], MemoryKind::Device(1)), [Plugin::Gds]);
    }
}
