//! Flow control of a connection (VIRTIO 1.3, section 5.10.6.3): each side says how large its buffer is and how much has left it, and the
//! other sends no more than fits. All counts are in bytes, modulo 2^32.

/// The buffer of a connection for what the guest sends and the host has not taken yet, in bytes.
pub const BUFFER: u32 = 64 * 1024;

/// What comes from the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receiving {
    /// Received in all.
    received: u32,
    /// Of it, what has left the buffer: `fwd_cnt`.
    forwarded: u32,
    /// The `fwd_cnt` that the guest was told last.
    announced: u32,
}

impl Receiving {
    /// Bytes in the buffer.
    pub fn buffered(&self) -> u32 {
        self.received.wrapping_sub(self.forwarded)
    }

    /// Takes `count` bytes into the buffer. Returns whether there is room for them: a guest that sends more breaks the rules.
    #[must_use]
    pub fn receive(&mut self, count: u32) -> bool {
        let room = BUFFER.saturating_sub(self.buffered());
        if count <= room {
            self.received = self.received.wrapping_add(count);
        }
        count <= room
    }

    /// `count` bytes have left the buffer.
    pub fn forward(&mut self, count: u32) {
        self.forwarded = self.forwarded.wrapping_add(count.min(self.buffered()));
    }

    /// `fwd_cnt` for a packet to the guest, which learns it by this.
    pub fn announce(&mut self) -> u32 {
        self.announced = self.forwarded;
        self.forwarded
    }

    /// Whether the guest should be told of the room that there is.
    ///
    /// A guest may use no more of this buffer than its own, `peer_buffer`, holds (Linux does, since "vsock/virtio: cap TX credit to
    /// local buffer size"). It would wait for ever if it were told for the sake of a larger one only.
    pub fn is_news(&self, peer_buffer: u32) -> bool {
        let limit = BUFFER.min(peer_buffer);
        let news = self.forwarded.wrapping_sub(self.announced);
        news >= (limit / 4).max(1)
    }
}

/// What goes to the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sending {
    /// Sent in all.
    sent: u32,
    /// The guest's `fwd_cnt`.
    forwarded: u32,
    /// The guest's `buf_alloc`.
    buffer: u32,
}

impl Sending {
    /// What the guest says of its buffer.
    pub fn update(&mut self, buf_alloc: u32, fwd_cnt: u32) {
        self.buffer = buf_alloc;
        self.forwarded = fwd_cnt;
    }

    /// The size of the guest's buffer.
    pub fn peer_buffer(&self) -> u32 {
        self.buffer
    }

    /// Bytes that the guest has room for. If its numbers make no sense, there are none.
    pub fn room(&self) -> u32 {
        let there = self.sent.wrapping_sub(self.forwarded);
        self.buffer.saturating_sub(there)
    }

    /// `count` bytes go to the guest.
    pub fn send(&mut self, count: u32) {
        self.sent = self.sent.wrapping_add(count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_guest_has_the_room_that_it_names() {
        let mut sending = Sending::default();
        assert_eq!(sending.room(), 0, "it has named none yet");
        sending.update(100, 0);
        assert_eq!(sending.room(), 100);
        sending.send(60);
        assert_eq!(sending.room(), 40);
        sending.update(100, 60);
        assert_eq!(sending.room(), 100);
        // It may make its buffer smaller than what is in it.
        sending.send(50);
        sending.update(20, 60);
        assert_eq!(sending.room(), 0);
    }

    #[test]
    fn counts_wrap_around() {
        let start = u32::MAX - 9;
        let mut sending = Sending {
            sent: start,
            forwarded: start,
            buffer: 100,
        };
        sending.send(50);
        assert_eq!(sending.sent, 40);
        assert_eq!(sending.room(), 50);
        sending.update(100, 30);
        assert_eq!(sending.room(), 90);

        let mut receiving = Receiving {
            received: start,
            forwarded: start,
            announced: start,
        };
        assert!(receiving.receive(BUFFER));
        assert_eq!(receiving.buffered(), BUFFER);
        assert!(!receiving.receive(1));
        assert!(!receiving.is_news(BUFFER));
        receiving.forward(BUFFER);
        assert_eq!(receiving.buffered(), 0);
        assert!(receiving.is_news(BUFFER));
        assert_eq!(receiving.announce(), BUFFER - 10);
        assert!(!receiving.is_news(0));
    }

    /// What was sent is never more than what there was room for, so a `fwd_cnt` beyond that is a lie.
    #[test]
    fn a_guest_that_lies_gets_nothing() {
        let mut sending = Sending::default();
        sending.update(1000, 1);
        assert_eq!(sending.room(), 0);
        sending.update(u32::MAX, 5);
        assert_eq!(sending.room(), 4, "a buffer of 4 GiB, nearly full");
    }

    #[test]
    fn a_guest_with_a_small_buffer_hears_of_each_quarter_of_it() {
        for (peer, enough) in [
            (0, 1),
            (3, 1),
            (4096, 1024),
            (BUFFER, BUFFER / 4),
            (u32::MAX, BUFFER / 4),
        ] {
            let mut receiving = Receiving::default();
            assert!(receiving.receive(enough));
            receiving.forward(enough - 1);
            assert!(!receiving.is_news(peer), "{peer}");
            receiving.forward(1);
            assert!(receiving.is_news(peer), "{peer}");
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Receive(u32),
        Forward(u32),
        Announce,
    }

    fn step() -> impl Strategy<Value = Step> {
        let count = || prop_oneof![0..2 * BUFFER, any::<u32>()];
        prop_oneof![
            count().prop_map(Step::Receive),
            count().prop_map(Step::Forward),
            Just(Step::Announce),
        ]
    }

    proptest! {
        /// Whatever a guest sends, the buffer holds what the counts say; and a guest that has used up what it was told, all of which
        /// has left the buffer, is told more.
        #[test]
        fn the_buffer_is_never_too_full_and_no_guest_waits_for_ever(
            start in any::<u32>(),
            peer in any::<u32>(),
            steps in proptest::collection::vec(step(), 0..50),
        ) {
            let mut receiving = Receiving { received: start, forwarded: start, announced: start };
            let (mut buffered, mut used) = (0_u64, 0_u64);
            for step in steps {
                match step {
                    Step::Receive(count) => {
                        let fits = buffered + u64::from(count) <= BUFFER.into();
                        prop_assert_eq!(receiving.receive(count), fits);
                        if fits {
                            buffered += u64::from(count);
                            used += u64::from(count);
                        }
                    }
                    Step::Forward(count) => {
                        receiving.forward(count);
                        buffered -= u64::from(count).min(buffered);
                    }
                    Step::Announce => {
                        receiving.announce();
                        used = buffered;
                    }
                }
                prop_assert_eq!(u64::from(receiving.buffered()), buffered);
                let limit = u64::from(BUFFER.min(peer)).max(1);
                if used >= limit && buffered == 0 {
                    prop_assert!(receiving.is_news(peer));
                }
            }
        }

        #[test]
        fn no_more_is_sent_than_there_is_room_for(
            start in any::<u32>(),
            buffer in any::<u32>(),
            steps in proptest::collection::vec((any::<u32>(), any::<u32>()), 0..50),
        ) {
            let mut sending = Sending { sent: start, forwarded: start, buffer };
            let mut there = 0_u64;
            for (send, take) in steps {
                let count = send.min(sending.room());
                sending.send(count);
                there += u64::from(count);
                prop_assert!(there <= buffer.into());
                let taken = u64::from(take).min(there);
                there -= taken;
                sending.update(buffer, sending.forwarded.wrapping_add(taken as u32));
                prop_assert_eq!(u64::from(sending.room()), u64::from(buffer) - there);
            }
        }
    }
}
