//! Judges what one watcher was told against the log: ordered, unique, reliable, atomic, resumable, bookmarkable
//! (etcd reference 7.2).

use crate::log::{Log, Step, revision_of, same_events, steps};
use crate::order::Order;
use crate::refusals::Compactions;
use crate::timeline::{Timeline, within};
use crate::violation::{Kind, Report};
use crate::watch::{Told, WatchMessage, WatchRecord, WatchSession};
use netsy_api::etcdserverpb::WatchCreateRequest;
use netsy_api::etcdserverpb::watch_create_request::FilterType;
use netsy_api::mvccpb::Event;
use netsy_api::mvccpb::event::EventType;

/// What watches are held against.
pub struct Truth<'a> {
    pub log: &'a Log,
    pub timeline: &'a Timeline,
    pub order: &'a Order,
    pub compactions: &'a Compactions,
}

/// Judges one watcher over all its streams.
pub fn check(record: &WatchRecord, truth: &Truth<'_>, report: &mut Report) {
    // Everything up to here has been told; `None` before the first stream began.
    let mut told: Option<i64> = None;
    for (number, session) in record.sessions.iter().enumerate() {
        let name = format!("{}, stream {number} at node {}", record.name, session.node);
        let start = session.request.start_revision;
        if let Some(told) = told.filter(|told| start == 0 || start > told + 1) {
            report.add(Kind::WatchGap, format!("{name} goes on at {start}, it was told all up to {told}"));
        }
        let first = told.is_none();
        let mut one = Session {
            name,
            session,
            truth,
            report,
            created: false,
            next: start,
            open: None,
            last: 0,
            progress: 0,
            fragments: Vec::new(),
        };
        one.run();
        if one.created || !first {
            // A later stream may begin again at what was told before.
            told = Some((one.next - 1).max(told.unwrap_or(0)));
        }
    }
    let Some(whole_to) = record.whole_to else { return };
    let Some(session) = record.sessions.last() else { return };
    let due = due(truth.log, &session.request, told.unwrap_or(truth.log.base_revision) + 1);
    for missed in due.filter(|step| step.revision <= whole_to) {
        report.add(Kind::WatchGap, format!("{}: revision {} never came", record.name, missed.revision));
    }
}

/// The parts of the log's steps, from one on, that a watch is to be told.
fn due<'a>(log: &'a Log, request: &'a WatchCreateRequest, from: i64) -> impl Iterator<Item = Step> + 'a {
    let first = log.steps.partition_point(|step| step.revision < from);
    log.steps[first..].iter().filter_map(|step| {
        let events: Vec<Event> = step.events.iter().filter(|event| wants(request, event)).cloned().collect();
        (!events.is_empty()).then_some(Step { revision: step.revision, events })
    })
}

fn wants(request: &WatchCreateRequest, event: &Event) -> bool {
    let without = if event.r#type == EventType::Delete as i32 { FilterType::Nodelete } else { FilterType::Noput };
    // No key means the first there can be.
    let start: &[u8] = if request.key.is_empty() { b"\0" } else { &request.key };
    !request.filters.contains(&(without as i32))
        && event.kv.as_ref().is_some_and(|kv| within(&kv.key, start, &request.range_end))
}

struct Session<'a> {
    name: String,
    session: &'a WatchSession,
    truth: &'a Truth<'a>,
    report: &'a mut Report,
    created: bool,
    /// Everything below has been told.
    next: i64,
    /// The revision that the last answer ended with: nothing more of it may come.
    open: Option<i64>,
    /// The greatest revision told by events or progress.
    last: i64,
    /// The greatest told by progress.
    progress: i64,
    /// Parts of an answer whose end has not come.
    fragments: Vec<Event>,
}

impl Session<'_> {
    fn wrong(&mut self, kind: Kind, text: String) {
        self.report.add(kind, format!("{}: {text}", self.name));
    }

    fn run(&mut self) {
        for message in &self.session.messages {
            if !self.created && !matches!(message.told, Told::Created) {
                self.wrong(Kind::WatchOrder, format!("before it was created, this came: {message:?}"));
            }
            let possible = self.truth.order.possible_at(message.at);
            let newest = match &message.told {
                Told::Events { events, .. } => events.iter().map(revision_of).max().unwrap_or(0),
                _ => message.revision,
            };
            if newest > possible {
                let text = format!("was told of revision {newest} when only {possible} was asked for");
                self.wrong(Kind::FromTheFuture, text);
            }
            match &message.told {
                Told::Created => self.created(message),
                Told::Events { events, fragment: true } => self.fragments.extend_from_slice(events),
                Told::Events { events, fragment: false } => {
                    let mut all = std::mem::take(&mut self.fragments);
                    all.extend_from_slice(events);
                    self.events(all, message);
                }
                Told::Progress => self.progress(message.revision),
                Told::Cancelled { compact_revision, reason } => self.cancelled(*compact_revision, reason, message),
            }
        }
    }

    fn created(&mut self, message: &WatchMessage) {
        if self.created {
            self.wrong(Kind::WatchOrder, "it was created twice".to_owned());
        }
        self.created = true;
        if self.session.request.start_revision == 0 {
            self.next = message.revision + 1;
        }
    }

    fn events(&mut self, events: Vec<Event>, message: &WatchMessage) {
        if !events.windows(2).all(|two| revision_of(&two[0]) <= revision_of(&two[1])) {
            let revisions: Vec<i64> = events.iter().map(revision_of).collect();
            self.wrong(Kind::WatchOrder, format!("an answer has its revisions out of order: {revisions:?}"));
        }
        let newest = events.iter().map(revision_of).max().unwrap_or(0);
        for (number, step) in steps(events).into_iter().enumerate() {
            self.step(step, number == 0, message);
        }
        if message.revision < newest {
            let text = format!("an answer with revision {newest} has the header's {}", message.revision);
            self.wrong(Kind::WatchWrong, text);
        }
        self.open = Some(self.last);
    }

    fn step(&mut self, step: Step, first: bool, message: &WatchMessage) {
        let revision = step.revision;
        if revision < self.next {
            let kind = self.why_again(revision, first);
            let text = format!("revision {revision} came when all up to {} had been told", self.next - 1);
            return self.wrong(kind, text);
        }
        let truth = self.truth;
        let mut due = due(truth.log, &self.session.request, self.next).peekable();
        while let Some(missed) = due.next_if(|due| due.revision < revision) {
            self.wrong(Kind::WatchGap, format!("revision {} was left out, {revision} came", missed.revision));
        }
        match due.peek() {
            Some(expected) if expected.revision == revision => {
                let part = step.events.len() < expected.events.len()
                    && step.events.iter().all(|event| {
                        expected
                            .events
                            .iter()
                            .any(|e| same_events(std::slice::from_ref(e), std::slice::from_ref(event)))
                    });
                if part {
                    let text = format!("of revision {revision} only a part came: {step:?} of {expected:?}");
                    self.wrong(Kind::WatchSplit, text);
                } else if !same_events(&expected.events, &step.events) {
                    let text = format!("revision {revision} is {:?}, {:?} was told", expected.events, step.events);
                    self.wrong(Kind::WatchWrong, text);
                }
            }
            _ => {
                let text = format!("was told {:?}, which is not in the log for it", step.events);
                self.wrong(Kind::WatchWrong, text);
            }
        }
        for event in &step.events {
            self.previous(event, message.at);
        }
        self.next = revision + 1;
        self.last = self.last.max(revision);
    }

    fn why_again(&self, revision: i64, first: bool) -> Kind {
        let start = self.session.request.start_revision;
        if self.open == Some(revision) && first {
            Kind::WatchSplit
        } else if start > 0 && revision < start {
            Kind::WatchResume
        } else if self.progress < revision {
            let earlier = self.session.messages.iter().filter(|message| match &message.told {
                Told::Events { events, .. } => events.iter().any(|event| revision_of(event) == revision),
                _ => false,
            });
            if earlier.count() > 1 { Kind::WatchTwice } else { Kind::WatchOrder }
        } else {
            Kind::WatchProgress
        }
    }

    fn previous(&mut self, event: &Event, at: u64) {
        let Some(kv) = &event.kv else { return };
        let before = self.truth.timeline.at(kv.mod_revision - 1).get(&kv.key);
        let right = match (&event.prev_kv, before) {
            (None, None) => true,
            (None, Some(_)) => {
                !self.session.request.prev_kv || self.truth.compactions.may_have_reached(kv.mod_revision, at)
            }
            (Some(told), before) => self.session.request.prev_kv && before == Some(told),
        };
        if !right {
            let text = format!("before {kv:?} there was {before:?}, it was told {:?}", event.prev_kv);
            self.wrong(Kind::WatchWrong, text);
        }
    }

    fn progress(&mut self, revision: i64) {
        let start = self.session.request.start_revision;
        if revision < self.last || revision + 1 < start {
            let text = format!("progress {revision} after {} and a start at {start}", self.last);
            return self.wrong(Kind::WatchProgress, text);
        }
        let truth = self.truth;
        for missed in due(truth.log, &self.session.request, self.next).take_while(|due| due.revision <= revision) {
            let text = format!("progress {revision} came before revision {}", missed.revision);
            self.wrong(Kind::WatchProgress, text);
        }
        if !self.fragments.is_empty() {
            self.wrong(Kind::WatchProgress, "progress came between the parts of an answer".to_owned());
        }
        self.last = revision;
        self.progress = revision;
        self.next = self.next.max(revision + 1);
    }

    fn cancelled(&mut self, compact_revision: i64, reason: &str, message: &WatchMessage) {
        if compact_revision == 0 {
            return self.wrong(Kind::WatchResume, format!("the server ended it: {reason:?}"));
        }
        if compact_revision <= self.next || !self.truth.compactions.may_have_reached(compact_revision, message.at) {
            let text = format!("ended as compacted at {compact_revision}, {} was to come next", self.next);
            self.wrong(Kind::WatchResume, text);
        }
    }
}
