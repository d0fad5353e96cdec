//! What a page's object says of it, beside its bytes.

use std::collections::HashMap;

use hicache_core::hashing::to_hex;
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Its length, its CRC-64/NVMe, what it is of, and the text that it was stored under.
const BYTES: &str = "hicache-bytes";
const CHECKSUM: &str = "hicache-crc64nvme";
const NAMESPACE: &str = "hicache-namespace";
const NAME: &str = "hicache-name";

/// The same with what S3 puts before.
static BYTES_HEADER: HeaderName = HeaderName::from_static("x-amz-meta-hicache-bytes");
static CHECKSUM_HEADER: HeaderName = HeaderName::from_static("x-amz-meta-hicache-crc64nvme");
static NAMESPACE_HEADER: HeaderName = HeaderName::from_static("x-amz-meta-hicache-namespace");
static NAME_HEADER: HeaderName = HeaderName::from_static("x-amz-meta-hicache-name");

/// What an object says of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Described {
    /// Length of the body, as the store announces it.
    pub(crate) length: Option<u64>,
    /// What our metadata says; `None` for an object that is not ours.
    pub(crate) page: Option<PageMetadata>,
}

impl Described {
    /// As the SDK says it.
    pub(crate) fn of_sdk(length: Option<i64>, metadata: Option<&HashMap<String, String>>) -> Self {
        let get = |name: &str| metadata?.get(name).map(String::as_str);
        Self {
            length: length.and_then(|length| u64::try_from(length).ok()),
            page: PageMetadata::read(get(BYTES), get(CHECKSUM), get(NAMESPACE), get(NAME)),
        }
    }

    pub(crate) fn of_headers(headers: &HeaderMap) -> Self {
        let get = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        Self {
            length: get(&header::CONTENT_LENGTH).and_then(|length| length.parse().ok()),
            page: PageMetadata::read(
                get(&BYTES_HEADER),
                get(&CHECKSUM_HEADER),
                get(&NAMESPACE_HEADER),
                get(&NAME_HEADER),
            ),
        }
    }
}

/// What our metadata says of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageMetadata {
    pub(crate) bytes: u64,
    pub(crate) checksum: u64,
    pub(crate) namespace: String,
    /// The text that it was stored under.
    pub(crate) name: Option<String>,
}

impl PageMetadata {
    fn read(
        bytes: Option<&str>,
        checksum: Option<&str>,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> Option<Self> {
        let name = name.and_then(|name| {
            let pairs = name.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
            let bytes: Option<Vec<u8>> = pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect();
            String::from_utf8(bytes?).ok()
        });
        Some(Self {
            bytes: bytes?.parse().ok()?,
            checksum: u64::from_str_radix(checksum?, 16).ok()?,
            namespace: namespace?.to_owned(),
            name,
        })
    }

    /// For the SDK.
    pub(crate) fn write(&self) -> HashMap<String, String> {
        let mut metadata = HashMap::from([
            (BYTES.to_owned(), self.bytes.to_string()),
            (CHECKSUM.to_owned(), format!("{:016x}", self.checksum)),
            (NAMESPACE.to_owned(), self.namespace.clone()),
        ]);
        if let Some(name) = &self.name {
            metadata.insert(NAME.to_owned(), to_hex(name.as_bytes()));
        }
        metadata
    }

    /// The same as headers.
    ///
    /// # Errors
    /// A namespace that is no fingerprint.
    pub(crate) fn write_headers(&self, headers: &mut HeaderMap) -> Result<(), http::Error> {
        headers.insert(&BYTES_HEADER, HeaderValue::from(self.bytes));
        headers.insert(&CHECKSUM_HEADER, format!("{:016x}", self.checksum).try_into()?);
        headers.insert(&NAMESPACE_HEADER, HeaderValue::from_str(&self.namespace)?);
        if let Some(name) = &self.name {
            headers.insert(&NAME_HEADER, to_hex(name.as_bytes()).try_into()?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_leads_back() {
        let metadata = PageMetadata {
            bytes: 4096,
            checksum: 0x00ab,
            namespace: "f".into(),
            name: Some("日本語 a/b\n".into()),
        };
        let written = metadata.write();
        assert!(written.values().all(|value| value.bytes().all(|b| b.is_ascii_alphanumeric())));
        assert_eq!(Described::of_sdk(None, Some(&written)).page, Some(metadata.clone()));
        let mut headers = HeaderMap::new();
        metadata.write_headers(&mut headers).unwrap();
        assert_eq!(Described::of_headers(&headers).page, Some(metadata));
        // Both ways write the same.
        for (name, value) in &written {
            assert_eq!(headers[&format!("x-amz-meta-{name}")], value);
        }
    }

    #[test]
    fn what_is_not_ours_is_none() {
        let whole = PageMetadata { bytes: 1, checksum: 2, namespace: "f".into(), name: None }.write();
        for name in [BYTES, CHECKSUM, NAMESPACE] {
            for strange in [None, Some("x y")] {
                let mut metadata = whole.clone();
                metadata.remove(name);
                metadata.extend(strange.map(|value| (name.to_owned(), value.to_owned())));
                let page = Described::of_sdk(Some(1), Some(&metadata)).page;
                // Any text may be a namespace; it is compared.
                assert_eq!(page.is_some(), name == NAMESPACE && strange.is_some(), "{name} {strange:?}");
            }
        }
        assert!(Described::of_sdk(Some(-1), None).length.is_none());
    }
}
