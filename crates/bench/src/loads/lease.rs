//! Lease keep-alive: every client holds one lease and one stream, and renews in a closed loop.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::engine::{Io, Load, Message};
use crate::http2::{Status, Want};
use crate::messages::{self, path};

/// Longer than any run, so that only renewals are measured; the leases go by themselves later.
const TTL_SECONDS: u64 = 600;

#[derive(Default)]
pub struct KeepAlive {
    leases: Vec<u64>,
    granted: usize,
    renewing: Vec<Option<Instant>>,
    under_way: usize,
    scratch: Vec<u8>,
}

impl KeepAlive {
    fn renew(&mut self, slot: usize, io: &mut Io) {
        self.scratch.clear();
        messages::lease_keep_alive(self.leases[slot], &mut self.scratch);
        self.renewing[slot] = Some(Instant::now());
        self.under_way += 1;
        io.send(slot, &self.scratch);
    }
}

impl Load for KeepAlive {
    fn start(&mut self, io: &mut Io) -> Result<()> {
        self.leases = vec![0; io.slots()];
        self.renewing = vec![None; io.slots()];
        let mut grant = Vec::new();
        messages::lease_grant(TTL_SECONDS, &mut grant);
        (0..io.slots()).try_for_each(|slot| io.call(slot, path::LEASE_GRANT, Want::Bodies, &grant))
    }

    fn message(&mut self, slot: usize, message: Message<'_>, io: &mut Io) -> Result<()> {
        let Message::Bytes(body) = message else { return Ok(()) };
        let id = messages::int_of(body, 2)?;
        let ttl = messages::int_of(body, 3)?;
        if self.leases[slot] == 0 {
            ensure!(id != 0 && ttl > 0, "LeaseGrant answered id {id}, TTL {ttl}");
            self.leases[slot] = id;
            return Ok(());
        }
        let began = self.renewing[slot].take().context("a keep-alive answer nobody asked for")?;
        self.under_way -= 1;
        if id == self.leases[slot] && ttl > 0 {
            io.meter.record(began.elapsed());
        } else {
            io.failed(|| format!("keep-alive of lease {:x} answered id {id:x}, TTL {ttl}", self.leases[slot]))?;
        }
        if !io.stopping() {
            self.renew(slot, io);
        }
        Ok(())
    }

    fn end(&mut self, slot: usize, status: Status, io: &mut Io) -> Result<()> {
        ensure!(status.code == 0, "a lease call failed: gRPC code {} {}", status.code, status.message);
        ensure!(self.renewing[slot].is_none() && self.leases[slot] != 0, "a keep-alive stream ended");
        self.granted += 1;
        if self.granted == io.slots() {
            for slot in 0..io.slots() {
                io.open(slot, path::LEASE_KEEP_ALIVE)?;
                self.renew(slot, io);
            }
        }
        Ok(())
    }

    fn ready(&self) -> bool {
        self.granted == self.leases.len()
    }

    fn idle(&self) -> bool {
        self.ready() && self.under_way == 0
    }
}
