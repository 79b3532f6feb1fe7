//! What is counted as it happens. Figures that the node keeps anyway are read when they are asked
//! for (`web/scrape.rs`).

use crate::grpc::rpc::Rpc;
use crate::grpc::status::{Code, code_name};
use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::Instant;

/// Upper bounds of the handling-time buckets, seconds.
const SECONDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// etcd's buckets of `etcd_server_request_duration_seconds`.
const REQUEST_SECONDS: [f64; 14] =
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192];

/// Requests that etcd times by what they ask of the log or the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum RequestType {
    Range,
    ReadonlyTxn,
    Put,
    DeleteRange,
    Txn,
    Compaction,
    LeaseGrant,
    LeaseRevoke,
    Alarm,
}

impl RequestType {
    /// By number.
    const LABELS: [&str; 9] =
        ["Range", "ReadonlyTxn", "Put", "DeleteRange", "Txn", "Compaction", "LeaseGrant", "LeaseRevoke", "Alarm"];

    /// What a procedure writes, if it does.
    pub(crate) fn of_write(rpc: Rpc) -> Option<Self> {
        Some(match rpc {
            Rpc::Put => Self::Put,
            Rpc::DeleteRange => Self::DeleteRange,
            Rpc::Txn => Self::Txn,
            Rpc::Compact => Self::Compaction,
            Rpc::LeaseGrant => Self::LeaseGrant,
            Rpc::LeaseRevoke => Self::LeaseRevoke,
            Rpc::Alarm => Self::Alarm,
            _ => return None,
        })
    }
}

/// Counters and where they are found by name.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    calls: Vec<CallMetrics>,
    handled: IntCounterVec,
    requests: HistogramVec,
    /// Each is made when there is something to tell, as in etcd: first those that failed.
    requests_of: [[OnceLock<Histogram>; RequestType::LABELS.len()]; 2],
    panics: IntCounter,
    client_api_versions: IntCounterVec,
    traffic: Traffic,
    connections: ConnectionGauge,
    health_traffic: Traffic,
    health_connections: ConnectionGauge,
}

/// Handles of one procedure's counters, so that counting needs no look-up.
struct CallMetrics {
    started: IntCounter,
    ok: IntCounter,
    seconds: Histogram,
    received: IntCounter,
    sent: IntCounter,
}

impl Metrics {
    /// Registers everything with a registry of its own.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let labels = &["grpc_type", "grpc_service", "grpc_method"];
        let with_code = &["grpc_type", "grpc_service", "grpc_method", "grpc_code"];
        let started = counters(&registry, "grpc_server_started_total", "Calls begun.", labels)?;
        let handled = counters(&registry, "grpc_server_handled_total", "Calls ended, by outcome.", with_code)?;
        let received =
            counters(&registry, "grpc_server_msg_received_total", "Messages received from clients.", labels)?;
        let sent = counters(&registry, "grpc_server_msg_sent_total", "Messages sent to clients.", labels)?;
        let seconds = register(
            &registry,
            HistogramVec::new(
                HistogramOpts::new("grpc_server_handling_seconds", "Time from a call's arrival to its answer.")
                    .buckets(SECONDS.to_vec()),
                labels,
            )?,
        )?;
        let requests = register(
            &registry,
            HistogramVec::new(
                HistogramOpts::new("etcd_server_request_duration_seconds", "Time of a request, by what it asks.")
                    .buckets(REQUEST_SECONDS.to_vec()),
                &["type", "success"],
            )?,
        )?;
        let calls = Rpc::ALL
            .iter()
            .map(|rpc| {
                let values = [rpc.flow().label(), rpc.service(), rpc.method()];
                CallMetrics {
                    started: started.with_label_values(&values),
                    ok: handled.with_label_values(&[values[0], values[1], values[2], code_name(Code::Ok)]),
                    seconds: seconds.with_label_values(&values),
                    received: received.with_label_values(&values),
                    sent: sent.with_label_values(&values),
                }
            })
            .collect();
        let traffic = Traffic {
            sent: counter(&registry, "etcd_network_client_grpc_sent_bytes_total", "Bytes sent to clients.")?,
            received: counter(
                &registry,
                "etcd_network_client_grpc_received_bytes_total",
                "Bytes received from clients.",
            )?,
        };
        let connections = ConnectionGauge {
            open: register(&registry, IntGauge::new("netsy_client_connections", "Open client connections.")?)?,
            accepted: counter(&registry, "netsy_client_connections_accepted_total", "Client connections accepted.")?,
            refused: counter(
                &registry,
                "netsy_client_connections_refused_total",
                "Client connections closed at once because too many were open.",
            )?,
        };
        let panics = counter(&registry, "netsy_handler_panics_total", "Calls that ended in a panic, which is a bug.")?;
        let client_api_versions = counters(
            &registry,
            "etcd_server_client_requests_total",
            "Calls by the API version that the client names.",
            &["type", "client_api_version"],
        )?;
        let health_traffic = Traffic {
            sent: IntCounter::new("health_sent", "Bytes sent.")?,
            received: IntCounter::new("health_received", "Bytes received.")?,
        };
        let health_connections = ConnectionGauge {
            open: IntGauge::new("health_connections", "Open connections.")?,
            accepted: IntCounter::new("health_accepted", "Connections accepted.")?,
            refused: IntCounter::new("health_refused", "Connections refused.")?,
        };
        Ok(Self(Arc::new(Inner {
            registry,
            calls,
            handled,
            requests,
            requests_of: Default::default(),
            panics,
            client_api_versions,
            traffic,
            connections,
            health_traffic,
            health_connections,
        })))
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.0.registry
    }

    pub(crate) fn traffic(&self) -> Traffic {
        self.0.traffic.clone()
    }

    pub(crate) fn connections(&self) -> ConnectionGauge {
        self.0.connections.clone()
    }

    /// Of the health port: counted apart and told to nobody, as its scrapes would be seen as load.
    pub(crate) fn health_traffic(&self) -> Traffic {
        self.0.health_traffic.clone()
    }

    /// See [`Self::health_traffic`].
    pub(crate) fn health_connections(&self) -> ConnectionGauge {
        self.0.health_connections.clone()
    }

    pub(crate) fn started(&self, rpc: Rpc) {
        self.call(rpc).started.inc();
    }

    pub(crate) fn received(&self, rpc: Rpc) {
        self.call(rpc).received.inc();
    }

    pub(crate) fn sent(&self, rpc: Rpc) {
        self.call(rpc).sent.inc();
    }

    /// Counts several messages at once.
    pub(crate) fn exchanged(&self, rpc: Rpc, received: u64, sent: u64) {
        if received > 0 {
            self.call(rpc).received.inc_by(received);
        }
        if sent > 0 {
            self.call(rpc).sent.inc_by(sent);
        }
    }

    pub(crate) fn handled(&self, rpc: Rpc, code: Code, took: Duration) {
        let call = self.call(rpc);
        if code == Code::Ok {
            call.ok.inc();
        } else {
            let values = [rpc.flow().label(), rpc.service(), rpc.method(), code_name(code)];
            self.0.handled.with_label_values(&values).inc();
        }
        call.seconds.observe(took.as_secs_f64());
    }

    /// A request came at `started`.
    pub(crate) fn request(&self, what: RequestType, started: Instant) -> Timing<'_> {
        Timing { metrics: self, what, started, success: Some(false) }
    }

    pub(crate) fn panicked(&self) {
        self.0.panics.inc();
    }

    /// `version` must come from a small set: every value is a line of metrics for ever.
    pub(crate) fn client_api_version(&self, flow: &str, version: &str) {
        self.0.client_api_versions.with_label_values(&[flow, version]).inc();
    }

    fn call(&self, rpc: Rpc) -> &CallMetrics {
        &self.0.calls[rpc as usize]
    }
}

/// A request that is not answered yet. One that is dropped did not succeed.
pub(crate) struct Timing<'a> {
    metrics: &'a Metrics,
    what: RequestType,
    started: Instant,
    success: Option<bool>,
}

impl Timing<'_> {
    pub(crate) fn ended(mut self, success: bool) {
        self.success = Some(success);
    }

    /// Somebody else counts it.
    pub(crate) fn forget(mut self) {
        self.success = None;
    }
}

impl Drop for Timing<'_> {
    fn drop(&mut self) {
        let Some(success) = self.success else { return };
        let Inner { requests, requests_of, .. } = &*self.metrics.0;
        let histogram = requests_of[usize::from(success)][self.what as usize].get_or_init(|| {
            requests
                .with_label_values(&[RequestType::LABELS[self.what as usize], if success { "true" } else { "false" }])
        });
        histogram.observe(self.started.elapsed().as_secs_f64());
    }
}

/// Counts the bytes of client connections.
#[derive(Clone)]
pub(crate) struct Traffic {
    sent: IntCounter,
    received: IntCounter,
}

impl Traffic {
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.inc_by(bytes as u64);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received.inc_by(bytes as u64);
    }
}

/// Counts client connections.
#[derive(Clone)]
pub(crate) struct ConnectionGauge {
    open: IntGauge,
    accepted: IntCounter,
    refused: IntCounter,
}

impl ConnectionGauge {
    /// Counts one as open until the guard is dropped.
    pub(crate) fn open(&self) -> OpenConnection {
        self.open.inc();
        self.accepted.inc();
        OpenConnection(self.open.clone())
    }

    pub(crate) fn refused(&self) {
        self.refused.inc();
    }
}

/// An open connection.
pub(crate) struct OpenConnection(IntGauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    register(registry, IntCounter::new(name, help)?)
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}
