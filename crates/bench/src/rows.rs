//! The rows of the comparison: loads, figures and what netsy is to reach against etcd.

use crate::report::Metric;
use crate::spec::{Mode, Spec};

/// What a ratio, netsy to etcd, has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    pub fn met(self, value: f64) -> bool {
        match self {
            Goal::AtLeast(bound) => value >= bound,
            Goal::AtMost(bound) => value <= bound,
        }
    }

    pub fn text(self) -> String {
        match self {
            Goal::AtLeast(bound) => format!("≥ {bound}"),
            Goal::AtMost(bound) => format!("≤ {bound}"),
        }
    }
}

pub struct Row {
    pub id: &'static str,
    pub load: &'static str,
    pub mode: Mode,
    pub spec: Spec,
    /// Figures with a goal, and figures for information.
    pub figures: &'static [(Metric, Option<Goal>)],
}

/// Fills, memory and starts are not rounds of a load: `suite` runs this one on its own.
pub const MILLION: &str = "million";
pub const MILLION_PEAK: Goal = Goal::AtMost(0.5);
pub const MILLION_START: Goal = Goal::AtMost(1.0);

/// Quorum 0 against a slow object store: netsy alone.
pub const QUORUM_0: &str = "quorum-0";
pub const QUORUM_0_P50_ONE: Goal = Goal::AtMost(1.2);
pub const QUORUM_0_GROWTH: Goal = Goal::AtLeast(400.0);
pub const QUORUM_0_P50_MANY: Goal = Goal::AtMost(2.2);

/// A spec with the flags' defaults.
pub fn spec() -> Spec {
    Spec {
        clients: 100,
        connections: None,
        key_size: 32,
        value_size: 256,
        keys: 10_000,
        seconds: 5.0,
        warmup: 1.0,
        count: None,
        seed: 1,
        serializable: false,
        read_percent: 90,
        page: 0,
        range_stream: false,
        watchers: 1000,
        streams: None,
        writers: 1,
        list_value_size: 1024,
    }
}

/// All rows but [`MILLION`] and [`QUORUM_0`], in the order of the table.
pub fn rows() -> Vec<Row> {
    use Goal::{AtLeast, AtMost};
    use Metric::{P50, P99, PerCpuSecond, ServerCpu, Throughput};
    let clients = |clients| Spec { clients, ..spec() };
    let list = || Spec { clients: 1, value_size: 1024, ..spec() };
    let watch = |streams| Spec { streams: Some(streams), ..spec() };
    let row = |id, load, mode, spec, figures| Row { id, load, mode, spec, figures };
    vec![
        row("put-1", "put 256 B, 1 client", Mode::Put, clients(1), &[(Throughput, Some(AtLeast(1.3))), (P50, None)]),
        row(
            "put-100",
            "put 256 B, 100 clients",
            Mode::Put,
            clients(100),
            &[(Throughput, Some(AtLeast(3.0))), (ServerCpu, Some(AtMost(0.35))), (P99, None)],
        ),
        row(
            "put-1000",
            "put 256 B, 1,000 clients",
            Mode::Put,
            clients(1000),
            &[(Throughput, Some(AtLeast(3.0))), (P99, None)],
        ),
        row(
            "txn-100",
            "update-txn, 100 clients",
            Mode::UpdateTxn,
            clients(100),
            &[(Throughput, Some(AtLeast(3.0))), (P99, None)],
        ),
        row(
            "get-100",
            "get, linearizable, 100 clients",
            Mode::Get,
            clients(100),
            &[(Throughput, Some(AtLeast(3.0))), (ServerCpu, Some(AtMost(0.35))), (P99, None)],
        ),
        row("list", "list 10,000 × 1 KiB", Mode::List, list(), &[(P50, Some(AtMost(0.25))), (ServerCpu, None)]),
        row(
            "watch-1000",
            "watch fan-out, 1,000 watchers on 1,000 streams",
            Mode::Watch,
            watch(1000),
            &[(PerCpuSecond, Some(AtLeast(3.0))), (Throughput, None), (P99, None)],
        ),
        row(
            "watch-10",
            "watch fan-out, 1,000 watchers on 10 streams",
            Mode::Watch,
            watch(10),
            &[(PerCpuSecond, Some(AtLeast(3.0))), (Throughput, None), (P99, None)],
        ),
        row(
            "put-while-list",
            "puts of 10 clients while another lists 10,000 × 1 KiB",
            Mode::PutWhileList,
            clients(10),
            &[(P99, Some(AtMost(0.5))), (Throughput, None), (Metric::Beside, None)],
        ),
        row("get-1", "get, linearizable, 1 client", Mode::Get, clients(1), &[(Throughput, None)]),
        row("mixed-100", "90 % gets, 10 % puts, 100 clients", Mode::Mixed, clients(100), &[(Throughput, None)]),
        row(
            "list-pages",
            "list 10,000 × 1 KiB in pages of 500",
            Mode::List,
            Spec { page: 500, ..list() },
            &[(P50, None)],
        ),
        row(
            "lease-100",
            "lease keep-alive, 100 clients",
            Mode::LeaseKeepAlive,
            clients(100),
            &[(Throughput, None), (ServerCpu, None)],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, Command, FromArgMatches};

    #[test]
    fn rows_are_valid_and_start_from_the_flags_defaults() {
        let matches = Spec::augment_args(Command::new("x")).get_matches_from(["x"]);
        let flags = Spec::from_arg_matches(&matches).unwrap();
        assert_eq!(format!("{flags:?}"), format!("{:?}", spec()));
        for row in rows() {
            row.spec.check(row.mode).unwrap();
        }
    }

    #[test]
    fn goals_have_a_direction() {
        assert!(Goal::AtLeast(3.0).met(3.0) && !Goal::AtLeast(3.0).met(2.9));
        assert!(Goal::AtMost(0.5).met(0.5) && !Goal::AtMost(0.5).met(0.51));
    }
}
