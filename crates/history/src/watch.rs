//! What watches were told.

use netsy_api::etcdserverpb::WatchCreateRequest;
use netsy_api::mvccpb::Event;

/// One watcher over its whole life: when a stream breaks it goes on at another, from the revision after the last told.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchRecord {
    /// For messages.
    pub name: String,
    /// In order.
    pub sessions: Vec<WatchSession>,
    /// Everything up to this revision was waited for and must have come.
    pub whole_to: Option<i64>,
}

/// One watch on one stream.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchSession {
    /// The node asked.
    pub node: u32,
    /// As asked for. Of one that goes on, `start_revision` is the revision after the last told (events or progress).
    pub request: WatchCreateRequest,
    /// What came, in order.
    pub messages: Vec<WatchMessage>,
}

/// One answer on the stream for this watch (or for all on it: progress with id -1).
#[derive(Clone, Debug, PartialEq)]
pub struct WatchMessage {
    /// When it came.
    pub at: u64,
    /// Of the header.
    pub revision: i64,
    /// The rest.
    pub told: Told,
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// The watch begins.
    Created,
    /// Changes.
    Events {
        /// Not empty.
        events: Vec<Event>,
        /// More of the same answer is to come.
        fragment: bool,
    },
    /// Everything up to the header's revision has been told.
    Progress,
    /// The server ended the watch. One that the client asked for is not recorded.
    Cancelled {
        /// Not 0: what was to come is compacted up to here.
        compact_revision: i64,
        /// Else, why.
        reason: String,
    },
}
