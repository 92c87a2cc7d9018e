//! The trace ring.

use super::*;

#[test]
fn a_trace_reader_shows_no_record_that_was_overwritten_under_it() {
    check(&[Fault::ReadWithoutRecheck], || {
        let ring = Arc::new(TraceRing::new());
        let record = |n: u64| Record::new(n, Event::Mark, 0, 0, n as u32);
        ring.push(record(0));
        ring.push(record(1));
        let theirs = ring.clone();
        let writer = thread::spawn(move || {
            theirs.push(record(2));
            theirs.push(record(3));
        });
        let mut out = [Record::default(); 2];
        let (first, count) = ring.read(0, &mut out);
        for (number, seen) in (first..).zip(&out[..count]) {
            assert_eq!(
                (seen.time_ns, seen.arg()),
                (number, number as u32),
                "torn or misplaced"
            );
        }
        writer.join().unwrap();
    });
}
