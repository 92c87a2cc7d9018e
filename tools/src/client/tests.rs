//! Outages judged from made-up logs.

use super::*;

const INTERVAL: Duration = Duration::from_millis(1);

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A ping each ms from 0 to 1000, answered 200 us later by `who(ms)`.
fn log(epoch: Instant, who: impl Fn(u64) -> Option<Port>) -> Log {
    let mut log = Log::default();
    for sequence in 0..1000 {
        let sent = epoch + ms(sequence);
        log.sent(sent);
        if let Some(from) = who(sequence) {
            let at = sent + Duration::from_micros(200);
            log.answered(sequence, Reply { at, from });
        }
    }
    log
}

#[test]
fn a_gap_is_the_outage_and_names_both_sides() {
    let epoch = Instant::now();
    let who = |n| match n {
        0..300 => Some(Port(0)),
        300..337 => None,
        _ => Some(Port(1)),
    };
    let window = log(epoch, who).window(epoch + ms(250), epoch + ms(999), INTERVAL);
    assert_eq!(window.outage, ms(37));
    assert_eq!((window.lost, window.lost_of_every_tenth), (37, 4));
    assert_eq!(window.hand_over, (Some(Port(0)), Some(Port(1))));
    assert_eq!(window.own_stall, Duration::ZERO);
}

#[test]
fn an_event_just_before_the_window_still_counts_from_the_last_answer() {
    let epoch = Instant::now();
    let who = |n| (!(300..=350).contains(&n)).then_some(Port(0));
    let window = log(epoch, who).window(epoch + ms(300), epoch + ms(999), INTERVAL);
    assert_eq!(window.outage, ms(51));
}

#[test]
fn silence_to_the_end_is_an_outage_too() {
    let epoch = Instant::now();
    let window = log(epoch, |n| (n < 400).then_some(Port(0)));
    let window = window.window(epoch + ms(100), epoch + ms(999), INTERVAL);
    assert!(window.outage > ms(598), "{window:?}");
    assert_eq!(window.hand_over, (Some(Port(0)), None));
    assert_eq!(window.lost, 99, "only those older than the limit are lost");
    assert_eq!(window.lost_of_every_tenth, 10);
}

#[test]
fn late_answers_do_not_hide_the_outage() {
    let epoch = Instant::now();
    let mut log = log(epoch, |n| (n < 100).then_some(Port(0)));
    for sequence in 100..600 {
        log.answered(
            sequence,
            Reply {
                at: epoch + ms(700),
                from: Port(0),
            },
        );
    }
    let window = log.window(epoch + ms(50), epoch + ms(800), INTERVAL);
    assert!(window.outage > ms(598), "{window:?}");
}

#[test]
fn our_own_stall_is_told_apart() {
    let epoch = Instant::now();
    let mut log = Log::default();
    for (sequence, at) in [0, 1, 2, 52, 53].into_iter().enumerate() {
        log.sent(epoch + ms(at));
        log.answered(
            sequence as u64,
            Reply {
                at: epoch + ms(at),
                from: Port(0),
            },
        );
    }
    let window = log.window(epoch, epoch + ms(53), INTERVAL);
    assert_eq!(window.own_stall, ms(49));
}
