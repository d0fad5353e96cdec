//! Settings of the engine that stages.

use hicache_core::{Error, Result, SLOT_ALIGNMENT};

use crate::checksum::DeviceChecksums;

/// How much is staged, and who sums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedConfig {
    /// How many lanes; while one waits for the disk another copies.
    pub lanes: usize,
    /// How many parts a lane moves at one time.
    pub slots: usize,
    /// Bytes of a part; a multiple of [`SLOT_ALIGNMENT`].
    pub slot_bytes: usize,
    /// Who sums pages in memory of the device.
    pub device_checksums: DeviceChecksums,
}

impl StagedConfig {
    /// Most lanes.
    pub const MAX_LANES: usize = 64;
    /// Most parts a lane moves at one time.
    pub const MAX_SLOTS: usize = 1024;
    /// Most bytes of a part.
    pub const MAX_SLOT_BYTES: usize = 64 << 20;

    /// Whether the settings make sense.
    ///
    /// # Errors
    /// `Config`, naming the field, the value and what would be right.
    pub fn validate(&self) -> Result<()> {
        let within = |field: &str, value: usize, most: usize| {
            if (1..=most).contains(&value) {
                return Ok(());
            }
            Err(Error::config(format!("{field} = {value} is out of range; use 1 to {most}")))
        };
        within("lanes", self.lanes, Self::MAX_LANES)?;
        within("slots", self.slots, Self::MAX_SLOTS)?;
        within("slot_bytes", self.slot_bytes, Self::MAX_SLOT_BYTES)?;
        if self.slot_bytes.is_multiple_of(SLOT_ALIGNMENT) {
            return Ok(());
        }
        Err(Error::config(format!(
            "slot_bytes = {} is no multiple of {SLOT_ALIGNMENT}; round it up",
            self.slot_bytes
        )))
    }

    /// Bytes of staging memory in all.
    pub fn staging_bytes(&self) -> usize {
        self.lanes * self.slots * self.slot_bytes
    }
}

impl Default for StagedConfig {
    fn default() -> Self {
        Self { lanes: 4, slots: 8, slot_bytes: 1 << 20, device_checksums: DeviceChecksums::Auto }
    }
}
