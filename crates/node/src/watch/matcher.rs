//! PLACEHOLDER until mvcc's matcher lands
use super::range::WatchRange;
#[derive(Default)]
pub(super) struct Matcher {
    all: Vec<(u32, WatchRange)>,
}
impl Matcher {
    pub(super) fn add(&mut self, range: &WatchRange, slot: u32) -> u32 {
        self.all.push((slot, range.clone()));
        slot
    }
    pub(super) fn remove(&mut self, slot: u32) {
        self.all.retain(|(s, _)| *s != slot)
    }
    pub(super) fn for_each_match(&self, key: &[u8], mut f: impl FnMut(u32)) {
        for (s, r) in &self.all {
            if r.contains(key) {
                f(*s)
            }
        }
    }
}
