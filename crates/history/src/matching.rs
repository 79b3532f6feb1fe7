//! Which of several possible causes each effect has: a maximum matching, one cause for each effect at most.

use std::collections::VecDeque;

/// A matching that grows by one effect at a time and never lets one go again.
pub struct Matching {
    cause_of: Vec<Option<usize>>,
    effect_of: Vec<Option<usize>>,
}

impl Matching {
    pub fn new(effects: usize, causes: usize) -> Self {
        Self { cause_of: vec![None; effects], effect_of: vec![None; causes] }
    }

    /// Finds a cause for `effect`, giving others of its rivals where needed. False: there is none.
    pub fn add(&mut self, effect: usize, possible: &[Vec<usize>]) -> bool {
        let mut by: Vec<(usize, usize)> = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        let mut queue = VecDeque::from([effect]);
        while let Some(at) = queue.pop_front() {
            for &cause in &possible[at] {
                if !seen.insert(cause) {
                    continue;
                }
                by.push((cause, at));
                match self.effect_of[cause] {
                    Some(rival) => queue.push_back(rival),
                    None => {
                        self.turn(&by, cause, at);
                        return true;
                    }
                }
            }
        }
        false
    }

    /// Every effect on the way takes the cause it was reached for, from the free one back.
    fn turn(&mut self, by: &[(usize, usize)], mut cause: usize, mut effect: usize) {
        loop {
            let before = self.cause_of[effect].replace(cause);
            self.effect_of[cause] = Some(effect);
            // `effect` was reached because it held `before`; who reached for that one gets it now.
            let Some(freed) = before else { return };
            let Some(&(_, wanted_by)) = by.iter().find(|(cause, _)| *cause == freed) else { return };
            (cause, effect) = (freed, wanted_by);
        }
    }

    pub fn cause_of(&self, effect: usize) -> Option<usize> {
        self.cause_of[effect]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(possible: &[Vec<usize>], causes: usize) -> (Vec<bool>, Vec<Option<usize>>) {
        let mut matching = Matching::new(possible.len(), causes);
        let added = (0..possible.len()).map(|effect| matching.add(effect, possible)).collect();
        (added, (0..possible.len()).map(|effect| matching.cause_of(effect)).collect())
    }

    #[test]
    fn earlier_choices_are_changed_where_needed() {
        let (added, causes) = all(&[vec![0, 1], vec![0, 2], vec![0], vec![1, 2]], 3);
        assert_eq!(added, [true, true, true, false]);
        assert_eq!(causes, [Some(1), Some(2), Some(0), None]);
    }

    #[test]
    fn a_long_chain() {
        // Effect n likes cause n and n + 1; the last one likes only cause 0.
        let mut possible: Vec<Vec<usize>> = (0..50).map(|n| vec![n, n + 1]).collect();
        possible.push(vec![0]);
        let (added, causes) = all(&possible, 51);
        assert!(added.iter().all(|added| *added));
        let mut used: Vec<usize> = causes.into_iter().flatten().collect();
        used.sort_unstable();
        assert_eq!(used, (0..51).collect::<Vec<_>>());
    }

    #[test]
    fn nothing_is_used_twice() {
        let (added, _) = all(&[vec![0], vec![0], vec![]], 1);
        assert_eq!(added, [true, false, false]);
    }
}
