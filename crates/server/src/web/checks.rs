//! `/livez` and `/readyz`: named checks for kubelets, alone (`/readyz/NAME`) or together.

use super::health::linearizable_read;
use super::{Query, TEXT, answer};
use crate::etcd::Service;
use bytes::Bytes;
use http::{Response, StatusCode};
use netsy_api::log::AlarmKind;
use std::fmt::Write as _;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
    NotDraining,
    Storage,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
            Self::NotDraining => "not_draining",
            Self::Storage => "storage",
        }
    }

    async fn run(self, service: &Service) -> Result<(), String> {
        match self {
            Self::DataCorruption => {
                let corrupt = service.node.status().alarms.iter().any(|(_, kind)| *kind == AlarmKind::Corrupt);
                if corrupt { Err("alarm CORRUPT is active".to_owned()) } else { Ok(()) }
            }
            Self::SerializableRead => {
                // Readers share one lock with the writer: taking it shows that the node is not stuck.
                service.node.revision();
                Ok(())
            }
            Self::LinearizableRead => linearizable_read(service).await,
            Self::NonLearner => {
                if service.node.is_learner() {
                    Err("the node has no vote yet".to_owned())
                } else {
                    Ok(())
                }
            }
            Self::NotDraining => {
                if *service.drain.borrow() {
                    Err("the server is stopping".to_owned())
                } else {
                    Ok(())
                }
            }
            Self::Storage => service.node.status().ready,
        }
    }
}

const LIVE: &[Check] = &[Check::SerializableRead];
const READY: &[Check] = &[
    Check::DataCorruption,
    Check::SerializableRead,
    Check::LinearizableRead,
    Check::NonLearner,
    Check::NotDraining,
    Check::Storage,
];

/// Answers `/livez`, `/readyz` and what is below them.
pub(super) async fn probe(service: &Service, path: &str, query: Query<'_>) -> Response<Bytes> {
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let all = if parts.next() == Some("livez") { LIVE } else { READY };
    let checks: Vec<Check> = match parts.next() {
        None => all.to_vec(),
        Some(name) => all.iter().copied().filter(|check| check.name() == name).collect(),
    };
    if checks.is_empty() {
        return answer(StatusCode::NOT_FOUND, TEXT, "404 page not found\n");
    }
    let mut failed = false;
    let mut report = String::new();
    for check in checks {
        let name = check.name();
        // Writing into a String cannot fail.
        let _ = if query.all("exclude").any(|excluded| excluded == name) {
            writeln!(report, "[+]{name} excluded: ok")
        } else {
            match check.run(service).await {
                Ok(()) => writeln!(report, "[+]{name} ok"),
                Err(reason) => {
                    failed = true;
                    writeln!(report, "[-]{name} failed: {reason}")
                }
            }
        };
    }
    if failed {
        return answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, report);
    }
    if query.has("verbose") {
        report.push_str("ok\n");
        return answer(StatusCode::OK, TEXT, report);
    }
    answer(StatusCode::OK, TEXT, "ok\n")
}
