//! Which messages are shown again: a guest that causes the same one for ever, across its reboots too, must not fill a log.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// This often a message is shown each time.
const EACH: u64 = 3;

/// After this long without it a message is news again.
const NEWS: Duration = Duration::from_secs(3600);

/// This many texts are told apart. Beyond, messages from one place in the program count as the same, because their
/// texts may be the guest's choice.
const MAX_TEXTS: usize = 64;

/// How often each message came.
///
/// A message is shown the first [`EACH`] times, then whenever its number has doubled, and after an hour's silence.
#[derive(Debug, Default)]
pub struct Repeats(HashMap<Key, Count>);

#[derive(Debug, PartialEq, Eq, Hash)]
enum Key {
    Text(String),
    Site(String, Option<u32>),
}

#[derive(Debug)]
struct Count {
    times: u64,
    shown: Instant,
}

impl Repeats {
    /// What to show of this message, from this file and line: all of it, with how often it came if that is not seen, or
    /// nothing.
    pub fn show(
        &mut self,
        text: String,
        site: (&str, Option<u32>),
        now: Instant,
    ) -> Option<String> {
        let mut key = Key::Text(text.clone());
        if self.0.len() >= MAX_TEXTS && !self.0.contains_key(&key) {
            key = Key::Site(site.0.to_owned(), site.1);
        }
        let count = self.0.entry(key).or_insert(Count {
            times: 0,
            shown: now,
        });
        count.times = count.times.saturating_add(1);
        let times = count.times;
        if times > EACH
            && !times.is_power_of_two()
            && now.saturating_duration_since(count.shown) < NEWS
        {
            return None;
        }
        count.shown = now;
        Some(if times > EACH {
            format!("{text} ({times} times so far)")
        } else {
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_message_becomes_rare_and_another_one_is_shown() {
        let mut repeats = Repeats::default();
        let now = Instant::now();
        let mut show = |text: &str, now| repeats.show(text.to_owned(), ("disk.rs", Some(7)), now);
        let shown: Vec<String> = (0..1000).filter_map(|_| show("a", now)).collect();
        assert_eq!(shown[..4], ["a", "a", "a", "a (4 times so far)"]);
        assert_eq!(shown.len(), 3 + 8, "{shown:?}");
        assert_eq!(show("b", now).as_deref(), Some("b"));
        assert_eq!(show("a", now + NEWS / 2), None);
        assert_eq!(
            show("a", now + NEWS).as_deref(),
            Some("a (1002 times so far)")
        );
        assert_eq!(show("a", now + NEWS), None);
    }

    #[test]
    fn a_guest_that_chooses_the_text_is_bounded_as_well() {
        let mut repeats = Repeats::default();
        let now = Instant::now();
        let shown = (0..100_000)
            .filter_map(|n| repeats.show(n.to_string(), ("disk.rs", Some(7)), now))
            .count();
        assert!(shown < MAX_TEXTS + 30, "{shown}");
        assert!(repeats.0.len() <= MAX_TEXTS + 1);
        // Another place still has its say.
        let other = repeats.show("other".into(), ("net.rs", Some(1)), now);
        assert_eq!(other.as_deref(), Some("other"));
    }
}
