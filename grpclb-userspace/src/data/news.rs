//! What is told of Services, on its way to one worker, which is woken only for those that its pods use: for any other it
//! looks when a connection asks, and with each heartbeat. Of ten thousand Services a node's pods use a few, and waking a
//! thread costs more than all else that a change does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::model::ServicePort;

/// What a slot stands for now; nothing, if there is no Service.
#[derive(Debug)]
pub(super) struct News {
    pub slot: u32,
    pub service: Option<Arc<ServicePort>>,
}

/// The end at which the rest of the agent tells.
#[derive(Debug)]
pub(super) struct Teller {
    news: Sender<News>,
    used: Arc<Used>,
}

/// The worker's end.
#[derive(Debug)]
pub(super) struct Hearer {
    news: Receiver<News>,
    used: Arc<Used>,
}

/// The slots that the worker's pods use, or have used. Several slots share a bit: a worker may be woken in vain.
#[derive(Debug)]
struct Used([AtomicU64; 64]);

pub(super) fn news() -> (Teller, Hearer) {
    let (tell, news) = channel();
    let used = Arc::new(Used([const { AtomicU64::new(0) }; 64]));
    let teller = Teller {
        news: tell,
        used: Arc::clone(&used),
    };
    (teller, Hearer { news, used })
}

impl Teller {
    /// Never blocks. Returns whether the worker has to be woken.
    pub(super) fn tell(&self, news: News) -> bool {
        let slot = news.slot;
        // Fails when the worker has ended: nobody has to be told.
        let told = self.news.send(news).is_ok();
        // With that of `Hearer::uses`: the worker finds the news, or this finds that the slot is used.
        fence(Ordering::SeqCst);
        told && self.used.has(slot)
    }
}

impl Hearer {
    /// A pod begins to use a slot. What [`next`](Self::next) tells after this is as new as can be, and the worker is woken
    /// for what comes later.
    pub(super) fn uses(&self, slot: u32) {
        self.used.note(slot);
        fence(Ordering::SeqCst);
    }

    /// Whether a pod may use the slot, or may have used it.
    pub(super) fn may_use(&self, slot: u32) -> bool {
        self.used.has(slot)
    }

    /// What was told and not heard yet, in order.
    pub(super) fn next(&self) -> Option<News> {
        self.news.try_recv().ok()
    }
}

impl Used {
    fn note(&self, slot: u32) {
        let (word, bit) = self.place(slot);
        word.fetch_or(bit, Ordering::Relaxed);
    }

    fn has(&self, slot: u32) -> bool {
        let (word, bit) = self.place(slot);
        word.load(Ordering::Relaxed) & bit != 0
    }

    fn place(&self, slot: u32) -> (&AtomicU64, u64) {
        let word = &self.0[slot as usize / 64 % self.0.len()];
        (word, 1 << (slot % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(slot: u32) -> News {
        News { slot, service: None }
    }

    #[test]
    fn the_worker_is_woken_for_slots_that_are_used_and_hears_of_all_in_order() {
        let (teller, hearer) = news();
        assert!(!teller.tell(gone(7)));
        hearer.uses(7);
        assert!(teller.tell(gone(7)));
        assert!(!teller.tell(gone(8)), "a neighbour");
        assert!(teller.tell(gone(7 + 64 * 64)), "in vain: they share a bit");
        let heard: Vec<u32> = std::iter::from_fn(|| hearer.next())
            .map(|news| news.slot)
            .collect();
        assert_eq!(heard, [7, 7, 8, 7 + 64 * 64]);
    }

    #[test]
    fn news_is_found_by_whoever_begins_to_use_the_slot_or_wakes_the_worker() {
        for slot in 0..1000 {
            let (teller, hearer) = news();
            let telling = std::thread::spawn(move || teller.tell(gone(slot)));
            hearer.uses(slot);
            let found = hearer.next().is_some();
            let wakes = telling.join().unwrap();
            assert!(found || wakes, "slot {slot}");
        }
    }

    #[test]
    fn nobody_is_woken_where_the_worker_has_ended() {
        let (teller, hearer) = news();
        hearer.uses(1);
        drop(hearer);
        assert!(!teller.tell(gone(1)));
    }
}
