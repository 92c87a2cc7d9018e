//! What a network device counts.
//!
//! Every frame that goes no further has a reason, and each reason a counter here ([`NetCounters`]). They are
//! plain numbers of the device's CPU; [`crate::drivers::vtnet`] publishes copies for the others. One macro
//! writes the fields, their texts and their order, so that a counter without a text cannot be added.

/// Defines the counters, their texts, and their order as numbers.
macro_rules! counters {
    ($($name:ident: $text:literal;)*) => {
        /// What happened on a device since it was first brought up.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct NetCounters {
            $(#[doc = $text] pub $name: u64,)*
        }

        impl NetCounters {
            /// How many there are.
            pub const COUNT: usize = [$($text),*].len();

            /// What each counts, for people.
            pub const TEXTS: [&'static str; Self::COUNT] = [$($text),*];

            /// The numbers, in the order of [`TEXTS`](Self::TEXTS).
            pub fn values(&self) -> [u64; Self::COUNT] {
                [$(self.$name),*]
            }

            /// The counters with these numbers.
            pub fn from_values(values: [u64; Self::COUNT]) -> Self {
                let [$($name),*] = values;
                Self { $($name),* }
            }
        }
    };
}

counters! {
    received_frames: "frames handed up";
    received_bytes: "bytes handed up";
    receive_too_short: "received and dropped: shorter than an Ethernet header";
    receive_no_memory: "received and dropped: no memory for a packet";
    transmitted_frames: "frames given to the device";
    transmitted_bytes: "bytes given to the device";
    transmit_ring_full: "output dropped: ring full";
    transmit_too_long: "output dropped: longer than the MTU";
    transmit_too_short: "output dropped: shorter than an Ethernet header";
    transmit_link_down: "output dropped: link down";
    transmit_broken: "output dropped: device broken";
    queue_errors: "times the device broke a queue and had to be brought up anew";
    link_changes: "times the link changed";
    doorbells: "doorbells rung";
}

impl NetCounters {
    /// Received frames that went no further.
    pub fn receive_drops(&self) -> u64 {
        self.receive_too_short + self.receive_no_memory
    }

    /// Frames that were not sent.
    pub fn transmit_drops(&self) -> u64 {
        self.transmit_ring_full
            + self.transmit_too_long
            + self.transmit_too_short
            + self.transmit_link_down
            + self.transmit_broken
    }
}
