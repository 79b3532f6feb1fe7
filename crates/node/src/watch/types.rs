use bytes::Bytes;
use netsy_api::ids::{LeaseId, Position, Revision};
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueRef {
    Here(Bytes),
    Stored(Position),
    Omitted,
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvRef {
    pub key: Bytes,
    pub create_revision: Revision,
    pub mod_revision: Revision,
    pub version: i64,
    pub lease: LeaseId,
    pub value: ValueRef,
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    pub kv: KvRef,
    pub prev: Option<KvRef>,
}
