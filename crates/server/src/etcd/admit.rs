//! What the metadata of a call decides before its handler runs.

use super::Service;
use super::errors::{invalid_client_api_version, no_leader};
use crate::grpc::call::{CallLimits, CallSite, requires_leader};
use crate::grpc::rpc::Flow;
use crate::grpc::status::Status;
use crate::metrics::Metrics;
use http::HeaderMap;

/// The most bytes of a client's version that become a label of a metric.
const VERSION_BYTES_MAX: usize = 16;

impl CallSite for Service {
    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn limits(&self) -> CallLimits {
        self.limits
    }

    fn admit(&self, flow: Flow, headers: &HeaderMap) -> Result<(), Status> {
        if let Some(version) = headers.get("client-api-version") {
            let Ok(version) = std::str::from_utf8(version.as_bytes()) else {
                return Err(invalid_client_api_version());
            };
            self.metrics.client_api_version(flow.label(), version_label(version));
        }
        if requires_leader(headers) && !self.has_leader() {
            return Err(no_leader());
        }
        Ok(())
    }
}

impl Service {
    /// Whether anybody decides.
    pub(crate) fn has_leader(&self) -> bool {
        self.node.status().leader_member_id != 0
    }
}

/// Versions as clients write them; whatever else a client sends is one label.
fn version_label(version: &str) -> &str {
    let is_version = version.len() <= VERSION_BYTES_MAX
        && version.starts_with(['3', 'v'])
        && version.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b'v');
    // Minor releases only: patch numbers would make many lines.
    let minor = version.match_indices('.').nth(1).map_or(version, |(at, _)| &version[..at]);
    if is_version && minor.len() <= 5 { minor } else { "other" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_labels_are_few() {
        assert_eq!(version_label("3.5.9"), "3.5");
        assert_eq!(version_label("3.6"), "3.6");
        assert_eq!(version_label("3.123456.1"), "other");
        assert_eq!(version_label("nonsense"), "other");
        assert_eq!(version_label(""), "other");
    }
}
