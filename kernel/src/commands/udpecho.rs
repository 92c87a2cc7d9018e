//! `udpecho`: sends back every UDP datagram, until Ctrl-C.
//!
//! Decision: it runs in the foreground, like `ping`, so that there is nothing to list and nothing to stop.
//!
//! Source: RFC 862.

use super::arguments::Arguments;
use super::syntax::network::parse_udpecho;
use super::{Command, CommandError, Context, no_words, run};

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "udpecho",
    summary: "send back every UDP datagram, until Ctrl-C",
    usage: "udpecho [PORT]      (default 7)",
    complete: no_words,
    run: run!(udpecho),
}];

async fn udpecho(context: &Context, words: Arguments<'_>) -> Result<(), CommandError> {
    let port = parse_udpecho(words)?;
    context
        .output
        .line(format_args!("echoing what comes to UDP port {port}"))
        .await;
    Ok(net::serve_udp_echo(&context.services.network, port).await?)
}
