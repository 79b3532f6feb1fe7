//! Every remote procedure this server knows by name.

/// How messages flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Unary,
    ServerStream,
    BidiStream,
}

impl Flow {
    /// The label that gRPC metrics use.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ServerStream => "server_stream",
            Self::BidiStream => "bidi_stream",
        }
    }
}

macro_rules! rpcs {
    ($($name:ident = $service:literal / $method:literal, $flow:ident;)*) => {
        /// A remote procedure.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub(crate) enum Rpc {
            $($name,)*
        }

        impl Rpc {
            /// All of them, in the order of their numbers.
            pub(crate) const ALL: &'static [Rpc] = &[$(Rpc::$name,)*];

            /// The one that an HTTP path names.
            pub(crate) fn of_path(path: &str) -> Option<Rpc> {
                match path {
                    $(concat!("/", $service, "/", $method) => Some(Rpc::$name),)*
                    _ => None,
                }
            }

            /// Full name of its service.
            pub(crate) fn service(self) -> &'static str {
                match self { $(Rpc::$name => $service,)* }
            }

            /// Its name in the service.
            pub(crate) fn method(self) -> &'static str {
                match self { $(Rpc::$name => $method,)* }
            }

            /// How its messages flow.
            pub(crate) fn flow(self) -> Flow {
                match self { $(Rpc::$name => Flow::$flow,)* }
            }
        }
    };
}

rpcs! {
    Range = "etcdserverpb.KV" / "Range", Unary;
    Put = "etcdserverpb.KV" / "Put", Unary;
    Txn = "etcdserverpb.KV" / "Txn", Unary;
    LeaseKeepAlive = "etcdserverpb.Lease" / "LeaseKeepAlive", BidiStream;
    Watch = "etcdserverpb.Watch" / "Watch", BidiStream;
    DeleteRange = "etcdserverpb.KV" / "DeleteRange", Unary;
    RangeStream = "etcdserverpb.KV" / "RangeStream", ServerStream;
    Compact = "etcdserverpb.KV" / "Compact", Unary;
    LeaseGrant = "etcdserverpb.Lease" / "LeaseGrant", Unary;
    LeaseRevoke = "etcdserverpb.Lease" / "LeaseRevoke", Unary;
    LeaseTimeToLive = "etcdserverpb.Lease" / "LeaseTimeToLive", Unary;
    LeaseLeases = "etcdserverpb.Lease" / "LeaseLeases", Unary;
    MemberAdd = "etcdserverpb.Cluster" / "MemberAdd", Unary;
    MemberRemove = "etcdserverpb.Cluster" / "MemberRemove", Unary;
    MemberUpdate = "etcdserverpb.Cluster" / "MemberUpdate", Unary;
    MemberList = "etcdserverpb.Cluster" / "MemberList", Unary;
    MemberPromote = "etcdserverpb.Cluster" / "MemberPromote", Unary;
    Alarm = "etcdserverpb.Maintenance" / "Alarm", Unary;
    Status = "etcdserverpb.Maintenance" / "Status", Unary;
    Defragment = "etcdserverpb.Maintenance" / "Defragment", Unary;
    Hash = "etcdserverpb.Maintenance" / "Hash", Unary;
    HashKv = "etcdserverpb.Maintenance" / "HashKV", Unary;
    Snapshot = "etcdserverpb.Maintenance" / "Snapshot", ServerStream;
    MoveLeader = "etcdserverpb.Maintenance" / "MoveLeader", Unary;
    Downgrade = "etcdserverpb.Maintenance" / "Downgrade", Unary;
    OperatorCluster = "netsy.operator.Operator" / "Cluster", Unary;
    OperatorMovePrimary = "netsy.operator.Operator" / "MovePrimary", Unary;
    OperatorSetCluster = "netsy.operator.Operator" / "SetCluster", Unary;
    OperatorRemoveNode = "netsy.operator.Operator" / "RemoveNode", Unary;
    OperatorRecover = "netsy.operator.Operator" / "Recover", Unary;
    HealthCheck = "grpc.health.v1.Health" / "Check", Unary;
    HealthWatch = "grpc.health.v1.Health" / "Watch", ServerStream;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_names_agree() {
        for &rpc in Rpc::ALL {
            assert_eq!(Rpc::of_path(&format!("/{}/{}", rpc.service(), rpc.method())), Some(rpc));
        }
        assert_eq!(Rpc::of_path("/etcdserverpb.Auth/UserAdd"), None);
        assert_eq!(Rpc::of_path("/etcdserverpb.KV/range"), None);
        assert_eq!(Rpc::ALL[Rpc::HealthWatch as usize], Rpc::HealthWatch);
    }
}
