//! Follows a morph to its end, telling each move on standard error.

use crate::client::{Client, ClientError, segment};
use crate::terminal;
use proteus_model::execution::{Morph, State};
use proteus_model::id::MorphId;
use proteus_protocol::api::v1::MorphView;
use std::time::Duration;

/// How often the morph is looked at.
const INTERVAL: Duration = Duration::from_millis(150);

/// Waits for the end of a morph. `quiet`: without a word, for programs.
pub(crate) async fn follow(client: &Client, id: MorphId, quiet: bool) -> Result<Morph, ClientError> {
    let path = format!("/morphs/{}", segment(&id.to_string()));
    let mut last: Option<State> = None;
    let mut stuck: Option<String> = None;
    loop {
        let MorphView { morph, stuck: now, .. } = client.get(&path).await?;
        if now != stuck && !quiet {
            match &now {
                Some(why) => terminal::say_aside(format_args!("  cannot go on: {why}; it is tried again")),
                None => terminal::say_aside(format_args!("  goes on")),
            }
        }
        stuck = now;
        if last != Some(morph.state) {
            last = Some(morph.state);
            let steps = morph.plan.steps.len();
            match morph.state {
                _ if quiet => {}
                State::Applying { step } => {
                    terminal::say_aside(format_args!("  applying step {} of {steps}", step + 1))
                }
                State::Undoing { step } => {
                    terminal::say_aside(format_args!("  undoing step {} of {steps}", step + 1))
                }
                other => terminal::say_aside(format_args!("  {}", other.word())),
            }
        }
        if morph.state.is_terminal() {
            return Ok(morph);
        }
        // Each of its steps, and its windows, have limits where they are taken: a morph ends. Who leaves earlier
        // leaves it running.
        tokio::time::sleep(INTERVAL).await;
    }
}
