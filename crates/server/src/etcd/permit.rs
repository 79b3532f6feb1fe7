//! Who may change the cluster itself, as against what is in it (docs/decisions/0010).

use crate::grpc::rpc::Rpc;
use crate::grpc::status::{Code, Status};
use netsy_peer::{Identity, Role};

/// Whether who asks may have this done. Without TLS nobody shows who they are, and everybody may.
pub(super) fn permit(rpc: Rpc, who: Option<&Identity>) -> Result<(), Status> {
    match who {
        Some(who) if who.role == Role::Client && is_operators(rpc) => Err(Status::new(
            Code::PermissionDenied,
            format!(
                "netsy: {who} may not call {}, which changes the cluster: connect with an operator's certificate \
                 (netsy://{}/operator/NAME, `netsy certs operator NAME` makes one) or with a node's",
                rpc.method(),
                who.cluster_id
            ),
        )),
        _ => Ok(()),
    }
}

/// What moves the Primary, takes nodes out, or changes what an acknowledged write survives. What is the same by
/// etcd's API is the same here; its other calls that change members change nothing in netsy.
fn is_operators(rpc: Rpc) -> bool {
    matches!(
        rpc,
        Rpc::OperatorMovePrimary
            | Rpc::OperatorSetCluster
            | Rpc::OperatorRemoveNode
            | Rpc::OperatorRecover
            | Rpc::MoveLeader
            | Rpc::MemberRemove
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_the_cluster_takes_an_operator_or_a_node() {
        let who = |text: &str| Some(text.parse::<Identity>().expect("an identity"));
        let may = |rpc, who: &Option<Identity>| permit(rpc, who.as_ref()).is_ok();
        let (client, others) =
            (who("netsy://c/client/app"), [None, who("netsy://c/operator/alice"), who("netsy://c/peer/n1")]);
        for &rpc in Rpc::ALL {
            assert!(others.iter().all(|who| may(rpc, who)), "{rpc:?}");
            let operators = rpc.service() == "netsy.operator.Operator" && rpc != Rpc::OperatorCluster;
            let same = matches!(rpc, Rpc::MoveLeader | Rpc::MemberRemove);
            assert_eq!(may(rpc, &client), !operators && !same, "{rpc:?}");
        }
        let refused = permit(Rpc::OperatorRecover, client.as_ref()).expect_err("refused");
        assert_eq!(refused.code, Code::PermissionDenied);
        for part in ["netsy://c/client/app", "Recover", "netsy://c/operator/NAME", "netsy certs operator"] {
            assert!(refused.message.contains(part), "{refused}");
        }
    }
}
