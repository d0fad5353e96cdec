//! Parameters of the plugin that moves objects.

use hicache_core::{Error, Result};

use super::{Pairs, Secret, text, within};
use crate::Plugin;

/// When checksums of S3's own are sent or compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjChecksum {
    /// Where the request needs one.
    Required,
    /// Wherever there can be one; several stores refuse that.
    Supported,
}

impl ObjChecksum {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Supported => "supported",
        }
    }
}

/// Parameters of `OBJ`. What is `None` is left to the plugin, and to the AWS SDK's chain in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjParameters {
    /// The bucket. It must be there.
    pub bucket: Option<String>,
    /// Address of the store with its scheme; `None` for AWS.
    pub endpoint_override: Option<String>,
    /// Whether the connection is `https`, where the address does not say.
    pub https: bool,
    /// Region.
    pub region: Option<String>,
    /// Whether the bucket is in the host and not in the path.
    pub use_virtual_addressing: bool,
    /// Access key.
    pub access_key: Option<Secret>,
    /// Secret key.
    pub secret_key: Option<Secret>,
    /// Session token.
    pub session_token: Option<Secret>,
    /// Checksums that are sent.
    pub req_checksum: Option<ObjChecksum>,
    /// Checksums that are compared.
    pub resp_checksum: Option<ObjChecksum>,
    /// Certificates that are trusted.
    pub ca_bundle: Option<String>,
    /// Objects from this length on go through the CRT client; `None` for never.
    pub crt_min_limit: Option<u64>,
    /// Throughput that the CRT client aims at.
    pub throughput_target_gbps: Option<u32>,
    /// Threads of the client.
    pub num_threads: Option<u32>,
}

impl ObjParameters {
    pub(super) fn validate(&self) -> Result<()> {
        let plugin = Plugin::Obj;
        let Some(bucket) = &self.bucket else {
            return Err(Error::config(
                "no bucket is configured for NIXL's OBJ; set nixl_obj.bucket or the variable AWS_DEFAULT_BUCKET",
            ));
        };
        text(plugin, "bucket", bucket)?;
        if let Some(endpoint) = &self.endpoint_override {
            text(plugin, "endpoint_override", endpoint)?;
            if endpoint.contains('@') {
                return Err(Error::config(
                    "endpoint_override of NIXL's OBJ has an @ in it; addresses must be without user and password",
                ));
            }
        }
        if self.access_key.is_some() != self.secret_key.is_some() {
            return Err(Error::config(
                "access_key and secret_key of NIXL's OBJ go together; give both, or neither for the AWS chain",
            ));
        }
        if self.session_token.is_some() && self.access_key.is_none() {
            return Err(Error::config("session_token of NIXL's OBJ needs access_key and secret_key too"));
        }
        self.throughput_target_gbps
            .map_or(Ok(()), |gbps| within(plugin, "throughput_target_gbps", gbps.into(), 1, 10_000))?;
        self.num_threads.map_or(Ok(()), |threads| within(plugin, "num_threads", threads.into(), 1, 1024))
    }

    pub(super) fn write(&self, pairs: &mut Pairs) {
        pairs.push_given("bucket", self.bucket.as_deref());
        pairs.push_given("endpoint_override", self.endpoint_override.as_deref());
        pairs.push("scheme", if self.https { "https" } else { "http" });
        pairs.push_given("region", self.region.as_deref());
        pairs.push("use_virtual_addressing", self.use_virtual_addressing);
        pairs.push_given("access_key", self.access_key.as_ref().map(Secret::reveal));
        pairs.push_given("secret_key", self.secret_key.as_ref().map(Secret::reveal));
        pairs.push_given("session_token", self.session_token.as_ref().map(Secret::reveal));
        pairs.push_given("req_checksum", self.req_checksum.map(ObjChecksum::as_str));
        pairs.push_given("resp_checksum", self.resp_checksum.map(ObjChecksum::as_str));
        pairs.push_given("ca_bundle", self.ca_bundle.as_deref());
        pairs.push_given("crtMinLimit", self.crt_min_limit);
        pairs.push_given("throughput_target_gbps", self.throughput_target_gbps);
        pairs.push_given("num_threads", self.num_threads);
    }
}

impl Default for ObjParameters {
    fn default() -> Self {
        Self {
            bucket: None,
            endpoint_override: None,
            https: true,
            region: None,
            use_virtual_addressing: false,
            access_key: None,
            secret_key: None,
            session_token: None,
            req_checksum: None,
            resp_checksum: None,
            ca_bundle: None,
            crt_min_limit: None,
            throughput_target_gbps: None,
            num_threads: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Parameters;
    use super::*;

    fn good() -> ObjParameters {
        ObjParameters { bucket: Some("pages".into()), ..ObjParameters::default() }
    }

    #[test]
    fn every_parameter_is_handed_on() {
        let parameters = Parameters::Obj(ObjParameters {
            endpoint_override: Some("http://localhost:1".into()),
            https: false,
            region: Some("eu".into()),
            use_virtual_addressing: true,
            access_key: Some(Secret::new("a")),
            secret_key: Some(Secret::new("s")),
            session_token: Some(Secret::new("t")),
            req_checksum: Some(ObjChecksum::Required),
            resp_checksum: Some(ObjChecksum::Supported),
            ca_bundle: Some("/ca.pem".into()),
            crt_min_limit: Some(5 << 20),
            throughput_target_gbps: Some(25),
            num_threads: Some(4),
            ..good()
        });
        parameters.validate().unwrap();
        let pairs = parameters.pairs();
        let text: Vec<String> =
            pairs.as_slice().iter().map(|(name, value)| format!("{name}={value}")).collect();
        let expected = [
            "bucket=pages",
            "endpoint_override=http://localhost:1",
            "scheme=http",
            "region=eu",
            "use_virtual_addressing=true",
            "access_key=a",
            "secret_key=s",
            "session_token=t",
            "req_checksum=required",
            "resp_checksum=supported",
            "ca_bundle=/ca.pem",
            "crtMinLimit=5242880",
            "throughput_target_gbps=25",
            "num_threads=4",
        ];
        assert_eq!(text, expected);
    }

    #[test]
    fn what_can_not_be_is_refused() {
        let refused = |parameters: ObjParameters| parameters.validate().unwrap_err().to_string();
        assert!(refused(ObjParameters::default()).contains("AWS_DEFAULT_BUCKET"));
        assert!(refused(ObjParameters { bucket: Some(String::new()), ..good() }).contains("bucket"));
        let key = Some(Secret::new("hidden"));
        let message = refused(ObjParameters { access_key: key.clone(), ..good() });
        assert!(message.contains("go together") && !message.contains("hidden"), "{message}");
        assert!(refused(ObjParameters { session_token: key, ..good() }).contains("session_token"));
        let address = Some("http://user:hidden@host".into());
        let message = refused(ObjParameters { endpoint_override: address, ..good() });
        assert!(message.contains("endpoint_override") && !message.contains("hidden"), "{message}");
        assert!(refused(ObjParameters { num_threads: Some(0), ..good() }).contains("num_threads = 0"));
    }
}
