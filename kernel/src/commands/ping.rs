//! `ping`: asks a host for echoes, at a steady pace whatever the answers do.
//!
//! Decision: requests leave on time even while an answer is awaited, as every ping does; so a hole in the
//! answers is as long as the outage was, which is what one pings for.

use alloc::collections::BTreeMap;
use core::fmt;
use core::net::Ipv4Addr;
use core::pin::pin;

use executor::{now_ns, sleep_until};
use futures_util::future::{Either, select};
use net::EchoEvent;

use super::arguments::Arguments;
use super::syntax::network::{Ping, parse_ping};
use super::{Command, CommandError, Context, no_words, run};
use crate::console::terminal::Output;

/// ICMP header, counted by BSD's ping as part of what came back.
const ICMP_HEADER_BYTES: usize = 8;

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "ping",
    summary: "see whether and how fast a host answers",
    usage: "ping [-c COUNT] [-i SECONDS] [-s BYTES] [-W SECONDS] [-q] ADDRESS\n\
            -i: pause between requests; -W: how long to wait for the last answer",
    complete: no_words,
    run: run!(ping),
}];

/// What was counted. Dropped, it prints the summary: Ctrl-C drops it, too.
struct Summary {
    output: Output,
    address: Ipv4Addr,
    sent: u64,
    answered: u64,
    min_ns: u64,
    max_ns: u64,
    sum_ns: u64,
}

impl Summary {
    fn add(&mut self, time_ns: u64) {
        self.answered += 1;
        self.min_ns = self.min_ns.min(time_ns);
        self.max_ns = self.max_ns.max(time_ns);
        self.sum_ns = self.sum_ns.saturating_add(time_ns);
    }
}

impl Drop for Summary {
    fn drop(&mut self) {
        let Self { sent, answered, .. } = *self;
        let lost_permille = (sent - answered) * 1000 / sent.max(1);
        self.output
            .keep_line(format_args!("--- {} ping statistics ---", self.address));
        self.output.keep_line(format_args!(
            "{sent} packets transmitted, {answered} packets received, {}.{}% packet loss",
            lost_permille / 10,
            lost_permille % 10
        ));
        if let Some(average_ns) = self.sum_ns.checked_div(answered) {
            self.output.keep_line(format_args!(
                "round-trip min/avg/max = {}/{}/{} ms",
                Milliseconds(self.min_ns),
                Milliseconds(average_ns),
                Milliseconds(self.max_ns)
            ));
        }
    }
}

/// Nanoseconds, shown as milliseconds with three decimals.
struct Milliseconds(u64);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1_000_000, self.0 / 1000 % 1000)
    }
}

async fn ping(context: &Context, words: Arguments<'_>) -> Result<(), CommandError> {
    let request = parse_ping(words)?;
    let client = net::Ping::open(&context.services.network).await?;
    let answered = converse(context, &request, &client).await;
    context.output.flush().await;
    client.close().await;
    if answered == 0 {
        Err(CommandError::NoAnswer(request.address))
    } else {
        Ok(())
    }
}

/// Sends and receives until it is over; returns the number of answers.
async fn converse(context: &Context, request: &Ping, client: &net::Ping) -> u64 {
    let output = &context.output;
    let address = request.address;
    output
        .line(format_args!(
            "PING {address}: {} data bytes",
            request.payload_bytes
        ))
        .await;
    let mut summary = Summary {
        output: output.clone(),
        address,
        sent: 0,
        answered: 0,
        min_ns: u64::MAX,
        max_ns: 0,
        sum_ns: 0,
    };
    let interval_ns = request.interval.as_nanos() as u64;
    let patience_ns = request.patience.as_nanos() as u64;
    // When each unanswered request was sent; those older than anybody waits are forgotten.
    let mut waiting: BTreeMap<u16, u64> = BTreeMap::new();
    let mut next_ns = now_ns();
    loop {
        let all_sent = request.count.is_some_and(|count| summary.sent >= count);
        if all_sent && (waiting.is_empty() || now_ns() >= next_ns) {
            return summary.answered;
        }
        if !all_sent && now_ns() >= next_ns {
            let sequence = summary.sent as u16;
            waiting.insert(sequence, now_ns());
            if let Err(reason) = client.send(address, sequence, request.payload_bytes.into()) {
                waiting.remove(&sequence);
                output
                    .line(format_args!("ping: icmp_seq={sequence} not sent: {reason}"))
                    .await;
            }
            summary.sent += 1;
            let is_last = request.count == Some(summary.sent);
            next_ns = next_ns.saturating_add(if is_last { patience_ns } else { interval_ns });
            let oldest_ns = now_ns().saturating_sub(patience_ns.max(interval_ns));
            waiting.retain(|_, sent_ns| *sent_ns >= oldest_ns);
            continue;
        }
        let event = {
            let received = pin!(client.recv());
            let due = pin!(sleep_until(next_ns));
            match select(received, due).await {
                Either::Left((event, _)) => event,
                Either::Right(_) => continue,
            }
        };
        match event {
            EchoEvent::Reply(reply) => {
                let Some(sent_ns) = waiting.remove(&reply.sequence) else {
                    continue;
                };
                let time_ns = reply.received_ns.saturating_sub(sent_ns);
                summary.add(time_ns);
                if !request.quiet {
                    output
                        .line(format_args!(
                            "{} bytes from {}: icmp_seq={} ttl={} time={} ms",
                            reply.length + ICMP_HEADER_BYTES,
                            reply.source,
                            reply.sequence,
                            reply.ttl,
                            Milliseconds(time_ns)
                        ))
                        .await;
                }
            }
            EchoEvent::Error {
                source,
                sequence,
                icmp_type,
                icmp_code,
            } => {
                waiting.remove(&sequence);
                output
                    .line(format_args!(
                        "from {source}: icmp_seq={sequence} ICMP type {icmp_type} code {icmp_code}"
                    ))
                    .await;
            }
        }
    }
}
