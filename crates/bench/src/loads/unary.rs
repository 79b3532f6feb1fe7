//! Clients in a closed loop: each sends its next request when it has the answer to the last.

use std::time::Instant;

use anyhow::Result;

use crate::engine::{Io, Load, Message};
use crate::http2::{Status, Want};

/// What an answer was worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    Done,
    /// Right so far; the operation takes another request, and its time goes on.
    More,
    /// Lost a comparison: the next request tries again.
    Retry,
    Wrong(&'static str),
}

/// A kind of request and the check of its answers.
pub trait Requests {
    /// Writes the slot's next request and returns its path; None: the slot has nothing left to do.
    fn next(&mut self, slot: usize, out: &mut Vec<u8>) -> Option<&'static str>;
    /// Whether answers are looked into or only measured.
    fn want(&self) -> Want;
    /// One message of the slot's answer.
    fn message(&mut self, slot: usize, message: Message<'_>) -> Result<()>;
    /// The answer is complete.
    fn finish(&mut self, slot: usize) -> Verdict;
}

/// [`Requests`] as a load.
pub struct Closed<'a> {
    requests: &'a mut dyn Requests,
    began: Vec<Instant>,
    scratch: Vec<u8>,
    under_way: usize,
}

impl<'a> Closed<'a> {
    pub fn new(requests: &'a mut dyn Requests) -> Closed<'a> {
        Closed { requests, began: Vec::new(), scratch: Vec::new(), under_way: 0 }
    }

    fn issue(&mut self, slot: usize, io: &mut Io) -> Result<()> {
        self.scratch.clear();
        let Some(path) = self.requests.next(slot, &mut self.scratch) else { return Ok(()) };
        io.call(slot, path, self.requests.want(), &self.scratch)?;
        self.under_way += 1;
        Ok(())
    }
}

impl Load for Closed<'_> {
    fn start(&mut self, io: &mut Io) -> Result<()> {
        self.began = vec![Instant::now(); io.slots()];
        for slot in 0..io.slots() {
            self.began[slot] = Instant::now();
            self.issue(slot, io)?;
        }
        Ok(())
    }

    fn message(&mut self, slot: usize, message: Message<'_>, _: &mut Io) -> Result<()> {
        self.requests.message(slot, message)
    }

    fn end(&mut self, slot: usize, status: Status, io: &mut Io) -> Result<()> {
        self.under_way -= 1;
        let mut operation_ended = true;
        let now = Instant::now();
        if status.code != 0 {
            // The slot starts a new operation: what it held of the old one is dropped here.
            self.requests.finish(slot);
            io.failed(|| format!("gRPC code {}: {}", status.code, status.message))?;
        } else {
            match self.requests.finish(slot) {
                Verdict::Done => io.meter.record(now - self.began[slot]),
                Verdict::More => operation_ended = false,
                Verdict::Retry => {
                    io.meter.retry();
                    operation_ended = false;
                }
                Verdict::Wrong(why) => io.failed(|| why.to_owned())?,
            }
        }
        if io.stopping() {
            return Ok(());
        }
        if operation_ended {
            self.began[slot] = now;
        }
        self.issue(slot, io)
    }

    fn idle(&self) -> bool {
        self.under_way == 0
    }
}
