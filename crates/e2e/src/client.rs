//! One connection to a server, with the calls that tests make most.

use crate::ops;
use crate::watch::WatchStream;
use netsy_api::etcdserverpb as pb;
use netsy_api::etcdserverpb::{
    cluster_client::ClusterClient, kv_client::KvClient, lease_client::LeaseClient,
    maintenance_client::MaintenanceClient, watch_client::WatchClient,
};
use netsy_api::health::health_client::HealthClient;
use netsy_api::mvccpb::KeyValue;
use std::time::Duration;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};

/// Larger than any answer in these tests.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// One HTTP/2 connection; clones share it.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Connects, or panics.
    pub async fn connect(url: &str) -> Self {
        Self::try_connect(url).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Connects, or says why not.
    pub async fn try_connect(url: &str) -> Result<Self, String> {
        let endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|error| format!("{url}: {error}"))?
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true);
        match endpoint.connect().await {
            Ok(channel) => Ok(Self { channel }),
            Err(error) => Err(format!("connect to {url}: {error:?}")),
        }
    }

    /// Over a connection made otherwise.
    pub fn over(channel: Channel) -> Self {
        Self { channel }
    }

    /// The connection.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The KV service.
    pub fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The lease service.
    pub fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel())
    }

    /// The cluster service.
    pub fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel())
    }

    /// The maintenance service.
    pub fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel())
    }

    /// The health service.
    pub fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel())
    }

    /// Opens a watch stream without watches on it.
    pub async fn watch(&self) -> WatchStream {
        self.watch_with(MetadataMap::new())
    }

    /// Opens a watch stream with metadata.
    pub fn watch_with(&self, metadata: MetadataMap) -> WatchStream {
        WatchStream::open(WatchClient::new(self.channel()).max_decoding_message_size(MESSAGE_BYTES_MAX), metadata)
    }

    /// Puts; gives the revision.
    pub async fn put(&self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> i64 {
        let answer = self.try_put(ops::put(key, value)).await.expect("put");
        answer.header.expect("a put is answered with a header").revision
    }

    /// Puts.
    pub async fn try_put(&self, request: pb::PutRequest) -> Result<pb::PutResponse, Status> {
        self.kv().put(request).await.map(tonic::Response::into_inner)
    }

    /// Reads one key.
    pub async fn get(&self, key: impl Into<Vec<u8>>) -> Option<KeyValue> {
        self.try_get(key).await.expect("get").kvs.into_iter().next()
    }

    /// Reads one key.
    pub async fn try_get(&self, key: impl Into<Vec<u8>>) -> Result<pb::RangeResponse, Status> {
        self.range(ops::get(key)).await
    }

    /// Reads.
    pub async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        self.kv().range(request).await.map(tonic::Response::into_inner)
    }

    /// Deletes; gives the header's revision and how many keys went.
    pub async fn delete(&self, key: impl Into<Vec<u8>>) -> (i64, i64) {
        let answer = self.delete_range(ops::delete(key)).await.expect("delete");
        (answer.header.expect("a delete is answered with a header").revision, answer.deleted)
    }

    /// Deletes.
    pub async fn delete_range(&self, request: pb::DeleteRangeRequest) -> Result<pb::DeleteRangeResponse, Status> {
        self.kv().delete_range(request).await.map(tonic::Response::into_inner)
    }

    /// Runs a transaction.
    pub async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        self.kv().txn(request).await.map(tonic::Response::into_inner)
    }

    /// Compacts, waiting for the rows to be gone where `physical`.
    pub async fn compact(&self, revision: i64, physical: bool) -> Result<pb::CompactionResponse, Status> {
        self.kv().compact(pb::CompactionRequest { revision, physical }).await.map(tonic::Response::into_inner)
    }

    /// The store's revision.
    pub async fn revision(&self) -> i64 {
        self.try_get("no such key").await.expect("get").header.expect("a header").revision
    }

    /// Grants a lease; gives its id. 0: the server chooses.
    pub async fn grant(&self, ttl: i64, id: i64) -> i64 {
        self.try_grant(ttl, id).await.expect("grant a lease").id
    }

    /// Grants a lease.
    pub async fn try_grant(&self, ttl: i64, id: i64) -> Result<pb::LeaseGrantResponse, Status> {
        self.lease().lease_grant(pb::LeaseGrantRequest { ttl, id }).await.map(tonic::Response::into_inner)
    }

    /// Revokes a lease.
    pub async fn revoke(&self, id: i64) -> Result<pb::LeaseRevokeResponse, Status> {
        self.lease().lease_revoke(pb::LeaseRevokeRequest { id }).await.map(tonic::Response::into_inner)
    }

    /// What is left of a lease, with its keys.
    pub async fn time_to_live(&self, id: i64) -> Result<pb::LeaseTimeToLiveResponse, Status> {
        self.lease()
            .lease_time_to_live(pb::LeaseTimeToLiveRequest { id, keys: true })
            .await
            .map(tonic::Response::into_inner)
    }

    /// Renews a lease once, on a stream of its own.
    pub async fn keep_alive(&self, id: i64) -> Result<pb::LeaseKeepAliveResponse, Status> {
        let asked = tokio_stream::iter([pb::LeaseKeepAliveRequest { id }]);
        let mut answers = self.lease().lease_keep_alive(asked).await?.into_inner();
        answers.message().await?.ok_or_else(|| Status::internal("the keep-alive stream ended without an answer"))
    }

    /// The server's state.
    pub async fn status(&self) -> Result<pb::StatusResponse, Status> {
        self.maintenance().status(pb::StatusRequest {}).await.map(tonic::Response::into_inner)
    }
}
