//! The signals that tell a program to end: whoever runs it in a terminal, or whatever keeps it.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end it, heard from when this is made on: none that came before it is waited for is lost.
pub struct Told {
    terminate: Signal,
    interrupt: Signal,
}

impl Told {
    /// Listens from here on.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits until somebody tells it to end.
    pub async fn wait(&mut self) {
        // Cancel-safe: a signal that is not received stays pending for the next receive.
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
