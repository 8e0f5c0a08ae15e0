//! A timer wheel: one deadline per item, kept with the item; the wheel only says whom to ask.

/// Milliseconds of one tick; deadlines fire up to this much late and never early.
const TICK_MS: u64 = 128;

/// Ticks of one turn of the wheel, about 33 s; later deadlines are looked at once a turn.
const TICKS: u64 = 256;

/// Items are `u32` indices. An item that is due is handed out once; its owner compares the item's real
/// deadline with the clock and inserts it again when that lies later. So moving a deadline further
/// away costs nothing, and four bytes an item are all the wheel holds.
///
/// After a pause (of the machine, say) the wheel lags behind the clock until it is asked: what is inserted
/// then is handed out early, as if it was more than a turn away. [`tick_of`](Self::tick_of) says when.
pub struct Wheel {
    buckets: Vec<Vec<u32>>,
    /// The next tick to look at.
    tick: u64,
    due: Vec<u32>,
}

impl Wheel {
    /// An empty wheel that starts at `now_ms`.
    pub fn new(now_ms: u64) -> Wheel {
        let buckets = (0..TICKS).map(|_| Vec::new()).collect();
        Wheel { buckets, tick: now_ms / TICK_MS + 1, due: Vec::new() }
    }

    /// The tick in which an item with that deadline would be handed out if it was inserted now; never 0.
    pub fn tick_of(&self, deadline_ms: u64) -> u32 {
        self.slot(deadline_ms) as u32
    }

    /// The tick that was looked at last.
    pub fn last_tick(&self) -> u32 {
        (self.tick - 1) as u32
    }

    fn slot(&self, deadline_ms: u64) -> u64 {
        deadline_ms.div_ceil(TICK_MS).clamp(self.tick, self.tick + TICKS - 1)
    }

    /// Has `item` handed out at `deadline_ms`, or earlier when that is more than a turn away.
    pub fn insert(&mut self, item: u32, deadline_ms: u64) {
        let tick = self.slot(deadline_ms);
        self.buckets[(tick % TICKS) as usize].push(item);
    }

    /// The next item whose time has come. Items inserted meanwhile wait for the next call series.
    pub fn pop_due(&mut self, now_ms: u64) -> Option<u32> {
        while self.due.is_empty() {
            if self.tick > now_ms / TICK_MS {
                return None;
            }
            let bucket = &mut self.buckets[(self.tick % TICKS) as usize];
            std::mem::swap(bucket, &mut self.due);
            self.tick += 1;
        }
        self.due.pop()
    }

    /// When [`pop_due`](Self::pop_due) should be asked again, in milliseconds; `None`: the wheel is empty.
    pub fn next_ms(&self) -> Option<u64> {
        if !self.due.is_empty() {
            return Some(0);
        }
        let ahead =
            |offset: &u64| !self.buckets[((self.tick + offset) % TICKS) as usize].is_empty();
        (0..TICKS).find(ahead).map(|offset| (self.tick + offset) * TICK_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_out_when_due_and_not_before() {
        let mut wheel = Wheel::new(1000);
        wheel.insert(1, 2000);
        wheel.insert(2, 5000);
        assert_eq!(wheel.pop_due(1999), None);
        assert!(wheel.next_ms().is_some_and(|at| (2000..2000 + TICK_MS).contains(&at)));
        assert_eq!(wheel.pop_due(2000 + TICK_MS), Some(1));
        assert_eq!(wheel.pop_due(4999), None);
        assert_eq!(wheel.pop_due(60_000), Some(2));
        assert_eq!(wheel.next_ms(), None);
    }

    #[test]
    fn a_far_deadline_is_handed_out_once_a_turn() {
        let mut wheel = Wheel::new(0);
        let deadline = 100_000;
        wheel.insert(7, deadline);
        let mut looks = 0;
        for now in (0..200_000).step_by(50) {
            while let Some(item) = wheel.pop_due(now) {
                assert_eq!(item, 7);
                looks += 1;
                if now < deadline {
                    wheel.insert(7, deadline);
                }
            }
        }
        assert!((2..=5).contains(&looks), "{looks}");
    }

    #[test]
    fn a_wheel_that_lags_says_that_it_hands_out_early() {
        let mut wheel = Wheel::new(0);
        let (now, deadline) = (100_000, 105_000);
        let tick = wheel.tick_of(deadline);
        wheel.insert(1, deadline);
        assert_eq!(wheel.pop_due(now), Some(1));
        assert_eq!(wheel.last_tick(), tick);
        assert_eq!(wheel.pop_due(now), None);
        let tick = wheel.tick_of(deadline);
        wheel.insert(1, deadline);
        assert_eq!(wheel.pop_due(deadline - 1), None);
        assert_eq!(wheel.pop_due(deadline + TICK_MS), Some(1));
        assert_eq!(wheel.last_tick(), tick);
    }

    #[test]
    fn a_deadline_in_the_past_is_due_at_once() {
        let mut wheel = Wheel::new(10_000);
        wheel.insert(3, 5);
        assert_eq!(wheel.pop_due(10_000 + TICK_MS), Some(3));
    }
}
