//! The test's own end of the guest channel: one question, one answer. Must not trust the driver: it is how the
//! tests look into the guest.

use proteus_protocol::guest::frame::{Decoder, encode};
use proteus_protocol::guest::v1::{
    Blob, ExecOutcome, ExecRequest, GuestMessage, HostMessage, Reply, Request,
};
use proteus_protocol::guest::{GUEST_PAYLOAD_BYTES_MAX, HOST_PAYLOAD_BYTES_MAX};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// For one answer: emulated guests on a busy machine are slow.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// For an answer to the first question on a connection.
const KNOCK_LIMIT: Duration = Duration::from_secs(2);

pub struct Channel {
    stream: UnixStream,
    decoder: Decoder<GuestMessage>,
    next_id: u64,
}

impl Channel {
    pub async fn open(path: &Path) -> Self {
        let stream = UnixStream::connect(path).await.unwrap();
        Self { stream, decoder: Decoder::new(GUEST_PAYLOAD_BYTES_MAX), next_id: 1 }
    }

    /// Asks until the agent answers. It drops what it is asked before its kernel has told it of the new host.
    pub async fn knock(&mut self, limit: Duration) {
        let knocking =
            async { while tokio::time::timeout(KNOCK_LIMIT, self.exchange(Request::Ping)).await.is_err() {} };
        tokio::time::timeout(limit, knocking).await.unwrap_or_else(|_| panic!("no agent within {limit:?}"));
    }

    pub async fn ask(&mut self, request: Request) -> Reply {
        let what = format!("{request:?}");
        tokio::time::timeout(ANSWER_LIMIT, self.exchange(request))
            .await
            .unwrap_or_else(|_| panic!("no answer to {what} within {ANSWER_LIMIT:?}"))
    }

    async fn exchange(&mut self, request: Request) -> Reply {
        self.next_id += 1;
        let id = self.next_id;
        let frame = encode(&HostMessage { id, request }, HOST_PAYLOAD_BYTES_MAX).unwrap();
        self.stream.write_all(&frame).await.unwrap();
        let mut buffer = vec![0; 64 << 10];
        loop {
            while let Some(message) = self.decoder.next() {
                // Halves of what was meant for an earlier connection may come first: dropped.
                if let Ok(GuestMessage::Reply { id: got, reply }) = message
                    && got == id
                {
                    return *reply;
                }
            }
            let count = self.stream.read(&mut buffer).await.unwrap();
            assert!(count > 0, "the guest channel closed");
            self.decoder.push(&buffer[..count]);
        }
    }

    /// Runs a program in the guest.
    pub async fn exec(&mut self, argv: &[&str]) -> ExecOutcome {
        let exec = ExecRequest {
            argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
            service: None,
            stdin: Blob::default(),
            timeout_ms: 100_000,
            output_bytes_max: 65536,
        };
        match self.ask(Request::Exec { exec }).await {
            Reply::Exec { outcome } => outcome,
            other => panic!("{argv:?}: {other:?}"),
        }
    }

    /// Output of a shell line that must succeed.
    pub async fn sh(&mut self, line: &str) -> String {
        let outcome = self.exec(&["/bin/sh", "-c", line]).await;
        assert_eq!(outcome.exit_code, Some(0), "{line}: {}", outcome.stderr.to_text_lossy());
        outcome.stdout.to_text_lossy().trim().to_owned()
    }

    /// A line of the guest's `/proc/meminfo`, KiB.
    pub async fn meminfo_kib(&mut self, field: &str) -> u64 {
        let text = self.sh("cat /proc/meminfo").await;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{field}:"))).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Serial numbers of the guest's disks, sorted.
    pub async fn serials(&mut self) -> Vec<String> {
        let text = self.sh("for f in /sys/block/vd*/serial; do cat $f; echo; done").await;
        let mut all: Vec<String> =
            text.lines().map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect();
        all.sort();
        all
    }
}
