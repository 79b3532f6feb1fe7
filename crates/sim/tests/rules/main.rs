//! Each rule as a scripted schedule on one engine: it holds as written, and breaks in the variant that weakens it.
//! Flaws 9, 18 and 19c of protocol-review.md, which random schedules do not reach, are among them.

mod bench;
mod changes;
mod elections;
mod leases;
mod logs;
mod promises;
mod reads;
mod recoveries;
mod roles;
