//! What travels and what is stored: the etcd v3 messages and services, netsy's file and peer messages, the
//! types of a log entry, and the identifiers that all floors share.
//!
//! Not here: any behaviour. Conversions in this crate are pure renaming.
//!
//! Start reading at [`log::Entry`].

pub mod ids;
pub mod log;
pub mod log_wire;

/// Generated from `proto/`; the names are the wire contract, not ours.
#[allow(clippy::all, missing_docs)]
mod generated {
    pub mod mvccpb {
        tonic::include_proto!("mvccpb");
    }
    pub mod etcdserverpb {
        tonic::include_proto!("etcdserverpb");
    }
    pub mod grpc {
        pub mod health {
            pub mod v1 {
                tonic::include_proto!("grpc.health.v1");
            }
        }
    }
    pub mod netsy {
        pub mod file {
            tonic::include_proto!("netsy.file");
        }
        pub mod legacy {
            tonic::include_proto!("netsy.legacy");
        }
        pub mod engine {
            tonic::include_proto!("netsy.engine");
        }
        pub mod operator {
            tonic::include_proto!("netsy.operator");
        }
        pub mod peer {
            tonic::include_proto!("netsy.peer");
        }
    }
}

pub use generated::etcdserverpb;
pub use generated::grpc::health::v1 as health;
pub use generated::mvccpb;
/// Messages of the rules between the nodes of a cluster.
pub use generated::netsy::engine;
/// Messages of netsy's own files (schema 2), see docs/file-format.md.
pub use generated::netsy::file;
/// Messages of Netsy 1.0's files (schema 0), read only.
pub use generated::netsy::legacy;
/// What operators ask of a node.
pub use generated::netsy::operator;
/// What carries them, and the log, and clients' requests that are passed on.
pub use generated::netsy::peer;
