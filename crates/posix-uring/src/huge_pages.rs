//! Transparent huge pages: asking for them, and seeing how many there are.

use std::fs;
use std::ops::Range;

use hicache_core::{Error, MemoryKind, Region, Result};
use rustix::mm::{Advice, madvise};
use rustix::param::page_size;

/// Regions below this many bytes gain nothing.
const LEAST_BYTES: usize = 2 << 20;

/// How much of a range is backed by huge pages. Memory that nobody has touched is backed by nothing yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HugePages {
    /// Length of the range in bytes.
    pub bytes: u64,
    /// Bytes of it that are in memory.
    pub resident_bytes: u64,
    /// Bytes of it that are in huge pages, transparent or reserved.
    pub huge_bytes: u64,
}

impl HugePages {
    /// Looks at the whole of `region` as it is now. The kernel walks the page tables for that, which takes
    /// milliseconds a GiB of 4 KiB pages.
    ///
    /// # Errors
    /// `Unsupported` for device memory; `Io` where `/proc/self/smaps` can't be read.
    pub fn of(region: &Region) -> Result<Self> {
        if !region.kind().is_host() {
            return Err(Error::new(hicache_core::ErrorKind::Unsupported, "only host memory has huge pages"));
        }
        let smaps = fs::read_to_string("/proc/self/smaps")
            .map_err(|e| Error::io("huge pages", "/proc/self/smaps can't be read", e))?;
        let start = region.base().as_ptr() as u64;
        Ok(Self::parse(&smaps, start..start + region.bytes() as u64))
    }

    /// Sums up the mappings that overlap `range`. Of a mapping that is only partly inside, at most the overlap counts.
    fn parse(smaps: &str, range: Range<u64>) -> Self {
        let mut sum = Self { bytes: range.end - range.start, ..Self::default() };
        let mut mapping = Mapping::default();
        for line in smaps.lines() {
            if let Some(next) = mapping_of(line) {
                sum.add(&mapping);
                let overlap = next.end.min(range.end).saturating_sub(next.start.max(range.start));
                mapping = Mapping { overlap, ..Mapping::default() };
            } else if mapping.overlap > 0 {
                mapping.note(line);
            }
        }
        sum.add(&mapping);
        sum
    }

    fn add(&mut self, mapping: &Mapping) {
        self.huge_bytes += mapping.huge.min(mapping.overlap);
        self.resident_bytes += mapping.resident.max(mapping.huge).min(mapping.overlap);
    }
}

/// What is being summed up of one mapping.
#[derive(Default)]
struct Mapping {
    overlap: u64,
    resident: u64,
    huge: u64,
}

impl Mapping {
    fn note(&mut self, line: &str) {
        let Some((name, value)) = line.split_once(':') else { return };
        let kibibytes = value.trim().strip_suffix(" kB").and_then(|number| number.trim().parse::<u64>().ok());
        let bytes = kibibytes.unwrap_or(0) << 10;
        match name {
            "Rss" => self.resident = bytes,
            "AnonHugePages" | "ShmemPmdMapped" | "FilePmdMapped" | "Shared_Hugetlb" | "Private_Hugetlb" => {
                self.huge += bytes;
            }
            _ => {}
        }
    }
}

/// The range of addresses at the head of a mapping's lines: `7f0000000000-7f0000200000 rw-p …`.
fn mapping_of(line: &str) -> Option<Range<u64>> {
    let (range, _) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
}

/// Asks for huge pages on large ordinary memory of somebody else, before it is pinned: pinned pages can't be put
/// together. Regions of ours have asked when they were allocated, and memory pinned by a driver is left alone.
pub(crate) fn ask(region: &Region) {
    if !region.is_foreign() || region.kind() != MemoryKind::Host || region.bytes() < LEAST_BYTES {
        return;
    }
    let page = page_size();
    let start = region.base().as_ptr() as usize;
    let (first, end) = (start.next_multiple_of(page), (start + region.bytes()) / page * page);
    let address = region.base().as_ptr().wrapping_add(first - start);
    // SAFETY: the range is inside the region, which whoever made it keeps mapped while it lives, and `region` is
    // borrowed. The advice changes how the kernel backs the pages, never what is in them.
    let asked = unsafe { madvise(address.cast(), end - first, Advice::LinuxHugepage) };
    match asked {
        Ok(()) => tracing::debug!(bytes = end - first, "asked for huge pages"),
        Err(errno) => tracing::debug!(bytes = end - first, %errno, "huge pages were refused"),
    }
}

/// Says how much of a large region is in huge pages, to whoever listens at debug level.
pub(crate) fn report(region: &Region) {
    if region.bytes() < LEAST_BYTES || !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    match HugePages::of(region) {
        Ok(HugePages { bytes, resident_bytes, huge_bytes }) => {
            tracing::debug!(bytes, resident_bytes, huge_bytes, "huge pages of a region at its registration");
        }
        Err(error) => tracing::debug!(%error, "huge pages of a region are not known"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overlap_of_each_mapping_counts() {
        let smaps = "\
1000-3000 rw-p 00000000 00:00 0                  [heap]
Size:                  8 kB
Rss:                   8 kB
AnonHugePages:         8 kB
3000-5000 rw-p 00000000 00:00 0
Rss:                   4 kB
AnonHugePages:         0 kB
VmFlags: rd wr mr mw me ac sd hg
5000-6000 rw-p 00000000 00:00 0
Rss:                   4 kB
";
        let seen = HugePages::parse(smaps, 0x2000..0x5000);
        assert_eq!(seen, HugePages { bytes: 0x3000, resident_bytes: 0x2000, huge_bytes: 0x1000 });
    }

    #[test]
    fn a_region_sees_its_own_memory() {
        let region = Region::allocate(4, 1 << 20).unwrap();
        for slot in 0..4 {
            region.lease(slot, 0, 1 << 20, hicache_core::Access::Write).unwrap().bytes_mut().unwrap().fill(1);
        }
        let seen = HugePages::of(&region).unwrap();
        assert_eq!((seen.bytes, seen.resident_bytes), (4 << 20, 4 << 20));
    }
}
