//! Response headers, with the parts that etcd fills in for each kind of answer (reference/etcd.md 1.0).

use super::Service;
use netsy_api::etcdserverpb::ResponseHeader;
use netsy_api::ids::{Revision, Term};

impl Service {
    /// The header of an answer at a revision and term.
    pub(crate) fn header_at(&self, revision: Revision, term: Term) -> ResponseHeader {
        let identity = self.node.identity();
        ResponseHeader {
            cluster_id: identity.cluster_id,
            member_id: identity.member_id(),
            revision: revision.0,
            raft_term: term.0,
        }
    }

    /// The header of an answer at the store's revision.
    pub(crate) fn header(&self) -> ResponseHeader {
        self.header_at(self.node.revision(), self.node.term())
    }

    /// Member calls have a header without revision.
    pub(crate) fn header_without_revision(&self) -> ResponseHeader {
        self.header_at(Revision(0), self.node.term())
    }
}

/// The header of an operation inside a transaction: the revision only.
pub(crate) fn inner_header(revision: Revision) -> ResponseHeader {
    ResponseHeader { revision: revision.0, ..ResponseHeader::default() }
}
