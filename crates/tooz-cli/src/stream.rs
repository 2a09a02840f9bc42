//! Lines of a stream, each with its time, and marks where the session or the backend was lost.

use std::io;
use std::pin::pin;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tooz::{Events, SessionEvent};

use crate::output::Output;
use crate::stdout::reader_gone;

/// Prints what happened: the text for people, or the object.
pub(crate) fn line(out: Output, text: &str, mut object: Value) -> io::Result<()> {
    let now = humantime::format_rfc3339_millis(SystemTime::now());
    if !out.json {
        return out.line(&format!("{now}  {text}"));
    }
    object["time"] = json!(now.to_string());
    out.value(&object)
}

/// The text for people of an event and what it is about.
pub(crate) fn text(event: &str, about: impl std::fmt::Display) -> String {
    format!("{event:<11}  {about}").trim_end().to_owned()
}

/// Prints events as they come, and marks between them, until nobody reads them any more.
pub(crate) async fn follow<T>(
    mut events: Events<T>,
    mut session: Events<SessionEvent>,
    out: Output,
    print: impl Fn(&T) -> io::Result<()>,
) -> Result<()> {
    let mut gone = pin!(reader_gone());
    loop {
        tokio::select! {
            biased;
            gone = &mut gone => return Err(gone.into()),
            Some(event) = session.next() => mark(&event, out)?,
            event = events.next() => print(&event.context("the stream of events ended")?)?,
        }
    }
}

/// Prints only the marks.
pub(crate) async fn follow_session(mut session: Events<SessionEvent>, out: Output) -> Result<()> {
    let mut gone = pin!(reader_gone());
    loop {
        tokio::select! {
            gone = &mut gone => return Err(gone.into()),
            event = session.next() => {
                mark(&event.context("the stream of events ended")?, out)?;
            }
        }
    }
}

fn mark(event: &SessionEvent, out: Output) -> io::Result<()> {
    let mark = |event, why: &str| line(out, &text(event, why), json!({"event": event}));
    match event {
        SessionEvent::Suspended => mark("suspended", "the backend does not answer"),
        SessionEvent::Resumed => mark("resumed", "the backend answers again"),
        SessionEvent::Lost(loss) => {
            let loss = loss.to_string();
            line(out, &text("lost", &loss), json!({"event": "lost", "reason": loss}))
        }
        SessionEvent::Rejoined(_) => mark("reconnected", "in a new session"),
        _ => Ok(()),
    }
}
